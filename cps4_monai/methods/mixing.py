"""What methods that mix pictures share: rectangles, exchange by a mask, exchange of patches, largest components.

All of it is drawn and computed where the pictures are, from the global generator of that device, which
:class:`cps4_monai.handlers.EpochSeed` reseeds at each epoch: a resumed run draws the same, and nothing waits for the
device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def rectangles(count: int, size: Sequence[int], sides: Sequence[int], device: torch.device) -> Tensor:
    """Rectangles of given sides at uniformly drawn places.

    Args:
        count: how many, B.
        size: (H, W) of the picture.
        sides: (height, width) of the rectangle, at most those of the picture; 0 gives an empty one.
        device: where they are made.

    Returns:
        (B, 1, H, W) bool, True within.
    """
    height, width = (torch.full((count,), float(side), device=device) for side in sides)
    return _placed(height, width, size)


def random_rectangles(
    count: int,
    size: Sequence[int],
    device: torch.device,
    area: tuple[float, float] = (0.02, 0.4),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> Tensor:
    """Rectangles of uniformly drawn area, height by width, and place; sides longer than the picture's are cut to it.

    Args:
        count: how many, B.
        size: (H, W) of the picture.
        device: where they are made.
        area: least and largest share of the picture.
        aspect: least and largest height by width.

    Returns:
        (B, 1, H, W) bool, True within.
    """
    drawn = torch.rand(2, count, device=device)
    pixels = (area[0] + (area[1] - area[0]) * drawn[0]) * size[0] * size[1]
    ratio = aspect[0] + (aspect[1] - aspect[0]) * drawn[1]
    return _placed((pixels * ratio).sqrt().floor(), (pixels / ratio).sqrt().floor(), size)


def _placed(height: Tensor, width: Tensor, size: Sequence[int]) -> Tensor:
    """Rectangles (B, 1, H, W) of heights and widths (B,) at uniformly drawn places."""
    inside = []
    for side, length in ((height, size[0]), (width, size[1])):
        side = side.clamp(max=length)
        start = (torch.rand_like(side) * (length - side + 1)).floor()
        position = torch.arange(length, device=side.device)
        inside.append((position >= start[:, None]) & (position < (start + side)[:, None]))  # (B, H) or (B, W)
    return (inside[0][:, :, None] & inside[1][:, None, :]).unsqueeze(1)


def mix(first: Tensor, second: Tensor, mask: Tensor) -> Tensor:
    """`second` where the mask is True, `first` elsewhere: of pictures, labels and confidences alike.

    Args:
        first: (B, C, H, W).
        second: (B, C, H, W).
        mask: (B, 1, H, W) bool, or (1, 1, H, W) for all.
    """
    return torch.where(mask, second, first)


def certain_for_uncertain(uncertainty: Tensor, grid: int, exchanged: int) -> Tensor:
    """Which patch of a picture stands at each place, once its most uncertain patches are replaced by its most certain.

    Args:
        uncertainty: (B, 1, H, W); a patch has its mean. H and W are multiples of `grid`.
        grid: patches along each side.
        exchanged: how many are replaced; the most uncertain one by the most certain one, and so on.

    Returns:
        (B, grid * grid) int64, positions row by row; for :func:`exchange_patches`.

    Raises:
        ValueError: a picture that does not divide into the grid, or more than half of the patches.
    """
    height, width = uncertainty.shape[2:]
    if height % grid or width % grid or 2 * exchanged > grid * grid:
        raise ValueError(
            f"pictures are {(height, width)}, grid {grid}, exchanged patches {exchanged}; expected sides that are "
            "multiples of the grid, and at most half of the patches exchanged"
        )
    of_patch = F.avg_pool2d(uncertainty.float(), (height // grid, width // grid)).flatten(1)
    places = torch.arange(grid * grid, device=uncertainty.device).repeat(len(uncertainty), 1)
    uncertain = of_patch.topk(exchanged, largest=True).indices
    certain = of_patch.topk(exchanged, largest=False).indices
    return places.scatter(1, uncertain, certain)


def exchange_patches(picture: Tensor, places: Tensor, grid: int) -> Tensor:
    """The picture with the patch of the given position at each place.

    Args:
        picture: (B, C, H, W) of any type.
        places: (B, grid * grid), from :func:`certain_for_uncertain`.
        grid: patches along each side.
    """
    batch, channels, height, width = picture.shape
    high, wide = height // grid, width // grid
    patches = picture.reshape(batch, channels, grid, high, grid, wide).permute(0, 2, 4, 1, 3, 5)
    patches = patches.reshape(batch, grid * grid, channels * high * wide)
    taken = patches.gather(1, places.unsqueeze(2).expand_as(patches))
    rows = taken.reshape(batch, grid, grid, channels, high, wide).permute(0, 3, 1, 4, 2, 5)
    return rows.reshape(batch, channels, height, width)


@torch.no_grad()
def largest_components(codes: Tensor, num_classes: int, rounds: int = 16) -> Tensor:
    """Each structure's largest component in each slice; its other pixels become background.

    Pixels carry a position, at first their own. In each round a pixel, and whichever pixel has the position that it
    carries, take over the largest one carried by neighbours of its class (8 of them), and then what is carried there:
    components of any shape are joined in about as many rounds as their size has bits, on the device and without a wait.

    Args:
        codes: (B, 1, H, W) int64 class codes, 0 is background.
        num_classes: C.
        rounds: of that.

    Returns:
        (B, 1, H, W) int64.
    """
    batch, _, height, width = codes.shape
    pixels = height * width
    root = torch.arange(pixels, device=codes.device).reshape(1, 1, height, width).repeat(batch, 1, 1, 1)
    around = F.pad(codes, (1, 1, 1, 1), value=-1)
    same = [around[..., y : y + height, x : x + width] == codes for y in range(3) for x in range(3)]
    for _ in range(rounds):
        roots, largest = F.pad(root, (1, 1, 1, 1)), root
        neighbours = [roots[..., y : y + height, x : x + width] for y in range(3) for x in range(3)]
        for is_same, neighbour in zip(same, neighbours, strict=True):
            largest = torch.where(is_same, torch.maximum(largest, neighbour), largest)
        flat = root.flatten(1)
        hooked = flat.scatter_reduce(1, flat, largest.flatten(1), reduce="amax")
        root = hooked.gather(1, torch.maximum(hooked, largest.flatten(1))).reshape(root.shape)
    flat, classes = root.flatten(1), codes.flatten(1)
    sizes = torch.zeros(batch, pixels, dtype=torch.int64, device=codes.device).scatter_add_(
        1, flat, torch.ones_like(flat)
    )
    key = sizes.gather(1, flat) * pixels + flat  # the larger one first; of equal ones that with the later position
    best = torch.zeros(batch, num_classes, dtype=torch.int64, device=codes.device)
    best = best.scatter_reduce(1, classes, key, reduce="amax")
    kept = (key == best.gather(1, classes)) & (classes > 0)
    return torch.where(kept, classes, 0).reshape(codes.shape)
