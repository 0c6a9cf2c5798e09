"""The blocks of a report page as Markdown, with its pictures as files beside it."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from cps4_monai.atomic_file import write_atomically
from cps4_monai.report.charts import on_white
from cps4_monai.report.page import WEBP_QUALITY, Block, Cards, Cell, Figure, Gallery, Section, Table, Text

MAX_WIDTH = 1000  # pixels; these pages are kept in a repository, whose history keeps every picture that it had
SHOWN = 2  # pictures of a gallery, likewise; the HTML page has all of them


class MarkdownPage:
    """Writes sections as one Markdown file and a folder of pictures with the file's name.

    Charts are all there; of a gallery the first pictures, smaller, and the others in words.

    Args:
        path: the ``.md`` file; pictures go to a folder beside it that has its name without the ending.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.pictures = self.path.with_suffix("")
        self._names: dict[str, int] = {}

    def write(self, title: str, header: Sequence[str], sections: Sequence[Section], footer: str = "") -> Path:
        """Writes the page.

        Args:
            title: of the page.
            header: paragraphs below it.
            sections: those without blocks are left out.
            footer: a last paragraph.
        """
        parts = [f"# {title}", *header]
        for section in sections:
            if section.blocks:
                parts += [f"## {section.title}", *([_text(section.intro)] if section.intro else [])]
                parts += [text for block in section.blocks for text in self._block(block)]
        text = "\n\n".join([*parts, *([footer] if footer else [])]) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, text)
        return self.path

    def _block(self, block: Block) -> list[str]:
        if isinstance(block, Text):
            return [f"**{_text(block.text)}**" if block.tone == "warn" else _text(block.text)]
        if isinstance(block, Table):
            return [*([_text(block.caption)] if block.caption else []), _table(block.columns, block.rows)]
        if isinstance(block, Cards):
            rows = [[Cell(c.title), Cell(c.value, tone="best" if c.strong else ""), Cell(c.note)] for c in block.cards]
            return [_table(("", "value", ""), rows)]
        if isinstance(block, Figure):
            return self._figure(block)
        if isinstance(block, Gallery):
            return self._gallery(block.figures)
        raise TypeError(f"block is a {type(block).__name__}; expected one of cps4_monai.report.page")

    def _gallery(self, figures: Sequence[Figure]) -> list[str]:
        """The first pictures; the others by what is said of them."""
        parts = [text for figure in figures[:SHOWN] for text in self._figure(figure)]
        others = [f"- {_text(f'{f.title or f.alt}: {f.caption}'.rstrip(': '))}" for f in figures[SHOWN:]]
        return (
            [*parts, f"Not shown here, on the HTML page of the same report:\n\n{chr(10).join(others)}"]
            if others
            else parts
        )

    def _figure(self, figure: Figure) -> list[str]:
        title = figure.title or figure.alt or "figure"
        stem = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "figure"
        self._names[stem] = self._names.get(stem, 0) + 1
        stem = stem if self._names[stem] == 1 else f"{stem}-{self._names[stem]}"
        if isinstance(figure.picture, bytes):
            name = f"{stem}.webp"
            image = Image.open(io.BytesIO(figure.picture)).convert("RGB")
            image.thumbnail((MAX_WIDTH, MAX_WIDTH))
            content = io.BytesIO()
            image.save(content, "WEBP", quality=WEBP_QUALITY)
            write_atomically(self.pictures / name, content.getvalue())
        else:
            name = f"{stem}.svg"
            write_atomically(self.pictures / name, on_white(figure.picture))
        link = f"![{_text(figure.alt or title)}]({self.pictures.name}/{name})"
        head = [f"**{_text(figure.title)}**"] if figure.title else []
        return [*head, link, *([_text(figure.caption)] if figure.caption else [])]


def _table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    lines = [columns, ["---"] * len(columns), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(map(_text, line)) + " |" for line in lines)


def _cell(cell: Cell) -> str:
    return f"**{cell.text}**" if cell.tone == "best" and cell.text else cell.text


def _text(text: str) -> str:
    """One line that no table is broken by, and that holds no tags."""
    return re.sub(r"<(?=[A-Za-z/!])", r"\\<", " ".join(text.split()).replace("|", "\\|"))
