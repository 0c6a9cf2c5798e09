"""Label maps laid over slices, and the panels that pictures are put together from."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.text import Text

from cps4_monai.anatomy import NOT_ANNOTATED, Anatomy
from cps4_monai.data.label_file import structures_alone
from cps4_monai.palette import structure_colours
from cps4_monai.report.slab import outline

FILL = 0.38
UNKNOWN = 0.4  # brightness where nobody annotated, as a share of the scan's
PAPER = "#0f1216"  # pictures are dark, as radiologists view them
INK = "#e8eaed"


def blend_labels(image: np.ndarray, label: np.ndarray | None, colours: np.ndarray, fill: float = FILL) -> np.ndarray:
    """Grey slice with its structures tinted and outlined, and dark where nobody annotated.

    Args:
        image: (H, W) from 0 to 1.
        label: (H, W) codes, 255 where nobody annotated, or None for the bare image.
        colours: (C, 3) uint8 by code.
        fill: opacity inside a structure, 0 to 1; its outline is opaque.

    Returns:
        (H, W, 3) uint8.
    """
    grey = np.repeat((image * 255)[..., None], 3, axis=-1)
    if label is not None:
        grey[label == NOT_ANNOTATED] *= UNKNOWN
        label = structures_alone(label)
        opacity = np.where(label > 0, np.float32(fill), np.float32(0))
        opacity[(label > 0) & outline(label)] = 0.9
        grey += opacity[..., None] * (colours[label].astype(np.float32) - grey)
    return grey.astype(np.uint8)


def mid_slice(label: np.ndarray | None, num_slices: int) -> int:
    """Slice through the middle of what is labeled; the middle of the slab where nothing is."""
    label = None if label is None else structures_alone(label)
    if label is None or not label.any():
        return num_slices // 2
    area = np.count_nonzero(label.reshape(label.shape[0], -1), axis=1)
    return int(np.searchsorted(area.cumsum(), area.sum() / 2))


def structure_places(label: np.ndarray, num_classes: int) -> np.ndarray:
    """Where to write names: mean row, first and last column of each code, (C, 3), NaN where absent; label is (H, W)."""
    rows, columns = np.nonzero(structures_alone(label))
    codes = label[rows, columns].astype(np.int64)
    counts = np.bincount(codes, minlength=num_classes)
    first, last = np.full(num_classes, np.inf), np.full(num_classes, -np.inf)
    np.minimum.at(first, codes, columns)
    np.maximum.at(last, codes, columns)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_row = np.bincount(codes, weights=rows, minlength=num_classes) / counts
    places = np.stack([mean_row, first, last], axis=1)
    places[counts == 0] = np.nan
    return places


def show_slice(axes: Axes, rgb: np.ndarray, size_mm: tuple[float, float]) -> None:
    """Draw a slice with its true proportions; axes coordinates are millimetres from the top left corner."""
    height, width = size_mm
    axes.imshow(rgb, extent=(0, width, height, 0), interpolation="antialiased", cmap="gray", vmin=0, vmax=255)
    axes.set_axis_off()


def write_names(axes: Axes, label: np.ndarray, anatomy: Anatomy, size_mm: tuple[float, float], font: float = 8) -> None:
    """Write the name of each structure of a slice (H, W) at its level: vertebrae on the left, discs on the right."""
    height, width = size_mm
    mm_per_row, mm_per_column = height / label.shape[0], width / label.shape[1]
    places = structure_places(label, anatomy.num_classes)
    colours = structure_colours(anatomy) / 255
    for structure in anatomy.foreground:
        row, first, last = places[structure.code]
        if not np.isfinite(row):
            continue
        left = structure.kind in ("vertebra", "sacrum")
        level = (row + 0.5) * mm_per_row
        margin = -0.02 * width if left else 1.02 * width
        edge = first * mm_per_column if left else (last + 1) * mm_per_column
        colour = colours[structure.code]
        axes.plot([margin, edge], [level, level], color=colour, lw=0.6, alpha=0.45, ls=(0, (2, 3)), clip_on=False)
        axes.text(
            margin, level, structure.name, color=colour, fontsize=font, ha="right" if left else "left", va="center"
        )
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)


def dark_figure(width_inches: float, height_inches: float) -> Figure:
    """A figure for pictures, drawn without pyplot's global state, so from any thread."""
    figure = Figure(figsize=(width_inches, height_inches), facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def drawable(text: str, room: int) -> str:
    """The text in at most ``room`` characters (its middle is left out), a square for each that the font lacks."""
    if len(text) > room:
        text = f"{text[: room // 2]}…{text[len(text) - (room - 1) // 2 :]}"
    known = get_font(findfont(FontProperties())).get_charmap()
    return "".join(c if ord(c) in known else "\N{WHITE SQUARE}" for c in text)


def without_formulas(figure: Figure) -> Figure:
    """The figure, whose texts are no formulas: a name may hold dollar signs."""
    for written in figure.findobj(Text):
        written.set_parse_math(False)
    return figure


def to_png(figure: Figure, dpi: int = 100) -> bytes:
    """PNG file as bytes."""
    buffer = io.BytesIO()
    # Level 3 is as small as the default for these pictures, in a third of the time.
    without_formulas(figure).savefig(
        buffer, format="png", dpi=dpi, facecolor=figure.get_facecolor(), pil_kwargs={"compress_level": 3}
    )
    return buffer.getvalue()


def spread(num_slices: int, wanted: int) -> Sequence[int]:
    """At most ``wanted`` slice indices, evenly over the slab, without its outermost ones if there are enough."""
    if num_slices <= wanted:
        return list(range(num_slices))
    places: np.ndarray = np.round(np.linspace(0.5, num_slices - 1.5, wanted))
    return [int(place) for place in np.unique(places)]
