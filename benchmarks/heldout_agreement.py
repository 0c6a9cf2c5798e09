"""How often levels agree with those read by eye on patients in no training (docs/results/heldout_reading.md).

    python benchmarks/heldout_agreement.py --slices SPIDER/slices

Prints one line a patient with --raw (plain argmax) or without (levels decoded), and the count.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

READING = Path(__file__).resolve().parents[1] / "docs" / "results" / "heldout_reading.csv"
NEAR = 0.05  # of the slice's height


def nearest(result, kind: str, row: float, height: int) -> tuple[str, str, float]:
    """Name, state and distance (share of the height) of the structure of a kind that is nearest to a row."""
    from cps4_monai.data.sagittal import SagittalGrid

    grid = SagittalGrid.from_affine(result.labels.shape, result.affine)
    slices = grid.to_slices(result.labels)
    best = ("none", "absent", float("inf"))
    for structure in result.structures:
        if structure.kind == kind and (slices == structure.code).any():
            centre = (float(np.nonzero(slices == structure.code)[1].mean()) + 0.5) / height
            if abs(centre - row) < best[2]:
                best = (structure.name, structure.state, abs(centre - row))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=Path, required=True, help="folder of <patient>_T2w.nii.gz")
    parser.add_argument("--weights", type=Path, help="bundle folder or zip; default: the one of this package")
    parser.add_argument("--raw", action="store_true")
    parser.add_argument("--reading", type=Path, default=READING)
    arguments = parser.parse_args()
    from cps4_monai.data.sagittal import SagittalGrid
    from cps4_monai.inference.segment import Segmenter

    segmenter = Segmenter(arguments.weights, raw=arguments.raw)
    with arguments.reading.open(newline="", encoding="utf-8") as file:
        reading = list(csv.DictReader(file))
    agree = whole = 0
    for patient in reading:
        result = segmenter(arguments.slices / f"{patient['patient']}_T2w.nii.gz", qc=False)
        height = SagittalGrid.from_affine(result.labels.shape, result.affine).slices_shape[1]
        disc = nearest(result, "disc", float(patient["lowest_disc_row"]), height)
        body = nearest(result, "vertebra", float(patient["topmost_row"]), height)
        right = [
            found[0] == patient[key] and found[2] <= NEAR
            for found, key in ((disc, "lowest_disc"), (body, "topmost_whole_vertebra"))
        ]
        agree += all(right)
        whole += all(right) and body[1] == "present"
        flags = " ".join(flag.name for flag in result.flags)
        print(
            f"{patient['patient']}  read {patient['lowest_disc']:5} {patient['topmost_whole_vertebra']:4}"
            f"found {disc[0]:8} {body[0]:4} ({body[1]:7})  {'agrees' if all(right) else 'DIFFERS'}  "
            f"{patient['confidence']:6}  {flags}  {patient['note']}"
        )
    print(f"\n{agree} of {len(reading)} agree; in {whole} of them the topmost vertebra is whole for the model, too")


if __name__ == "__main__":
    main()
