"""Event handlers: thin adapters between the engines and the rest, for both stages unless they say otherwise."""

from __future__ import annotations

from cps4_monai.handlers.at_the_end import AtTheEnd
from cps4_monai.handlers.best_weights import BestWeights, NoWeightsError
from cps4_monai.handlers.cosine_end import CosineEnd
from cps4_monai.handlers.decoded_labels import DecodedLabels
from cps4_monai.handlers.decoded_validation import DecodedPredictiond
from cps4_monai.handlers.early_stop import EarlyStop
from cps4_monai.handlers.epoch_seed import EpochSeed
from cps4_monai.handlers.epoch_validation import EpochValidation, FirstValidation
from cps4_monai.handlers.loader_end import LoaderEnd
from cps4_monai.handlers.localisation import AttentionLocalisation
from cps4_monai.handlers.metrics_log import MetricsLog
from cps4_monai.handlers.non_finite import NonFiniteLossError, StopOnNonFinite
from cps4_monai.handlers.progress import ProgressHandler
from cps4_monai.handlers.prompt_map import PromptMapHandler
from cps4_monai.handlers.resume import CheckpointError, ResumeHandler
from cps4_monai.handlers.run_record import RunRecord
from cps4_monai.handlers.spread_slice_loss import SpreadSliceLoss
from cps4_monai.handlers.stage1_metrics import PromptMapd, VolumeLoss
from cps4_monai.handlers.tensorboard import PictureHandler
from cps4_monai.handlers.tracking import ResumedMLFlowHandler
from cps4_monai.handlers.weights_in_use import WeightsInUse, WeightsInUseError

__all__ = [
    "AtTheEnd",
    "AttentionLocalisation",
    "BestWeights",
    "CheckpointError",
    "CosineEnd",
    "DecodedLabels",
    "DecodedPredictiond",
    "EarlyStop",
    "EpochSeed",
    "EpochValidation",
    "FirstValidation",
    "LoaderEnd",
    "MetricsLog",
    "NoWeightsError",
    "NonFiniteLossError",
    "PictureHandler",
    "ProgressHandler",
    "PromptMapHandler",
    "PromptMapd",
    "ResumeHandler",
    "ResumedMLFlowHandler",
    "RunRecord",
    "SpreadSliceLoss",
    "StopOnNonFinite",
    "VolumeLoss",
    "WeightsInUse",
    "WeightsInUseError",
]
