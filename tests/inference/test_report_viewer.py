"""The report's viewer in a real browser: Chromium without a head, a page from disk, no server and no network."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from in_browser import PATIENCE_MS, READY, Opened

from cps4_monai import segment_scans
from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.file_hash import file_sha256
from cps4_monai.inference import scan_views
from cps4_monai.inference.masks import report_masks
from cps4_monai.levels.renumber import ImpossibleShiftError, shift_to, shifted_codes
from cps4_monai.report.viewer import niivue_code


def _write(folder, name: str, scan, without: int | None = None) -> None:
    label = scan.label.copy()
    if without is not None:
        label[label == without] = 0
    image = scan.image.copy()
    image[:, :5] = 1400  # anterior
    nib.save(nib.Nifti1Image(image, scan.affine), folder / f"{name}.nii.gz")
    nib.save(nib.Nifti1Image(label, scan.affine), folder / f"{name}_dseg.nii.gz")


@pytest.fixture(scope="module")
def masks(make_scan, tmp_path_factory):
    """Three scans; b has no L4, which is an alarm."""
    folder = tmp_path_factory.mktemp("masks")
    for name, without in (("a", None), ("b", 3), ("c", None)):
        _write(folder, name, make_scan(), without)
    report_masks(folder, unannotated=[1])
    return folder


@pytest.fixture(scope="module")
def page(browser, masks):
    return Opened(browser, masks / "report.html")


def test_it_opens_from_disk_alone_and_shows_what_is_flagged_first(page):
    assert not page.complaints and page.requests[0].startswith("file:") and not page.foreign and len(page.requests) == 1
    assert page.scan == "b" and page.page.inner_text("[data-show=note]")
    assert page.chips()[-1].strip() == "L5/S" and "L4" not in [chip.strip() for chip in page.chips()]


def test_anterior_is_on_the_left(page):
    page.key("l")
    dark = page.canvas().mean(axis=(0, 2))
    lit = np.flatnonzero(dark > 20)
    middle = (lit[0] + lit[-1]) // 2
    assert dark[lit[0] : middle].mean() > 1.2 * dark[middle : lit[-1]].mean()
    page.key("l")


def test_labels_go_off_and_on(page):
    with_labels = page.coloured()
    page.key("l")
    assert with_labels > 3000 and page.coloured() == 0
    page.page.check("[data-set=labels]")
    assert abs(page.coloured() - with_labels) < 0.02 * with_labels


def test_slices_are_scrolled_by_key_wheel_and_slider(page):
    box = page.page.locator(".viewer canvas").bounding_box()
    page.page.fill("[data-set=slice]", "1")
    first = page.canvas()
    assert page.text("slice").startswith("2 of")
    page.key("ArrowDown")
    assert page.text("slice").startswith("3 of") and np.abs(page.canvas() - first).max() > 0
    page.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.page.mouse.wheel(0, 100)
    page.page.wait_for_function("!document.querySelector('[data-show=slice]').textContent.startsWith('3 of')")
    page.page.fill("[data-set=slice]", "2")


def test_windowing_changes_grey_values(page):
    page.page.click("[data-do=window]")
    before = page.canvas().mean()
    page.page.fill("[data-set=white]", "40")
    bright = page.canvas().mean()
    assert bright > before + 1
    page.page.click("[data-do=window]")
    assert abs(page.canvas().mean() - before) < (bright - before) / 2


def test_names_are_shown_under_the_pointer(page):
    box = page.page.locator(".viewer canvas").bounding_box()
    seen = set()
    for step in range(20, 80, 2):
        page.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] * step / 100)
        label = page.page.locator(".viewer-name")
        seen.add(label.inner_text().split(" · ")[0] if label.is_visible() else "")
    assert {"L5", "L3", "L2/L3"} <= seen and "L4" not in seen


def test_table_is_filtered_and_sorted(page):
    rows = page.page.locator("#scans tbody tr:visible")
    assert rows.count() == 3
    page.page.fill("#scans .filter input[type=search]", "gap")
    assert rows.count() == 1 and rows.first.inner_text().startswith("b")
    page.page.fill("#scans .filter input[type=search]", "")
    page.page.check("#scans .filter input[type=checkbox]")
    assert rows.count() == 1
    page.page.uncheck("#scans .filter input[type=checkbox]")
    page.page.click("#scans th button >> nth=0")
    assert [row[0] for row in rows.all_inner_texts()] == ["a", "b", "c"]


def test_scans_follow_by_key_button_and_link(page):
    page.page.evaluate("document.querySelector('.viewer').scrollIntoView({behavior: 'instant'})")
    page.key("n")
    page.wait_for_scan("a")
    page.page.click("[data-do=next]")
    page.wait_for_scan("c")
    page.key("p")
    page.wait_for_scan("a")
    page.page.click("#scans td a:text-is('c')")
    page.wait_for_scan("c")


def test_a_level_is_corrected_with_preview_and_written(page, masks):
    sha256 = {name: file_sha256(masks / f"{name}_dseg.nii.gz") for name in "abc"}
    page.page.select_option("[data-show=scan]", label="a")
    page.wait_for_scan("a")
    names = [chip.strip() for chip in page.chips()]
    page.choose("L4")
    before = page.canvas()
    page.page.select_option("[data-set=level]", "L3")
    shown = [chip.replace("\n", " ").split() for chip in page.chips()]
    assert ["L4", "L3"] in shown and ["L5/S", "L4/L5"] in shown and len(shown) == len(names)
    assert np.abs(page.canvas() - before).max() > 50  # the colours are those of the new levels
    options = page.page.locator("[data-set=level] option:disabled").all_inner_texts()
    assert "L5" not in options or "would leave" in page.text("refused")
    page.page.select_option("[data-show=scan]", label="⚑ b")
    page.wait_for_scan("b")
    page.choose("L5")
    page.page.click("[data-do=wrong]")
    page.page.select_option("[data-show=scan]", label="c")
    page.wait_for_scan("c")
    page.page.click("[data-do=fine]")
    page.page.fill("[data-set=comment]", "six lumbar?")
    page.page.fill("[data-set=by]", "R. Eader")
    written = page.corrections()
    made = written.pop("made")
    assert made.endswith("Z") and written == {
        "format": "cps4_monai.corrections",
        "version": 1,
        "weights_sha256": None,
        "by": "R. Eader",
        "scans": [
            {"scan": "a", "label_sha256": sha256["a"], "level": {"code": 3, "is": "L3"}},
            {"scan": "b", "label_sha256": sha256["b"], "wrong": [2]},
            {"scan": "c", "label_sha256": sha256["c"], "accepted": True, "comment": "six lumbar?"},
        ],
    }
    page.page.click("[data-do=undo]")
    assert [entry["scan"] for entry in page.corrections()["scans"]] == ["a", "b"]
    assert not page.complaints and not page.foreign


def test_levels_that_the_chain_does_not_have_are_refused(page):
    page.page.select_option("[data-show=scan]", label="c")
    page.wait_for_scan("c")
    page.choose("L4")
    refused = page.page.locator("[data-set=level] option:disabled").all_inner_texts()
    # L5 would make L5 the sacrum, which nobody annotated; T9 would take the highest off the chain
    assert "L5" in refused and "T9" in refused and "L3" not in refused
    told = page.text("refused").removeprefix("Not possible: ").split("; ")
    reasons = {level: part for part in told for level in part.split(" (")[0].split(", ")}
    assert list(reasons) and set(reasons) == set(refused) and reasons["L5"] != reasons["T9"]


def test_with_a_sacrum_the_page_offers_and_shows_what_the_command_does(browser, make_scan, tmp_path):
    scan = make_scan()
    lower = scan.label.copy()
    for old, new in {2: 1, 3: 2, 4: 3, 5: 4, 6: 5, 12: 11, 13: 12, 14: 13, 15: 14}.items():
        lower[scan.label == old] = new  # the disc of L5/S, which lies in the sacrum now, keeps its code
    scan.label = lower
    _write(tmp_path, "s", scan)
    report_masks(tmp_path)
    opened = Opened(browser, tmp_path / "report.html")
    opened.wait_for_scan("s")
    present = [int(code) for code in np.unique(scan.label) if code]
    for code in present:
        opened.choose(MRSPINESEG[code].name)
        offered = set(opened.page.locator("[data-set=level] option:enabled").all_inner_texts())
        assert offered == {name for name in MRSPINESEG.names if _new_codes(present, code, name) is not None}
    opened.choose("S")
    opened.page.select_option("[data-set=level]", "L5")
    assert ["S", "L5"] in [chip.split() for chip in opened.chips()]
    opened.page.select_option("[data-set=level]", "S")
    opened.choose("L5")
    opened.page.select_option("[data-set=level]", "S")
    shown = [chip.split() for chip in opened.chips()]
    assert ["L5/S", "background"] in shown and ["L5", "S"] in shown and ["S"] in shown
    assert opened.corrections()["scans"][0]["level"] == {"code": 2, "is": "S"} and not opened.complaints
    opened.page.close()


def _new_codes(present, code, name):
    try:
        return shifted_codes(present, shift_to(present, code, name, MRSPINESEG), MRSPINESEG)
    except ImpossibleShiftError:
        return None


def test_on_a_narrow_screen_nothing_is_out_of_sight(browser, masks):
    narrow = Opened(browser, masks / "report.html", width=400)
    assert narrow.page.evaluate("document.documentElement.scrollWidth") <= 400
    assert narrow.page.locator(".viewer canvas").bounding_box()["width"] > 300 and not narrow.complaints
    right = "[...document.querySelectorAll('#scans td')].map(cell => cell.getBoundingClientRect().right)"
    edges = narrow.page.evaluate(right)
    assert edges and max(edges) <= 400  # no column of flags is pushed out of the table's own frame either
    narrow.page.close()


def test_the_page_prints_its_pictures_without_the_viewer(page):
    page.page.emulate_media(media="print")
    assert not page.page.locator(".viewer").is_visible() and page.page.locator("#pictures img").first.is_visible()
    page.page.emulate_media(media="screen")


def test_many_scans_get_a_page_each_and_an_index(browser, masks, tmp_path, monkeypatch):
    folder = tmp_path / "many scans"
    shutil.copytree(masks, folder / "sub #1", ignore=shutil.ignore_patterns("*.html", "*.csv", "cps4_files.json"))
    monkeypatch.setattr(scan_views, "MAX_IN_PAGE", 2)
    report_masks(folder, unannotated=[1])
    assert (folder / "sub #1" / "a_view.html").stat().st_size < 400_000
    index = browser.new_page()
    index.set_default_timeout(PATIENCE_MS)
    index.goto((folder / "report.html").as_uri())
    assert index.locator(".viewer").count() == 0
    index.click("#scans td a >> nth=0")
    index.wait_for_selector(READY)
    assert index.get_attribute(".viewer", "data-scan") == "sub #1/b"
    index.click("[data-do=next]")
    index.wait_for_selector(".viewer.ready[data-scan='sub #1/a']")
    index.click("[data-do=index]")
    index.wait_for_selector("#scans")
    index.close()


def test_the_report_of_a_run_names_label_maps_and_weights(bundle_dir, make_scan, tmp_path):
    make_scan().save(tmp_path / "in" / "a_T2w.nii.gz")
    segment_scans(tmp_path / "in", tmp_path / "out", weights=bundle_dir, device="cpu")
    record = json.loads((tmp_path / "out" / "a_T2w_dseg.json").read_text())
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert f'"label_sha256": "{record["Sha256"]}"' in text and '"fixed": [1]' in text
    assert f'"weights_sha256": "{record["Weights"]["Sha256"]}"' in text and str(tmp_path) not in text


@pytest.mark.parametrize("several", [False, True])
def test_pages_of_scans_name_weights_only_where_the_whole_run_has_the_same(
    bundle_dir, make_scan, tmp_path, monkeypatch, several
):
    """One file holds the corrections of all pages: named in it, the weights of one page's scan refuse the others."""
    for name in "ab":
        make_scan().save(tmp_path / "in" / f"{name}_T2w.nii.gz")
    segment_scans(tmp_path / "in", tmp_path / "out", weights=bundle_dir, device="cpu")
    sidecar = tmp_path / "out" / "a_T2w_dseg.json"
    record = json.loads(sidecar.read_text())
    weights = record["Weights"]["Sha256"]
    if several:
        record["Weights"]["Sha256"] = "0" * 64
        sidecar.write_text(json.dumps(record))
    monkeypatch.setattr(scan_views, "MAX_IN_PAGE", 1)
    report_masks(tmp_path / "out")
    for name in "ab":
        text = (tmp_path / "out" / f"{name}_T2w_view.html").read_text(encoding="utf-8")
        assert f'"weights_sha256": {"null" if several else json.dumps(weights)}' in text


def test_real_scans_are_small_and_open(browser, spider_dir, tmp_path):
    for subject in ("sub-005", "sub-052", "sub-110"):
        for kind in ("T2w", "dseg"):
            shutil.copy(spider_dir / "volumes" / f"{subject}_{kind}.nii.gz", tmp_path)
    _, report = report_masks(tmp_path)
    viewer = len(niivue_code() or b"")
    assert viewer + (report.stat().st_size - viewer) / 3 * 20 < 20e6
    opened = Opened(browser, report)
    assert opened.coloured() > 3000 and not opened.complaints and not opened.foreign
    opened.page.close()
