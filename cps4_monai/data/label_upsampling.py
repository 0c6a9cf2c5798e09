"""Argmax of bilinearly upsampled class scores, computed only where it is not known beforehand."""

from __future__ import annotations

import torch

from cps4_monai.data.resampling import AxisMap


def upsampled_argmax(scores: torch.Tensor, height: AxisMap, width: AxisMap) -> torch.Tensor:
    """Argmax over classes of scores interpolated bilinearly onto another grid, slice by slice.

    An interpolated score is a convex combination of its four neighbours, so where one class wins at all four it wins in
    between: scores are interpolated only where the neighbours differ, at the borders of structures. The result is that
    of interpolating everything.

    Args:
        scores: (D, C, H, W), any floating type and device.
        height: the target rows on the source rows.
        width: the target columns on the source columns.

    Returns:
        (D, H0, W0) uint8 codes; 0 outside the source's field of view.

    Raises:
        ValueError: more than 256 classes.
    """
    if scores.shape[1] > 256:
        raise ValueError(f"{scores.shape[1]} classes; expected at most 256, because codes are uint8")
    device = scores.device
    upsampler = _SliceUpsampler(height, width, device)
    labels = torch.zeros((scores.shape[0], height.target_size, width.target_size), dtype=torch.uint8, device=device)
    for index in range(scores.shape[0]):  # slices, one at a time: 20 upsampled float channels never exist at once
        labels[index, upsampler.rows, upsampler.columns] = upsampler(scores[index].float())
    return labels


class _SliceUpsampler:
    """The interpolation weights of one geometry, made once for all slices; only targets in the field of view count."""

    def __init__(self, height: AxisMap, width: AxisMap, device: torch.device) -> None:
        self.rows, self.columns = _run(height.inside()), _run(width.inside())
        row, row_weight = (t[self.rows].to(device) for t in height.linear_pair())
        column, column_weight = (t[self.columns].to(device) for t in width.linear_pair())
        self.row, self.row_weight, self.column, self.column_weight = row, row_weight, column, column_weight
        self.down, self.right = min(1, height.source_size - 1), min(1, width.source_size - 1)
        self.source_width = width.source_size

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        """(C, H, W) to the winning channels of the targets in the field of view, uint8."""
        winner = scores.argmax(dim=0).to(torch.uint8)
        first = winner[: winner.shape[0] - self.down or None, : winner.shape[1] - self.right or None]
        mixed = torch.zeros_like(first, dtype=torch.bool)
        for down, right in ((self.down, 0), (0, self.right), (self.down, self.right)):
            mixed |= first != winner[down : down + first.shape[0], right : right + first.shape[1]]
        label = first[self.row][:, self.column]
        rows, columns = mixed[self.row][:, self.column].nonzero(as_tuple=True)
        pixels = scores.permute(1, 2, 0).reshape(-1, scores.shape[0])  # (H * W, C): a corner is one contiguous row
        for part_rows, part_columns in zip(rows.split(16384), columns.split(16384), strict=True):
            best = self._interpolate(pixels, part_rows, part_columns).argmax(dim=1)
            label[part_rows, part_columns] = best.to(torch.uint8)
        return label

    def _interpolate(self, pixels: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """(n, C) scores at n target pixels."""
        corner = self.row[rows] * self.source_width + self.column[columns]
        across = self.column_weight[columns][:, None]
        upper = torch.lerp(pixels[corner], pixels[corner + self.right], across)
        corner = corner + self.down * self.source_width
        lower = torch.lerp(pixels[corner], pixels[corner + self.right], across)
        return torch.lerp(upper, lower, self.row_weight[rows][:, None])


def _run(inside: torch.Tensor) -> slice:
    """The run of true values as a slice; a field of view is always one run."""
    places = inside.nonzero()[:, 0]
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)
