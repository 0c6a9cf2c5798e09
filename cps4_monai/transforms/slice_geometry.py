"""Rotation, scaling, shift and elastic deformation of a slice, in one resampling."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandAffineGrid, RandDeformGrid, RandomizableTransform
from monai.utils import convert_to_tensor
from torch.nn import functional as F

from cps4_monai.transforms.ranges import check_numbers

OUTSIDE = 3.0  # a coordinate beyond the border of [-1, 1] by more than a pixel of any slice


class RandSliceGeometryd(RandomizableTransform, MapTransform):
    """Moves a slice and its label map by one random grid, made by MONAI's affine and deformation grids.

    Affine and elastic parts share one ``grid_sample``: bilinear for images, nearest for label maps, 0 outside. The grid
    is kept under ``grid_key`` (H, W, 2): for each pixel of the result the place (x, y) it came from, in [-1, 1] with
    ``align_corners=False``; it is there whether or not anything was moved.

    >>> item = {"image": torch.rand(1, 64, 32), "label": torch.randint(0, 20, (1, 64, 32), dtype=torch.uint8)}
    >>> moved = RandSliceGeometryd(["image", "label"]).set_random_state(seed=1)(item)
    >>> moved["label"].dtype, moved["grid"].shape
    (torch.uint8, torch.Size([64, 32, 2]))

    Args:
        keys: items of (1, H, W); missing ones are passed over.
        label_keys: those among ``keys`` that hold codes.
        rotate_deg: rotation is drawn from plus or minus this, in degrees.
        scale: relative change of size is drawn from plus or minus this, in 0 to 1.
        translate_pixels: shift along H and W is drawn from plus or minus this, in pixels.
        affine_prob: share of slices that are rotated, scaled and shifted.
        elastic_spacing: distance of the control points of the elastic part along H and W, in pixels.
        elastic_magnitude: standard deviation of their displacement is drawn from this range, in pixels.
        elastic_prob: share of slices that are deformed elastically.
        flip_prob: share of slices that are mirrored along H and W; none by default, a mirrored spine does not exist.
        cut: at each of the four borders up to this share of the side is left out of view, in 0 to below 0.5: image and
            label map are 0 there, as outside the scan. Another scanner's smaller field of view.
        cut_prob: share of slices with such a smaller field of view.
        grid_key: where the grid is kept.

    Raises:
        ValueError: a probability outside 0 to 1, a scale outside 0 to 1 (1 excluded), a cut outside 0 to 0.5, or a
            rotation, shift, spacing or magnitude that means nothing, as a spacing of 0 pixels.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_keys: Sequence[str] = ("label",),
        rotate_deg: float = 15.0,
        scale: float = 0.15,
        translate_pixels: Sequence[float] = (8.0, 8.0),
        affine_prob: float = 0.9,
        elastic_spacing: Sequence[int] = (24, 24),
        elastic_magnitude: tuple[float, float] = (0.5, 2.0),
        elastic_prob: float = 0.3,
        flip_prob: Sequence[float] = (0.0, 0.0),
        cut: float = 0.0,
        cut_prob: float = 0.0,
        grid_key: str = "grid",
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys=True)
        RandomizableTransform.__init__(self, 1.0)
        for name, prob in {"affine_prob": affine_prob, "elastic_prob": elastic_prob, "cut_prob": cut_prob}.items():
            check_numbers(f"geometry's {name}", prob, 0, 1, count=1)
        check_numbers("geometry's flip_prob (along H, W)", flip_prob, 0, 1)
        check_numbers("geometry's rotate_deg", rotate_deg, 0, 180, count=1)
        check_numbers("geometry's translate_pixels (along H, W)", translate_pixels, 0)
        pixels = elastic_spacing
        if isinstance(pixels, list | tuple):  # 24.0 is 24 here
            pixels = [int(s) if isinstance(s, float) and s.is_integer() else s for s in pixels]
        check_numbers("geometry's elastic_spacing (pixels along H, W)", pixels, 1, whole=True)
        check_numbers("geometry's elastic_magnitude (pixels)", elastic_magnitude, 0)
        if not 0 <= scale < 1:
            raise ValueError(f"scale is {scale}; expected 0 to below 1")
        if not 0 <= cut < 0.5:
            raise ValueError(f"cut is {cut}; expected 0 to below 0.5, the share of a side left out at each border")
        self.label_keys = set(label_keys)
        self.affine_prob, self.elastic_prob, self.flip_prob = affine_prob, elastic_prob, tuple(flip_prob)
        self.cut, self.cut_prob, self.grid_key = cut, cut_prob, grid_key
        self.elastic_spacing = tuple(int(s) for s in elastic_spacing)
        # MONAI takes scale as an addition to 1, and (min, max) pairs per axis.
        self.affine_grid = RandAffineGrid(
            rotate_range=[math.radians(rotate_deg)],
            scale_range=[(-scale, scale)],
            translate_range=[float(t) for t in translate_pixels],
        )
        self.deform_grid = RandDeformGrid(self.elastic_spacing, elastic_magnitude)
        self._do_affine = self._do_elastic = False
        self._flips = (False, False)
        self._cuts: np.ndarray | None = None

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandSliceGeometryd:
        super().set_random_state(seed, state)
        self.affine_grid.set_random_state(state=self.R)
        self.deform_grid.set_random_state(state=self.R)
        return self

    def randomize(self, data: Any = None) -> None:
        super().randomize(None)
        draws = self.R.uniform(size=4)
        self._do_affine, self._do_elastic = bool(draws[0] < self.affine_prob), bool(draws[1] < self.elastic_prob)
        self._flips = (bool(draws[2] < self.flip_prob[0]), bool(draws[3] < self.flip_prob[1]))
        self._cuts = None
        if self.cut > 0 and self.R.uniform() < self.cut_prob:
            self._cuts = self.R.uniform(0, self.cut, size=(2, 2))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        first = d[self.first_key(d)]
        self.randomize()
        grid = self.draw_grid(tuple(first.shape[-2:]))
        d[self.grid_key] = grid
        if not (self._do_affine or self._do_elastic or any(self._flips) or self._cuts is not None):
            return d
        for key in self.key_iterator(d):
            d[key] = self._resample(convert_to_tensor(d[key], track_meta=False), grid, key in self.label_keys)
        return d

    def draw_grid(self, size: tuple[int, int]) -> torch.Tensor:
        """(H, W, 2) sampling grid for the drawn parts, x before y, in [-1, 1] with ``align_corners=False``."""
        centred = self._elastic(size) if self._do_elastic else _identity(size)
        if self._do_affine:
            self.affine_grid.randomize()
            centred = self._affine() @ centred.reshape(3, -1)
        y, x = centred[:2].reshape(2, *size)
        y, x = (-axis if flip else axis for axis, flip in zip((y, x), self._flips, strict=True))
        grid = torch.stack([x * (2 / size[1]), y * (2 / size[0])], dim=-1)
        return grid if self._cuts is None else self._narrow(grid)

    def _narrow(self, grid: torch.Tensor) -> torch.Tensor:
        """Points that come from beyond the smaller field of view are sent outside the slice, where all is 0."""
        assert self._cuts is not None
        low, high = (torch.tensor(self._cuts[::-1].copy(), dtype=grid.dtype) * 2).unbind(-1)  # x before y
        inside = ((grid >= low - 1) & (grid <= 1 - high)).all(dim=-1, keepdim=True)
        return torch.where(inside, grid, OUTSIDE)

    def _affine(self) -> torch.Tensor:
        self.affine_grid.scale_params = (self.affine_grid.scale_params or [1.0]) * 2  # one factor for both axes
        # Lazily, MONAI gives the matrix alone: its own multiplication goes through a MetaTensor.
        self.affine_grid(spatial_size=(1, 1), randomize=False, lazy=True)
        matrix = self.affine_grid.get_transformation_matrix()
        assert matrix is not None
        return matrix.float()

    def _elastic(self, size: tuple[int, int]) -> torch.Tensor:
        # Only the displacements are upsampled: bicubic weights would put ripples into the coordinates themselves.
        self.deform_grid.randomize([-(-n // pixels) + 4 for n, pixels in zip(size, self.elastic_spacing, strict=True)])
        control = torch.from_numpy(self.deform_grid.rand_mag * self.deform_grid.random_offset).float()
        spacing = [float(s) for s in self.elastic_spacing]
        dense = F.interpolate(control[None], scale_factor=spacing, mode="bicubic", align_corners=False)[0]
        top, left = ((have - want) // 2 for have, want in zip(dense.shape[-2:], size, strict=True))
        grid = _identity(size)
        grid[:2] += dense[:, top : top + size[0], left : left + size[1]]
        return grid

    @staticmethod
    def _resample(item: torch.Tensor, grid: torch.Tensor, is_label: bool) -> torch.Tensor:
        mode = "nearest" if is_label else "bilinear"
        moved = F.grid_sample(item[None].float(), grid[None], mode=mode, padding_mode="zeros", align_corners=False)[0]
        return moved.to(item.dtype)


def _identity(size: tuple[int, int]) -> torch.Tensor:
    """(3, H, W) pixel coordinates about the centre, and ones: the form of MONAI's grids."""
    y, x = (torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in size)
    grid = torch.ones(3, *size)
    grid[0], grid[1] = y[:, None], x[None]
    return grid
