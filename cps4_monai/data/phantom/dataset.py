"""A folder of phantom subjects with their table and datalist."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cps4_monai.atomic_file import write_atomically
from cps4_monai.data.build_datalist import build_datalist
from cps4_monai.data.datalist import Datalist
from cps4_monai.data.nifti_file import write_nifti
from cps4_monai.data.phantom.subject import Phantom, make_phantom

UNFINISHED = ".unfinished"  # in a folder while its scans are being written

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
        FileExistsError: the folder holds another data set's scans.
    """
    out = Path(out)
    if subjects < 1 or not 0 <= sacrum_free_share <= 1:
        raise ValueError(
            f"subjects is {subjects} and sacrum_free_share {sacrum_free_share:g}; expected at least 1 subject and a "
            "share from 0 to 1"
        )
    names = [f"sub-{k:0{max(3, len(str(subjects)))}d}" for k in range(1, subjects + 1)]
    _refuse_foreign_scans(out, names)
    free = _sacrum_free(subjects, sacrum_free_share, seed)
    rows = []
    for k, name in enumerate(names):
        phantom = make_phantom([seed, k], size, slices, sacrum=k not in free, variation=variation)
        if k == 0:  # the arguments are fine
            write_atomically(out / UNFINISHED, "These scans are being written, or their writing was cut short.\n")
        rows.append([name, "no" if k in free else "yes", *_write_subject(out, name, phantom)])
        if on_subject is not None:
            on_subject(name)
    _write_participants(out, rows)
    datalist = build_datalist(
        out,
        out / "datalist.json",
        labeled_share=25.0 if labeled is None else 100.0,
        labeled=labeled,
        seed=seed,
        val=val,
        test=test,
        check_content=False,
    )
    (out / UNFINISHED).unlink(missing_ok=True)
    return datalist


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


def _refuse_foreign_scans(out: Path, names: Sequence[str]) -> None:
    ours = {f"{name}_{suffix}.nii.gz" for name in names for suffix in ("T2w", "dseg")}
    foreign = sorted(p.name for p in out.glob("[!.]*.nii*") if p.name not in ours) if out.is_dir() else []
    made_here = any((out / mark).exists() for mark in ("participants.tsv", UNFINISHED))
    if foreign or (not made_here and any((out / name).exists() for name in ours)):
        raise FileExistsError(
            f"{out}: holds other scans ({', '.join(foreign[:3]) or 'not made by this command'}); expected an empty "
            "folder or one made with the same number of subjects: choose another folder"
        )
