"""Otsu's threshold of any number of maps at once, on the device they are on."""

from __future__ import annotations

import torch


def otsu_threshold(maps: torch.Tensor, bins: int = 256) -> torch.Tensor:
    """Threshold of each map that maximises the variance between the two sides (Otsu 1979).

    The same as ``skimage.filters.threshold_otsu`` on the same bins: equal bins from the minimum to the maximum, and
    the centre of the best bin is the threshold; foreground is what lies above. The variance is computed in units of
    bins, so that neither the size nor the sign of the values matters. A constant map gets its own value, a map with a
    value that is not finite gets NaN: both leave nothing above.

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
    values = maps.flatten(2)
    values = values if values.dtype in (torch.float32, torch.float64) else values.float()
    low, high = values.aminmax(dim=2)  # (B, C) each
    counts = _histogram(values, low, high, bins)  # (B, C, bins)
    best = _best_split(counts)
    # Centre of the bin; weighing low and high, not adding to low, keeps it finite where high - low overflows.
    position = (best.to(low.dtype) + 0.5) / bins
    return torch.where(high > low, low * (1 - position) + high * position, high - (high - low))


def _histogram(values: torch.Tensor, low: torch.Tensor, high: torch.Tensor, bins: int) -> torch.Tensor:
    """Counts (B, C, bins) int64 of values (B, C, N) in equal bins from low to high."""
    B, C, _ = values.shape
    span = high - low
    span = torch.where(span > 0, span, torch.ones_like(span)).unsqueeze(-1)
    # uint8 holds whatever a value that is not finite becomes, so that no index leaves its map's bins.
    index = ((values - low.unsqueeze(-1)) / span).mul_(bins).clamp_(0, bins - 1).to(torch.uint8)
    offset = torch.arange(B * C, device=values.device).view(B, C, 1) * 256
    counts = torch.zeros(B * C * 256, dtype=torch.int64, device=values.device)
    index = (index + offset).flatten()
    counts.scatter_add_(0, index, torch.ones((), dtype=torch.int64, device=values.device).expand_as(index))
    return counts.view(B, C, 256)[..., :bins]


def _best_split(counts: torch.Tensor) -> torch.Tensor:
    """Index (B, C) of the last bin of the lower side, from counts (B, C, bins); the first of equals."""
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
