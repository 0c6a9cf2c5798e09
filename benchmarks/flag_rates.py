"""How often each flag is raised, on scans numbered right and wrong, from the results of `cps4 segment`.

    cps4 segment SCANS -o OUT --no-qc
    python benchmarks/flag_rates.py OUT --labels LABELS [--unannotated [CODE ...]]

OUT's JSONs hold the flags, LABELS the true label maps by the same names; without labels, flags are counted only. A scan
is numbered wrong where at least two labeled structures got another level (one alone is a sliver at the border of the
view that its neighbour has swallowed). Codes that are in view but never labeled count for nothing: the sacrum, as
in SPIDER, unless `--unannotated` names others, or, alone, none.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

SHIFTED = 2  # structures on another level from which on the numbering of a scan is wrong
DICE_LIMIT = 0.7  # below it a structure counts as outlined badly
WITHOUT_LABEL = "no label"
SPIDER_LACKS = (1,)  # the sacrum: in view, never labeled


def flagged_scans(folder: Path) -> pd.DataFrame:
    """One row per result: its flags by name, and the structures that `low_confidence` names."""
    from cps4_monai.inference.outcome import ScanOutcome
    from cps4_monai.scan_names import find_nifti

    rows = []
    for path in find_nifti(folder):
        sidecar = path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".json")
        if not sidecar.exists():
            continue
        outcome = ScanOutcome(path, path.name, "kept", record=json.loads(sidecar.read_text(encoding="utf-8")))
        unsure = [f["structures"] for f in outcome.record["Flags"] if f["name"] == "low_confidence"]
        whole = [s["name"] for s in outcome.structures if s["state"] == "present" and s["confidence"] is not None]
        rows.append(
            {
                "pred": path,
                "flags": {*outcome.alarms, *outcome.notes},
                "look": outcome.needs_a_look,
                "unsure": set(unsure[0]) if unsure else set(),
                "whole": whole,
            }
        )
    if not rows:
        raise SystemExit(f"{folder}: no result of 'cps4 segment' in it")
    return pd.DataFrame(rows)


def scored(
    scans: pd.DataFrame, folder: Path, labels: Path | None, unannotated: Sequence[int] = SPIDER_LACKS
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The scans with their ``truth`` ("right", "wrong", "no label") and Dice (b), and the labeled structures."""
    from cps4_monai.evaluation.folder import evaluate_cases
    from cps4_monai.evaluation.matching import Matching, match_folder

    scans = scans.assign(truth=WITHOUT_LABEL, dice=np.nan)
    if labels is None:
        return scans, pd.DataFrame()
    place = {path: row for row, path in enumerate(scans["pred"])}
    cases = [case for case in match_folder(folder, labels).cases if case.pred in place]
    structures = evaluate_cases(Matching(tuple(cases)), unannotated=unannotated).structures
    structures = structures[structures["label_voxels"] > 0]
    for case in cases:
        own = structures[structures["case"] == case.name]
        shifted = int((own["level_offset"].fillna(0) != 0).sum())
        scans.loc[place[case.pred], ["truth", "dice"]] = [
            "wrong" if shifted >= SHIFTED else "right",
            own["dice"].mean(),
        ]
    parts = structures.assign(row=structures["case"].map({case.name: place[case.pred] for case in cases}))
    return scans, parts


def outline_line(scans: pd.DataFrame, structures: pd.DataFrame) -> str:
    """How `low_confidence` does as a statement on single structures, numbered right."""
    inside = structures[
        [
            name in scans["whole"][row] and offset == 0
            for name, row, offset in zip(structures["name"], structures["row"], structures["level_offset"], strict=True)
        ]
    ]
    unsure = np.array([name in scans["unsure"][row] for name, row in zip(inside["name"], inside["row"], strict=True)])
    bad = (inside["dice"] < DICE_LIMIT).to_numpy()
    return (
        f"low_confidence by whole structure on its right level: {unsure[bad].sum()} of {bad.sum()} with Dice below "
        f"{DICE_LIMIT:g}, {unsure[~bad].sum()} of {(~bad).sum()} others"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="output folder of 'cps4 segment'")
    parser.add_argument("--labels", type=Path, help="folder of true label maps")
    parser.add_argument(
        "--unannotated",
        type=int,
        nargs="*",
        default=SPIDER_LACKS,
        metavar="CODE",
        help="codes that LABELS never name though they are in view; alone: none; default: 1, as in SPIDER",
    )
    arguments = parser.parse_args()
    from cps4_monai.levels.flags import FLAGS

    scans, structures = scored(
        flagged_scans(arguments.results), arguments.results, arguments.labels, arguments.unannotated
    )
    groups = [(truth, part) for truth, part in scans.groupby("truth")]
    counted = [f"{len(part)} {truth} (mean Dice (b) {part['dice'].mean():.3f})" for truth, part in groups]
    print(f"{len(scans)} scans: {', '.join(counted)}")
    print("| flag | kind | " + " | ".join(truth for truth, _ in groups) + " |")
    print("|---" * (2 + len(groups)) + "|")
    for name, meaning in FLAGS.items():
        counts = [f"{sum(name in flags for flags in part['flags'])} of {len(part)}" for _, part in groups]
        print(f"| `{name}` | {meaning.kind} | {' | '.join(counts)} |")
    print(f"| to look at | | {' | '.join(f'{part.look.sum()} of {len(part)}' for _, part in groups)} |")
    if len(structures):
        print(outline_line(scans, structures))


if __name__ == "__main__":
    main()
