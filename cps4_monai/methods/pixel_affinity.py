"""Class probabilities that follow the edges of the picture: a local filter without parameters.

After Araslanov and Roth, "Single-stage semantic segmentation from image labels", CVPR 2020 (pixel-adaptive mask
refinement).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SHARPNESS = 0.1  # of the local standard deviation: differences below it are noise
_FLAT = 1e-4  # least local standard deviation, of intensities in [0, 1]
_AROUND = [(down, right) for down in range(3) for right in range(3) if (down, right) != (1, 1)]  # of a window of 3 x 3


@torch.no_grad()
def pixel_affinity(probabilities: Tensor, image: Tensor, rounds: int = 10, dilations: Sequence[int] = (1, 2)) -> Tensor:
    """Each pixel takes the mean of its neighbours' probabilities, those of its own intensity counting most, n times.

    Neighbours are the eight around a pixel at each dilation; the weight of one is the softmax over all of
    -|I(neighbour) - I(pixel)| / (0.1 sigma), sigma being the standard deviation of the pixel's windows. Means keep the
    sum over the classes at one. Neighbours beyond the border are those on it.

    Args:
        probabilities: (B, C, h, w).
        image: (B, 1, H, W) in [0, 1], averaged to the size of the probabilities.
        rounds: how often; 0 changes nothing.
        dilations: distances of the neighbours in pixels.

    Returns:
        (B, C, h, w) float32 without gradient.
    """
    if rounds == 0:
        return probabilities.detach().float()
    with torch.autocast(image.device.type, enabled=False):
        refined = probabilities.float()
        size = (refined.shape[2], refined.shape[3])
        weights = _weights(F.adaptive_avg_pool2d(image.float(), size), dilations)
        for _ in range(rounds):  # neighbour by neighbour: all of them at once would be moved through memory each time
            mean = torch.zeros_like(refined)
            for neighbour, weight in zip(_neighbours(refined, dilations), weights.unbind(2), strict=True):
                mean.addcmul_(neighbour, weight)
            refined = mean
        return refined


def _weights(image: Tensor, dilations: Sequence[int]) -> Tensor:
    """(B, 1, N, h, w): how much each of the N neighbours counts; sums up to one over them."""
    neighbours = torch.stack(list(_neighbours(image, dilations)), dim=2)
    spread = torch.cat((neighbours, image.unsqueeze(2)), dim=2).std(2, keepdim=True).clamp(min=_FLAT)
    return (-(neighbours - image.unsqueeze(2)).abs() / (SHARPNESS * spread)).softmax(2)


def _neighbours(maps: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """Views (B, C, h, w) of the maps, each moved to one of the neighbours at all dilations."""
    height, width = maps.shape[2:]
    for dilation in dilations:
        padded = F.pad(maps, [dilation] * 4, mode="replicate")
        for down, right in _AROUND:
            top, left = down * dilation, right * dilation
            yield padded[..., top : top + height, left : left + width]
