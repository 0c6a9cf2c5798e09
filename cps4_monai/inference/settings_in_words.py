"""What decided a run's results, in words for a person whom the report is passed on to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cps4_monai.levels import LevelThresholds


def weights_in_words(record: Mapping[str, Any]) -> str:
    """Name, version and hash of the weights; never where they lie on the machine that used them.

    Args:
        record: ``Weights`` of a result's JSON.
    """
    version = f", version {record['Version']}" if record.get("Version") else ""
    return f"{record['Name']}{version}, SHA-256 {record['Sha256']}"


def settings_in_words(settings: Mapping[str, Any], weights: Mapping[str, Any], machine: str) -> dict[str, str]:
    """Rows of the report's table of settings.

    Args:
        settings: ``Settings`` of a result's JSON, see :attr:`cps4_monai.inference.segment.Segmenter.settings`.
        weights: ``Weights`` of it.
        machine: what ran the network.
    """
    return {
        "Weights": weights_in_words(weights),
        "Levels": "not decoded: the plain argmax of the network"
        if settings["Raw"]
        else "decoded as one chain from the lowest structure up",
        "Views of a slice": "five, averaged" if settings["TestTimeAugmentation"] else "one",
        "Spacing where a header has none": _spacing(settings["AssumeSpacing"]),
        "Thresholds of levels and flags": _thresholds(settings["LevelThresholds"]),
        "Flags calibrated on": (settings.get("FlagCalibration") or {}).get("calibrated_on") or "nothing: defaults",
        "Network run by": machine,
        "Precision of the network": settings.get("Precision", "float32"),
    }


def _spacing(spacing: Sequence[float] | float | None) -> str:
    if spacing is None:
        return "none assumed: such a scan is refused"
    steps = [spacing] * 3 if isinstance(spacing, int | float) else list(spacing)
    return " x ".join(f"{step:g}" for step in (steps * 3 if len(steps) == 1 else steps)) + " mm"


def _thresholds(values: Mapping[str, Any]) -> str:
    """Only what differs from the defaults is told: a reader of the report cannot use thirty numbers."""
    usual = LevelThresholds().to_dict()
    changed = [
        f"{name.replace('_', ' ')} {value} instead of {usual.get(name)}"
        for name, value in values.items()
        if value != usual.get(name)
    ]
    return "; ".join(changed) or "the defaults; each result's JSON lists them"
