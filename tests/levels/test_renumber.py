"""Shifts of the chain: what moves where, and what cannot be."""

from __future__ import annotations

import pytest

from cps4_monai.anatomy import MRSPINESEG, Anatomy, Structure
from cps4_monai.levels.renumber import ImpossibleShiftError, shift_to, shifted_codes

LUMBAR = (2, 3, 4, 5, 6, 11, 12, 13, 14, 15)


def _named(table):
    return {MRSPINESEG[old].name: MRSPINESEG[new].name for old, new in table.items()}


def test_one_up_takes_l5_to_l4_and_its_disc_along():
    table = shifted_codes(LUMBAR, 1, MRSPINESEG)
    assert _named(table) == {
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
        ((2, 3), -2, "takes L5 off the chain: below S, the lowest vertebra"),
        (LUMBAR, -2, "takes L5/S off the chain: below L5/S, the lowest disc"),
        ((1, 11), -2, "takes L5/S off the chain: below L5/S, the lowest disc"),
        ((9, 10), 1, "takes T9 off the chain: above T9, the highest vertebra"),
        ((), 1, "no structure of the chain"),
    ],
)
def test_impossible_shifts_say_why(present, shift, words):
    with pytest.raises(ImpossibleShiftError, match=words):
        shifted_codes(present, shift, MRSPINESEG)


def test_a_sacrum_that_is_none_goes_up_with_its_chain():
    table = _named(shifted_codes((1, *LUMBAR), 1, MRSPINESEG))
    assert table["S"] == "L5" and table["L5"] == "L4" and table["L5/S"] == "L4/L5" and len(table) == 11
    assert _named(shifted_codes((1, 2, 11), 2, MRSPINESEG)) == {"S": "L4", "L5": "L3", "L5/S": "L3/L4"}
    assert shifted_codes((1,), 1, MRSPINESEG) == {1: 2}
    assert shift_to((1, *LUMBAR), 1, "L5", MRSPINESEG) == 1


def test_what_goes_down_into_the_sacrum_is_part_of_it():
    table = _named(shifted_codes((1, *LUMBAR), -1, MRSPINESEG))
    assert table["L5"] == "S" and "S" not in table and table["L5/S"] == "background" and table["L4/L5"] == "L5/S"
    assert table == _named(shifted_codes(LUMBAR, -1, MRSPINESEG))  # whether the rest of the sacrum is in view or not
    assert shift_to((1, *LUMBAR), 2, "S", MRSPINESEG) == -1


def test_a_sacrum_that_the_weights_never_learned_takes_no_vertebra():
    with pytest.raises(ImpossibleShiftError, match="makes S, which the labels"):
        shifted_codes(LUMBAR, -1, MRSPINESEG, unannotated=(1,))


def test_without_a_sacrum_below_it_the_lowest_disc_stays_a_disc():
    rows = [("S", "sacrum"), ("L5", "vertebra"), ("L4/L5", "disc"), ("L4", "vertebra"), ("L3/L4", "disc")]
    partial = Anatomy(
        [Structure(0, "b", "b", "background")]
        + [Structure(order + 1, name, name, kind, order) for order, (name, kind) in enumerate(rows)]
    )
    with pytest.raises(ImpossibleShiftError, match="takes L4/L5 off the chain"):  # it would be L5/S, not in the sacrum
        shifted_codes((3, 4), -1, partial)
    background, disc = Structure(0, "b", "b", "background"), Structure(1, "L5/S", "d", "disc", 0)
    headless = Anatomy([background, disc, Structure(2, "L5", "v", "vertebra", 1)])
    with pytest.raises(ImpossibleShiftError, match="takes L5/S off the chain"):
        shifted_codes((1,), -1, headless)


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
    with pytest.raises(ValueError, match="no structure is called 'L6'"):
        shift_to(LUMBAR, 2, "L6", MRSPINESEG)


def test_other_anatomies_shift_along_their_own_chain():
    anatomy = Anatomy(
        [Structure(0, "b", "b", "background")]
        + [Structure(4 - k, f"C{k}", f"cervical {k}", "vertebra", 3 - k) for k in (1, 2, 3)]
    )
    assert shifted_codes((1, 2), 1, anatomy) == {1: 2, 2: 3}
