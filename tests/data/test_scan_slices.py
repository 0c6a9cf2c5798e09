"""One way for a scan: cache, MONAI transforms and segmenter give the same slices, labels, warnings and errors."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.data.cache import SliceCache
from cps4_monai.data.in_plane import InPlane
from cps4_monai.data.scan_labels import scores_of
from cps4_monai.data.volume import InvalidVolumeError
from cps4_monai.inference.prepared import read_and_prepare
from cps4_monai.inference.restore import restore_labels
from cps4_monai.transforms.volume_io import LoadVolumed, RestoreLabelsd, ToSagittalSlicesd

IN_PLANE = InPlane((40, 24), 1.7)


def save(path, spacing=(4.0, 1.0, 1.1), shape=(4, 50, 60)):
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    nib.save(nib.Nifti1Image(array, np.diag([*spacing, 1.0])), path)
    return path


def by_transform(path):
    settings = {"spacing_mm": IN_PLANE.spacing_mm, "size": IN_PLANE.size}
    return ToSagittalSlicesd("image", **settings)(LoadVolumed("image")({"image": path}))


def routes(path, folder):
    """Slices and warnings of the three routes."""
    cached, item, scan = SliceCache(folder, IN_PLANE).image(path), by_transform(path)["image"], None
    scan = read_and_prepare(path, IN_PLANE)
    return {
        "cache": (torch.from_numpy(np.array(cached.array)), cached.warnings),
        "transform": (item.as_tensor()[0].half(), tuple(filter(None, item.meta["warnings"].splitlines()))),
        "segmenter": (scan.slices.half(), scan.warnings),
    }


@pytest.mark.parametrize("shape", [(4, 50, 60), (4, 30, 40)])
def test_the_routes_give_the_same_slices_and_warnings(tmp_path, shape):
    made = routes(save(tmp_path / "a.nii.gz", shape=shape), tmp_path / "cache")
    slices, warnings = made["segmenter"]
    assert slices.shape == (4, 40, 24) and len(warnings) == (shape != (4, 50, 60))  # 30 x 44 mm shows no two vertebrae
    for other, said in made.values():
        assert torch.equal(other, slices) and said == warnings


def test_a_field_of_more_than_two_metres_is_refused_by_all(tmp_path):
    path = save(tmp_path / "a.nii.gz", spacing=(4.0, 40.0, 41.0))
    for route in (
        SliceCache(tmp_path / "cache", IN_PLANE).image,
        by_transform,
        lambda p: read_and_prepare(p, IN_PLANE),
    ):
        with pytest.raises(InvalidVolumeError, match=r"field of view of 2460 mm.*spacing in the header, 4 x 40 x 41"):
            route(path)


def test_the_plain_argmax_is_that_of_the_segmenter(tmp_path):
    path = save(tmp_path / "a.nii.gz")
    scan, item = read_and_prepare(path, IN_PLANE), by_transform(path)
    torch.manual_seed(0)
    logits = torch.nn.functional.interpolate(torch.randn(4, 20, 8, 5), size=IN_PLANE.size, mode="bicubic")
    kept = logits.clone()
    restored = restore_labels(scores_of(logits, (1,)), IN_PLANE, scan.grid, MRSPINESEG, (1,), raw=True)
    item["pred"] = kept.transpose(0, 1)
    argmax = RestoreLabelsd(unannotated=(1,))(item)["pred"]
    np.testing.assert_array_equal(argmax[0].numpy(), scan.grid.from_slices(restored.slices))
    assert kept[:, 1].max() > 0  # the prediction itself is left as it was
