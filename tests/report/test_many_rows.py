"""A run of ten thousand scans in a real browser: its page opens, rows come a few at a time, pictures when looked at."""

from __future__ import annotations

import csv
import io
import shutil

import pytest

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.inference.outcome import ScanOutcome
from cps4_monai.inference.run_report import run_report
from cps4_monai.inference.run_tables import run_tables
from cps4_monai.report.page import ROWS_AT_A_TIME, Cell, Section, Table, render_page

SCANS = 10_000
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_MS = 120_000  # on a machine that others use


def _outcome(number: int, folder) -> ScanOutcome:
    name = f"site{number % 7}/scan{number:05d}"
    flags = [{"name": "gap", "detail": "a gap"}] if number == 7777 else []
    structure = {"code": 2, "name": "L5", "kind": "vertebra", "state": "present", "volume_ml": 1.0, "confidence": 0.9}
    record = {
        "Flags": flags,
        "Levels": {"margin": number / 1000},
        "Seconds": {"network": 1.0},
        "Structures": [structure],
    }
    picture = folder / f"{name}_qc.png" if number < 60 else None
    return ScanOutcome(folder / f"{name}.nii.gz", name, "done", "", folder / f"{name}_dseg.nii.gz", picture, record)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    return folder, [_outcome(number, folder) for number in range(SCANS)]


def test_tables_have_a_line_for_each_scan(outcomes) -> None:
    folder, made = outcomes
    tables = run_tables(made, MRSPINESEG, folder)
    rows = list(csv.DictReader(io.StringIO(tables["scans.csv"].decode())))
    assert len(rows) == SCANS and rows[7777]["alarms"] and len(tables["scans.csv"]) < 3_000_000


def test_the_page_opens_and_shows_a_few_rows_at_a_time(outcomes) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (extra `dev`)")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser here: none of {', '.join(BROWSERS)} is on the path")
    folder, made = outcomes
    page_file = folder / "report.html"
    page_file.write_bytes(run_report(made, MRSPINESEG, pages={one.name: f"{one.name}_view.html" for one in made}))
    assert page_file.stat().st_size < 15e6
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page()
        page.set_default_timeout(PATIENCE_MS)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(page_file.as_uri(), timeout=PATIENCE_MS)
        shown = "#scans tbody tr:not([hidden])"
        assert page.locator(shown).count() == ROWS_AT_A_TIME
        assert "scan07777" in page.locator(shown).first.inner_text()  # what needs a look comes first
        assert page.inner_text(".pager span") == f"rows 1 to {ROWS_AT_A_TIME} of {SCANS}"
        assert len(asked) == 1  # the page alone: no picture before somebody comes to it
        page.click("#scans .pager button:last-of-type")
        assert page.inner_text(".pager span") == f"rows {ROWS_AT_A_TIME + 1} to {2 * ROWS_AT_A_TIME} of {SCANS}"
        page.click("#scans th:has-text('margin') button")
        page.click("#scans th:has-text('margin') button")
        assert "scan09999" in page.locator(shown).first.inner_text()  # sorted over all rows, not those shown
        page.fill("#scans input[type=search]", "scan04321")
        assert page.locator(shown).count() == 1 and page.inner_text(".filter span") == f"1 of {SCANS}"
        assert page.is_disabled("#scans .pager button:last-of-type")
        page.locator("#pictures img").first.scroll_into_view_if_needed()
        page.wait_for_timeout(500)
        assert any(url.endswith("_qc.png") for url in asked)
        chromium.close()


def test_a_short_table_has_no_pager() -> None:
    rows = [[Cell(str(number), number)] for number in range(ROWS_AT_A_TIME)]
    assert 'class="pager"' not in render_page("t", "", [Section("Rows", [Table(("n",), rows)])])
    longer = render_page("t", "", [Section("Rows", [Table(("n",), [*rows, [Cell("last", 1)]])])])
    assert 'class="pager"' in longer and longer.count("<tr hidden>") == 1
