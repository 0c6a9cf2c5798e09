"""One HTML page out of plain blocks: cards, tables, figures, a viewer of scans. No network, no server."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup
from PIL import Image

from cps4_monai.atomic_file import write_atomically
from cps4_monai.report.viewer import Viewer

WEBP_QUALITY = 85
ROWS_AT_A_TIME = 200


@dataclass(frozen=True)
class Card:
    """One headline number: title, value, and a line below it."""

    title: str
    value: str
    note: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Cards:
    """Headline numbers in a row."""

    cards: Sequence[Card]
    template: str = field(default="cards", init=False)


@dataclass(frozen=True)
class Cell:
    """A table cell: text, what it is sorted by, tone ("", "best", "note", "muted", "warn", "bad"), colour, address."""

    text: str
    sort: float | str = ""
    tone: str = ""
    swatch: str = ""
    link: str = ""


@dataclass(frozen=True)
class Table:
    """A table sorted by a click on a column's head.

    On a narrow screen a table of numbers is pushed sideways past its first column; with ``words``, each row becomes a
    block of lines instead, so that no column is out of sight. ``filtered`` puts a line above it in which a reader types
    what the rows shown are to hold, and a box that leaves those with a cell of tone "warn" or "bad". Of more than
    ``ROWS_AT_A_TIME`` rows that many are shown at a time; sorting and filtering are over all of them.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    words: bool = False
    filtered: bool = False
    template: str = field(default="table", init=False)

    @property
    def rows_at_a_time(self) -> int:
        """Rows that are shown before a reader asks for more."""
        return ROWS_AT_A_TIME if len(self.rows) > ROWS_AT_A_TIME else len(self.rows)


@dataclass(frozen=True)
class Figure:
    """A picture (PNG bytes or an SVG element) with its title and caption.

    PNG is stored in the page as WebP, a tenth of its size; with an ``address`` (of a file, seen from the page) nothing
    is stored, and the file is loaded when a reader comes to it.
    """

    picture: bytes | str
    title: str = ""
    caption: str = ""
    alt: str = ""
    address: str = ""
    template: str = field(default="figure", init=False)

    @property
    def html(self) -> Markup:
        """The element itself, with the picture inside or with its address."""
        if self.address:
            return Markup('<img loading="lazy" alt="{}" src="{}">').format(self.alt or self.title, self.address)
        if isinstance(self.picture, bytes):
            buffer = io.BytesIO()
            Image.open(io.BytesIO(self.picture)).convert("RGB").save(buffer, "WEBP", quality=WEBP_QUALITY, method=2)
            data = base64.b64encode(buffer.getvalue()).decode("ascii")
            return Markup('<img loading="lazy" alt="{}" src="data:image/webp;base64,{}">').format(
                self.alt or self.title, data
            )
        return Markup(self.picture)  # made by report.charts, never by users


@dataclass(frozen=True)
class Gallery:
    """Figures that share the width, or, with ``fold``, each behind its title until it is opened."""

    figures: Sequence[Figure]
    fold: bool = False
    wide: bool = False
    template: str = field(default="gallery", init=False)


@dataclass(frozen=True)
class Text:
    """A paragraph; tone "" or "warn"."""

    text: str
    tone: str = ""
    template: str = field(default="text", init=False)


Block = Cards | Table | Figure | Gallery | Text | Viewer


@dataclass(frozen=True)
class Section:
    """A heading, one sentence, and its blocks."""

    title: str
    blocks: Sequence[Block]
    intro: str = ""

    @property
    def anchor(self) -> str:
        """Its place in the page's address."""
        return "".join(c if c.isalnum() else "-" for c in self.title.lower())


def number(value: float, digits: int = 3, *, missing: str = "–", tone: str = "") -> Cell:
    """A cell with a number that sorts by its value; NaN is shown as a dash and sorted last."""
    if value is None or math.isnan(value):
        return Cell(missing, -math.inf, "muted")
    return Cell(f"{value:.{digits}f}", value, tone)


def count(value: int, *, bad: bool = False) -> Cell:
    """A cell with a count; a zero is muted, and one that should be zero and is not stands out."""
    return Cell(str(int(value)), float(value), "muted" if not value else "bad" if bad else "")


def settings_table(settings: Mapping[str, Any]) -> Table:
    """Names and values of settings, in words: no underscores, quotes or brackets, and of a path its last part only."""
    rows = [[Cell(name.replace("_", " "), name), Cell(in_words(value))] for name, value in settings.items()]
    return Table(("setting", "value"), rows, words=True)


def in_words(value: Any) -> str:
    """A value for a reader: "yes", "none", "1.5, 1.5", "spider"; of a mapping how many entries it has."""
    if value is None or (isinstance(value, str | Sequence | Mapping) and not len(value)):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Path):
        return value.name
    if isinstance(value, Mapping):
        return f"{len(value)} entries"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(in_words, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def render_page(title: str, subtitle: str, sections: Sequence[Section], footer: str = "") -> str:
    """The page as text."""
    environment = Environment(
        loader=PackageLoader("cps4_monai.report"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    folder = resources.files("cps4_monai.report") / "templates"
    names = ["page", "viewer"] if any(isinstance(b, Viewer) for s in sections for b in s.blocks) else ["page"]
    style, script = (
        Markup("\n".join((folder / f"{name}.{kind}").read_text(encoding="utf-8") for name in names))
        for kind in ("css", "js")
    )
    return environment.get_template("page.html").render(
        title=title,
        subtitle=subtitle,
        sections=[section for section in sections if section.blocks],
        footer=footer,
        style=style,
        script=script,
    )


def write_page(path: str | Path, title: str, subtitle: str, sections: Sequence[Section], footer: str = "") -> Path:
    """Write the page; it is there whole or not at all.

    Args:
        path: the .html file; its folder is made.
        title: of the page.
        subtitle: one line below it.
        sections: those without blocks are left out.
        footer: a last line, e.g. versions and the data's attribution.
    """
    return write_atomically(path, render_page(title, subtitle, sections, footer))
