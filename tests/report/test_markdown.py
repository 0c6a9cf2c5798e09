"""Report blocks as Markdown."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from cps4_monai.report.markdown import MarkdownPage
from cps4_monai.report.page import Card, Cards, Cell, Figure, Gallery, Section, Table, Text


def png(width: int = 4) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, 3), "red").save(buffer, "PNG")
    return buffer.getvalue()


def test_every_kind_of_block_has_its_form(tmp_path: Path) -> None:
    blocks = [
        Text("plain | text"),
        Text("careful", "warn"),
        Text("CPS4 <no gate>, p < 0.001, <= 3"),
        Cards([Card("Dice", "0.5", "of seven", strong=True)]),
        Table(("a", "b|c"), [[Cell("1"), Cell("2", tone="best")]], "A caption."),
        Figure("<svg viewBox='0 0 1 1'><g/></svg>", "A chart", "Below."),
        Gallery([Figure(png(), "Case 1"), Figure(png(3000), "Case 1")]),
    ]
    path = MarkdownPage(tmp_path / "page.md").write("Title", ["Head."], [Section("One", blocks, "Intro.")], "Foot.")
    text = path.read_text()
    assert text.startswith("# Title\n\nHead.\n\n## One\n\nIntro.\n\nplain \\| text\n\n**careful**\n\n")
    assert "CPS4 \\<no gate>, p < 0.001, <= 3" in text, "no title is swallowed as a tag"
    assert "| a | b\\|c |\n| --- | --- |\n| 1 | **2** |" in text and "| Dice | **0.5** | of seven |" in text
    assert "**A chart**\n\n![A chart](page/a-chart.svg)\n\nBelow." in text and text.endswith("\n\nFoot.\n")
    assert "(page/case-1.webp)" in text and "(page/case-1-2.webp)" in text, "two pictures of one title"
    assert Image.open(tmp_path / "page" / "case-1-2.webp").width == 1000
    assert "<svg viewBox='0 0 1 1'><rect width=\"100%\"" in (tmp_path / "page" / "a-chart.svg").read_text()


def test_of_a_gallery_two_pictures_are_kept_and_the_others_are_told(tmp_path: Path) -> None:
    figures = [Figure(png(), f"Case {number}", f"Dice 0.{number}") for number in range(1, 5)]
    text = MarkdownPage(tmp_path / "page.md").write("Title", [], [Section("One", [Gallery(figures)])]).read_text()
    assert sorted(file.name for file in (tmp_path / "page").iterdir()) == ["case-1.webp", "case-2.webp"]
    assert text.endswith("the HTML page of the same report:\n\n- Case 3: Dice 0.3\n- Case 4: Dice 0.4\n")


def test_empty_sections_are_left_out(tmp_path: Path) -> None:
    text = MarkdownPage(tmp_path / "page.md").write("Title", [], [Section("Empty", [])]).read_text()
    assert text == "# Title\n" and not (tmp_path / "page").exists()
