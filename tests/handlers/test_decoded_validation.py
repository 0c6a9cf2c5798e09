"""Levels decoded in validation: of the part of the slices that shows the scan, as `cps4 segment` decodes them."""

from __future__ import annotations

import pytest
import torch

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.handlers import decoded_validation
from cps4_monai.handlers.decoded_validation import DecodedPredictiond


@pytest.mark.parametrize(("given", "view"), [({"view": torch.tensor([4, 16, 3, 13])}, (4, 16, 3, 13)), ({}, None)])
def test_padding_is_no_part_of_the_view(given, view, monkeypatch):
    real, seen = decoded_validation.decode_levels, []
    monkeypatch.setattr(
        decoded_validation, "decode_levels", lambda *args, **more: (seen.append(more["view"]), real(*args, **more))[1]
    )
    scores = torch.randn(MRSPINESEG.num_classes, 2, 20, 16, generator=torch.Generator().manual_seed(0))
    item = {"pred": scores, "spacing_mm": torch.tensor([4.0, 2.0, 2.0]), **given}
    decoded = DecodedPredictiond("pred", MRSPINESEG)(item)["decoded"]
    assert seen == [view] and decoded.shape == (1, 2, 20, 16)


def test_an_item_without_a_spacing_is_refused():
    with pytest.raises(ValueError, match="no 'spacing_mm'"):
        DecodedPredictiond("pred", MRSPINESEG)({"pred": torch.zeros(20, 1, 4, 4)})
