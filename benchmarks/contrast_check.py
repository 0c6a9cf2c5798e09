"""What contrast costs: validation scans as they are, inverted, and with bright discs and dark fat; Dice and levels.

    python benchmarks/contrast_check.py --datalist SPIDER/splits.json LUMBAR_T1/datalist.json [--weights BUNDLE]

The other contrasts are rendered from the scans and their labels (renderings.py). No test subject is read. Levels are
right where fewer than two labeled structures were missed or got another level.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from renderings import RENDERINGS
from scored_scans import LabeledScan, labeled_scans, score, segment_scan

from cps4_monai.anatomy import NOT_ANNOTATED

AS_IT_IS = "as it is"


def rendered(scan: LabeledScan, anatomy: Any) -> dict[str, LabeledScan]:
    """The scan as it is and by each rendering."""
    kinds = ("vertebra", "sacrum"), ("disc",)
    bodies, discs = ([s.code for s in anatomy.foreground if s.kind in kind] for kind in kinds)
    changed = {
        name: scan.changed(render(scan.image, scan.label, scan.spacing_mm[2], (bodies, discs)))
        for name, render in RENDERINGS.items()
    }
    return {AS_IT_IS: scan, **changed}


def outlined(axis: Any, scan: LabeledScan, pred: np.ndarray) -> None:
    """The slice with most labels, and the outlines of what was predicted."""
    middle = int(((scan.label > 0) & (scan.label < NOT_ANNOTATED)).sum(axis=(1, 2)).argmax())
    axis.imshow(scan.image[middle], cmap="gray", vmin=0, vmax=1, aspect=scan.spacing_mm[1] / scan.spacing_mm[2])
    for code in np.unique(pred[middle])[1:]:
        axis.contour(pred[middle] == code, levels=[0.5], colors=[f"C{code % 10}"], linewidths=0.7)
    axis.axis("off")


def contact_sheet(pictures: Mapping[str, list[tuple[LabeledScan, np.ndarray]]], path: Path) -> None:
    """One row per contrast, one column per scan."""
    from matplotlib.figure import Figure

    columns = max(len(row) for row in pictures.values())
    figure = Figure(figsize=(2.2 * columns, 2.7 * len(pictures)), dpi=90)
    axes = figure.subplots(len(pictures), columns, squeeze=False)
    for row, (name, scans) in zip(axes, pictures.items(), strict=True):
        for axis, (scan, pred) in zip(row, scans, strict=True):
            outlined(axis, scan, pred)
            axis.set_title(f"{scan.subject}, {name}", fontsize=7)
    figure.tight_layout(pad=0.3)
    figure.savefig(path)


def table(rows: pd.DataFrame) -> str:
    """Markdown: a line for each data set, contrast and way."""
    lines = ["| data | contrast | levels | Dice (b) | vertebrae | discs | levels right |", "|---" * 7 + "|"]
    for (data, contrast, way), part in rows.groupby(["data", "contrast", "way"], sort=False):
        means = part[["dice_b", "dice_vertebra", "dice_disc"]].mean()
        lines.append(
            f"| {data} | {contrast} | {way} | {means.iloc[0]:.3f} | {means.iloc[1]:.3f} | {means.iloc[2]:.3f} | "
            f"{part['right'].sum()} of {len(part)} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datalist", type=Path, nargs="+", required=True)
    parser.add_argument("--weights", "--bundle", type=Path, help="folder or zip of a bundle, or weights of a run")
    parser.add_argument("--limit", type=int, help="scans of each data set; default: all")
    parser.add_argument("-o", "--output", type=Path, help="CSV of all scans")
    parser.add_argument("--sheet", type=Path, help="PNG of the first scans of each data set with predicted outlines")
    parser.add_argument("--sheet-scans", type=int, default=3, help="scans of each data set on it")
    arguments = parser.parse_args()
    from cps4_monai.inference.segment import Segmenter

    segmenter = Segmenter(arguments.weights)
    anatomy = segmenter.bundle.anatomy
    rows: list[dict[str, Any]] = []
    pictures: dict[str, list[tuple[LabeledScan, np.ndarray]]] = {}
    for datalist in arguments.datalist:
        for index, scan in enumerate(labeled_scans(datalist, "validation", anatomy.num_classes, arguments.limit)):
            for contrast, changed in rendered(scan, anatomy).items():
                for way, _, pred in segment_scan(segmenter, changed):
                    common = {"data": scan.data, "contrast": contrast, "way": way, "subject": scan.subject}
                    rows.append({**common, **score(segmenter, changed, pred)})
                    if way == "decoded" and index < arguments.sheet_scans:
                        pictures.setdefault(contrast, []).append((changed, pred))
    scored = pd.DataFrame(rows).drop(columns="dice")
    print(f"weights {segmenter.bundle.sha256[:8]}\n{table(scored)}")
    if arguments.output:
        scored.to_csv(arguments.output, index=False, float_format="%.4f")
    if arguments.sheet:
        contact_sheet(pictures, arguments.sheet)


if __name__ == "__main__":
    main()
