"""Thresholds of the level flags, from scans whose levels are known: whole, cropped, shifted and spoiled.

    python benchmarks/level_calibration.py --datalist SPIDER/splits.json --sections training validation -o levels.csv
    python benchmarks/level_calibration.py --table levels.csv            # the table again, without the network

Every labeled scan of the sections is segmented as `cps4 segment` does, and once more for each way in which another scan
may differ: a view that ends above the sacrum or below the upper levels, a spine at the border of the view, noise, low
resolution, other contrast, thick slices. The numbering of a scan is wrong where at least two structures got another
level (one alone is a sliver at the border of the view that its neighbour has swallowed). The thresholds are those that
flag most wrong scans at a bounded share of false alarms; hit and false-alarm rates are of subjects left out.
Scans that trained the network are easier for it than new ones: read the rates by section.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from scipy import ndimage

SHIFTED = 2  # structures on another level from which on the numbering of a scan is wrong
DICE_LIMIT = 0.7  # below it a structure counts as wrong for `low_confidence`
Change = Callable[[np.ndarray, np.random.Generator, float], np.ndarray]


def cut(axis: int, from_low: bool, millimetres: float) -> Callable[[np.ndarray, float], np.ndarray]:
    """Leaves out a strip of an array whose axes are slices, H, W."""

    def apply(array: np.ndarray, spacing: float) -> np.ndarray:
        pixels = min(round(millimetres / spacing), array.shape[axis] - 32)
        return np.take(array, range(pixels, array.shape[axis]) if from_low else range(array.shape[axis] - pixels), axis)

    return apply


def shifted(millimetres: float) -> Callable[[np.ndarray, float], np.ndarray]:
    """The view moved along the spine, downwards where positive: what comes into it is empty."""

    def apply(array: np.ndarray, spacing: float) -> np.ndarray:
        pixels = round(abs(millimetres) / spacing)
        kept = array[:, pixels:] if millimetres > 0 else array[:, : array.shape[1] - pixels]
        return np.pad(kept, ((0, 0), (0, pixels) if millimetres > 0 else (pixels, 0), (0, 0)))

    return apply


def low_resolution(image: np.ndarray, rng: np.random.Generator, spacing: float) -> np.ndarray:
    """Blurred as if scanned at 2 mm."""
    sigma = 2.0 / spacing / 2.0
    return ndimage.gaussian_filter(image, (0, sigma, sigma))


CUTS: dict[str, list[Callable[[np.ndarray, float], np.ndarray]]] = {
    "whole": [],
    **{f"bottom {mm} mm cut": [cut(1, False, mm)] for mm in (40, 70, 100, 130)},
    **{f"top {mm} mm cut": [cut(1, True, mm)] for mm in (50, 100)},
    "middle 140 mm": [cut(1, True, 80), cut(1, False, 80)],
    **{f"view {mm:+d} mm": [shifted(mm)] for mm in (-60, 60)},
    "front 50 mm cut": [cut(2, True, 50)],
    "back 60 mm cut": [cut(2, False, 60)],
}
SPOILS: dict[str, Change] = {
    "noise": lambda image, rng, spacing: image + rng.normal(0, 0.15 * float(np.percentile(image, 99)), image.shape),
    "low resolution": low_resolution,
    "dark": lambda image, rng, spacing: (image / max(float(image.max()), 1e-6)) ** 2.2,
    "bright": lambda image, rng, spacing: (image / max(float(image.max()), 1e-6)) ** 0.45,
    "thick slices": lambda image, rng, spacing: ndimage.uniform_filter1d(image, 5, axis=0),
}


def variants(image: np.ndarray, label: np.ndarray, spacing: float) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, image and label of each variant; axes slices, H, W."""
    for name, cuts in CUTS.items():
        pair = image, label
        for apply in cuts:
            pair = apply(pair[0], spacing), apply(pair[1], spacing)
        yield name, *pair
    for name, change in SPOILS.items():
        yield name, change(image, np.random.default_rng(zlib.crc32(name.encode())), spacing), label


def cases(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row per case and way of numbering, and one per structure."""
    import torch

    from cps4_monai.data.datalist import load_datalist
    from cps4_monai.data.sagittal import SagittalGrid
    from cps4_monai.data.volume import read_volume
    from cps4_monai.inference.segment import Segmenter
    from cps4_monai.metrics.conventions import subject_scores
    from cps4_monai.metrics.identification import identify_levels

    segmenter = Segmenter(arguments.weights)
    anatomy, skipped = segmenter.bundle.anatomy, segmenter.bundle.unannotated
    data = load_datalist(arguments.datalist, dataset_dir=arguments.dataset_dir or arguments.datalist.parent)
    for section in arguments.sections:
        for entry in getattr(data, section):
            if entry.label is None:
                continue
            scan = read_volume(entry.image)
            truth = read_volume(entry.label, is_label=True, num_classes=anatomy.num_classes, partly_annotated=True)
            grid = SagittalGrid.from_affine(scan.array.shape, scan.affine)
            slices = grid.to_slices(np.asarray(scan.array, dtype=np.float32)), grid.to_slices(truth.array)
            affine = np.diag([grid.spacing_mm[0], -grid.spacing_mm[2], -grid.spacing_mm[1], 1.0])
            for name, image, label in variants(*map(np.ascontiguousarray, slices), grid.spacing_mm[1]):
                # To the axes left-right, anterior to posterior, superior to inferior.
                picture = nib.Nifti1Image(image.transpose(0, 2, 1).astype(np.float32), affine)
                prepared = segmenter.prepare(picture, keep_grey=False)
                scores = segmenter.scores(prepared)
                for way in ("decoded", "raw"):
                    segmenter.raw = way == "raw"
                    result = segmenter.finish(prepared, scores)
                    found = np.ascontiguousarray(result.labels.transpose(0, 2, 1))
                    dice = subject_scores(
                        torch.from_numpy(found), torch.from_numpy(label), anatomy.num_classes, skipped
                    )
                    levels = identify_levels(found, label, grid.spacing_mm, anatomy, skipped)
                    shown = np.flatnonzero(np.bincount(label.reshape(-1), minlength=anatomy.num_classes))
                    shown = shown[(shown > 0) & ~np.isin(shown, skipped)]
                    margin = result.levels or {}
                    common = {"section": section, "subject": entry.subject, "way": way, "variant": name}
                    yield {
                        **common,
                        "row": "scan",
                        "margin": margin.get("margin"),
                        "anchored": margin.get("anchored"),
                        "flags": " ".join(flag.name for flag in result.flags),
                        "dice_b": dice.dice_by["b"],
                        "labeled": len(shown),
                        "shifted": int((np.abs(levels.level_offset[shown]) > 0).sum()),
                    }
                    by_code = {s.code: s for s in result.structures}
                    for code in shown.tolist() if way == "decoded" else ():
                        if by_code[code].confidence is not None:
                            yield {
                                **common,
                                "row": "structure",
                                "name": anatomy[code].name,
                                "dice": float(dice.dice[code]),
                                "confidence": by_code[code].confidence,
                                "state": by_code[code].state,
                            }


def calibrate_rows(rows: pd.DataFrame, value: str, wrong: pd.Series) -> str:
    """A line of the table: threshold and rates."""
    from calibration import calibrate

    kept = rows[value].notna()
    if not kept.any():
        return "no case"
    found = calibrate(
        rows.loc[kept, value].astype(float).to_numpy(), wrong[kept].to_numpy(), rows.loc[kept, "subject"].tolist()
    )
    return (
        f"{found.threshold:.3f} | {found.hit_rate:.1%} of {found.wrong} | {found.false_alarm_rate:.1%} of {found.right}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datalist", type=Path)
    parser.add_argument("--dataset-dir", type=Path)
    parser.add_argument("--sections", nargs="+", default=["training", "validation"])
    parser.add_argument("--weights", type=Path, help="bundle folder or zip; default: the one of this package")
    parser.add_argument("-o", "--output", type=Path, help="CSV of all cases")
    parser.add_argument("--table", type=Path, help="CSV of an earlier run")
    arguments = parser.parse_args()
    if arguments.table:
        rows = pd.read_csv(arguments.table)
    elif arguments.datalist:
        rows = pd.DataFrame(list(cases(arguments)))
        if arguments.output:
            rows.to_csv(arguments.output, index=False, float_format="%.6g")
    else:
        parser.error("give --datalist, or --table with the CSV of an earlier run")
    whole, parts = rows[rows["row"] == "scan"], rows[rows["row"] == "structure"]
    pd.set_option("display.width", 200)
    print("\nscans, those numbered wrong, structures on another level, labeled structures, Dice (b)")
    summary = whole.assign(wrong=whole["shifted"] >= SHIFTED).groupby(["variant", "way"], sort=False)
    table = summary.agg(
        scans=("wrong", "size"),
        wrong=("wrong", "sum"),
        structures=("shifted", "sum"),
        labeled=("labeled", "sum"),
        dice_b=("dice_b", "mean"),
    )
    print(table.round(3).to_string())
    decoded = whole[whole["way"] == "decoded"]
    anchored = decoded["anchored"].astype(bool)
    print("\nflag | threshold | hits | false alarms")
    for name, part in (("level_ambiguous, anchored", decoded[anchored]), ("not anchored", decoded[~anchored])):
        print(f"{name} | {calibrate_rows(part, 'margin', part['shifted'] >= SHIFTED)}")
    inside = parts[parts["state"] == "present"]  # the flag leaves out what the border of the view cuts
    print(f"low_confidence | {calibrate_rows(inside, 'confidence', inside['dice'] < DICE_LIMIT)}")
    wrong, flagged = decoded["shifted"] >= SHIFTED, decoded["flags"].fillna("").str.contains("level_ambiguous")
    for name in sorted({name for names in decoded["flags"].fillna("") for name in names.split()}):
        raised = decoded["flags"].fillna("").map(lambda names, name=name: name in names.split())
        print(
            f"{name}: on {raised[wrong].sum()} of {wrong.sum()} wrong scans, "
            f"{raised[~wrong].sum()} of {(~wrong).sum()} right ones, "
            f"{raised[decoded['variant'] == 'whole'].sum()} of {(decoded['variant'] == 'whole').sum()} unchanged ones"
        )
    print(
        f"with the thresholds in use level_ambiguous hits {flagged[wrong].sum()} of {wrong.sum()} wrong scans, "
        f"false alarms {flagged[~wrong].sum()} of {(~wrong).sum()}"
    )


if __name__ == "__main__":
    main()
