"""Training curves: read from `metrics.csv` or TensorBoard event files, drawn as one chart per kind of value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cps4_monai.metrics.run_log import COLUMNS


def read_metrics(path: str | Path, stage: str = "") -> pd.DataFrame:
    """Values of a run in long form, columns ``COLUMNS``.

    Where a run was resumed, the last value written for a (stage, name, iteration) counts.

    Args:
        path: a `metrics.csv`, or a folder with TensorBoard event files in it or below it.
        stage: name given to values from event files at the folder's top; below it the subfolder's name is taken.

    Raises:
        ValueError: neither is found, or the CSV has other columns.
    """
    path = Path(path)
    if path.is_dir():
        return _read_events(path, stage)
    if not path.is_file():
        raise ValueError(f"{path}: not found; expected a metrics.csv or a folder with TensorBoard event files")
    frame = pd.read_csv(path, dtype={"stage": str, "name": str}, on_bad_lines="skip")
    missing = [column for column in COLUMNS if column not in frame.columns]
    if missing:
        raise ValueError(f"{path}: columns {missing} are missing; expected {','.join(COLUMNS)}")
    return _last_values(frame[list(COLUMNS)])


def _read_events(folder: Path, stage: str) -> pd.DataFrame:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows: list[dict[str, Any]] = []
    for directory in sorted({path.parent for path in folder.rglob("events.out.tfevents.*")}):
        accumulator = EventAccumulator(str(directory), size_guidance={"scalars": 0})
        accumulator.Reload()
        name_of_stage = stage if directory == folder else directory.relative_to(folder).as_posix()
        for tag in accumulator.Tags()["scalars"]:
            for event in accumulator.Scalars(tag):
                rows.append(
                    {"stage": name_of_stage, "epoch": -1, "iteration": event.step, "name": tag, "value": event.value}
                )
    if not rows:
        raise ValueError(f"{folder}: no TensorBoard scalars in it or below it")
    return _last_values(pd.DataFrame(rows, columns=list(COLUMNS)))


def _last_values(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.assign(
        stage=frame["stage"].fillna(""), value=pd.to_numeric(frame["value"], errors="coerce")
    ).drop_duplicates(["stage", "name", "iteration"], keep="last")
    return frame.sort_values(["stage", "name", "iteration"], kind="stable").reset_index(drop=True)


def is_score(name: str) -> bool:
    """Whether a value is a score between 0 and 1 (higher is better) rather than a loss."""
    return any(word in name.lower() for word in ("dice", "iou", "pointing_game", "patch_auc", "level_share"))


def by_chart(frame: pd.DataFrame, per_class: Iterable[str] = ()) -> dict[tuple[str, str], pd.DataFrame]:
    """Split a run's values into charts: (stage, "losses" | "scores" | "seconds" | "other") -> values.

    Of a Dice in three conventions (b) is shown, once, and no IoU, which rises and falls with it.

    Args:
        frame: from :func:`read_metrics`.
        per_class: short names of structures; values that end in ``_<name>`` are left out, they would be twenty lines.
    """
    ends: Sequence[str] = tuple(f"_{name}" for name in per_class)
    names = set(frame["name"])
    kept = frame[[not (ends and name.endswith(ends)) and not _of_another(name, names) for name in frame["name"]]]
    kept = kept.assign(kind=[_kind(name) for name in kept["name"]])
    charts = {}
    for (stage, kind), group in kept.groupby(["stage", "kind"], sort=True):
        charts[(str(stage), str(kind))] = group.drop(columns="kind")
    return charts


def _kind(name: str) -> str:
    lower = name.lower()
    if is_score(lower):
        return "scores"
    return "losses" if "loss" in lower else "seconds" if "seconds" in lower else "other"


def _of_another(name: str, names: set[str]) -> bool:
    """Whether a value is a Dice (b) among ``names`` by its other name, in another convention, or its IoU."""
    if name.endswith("val_dice"):
        return f"{name.removesuffix('val_dice')}dice_b" in names
    stem, _, convention = name.rpartition("_")
    base = stem.removesuffix("dice").removesuffix("iou")
    return stem != base and name != f"{base}dice_b" and convention in ("a", "b", "c") and f"{base}dice_b" in names
