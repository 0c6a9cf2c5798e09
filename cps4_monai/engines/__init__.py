"""Training engines on MONAI's workflow classes."""

from __future__ import annotations

from cps4_monai.engines.supervised import PrecisionTrainer
from cps4_monai.engines.trainer import SemiSupervisedTrainer

__all__ = ["PrecisionTrainer", "SemiSupervisedTrainer"]
