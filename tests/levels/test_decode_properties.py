"""Properties of decoding over random errors, and the real label maps of train and val."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.levels.decode import decode_levels

corruption = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("corruption.py"))))

_ORDER = np.array([-1 if s.order is None else s.order for s in MRSPINESEG.structures])


def corrupt(labels, seed):
    """One to three random errors and some islands."""
    rng = np.random.default_rng(seed)
    present = [s for s in MRSPINESEG.foreground if np.count_nonzero(labels == s.code) > 2000]
    for _ in range(int(rng.integers(1, 4))):
        structure = present[int(rng.integers(len(present)))]
        other = next(s for s in present if s.kind == structure.kind and abs(s.order - structure.order) == 2)
        choice = int(rng.integers(3))
        if choice == 0:
            labels = np.where(labels == structure.code, other.code, labels).astype(np.uint8)
        elif choice == 1 and np.any(labels == structure.code):
            along = ("height", "slices")[int(rng.integers(2))]
            labels = corruption.split_structure(labels, structure.code, other.code, rng, along)
        else:
            start = int(rng.integers(8, 12))
            labels = corruption.shift_levels(labels, MRSPINESEG, start, start + 2, 2)
    return corruption.add_islands(labels, range(2, 20), rng, 6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 100_000))
def test_decoding_is_idempotent_ordered_and_blind_to_left_and_right(seed):
    labels = corrupt(_SPINE, seed)
    once = decode_levels(labels, None, (4.0, 1.0, 1.0), unannotated=(1,))
    again = decode_levels(once.labels, None, (4.0, 1.0, 1.0), unannotated=(1,))
    np.testing.assert_array_equal(again.labels, once.labels)
    flipped = decode_levels(labels[::-1], None, (4.0, 1.0, 1.0), unannotated=(1,))
    np.testing.assert_array_equal(flipped.labels[::-1], once.labels)
    codes = np.unique(once.labels)[1:]
    heights = {int(_ORDER[c]): float(np.mean(np.nonzero(once.labels == c)[1])) for c in codes}
    orders = sorted(heights)
    assert np.all(np.diff([heights[o] for o in orders]) < 0)  # superior is a smaller row
    assert orders == list(range(orders[0], orders[0] + len(orders)))


def _spine() -> np.ndarray:
    labels = np.zeros((5, 330, 90), np.uint8)
    row = 300
    for structure in MRSPINESEG.along_spine()[1:14]:
        thick, low, high = (8, 28, 60) if structure.kind == "disc" else (24, 26, 62)
        labels[:, row - thick : row, low:high] = structure.code
        row -= thick + 2
    return labels


_SPINE = _spine()


@pytest.fixture(scope="module")
def real(spider_dir):
    """(subject, labels (D, H, W), spacing) of four train subjects and the val subjects, never test."""
    nibabel = pytest.importorskip("nibabel")
    splits = json.loads((spider_dir / "splits.json").read_text())
    cases = []
    for subject in [*splits["train"][::5], *splits["val"]]:
        image = nibabel.load(spider_dir / "volumes" / f"{subject}_dseg.nii.gz")
        labels = np.ascontiguousarray(np.asarray(image.dataobj).astype(np.uint8).transpose(0, 2, 1))
        zooms = [float(z) for z in image.header.get_zooms()[:3]]
        cases.append((subject, labels, (zooms[0], zooms[2], zooms[1])))
    return cases


def _all_levels_right(result, labels):
    codes = [c for c in np.unique(labels)[1:].tolist() if np.count_nonzero(labels == c) > 300]
    return all(np.bincount(result[labels == c], minlength=20).argmax() == c for c in codes)


def test_real_labels_stay_but_for_crumbs(real):
    for subject, labels, spacing in real:
        result = decode_levels(labels, None, spacing, unannotated=(1,))
        assert result.changed_voxels <= 20 and result.dropped == 0 and result.renamed == (), subject
        assert result.margin.anchored, subject


def test_real_labels_with_random_errors_are_repaired(real):
    repaired = []
    for index, (_, labels, spacing) in enumerate(real):
        for seed in range(2):
            broken = corrupt(labels, 10 * index + seed)
            repaired.append(_all_levels_right(decode_levels(broken, None, spacing, unannotated=(1,)).labels, labels))
    assert np.mean(repaired) >= 0.9
