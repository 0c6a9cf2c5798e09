"""The network's in-plane grid: slices onto it, and the network's answer back to the scan's own pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from cps4_monai.data.resampling import AxisMap

MODES = ("spacing", "central_half")
EQUAL_SHARES = 1e-4  # of a pixel: codes whose shares differ by less are said to have equal ones


@dataclass(frozen=True)
class InPlane:
    """Geometry of the network's slices (paper page, row 14).

    ``mode="spacing"`` resamples to ``spacing_mm`` about the slice's centre, then crops or pads to ``size``; without a
    size the field of view is kept, without a spacing the scan's own is kept. ``mode="central_half"`` takes the central
    half along anterior-posterior and resizes it to ``size``. Pixel centres are aligned throughout, and labels move by
    the weights that move images, so that the way there and back shifts neither.

    >>> import torch
    >>> in_plane = InPlane(size=(256, 128), spacing_mm=1.2)
    >>> in_plane.image(torch.rand(15, 512, 512), spacing_mm_hw=(0.6, 0.6)).shape
    torch.Size([15, 256, 128])

    Attributes:
        size: (H, W) of the network's slices, or None.
        spacing_mm: pixel distance of the network's slices, or None.
        mode: "spacing" or "central_half".

    Raises:
        ValueError: a size or spacing that is not positive, an unknown mode, or "central_half" without a size.
    """

    size: tuple[int, int] | None = None
    spacing_mm: float | None = None
    mode: str = "spacing"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode is {self.mode!r}; expected one of {MODES}")
        if self.size is not None:
            size = tuple(int(n) for n in self.size)
            if len(size) != 2 or min(size) < 1:
                raise ValueError(f"size is {self.size}; expected two positive numbers (H, W)")
            object.__setattr__(self, "size", size)
        if self.spacing_mm is not None and not 0 < float(self.spacing_mm) < float("inf"):
            raise ValueError(f"spacing_mm is {self.spacing_mm}; expected a positive number of mm, or None")
        if self.mode == "central_half" and (self.size is None or self.spacing_mm is not None):
            raise ValueError(
                f"mode 'central_half' resizes to a size: size is {self.size}, spacing_mm is {self.spacing_mm}; "
                "give size and leave spacing_mm out"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for :meth:`from_dict` and cache keys."""
        return {**asdict(self), "size": None if self.size is None else list(self.size)}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> InPlane:
        """The inverse of :meth:`to_dict`."""
        size = settings.get("size")
        return cls(
            size=None if size is None else (int(size[0]), int(size[1])),
            spacing_mm=settings.get("spacing_mm"),
            mode=settings.get("mode", "spacing"),
        )

    def axis_maps(self, original_hw: Sequence[int], spacing_mm_hw: Sequence[float]) -> tuple[AxisMap, AxisMap]:
        """For H and W, where the network's pixels lie on the scan's slice.

        Args:
            original_hw: pixels of the scan's slices.
            spacing_mm_hw: pixel distance of the scan's slices, in mm.

        Raises:
            ValueError: not two positive numbers each.
        """
        if len(original_hw) != 2 or min(original_hw) < 1 or len(spacing_mm_hw) != 2 or not min(spacing_mm_hw) > 0:
            raise ValueError(
                f"slice of {tuple(original_hw)} pixels with spacing {tuple(spacing_mm_hw)} mm; expected two positive "
                "numbers each"
            )
        height, width = (
            self._axis(axis, int(n), float(mm))
            for axis, (n, mm) in enumerate(zip(original_hw, spacing_mm_hw, strict=True))
        )
        return height, width

    def _axis(self, axis: int, source: int, source_mm: float) -> AxisMap:
        if self.mode == "central_half":
            assert self.size is not None
            field = source if axis == 0 else source / 2
            step = field / self.size[axis]
            target = self.size[axis]
        else:
            step = 1.0 if self.spacing_mm is None else self.spacing_mm / source_mm
            target = max(1, round(source / step)) if self.size is None else self.size[axis]
        return AxisMap.about_the_centre(source, target, step)

    def network_spacing_mm(self, original_hw: Sequence[int], spacing_mm_hw: Sequence[float]) -> tuple[float, float]:
        """Pixel distance of the network's slices along H and W, in mm."""
        height, width = self.axis_maps(original_hw, spacing_mm_hw)
        return height.step * float(spacing_mm_hw[0]), width.step * float(spacing_mm_hw[1])

    def image(self, slices: torch.Tensor | np.ndarray, spacing_mm_hw: Sequence[float]) -> torch.Tensor:
        """Slices (D, H0, W0) to (D, H, W), float32: linear, antialiased where it shrinks, 0 outside the scan."""
        slices = _tensor(slices)
        height, width = self.axis_maps(slices.shape[-2:], spacing_mm_hw)
        rows = height.linear_matrix().to(slices.device)
        columns = width.linear_matrix().to(slices.device)
        return torch.stack([rows @ (image.float() @ columns.T) for image in slices])

    def label(self, slices: torch.Tensor | np.ndarray, spacing_mm_hw: Sequence[float]) -> torch.Tensor:
        """Label slices (D, H0, W0) to (D, H, W), type kept, 0 outside the scan.

        Each pixel gets the code with the largest share: every code's mask is resampled as :meth:`image` resamples a
        slice, 255 (nobody annotated) among them. Of codes with equal shares background loses, and of structures the one
        with the fewest pixels in the slice wins: a disc over a vertebra, on either side of it alike. The nearest pixel
        would not do: of two equally near, as at a ratio of 2 everywhere, it is always the one on the same side.
        """
        slices = _tensor(slices)
        return _largest_share(slices, *self.axis_maps(slices.shape[-2:], spacing_mm_hw))

    def restore_label(
        self, label: torch.Tensor | np.ndarray, original_hw: Sequence[int], spacing_mm_hw: Sequence[float]
    ) -> torch.Tensor:
        """Labels on the network's grid (D, H, W) to the scan's (D, H0, W0), by the rule of :meth:`label`.

        Background outside the crop.
        """
        height, width = self.axis_maps(original_hw, spacing_mm_hw)
        label = _tensor(label)
        self._check_grid(label.shape[-2:], height, width)
        return _largest_share(label, height.inverse(), width.inverse())

    @staticmethod
    def _check_grid(grid: Sequence[int], height: AxisMap, width: AxisMap) -> None:
        if tuple(grid) != (height.target_size, width.target_size):
            raise ValueError(
                f"slices of {tuple(grid)} pixels; expected {(height.target_size, width.target_size)}, which these "
                "settings make of the scan: use the settings of the forward pass"
            )


def _tensor(slices: torch.Tensor | np.ndarray) -> torch.Tensor:
    if not isinstance(slices, torch.Tensor):
        slices = torch.from_numpy(np.ascontiguousarray(slices))
    if slices.ndim != 3:
        raise ValueError(f"slices have shape {tuple(slices.shape)}; expected (D, H, W)")
    return slices


def _largest_share(slices: torch.Tensor, height: AxisMap, width: AxisMap) -> torch.Tensor:
    inside = (height.inside()[:, None] & width.inside()[None]).to(slices.device)
    if height.copies() and width.copies():
        picked = slices[:, height.nearest().to(slices.device)][:, :, width.nearest().to(slices.device)]
    else:
        rows, columns = (axis.linear_matrix().to(slices.device) for axis in (height, width))
        picked = torch.stack([_largest_share_of_slice(label, rows, columns) for label in slices])
    return picked.masked_fill_(~inside, 0)


def _largest_share_of_slice(label: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    codes, pixels = label.unique(return_counts=True)
    codes = codes[pixels.masked_fill(codes == 0, label.numel()).argsort(stable=True)]
    shares = rows @ (label == codes[:, None, None]).float() @ columns.T
    # Equal shares differ by rounding: more than that is taken from all but the first.
    shares -= EQUAL_SHARES * torch.linspace(0, 1, len(codes), device=label.device)[:, None, None]
    winner: torch.Tensor = codes[shares.argmax(dim=0)]
    return winner
