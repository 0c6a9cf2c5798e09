"""Networks around the deployed one: parts that train with it and are neither validated nor shipped."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cps4_monai.networks.ema import unwrap
from cps4_monai.networks.resunet import ResUNet


def deployable(network: nn.Module) -> nn.Module:
    """The network that is validated and shipped: the ``backbone`` of a composite, any other network itself.

    Args:
        network: may be wrapped by ``DistributedDataParallel`` or ``torch.compile``.
    """
    bare = unwrap(network)
    return getattr(bare, "backbone", bare)


class Composite(nn.Module):
    """A network to deploy, ``backbone``, and what is trained around it (decoders, heads, a second network).

    One module holds all of it, so that there is one optimiser, one entry in the checkpoint and one wrapper for several
    devices. Called with images alone it gives the backbone's logits; further keywords of a subclass's ``forward`` ask
    for more. A step goes through ``forward``, never through a part, or ``DistributedDataParallel`` averages nothing.

    Args:
        backbone: what is deployed; its state dict is that of ``network_def``.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image: Tensor) -> Any:
        """Logits (B, C, H, W) of the backbone."""
        return self.backbone(image)


def check_in_pieces(backbone: nn.Module) -> None:
    """Refuses a network between whose encoder and decoder nothing can be put.

    Raises:
        TypeError: a backbone without ``encode``, ``decode``, ``logits`` and ``features``.
    """
    missing = [name for name in ("encode", "decode", "logits", "features") if not hasattr(backbone, name)]
    if missing:
        raise TypeError(
            f"backbone is a {type(backbone).__name__} without {missing}; expected a network in pieces, as "
            "cps4_monai.networks.ResUNet"
        )


class MaskedFeatures(Composite):
    """A ResUNet whose features may be multiplied between encoder and decoder.

    Args:
        backbone: the network.

    Raises:
        TypeError: a backbone without ``encode``, ``decode`` and ``features``.
    """

    backbone: ResUNet

    def __init__(self, backbone: ResUNet) -> None:
        check_in_pieces(backbone)
        super().__init__(backbone)

    def forward(self, image: Tensor, masks: Sequence[Tensor] | None = None) -> Tensor:
        """Logits (B, C, H, W).

        Args:
            image: (B, 1, H, W).
            masks: one per level of the encoder, (B, features[i], 1, 1) or broadcastable to it; None: no change.
        """
        if masks is None:
            return self.backbone(image)
        levels = [level * mask.to(level.dtype) for level, mask in zip(self.backbone.encode(image), masks, strict=True)]
        return self.backbone.logits(self.backbone.decode(levels), list(image.shape[-2:]))


class StudentPair(Composite):
    """Two networks of one architecture and different initial weights that are trained side by side.

    Args:
        backbone: the first student, as it is.
        seed: of the second one's initial weights. They are drawn on the CPU, so that no device changes them, and no
            global random state moves.

    Raises:
        ValueError: a part of the network that has parameters and cannot draw them again.
    """

    def __init__(self, backbone: nn.Module, seed: int = 1) -> None:
        super().__init__(backbone)
        self.second = reinitialised(backbone, seed)

    def forward(self, image: Tensor, second: bool = False) -> Tensor:
        """Logits (B, C, H, W) of the first student, or of the second one."""
        return self.second(image) if second else self.backbone(image)


def reinitialised(network: nn.Module, seed: int) -> nn.Module:
    """A copy of a network whose weights are drawn again, from this seed alone; on the same device.

    Raises:
        ValueError: a module that owns parameters without ``reset_parameters``.
    """
    device = next(network.parameters()).device
    fresh = copy.deepcopy(network).cpu()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # that of the CPU alone
        for name, module in fresh.named_modules():
            if next(module.parameters(recurse=False), None) is None:
                continue
            if not hasattr(module, "reset_parameters"):
                raise ValueError(
                    f"{name or 'the network'} is a {type(module).__name__} that cannot draw its weights again; "
                    "expected layers with reset_parameters"
                )
            module.reset_parameters()
    return fresh.to(device)
