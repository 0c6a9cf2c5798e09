"""What can be said of weights: from their plan, and from an evaluation of these very weights where there is one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cps4_monai.plan import Plan

if TYPE_CHECKING:
    from cps4_monai.evaluation.folder import Evaluation
    from cps4_monai.evaluation.record import EvaluationRecord

NAME = "Spine MRI segmentation, weights of a training run"
_SECTIONS = {
    "test": "test subjects",
    "validation": "validation subjects, by which the weights were chosen",
    "training": "training subjects, which the weights have seen",
}
_NAMES = {"decoded": "mean_dice", "argmax": "mean_dice_argmax"}
_IN_WORDS = {"mean_dice": "levels decoded, as inference does", "mean_dice_argmax": "plain argmax"}


@dataclass(frozen=True)
class WeightsFacts:
    """What metadata and card of a bundle say of weights that are not those that this project released.

    Attributes:
        plan: of the weights.
        figures: ``eval_metrics`` of the metadata; empty: not evaluated.
        stage1: plan of the stage 1 that is shipped beside them; None: none is.
    """

    plan: Plan
    figures: Mapping[str, Any] = field(default_factory=dict)
    stage1: Plan | None = None

    @property
    def training(self) -> str:
        """What they were trained on, in words."""
        return in_words(self.plan.trained_on)

    @property
    def network(self) -> str:
        """The network's class."""
        return str((self.plan.network or {}).get("_target_", "network")).rpartition(".")[2]

    @property
    def geometry(self) -> str:
        """Pixels of its slices, in words."""
        spacing = "their own spacing" if self.plan.spacing_mm is None else f"{self.plan.spacing_mm:g} mm in plane"
        size = "" if self.plan.slice_size is None else f", {self.plan.slice_size[0]} x {self.plan.slice_size[1]} pixels"
        mode = "" if self.plan.in_plane_mode == "spacing" else f", in-plane mode {self.plan.in_plane_mode}"
        return f"{spacing}{size} in training{mode}"

    @property
    def classes(self) -> str:
        """Codes and names."""
        return ", ".join(f"{code} {name}" for code, name in enumerate(self.plan.anatomy.names))

    @property
    def not_predicted(self) -> str:
        """Names of the classes without labels; empty where all had some."""
        return ", ".join(self.plan.anatomy.names[code] for code in self.plan.unannotated)

    def figure_rows(self) -> list[tuple[str, str, str]]:
        """(output, Dice, interval) for each figure."""
        rows = []
        for key, words in _IN_WORDS.items():
            if key in self.figures:
                ends = self.figures.get(f"{key}_ci95")
                interval = "" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"
                rows.append((words, f"{self.figures[key]:.3f}", interval))
        return rows


def in_words(trained_on: Mapping[str, Any]) -> str:
    """What a plan says of a training: ``data set: SPIDER; labeled subjects: 18``."""
    facts = [
        f"{key.replace('_', ' ')}: {'; '.join(value) if isinstance(value, list) else value}"
        for key, value in trained_on.items()
    ]
    return "; ".join(facts) or "not recorded"


def figures_of(folder: str | Path, weights_sha256: str) -> dict[str, Any]:
    """``eval_metrics`` from a folder of `cps4 evaluate`: mean Dice (b) by output with its interval, and what it is of.

    Means of nothing, where no structure counts, are left out; empty where none is left.

    Args:
        folder: with the tables and ``evaluation.json``.
        weights_sha256: of the weights that the figures are for.

    Raises:
        ValueError: no evaluation there, one of other weights, or tables that are not its own.
    """
    from cps4_monai.evaluation.record import load_tables, read_record

    record = read_record(folder)
    if record.weights_sha256 != weights_sha256:
        raise ValueError(
            f"{folder}: an evaluation of other weights (SHA-256 {record.weights_sha256[:12]}) than these "
            f"({weights_sha256[:12]}); run 'cps4 evaluate' again"
        )
    tables = load_tables(folder, record)
    figures: dict[str, Any] = {}
    for output, evaluation in tables.items():
        dice = evaluation.overall("dice_b")
        if not math.isfinite(dice["mean"]):
            continue
        figures[_NAMES[output]] = round(float(dice["mean"]), 3)
        interval = [round(float(dice[bound]), 3) for bound in ("ci_low", "ci_high")]
        if all(map(math.isfinite, interval)):
            figures[f"{_NAMES[output]}_ci95"] = interval
    return {**figures, "conditions": _conditions(record, next(iter(tables.values())))} if figures else {}


def _conditions(record: EvaluationRecord, evaluation: Evaluation) -> str:
    subjects, failed = evaluation.cases["subject"].nunique(), int((evaluation.failures["case"] != "").sum())
    grid = "the scan's own grid"
    if record.slice_size is not None:
        grid += f", of slices cropped to {record.slice_size[0]} x {record.slice_size[1]} pixels as in training"
    parts = [
        f"{subjects} {_SECTIONS.get(record.section, record.section)} of {record.data_set or 'a datalist'}",
        f"mean over the structures of a subject in 3-D on {grid}",
    ]
    if record.decoded:
        parts.append("mean_dice with the levels decoded as inference does, mean_dice_argmax without")
    if failed:
        parts.append(f"{failed} scans could not be scored and are not counted")
    return "; ".join(parts)
