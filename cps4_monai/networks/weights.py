"""Weights of a network from a file or from a bundle folder."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cps4_monai.bundle_root import weights_in
from cps4_monai.file_hash import check_recorded
from cps4_monai.networks.ema import unwrap

logger = logging.getLogger(__name__)


def load_weights(network: nn.Module, path: str | Path, *, content: bytes | None = None) -> nn.Module:
    """Fills a network from a state-dict file (``model.pt`` form), half precision included.

    Args:
        network: changed in place; stays on its device and in its precision.
        path: file written by :class:`cps4_monai.handlers.BestWeights` or shipped in a bundle's ``models``.
        content: bytes of that file where they have been read (and checked) already; ``path`` is then only its name.

    Returns:
        The same network.

    Raises:
        ValueError: the file is missing, not a state dict, made for another network, or not the one that ``.sha256``
            beside it tells of.
    """
    path = Path(path)
    if content is None and not path.is_file():
        raise ValueError(f"{path}: no such file; expected weights of a trained network (a bundle's models/model.pt)")
    if content is None:
        check_recorded(path)
    try:
        source = path if content is None else io.BytesIO(content)
        state: Any = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # on what is no checkpoint, the unpickler stumbles over anything (IndexError, ...)
        raise ValueError(f"{path}: cannot be read as a state dict ({error}); is the file complete?") from error
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(
            f"{path}: holds no plain state dict of tensors; expected model.pt of a bundle, not a resume checkpoint"
        )
    target = unwrap(network)
    expected = target.state_dict()
    missing, extra = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    shapes = [
        f"{name}: {tuple(state[name].shape)} in the file, {tuple(expected[name].shape)} in the network"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    if missing or extra or shapes:
        differences = "; ".join(shapes[:3]) or f"missing {missing[:3]}, unknown {extra[:3]}"
        raise ValueError(
            f"{path}: weights of another network ({differences}); use the network_def (features, classes) that "
            "they were made with"
        )
    target.load_state_dict(dict(state))
    return network


def finetune_from(network: nn.Module, bundle: str | Path | None) -> nn.Module:
    """Starts a network from the weights of a bundle folder (its ``models/model.pt``), or from a weights file.

    Args:
        network: changed in place.
        bundle: bundle folder or weights file; None leaves the network as it is, so that a config may always call this.

    Returns:
        The same network.

    Raises:
        ValueError: as :func:`load_weights`.
    """
    if bundle is None or str(bundle) == "":
        return network
    path = weights_in(Path(bundle))
    load_weights(network, path)
    logger.info("training starts from the weights in %s", path)
    return network
