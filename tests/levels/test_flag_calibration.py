"""Chances that flags state, by hand, and the flags that they raise."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.levels.flag_calibration import OUTLINE_RANGE, Chance, FlagCalibration, log_odds
from cps4_monai.levels.flags import level_flags, of_kind
from cps4_monai.levels.margin import LevelMargin
from cps4_monai.levels.statistics import Confidence, structure_statistics

OUTLINE = {"vertebra": Chance(0.1, {"outline_confidence": 2.0}), "disc": Chance(-1.0, {"outline_confidence": 1.0})}
CALIBRATION = FlagCalibration(OUTLINE, 0.7, 0.5, Chance(-2.0, {"edges": -1.0}), 0.4, "two patients")
UNSURE = LevelMargin(0.1, -0.2, -0.3, -3.5, 10, True)


@pytest.fixture
def found(spine, code):
    labels = np.pad(spine(), ((1, 1), (0, 0), (0, 0)))
    outlines = {"L3": 0.45, "L4": 0.6, "L3/L4": 0.6, "L4/L5": 0.9}
    confidence = {code(name): Confidence(0.9, outline) for name, outline in outlines.items()}
    return structure_statistics(labels, np.diag([4.0, 1, 1, 1]), MRSPINESEG, confidence=confidence)


def test_a_chance_by_hand():
    assert Chance(0.0, {})({}) == 0.5
    assert Chance(1.0, {"a": 2.0, "b": -1.0})({"a": 0.5, "b": 4.0, "c": 9.0}) == pytest.approx(1 / (1 + math.e**2))
    assert Chance(1e9, {})({}) == pytest.approx(1.0) and log_odds(0.5, OUTLINE_RANGE) == 0.0
    assert log_odds(1.0, OUTLINE_RANGE) == pytest.approx(math.log(49))
    assert log_odds(0.1, OUTLINE_RANGE) == pytest.approx(math.log(1 / 9))
    assert log_odds(0.1, (0.45, 0.98)) == pytest.approx(math.log(45 / 55))


def test_the_chance_of_an_outline_is_that_of_its_kind():
    half = Confidence(0.9, 0.5)
    assert CALIBRATION.outline_chance("vertebra", half) == pytest.approx(1 / (1 + math.exp(-0.1)))
    assert CALIBRATION.outline_chance("disc", half) == pytest.approx(1 / (1 + math.exp(1)))
    assert CALIBRATION.outline_chance("sacrum", half) is None
    assert CALIBRATION.outline_chance("disc", Confidence(0.5)) is None, "nothing is known of its outline"
    earlier = FlagCalibration({"disc": Chance(1.0, {"confidence": 2.0})})  # as until version 0.3.0
    assert earlier.outline_chance("disc", Confidence(0.1, 0.9)) == pytest.approx(
        1 / (1 + math.exp(-1) * (55 / 45) ** 2)
    )


def test_what_is_written_is_read():
    assert FlagCalibration.from_dict(json.loads(json.dumps(CALIBRATION.to_dict()))) == CALIBRATION
    assert FlagCalibration.from_dict({}) == FlagCalibration()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"colour": 1}, "colour"),
        ({"outline": {"disc": {"slope": 1}}}, "form of a plan"),
        ({"failure": 3}, "form of a plan"),
        ({"outline_limit": "0.5"}, "outline_limit is '0.5', no number"),
        ({"failure_limit": None}, "failure_limit is None, no number"),
        ({"failure": {"intercept": float("nan"), "weights": {}}}, "finite"),
        ({"outline": {"disc": {"intercept": 0.0, "weights": {"outlin_confidence": 1.0}}}}, "outlin_confidence"),
    ],
)
def test_another_form_is_refused(content, words):
    with pytest.raises(ValueError, match=rf"{words}.*Fix: calibrate again"):
        FlagCalibration.from_dict(content)
    with pytest.raises(ValueError, match=r"no quantity is called \['edges'\]"):
        CALIBRATION.failure({"contrast": 1.0})


def test_low_confidence_states_the_chance_of_structures_below_the_limit(found):
    flags = {f.name: f for f in level_flags(found, MRSPINESEG, None, (1,), calibration=CALIBRATION)}
    flag = flags["low_confidence"]
    # L3: 0.1 + 2 log(0.45/0.55) = -0.30, 43 %; L4: 0.1 + 0.81; L3/L4: -1 + 0.41 = -0.59, 36 %; L4/L5: -1 + 2.20.
    assert flag.structures == ("L3/L4", "L3") and "L3/L4 (36 %), L3 (43 %)" in flag.detail and flag.kind == "note"
    by_value = {f.name: f for f in level_flags(found, MRSPINESEG, None, (1,))}["low_confidence"]
    assert set(by_value.structures) == {"L4", "L3", "L3/L4"} and "below 0.7" in by_value.detail


def test_unusual_contrast_is_an_alarm_that_stands_alone(found):
    def raised(edges: float) -> list[str]:
        flags = level_flags(
            found, MRSPINESEG, UNSURE, (1,), calibration=CALIBRATION, traits={"edges": edges, "contrast": 0.0}
        )
        return [flag.name for flag in flags]

    assert raised(-3.0) == ["unusual_contrast"]  # chance 73 %
    assert raised(0.0)[0] == "level_ambiguous"  # chance 12 %
    assert of_kind("alarm", ["gap", "unusual_contrast"]) == ["unusual_contrast", "gap"]
    flags = level_flags(found, MRSPINESEG, UNSURE, (1,), traits={"edges": -3.0})
    assert "unusual_contrast" not in {f.name for f in flags}  # not calibrated
