"""Pictures of one scan: a sagittal mosaic for quality control, and label beside prediction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from cps4_monai.anatomy import MRSPINESEG, Anatomy
from cps4_monai.levels.flags import names_are_trusted
from cps4_monai.palette import structure_colours
from cps4_monai.report.overlay import (
    INK,
    blend_labels,
    dark_figure,
    drawable,
    mid_slice,
    show_slice,
    spread,
    to_png,
    write_names,
)
from cps4_monai.report.slab import Slab, sagittal_slab

DPI, DPI_OF_ROWS = 100, 90
SMALL_SLICES, COLUMNS = 10, 9  # beside the large slice at most; of slices that are compared up and down
PANEL_HEIGHT = 5.6  # inches
NAME_MARGIN = 0.72  # inches for the names on each side
MAX_ASPECT = (0.35, 1.6)
CHARACTERS_PER_INCH = 11  # of the header


def _panel_width(slab: Slab, height: float) -> float:
    """Inches that a slice of the given height takes, within reason for very wide or narrow fields of view."""
    return height * float(np.clip(slab.size_mm[1] / slab.size_mm[0], *MAX_ASPECT))


def sagittal_mosaic(
    image: np.ndarray,
    label: np.ndarray | None,
    affine: np.ndarray,
    anatomy: Anatomy = MRSPINESEG,
    *,
    title: str = "",
    alarms: Sequence[str] = (),
) -> bytes:
    """One picture to judge a segmentation by: the middle slice large with names at their level, others beside it.

    Names are left out under an alarm that says that they mean nothing
    (:func:`cps4_monai.levels.flags.names_are_trusted`).

    Args:
        image: (X, Y, Z) scan, any orientation and intensities.
        label: (X, Y, Z) codes of the anatomy, or None for the bare scan.
        affine: 4 x 4, voxel indices to RAS+ mm.
        anatomy: names and colours.
        title: written above the picture.
        alarms: written above it in amber, e.g. "level_ambiguous".

    Returns:
        PNG file.

    Raises:
        ValueError: image and label of other shapes.
    """
    slab = sagittal_slab(image, {} if label is None else {"label": label}, affine)
    codes, colours = slab.labels.get("label"), structure_colours(anatomy)
    middle, shown = mid_slice(codes, slab.depth), spread(slab.depth, SMALL_SLICES)
    columns = (len(shown) + 1) // 2 if len(shown) > 1 else 0
    large = _panel_width(slab, PANEL_HEIGHT)
    small = _panel_width(slab, PANEL_HEIGHT / 2)
    width, header = 2 * NAME_MARGIN + large + columns * (small + 0.04) + 0.1, 0.42
    figure = dark_figure(width, PANEL_HEIGHT + header + 0.1)
    full_height = PANEL_HEIGHT + header + 0.1

    def panel(left: float, bottom: float, wide: float, high: float, index: int) -> Axes:
        axes = figure.add_axes((left / width, bottom / full_height, wide / width, high / full_height))
        rgb = blend_labels(slab.image(index), None if codes is None else codes[index], colours)
        show_slice(axes, rgb, slab.size_mm)
        return axes

    axes = panel(NAME_MARGIN, 0.1, large, PANEL_HEIGHT, middle)
    if codes is not None and names_are_trusted(alarms):
        write_names(axes, codes[middle], anatomy, slab.size_mm)
    for place, index in enumerate(shown if columns else ()):
        left = 2 * NAME_MARGIN + large + (place % columns) * (small + 0.04)
        bottom = 0.1 + (PANEL_HEIGHT / 2 if place < columns else 0)
        axes = panel(left, bottom, small, PANEL_HEIGHT / 2 - 0.04, index)
        axes.text(3, 3, str(index + 1), color=INK, fontsize=7, va="top", alpha=0.8)
    top, flagged = (full_height - 0.24) / full_height, "   ".join(alarms)
    named = drawable(title, max(16, int(width * CHARACTERS_PER_INCH) - len(flagged)))
    figure.text(0.12 / width, top, named, color=INK, fontsize=10, va="center", ha="left")
    figure.text(1 - 0.12 / width, top, flagged, color="#ffb454", fontsize=10, va="center", ha="right")
    return to_png(figure, DPI)


def side_by_side(slab: Slab, anatomy: Anatomy = MRSPINESEG, *, index: int | None = None) -> bytes:
    """The bare slice, then each label map of the slab on it, names at their level.

    Args:
        slab: scan and label maps, e.g. ``{"label": ..., "prediction": ...}``.
        anatomy: names and colours.
        index: slice; None: the middle of the first label map.

    Returns:
        PNG file.
    """
    colours = structure_colours(anatomy)
    first = next(iter(slab.labels.values()), None)
    index = mid_slice(first, slab.depth) if index is None else index
    high, wide, header = 4.6, _panel_width(slab, 4.6), 0.34
    widths = [0.1 + wide] + [wide + 2 * NAME_MARGIN] * len(slab.labels)
    figure = dark_figure(sum(widths), high + header + 0.08)
    total, full_height = sum(widths), high + header + 0.08
    left = 0.1
    for title, label in [("image", None), *slab.labels.items()]:
        left += NAME_MARGIN if label is not None else 0.0
        axes = figure.add_axes((left / total, 0.08 / full_height, wide / total, high / full_height))
        show_slice(
            axes, blend_labels(slab.image(index), None if label is None else label[index], colours), slab.size_mm
        )
        if label is not None:
            write_names(axes, label[index], anatomy, slab.size_mm, font=7.5)
        axes.set_title(title, color=INK, fontsize=9, pad=5)
        left += wide + (NAME_MARGIN if label is not None else 0.0)
    return to_png(figure, DPI)


def slice_rows(slab: Slab, anatomy: Anatomy = MRSPINESEG) -> bytes:
    """A mosaic with one row per label map and one column per slice, so that slices can be compared up and down.

    There are nine columns at most, evenly over the slab.

    Args:
        slab: scan and label maps.
        anatomy: colours.

    Returns:
        PNG file.
    """
    colours, shown = structure_colours(anatomy), spread(slab.depth, COLUMNS)
    high, wide, gap, side = 2.5, _panel_width(slab, 2.5), 0.04, 0.3
    rows: list[tuple[str, np.ndarray | None]] = list(slab.labels.items()) or [("image", None)]
    total, full_height = side + len(shown) * (wide + gap) + 0.06, len(rows) * (high + gap) + 0.06
    figure = dark_figure(total, full_height)
    for row, (title, label) in enumerate(rows):
        bottom = full_height - 0.03 - (row + 1) * (high + gap)
        for column, index in enumerate(shown):
            left = side + column * (wide + gap)
            axes = figure.add_axes((left / total, bottom / full_height, wide / total, high / full_height))
            show_slice(
                axes, blend_labels(slab.image(index), None if label is None else label[index], colours), slab.size_mm
            )
            axes.text(3, 3, str(index + 1), color=INK, fontsize=7, va="top", alpha=0.8)
        figure.text(
            side / 2 / total,
            (bottom + high / 2) / full_height,
            title,
            color=INK,
            fontsize=9,
            rotation=90,
            ha="center",
            va="center",
        )
    return to_png(figure, DPI_OF_ROWS)
