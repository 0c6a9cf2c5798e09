from __future__ import annotations

import math
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.evaluation.folder import Evaluation
from cps4_monai.inference.outcome import ScanOutcome
from cps4_monai.inference.run_report import run_report
from cps4_monai.metrics.tables import CASE_COLUMNS, STRUCTURE_COLUMNS, SUMMARY_COLUMNS
from cps4_monai.report.evaluation_report import ReportContent, _failures
from cps4_monai.report.file_names import common_folder, without_folder
from cps4_monai.report.page import (
    Card,
    Cards,
    Cell,
    Figure,
    Section,
    Table,
    Text,
    count,
    number,
    render_page,
    settings_table,
    write_page,
)

PNG = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x02\x00\x00\x00\x90wS\xde"
    b"\x00\x00\x00\x0cIDATx\x9cc\xf8\xcf\xc0\x00\x00\x03\x01\x01\x00\xc9\xfe\x92\xef\x00\x00\x00\x00IEND\xaeB`\x82"
)


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href") and value]


def _page(*blocks):
    return render_page("A title", "", [Section("One", blocks), Section("Empty", [])])


def test_page_needs_nothing_from_elsewhere():
    parser = _Links()
    parser.feed(_page(Figure(PNG, "scan"), Text("words")))
    assert parser.links == ["#one", parser.links[1]]
    assert parser.links[1].startswith("data:image/webp;base64,")


def test_sections_without_blocks_are_left_out():
    assert "Empty" not in _page(Text("words"))


def test_names_are_escaped_and_charts_are_not():
    page = _page(
        Table(("<b>",), [[Cell("<script>alert(1)</script>")]]), Figure("<svg><g/></svg>"), Cards([Card("a&b", "1")])
    )
    assert "<script>alert" not in page and "<svg><g/></svg>" in page and "a&amp;b" in page


def test_cells_sort_by_value_and_missing_ones_are_dashes():
    assert number(0.12345).text == "0.123" and number(0.12345).sort == 0.12345
    assert number(math.nan).text == "–" and number(math.nan).sort == -math.inf
    assert count(0, bad=True).tone == "muted" and count(2, bad=True).tone == "bad"
    assert 'data-sort="0.5"' in _page(Table(("x",), [[number(0.5)]]))


def test_settings_are_words_and_name_no_folder():
    shown = {
        "spacing_mm": 1.5,
        "size": [512, 256],
        "amp": True,
        "share": None,
        "who": [],
        "path": Path("/home/me/x.pt"),
    }
    rows = settings_table({**shown, "thresholds": {"a": 1, "b": 2}}).rows
    assert {name.text: value.text for name, value in rows} == {
        "spacing mm": "1.5",
        "size": "512, 256",
        "amp": "yes",
        "share": "none",
        "who": "none",
        "path": "x.pt",
        "thresholds": "2 entries",
    }


def test_columns_of_words_are_named_in_each_row_for_narrow_screens():
    rows = [[Cell("a"), Cell("–")]]
    assert 'data-column="alarms"' in _page(Table(("scan", "alarms"), rows, words=True))
    assert "data-column" not in _page(Table(("scan", "alarms"), rows)).split("<main>")[1]


def test_files_are_named_from_the_folder_they_share(tmp_path):
    root = common_folder([tmp_path / "in" / "a.nii.gz", tmp_path / "in" / "sub" / "b.nii.gz"])
    assert root == tmp_path / "in"
    assert (
        without_folder(f"{tmp_path}/in/sub/b.nii.gz: found an empty file", root) == "sub/b.nii.gz: found an empty file"
    )
    assert common_folder([]) is None and without_folder("words", None) == "words"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/data/in/a.nii: the label map of /mnt/Doe, John/b.nii", "a.nii: the label map of b.nii"),
        ("/out/p1/a.nii: found one of '/srv/x y/b c.nii'; move it", "p1/a.nii: found one of 'b c.nii'; move it"),
        ("image /a/b.nii.gz (2 apart from c/d.nii), /e/f.json", "image b.nii.gz (2 apart from c/d.nii), f.json"),
        ("/srv/data/in/a.nii", "a.nii"),
        (r"C:\Users\me\a.nii and \\server\share\b.nii and file:///home/me/c.nii", "a.nii and b.nii and c.nii"),
        ("L5/S1 at 3 mm/s, see https://host.org/page/one or docs/data.md", None),
        ("permission denied: '/data'", "permission denied: 'data'"),
    ],
)
def test_of_absolute_paths_only_what_says_something_elsewhere_is_left(text, left):
    assert without_folder(text, Path("/"), Path("/data/in"), Path("/out")) == (text if left is None else left)


def test_no_reason_on_the_pages_holds_a_path_of_the_machine(tmp_path):
    elsewhere = tmp_path / "other patients" / "Doe, John"
    reason = f"{tmp_path}/out/a_dseg.nii.gz: found the label map of {elsewhere}/a.nii.gz; choose another folder"
    outcomes = [
        ScanOutcome(tmp_path / "in" / "a.nii.gz", "a", "failed", reason),
        ScanOutcome(
            tmp_path / "in" / "b.nii.gz", "b", "mask", label=tmp_path / "out" / "b_dseg.nii.gz", lacking=reason
        ),
        ScanOutcome(tmp_path / "in" / "c.nii.gz", "c", "skipped", reason),
    ]
    failures = pd.DataFrame([{"case": "a", "file": f"{tmp_path}/out/a.nii", "reason": reason}])
    tables = {"structures": STRUCTURE_COLUMNS, "cases": CASE_COLUMNS, "summary": SUMMARY_COLUMNS}
    empty = {name: pd.DataFrame(columns=list(columns)) for name, columns in tables.items()}
    scored = _failures(ReportContent(Evaluation(**empty, failures=failures)))
    page = run_report(outcomes, MRSPINESEG).decode()
    for text in (page, render_page("t", "", [Section("Not scored", scored)])):
        assert "found the label map of a.nii.gz" in text and "a_dseg.nii.gz" in text
        assert str(tmp_path) not in text and "John" not in text and "other patients" not in text


def test_page_is_written_whole(tmp_path):
    path = write_page(tmp_path / "new" / "report.html", "A title", "", [Section("One", [Text("words")])], "the end")
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
