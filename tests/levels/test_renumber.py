"""Shifts of the chain: what moves where, and what cannot be."""

from __future__ import annotations

import pytest

from cps4_monai.anatomy import MRSPINESEG, Anatomy, Structure
from cps4_monai.levels.renumber import ImpossibleShiftError, shift_to, shifted_codes

LUMBAR = (2, 3, 4, 5, 6, 11, 12, 13, 14, 15)


def test_one_up_takes_l5_to_l4_and_its_disc_along():
    table = shifted_codes(LUMBAR, 1, MRSPINESEG)
    named = {MRSPINESEG[a].name: MRSPINESEG[b].name for a, b in table.items()}
    assert named == {
        "L5": "L4", "L4": "L3", "L3": "L2", "L2": "L1", "L1": "T12",
        "L5/S": "L4/L5", "L4/L5": "L3/L4", "L3/L4": "L2/L3", "L2/L3": "L1/L2", "L1/L2": "T12/L1",
    }  # fmt: skip
    back = shifted_codes(table.values(), -1, MRSPINESEG)
    assert {back[b]: b for b in back} == table


def test_no_shift_moves_nothing():
    assert shifted_codes(LUMBAR, 0, MRSPINESEG) == {} and shifted_codes((), 0, MRSPINESEG) == {}


@pytest.mark.parametrize(
    ("present", "shift", "words"),
    [
        (LUMBAR, -1, "takes L5/S off the chain: below L5/S, the lowest disc"),
        ((9, 10), 1, "takes T9 off the chain: above T9, the highest vertebra"),
        ((), 1, "no vertebra or disc"),
        ((1,), 1, "no vertebra or disc"),
        ((1, *LUMBAR), 1, "the sacrum is in the label map and L5/S above it"),
    ],
)
def test_impossible_shifts_say_why(present, shift, words):
    with pytest.raises(ImpossibleShiftError, match=words):
        shifted_codes(present, shift, MRSPINESEG)


def test_a_gap_above_the_sacrum_may_be_closed():
    assert shifted_codes((1, 3, 12), -1, MRSPINESEG) == {3: 2, 12: 11}


def test_a_level_that_the_weights_do_not_know_is_refused():
    with pytest.raises(ImpossibleShiftError, match=r"makes T10, which the labels"):
        shifted_codes((8, 7), 1, MRSPINESEG, unannotated=(9,))


def test_a_level_says_the_shift():
    assert shift_to(LUMBAR, 4, "L5", MRSPINESEG) == -2 and shift_to(LUMBAR, 11, "L3/L4", MRSPINESEG) == 2
    for code, name, words in (
        (10, "L5", r"T9 \(code 10\) is not in the label map; there are 2 \(L5\)"),
        (4, "L4/L5", "of the kind 'vertebra' and L4/L5 of 'disc'"),
        (99, "L5", "code 99 is none of the anatomy"),
    ):
        with pytest.raises(ImpossibleShiftError, match=words):
            shift_to(LUMBAR, code, name, MRSPINESEG)
    with pytest.raises(ImpossibleShiftError, match="sacrum"):
        shift_to((1, 2), 1, "S", MRSPINESEG)
    with pytest.raises(ValueError, match="no structure is called 'L6'"):
        shift_to(LUMBAR, 2, "L6", MRSPINESEG)


def test_other_anatomies_shift_along_their_own_chain():
    anatomy = Anatomy(
        [Structure(0, "b", "b", "background")]
        + [Structure(4 - k, f"C{k}", f"cervical {k}", "vertebra", 3 - k) for k in (1, 2, 3)]
    )
    assert shifted_codes((1, 2), 1, anatomy) == {1: 2, 2: 3}
