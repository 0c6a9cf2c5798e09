"""Attention maps of class prompts laid over their slice, as in the paper's figure 5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure

from cps4_monai.anatomy import MRSPINESEG, Anatomy
from cps4_monai.palette import structure_colours
from cps4_monai.report.overlay import INK, blend_labels, dark_figure, show_slice, to_png
from cps4_monai.report.slab import grey_window, in_window, outline
from cps4_monai.report.viewer import HEAT


def upsampled(attention: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Attention (C, h, w) to (C, H, W), bilinear with align_corners false, as the prompt map takes it (eq. 3)."""
    maps = torch.from_numpy(np.ascontiguousarray(attention, dtype=np.float32))[None]
    return torch.nn.functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)[0].numpy()


def heat_overlay(image: np.ndarray, attention: np.ndarray, target: np.ndarray | None = None) -> np.ndarray:
    """Grey slice with one attention map over it, more opaque where it is high.

    Args:
        image: (H, W) from 0 to 1.
        attention: (H, W) from 0 to 1, on an absolute scale, so that an absent class stays dark.
        target: (H, W) bool, where the label has the class; drawn as a white outline.

    Returns:
        (H, W, 3) uint8.
    """
    grey = np.repeat(image[..., None], 3, axis=-1)
    heat = colormaps[HEAT](attention)[..., :3]
    rgb: np.ndarray = grey * 0.75 * (1 - attention[..., None]) + heat * attention[..., None]
    if target is not None and target.any():
        rgb[outline(target) & target] = 1.0
    scaled: np.ndarray = np.clip(rgb, 0, 1) * 255
    return scaled.astype(np.uint8)


def _check_probabilities(maps: np.ndarray, num_classes: int) -> None:
    if maps.ndim != 3 or maps.shape[0] != num_classes or maps.min() < 0 or maps.max() > 1:
        raise ValueError(
            f"attention has the shape {maps.shape} and values {maps.min():g} to {maps.max():g}; expected "
            f"({num_classes}, h, w) from 0 to 1: give A, as PromptedVision.attention_maps makes it, not the logits"
        )


def _draw_scale(figure: Figure, wide: float, high: float) -> None:
    """The colours of A from 0 to 1 in the upper right corner of a figure of that size in inches."""
    ramp = np.linspace(0.0, 1.0, 64)[None]
    axes = figure.add_axes(((wide - 1.0) / wide, (high - 0.2) / high, 0.8 / wide, 0.09 / high))
    axes.imshow(colormaps[HEAT](ramp)[..., :3] * ramp[..., None], aspect="auto")
    axes.set_axis_off()
    for x, text, side in ((wide - 1.05, "A  0", "right"), (wide - 0.15, "1", "left")):
        figure.text(x / wide, (high - 0.16) / high, text, color=INK, fontsize=8, ha=side, va="center")


def attention_figure(
    image: np.ndarray,
    label: np.ndarray | None,
    attention: np.ndarray | Mapping[str, np.ndarray],
    names: Sequence[str],
    *,
    anatomy: Anatomy = MRSPINESEG,
    spacing_mm: tuple[float, float] = (1.0, 1.0),
    title: str = "",
) -> bytes:
    """One row per model: the slice with its label, then the attention map of each chosen prompt.

    Args:
        image: slice (H, W), any intensities.
        label: (H, W) codes, or None; then neither label panel nor outlines are drawn.
        attention: probabilities (C, h, w) in 0 to 1 by class code; or model title -> such an array, one row each.
        names: short names of the structures to show, e.g. ["L5", "L4/L5"].
        anatomy: names, codes and colours.
        spacing_mm: of the slice along H and W.
        title: written above the picture.

    Returns:
        PNG file.

    Raises:
        ValueError: an unknown name, or an attention array of other classes or a range outside 0 to 1.
    """
    codes = [anatomy.code_of(name) for name in names]
    rows = dict(attention) if isinstance(attention, Mapping) else {"": attention}
    for maps in rows.values():
        _check_probabilities(maps, anatomy.num_classes)
    image = in_window(image, grey_window(image))
    size_mm = (image.shape[0] * spacing_mm[0], image.shape[1] * spacing_mm[1])
    high = 3.0
    wide, side = high * min(max(size_mm[1] / size_mm[0], 0.3), 1.6), 0.34 if any(rows) else 0.08
    columns = 1 + len(codes)
    header = 0.62 if title else 0.34
    total, full_height = side + columns * (wide + 0.06) + 0.08, header + len(rows) * (high + 0.08)
    figure = dark_figure(total, full_height)
    if title:
        figure.text(0.1 / total, (full_height - 0.18) / full_height, title, color=INK, fontsize=10, va="center")
    _draw_scale(figure, total, full_height)
    for row, (model, maps) in enumerate(rows.items()):
        bottom = (full_height - header - (row + 1) * (high + 0.08) + 0.08) / full_height
        large = upsampled(maps, image.shape)
        panels = [("label" if label is not None else "image", blend_labels(image, label, structure_colours(anatomy)))]
        for name, code in zip(names, codes, strict=True):
            panels.append((name, heat_overlay(image, large[code], None if label is None else label == code)))
        for column, (panel_title, rgb) in enumerate(panels):
            left = (side + column * (wide + 0.06)) / total
            axes = figure.add_axes((left, bottom, wide / total, high / full_height))
            show_slice(axes, rgb, size_mm)
            if row == 0:
                axes.set_title(panel_title, color=INK, fontsize=9, pad=4)
        if model:
            middle = bottom + high / 2 / full_height
            figure.text(side / 2 / total, middle, model, color=INK, fontsize=9, rotation=90, ha="center", va="center")
    return to_png(figure)
