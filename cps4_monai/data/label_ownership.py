"""Which label maps are ours: a sidecar holds the hash of what was written, and nothing else is ever overwritten."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cps4_monai import __version__
from cps4_monai.anatomy import Anatomy
from cps4_monai.atomic_file import write_atomically
from cps4_monai.encoding import json_bytes
from cps4_monai.file_hash import file_sha256, known_sha256
from cps4_monai.scan_names import is_nifti, stem_of

GENERATOR = "cps4_monai"


class ForeignFileError(ValueError):
    """An output path holds a file that this package did not make, or that was changed since."""

    @classmethod
    def at(cls, path: Path, writer: str = GENERATOR, *, changed: bool = False) -> ForeignFileError:
        """The error for a path that holds such a file.

        Args:
            path: of the file.
            writer: who did not write it.
            changed: it may be one of ours that was changed since.
        """
        since = " (or that was changed since)" if changed else ""
        return cls(
            f"{path}: found a file that {writer} did not write{since}; expected none or one of ours, as it is never "
            "overwritten. Fix: choose another output folder, or move the file away"
        )


class EditedLabelError(ForeignFileError):
    """An output path holds a label map of ours that was edited by hand."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path}: found a label map of {GENERATOR} that was changed since; expected none, or one as it was "
            f"written: edits are never overwritten. Fix: 'cps4 relabel {path} --accept' takes it over as a "
            "person's, 'cps4 report' shows it; move or delete it to have it made anew"
        )


def sidecar_of(label_path: str | Path) -> Path:
    """The JSON beside a label map."""
    label_path = Path(label_path)
    return label_path.with_name(f"{stem_of(label_path)}.json")


def is_ours(label_path: str | Path) -> bool:
    """Whether this package wrote a label map, byte for byte, so that it may be replaced.

    That is the one that its sidecar describes, or the one that this was to replace before a kill.
    """
    return _is_one_of(label_path, "Sha256", "Replaces")


def is_described(label_path: str | Path) -> bool:
    """Whether a label map is, byte for byte, the one that its sidecar describes.

    Not so, though it is ours, where a command was killed after it wrote the sidecar, and before the label map.
    """
    return _is_one_of(label_path, "Sha256")


def _is_one_of(label_path: str | Path, *keys: str) -> bool:
    record = record_beside(label_path)
    if not record or not Path(label_path).is_file():
        return False
    return file_sha256(label_path) in [record.get(key) for key in keys]


def json_beside(label_path: str | Path) -> dict[str, Any]:
    """The JSON beside a label map, whoever wrote it; empty where there is none, or it is no JSON object."""
    try:
        content = json.loads(sidecar_of(label_path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def record_beside(label_path: str | Path) -> dict[str, Any]:
    """What the sidecar of a label map says; empty where there is none that this package wrote."""
    record = json_beside(label_path)
    try:
        return record if record["GeneratedBy"][0]["Name"] == GENERATOR else {}
    except (KeyError, IndexError, TypeError):
        return {}


def assumed_spacing_of(label_path: str | Path) -> list[float] | None:
    """Spacing in mm that was assumed for the scan of a label map of ours, whose header, as the scan's, may have none.

    None where the sidecar names none.
    """
    settings = record_beside(label_path).get("Settings")
    return settings.get("AssumeSpacing") if isinstance(settings, Mapping) else None


def weights_sha256(record: Mapping[str, Any]) -> str | None:
    """SHA-256 of the weights that made the label map of a sidecar; None where it names none."""
    return (record.get("Weights") or {}).get("Sha256")


def check_anatomy_of(label_path: str | Path, anatomy: Anatomy) -> None:
    """Checks that a label map of ours, if it is one, was made with this anatomy, by the names in its sidecar.

    Raises:
        ValueError: its sidecar has other names for its codes.
    """
    named = {s["code"]: s["name"] for s in record_beside(label_path).get("Structures", [])}
    other = anatomy.named_otherwise(named).values()
    if other:
        raise ValueError(
            f"{label_path}: its JSON names structures that the anatomy does not ({', '.join(other)}). Fix: give the "
            "anatomy of its weights with --anatomy"
        )


def is_of_another_scan(record: Mapping[str, Any], scan: str | Path) -> bool:
    """Whether the scan that lies at a path now is, by its content, not the one that a label map was made of.

    Scans of one protocol share their grid, so that nothing else tells a repeated examination from the first.

    Args:
        record: what the sidecar of the label map says.
        scan: a NIfTI file; of anything else (DICOM), and of a file that is gone, nothing is known: False.
    """
    made_of = record.get("SourceSha256")
    return bool(made_of and is_nifti(scan) and Path(scan).is_file() and known_sha256(scan) != made_of)


def source_entries(source: str | Path) -> dict[str, Any]:
    """What a sidecar says of a scan: its whole path where it is there, and the SHA-256 of a NIfTI file."""
    known = is_nifti(source) and Path(source).is_file()
    place = os.path.abspath(source) if Path(source).exists() else str(source)
    return {"Sources": [place], **({"SourceSha256": known_sha256(source)} if known else {})}


def check_may_write(label_path: str | Path, over: str | None = None) -> bool:
    """Whether a label map of ours is there already.

    Args:
        label_path: its path.
        over: SHA-256 of a label map that may be replaced though it was changed since, because a person named it.

    Raises:
        ForeignFileError: the path of the label map or its sidecar holds a file that is not ours.
    """
    label_path = Path(label_path)
    sidecar = sidecar_of(label_path)
    if label_path.exists() and not is_ours(label_path) and file_sha256(label_path) != over:
        raise (
            EditedLabelError(label_path) if record_beside(label_path) else ForeignFileError.at(label_path, changed=True)
        )
    if sidecar.exists() and not record_beside(label_path):
        raise ForeignFileError.at(sidecar)
    return label_path.exists()


def write_owned_label(
    label_path: str | Path, content: bytes, record: Mapping[str, Any] | None = None, *, over: str | None = None
) -> None:
    """Writes a label map and, before it, the sidecar that makes it ours; see :func:`owned_label`."""
    with owned_label(label_path, content, record, over=over):
        pass


@contextmanager
def owned_label(
    label_path: str | Path, content: bytes, record: Mapping[str, Any] | None = None, *, over: str | None = None
) -> Iterator[None]:
    """Writes the sidecar of a label map, then lets what lies beside them be written, and writes the label map last.

    Whatever ends it on the way, the label map that is there then is not the one that its sidecar describes
    (:func:`is_described`), so that pictures and copies beside it are made again with it. Calls that write the same
    label map at one time do not disturb each other.

    Args:
        label_path: ends in ``.nii`` or ``.nii.gz``.
        content: the file's bytes.
        record: what else the sidecar says; plain types.
        over: see :func:`check_may_write`.

    Raises:
        ForeignFileError: see :func:`check_may_write`.
        OSError: the folder cannot be written to.
    """
    label_path = Path(label_path)
    replaces = file_sha256(label_path) if check_may_write(label_path, over) else None
    sidecar = {
        "GeneratedBy": [{"Name": GENERATOR, "Version": __version__}],
        "Sha256": hashlib.sha256(content).hexdigest(),
        # A run killed between the two files leaves the old label map with the new sidecar: still ours.
        **({} if replaces is None else {"Replaces": replaces}),
        **dict(record or {}),
    }
    write_atomically(sidecar_of(label_path), json_bytes(sidecar, indent=1), shared=True)
    yield
    write_atomically(label_path, content, shared=True)
