"""Rows that follow the spine: lines across it instead of across the image, so that a tilted disc is one line."""

from __future__ import annotations

import torch
from torch import Tensor

DEGREE = 3
STEEPEST = 0.8  # pixels that a line may rise per pixel across; beyond, the fitted curve is no spine


def along_spine(spine: Tensor) -> Tensor:
    """The row at which the line across the spine through each pixel meets the spine's centre.

    The centre is a cubic through the rows' centres of mass, weighted by their mass; lines are taken as straight and
    perpendicular to it. Where nothing is seen, the rows of the image are kept.

    Args:
        spine: (B, H, W), 0 or more: how much of the spine each pixel shows.

    Returns:
        (B, H, W) float32, in rows; may lie outside 0 to H - 1.
    """
    rows, columns = spine.shape[1:]
    y = torch.arange(rows, device=spine.device, dtype=spine.dtype)
    x = torch.arange(columns, device=spine.device, dtype=spine.dtype)
    mass = spine.sum(2)  # (B, H)
    centre = (spine * x).sum(2) / mass.clamp(min=1e-6)
    unit = (2 * y - (rows - 1)) / max(1, rows - 1)  # -1 to 1
    powers = torch.stack([unit**n for n in range(DEGREE + 1)], dim=1)  # (H, 4)
    slopes = torch.stack([n * unit ** max(0, n - 1) for n in range(DEGREE + 1)], dim=1) * (2 / max(1, rows - 1))
    share = mass / mass.amax(1, keepdim=True).clamp(min=1e-6)
    # A little ridge keeps the system solvable where few rows show anything; solve_ex does not wait for the device.
    ridge = 1e-3 * torch.eye(DEGREE + 1, device=spine.device, dtype=spine.dtype)
    normal = torch.einsum("hi,bh,hj->bij", powers, share, powers) + ridge
    wanted = torch.einsum("hi,bh->bi", powers, share * centre)
    cubic, _ = torch.linalg.solve_ex(normal, wanted.unsqueeze(2), check_errors=False)
    fitted, slope = (table @ cubic for table in (powers, slopes))  # (B, H, 1) each
    return y.view(1, -1, 1) + slope.clamp(-STEEPEST, STEEPEST) * (x - fitted)


def to_rows(maps: Tensor, place: Tensor) -> Tensor:
    """Sums (B, K, H) over the lines across the spine of maps (B, K, H, W), at places (B, H, W) from `along_spine`."""
    index = _index(maps, place)
    empty = torch.zeros(maps.shape[:3], device=maps.device, dtype=maps.dtype)
    return empty.scatter_add_(2, index, maps.flatten(2))


def from_rows(rows: Tensor, place: Tensor) -> Tensor:
    """Values (B, K, H) of the lines, back in the pixels: (B, K, H, W)."""
    shape = (*rows.shape[:2], *place.shape[1:])
    return rows.gather(2, _index(rows, place)).view(shape)


def _index(of: Tensor, place: Tensor) -> Tensor:
    """(B, K, H * W) whole rows, those beyond the ends at the ends."""
    nearest = place.round().long().clamp(0, place.shape[1] - 1).flatten(1)
    return nearest.unsqueeze(1).expand(-1, of.shape[1], -1)
