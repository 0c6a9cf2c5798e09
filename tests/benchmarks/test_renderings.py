"""Rendered contrasts: where they are bright and dark, and what stays where it was."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from renderings import RENDERINGS, behind, bright_discs, invert

TISSUES = [2, 3, 4], [11, 12]


def scan(fluid: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
    """Bodies of 0.5, discs of 0.2, fluid behind them, fat of 0.8 in front, muscle of 0.25 far behind, air beyond."""
    image = np.zeros((1, 50, 60), dtype=np.float32)
    label = np.zeros((1, 50, 60), dtype=np.uint8)
    image[:, :, :15], image[:, :, 40:55] = 0.8, 0.25
    image[:, :, 25:40] = fluid
    for row, code in enumerate([4, 12, 3, 11, 2]):
        label[:, 10 * row : 10 * row + 10, 15:25] = code
        image[:, 10 * row : 10 * row + 10, 15:25] = 0.2 if code > 10 else 0.5
    return image, label


@pytest.mark.parametrize("fluid", [0.9, 0.05])
def test_discs_and_fluid_are_bright_marrow_and_fat_dark_muscle_grey_on_t2w_and_t1w(fluid: float) -> None:
    image, label = scan(fluid)
    new = bright_discs(image, label, 1.0, TISSUES)
    body, disc = new[0, 5, 20], new[0, 15, 20]
    fat, muscle, canal = new[0, 25, 5], new[0, 25, 50], new[0, 25, 35]
    assert disc == pytest.approx(0.8, abs=0.01) and body == pytest.approx(0.22, abs=0.01)
    assert canal > 0.75 and fat < 0.2 and muscle == pytest.approx(0.4, abs=0.02) and new[0, 25, 59] == 0
    assert new.dtype == np.float32 and new.min() >= 0 and new.max() <= 1


def test_inverting_twice_gives_tissue_back_and_leaves_air_dark() -> None:
    image, label = scan()
    np.testing.assert_allclose(invert(invert(image, label, 1.0, TISSUES), label, 1.0, TISSUES), image, atol=1e-6)
    assert invert(image, label, 1.0, TISSUES)[0, 25, 59] == 0
    assert list(RENDERINGS) == ["inverted", "bright discs"]


def test_behind_by_hand() -> None:
    mask = np.zeros((1, 2, 8), dtype=bool)
    mask[0, 0, 1:4] = True
    strip = behind(mask, 1, 3)
    assert strip[0, 0].tolist() == [False] * 5 + [True, True, False] and not strip[0, 1].any()


def test_a_label_without_discs_is_refused() -> None:
    image, label = scan()
    label[label > 10] = 0
    with pytest.raises(ValueError, match="0 of discs; expected both"):
        bright_discs(image, label, 1.0, TISSUES)
