"""Levels that can be trusted: from argmax and probabilities to numbered structures, how sure they are, and flags."""

from __future__ import annotations

from cps4_monai.levels.decode import LevelResult, decode_levels, label_confidence
from cps4_monai.levels.flags import Flag, level_flags
from cps4_monai.levels.margin import LevelMargin
from cps4_monai.levels.settings import LevelThresholds
from cps4_monai.levels.statistics import StructureStatistics, structure_statistics

__all__ = [
    "Flag",
    "LevelMargin",
    "LevelResult",
    "LevelThresholds",
    "StructureStatistics",
    "decode_levels",
    "label_confidence",
    "level_flags",
    "structure_statistics",
]
