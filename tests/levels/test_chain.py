"""The dynamic program on hand-made candidates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cps4_monai.levels.chain import Candidates, ChainScale, decode_chain
from cps4_monai.levels.margin import shift_margin
from cps4_monai.levels.settings import LevelThresholds

LEVELS = ["disc", "vertebra"] * 6
SCALE = ChainScale(
    17.0, {"disc": 9.0, "vertebra": 25.0}, {"disc": 23.0, "vertebra": 36.0}, {"disc": 34.0, "vertebra": 36.0}
)


def chain(believed, places=None, certainty=0.8, weight=None):
    """Candidates whose probabilities favour the levels ``believed``, one step apart unless placed."""
    n = len(believed)
    kind = np.array([LEVELS[b] for b in believed])
    probability = np.full((n, len(LEVELS)), 0.01)
    probability[np.arange(n), believed] = certainty
    of_kind = kind[:, None] == np.array(LEVELS)[None, :]
    place = 17.0 * np.arange(n) if places is None else np.asarray(places, float)
    far = np.abs(place[:, None] - place[None, :])
    return Candidates(
        log_levels=np.where(of_kind, np.log(probability), -np.inf),
        log_background=np.full(n, np.log(0.1)),
        weight=np.ones(n) if weight is None else np.asarray(weight, float),
        kind=kind,
        place_mm=place,
        across_mm=np.zeros(n),
        shortfall_mm=np.zeros(n),
        at_border=np.zeros(n, bool),
        union_height_mm=far + 8.0,
        room_below_mm=10.0 + place,
        room_above_mm=10.0 + place.max() - place,
    )


def levels_of(candidates, **keywords):
    return decode_chain(candidates, SCALE, LevelThresholds(**keywords))[0].tolist()


def test_a_consistent_chain_is_kept():
    assert levels_of(chain([2, 3, 4, 5, 6])) == [2, 3, 4, 5, 6]


def test_the_score_is_the_gain_over_dropping_all():
    _, score = decode_chain(chain([0, 1, 2]), SCALE, LevelThresholds(skip_penalty=2.0))
    assert score == pytest.approx(3 * (np.log(0.8) - np.log(0.1) + 2.0))


def test_the_majority_mends_one_wrong_level():
    assert levels_of(chain([0, 1, 2, 5, 4, 5, 6])) == [0, 1, 2, 3, 4, 5, 6]


def test_a_repeated_level_a_step_on_is_no_piece():
    assert levels_of(chain([0, 1, 2, 1, 4, 5, 6])) == [0, 1, 2, 3, 4, 5, 6]


def test_a_missing_disc_leaves_its_level_open():
    assert levels_of(chain([0, 1, 3, 4, 5], places=[0, 17, 51, 68, 85])) == [0, 1, 3, 4, 5]


def test_two_near_pieces_share_a_level():
    assert levels_of(chain([0, 1, 1, 2, 3], places=[0, 12, 22, 34, 51])) == [0, 1, 1, 2, 3]


def test_a_false_disc_beside_the_spine_is_dropped():
    spurious = chain([0, 1, 2, 8, 3, 4], places=[0, 17, 34, 43, 51, 68], weight=[1, 1, 1, 0.3, 1, 1])
    spurious.across_mm[3] = 30.0
    assert levels_of(spurious) == [0, 1, 2, -1, 3, 4]


def test_the_margin_is_the_lead_over_the_nearer_shift():
    candidates = chain([4, 5, 6])
    candidates.log_levels[:, 6:9] = np.where(np.isfinite(candidates.log_levels[:, 6:9]), np.log(0.2), -np.inf)
    candidates.log_levels[2, 6] = np.log(0.8)
    margin = shift_margin(candidates, np.array([4, 5, 6]), 2, True)
    assert margin.score == pytest.approx(np.log(0.8))
    assert margin.score_up == pytest.approx(np.log(0.2))
    assert margin.margin == pytest.approx(np.log(4.0))


def test_a_level_shifted_off_the_table_counts_as_background():
    margin = shift_margin(chain([0, 1]), np.array([0, 1]), 2, True)
    assert margin.score_down == pytest.approx(np.log(0.1))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3), st.integers(2, 8), st.integers(0, 10_000), st.floats(0.0, 1.0))
def test_levels_ascend_one_by_one_whatever_the_evidence(first, count, seed, noise):
    rng = np.random.default_rng(seed)
    candidates = chain([first + i for i in range(count)], places=17.0 * np.arange(count) + rng.normal(0, 2, count))
    shape = candidates.log_levels.shape
    random = np.log(rng.dirichlet(np.ones(shape[1]), size=shape[0]).clip(0.01))
    own = np.isfinite(candidates.log_levels)
    candidates.log_levels[own] = (1 - noise) * candidates.log_levels[own] + noise * random[own]
    found = np.array(levels_of(candidates))
    kept = found[found >= 0]
    assert np.all(np.diff(kept) > 0)
    whole = np.flatnonzero(found >= 0)
    assert np.all(np.diff(kept) == np.diff(whole))  # neighbours are neighbours: no level is skipped without a place
