"""Argmax of bilinearly upsampled class scores, computed only where it is not known beforehand."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cps4_monai.data.resampling import AxisMap


def upsampled_argmax(
    scores: torch.Tensor, height: AxisMap, width: AxisMap, unannotated: Sequence[int] = ()
) -> torch.Tensor:
    """Argmax over classes of scores interpolated bilinearly onto another grid, slice by slice.

    An interpolated score is a convex combination of its four neighbours, so where one class wins at all four it wins in
    between: scores are interpolated only where the neighbours differ, at the borders of structures. The result is that
    of interpolating everything.

    Args:
        scores: (D, C, H, W), any floating type and device.
        height: the target rows on the source rows.
        width: the target columns on the source columns.
        unannotated: codes that can never win.

    Returns:
        (D, H0, W0) uint8 codes; 0 outside the source's field of view.

    Raises:
        ValueError: no class is left, or more than 256.
    """
    num_classes = scores.shape[1]
    kept = [code for code in range(num_classes) if code not in set(unannotated)]
    if not kept or num_classes > 256:
        raise ValueError(f"{num_classes} classes, {len(kept)} of them annotated; expected 1 to 256 annotated classes")
    device = scores.device
    codes = torch.tensor(kept, dtype=torch.uint8, device=device)
    upsampler = _SliceUpsampler(height, width, device)
    labels = torch.empty((scores.shape[0], height.target_size, width.target_size), dtype=torch.uint8, device=device)
    for index in range(scores.shape[0]):  # slices, one at a time: 20 upsampled float channels never exist at once
        one = scores[index]
        if len(kept) < num_classes:
            one = one[torch.tensor(kept, device=device)]
        labels[index] = codes[upsampler(one.float())]
    return labels * upsampler.inside


class _SliceUpsampler:
    """The interpolation weights of one geometry, made once for all slices."""

    def __init__(self, height: AxisMap, width: AxisMap, device: torch.device) -> None:
        (row, row_weight), (column, column_weight) = height.linear_pair(), width.linear_pair()
        self.row, self.row_weight = row.to(device), row_weight.to(device)
        self.column, self.column_weight = column.to(device), column_weight.to(device)
        self.row_step, self.column_step = min(1, height.source_size - 1), min(1, width.source_size - 1)
        self.source_width = width.source_size
        inside = height.inside()[:, None] & width.inside()[None]
        self.inside = inside.to(device=device, dtype=torch.uint8)

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        """(C, H, W) to (H0, W0), indices of the winning channel."""
        winner = scores.argmax(dim=0)
        corners = [self._corner(winner, dr, dc) for dr in (0, 1) for dc in (0, 1)]
        label = corners[0]
        differs = torch.stack([label != other for other in corners[1:]]).any(dim=0)
        rows, columns = differs.nonzero(as_tuple=True)
        pixels = scores.permute(1, 2, 0).reshape(-1, scores.shape[0])  # (H * W, C): a corner is one contiguous row
        for part_rows, part_columns in zip(rows.split(65536), columns.split(65536), strict=True):
            label[part_rows, part_columns] = self._interpolate(pixels, part_rows, part_columns).argmax(dim=1)
        return label

    def _corner(self, winner: torch.Tensor, down: int, right: int) -> torch.Tensor:
        return winner[self.row + down * self.row_step][:, self.column + right * self.column_step]

    def _interpolate(self, pixels: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """(n, C) scores at n target pixels."""
        first = self.row[rows] * self.source_width + self.column[columns]
        down, right = self.row_step * self.source_width, self.column_step
        across = self.column_weight[columns][:, None]
        upper = torch.lerp(pixels[first], pixels[first + right], across)
        lower = torch.lerp(pixels[first + down], pixels[first + down + right], across)
        return torch.lerp(upper, lower, self.row_weight[rows][:, None])
