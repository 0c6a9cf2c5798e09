"""A folder of phantom subjects with their table and datalist."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cps4_monai.atomic_file import write_atomically
from cps4_monai.data.build_datalist import build_datalist, labeled_count
from cps4_monai.data.datalist import Datalist
from cps4_monai.data.nifti_file import write_nifti
from cps4_monai.data.patient_split import split_patients
from cps4_monai.data.phantom.subject import Phantom, make_phantom
from cps4_monai.data.scan_folder import Scan

RECORD = ".cps4_phantom.json"  # in a folder of this module's, from before its first scan: the arguments

logger = logging.getLogger(__name__)


def write_phantom_dataset(
    out: str | Path,
    subjects: int,
    seed: int = 0,
    *,
    size: int | tuple[int, int] = 512,
    slices: int | None = None,
    sacrum_free_share: float = 0.1,
    variation: float = 1.0,
    labeled: int | None = None,
    val: float = 0.1,
    test: float = 0.2,
    on_subject: Callable[[str], object] | None = None,
) -> Datalist:
    """Writes ``sub-001_T2w.nii.gz``, ``sub-001_dseg.nii.gz``, ..., ``participants.tsv`` and ``datalist.json``.

    The same arguments give the same files, byte for byte; the same call goes on where a killed one left the folder.

    Args:
        out: folder, made if it is not there.
        subjects: number of subjects.
        seed: seed of the data set; subject k depends on it and on k only, save for who loses the sacrum.
        size: pixels in plane, see :func:`make_phantom`.
        slices: number of slices; None draws 12 to 18 for each subject.
        sacrum_free_share: share, 0 to 1, of the subjects whose field of view lies above the sacrum; marked in
            ``participants.tsv``.
        variation: of size, posture and field of view, 0 to 1, see :func:`make_phantom`.
        labeled: number of labeled training subjects; None: a quarter of the training subjects.
        val: subjects for validation, a share or a number.
        test: subjects for testing, a share or a number.
        on_subject: called with the name of each subject that is written.

    Raises:
        ValueError: settings out of range, or more subjects asked for by the split than there are.
        FileExistsError: the folder holds scans or tables of anything else, or of a phantom with other arguments.
    """
    out = Path(out)
    if subjects < 1 or not 0 <= sacrum_free_share <= 1:
        raise ValueError(
            f"subjects is {subjects} and sacrum_free_share {sacrum_free_share:g}; expected at least 1 subject and a "
            "share from 0 to 1"
        )
    names = [f"sub-{k:0{max(3, len(str(subjects)))}d}" for k in range(1, subjects + 1)]
    share = 25.0 if labeled is None else 100.0
    _check_split(names, share, labeled, val, test)
    arguments = {
        "subjects": subjects,
        "seed": seed,
        "size": list(size) if isinstance(size, tuple) else size,
        "slices": slices,
        "sacrum_free_share": sacrum_free_share,
        "variation": variation,
        "labeled": labeled,
        "val": val,
        "test": test,
    }
    _refuse_foreign_files(out, names, arguments)
    free = _sacrum_free(subjects, sacrum_free_share, seed)
    rows = []
    for k, name in enumerate(names):
        phantom = make_phantom([seed, k], size, slices, sacrum=k not in free, variation=variation)
        if k == 0:  # the arguments are fine
            write_atomically(out / RECORD, json.dumps(arguments) + "\n")
        rows.append([name, "no" if k in free else "yes", *_write_subject(out, name, phantom)])
        if on_subject is not None:
            on_subject(name)
    _write_participants(out, rows)
    return build_datalist(
        out,
        out / "datalist.json",
        labeled_share=share,
        labeled=labeled,
        seed=seed,
        val=val,
        test=test,
        check_content=False,
    )


def _write_subject(out: Path, name: str, phantom: Phantom) -> tuple[int, str]:
    """Writes image and label map; gives the number of slices and the codes."""
    write_nifti(phantom.image, phantom.affine, out / f"{name}_T2w.nii.gz")
    write_nifti(phantom.label, phantom.affine, out / f"{name}_dseg.nii.gz")
    slices, classes = phantom.image.shape[0], " ".join(map(str, np.unique(phantom.label)))
    logger.info("%s: %d slices, classes %s", name, slices, classes)
    return slices, classes


def _write_participants(out: Path, rows: Sequence[Sequence[object]]) -> None:
    table = io.StringIO(newline="")
    writer = csv.writer(table, delimiter="\t", lineterminator="\n")
    writer.writerows([["participant_id", "sacrum_in_view", "slices", "classes"], *rows])
    write_atomically(out / "participants.tsv", table.getvalue())


def _sacrum_free(subjects: int, share: float, seed: int) -> set[int]:
    drawn = np.random.default_rng([seed, subjects]).permutation(subjects)
    return {int(k) for k in drawn[: round(share * subjects)]}


def _check_split(names: Sequence[str], share: float, labeled: int | None, val: float, test: float) -> None:
    """Asks for the split as it will be asked for once the scans are there."""
    scans = [Scan(Path(name), None, subject=name, patient=name) for name in names]
    sides = split_patients(scans, {name: (1,) for name in names}, val=val, test=test, rng=np.random.default_rng(0))
    labeled_count(list(sides.values()).count("training"), share, labeled)


def _refuse_foreign_files(out: Path, names: Sequence[str], arguments: Mapping[str, Any]) -> None:
    """Lets a folder pass that holds no scan and no table, or nothing but a phantom with these arguments."""
    if not out.is_dir():
        return
    ours = {f"{name}_{suffix}.nii.gz" for name in names for suffix in ("T2w", "dseg")}
    scans = [path.relative_to(out).as_posix() for path in out.rglob("[!.]*.nii*")]
    foreign = sorted(name for name in scans if name not in ours)
    before = _recorded(out / RECORD)
    if before is None:
        foreign += [name for name in ("participants.tsv", "datalist.json", *sorted(ours)) if (out / name).exists()]
    if foreign:
        raise FileExistsError(
            f"{out}: holds other files ({', '.join(foreign[:3])}), not made by this command; expected an empty folder, "
            "or a phantom made with the same arguments. Fix: choose another folder"
        )
    differing = [] if before is None else [name for name in arguments if before.get(name) != arguments[name]]
    if before is not None and differing:
        told = ", ".join(f"{name} {before.get(name)}, not {arguments[name]}" for name in differing)
        raise FileExistsError(
            f"{out}: holds a phantom made with {told}. Fix: choose another folder, or delete this one"
        )


def _recorded(record: Path) -> dict[str, Any] | None:
    """Arguments of the phantom in a folder; None where none is."""
    if not record.is_file():
        return None
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
