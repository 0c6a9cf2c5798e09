"""The segmentation for 3D Slicer: read back by pynrrd, with the fields of Slicer's developer guide."""

from __future__ import annotations

import numpy as np
import pytest

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.inference.seg_nrrd import seg_nrrd_bytes

nrrd = pytest.importorskip("nrrd", reason="pynrrd of the extra `slicer` is not installed")


def test_voxels_geometry_and_names_are_read_back(make_scan, tmp_path):
    scan = make_scan()
    path = tmp_path / "a.seg.nrrd"
    path.write_bytes(seg_nrrd_bytes(scan.label, scan.affine, MRSPINESEG))
    array, header = nrrd.read(str(path))
    np.testing.assert_array_equal(array, scan.label)
    # The affine has L-P-S axes: rows of the directions are the axes, in LPS.
    np.testing.assert_allclose(header["space directions"], np.diag([4.0, 2.0, 2.0]))
    np.testing.assert_allclose(header["space origin"], [-8, -30, -90])
    assert header["space"] == "left-posterior-superior" and header["Segmentation_SourceRepresentation"]
    present = [int(code) for code in np.unique(scan.label) if code]
    for number, code in enumerate(present):
        assert header[f"Segment{number}_Name"] == MRSPINESEG[code].name
        assert header[f"Segment{number}_LabelValue"] == str(code) and header[f"Segment{number}_Layer"] == "0"
        low = np.argwhere(scan.label == code).min(axis=0)
        assert [int(v) for v in header[f"Segment{number}_Extent"].split()[::2]] == low.tolist()
    assert f"Segment{len(present)}_Name" not in header
    assert "~SCT^49668003^L5 vertebra~" in header["Segment0_Tags"]


def test_an_oblique_affine_keeps_its_directions(make_scan, tmp_path):
    turn = np.array([[0.8, 0.6, 0, 0], [-0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    affine = turn @ make_scan().affine
    (tmp_path / "a.seg.nrrd").write_bytes(seg_nrrd_bytes(make_scan().label, affine, MRSPINESEG))
    header = nrrd.read_header(str(tmp_path / "a.seg.nrrd"))
    for axis in range(3):  # LPS: x and y change sign
        np.testing.assert_allclose(header["space directions"][axis], affine[:3, axis] * [-1, -1, 1])
