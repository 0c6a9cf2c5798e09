"""Tables of an evaluation: one row per case and structure, one per case, and their summary with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cps4_monai.anatomy import Anatomy
from cps4_monai.metrics.bootstrap import RESAMPLES, bootstrap_mean
from cps4_monai.metrics.conventions import CONVENTIONS, SubjectScores
from cps4_monai.metrics.identification import Identification
from cps4_monai.metrics.surface import SurfaceDistances

STRUCTURE_COLUMNS = (
    *("case", "subject", "code", "name", "kind", "state", "dice", "iou", "hd95_mm", "assd_mm"),
    *("label_voxels", "pred_voxels", "centroid_distance_mm", "identified", "level_offset"),
)
CASE_COLUMNS = (
    *("case", "subject", "dice_a", "dice_b", "dice_c", "iou_a", "iou_b", "iou_c", "hd95_mm", "assd_mm", "num_slices"),
    *("num_labeled", "num_missed", "num_false", "num_measured", "num_identified", "num_off_by_one", "all_levels_right"),
    "warnings",
)
SUMMARY_COLUMNS = ("metric", "structure", "kind", "n", "mean", "ci_low", "ci_high", "sd", "median", "min", "max")
STRUCTURE_METRICS = ("dice", "iou", "hd95_mm", "assd_mm")
STATES = ("ok", "missed", "false", "absent")
OVERALL = "overall"


def structure_state(label_voxels: int, pred_voxels: int) -> str:
    """ "ok": in both; "missed": in the label only; "false": in the prediction only; "absent": in neither."""
    if label_voxels:
        return "ok" if pred_voxels else "missed"
    return "false" if pred_voxels else "absent"


def structure_rows(
    case: str,
    subject: str,
    anatomy: Anatomy,
    scores: SubjectScores,
    distances: SurfaceDistances,
    identification: Identification,
    unannotated: Sequence[int] = (),
) -> list[dict[str, Any]]:
    """Long form of one case: a row per annotated foreground structure, with the keys of ``STRUCTURE_COLUMNS``.

    Dice and IoU are 0 for a missed or false structure and NaN for an absent one; distances are NaN for all three.
    ``identified`` is 1 or 0 for a labeled structure, else NaN.
    """
    rows = []
    for structure in anatomy.foreground:
        code = structure.code
        if code in unannotated:
            continue
        label_voxels, pred_voxels = int(scores.counts.label[code]), int(scores.counts.pred[code])
        rows.append(
            {
                "case": case,
                "subject": subject,
                "code": code,
                "name": structure.name,
                "kind": structure.kind,
                "state": structure_state(label_voxels, pred_voxels),
                "dice": float(scores.dice[code]),
                "iou": float(scores.iou[code]),
                "hd95_mm": float(distances.hd95_mm[code]),
                "assd_mm": float(distances.assd_mm[code]),
                "label_voxels": label_voxels,
                "pred_voxels": pred_voxels,
                "centroid_distance_mm": float(identification.distance_mm[code]),
                "identified": float(identification.identified[code]) if label_voxels else float("nan"),
                "level_offset": float(identification.level_offset[code]),
            }
        )
    return rows


def case_row(
    rows: Sequence[dict[str, Any]], scores: SubjectScores, anatomy: Anatomy, warnings: Iterable[str] = ()
) -> dict[str, Any]:
    """One row per case, with the keys of ``CASE_COLUMNS``, from its structure rows and its scores.

    Distances are means over the ``num_measured`` structures that are in both label and prediction. All levels are right
    where each labeled structure that has a level got its own (``metrics.identification``), none another one and none
    no level; NaN where the label shows no such structure, so that there is no level to get right.
    """
    if not rows:
        raise ValueError("a case has no annotated foreground structure; check the anatomy and unannotated")
    states = [row["state"] for row in rows]
    hd95 = np.array([row["hd95_mm"] for row in rows])
    assd = np.array([row["assd_mm"] for row in rows])
    measured = np.isfinite(hd95)
    labeled = [row for row in rows if row["state"] in ("ok", "missed")]
    levels = {structure.code for structure in anatomy.along_spine()}
    offsets = [row["level_offset"] for row in labeled if row["code"] in levels]
    return {
        "case": rows[0]["case"],
        "subject": rows[0]["subject"],
        **{f"dice_{c}": scores.dice_by[c] for c in CONVENTIONS},
        **{f"iou_{c}": scores.iou_by[c] for c in CONVENTIONS},
        "hd95_mm": float(hd95[measured].mean()) if measured.any() else float("nan"),
        "assd_mm": float(assd[measured].mean()) if measured.any() else float("nan"),
        "num_slices": scores.num_slices,
        "num_labeled": states.count("ok") + states.count("missed"),
        "num_missed": states.count("missed"),
        "num_false": states.count("false"),
        "num_measured": int(measured.sum()),
        "num_identified": sum(row["identified"] == 1 for row in labeled),
        "num_off_by_one": sum(abs(offset) == 1 for offset in offsets),
        "all_levels_right": float(all(offset == 0 for offset in offsets)) if offsets else float("nan"),
        "warnings": "; ".join(warnings),
    }


def _by_subject(frame: pd.DataFrame, metric: str, weight: str | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Mean per subject: two scans of one patient are one draw of the bootstrap. Weights add up over the scans."""
    frame = frame.astype({metric: float})  # an empty table has no types yet
    kept = frame[np.isfinite(frame[metric])]
    if weight is None:
        return kept.groupby("subject", sort=True)[metric].mean().to_numpy(), None
    products = kept.assign(product=kept[metric] * kept[weight])
    sums = products.groupby("subject", sort=True)[["product", weight]].sum()
    return (sums["product"] / sums[weight]).to_numpy(), sums[weight].to_numpy()


def _summary_row(
    frame: pd.DataFrame, metric: str, structure: str, kind: str, resamples: int, seed: int, column: str | None = None
) -> dict[str, Any]:
    column = column or metric
    values, weights = _by_subject(frame, column, "num_slices" if metric in ("dice_a", "iou_a") else None)
    interval = bootstrap_mean(values, weights, resamples=resamples, seed=seed)
    empty = not values.size
    return {
        "metric": metric,
        "structure": structure,
        "kind": kind,
        "n": interval.n,
        "mean": interval.mean,
        "ci_low": interval.low,
        "ci_high": interval.high,
        "sd": float(values.std(ddof=1)) if values.size > 1 else float("nan"),
        "median": float("nan") if empty else float(np.median(values)),
        "min": float("nan") if empty else float(values.min()),
        "max": float("nan") if empty else float(values.max()),
    }


def summarise(
    structures: pd.DataFrame, cases: pd.DataFrame, *, resamples: int = RESAMPLES, seed: int = 0
) -> pd.DataFrame:
    """Summary over subjects, with the columns ``SUMMARY_COLUMNS``.

    * ``structure`` = "overall": ``dice_a`` to ``iou_c``, ``hd95_mm`` and ``assd_mm`` (per subject the mean over its
      measured structures) with percentile intervals over patients. (a) is the mean over all slices, the rest over
      subjects.
    * one row per structure and metric, over the subjects whose label holds the structure (convention (b): a miss is a
      Dice of 0); for distances over those where it could be measured: ``n`` says how many.

    Args:
        structures: long form, columns ``STRUCTURE_COLUMNS``.
        cases: one row per case, columns ``CASE_COLUMNS``.
        resamples: draws of the bootstrap.
        seed: of the bootstrap.
    """
    overall = [f"{name}_{c}" for name in ("dice", "iou") for c in CONVENTIONS] + ["hd95_mm", "assd_mm"]
    rows = [_summary_row(cases, metric, OVERALL, "", resamples, seed) for metric in overall]
    labeled = structures[structures["state"].isin(["ok", "missed"])]
    for (_, name, kind), group in labeled.groupby(["code", "name", "kind"], sort=True):
        rows += [_summary_row(group, metric, name, kind, resamples, seed) for metric in STRUCTURE_METRICS]
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))


def state_counts(structures: pd.DataFrame) -> pd.DataFrame:
    """How often each structure is ok, missed, false and absent: index (code, name, kind), columns ``STATES``."""
    counts = structures.groupby(["code", "name", "kind", "state"]).size().unstack("state", fill_value=0)
    return counts.reindex(columns=list(STATES), fill_value=0)
