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
from cps4_monai.file_hash import file_sha256
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


def check_recorded(path: str | Path) -> None:
    """Checks weights against the file with their SHA-256 beside them, as a bundle ships it, where there is one.

    Raises:
        ValueError: see :func:`check_digest`.
    """
    path = Path(path)
    recorded = path.with_name(f"{path.name}.sha256")
    if recorded.is_file():
        check_digest(str(path), file_sha256(path), recorded.read_bytes())


def check_digest(name: str, digest: str, recorded: bytes) -> None:
    """Checks a SHA-256 against the content of a ``.sha256`` file.

    Args:
        name: of the weights, for the message.
        digest: theirs.
        recorded: the file's bytes, with the digest as the first word.

    Raises:
        ValueError: it says another one.
    """
    expected = recorded.decode("ascii", errors="replace").split()[:1]
    if [word.lower() for word in expected] != [digest]:
        raise ValueError(
            f"{name} has SHA-256 {digest}, but its .sha256 says {' '.join(expected) or 'nothing'}: the weights are "
            "damaged or were changed. Fix: download or export the bundle again, or delete that file if you put other "
            "weights there yourself"
        )
