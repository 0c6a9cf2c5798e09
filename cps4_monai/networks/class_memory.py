"""A ResUNet whose last features are projected, weighed and remembered for each class: the network of SS-Net."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cps4_monai.networks.composite import Composite, check_in_pieces
from cps4_monai.networks.resunet import ResUNet


class ClassMemory(Composite):
    """Two heads on the last features, two selectors for each class, and the features that each class remembers.

    The prediction head reads what the projection head gives. A selector is a small network of its class: a feature to
    its weight in (0, 1). One set weighs features of the present step, the other chooses and weighs remembered ones.
    All classes are computed at once, by grouped convolutions.

    Args:
        backbone: the network that is deployed.
        dimension: of the projected features.
        size: features that a class remembers.

    Attributes:
        memory: (C, size, dimension) remembered features; saved with the network.
        filled: (C, size) of 0 and 1, which of them are there; a float, as what several processes share.

    Raises:
        TypeError: a backbone that is not in pieces.
    """

    backbone: ResUNet
    memory: Tensor
    filled: Tensor

    def __init__(self, backbone: ResUNet, dimension: int = 32, size: int = 32) -> None:
        check_in_pieces(backbone)
        super().__init__(backbone)
        classes = backbone.out_channels
        self.projection = _head(backbone.features[0], dimension)
        self.prediction = _head(dimension, dimension)
        self.feature_selectors = Selectors(classes, dimension)
        self.memory_selectors = Selectors(classes, dimension)
        self.register_buffer("memory", torch.zeros(classes, size, dimension))
        self.register_buffer("filled", torch.zeros(classes, size))
        self.to(next(backbone.parameters()).device)

    def forward(
        self, image: Tensor, maps: Callable[[Tensor], Tensor] | None = None, count: int = 256
    ) -> Tensor | dict[str, Tensor]:
        """Logits (B, C, H, W); with `maps`, features of pixels that are drawn for each class as well.

        Args:
            image: (B, 1, H, W).
            maps: logits without gradient to G maps of class codes, (G, B, H, W) int64, -1 for no class.
            count: pixels drawn for each class and map, K.

        Returns:
            The logits, or a dict: ``logits``; ``projected`` and ``predicted`` (G, C, K, dimension) of both heads;
            ``drawn`` (G, C, K) bool. Where a class has fewer pixels, others stand, which are not ``drawn``.
        """
        if maps is None:
            return self.backbone(image)
        height, width = image.shape[-2:]
        last = self.backbone.decode(self.backbone.encode(image))
        logits = self.backbone.logits(last, [height, width])
        place, drawn = draw_pixels(maps(logits.detach()).flatten(1), logits.shape[1], count)
        taken = last[place // (height * width), :, place // width % height, place % width]  # (G, C, K, features)
        projected = self.projection(taken.flatten(0, 2))
        predicted = self.prediction(projected)
        shape = (*place.shape, -1)
        return {
            "logits": logits,
            "projected": projected.view(shape),
            "predicted": predicted.view(shape),
            "drawn": drawn,
        }

    @torch.no_grad()
    def remember(self, features: Tensor, valid: Tensor, keep: bool = True, best: bool = True) -> None:
        """Puts features in the memory of their classes, chosen by the memory selectors' weight.

        Args:
            features: (C, K, dimension).
            valid: (C, K) bool, which of them there are.
            keep: what a class remembers stays where there are fewer new features than places; else it is forgotten.
            best: choose those of largest weight; else those of smallest.
        """
        features = features.float()
        with torch.autocast(features.device.type, enabled=False):
            weight = self.memory_selectors(features)
        new = torch.where(valid, 1 + (weight if best else 1 - weight), -1.0)
        age = torch.arange(self.filled.shape[1], device=new.device) / self.filled.shape[1]
        old = torch.where((self.filled > 0) & keep, 1 - age, -1.0)  # below all new ones, in the order that there is
        chosen = torch.cat((new, old), dim=1).topk(self.filled.shape[1], dim=1)
        candidates = torch.cat((features, self.memory), dim=1)
        self.memory.copy_(candidates.gather(1, chosen.indices.unsqueeze(2).expand_as(self.memory)))
        self.filled.copy_(chosen.values >= 0)


class Selectors(nn.Module):
    """One network of two layers for each class: features (C, K, dimension) to weights (C, K) in (0, 1).

    Args:
        classes: C.
        dimension: of a feature.
    """

    def __init__(self, classes: int, dimension: int) -> None:
        super().__init__()
        width = classes * dimension
        self.layers = nn.Sequential(
            nn.Conv1d(width, width, 1, groups=classes), nn.LeakyReLU(), nn.Conv1d(width, classes, 1, groups=classes)
        )

    def forward(self, features: Tensor) -> Tensor:
        classes, count, dimension = features.shape
        columns = features.transpose(1, 2).reshape(1, classes * dimension, count)
        return self.layers(columns)[0].sigmoid()


@torch.no_grad()
def draw_pixels(codes: Tensor, classes: int, count: int) -> tuple[Tensor, Tensor]:
    """Pixels of each class, drawn at random without replacement, by one sort and without a wait for the device.

    Args:
        codes: (G, N) int64, -1 for no class.
        classes: C.
        count: pixels of each class, K.

    Returns:
        Positions (G, C, K) int64 within N, and whether each is drawn: False where there are fewer than K. There the
        class's own pixels stand again, for a class without any pixels spread over all classes, so that what all of them
        have in common (batch norm) is that of the map.
    """
    keys, order = (codes + 0.5 * torch.rand(codes.shape, device=codes.device)).sort(dim=1)  # classes apart, shuffled
    bounds = torch.arange(classes + 1, device=codes.device, dtype=keys.dtype).repeat(len(codes), 1)
    starts = torch.searchsorted(keys, bounds)
    number = starts.diff(dim=1).unsqueeze(2)
    rank = torch.arange(count, device=codes.device)
    first, last = starts[:, :1], starts[:, -1:]
    spread = first + ((rank + 0.5) / count * (last - first)).long()
    own = starts[:, :-1, None] + rank % number.clamp(min=1)
    place = torch.where(number > 0, own, spread.unsqueeze(1)).clamp(max=codes.shape[1] - 1)
    drawn = rank < number
    return order.gather(1, place.flatten(1)).view(place.shape), drawn


def _head(inputs: int, dimension: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, dimension), nn.BatchNorm1d(dimension), nn.ReLU(), nn.Linear(dimension, dimension)
    )
