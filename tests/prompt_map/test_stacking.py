"""Stacking of overlapping maps, worked out by hand."""

from __future__ import annotations

import pytest
import torch

from cps4_monai.prompt_map.stacking import stack_prompt_maps

# Four pixels: only class 1 holds; classes 1 and 2 hold; none holds; 0 is highest but below its threshold.
SCORES = torch.tensor([[0.1, 0.2, 0.2, 0.6], [0.7, 0.6, 0.3, 0.5], [0.2, 0.8, 0.1, 0.1]]).view(1, 3, 1, 4)
THRESHOLDS = torch.tensor([[0.65, 0.4, 0.5]])


@pytest.mark.parametrize(
    ("stacking", "expected"),
    [("masked_argmax", [1, 2, 0, 1]), ("ignore_empty", [1, 2, -1, 1]), ("argmax", [1, 2, 1, 0])],
)
def test_each_mode_by_hand(stacking, expected):
    result = stack_prompt_maps(SCORES, THRESHOLDS, stacking)
    assert result.shape == (1, 1, 1, 4)
    assert result.dtype == torch.int64
    assert result.flatten().tolist() == expected


@pytest.mark.parametrize("stacking", ["masked_argmax", "argmax"])
@pytest.mark.parametrize("threshold", [float("inf"), float("nan")])
def test_dropped_classes_never_appear(stacking, threshold):
    thresholds = THRESHOLDS.clone()
    thresholds[0, 1] = threshold
    assert 1 not in stack_prompt_maps(SCORES, thresholds, stacking).unique()


@pytest.mark.parametrize("stacking", ["masked_argmax", "argmax"])
def test_all_classes_dropped_is_background(stacking):
    assert not stack_prompt_maps(SCORES, torch.full((1, 3), torch.inf), stacking).any()


def test_unknown_mode_and_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="stacking is 'sum'"):
        stack_prompt_maps(SCORES, THRESHOLDS, "sum")
    with pytest.raises(ValueError, match=r"thresholds \(1, 2\)"):
        stack_prompt_maps(SCORES, THRESHOLDS[:, :2])
