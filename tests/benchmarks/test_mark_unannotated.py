"""The script that marks what `lumbar_t1` does not label."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

SPEC = importlib.util.spec_from_file_location(
    "mark_unannotated", Path(__file__).parents[2] / "benchmarks" / "mark_unannotated.py"
)
assert SPEC is not None and SPEC.loader is not None
script = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(script)


def spine(shear=0.0):
    """Two bodies of 36 x 30 pixels with a disc of 12 between them; axes (W, H), H from superior to inferior."""
    codes = np.zeros((120, 180), np.uint8)
    for code, start, stop in ((6, 60, 90), (15, 90, 102), (5, 102, 132)):
        for column in range(42, 78):
            shift = round(shear * (column - 60))
            codes[column, start + shift : stop + shift] = code
    return codes


def test_all_above_a_level_end_plate_is_beyond_it():
    over = script.beyond(spine(), 6, 15)
    assert over[:, :60].all() and not over[:, 60:].any()


@pytest.mark.parametrize("shear", [0.2, -0.3])
def test_the_line_follows_a_tilted_end_plate_over_the_whole_width(shear):
    codes = spine(shear)
    over = script.beyond(codes, 6, 15)
    borders = over.argmin(axis=1)  # first row of each column that is not beyond
    assert np.abs(borders - (60 + shear * (np.arange(120) - 60))).max() <= 3
    assert not over[codes > 0].any()


def test_a_hollow_end_plate_is_filled():
    codes = spine()
    codes[54:66, 60:64] = 0
    over = script.beyond(codes, 6, 15)
    assert over[54:66, 60:64].all() and not over[20, 61] and not over[codes > 0].any()


def test_without_the_disc_beside_the_body_it_is_refused():
    codes = spine()
    codes[codes == 15] = 0
    with pytest.raises(ValueError, match="no labeled disc beside the last body"):
        script.beyond(codes, 6, 15)
