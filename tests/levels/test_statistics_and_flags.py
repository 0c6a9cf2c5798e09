"""Per-structure statistics, and the flags made from them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cps4_monai.anatomy import MRSPINESEG, Anatomy, Structure
from cps4_monai.levels.flags import FLAGS, LABELS, NETWORK, PERSON, can_be_asked_again, level_flags, of_kind
from cps4_monai.levels.margin import LevelMargin
from cps4_monai.levels.settings import LevelThresholds
from cps4_monai.levels.statistics import Confidence, structure_statistics

AFFINE = np.array([[4.0, 0, 0, -4], [0, 0, 1, -80], [0, -1, 0, 320], [0, 0, 0, 1]])
SURE = LevelMargin(3.0, -0.2, -3.2, -3.5, 10, True)


def stats(labels, **keywords):
    return {s.name: s for s in structure_statistics(labels, AFFINE, MRSPINESEG, unannotated=(1,), **keywords)}


def names(labels, margin=SURE, **keywords):
    found = structure_statistics(labels, AFFINE, MRSPINESEG, unannotated=(1,), **keywords)
    return {f.name: f for f in level_flags(found, MRSPINESEG, margin, (1,))}


@pytest.fixture
def inner(spine):
    """A whole spine with an empty slice on both sides."""
    return np.pad(spine(), ((1, 1), (0, 0), (0, 0)))


def test_sizes_and_places_are_in_mm(inner, code):
    l3 = stats(inner)["L3"]
    where = np.argwhere(inner == code("L3"))
    assert l3.volume_ml == pytest.approx(len(where) * 4.0 / 1000.0)
    assert l3.centroid_voxels == pytest.approx(where.mean(axis=0))
    d, h, w = where.mean(axis=0)
    assert l3.centroid_mm == pytest.approx((4 * d - 4, w - 80, 320 - h))
    assert l3.height_mm == pytest.approx(24.0, abs=0.6)
    assert stats(inner)["L3/L4"].height_mm == pytest.approx(8.0, abs=0.6)


def test_centroid_voxels_follow_the_scan(inner):
    scan = np.diag([2.0, 2.0, 2.0, 1.0])
    l3 = stats(inner, scan_affine=scan)["L3"]
    assert l3.centroid_voxels == pytest.approx(np.array(l3.centroid_mm) / 2.0)


def test_states(inner, code):
    found = stats(inner, confidence={code("L3"): Confidence(0.8, 0.9)})
    assert found["L3"].state == "present" and found["L2"].confidence is None
    assert (found["L3"].confidence, found["L3"].outline_confidence) == (0.8, 0.9)
    assert found["T9"].state == "absent" and found["T9"].centroid_mm is None
    assert found["S"].state == "not_trained"
    assert not found["L3"].lateral and stats(inner[1:])["L3"].lateral


@pytest.mark.parametrize(
    ("crop", "border", "name"),
    [
        ((slice(150, None), slice(None)), "superior", "L2"),
        ((slice(None), slice(70, None)), "anterior", "L3"),
        ((slice(None), slice(0, 90)), "posterior", "L3"),
        ((slice(0, 263), slice(None)), "inferior", "L5"),
    ],
)
def test_cut_structures_name_the_border(inner, crop, border, name):
    found = stats(np.ascontiguousarray(inner[(slice(None), *crop)]))[name]
    assert found.state == "cut" and found.cut_at == (border,)


def test_the_view_is_the_border_where_slices_are_padded(inner):
    padded = np.pad(inner[:, 150:], ((0, 0), (20, 0), (0, 0)))
    assert stats(padded)["L2"].state == "present"
    view = (20, padded.shape[1], 0, 160)
    assert stats(padded, view=view)["L2"].cut_at == ("superior",)


def test_a_whole_spine_has_no_flag(inner):
    assert names(inner) == {}


def test_each_flag_has_its_cause(inner, spine, code):
    assert set(names(np.zeros_like(inner))) == {"no_spine_found"}
    gap = np.where(inner == code("L3/L4"), 0, inner)
    assert names(gap)["gap"].structures == ("L3/L4",)
    assert names(np.ascontiguousarray(inner[:, 150:]))["cut_structure"].structures == ("L2",)
    assert set(names(inner[1:-1])) == {"partial_width"}
    assert names(inner, confidence={code("L3"): Confidence(0.9, 0.4), code("L4"): Confidence(0.4, 0.9)})[
        "low_confidence"
    ].structures == ("L3",)
    flat = inner.copy()
    rows = np.unique(np.nonzero(inner == code("L3"))[1])
    flat[:, rows[:12]] = 0
    assert names(flat)["unusual_height"].structures == ("L3",)


def test_what_nearly_every_scan_shows_is_a_note_and_no_alarm(inner, code):
    partial = names(inner[1:-1], confidence={code("L3"): Confidence(0.4, 0.4)})
    cut = names(np.ascontiguousarray(inner[:, 150:]))
    assert {f.name: f.kind for f in (*partial.values(), *cut.values())} == {
        "partial_width": "note",
        "low_confidence": "note",
        "cut_structure": "note",
    }
    gap = names(np.where(inner == code("L3/L4"), 0, inner))["gap"]
    assert gap.to_dict()["kind"] == "alarm"


def test_a_flag_of_another_version_is_an_alarm():
    assert of_kind("alarm", ["gap", "cut_structure", "of_the_future", "no_spine_found"]) == [
        "of_the_future",
        "no_spine_found",
        "gap",
    ]
    assert of_kind("note", ["cut_structure", "gap", "low_confidence"]) == ["low_confidence", "cut_structure"]


def test_every_flag_says_of_what_it_is_raised_and_only_those_of_labels_can_be_asked_again(inner):
    assert {meaning.raised_from for meaning in FLAGS.values()} == {LABELS, NETWORK, PERSON}
    lost = {"unusual_contrast", "marked_wrong", "level_ambiguous", "unanchored"}
    assert {name for name in FLAGS if not can_be_asked_again(name)} == lost
    assert not can_be_asked_again("of_another_version")


def test_an_anchored_numbering_is_ambiguous_below_its_margin_an_unanchored_one_is_always_questioned(inner):
    found = structure_statistics(inner, AFFINE, MRSPINESEG, unannotated=(1,))

    def asked(margin: float, anchored: bool) -> set[str]:
        given = LevelMargin(margin, -1.0, -1.0 - margin, -4.0, 10, anchored)
        limits = LevelThresholds(ambiguous_margin=1.0)
        raised = level_flags(found, MRSPINESEG, given, (1,), limits)
        return {flag.name for flag in raised if flag.kind == "alarm"}

    assert asked(0.3, True) == {"level_ambiguous"} and asked(1.4, True) == set()
    assert asked(0.3, False) == asked(3.0, False) == {"unanchored"}
    assert not {"level_ambiguous", "unanchored"} & set(names(inner, None))
    assert asked(float("nan"), False) == set()


def test_a_retired_threshold_of_an_old_plan_changes_nothing_a_misspelt_one_is_refused():
    assert LevelThresholds.from_dict({"unanchored_margin": 2.0}) == LevelThresholds()
    with pytest.raises(ValueError, match="unanchored_margins"):
        LevelThresholds.from_dict({"unanchored_margins": 2.0})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("step_mm", 5, r"two numbers .* e\.g\. \(9\.0, 28\.0\)"),
        ("step_mm", [1, 2, 3], "two numbers"),
        ("step_mm", [28, 9], "two numbers .* in order"),
        ("step_mm", ["a", "b"], "two numbers"),
        ("step_mm", [0, 0], "distances above 0"),
        ("island_mm3", [1, 2], "a number that is not negative"),
        ("island_mm3", "30", "a number"),
        ("island_mm3", None, "a number"),
        ("skip_penalty", float("nan"), "a number"),
        ("skip_penalty", float("inf"), "a number"),
        ("border_voxels", 1.5, "a whole number"),
        ("min_structures", True, "a whole number"),
    ],
)
def test_thresholds_of_another_form_are_refused(name, value, expected):
    with pytest.raises(ValueError, match=f"{name} is .*expected {expected}"):
        LevelThresholds.from_dict({name: value})


def test_a_sliver_that_the_view_cuts_is_no_matter_of_confidence(inner, code):
    unsure = dict.fromkeys((code("L3"), code("L2")), Confidence(0.4, 0.4))
    cut = names(np.ascontiguousarray(inner[:, 150:]), confidence=unsure)  # the view begins within L2
    assert cut["cut_structure"].structures == ("L2",) and cut["low_confidence"].structures == ("L3",)


def test_statistics_and_flags_are_plain(inner, code):
    found = structure_statistics(inner, AFFINE, MRSPINESEG, confidence={code("L3"): Confidence(0.4, 0.4)})
    for made in (found, level_flags(found, MRSPINESEG, SURE)):
        plain = [one.to_dict() for one in made]
        assert plain and json.loads(json.dumps(plain, allow_nan=False)) == plain


def test_a_bad_affine_is_refused(inner):
    with pytest.raises(ValueError, match="affine"):
        structure_statistics(inner, np.eye(3), MRSPINESEG)


def flags_of(anatomy, labels):
    return [flag.name for flag in level_flags(structure_statistics(labels, AFFINE, anatomy), anatomy)]


def test_structures_without_an_order_get_no_flag_of_the_chain():
    names = ("background", "cord", "canal")
    anatomy = Anatomy([Structure(c, n, n, "other" if c else "background") for c, n in enumerate(names)])
    labels = np.zeros((5, 40, 30), np.uint8)
    labels[1:4, 5:35, 10:13] = 1
    assert flags_of(anatomy, labels) == []
    labels[1:4, 0:20, 13:16] = 2
    assert flags_of(anatomy, labels) == ["cut_structure"]
    assert flags_of(anatomy, np.zeros_like(labels)) == ["nothing_found"]


def test_an_anatomy_of_two_levels_is_no_missing_spine():
    kinds = (("background", "background", None), ("L5", "vertebra", 0), ("L4", "vertebra", 1))
    anatomy = Anatomy([Structure(c, n, n, kind, order) for c, (n, kind, order) in enumerate(kinds)])
    labels = np.zeros((5, 80, 40), np.uint8)
    labels[1:4, 45:69, 5:35], labels[1:4, 12:36, 5:35] = 1, 2
    assert flags_of(anatomy, labels) == []
    labels[labels == 2] = 0
    assert flags_of(anatomy, labels) == ["no_spine_found"]


def test_heights_are_compared_along_the_chain_alone():
    """Without an order there is no neighbour to be unlike of."""
    labels = np.zeros((5, 300, 60), np.uint8)
    for code, (top, height) in enumerate(((40, 24), (80, 24), (120, 10), (160, 24), (200, 24)), start=1):
        labels[1:-1, top : top + height, 10:44] = code
    for ordered in (True, False):
        structures = [Structure(c, f"V{c}", f"V{c}", "vertebra", c if ordered else None) for c in range(1, 6)]
        anatomy = Anatomy([Structure(0, "background", "background", "background"), *structures])
        seen = structure_statistics(labels, np.diag([4.0, 1, 1, 1]), anatomy)
        assert ("unusual_height" in {flag.name for flag in level_flags(seen, anatomy)}) == ordered
