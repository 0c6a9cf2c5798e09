"""Decoding of whole label maps: what stays, what is repaired, and what is told about it."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cps4_monai.anatomy import MRSPINESEG, Anatomy, Structure
from cps4_monai.levels.decode import decode_levels, label_confidence
from cps4_monai.levels.fused import rejoined
from cps4_monai.levels.settings import LevelThresholds

corruption = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("corruption.py"))))

UNTRAINED = (1,)


def test_correct_labels_stay(spine, spacing):
    labels = spine()
    result = decode_levels(labels, None, spacing, unannotated=UNTRAINED)
    np.testing.assert_array_equal(result.labels, labels)
    assert result.changed_voxels == 0 and result.renamed == () and result.dropped == 0
    assert result.margin.margin == pytest.approx(-np.log(0.01)) and result.margin.anchored


@pytest.mark.parametrize(
    "bend",
    [
        lambda t: 0.5 * (t - 100.0),
        lambda t: 45.0 * np.sin(t / 60.0),
        lambda t: 0.004 * (t - 110.0) ** 2 - 30,
        lambda t: 30.0 - 0.004 * (t - 110.0) ** 2,
    ],
    ids=["tilted", "s-shaped", "kyphosis", "lordosis"],
)
def test_tilted_and_curved_spines_keep_their_order(spine, spacing, bend):
    labels = spine(bend=bend)
    np.testing.assert_array_equal(decode_levels(labels, None, spacing, unannotated=UNTRAINED).labels, labels)


@pytest.mark.parametrize("by", [2, -2])
def test_a_jump_in_the_upper_half_is_repaired_from_the_anchored_bottom(spine, spacing, by):
    labels = spine()
    shifted = corruption.shift_levels(labels, MRSPINESEG, 6, 30, by)
    result = decode_levels(shifted, None, spacing, unannotated=UNTRAINED)
    np.testing.assert_array_equal(result.labels, labels)
    assert result.changed_voxels == np.count_nonzero(shifted != labels)
    assert result.margin.margin < 4.0  # less sure than of a consistent chain


@pytest.mark.parametrize("along", ["height", "slices"])
def test_a_split_body_becomes_one(spine, spacing, code, along):
    labels = spine()
    split = corruption.split_structure(labels, code("L3"), code("L2"), np.random.default_rng(1), along)
    assert np.any(split != labels)
    np.testing.assert_array_equal(decode_levels(split, None, spacing, unannotated=UNTRAINED).labels, labels)


def test_a_body_with_a_hole_across_stays_one_structure(spine, spacing, code):
    labels = spine()
    rows = np.unique(np.nonzero(labels == code("L3"))[1])
    labels[:, rows[10:12]] = 0
    result = decode_levels(labels, None, spacing, unannotated=UNTRAINED)
    np.testing.assert_array_equal(result.labels, labels)


def test_a_missing_disc_leaves_the_others_alone(spine, spacing, code):
    labels = spine()
    labels[labels == code("L3/L4")] = 0
    np.testing.assert_array_equal(decode_levels(labels, None, spacing, unannotated=UNTRAINED).labels, labels)


def test_bodies_that_touch_under_one_label_are_parted(spine, spacing, code):
    labels = spine()
    fused = corruption.fuse_bodies(labels, code("L3/L4"), code("L4"), 0.4, np.random.default_rng(0))
    rows = np.unique(np.nonzero(labels == code("L3/L4"))[1])
    columns = np.unique(np.nonzero(fused != labels)[2])
    fused[:, rows.min() - 2 : rows.max() + 3, columns.min() : columns.max() + 1] = code("L4")  # bridge the rims too
    fused[fused == code("L3")] = code("L4")
    result = decode_levels(fused, None, spacing, unannotated=UNTRAINED)
    where = labels == code("L3")
    assert np.mean(result.labels[where] == code("L3")) > 0.95
    assert np.mean(result.labels[labels == code("L4")] == code("L4")) > 0.95


def test_islands_go_and_those_inside_a_body_join_it(spine, spacing, code):
    labels = spine()
    noisy = labels.copy()
    noisy[1, 5:8, 5:8] = code("T12")
    at = np.argwhere(labels[1] == code("L3")).mean(axis=0).astype(int)
    noisy[1, at[0] : at[0] + 2, at[1] : at[1] + 3] = code("L3/L4")
    result = decode_levels(noisy, None, spacing, unannotated=UNTRAINED)
    np.testing.assert_array_equal(result.labels, labels)
    assert result.removed_islands == 2


def test_a_large_false_disc_behind_the_spine_is_dropped(spine, spacing, code):
    labels = spine()
    noisy = labels.copy()
    noisy[:, 150:159, 125:155] = code("L2/L3")
    result = decode_levels(noisy, None, spacing, unannotated=UNTRAINED)
    np.testing.assert_array_equal(result.labels, labels)
    assert result.dropped == 1


def test_structures_above_the_table_become_background(spine, spacing, code):
    names = [s.name for s in MRSPINESEG.along_spine()[1:]]
    labels = spine(names=names, height=420)
    extra = spine(names=[*names, "T9/T10", "T9"], height=420)  # T8 and its disc, as a network names them
    result = decode_levels(extra, None, spacing, unannotated=UNTRAINED)
    np.testing.assert_array_equal(result.labels, labels)


def test_three_vertebrae_in_view_are_decoded_but_not_anchored(spine, spacing):
    labels = spine(names=("L3", "L2/L3", "L2", "L1/L2", "L1"), height=140, bottom_mm=15.0)
    result = decode_levels(labels, None, spacing, unannotated=UNTRAINED)
    np.testing.assert_array_equal(result.labels, labels)
    assert result.margin.structures == 5 and not result.margin.anchored


def test_undecided_probabilities_give_a_small_margin(spine, spacing):
    labels = spine()
    scores = 0.5 * corruption.soft_scores(labels, 20, 0.9)
    scores += 0.5 * corruption.soft_scores(corruption.shift_levels(labels, MRSPINESEG, 0, 30, 2), 20, 0.9)
    sure = decode_levels(labels, corruption.soft_scores(labels, 20, 0.9), spacing, unannotated=UNTRAINED)
    unsure = decode_levels(labels, scores, spacing, unannotated=UNTRAINED)
    assert unsure.margin.margin < 0.5 < 2.0 < sure.margin.margin
    assert unsure.margin.score_up > unsure.margin.score_down


def test_probabilities_outvote_the_labels(spine, spacing):
    labels = spine()
    shifted = corruption.shift_levels(labels, MRSPINESEG, 0, 30, 2)
    result = decode_levels(shifted, corruption.soft_scores(labels, 20), spacing, unannotated=UNTRAINED)
    np.testing.assert_array_equal(result.labels, labels)


def test_confidence_is_the_mean_probability_of_the_new_label_and_of_its_kind(spine, spacing, code):
    labels = spine()
    scores = corruption.soft_scores(labels, 20, 0.7)
    result = decode_levels(labels, scores, spacing, unannotated=UNTRAINED)
    for confidence in (result.confidence, label_confidence(labels, scores)):
        assert list(confidence) == np.unique(labels)[1:].tolist()
        for c, sure in confidence.items():  # half of what is left of 1 is shared by the two codes on either side
            near = [MRSPINESEG.structures[other].kind for other in range(max(c - 2, 1), min(c + 3, 20)) if other != c]
            alike = near.count(MRSPINESEG.structures[c].kind) / len(near)
            assert sure == pytest.approx((0.7, 0.7 + 0.15 * alike), abs=1e-6)


def test_an_untrained_structure_is_left_as_labeled(spine, spacing):
    labels = spine()
    labels[:, -30:-10, 70:110] = 1
    np.testing.assert_array_equal(decode_levels(labels, None, spacing, unannotated=UNTRAINED).labels, labels)


def test_a_trained_sacrum_heads_the_chain(spine, spacing):
    labels = spine()
    labels[:, 282:310, 70:110] = 1
    result = decode_levels(labels, None, spacing)
    np.testing.assert_array_equal(result.labels, labels)
    assert result.margin.anchored and result.margin.structures == 11


def test_nothing_labeled_comes_back_as_nothing(spacing):
    result = decode_levels(np.zeros((2, 40, 30), np.uint8), None, spacing)
    assert not result.labels.any() and result.confidence == {} and result.to_dict()["margin"] is None


def test_another_anatomy_of_vertebrae_alone():
    anatomy = Anatomy(
        [Structure(0, "background", "background", "background")]
        + [Structure(1 + i, name, name, "vertebra", i) for i, name in enumerate("abcde")]
    )
    labels = np.zeros((2, 200, 60), np.uint8)
    for i in range(4):
        labels[:, 150 - 35 * i : 175 - 35 * i, 15:48] = i + 1
    wrong = np.where(labels == 3, 4, labels).astype(np.uint8)
    np.testing.assert_array_equal(decode_levels(wrong, None, (4.0, 1.0, 1.0), anatomy).labels, labels)


def test_a_large_structure_without_an_order_is_no_measure_of_those_in_the_chain():
    """Posterior elements, labeled as one structure of the kind of the bodies, are larger than any of them."""
    levels = [Structure(1, "S", "sacrum", "sacrum", 0)]
    for place in range(5):
        levels += [
            Structure(2 * place + 2, f"D{place}", f"disc {place}", "disc", 2 * place + 1),
            Structure(2 * place + 3, f"L{5 - place}", f"vertebra {5 - place}", "vertebra", 2 * place + 2),
        ]
    arches = Structure(12, "arches", "posterior elements", "vertebra")
    anatomy = Anatomy([Structure(0, "background", "background", "background"), *levels, arches])
    labels = np.zeros((10, 300, 140), np.uint8)
    row = 285
    for level in levels:
        thick = {"sacrum": 30, "disc": 8, "vertebra": 28}[level.kind]
        labels[1:9, row - thick : row, 40:70] = level.code
        labels[:, row - thick : row, 82:122] = arches.code if level.kind == "vertebra" else 0
        row -= thick + 1
    result = decode_levels(labels, None, (4.0, 1.0, 1.0), anatomy)
    np.testing.assert_array_equal(result.labels, labels)
    assert result.dropped == 0 and np.isfinite(result.score)


def test_an_anatomy_without_order_is_left_alone():
    anatomy = Anatomy(
        [
            Structure(0, "bg", "bg", "background"),
            Structure(1, "v", "vertebra", "vertebra"),
            Structure(2, "d", "disc", "disc"),
        ]
    )
    labels = np.random.default_rng(0).integers(0, 3, (2, 30, 20)).astype(np.uint8)
    np.testing.assert_array_equal(decode_levels(labels, None, (4.0, 1.0, 1.0), anatomy).labels, labels)


@pytest.mark.parametrize(
    ("labels", "spacing_mm", "error", "match"),
    [
        (np.zeros((4, 4), np.uint8), (1, 1, 1), ValueError, "D, H, W"),
        (np.full((1, 4, 4), 20, np.uint8), (1, 1, 1), ValueError, "0 to 19"),
        (np.zeros((1, 4, 4)), (1, 1, 1), TypeError, "integer"),
        (np.zeros((1, 4, 4), np.uint8), (1, 0, 1), ValueError, "spacing_mm"),
        (np.zeros((1, 4, 4), np.uint8), (1, 1), ValueError, "spacing_mm"),
    ],
)
def test_bad_input_is_refused(labels, spacing_mm, error, match):
    with pytest.raises(error, match=match):
        decode_levels(labels, None, spacing_mm)


def test_thresholds_are_checked():
    with pytest.raises(ValueError, match="gap_penalty"):
        LevelThresholds(gap_penalty=-1.0)
    with pytest.raises(ValueError, match="height_ratio"):
        LevelThresholds(height_ratio=(2.0, 1.0))


def test_noise_is_decoded():
    """Ten thousands of islands, as of a network that was never trained."""
    labels = np.random.default_rng(0).integers(0, 20, (12, 120, 120)).astype(np.uint8)
    result = decode_levels(labels, None, (4.0, 1.0, 1.0))
    sparse = np.where(np.random.default_rng(1).random(labels.shape) < 0.08, labels, 0).astype(np.uint8)
    islands = decode_levels(sparse, None, (10.0, 2.0, 2.0))
    assert result.labels.shape == labels.shape and islands.removed_islands + islands.dropped > 1000


@pytest.mark.parametrize("pitch", [34, 38, 42])
@pytest.mark.parametrize("missed", [(2,), (2, 3)])
def test_bodies_without_discs_between_them_keep_their_levels_over_a_gap(pitch, missed):
    """Bodies alone are 30 to 42 mm apart, twice what a body and its disc are."""
    names = ("L5", "L4", "L3", "L2", "L1", "T12", "T11")
    bodies = [Structure(i + 1, name, name, "vertebra", i) for i, name in enumerate(names)]
    anatomy = Anatomy((Structure(0, "background", "background", "background"), *bodies))
    labels = np.zeros((5, 330, 80), np.uint8)
    probabilities = np.zeros((5, 8, 330, 80), np.float32)
    probabilities[:, 0] = 1
    for level in set(range(6)) - set(missed):
        end = 285 - level * pitch
        rows = slice(end - 28, end)
        labels[:, rows, 25:60] = level + 1
        probabilities[:, :, rows, 25:60] = 0
        probabilities[:, [0, level + 1, level + 2], rows, 25:60] = np.array([0.1, 0.55, 0.35])[None, :, None, None]
    result = decode_levels(labels, probabilities, (4.0, 1.0, 1.0), anatomy)
    assert result.renamed == () and result.margin.anchored
    np.testing.assert_array_equal(result.labels, labels)


def test_a_whole_body_among_compressed_ones_stays_whole(spine, spacing, code):
    """It is half as tall again as the others, and would be cut in two, of which the chain has no use for one."""
    heights = {"L5": 27, "L4": 16, "L3": 15, "L2": 15, "L1": 27}
    labels, row = np.zeros((5, 220, 120), np.uint8), 200
    for name in ("L5/S", "L5", "L4/L5", "L4", "L3/L4", "L3", "L2/L3", "L2", "L1/L2", "L1"):
        labels[:, row - heights.get(name, 8) : row, 50:84] = code(name)
        row -= heights.get(name, 8) + 1
    scores = np.full((5, MRSPINESEG.num_classes, 220, 120), 1e-4, np.float32)
    np.put_along_axis(scores, labels[:, None].astype(np.int64), 0.95, axis=1)
    for evidence in (None, scores):
        result = decode_levels(labels, evidence, spacing, unannotated=UNTRAINED)
        np.testing.assert_array_equal(result.labels, labels)
        assert result.dropped == 0


def test_cuts_are_undone_where_one_level_is_left_of_them():
    cut_from = np.array([0, 1, 2, 1, 2, 0])
    found = rejoined(np.array([5, 3, -1, -1, 7, 6]), cut_from)
    assert found.tolist() == [5, 3, 7, 3, 7, 6], "the first was two bodies, and stays so"
    assert rejoined(np.array([5, -1, -1, -1, 7, -1]), np.arange(6)).tolist() == [5, -1, -1, -1, 7, -1]
