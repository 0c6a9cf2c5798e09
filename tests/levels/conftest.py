"""Hand-made spines: boxes along a course that each test draws, on a grid of 1 mm in plane and 4 mm slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from cps4_monai.anatomy import MRSPINESEG

SPACING = (4.0, 1.0, 1.0)


@pytest.fixture(scope="session")
def spine() -> Callable[..., np.ndarray]:
    """Factory of label maps (3, H, 160): bodies of 24 x 34 mm, discs of 8 x 32 mm, 2 mm apart."""

    def build(
        names: Sequence[str] = ("L5/S", "L5", "L4/L5", "L4", "L3/L4", "L3", "L2/L3", "L2", "L1/L2", "L1"),
        bend: Callable[[np.ndarray], np.ndarray] = lambda t: 0.0 * t,
        bottom_mm: float = 40.0,
        height: int = 320,
    ) -> np.ndarray:
        h, w = np.mgrid[0:height, 0:160].astype(float)
        up = height - bottom_mm - h  # superior of the bottom of the chain
        fine = np.arange(-60.0, height + 60.0, 0.5)
        slope = np.gradient(bend(fine), fine)
        arc = np.concatenate([[0.0], np.cumsum(0.5 * np.hypot(1.0, slope[:-1]))])
        arc -= np.interp(0.0, fine, arc)
        offset = (w - 80.0) - bend(up)
        local = np.interp(up, fine, slope)
        across = offset / np.hypot(1.0, local)
        along = np.interp(up + across * local / np.hypot(1.0, local), fine, arc)
        plane = np.zeros((height, 160), np.uint8)
        place = 0.0
        for name in names:
            code = MRSPINESEG.code_of(name)
            thick, deep = (8.0, 16.0) if "/" in name else (24.0, 17.0)
            plane[(along >= place) & (along < place + thick) & (np.abs(across) < deep)] = code
            place += thick + 2.0
        return np.repeat(plane[None], 3, axis=0)

    return build


@pytest.fixture(scope="session")
def code() -> Callable[[str], int]:
    """Code of a short name."""
    return MRSPINESEG.code_of


@pytest.fixture(scope="session")
def spacing() -> tuple[float, float, float]:
    """Spacing of the hand-made spines: (slice, H, W) in mm."""
    return SPACING
