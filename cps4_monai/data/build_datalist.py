"""Builds a datalist from a folder: a split by patient, and nested labeled subsets that reach the rare classes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from cps4_monai.anatomy import MRSPINESEG, NOT_ANNOTATED, Anatomy
from cps4_monai.data.corrected_scans import codes_without_label, corrected_scans
from cps4_monai.data.datalist import Datalist, DatalistError
from cps4_monai.data.datalist_file import content_of, write_checked
from cps4_monai.data.entries import Entry, check_unannotated
from cps4_monai.data.geometry import has_geometry
from cps4_monai.data.label_order import runs_downwards
from cps4_monai.data.label_ownership import check_anatomy_of
from cps4_monai.data.patient_split import classes_by_patient, order_for_cover, split_patients, subset_size
from cps4_monai.data.scan_folder import FoundScans, Scan, find_scans, told_of
from cps4_monai.data.volume import Volume, check_same_grid, grid_in_file, read_volume

logger = logging.getLogger(__name__)

_NEVER_OUTLINED = (
    "; in view, that is background, and the code of a structure that nobody outlined is to be named by --unannotated"
)
_UNLEARNED = (
    "; where such a structure is in view, mark it 255 (not annotated) in the label maps, or a fine-tuning unlearns it"
)
TEST = 0.2  # share of the labeled patients
SHARES = (1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0)


def build_datalist(
    folder: str | Path,
    out: str | Path,
    *,
    labeled_share: float = 100.0,
    labeled: int | None = None,
    seed: int = 0,
    val: float = 0.1,
    test: float | None = None,
    unannotated: Sequence[int] = (),
    anatomy: Anatomy = MRSPINESEG,
    check_content: bool = True,
    corrected: bool = False,
    images: str | Path | None = None,
) -> Datalist:
    """Splits the scans of a folder by patient and writes the datalist.

    Validation and test take patients with labels at random, sparing the last patient that shows a class. The
    remaining patients with labels are put in an order in which each next one adds the rarest classes still missing
    (greedy cover); a labeled subset is a prefix of that order, so that smaller ones lie within larger ones.

    Args:
        folder: scans and label maps, see :func:`find_scans`.
        out: JSON file; the paths in it are relative to its folder.
        labeled_share: percentage, above 0 to 100, of the training patients with labels that count as labeled.
        labeled: their number, instead of the share.
        seed: seed of the split.
        val: patients for validation: a share below 1, or a number.
        test: patients for testing, likewise; None: 0.2. Not used, with a warning, where the folder reserves test scans.
        unannotated: class codes that are in view but never labeled.
        anatomy: the classes.
        check_content: compare the voxels of all scans, too.
        corrected: the folder holds results of `cps4 segment`; what people corrected or accepted is labeled, see
            :func:`cps4_monai.data.corrected_scans.corrected_scans`.
        images: with ``corrected``, where the scans lie now.

    Returns:
        The datalist as read back, with the warnings.

    Raises:
        DatalistError: no scans, too few patients with labels, settings out of range, or several label maps that cannot
            be used.
        LeakError: the same patient or the same image content on two sides.
        InvalidVolumeError: a label map cannot be read, has codes outside the anatomy, or lies on another grid than its
            scan.
        ValueError: a label map is of `cps4 segment` with another anatomy.
        FileExistsError: ``out`` is a file that was not made here, or was edited since.
    """
    out = Path(out)
    check_unannotated(unannotated, anatomy, "unannotated (--unannotated)")
    in_folder = corrected_scans(folder, images) if corrected else find_scans(folder)
    never, drawn = codes_without_label(folder) if corrected else ((), ())
    scans = in_folder.scans
    if not corrected:
        _require_label_maps(folder, in_folder)
    classes, downwards = _classes_by_subject(scans, anatomy)
    rng = np.random.default_rng(seed)
    sides = split_patients(scans, classes, val=val, test=TEST if test is None else test, rng=rng)
    shown = classes_by_patient([s for s in scans if sides[s.patient] == "training"], classes)
    order = order_for_cover(shown, rng)
    if not order:
        raise DatalistError(f"{folder}: no training patient has a label map; expected at least one: lower val and test")
    count = labeled_count(len(order), labeled_share, labeled)
    subsets = {f"{share:g}": order[: subset_size(len(order), share)] for share in SHARES}
    subsets[f"{100 * count / len(order):g}" if labeled is not None else f"{labeled_share:g}"] = order[:count]
    content = content_of(scans, sides, set(order[:count]), subsets, classes, out.parent)
    content.update(name=out.stem, description=f"patient-level split, seed {seed}")
    content["unannotated"] = sorted({*unannotated, *never})
    content["structures"] = {str(s.code): s.name for s in anatomy.foreground}
    datalist = write_checked(content, out, check_content)
    absent = _UNLEARNED if corrected else _NEVER_OUTLINED
    more = (*_untrainable(datalist, corrected), *(f"{told}{absent}" for told in missing_classes(datalist, anatomy)))
    aside = [*_of_downwards(downwards, anatomy), *_reserved(scans, test), *_set_aside(scans, sides)]
    return replace(datalist, warnings=(*in_folder.warnings, *drawn, *aside, *datalist.warnings, *more))


def _classes_by_subject(
    scans: Sequence[Scan], anatomy: Anatomy, shown: int = 5
) -> tuple[dict[str, tuple[int, ...]], list[Path]]:
    """Classes that the label map of each labeled scan shows, and label maps that number the spine the other way.

    Raises:
        ValueError: one label map cannot be used, as one on another grid than its scan, or of another anatomy.
        DatalistError: several cannot; names all.
    """
    classes: dict[str, tuple[int, ...]] = {}
    wrong: list[ValueError] = []
    downwards: list[Path] = []
    for scan in scans:
        try:
            if scan.label is not None:
                check_anatomy_of(scan.label, anatomy)
                label = _read_label(scan.label, anatomy.num_classes)
                if (grid := grid_in_file(scan.image)) and has_geometry(label.header):
                    check_same_grid(*grid, scan.image, label)
                    downwards += [scan.label] if runs_downwards(label, anatomy) else []
                classes[scan.subject] = _codes_in(label)
        except ValueError as error:
            wrong.append(error)
    if len(wrong) == 1:
        raise wrong[0]
    if wrong:
        more = f"; and {len(wrong) - shown} more" if len(wrong) > shown else ""
        raise DatalistError(f"{len(wrong)} label maps cannot be used: {'; '.join(map(str, wrong[:shown]))}{more}")
    return classes, downwards


def _of_downwards(labels: Sequence[Path], anatomy: Anatomy) -> list[str]:
    lowest = ", ".join(f"{s.code} is {s.name}" for s in anatomy.along_spine()[:3])
    told = f"label maps number the structures from above, where the anatomy ({lowest}, ...) does from below"
    return told_of(f"{told}: are these its codes? If not, renumber them, or describe them by --anatomy", labels)


def _reserved(scans: Sequence[Scan], test: float | None) -> list[str]:
    patients = {scan.patient for scan in scans if scan.held_out}
    if not patients or not test:
        return []
    return [f"test={test:g} is not used: the test patients are the {len(patients)} of imagesTs and labelsTs"]


def _set_aside(scans: Sequence[Scan], sides: Mapping[str, str]) -> list[str]:
    """Scans that their patient's side keeps out of training: another scan of that patient chooses weights, or tests."""
    reserved = {scan.patient for scan in scans if scan.held_out}
    beside = [scan for scan in scans if scan.patient in reserved and not scan.held_out]
    return [
        *told_of(
            "scans of imagesTr are not trained on, since imagesTs reserves another scan of their patient",
            [scan.image for scan in beside],
        ),
        *told_of(
            "scans without a label map are left out, since their patient is for validation or test",
            [scan.image for scan in scans if scan.label is None and sides[scan.patient] != "training"],
        ),
    ]


def _require_label_maps(folder: str | Path, in_folder: FoundScans) -> None:
    """Refuses a folder without a label map that belongs to a scan, and names those that belong to none."""
    if any(scan.label is not None for scan in in_folder.scans):
        return
    passed_over = "".join(f" ({warning})" for warning in in_folder.warnings if "left out" in warning)
    raise DatalistError(
        f"{folder}: no scan has a label map{passed_over}; expected *_dseg.nii.gz beside *_T2w.nii.gz, or nnU-Net's "
        "labelsTr. Fix: give label maps the names of their scans, in the same folder or in one that mirrors it"
    )


def _untrainable(datalist: Datalist, corrected: bool) -> list[str]:
    """What training will refuse, said when the datalist is made; fine-tuning on corrected scans needs no others."""
    warnings = []
    if not datalist.validation:
        warnings.append(
            "no validation patient, so that training refuses this datalist: label at least two patients, or use --val 1"
        )
    if not datalist.unlabeled and not corrected:
        warnings.append(
            "no unlabeled scan, which all methods but 'supervised' need: add scans without label maps, or hide labels "
            "with --labeled-share or --labeled"
        )
    return warnings


def missing_classes(datalist: Datalist, anatomy: Anatomy = MRSPINESEG) -> tuple[str, ...]:
    """A warning that names the classes that no labeled training subject shows; unannotated classes are left out.

    Reads the label maps of labeled entries whose classes the datalist does not record, and no others.

    Returns:
        One warning, or none where every class is shown.

    Raises:
        DatalistError: see :meth:`Datalist.check_anatomy`.
        InvalidVolumeError: a label map cannot be read or has codes outside the anatomy.
    """
    datalist.check_anatomy(anatomy)
    shown = classes_shown(datalist.labeled, anatomy.num_classes)
    absent = [s for s in anatomy.foreground if s.code not in shown and s.code not in datalist.unannotated]
    if not absent:
        return ()
    named = ", ".join(f"{s.code} ({s.name})" for s in absent)
    if len(absent) == 1:
        return (f"class {named}: no labeled subject shows it, so it cannot be learned",)
    return (f"classes {named}: no labeled subject shows them, so they cannot be learned",)


def not_labeled(datalist: Datalist, anatomy: Anatomy = MRSPINESEG) -> tuple[int, ...]:
    """Codes that no label map of a training subject shows, ``unannotated`` ones among them: none of them is learned.

    A class prompt that met neither its structure nor, with objectives that contrast only what is in view, its absence
    attends anywhere. A map of all prompts is then made of those (docs/results/levers.md).

    Returns:
        Codes in order; those of ``unannotated`` alone where nothing is labeled.

    Raises:
        InvalidVolumeError: a label map cannot be read or has codes outside the anatomy.
    """
    shown = classes_shown(datalist.labeled, anatomy.num_classes)
    absent = {s.code for s in anatomy.foreground if s.code not in shown} if shown else set()
    return tuple(sorted({*datalist.unannotated, *absent}))


def classes_shown(entries: Sequence[Entry], num_classes: int | None = None) -> set[int]:
    """Codes of the structures that label maps show; those are read whose classes the datalist does not record.

    Args:
        entries: those without a label show nothing.
        num_classes: codes must be below it; None allows 0 to 255.

    Raises:
        InvalidVolumeError: a label map cannot be read or has other codes.
    """
    shown: set[int] = set()
    for entry in entries:
        if entry.label is not None:
            shown.update(_classes_of(entry.label, num_classes) if entry.classes is None else entry.classes)
    return shown


def _classes_of(label: Path, num_classes: int | None) -> tuple[int, ...]:
    return _read_classes(label, num_classes, label.stat().st_mtime_ns if label.is_file() else 0)


@cache
def _read_classes(label: Path, num_classes: int | None, changed: int) -> tuple[int, ...]:
    """Of a label map; read once as long as it does not change."""
    return _codes_in(_read_label(label, num_classes))


def _read_label(label: Path, num_classes: int | None) -> Volume:
    # Without geometry in the header, too: that is the business of training, which has assume_spacing.
    return read_volume(label, is_label=True, num_classes=num_classes, assume_spacing=(1, 1, 1), partly_annotated=True)


def _codes_in(label: Volume) -> tuple[int, ...]:
    return tuple(int(c) for c in np.unique(label.array) if c not in (0, NOT_ANNOTATED))


def labeled_count(count: int, share: float, labeled: int | None) -> int:
    """How many of ``count`` training patients with labels are labeled, by number or else by share in percent.

    Raises:
        DatalistError: a number or a share out of range.
    """
    if labeled is not None:
        if not 1 <= labeled <= count:
            raise DatalistError(
                f"{labeled} labeled patients asked for; expected 1 to {count}, the training patients that have labels"
            )
        return labeled
    if not 0 < share <= 100:
        raise DatalistError(f"labeled share is {share:g}; expected a percentage above 0, at most 100")
    return subset_size(count, share)
