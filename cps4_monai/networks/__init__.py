"""Segmentation networks, the moving average of their weights, and where weights come from."""

from __future__ import annotations

from cps4_monai.networks.class_memory import ClassMemory
from cps4_monai.networks.composite import Composite, MaskedFeatures, StudentPair, deployable, reinitialised
from cps4_monai.networks.description import build_network, describe
from cps4_monai.networks.ema import ema_decay, ema_update, make_teacher, share_buffers, unwrap
from cps4_monai.networks.graph_branch import AlignedResUNet, GraphBranch
from cps4_monai.networks.in_parallel import in_parallel
from cps4_monai.networks.mutual_decoders import MutualDecoders
from cps4_monai.networks.parameter_groups import parameter_groups
from cps4_monai.networks.placement import place
from cps4_monai.networks.resunet import ResUNet
from cps4_monai.networks.text_guided import TextGuided, TextGuidedDecoder
from cps4_monai.networks.uncertain_embeddings import UncertainEmbeddings
from cps4_monai.networks.weights import finetune_from, load_weights

__all__ = [
    "AlignedResUNet",
    "ClassMemory",
    "Composite",
    "GraphBranch",
    "MaskedFeatures",
    "MutualDecoders",
    "ResUNet",
    "StudentPair",
    "TextGuided",
    "TextGuidedDecoder",
    "UncertainEmbeddings",
    "build_network",
    "deployable",
    "describe",
    "ema_decay",
    "ema_update",
    "finetune_from",
    "in_parallel",
    "load_weights",
    "make_teacher",
    "parameter_groups",
    "place",
    "reinitialised",
    "share_buffers",
    "unwrap",
]
