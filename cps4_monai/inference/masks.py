"""Statistics, flags, pictures and the report made again from label maps that are there already, edited ones too."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from cps4_monai.anatomy import MRSPINESEG, Anatomy
from cps4_monai.data.label_ownership import (
    assumed_spacing_of,
    check_anatomy_of,
    is_described,
    is_of_another_scan,
    is_ours,
    record_beside,
)
from cps4_monai.data.label_review import ACCEPTED, REVIEW, review_state
from cps4_monai.data.owned_picture import check_picture, write_picture
from cps4_monai.data.run_files import RunFiles
from cps4_monai.data.scans_of_labels import scans_of
from cps4_monai.data.volume import Volume, check_pair, read_volume
from cps4_monai.encoding import path_text, readable
from cps4_monai.inference.corrected_record import limits_of, measured_again, not_in_labels
from cps4_monai.inference.outcome import ScanOutcome, reason_of
from cps4_monai.inference.prepared import load_scan
from cps4_monai.inference.run_tables import FAILURES, SCANS, SKIPPED, TABLES, rows_of, run_tables
from cps4_monai.inference.scan_files import series_uid
from cps4_monai.inference.scan_views import REPORT, report_files, spread_over_threads
from cps4_monai.inference.segmentation import plain
from cps4_monai.levels import level_flags
from cps4_monai.levels.flags import ALARM, FLAGS, can_be_asked_again, names_are_trusted, of_kind
from cps4_monai.levels.statistics import Confidence
from cps4_monai.report.pictures import sagittal_mosaic
from cps4_monai.scan_names import FileName, find_nifti, mirrored_folder, only_label_maps, stem_of

_INTERRUPTED = "its JSON is of labels that are not there: the command that was to write them was interrupted"


def report_masks(
    masks: str | Path,
    output: str | Path | None = None,
    *,
    images: str | Path | None = None,
    anatomy: Anatomy = MRSPINESEG,
    unannotated: Sequence[int] | None = None,
    qc: bool = True,
    jobs: int = 2,
    title: str = "Spine segmentation",
    on_scan: Callable[[ScanOutcome], None] | None = None,
) -> tuple[list[ScanOutcome], Path]:
    """Tables, pictures and report of label maps; the label maps and their JSONs stay as they are.

    Confidence and margin are those of the JSON beside a label map, as long as the label map is the one it describes;
    what the JSON says of how it was made (view, thresholds, what was never trained) holds for one that was edited, too.
    Voxels that nobody annotated (255) are no structure's.

    Args:
        masks: a label map or a folder of them, searched.
        output: folder; None: that of the masks.
        images: folder of the scans; None: what the JSON names, or a scan beside the label map.
        anatomy: the classes.
        unannotated: codes that the training labels never showed; None: as the JSON says, or none.
        qc: draw pictures; without its scan, a label map is drawn on black.
        jobs: label maps at a time.
        title: of the page.
        on_scan: called after each label map.

    Returns:
        What became of each label map, and the path of the page. Tables and page of a run's own folder tell of its scans
        without a label map, too.

    Raises:
        ValueError: no label map is found, one was made with another anatomy, or the tables in the folder of a single
            one are of others, too.
        ForeignFileError: a table or report that is not ours is in the output folder.
    """
    masks = Path(masks)
    root = masks.parent if masks.is_file() else masks
    paths = _label_maps(masks)
    if masks.is_file() and output is None:
        _refuse_one_of_many(masks)
    output = root if output is None else Path(output)
    run_files = RunFiles(output)
    run_files.check((*TABLES, REPORT))
    for path in paths:
        check_anatomy_of(path, anatomy)

    names, scans = _names(paths, root), scans_of(paths, root, images)

    def looked_at(path: Path) -> ScanOutcome:
        name = names[path]
        try:
            outcome = outcome_of_mask(path, name, output, scans.get(path), anatomy, unannotated, qc)
        except Exception as error:  # one bad label map never stops the others, whatever is wrong with it
            outcome = ScanOutcome(path, name, "failed", reason_of(error))
        if on_scan is not None:
            on_scan(outcome)
        return outcome

    with ThreadPoolExecutor(max(1, jobs)) as pool:
        outcomes = list(pool.map(looked_at, paths))
    told = [*outcomes, *(_without_label_map(root, outcomes) if output.resolve() == root.resolve() else ())]
    run_files.write(run_tables(told, anatomy, output))
    for files in report_files(told, anatomy, title=title, views=qc, spread=spread_over_threads(jobs)):
        run_files.write(files)
    return outcomes, output / REPORT


def _refuse_one_of_many(mask: Path) -> None:
    """Tables of a folder with other label maps would be left with this one alone."""
    others = [row for row in rows_of(mask.parent / SCANS) if row.get("label") not in ("", None, mask.name)]
    if others:
        raise ValueError(
            f"{mask}: the tables in {mask.parent} are of {len(others)} other label maps, too, and those of this one "
            f"would replace them. Fix: name that folder, or another one for the results with -o"
        )


def _without_label_map(root: Path, outcomes: Sequence[ScanOutcome]) -> list[ScanOutcome]:
    """Scans of a run that failed or were passed over, but for label maps that have been taken away since."""
    folder = Path(os.path.abspath(root))
    before = unsegmented_before(root, {outcome.name for outcome in outcomes})
    return [o for o in before if o.source.exists() or folder not in Path(os.path.abspath(o.source)).parents]


def unsegmented_before(output: Path, names: Container[str]) -> list[ScanOutcome]:
    """What the tables of a run say of scans that failed or were passed over, and have no label map now."""
    return [
        ScanOutcome(Path(path_text(row["source"])), row["scan"], status, row["reason"])
        for table, status in ((FAILURES, "failed"), (SKIPPED, "skipped"))
        for row in rows_of(output / table)
        if row["scan"] not in names
    ]


def _label_maps(masks: Path) -> list[Path]:
    paths = [masks] if masks.is_file() else only_label_maps(find_nifti(masks))
    if not paths:
        raise ValueError(f"{masks}: no label map (.nii, .nii.gz) in this folder")
    return paths


def _names(paths: Sequence[Path], root: Path) -> dict[Path, str]:
    """``subfolder/scan`` for each label map, as `cps4 segment` calls it; its whole stem where a scan has several."""
    places = {path: (mirrored_folder(path, root) / _scan_stem(path)).as_posix() for path in paths}
    shared = Counter(name.casefold() for name in places.values())
    return {
        path: name if shared[name.casefold()] == 1 else (mirrored_folder(path, root) / stem_of(path)).as_posix()
        for path, name in places.items()
    }


def outcome_of_mask(
    path: Path,
    name: str,
    output: Path,
    source: Path | None,
    anatomy: Anatomy,
    unannotated: Sequence[int] | None,
    qc: bool,
) -> ScanOutcome:
    """What a label map shows, measured now; its picture is drawn with ``qc``. See :func:`report_masks`."""
    sidecar = record_beside(path)
    described = is_described(path)
    interrupted = bool(sidecar) and not described and is_ours(path)
    record = sidecar if described else {}  # of these very labels: confidence, margin, flags, what a person said
    made_by = {} if interrupted else sidecar  # how they were made: view, limits, what was never trained
    label = read_volume(
        path,
        is_label=True,
        num_classes=anatomy.num_classes,
        assume_spacing=assumed_spacing_of(path),
        partly_annotated=True,
    )
    sure = [s for s in record.get("Structures", []) if s.get("confidence") is not None]
    confidence = {s["code"]: Confidence(s["confidence"], s.get("outline_confidence")) for s in sure}
    if unannotated is None:
        unannotated = not_in_labels(made_by, label)
    thresholds, calibration = limits_of(made_by)
    structures = measured_again(label, made_by, anatomy, unannotated, confidence or None)
    raised = level_flags(structures, anatomy, None, unannotated, thresholds, calibration)
    flags = _with_those_kept([flag.to_dict() for flag in raised], record.get("Flags", []))
    if review_state(record) == ACCEPTED:
        flags = [flag for flag in flags if flag["kind"] != ALARM]
    notes = [] if record or not sidecar else [_INTERRUPTED if interrupted else "changed since it was segmented"]
    notes += ["its scan is another one than it was made of"] if source and is_of_another_scan(sidecar, source) else []
    notes += ["its scan was not found, so that its picture is drawn on black: --images"] if qc and not source else []
    seen: dict[str, Any] = {
        "Warnings": list(dict.fromkeys([*sidecar.get("Warnings", []), *label.warnings, *notes])),
        "Flags": flags,
        "Levels": record.get("Levels"),
        "Seconds": record.get("Seconds", {}),
        "Structures": [structure.to_dict() for structure in structures],
        **({REVIEW: record[REVIEW]} if review_state(record) else {}),
    }
    picture = None
    if qc:
        picture = output / f"{name}_qc.png"
        check_picture(picture)
        draw_mask(picture, label, source, {**sidecar, "Flags": flags}, anatomy, Path(name).name)
    return ScanOutcome(source or path, name, "mask", "", path, picture, plain(seen))


def _with_those_kept(
    flags: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Flags measured now, and those of before that only the network, or a person, could raise; in their order."""
    kept = [flag for flag in before if not can_be_asked_again(str(flag["name"]))]
    alone = not names_are_trusted(str(flag["name"]) for flag in kept)  # nothing else is worth saying then
    order = {name: place for place, name in enumerate(FLAGS)}
    return sorted([*([] if alone else flags), *kept], key=lambda flag: order.get(flag["name"], -1))


def draw_mask(
    picture: Path, label: Volume, source: Path | None, record: Mapping[str, Any], anatomy: Anatomy, title: str
) -> None:
    """Writes the picture of a label map over its scan, or on black where that is not there.

    Args:
        picture: its path.
        label: the label map.
        source: the scan.
        record: what the sidecar says: the series of a DICOM folder, and the flags.
        anatomy: the classes.
        title: of the picture.

    Raises:
        InvalidVolumeError: the scan cannot be read, or is none of this label map.
        ForeignFileError: a picture that is not ours is there.
    """
    alarms = of_kind(ALARM, (flag["name"] for flag in record.get("Flags", [])))
    write_picture(picture, _draw(label, source, series_uid(record), anatomy, readable(title), alarms))


def _draw(
    label: Volume,
    source: Path | None,
    series: str | None,
    anatomy: Anatomy,
    title: str,
    alarms: Sequence[str],
) -> bytes:
    image = np.zeros(label.shape, dtype=np.uint8)
    if source is not None:
        scan = load_scan(source, label.spacing_mm, series)
        check_pair(scan, label)
        image = scan.array
    return sagittal_mosaic(image, label.array, label.affine, anatomy, title=title, alarms=alarms)


def _scan_stem(path: Path) -> str:
    """The stem without the last word, where that says label map: ``x_T2w_dseg`` is that of ``x_T2w``."""
    front, _, last = stem_of(path).rpartition("_")
    return front if front and FileName.of(last).is_label_map else stem_of(path)
