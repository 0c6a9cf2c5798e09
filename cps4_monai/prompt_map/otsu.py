"""Otsu's threshold of any number of maps at once, on the device they are on."""

from __future__ import annotations

import torch


def otsu_threshold(maps: torch.Tensor, bins: int = 256) -> torch.Tensor:
    """Threshold of each map that maximises the variance between the two sides (Otsu 1979).

    The same as ``skimage.filters.threshold_otsu`` on the same bins: equal bins from the minimum to the maximum, and
    the centre of the best bin is the threshold; foreground is what lies above. The variance is computed in units of
    bins, so that neither the size nor the sign of the values matters. A constant map gets its own value, a map with a
    value that is not finite gets NaN or infinity: all leave nothing above.

    Args:
        maps: (B, C, H, W) of any float type.
        bins: number of bins, 2 to 256.

    Returns:
        (B, C) thresholds, float32 (float64 for float64 maps).

    Raises:
        ValueError: other shapes, types or numbers of bins.
    """
    if maps.ndim != 4 or not maps.is_floating_point() or maps.shape[2] * maps.shape[3] == 0:
        raise ValueError(f"maps is {tuple(maps.shape)} of {maps.dtype}; expected floats (B, C, H, W) with H, W >= 1")
    if not 2 <= bins <= 256:
        raise ValueError(f"bins is {bins}; expected 2 to 256")
    values = maps.flatten(2).flatten(0, 1)  # (B * C, N)
    values = values if values.dtype in (torch.float32, torch.float64) else values.float()
    low, high = values.amin(1), values.amax(1)  # (B * C,) each
    width = (high - low) / bins
    splits = (width > 0) & width.isfinite()  # false for constant maps and for values that are not finite
    width = torch.where(splits, width, 1)
    count = _count_map_by_map if maps.device.type == "cpu" else _count_at_once
    best = _best_split(count(values, low, width, bins))
    # Centre of the bin; weighing low and high, not adding to low, keeps the ends exact.
    position = (best.to(low.dtype) + 0.5) / bins
    return torch.where(splits, low * (1 - position) + high * position, high + (low - low)).view(maps.shape[:2])


def _count_at_once(values: torch.Tensor, low: torch.Tensor, width: torch.Tensor, bins: int) -> torch.Tensor:
    """Counts (M, bins) int64 of values (M, N) in bins from low (M,), in one launch and without a word to the host.

    uint8 holds whatever a value that is not finite becomes, so no index leaves the 256 places of its map.
    """
    index = values.sub(low[:, None]).div_(width[:, None]).clamp_(max=bins - 1).to(torch.uint8)
    offset = torch.arange(len(values), device=values.device) * 256
    places = (index + offset[:, None]).flatten()
    counts = torch.zeros(len(values) * 256, dtype=torch.int64, device=values.device)
    counts.scatter_add_(0, places, torch.ones((), dtype=torch.int64, device=values.device).expand_as(places))
    return counts.view(-1, 256)[:, :bins]


def _count_map_by_map(values: torch.Tensor, low: torch.Tensor, width: torch.Tensor, bins: int) -> torch.Tensor:
    """The same counts for the CPU, where counting bytes map by map beats building 64-bit places for all of them."""
    position = values.sub(low[:, None]).div_(width[:, None]).clamp_(max=bins - 1)
    index = position.to(torch.uint8)
    counts = torch.stack([torch.bincount(row, minlength=256) for row in index])
    return counts[:, :bins]


def _best_split(counts: torch.Tensor) -> torch.Tensor:
    """Index (M,) of the last bin of the lower side, from counts (M, bins); the first of equals."""
    counts = counts.double()
    centres = torch.arange(counts.shape[-1], device=counts.device, dtype=torch.float64)
    below = counts.cumsum(-1)[..., :-1]
    sum_below = (counts * centres).cumsum(-1)
    total, sum_total = counts.sum(-1, keepdim=True), sum_below[..., -1:]
    sum_below = sum_below[..., :-1]
    above = total - below
    # below * above * (mean_below - mean_above)^2, over one denominator; whole numbers, so equal splits stay equal.
    gap = sum_below * above - (sum_total - sum_below) * below
    variance = gap.square() / (below * above).clamp(min=1)
    # argmax is free to return any of several equals; the first one is asked for.
    is_best = variance == variance.amax(-1, keepdim=True)
    index = torch.arange(variance.shape[-1], device=counts.device)
    return torch.where(is_best, index, variance.shape[-1]).amin(-1)
