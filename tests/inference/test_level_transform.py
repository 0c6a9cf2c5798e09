from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.transforms import Compose

from cps4_monai.inference.level_transform import DecodeLevelsd
from cps4_monai.inference.slice_inferer import SliceBatchInferer
from cps4_monai.transforms.volume_io import LoadVolumed, ToSagittalSlicesd


def test_the_configs_transforms_give_what_the_command_gives(segmenter, make_scan, tmp_path):
    scan = make_scan()
    scan.image[2, 2:4, 80:82] = scan.image[2, 15, 20]  # an island that decoding removes
    path = scan.save(tmp_path / "scan.nii.gz")
    data = Compose([LoadVolumed("image"), ToSagittalSlicesd("image", spacing_mm=2.0)])({"image": path})
    with torch.no_grad():
        data["pred"] = SliceBatchInferer(3)(data["image"][None], segmenter.network)[0]
    before = data["pred"].clone()
    decoded = DecodeLevelsd(unannotated=(1,))(data)
    result, record = decoded["pred"], segmenter(path, qc=False).record
    assert decoded["result"] == {"flags": record["Flags"], "margin": record["Levels"]["margin"]} and record["Flags"]
    np.testing.assert_array_equal(result.numpy()[0], segmenter(path, qc=False).labels)
    np.testing.assert_array_equal(result.numpy()[0], scan.label)
    torch.testing.assert_close(data["pred"], before)


def test_codes_instead_of_scores_are_told(make_scan, tmp_path):
    path = make_scan().save(tmp_path / "scan.nii.gz")
    data = Compose([LoadVolumed("image"), ToSagittalSlicesd("image", spacing_mm=2.0)])({"image": path})
    data["pred"] = torch.zeros(1, 5, 96, 40)
    with pytest.raises(ValueError, match="right behind the network"):
        DecodeLevelsd()(data)
