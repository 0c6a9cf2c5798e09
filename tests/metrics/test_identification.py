from __future__ import annotations

import numpy as np
import pytest

from cps4_monai.anatomy import MRSPINESEG as SPINE
from cps4_monai.anatomy import Anatomy, Structure
from cps4_monai.evaluation.case import evaluate_arrays
from cps4_monai.metrics.identification import identify_levels

SPACING = (4.0, 1.0, 2.0)
L5, L4, L3, L45, L34 = (SPINE.code_of(name) for name in ("L5", "L4", "L3", "L4/L5", "L3/L4"))


def spine(**moved: int) -> np.ndarray:
    """Three bodies and two discs along the last axis, 10 voxels (20 mm) a body, 4 (8 mm) a disc."""
    codes = {"l5": L5, "d45": L45, "l4": L4, "d34": L34, "l3": L3} | moved
    label = np.zeros((3, 12, 60), dtype=np.uint8)
    row = 5
    for name, height in (("l5", 10), ("d45", 4), ("l4", 10), ("d34", 4), ("l3", 10)):
        label[:, 2:10, row : row + height] = codes[name]
        row += height
    return label


def test_a_perfect_numbering_is_identified_throughout():
    found = identify_levels(spine(), spine(), SPACING, SPINE)
    here = [L5, L4, L3, L45, L34]
    assert (
        found.identified[here].all() and (found.distance_mm[here] == 0).all() and (found.level_offset[here] == 0).all()
    )
    others = [s.code for s in SPINE.foreground if s.code not in here]
    assert not found.identified[others].any() and np.isnan(found.level_offset[others]).all()


def test_one_level_up_is_an_offset_of_one_for_bodies_and_discs():
    up = spine(l5=L4, d45=L34, l4=L3, d34=SPINE.code_of("L2/L3"), l3=SPINE.code_of("L2"))
    found = identify_levels(up, spine(), SPACING, SPINE)
    assert (found.level_offset[[L5, L4, L3, L45, L34]] == 1).all() and not found.identified.any()
    # L4 is predicted where L5 is: a body and a disc lower, (10 / 2 + 4 + 10 / 2) voxels of 2 mm
    assert found.distance_mm[L4] == pytest.approx(28.0) and np.isnan(found.distance_mm[L5])
    down = identify_levels(spine(), up, SPACING, SPINE)
    assert (down.level_offset[[L4, L3]] == -1).all()


def test_what_most_voxels_of_the_kind_say_counts_and_background_does_not():
    pred = spine()
    pred[:, 2:10, 5:12] = 0  # seven tenths of L5 lost, the rest right
    pred[:, 2:4, 12:15] = L4
    found = identify_levels(pred, spine(), SPACING, SPINE)
    assert found.level_offset[L5] == 0 and found.identified[L5]
    pred[:, 2:10, 5:15] = L45  # a disc's label on a body is no level of a body
    assert np.isnan(identify_levels(pred, spine(), SPACING, SPINE).level_offset[L5])


def test_right_label_twenty_millimetres_away_is_identified_and_beyond_it_not():
    label, near, far = (np.zeros((1, 1, 40), dtype=np.uint8) for _ in range(3))
    label[..., 0], near[..., 10], far[..., 11] = L4, L4, L4
    assert identify_levels(near, label, SPACING, SPINE).identified[L4]
    assert not identify_levels(far, label, SPACING, SPINE).identified[L4]


def test_unannotated_classes_enter_nothing():
    sacrum = SPINE.code_of("S")
    label = np.full((1, 2, 2), sacrum, dtype=np.uint8)
    found = identify_levels(label, label, SPACING, SPINE, unannotated=[sacrum])
    assert not found.identified.any() and np.isnan(found.level_offset).all() and np.isnan(found.distance_mm).all()


def test_structures_without_an_order_have_no_level_to_be_right_or_wrong():
    code = SPINE.num_classes
    anatomy = Anatomy((*SPINE.structures, Structure(code, "cord", "spinal cord", "other")))
    label, right = spine(), spine()
    label[0, 0] = right[0, 0] = code
    found = identify_levels(right, label, SPACING, anatomy)
    assert found.identified[code] and np.isnan(found.level_offset[code]) and found.level_offset[L5] == 0

    def all_right(pred: np.ndarray, label: np.ndarray) -> float:
        at = {"affine": np.diag([*SPACING, 1.0]), "spacing_mm": SPACING, "anatomy": anatomy}
        return evaluate_arrays(pred, label, **at, case="a", subject="a").case["all_levels_right"]

    cord_alone = np.where(right == code, right, 0)
    assert all_right(right, label) == all_right(spine(), label) == 1 and all_right(cord_alone, label) == 0
    assert np.isnan(all_right(cord_alone, cord_alone))
