"""Traits of a result: hand-worked values, and what tells a ragged result from a neat one."""

from __future__ import annotations

import numpy as np
import pytest

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.levels.statistics import Confidence, structure_statistics
from cps4_monai.levels.traits import TRAITS, scan_traits

AFFINE = np.diag([4.0, 1.0, 1.0, 1.0])
SURE = {s.code: Confidence(0.9) for s in MRSPINESEG.foreground}


def shown(labels: np.ndarray, body: float = 0.6, disc: float = 0.2, around: float = 0.1) -> np.ndarray:
    """A picture without noise of a label map."""
    by_kind = {"vertebra": body, "disc": disc, "background": around, "sacrum": body}
    return np.array([by_kind[s.kind] for s in MRSPINESEG.structures], dtype=np.float32)[labels]


def traits(image: np.ndarray, argmax: np.ndarray, labels: np.ndarray | None = None) -> dict[str, float]:
    labels = argmax if labels is None else labels
    found = structure_statistics(labels, AFFINE, MRSPINESEG)
    return scan_traits(image, argmax, labels, SURE, found, MRSPINESEG)


@pytest.fixture
def labels(spine) -> np.ndarray:
    return np.pad(spine(), ((1, 1), (0, 0), (0, 0)))


def test_traits_by_hand(labels):
    values = traits(shown(labels), labels)
    assert tuple(values) == TRAITS
    assert values["confidence"] == pytest.approx(0.9) and values["kept"] == 1.0
    assert values["contrast"] == pytest.approx(np.log(0.22 / 0.62), abs=1e-4)
    assert values["body_height"] == pytest.approx(abs(np.log(24 / 26)), abs=0.03)
    assert values["body_sizes"] == pytest.approx(np.log(0.02), abs=0.2)  # all of one size
    # Bodies in front of 0.1 step by 0.5, discs by 0.1, nothing steps within: log of their mean over 0.001.
    assert values["edges"] == pytest.approx(np.log(0.33 / 0.001), abs=0.4)


def test_pieces_of_another_kind_are_not_kept_and_renamed_ones_are(labels):
    argmax = labels.copy()
    argmax[labels == MRSPINESEG.code_of("L3")] = MRSPINESEG.code_of("L2")  # renamed by the decoding
    assert traits(shown(labels), argmax, labels)["kept"] == 1.0
    argmax[labels == MRSPINESEG.code_of("L3")] = MRSPINESEG.code_of("L3/L4")
    share = (labels == MRSPINESEG.code_of("L3")).sum() / (labels > 0).sum()
    assert traits(shown(labels), argmax, labels)["kept"] == pytest.approx(1 - share)


def test_ragged_structures_across_edges_look_otherwise(labels):
    image = shown(labels)
    ragged = np.roll(labels, 12, axis=1)
    for name, rows in (("L4", 14), ("L2", 8)):
        at = np.argwhere(ragged == MRSPINESEG.code_of(name))
        ragged[tuple(at[at[:, 1] < at[:, 1].min() + rows].T)] = 0
    neat, odd = traits(image, labels), traits(image, ragged)
    assert odd["edges"] < neat["edges"] - 1 and odd["body_sizes"] > neat["body_sizes"] + 1
    assert odd["body_heights"] > neat["body_heights"] + 1


def test_traits_of_nothing_and_of_one_structure_are_finite(labels):
    empty = np.zeros_like(labels)
    one = np.where(labels == MRSPINESEG.code_of("L3"), labels, 0)
    for argmax, result in ((empty, empty), (labels, empty), (one, one)):
        values = traits(shown(labels), argmax, result)
        assert tuple(values) == TRAITS and np.isfinite(list(values.values())).all()
