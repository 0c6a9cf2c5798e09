"""Linear resampling along one axis as a matrix: pixel centres aligned, antialiased where it shrinks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch


@dataclass(frozen=True)
class AxisMap:
    """Where the pixels of a target axis lie on a source axis: ``source = start + step * target``, in pixel indices.

    >>> axis = AxisMap(source_size=4, target_size=2, start=0.5, step=2.0)
    >>> axis.positions().tolist(), axis.inverse().positions().tolist()
    ([0.5, 2.5], [-0.25, 0.25, 0.75, 1.25])

    Attributes:
        source_size: pixels of the source axis.
        target_size: pixels of the target axis.
        start: source index (a real number) of target pixel 0.
        step: source pixels per target pixel, above 0.
    """

    source_size: int
    target_size: int
    start: float
    step: float

    @classmethod
    def about_the_centre(cls, source_size: int, target_size: int, step: float) -> AxisMap:
        """The map under which the centres of both axes meet."""
        return cls(source_size, target_size, (source_size - 1) / 2 - step * (target_size - 1) / 2, step)

    def inverse(self) -> AxisMap:
        """The same line, asked the other way round."""
        return AxisMap(self.target_size, self.source_size, -self.start / self.step, 1.0 / self.step)

    def positions(self) -> torch.Tensor:
        """(target_size,) source index of each target pixel, float64."""
        return self.start + self.step * torch.arange(self.target_size, dtype=torch.float64)

    def inside(self) -> torch.Tensor:
        """(target_size,) whether the pixel's centre lies on the source's field of view."""
        positions = self.positions()
        return (positions >= -0.5) & (positions <= self.source_size - 0.5)

    def nearest(self) -> torch.Tensor:
        """(target_size,) index of the nearest source pixel, clamped to the field of view."""
        # The upper one of two equally near pixels, always: rounding half to even would make a comb.
        return torch.floor(self.positions() + 0.5).long().clamp_(0, self.source_size - 1)

    def copies(self) -> bool:
        """Whether each target pixel lies on one source pixel, up to a thousandth: nothing is to be interpolated."""
        positions = self.positions()
        return abs(self.step - 1) < 1e-6 and bool((positions - positions.round()).abs().max() < 1e-3)

    def linear_matrix(self) -> torch.Tensor:
        """(target_size, source_size) weights of linear interpolation, float32; each row sums to 1 inside.

        Where the axis shrinks (step above 1), the interpolated line is averaged over a window, which is antialiasing:
        sqrt(2 (step^2 - 1)) pixels wide, so that the kernel has the variance of the usual triangle of that step, but
        keeps a ramp where it is. Rows of pixels outside the field of view are zero. All slices of a scan, and scans of
        one geometry, share one tensor: not to be written to.
        """
        return _linear_matrix(self)

    def linear_pair(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Index of the lower of the two neighbours (target_size,), and the weight of the upper one, float32."""
        positions = self.positions().clamp(0.0, self.source_size - 1.0)
        low = torch.floor(positions).long().clamp_(0, max(0, self.source_size - 2))
        return low, (positions - low).float()


@lru_cache(maxsize=32)  # two axes of a scan, of as many scans of different geometry as are read at a time
def _linear_matrix(axis: AxisMap) -> torch.Tensor:
    source = torch.arange(axis.source_size, dtype=torch.float64)
    away = axis.positions().clamp(0.0, axis.source_size - 1.0)[:, None] - source[None]
    window = math.sqrt(2 * max(0.0, axis.step**2 - 1))
    if window < 1e-3:
        weights = (1 - away.abs()).clamp_(min=0)
    else:
        weights = _hat_integral(away + window / 2) - _hat_integral(away - window / 2)
    weights /= weights.sum(dim=1, keepdim=True)
    weights *= axis.inside()[:, None]
    return weights.float()


def _hat_integral(x: torch.Tensor) -> torch.Tensor:
    """Integral from minus infinity to x of the hat function max(0, 1 - |t|)."""
    x = x.clamp(-1.0, 1.0)
    return torch.where(x < 0, (1 + x) ** 2 / 2, 1 - (1 - x) ** 2 / 2)


def field_of_view(height: AxisMap, width: AxisMap) -> tuple[int, int, int, int] | None:
    """(first H, end H, first W, end W) of the target grid that shows the source; None where they do not meet."""
    rows, columns = (axis.inside().nonzero()[:, 0].tolist() for axis in (height, width))
    return (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) if rows and columns else None
