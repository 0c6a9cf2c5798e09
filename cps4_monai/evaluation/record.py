"""What the tables of an evaluation are of: which weights, which scans, decoded or not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cps4_monai.atomic_file import write_atomically
from cps4_monai.evaluation.folder import FILES, Evaluation
from cps4_monai.file_hash import file_sha256

FILE_NAME = "evaluation.json"
ARGMAX = "argmax"


@dataclass(frozen=True)
class EvaluationRecord:
    """Written beside the tables, so that their figures are never said of other weights.

    Attributes:
        weights_sha256: of the weights' file that was evaluated.
        section: side of the datalist: "test", "validation" or "training".
        data_set: the datalist's name.
        decoded: whether the tables are of decoded levels; then those of the plain argmax are in ``argmax``.
        slice_size: (H, W) that slices were cropped or padded to; None: the whole field of view, as in `cps4 segment`.
        summary_sha256: of ``summary.csv``.
        argmax_summary_sha256: of the one in ``argmax``; None where there is none, or it was written by version 0.3.
    """

    weights_sha256: str
    section: str
    data_set: str
    decoded: bool
    slice_size: tuple[int, int] | None
    summary_sha256: str
    argmax_summary_sha256: str | None = None


def write_record(
    folder: str | Path,
    weights: str | Path,
    section: str,
    data_set: str,
    decoded: bool = True,
    slice_size: Sequence[int] | None = None,
) -> Path:
    """Writes ``evaluation.json`` into a folder with the tables of an evaluation, once these are there.

    Args:
        folder: with ``summary.csv``.
        weights: the file that was evaluated.
        section: see :class:`EvaluationRecord`, as for the others.
        data_set: the datalist's name.
        decoded: whether levels were decoded.
        slice_size: (H, W) or None.
    """
    folder = Path(folder)
    beside = folder / ARGMAX / FILES["summary"]
    record = EvaluationRecord(
        weights_sha256=file_sha256(weights),
        section=section,
        data_set=data_set,
        decoded=decoded,
        slice_size=None if slice_size is None else (int(slice_size[0]), int(slice_size[1])),
        summary_sha256=file_sha256(folder / FILES["summary"]),
        argmax_summary_sha256=file_sha256(beside) if decoded and beside.is_file() else None,
    )
    return write_atomically(folder / FILE_NAME, json.dumps(asdict(record), indent=2) + "\n")


def read_record(folder: str | Path) -> EvaluationRecord:
    """The record of an evaluation, held against its tables.

    Raises:
        ValueError: none there, not readable, or the tables were replaced since.
    """
    path = Path(folder) / FILE_NAME
    fix = "run 'cps4 evaluate' again"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        size = content.pop("slice_size")
        record = EvaluationRecord(**content, slice_size=None if size is None else (size[0], size[1]))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: no record of an evaluation ({error}); {fix}") from error
    summary = path.with_name(FILES["summary"])
    if not summary.is_file() or file_sha256(summary) != record.summary_sha256:
        raise ValueError(f"{summary}: not the table that {FILE_NAME} beside it is about; {fix}")
    return record


def load_tables(folder: str | Path, record: EvaluationRecord) -> dict[str, Evaluation]:
    """Tables by what they are of: "decoded" and "argmax", as far as they are there.

    Raises:
        ValueError: a table is missing, or that of the argmax is another than the record's.
    """
    folder = Path(folder)
    if not record.decoded:
        return {"argmax": Evaluation.load(folder)}
    summary = folder / ARGMAX / FILES["summary"]
    if record.argmax_summary_sha256 not in (None, file_sha256(summary) if summary.is_file() else ""):
        raise ValueError(f"{summary}: not the table that {folder / FILE_NAME} is about; run 'cps4 evaluate' again")
    beside = {"argmax": Evaluation.load(folder / ARGMAX)} if (folder / ARGMAX).is_dir() else {}
    return {"decoded": Evaluation.load(folder), **beside}
