from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re

import nibabel as nib
import numpy as np
import pytest

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.report import viewer
from cps4_monai.report.page import Section, render_page
from cps4_monai.report.slab import Slab, rims
from cps4_monai.report.viewer import DIFFERENT, View, Viewer, view_of_slab, viewer_blocks, with_differences


def _slab(depth=7, height=80, width=100, spacing=(4.0, 1.0, 1.0), seed=0):
    scan = np.random.default_rng(seed).integers(0, 500, (depth, height, width)).astype(np.int16)
    label = np.zeros(scan.shape, np.uint8)
    label[3, 20:60, 45:55] = 2
    return Slab(scan, {"labels": label}, spacing, (0.0, 500.0))


def _volume(data: bytes):
    image = nib.Nifti1Image.from_bytes(gzip.decompress(data))
    return np.asarray(image.dataobj), image


def test_a_view_is_a_slab_around_the_spine_in_ras():
    view = view_of_slab("a", _slab())
    (scan, image), (codes, _) = _volume(view.scan), _volume(view.layers["labels"])
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S") and scan.dtype == codes.dtype == np.uint8
    # one slice more on each side of the labeled one, the whole height, 25 mm before and behind 10 mm of spine
    assert scan.shape == codes.shape == (3, 60 / 1.25, 80 / 1.25)
    assert image.header.get_zooms() == (4.0, 1.25, 1.25)
    assert set(np.unique(codes)) == {0, 2} and codes[1].any() and not codes[[0, 2]].any()


def test_anterior_and_superior_ends_stay_where_they_were():
    slab = _slab()
    slab.scan[:] = 0
    slab.scan[:, :20, 20:40] = 500  # superior, in front of the spine
    scan, _ = _volume(view_of_slab("a", slab).scan)
    _, anterior, superior = (np.argwhere(scan > 200).mean(axis=0) / scan.shape).tolist()
    assert anterior > 0.6 and superior > 0.8


@pytest.mark.parametrize("first", [0, 30, 79], ids=["anterior border", "middle", "posterior border"])
def test_a_map_lies_where_its_values_do(first: int):
    """A block of the slice and the patches of the map around it: each has its middle where it has it on the slice."""
    slab = _slab(height=80, width=100)
    slab.labels["labels"][:] = 0
    slab.labels["labels"][3, 40:60, first : first + 20] = 2
    values = np.zeros((7, 4, 5))
    values[3, 2, 1], values[3, 2, 2] = 0.4, 0.2  # rows 40 to 59, columns 20 to 39 and 40 to 59: middle at 36.17
    view = view_of_slab("a", slab, {2: values})
    (codes, labels), (laid, image) = _volume(view.layers["labels"]), _volume(view.maps[2])
    assert laid.max() == 102 and laid.shape == (codes.shape[0], 5, 4) and image.header.get_zooms() == (4.0, 20.0, 20.0)
    of_map = (image.affine @ [*np.average(np.argwhere(laid), axis=0, weights=laid[laid > 0]), 1])[:3]
    of_label = (labels.affine @ [*np.argwhere(codes).mean(axis=0), 1])[:3]
    # columns 20 to 39 weigh twice; the block's middle is 9.5 columns behind its first; anterior is up
    np.testing.assert_allclose(of_map - of_label, [0, first + 9.5 - (2 * 29.5 + 49.5) / 3, 0], atol=0.7)


def test_outlines_are_what_lies_beside_another_code():
    label = np.zeros((1, 5, 5), np.uint8)
    label[0, 1:4, 1:4], label[0, 0, 0] = 3, 255
    expected = label.copy()
    expected[0, 2, 2], expected[0, 0, 0] = 0, 0
    np.testing.assert_array_equal(rims(label), expected)


def test_a_scan_that_is_too_large_gets_a_coarser_grid():
    large = view_of_slab("a", _slab(depth=60, height=400, width=300, spacing=(0.5, 0.5, 0.5)))
    assert len(large.scan) <= viewer.MAX_SCAN_BYTES
    scan, image = _volume(view_of_slab("b", _slab(20, 900, 900, (1.25, 1.0, 1.0))).scan)
    assert image.header.get_zooms()[1] >= 1.25 and scan.shape[1] < 900


def test_a_label_map_without_structures_keeps_the_whole_view():
    slab = _slab()
    slab.labels["labels"][:] = 0
    scan, _ = _volume(view_of_slab("a", slab).scan)
    assert scan.shape == (7, 80, 64)


def test_differences_show_what_either_map_says_and_nothing_where_nobody_annotated():
    prediction = np.array([[[2, 2, 0, 3, 3]]], np.uint8)
    label = np.array([[[2, 3, 4, 255, 0]]], np.uint8)
    slab = Slab(prediction, {"prediction": prediction, "label": label}, (1.0, 1.0, 1.0), (0, 1))
    assert with_differences(slab, "prediction", "label").labels[DIFFERENT].tolist() == [[[0, 2, 4, 0, 3]]]


def _scripts(page: str, kind: str) -> list[dict]:
    return [json.loads(text) for text in re.findall(rf'class="viewer-{kind}">(.*?)</script>', page, re.DOTALL)]


def test_the_page_holds_what_its_script_reads_and_names_cannot_end_it():
    name = "</script><b>&amp;"
    view = View(name, b"scan", {"labels": b"codes"}, "gap", True, "ab" * 32, "cd" * 32, (1,))
    page = render_page("t", "", [Section("Viewer", [Viewer([view], corrections=True)])])
    (scan,), (settings,) = _scripts(page, "scan"), _scripts(page, "settings")
    assert scan["name"] == name and scan["fixed"] == [1] and base64.b64decode(scan["layers"][0]["data"]) == b"codes"
    assert settings["weights_sha256"] == "cd" * 32 and settings["structures"][2]["name"] == "L5"
    assert (page.count("download corrections.json") > 1 and "NiiVue" in page) or "niivue" in page


def test_weights_of_several_kinds_are_named_as_unknown():
    views = [View(str(i), b"", {}, weights_sha256=str(i)) for i in range(2)]
    assert json.loads(Viewer(views).settings)["weights_sha256"] is None


def test_pages_without_a_viewer_do_not_carry_it():
    assert "niivue" not in render_page("t", "", [Section("One", viewer_blocks([], MRSPINESEG))])


def test_a_page_with_two_viewers_carries_niivue_once():
    two = [Section(name, viewer_blocks([View("a", b"", {})], MRSPINESEG)) for name in ("One", "Two")]
    one, both = (len(render_page("t", "", sections)) for sections in (two[:1], two))
    assert both - one < 50_000 < len(viewer.niivue_code())


def test_without_niivue_there_is_no_viewer(monkeypatch):
    monkeypatch.setattr(viewer, "niivue_code", lambda: None)
    assert viewer_blocks([View("a", b"", {})], MRSPINESEG) == []


# dist/niivue.umd.js of the npm package @niivue/niivue 0.69.0, as its registry has it
NIIVUE_SHA256 = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"


def test_niivue_is_the_published_build_with_its_licence():
    code = viewer.niivue_code()
    assert code is not None and hashlib.sha256(code).hexdigest() == NIIVUE_SHA256
    licence = (viewer.resources.files("cps4_monai.report") / "niivue" / "LICENSE").read_text(encoding="utf-8")
    assert "BSD 2-Clause" in licence and "0.69.0" in licence
    assert b"</script" not in code.lower()


def test_corrections_are_kept_for_these_scans_and_label_maps_alone():
    views = [View("a", b"", {"labels": b"1"}), View("b", b"", {"labels": b"2"})]
    edited = [views[0], View("b", b"", {"labels": b"3"})]
    keys = {viewer.run_of(some) for some in (views, views[:1], edited, [])}
    assert len(keys) == 4 and viewer.run_of(list(views)) in keys
