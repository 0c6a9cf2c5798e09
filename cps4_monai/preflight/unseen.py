"""Test scans that a run has seen."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cps4_monai.data.entries import Entry
from cps4_monai.file_hash import file_sha256
from cps4_monai.preflight.tell import tell
from cps4_monai.run_folder import HASH_LENGTH, LABEL_MAPS, LABELED, RECORD, UNLABELED, VALIDATED_ON
from cps4_monai.scan_names import patient_of

logger = logging.getLogger(__name__)


def check_unseen(entries: Sequence[Entry], section: str, folders: Sequence[str | Path]) -> tuple[str, ...]:
    """Refuses test scans whose label maps a run was trained on, or chose its weights by: figures of them are no test.

    Label maps are known by their content, so that a data set that was moved or split anew is found out. Other scans of
    patients of the same name get a warning: they may be other people, of another data set.

    Args:
        entries: scans that are to be scored.
        section: of the datalist; "test" alone is checked.
        folders: of the trainings, with their ``run.json``: a training without one is not known.

    Returns:
        The warnings, which are logged, too.

    Raises:
        ValueError: there are such scans; names the first.
    """
    if section != "test":
        return ()
    records = dict.fromkeys(Path(folder) / RECORD for folder in folders)
    starts = [start for record in records for start in _starts(record)]
    chosen_by = {subject for start in starts for subject in start.get(VALIDATED_ON, ())}
    known = {
        digest: subject for start in starts for subject, maps in start.get(LABEL_MAPS, {}).items() for digest in maps
    }
    found = {
        entry.subject: known[digest]
        for entry in entries
        if entry.label is not None and (digest := file_sha256(entry.label)[:HASH_LENGTH]) in known
    }
    if found:
        trained = sum(subject not in chosen_by for subject in found.values())
        raise ValueError(
            f"{len(found)} of {len(entries)} test scans ({', '.join(list(found)[:3])}{', ...' * (len(found) > 3)}) are "
            f"known to this run: it was trained on the label maps of {trained} and chose its weights by "
            f"{len(found) - trained}; expected patients that it never saw. Fix: name the datalist that it was trained "
            "with (--datalist), or another section of this one"
        )
    lists = [start.get(key, ()) for start in starts for key in (LABELED, UNLABELED, VALIDATED_ON)]
    seen = {patient_of(subject) for subjects in lists for subject in subjects}
    shared = sorted({entry.patient for entry in entries} & seen)
    if not shared:
        return ()
    return tell(
        section,
        [
            f"names of {len(shared)} of the patients ({', '.join(shared[:3])}{', ...' * (len(shared) > 3)}) are those "
            "of patients that the run was trained on or chose its weights by: if they are the same people, figures of "
            "them are no test"
        ],
    )


def _starts(record: Path) -> list[dict[str, Any]]:
    """Settings of all starts that a training's record tells of, as of fine-tunings one after another; none where it
    cannot be read."""
    try:
        return [dict(start["settings"]) for start in json.loads(record.read_text(encoding="utf-8"))["starts"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, LookupError, TypeError) as error:
        logger.warning("%s cannot be read (%s): it is not known which scans the run has seen", record, error)
        return []
