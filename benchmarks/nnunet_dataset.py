"""nnU-Net v2 on the subjects of a datalist: its raw data set written, and its predictions brought back to our codes.

    python benchmarks/nnunet_dataset.py write LUMBAR_T1/datalist.json RAW --id 505 --name lumbar_t1_5 --share 5 --seed 0
    python benchmarks/nnunet_dataset.py back LUMBAR_T1/datalist.json RAW/Dataset505_lumbar_t1_5 PREDICTED OUT

``write`` makes RAW/Dataset505_lumbar_t1_5 with the labeled training scans of a study's cell (the seed rotates them as
``rotate_labeled`` does) and the validation scans in imagesTr and labelsTr, images alone of each section that is to be
predicted in images_SECTION, and splits_final.json: fold 0 trains on the labeled scans and validates on ours.
Labels are numbered without gaps, by the codes that occur; 255 becomes nnU-Net's ``ignore``.

nnU-Net's 2-D slices lie across the axis of the largest median spacing, the first of equals; it knows no orientation.
So scans are written as their sagittal slices, (D, H, W) as SimpleITK reads the file, voxels as they are, not resampled.
Where slices are thinner than their pixels (SPIDER: 0.9 mm of 0.9375) a spacing across of 1.01 times the pixels is
stated: the 2-D configuration computes nothing else with it.

``back`` writes OUT/argmax and, where probabilities were saved, OUT/decoded (levels decoded as `cps4 segment` does),
each on the scan's own grid, for `cps4 report -p OUT/argmax -l DATALIST`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from cps4_monai.anatomy import MRSPINESEG, NOT_ANNOTATED
from cps4_monai.data.datalist import SIDES, Datalist, Entry, load_datalist
from cps4_monai.data.labeled_subsets import read_json, rotated_subset
from cps4_monai.data.sagittal import SagittalGrid
from cps4_monai.data.volume import Volume, check_pair, read_volume, write_label_volume
from cps4_monai.levels import decode_levels
from cps4_monai.scan_names import stem_of

IGNORE, BACKGROUND = "ignore", "background"
THICKER = 1.01  # spacing across slices over that within, at least


def case_of(entry: Entry) -> str:
    """nnU-Net's name of a scan: that of the image file."""
    return stem_of(entry.image)


def chosen(datalist: Path, dataset_dir: Path | None, share: str, seed: int) -> Datalist:
    """A datalist with the labeled subjects of a study's cell; at a share of 100 all that have a label.

    Raises:
        DatalistError: no such share, missing files, or no labeled or validation scan.
    """
    subjects = None if share == "100" else rotated_subset(read_json(datalist), datalist, share, seed)
    return load_datalist(datalist, dataset_dir, labeled_subjects=subjects, require=("labeled", "validation"))


def own_names(cases: Sequence[str], datalist: Path) -> None:
    """Checks that every scan has a name of its own.

    Raises:
        ValueError: two scans of one name.
    """
    twice = sorted({case for case in cases if list(cases).count(case) > 1})
    if twice:
        raise ValueError(
            f"{datalist}: several images are called {', '.join(twice[:5])}; expected names of their own, which are "
            "nnU-Net's cases. Fix: rename the files"
        )


def grid_of(scan: Volume) -> SagittalGrid:
    return SagittalGrid.from_affine(scan.shape, scan.affine)


def stated_spacing(grid: SagittalGrid) -> tuple[float, float, float]:
    """Spacing of the slices' files: the scan's, made the largest across slices, so that nnU-Net takes these."""
    across, height, width = grid.spacing_mm
    return max(across, THICKER * max(height, width)), height, width


def write_slices(path: Path, slices: np.ndarray, spacing_mm: Sequence[float]) -> None:
    """Slices (D, H, W) as NIfTI of (W, H, D) voxels, which SimpleITK reads as (D, H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([*spacing_mm[::-1], 1.0])
    nib.save(nib.Nifti1Image(np.ascontiguousarray(slices.transpose(2, 1, 0)), affine), path)


def write_image(entry: Entry, folder: Path) -> None:
    """``CASE_0000.nii.gz``, float32."""
    scan = read_volume(entry.image)
    grid = grid_of(scan)
    path = folder / f"{case_of(entry)}_0000.nii.gz"
    write_slices(path, grid.to_slices(scan.array).astype(np.float32), stated_spacing(grid))


def label_slices(entry: Entry) -> tuple[np.ndarray, SagittalGrid]:
    """Codes (D, H, W) uint8, 255 where nobody annotated."""
    assert entry.label is not None
    scan = read_volume(entry.image)
    label = read_volume(entry.label, is_label=True, num_classes=MRSPINESEG.num_classes, partly_annotated=True)
    check_pair(scan, label)
    grid = grid_of(scan)
    return grid.to_slices(label.array), grid


def label_table(entries: Sequence[Entry]) -> dict[str, int]:
    """nnU-Net's labels by name: background 0, the structures that occur in order of their codes, ``ignore`` last."""
    codes = set().union(*(np.unique(label_slices(entry)[0]).tolist() for entry in entries)) | {0}
    names = [BACKGROUND, *(MRSPINESEG[code].name for code in sorted(codes - {0, NOT_ANNOTATED}))]
    return {name: number for number, name in enumerate([*names, IGNORE] if NOT_ANNOTATED in codes else names)}


def codes_of(labels: dict[str, int]) -> np.ndarray:
    """Our code of each of nnU-Net's labels."""
    known = {BACKGROUND: 0, IGNORE: NOT_ANNOTATED}
    ordered = sorted(labels, key=lambda name: labels[name])
    return np.array([known[name] if name in known else MRSPINESEG.code_of(name) for name in ordered], np.uint8)


def write_label(entry: Entry, folder: Path, codes: np.ndarray) -> None:
    """``CASE.nii.gz``, uint8, in nnU-Net's numbers."""
    slices, grid = label_slices(entry)
    number = np.zeros(256, np.uint8)
    number[codes] = np.arange(len(codes))
    write_slices(folder / f"{case_of(entry)}.nii.gz", number[slices], stated_spacing(grid))


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def write_dataset(
    data: Datalist, folder: Path, sections: Sequence[str], limit: int | None = None, source: Path | None = None
) -> None:
    """A raw data set of nnU-Net v2.

    Args:
        data: with the labeled subjects chosen.
        folder: ``DatasetNNN_name``; files in it are written over.
        sections: whose images are to be predicted: of "validation" and "test". No label of "test" is read.
        limit: scans of each section; None: all.
        source: the datalist's file, for messages.

    Raises:
        ValueError: two scans of one name.
        InvalidVolumeError: a file that cannot be used.
    """
    labeled, validation = data.labeled[:limit], data.validation[:limit]
    trained = [*labeled, *validation]
    predicted = [(section, entry) for section in sections for entry in data.sides[section][:limit]]
    tested = [entry for section, entry in predicted if section == "test"]
    own_names([case_of(entry) for entry in (*trained, *tested)], source or folder)
    labels = label_table(trained)
    for entry in trained:
        write_image(entry, folder / "imagesTr")
        write_label(entry, folder / "labelsTr", codes_of(labels))
    for section, entry in predicted:
        write_image(entry, folder / f"images_{section}")
    split = {"train": [case_of(e) for e in labeled], "val": [case_of(e) for e in validation]}
    write_json(folder / "splits_final.json", [split])
    write_json(
        folder / "dataset.json",
        {
            "channel_names": {"0": "MRI"},
            "labels": labels,
            "numTraining": len(trained),
            "file_ending": ".nii.gz",
            "overwrite_image_reader_writer": "SimpleITKIO",
            "name": folder.name,
            "description": f"{data.name}: {len(labeled)} labeled scans, {len(validation)} to validate on",
        },
    )


def all_codes(probabilities: np.ndarray, codes: np.ndarray) -> Iterator[np.ndarray]:
    """Slices (20, H, W) of nnU-Net's probabilities (C, D, H, W), classes that it does not know being 0."""
    for scores in probabilities.swapaxes(0, 1):
        spread = np.zeros((MRSPINESEG.num_classes, *scores.shape[1:]), np.float32)
        spread[codes[: len(scores)]] = scores
        yield spread


def bring_back(entry: Entry, predicted: Path, codes: np.ndarray, output: Path, unannotated: Sequence[int]) -> None:
    """One prediction as ``CASE_dseg.nii.gz`` on the scan's grid in ``output/argmax``, and decoded beside it.

    Raises:
        ValueError: a prediction of another shape than the scan's slices.
    """
    scan, case = read_volume(entry.image), case_of(entry)
    grid = grid_of(scan)
    numbers = read_volume(predicted / f"{case}.nii.gz", is_label=True, num_classes=len(codes))
    ways = {"argmax": codes[numbers.array.transpose(2, 1, 0)]}
    saved = predicted / f"{case}.npz"
    if saved.is_file():
        scores = all_codes(np.load(saved)["probabilities"], codes)
        spacing, skipped = grid.spacing_mm, tuple(unannotated)
        ways["decoded"] = decode_levels(ways["argmax"], scores, spacing, unannotated=skipped).labels
    for way, labels in ways.items():
        write_label_volume(output / way / f"{case}_dseg.nii.gz", grid.from_slices(labels), scan)


def back(data: Datalist, folder: Path, predicted: Path, output: Path) -> int:
    """All predictions of a folder; returns their number.

    Raises:
        ValueError: a prediction of no scan of the datalist, or none at all.
    """
    codes = codes_of(json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["labels"])
    entries = {case_of(entry): entry for side in SIDES for entry in data.sides[side]}
    cases = sorted(path.name.removesuffix(".nii.gz") for path in predicted.glob("*.nii.gz"))
    strange = [case for case in cases if case not in entries]
    if strange or not cases:
        raise ValueError(
            f"{predicted}: {', '.join(strange[:5]) or 'no prediction'}; expected CASE.nii.gz of scans of the datalist. "
            "Fix: name the folder that nnUNetv2_predict wrote, and the datalist that the data set was made of"
        )
    for case in cases:
        bring_back(entries[case], predicted, codes, output, data.unannotated)
    return len(cases)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = parser.add_subparsers(dest="task", required=True)
    write, bring = tasks.add_parser("write"), tasks.add_parser("back")
    for task in (write, bring):
        task.add_argument("datalist", type=Path)
        task.add_argument("--dataset-dir", type=Path, help="folder of the scans; default: the datalist's")
    write.add_argument("raw", type=Path, help="folder nnUNet_raw")
    write.add_argument("--id", type=int, required=True, help="of the data set, 1 to 999")
    write.add_argument("--name", required=True)
    write.add_argument("--share", default="100", help="labeled percentage, recorded in the datalist")
    write.add_argument("--seed", type=int, default=0, help="rotates the labeled subjects, as in a study")
    write.add_argument("--sections", nargs="+", default=["validation"], choices=SIDES[1:], help="to be predicted")
    write.add_argument("--limit", type=int, help="scans of each section, for a rehearsal; default: all")
    bring.add_argument("folder", type=Path, help="the raw data set, DatasetNNN_name")
    bring.add_argument("predicted", type=Path, help="folder that nnUNetv2_predict wrote")
    bring.add_argument("output", type=Path)
    return parser.parse_args()


def main() -> None:
    options = parsed()
    if options.task == "back":
        data = load_datalist(options.datalist, options.dataset_dir)
        print(f"{back(data, options.folder, options.predicted, options.output)} label maps in {options.output}")
        return
    data = chosen(options.datalist, options.dataset_dir, options.share, options.seed)
    folder = options.raw / f"Dataset{options.id:03d}_{options.name}"
    write_dataset(data, folder, options.sections, options.limit, options.datalist)
    print(f"{folder}: trained on {', '.join(case_of(entry) for entry in data.labeled[: options.limit])}")


if __name__ == "__main__":
    main()
