"""The segmentation for 3D Slicer: read back by pynrrd, with the fields of Slicer's developer guide."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cps4_monai.anatomy import MRSPINESEG, Anatomy
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
    assert f"Segment{len(present)}_Name" not in header
    assert "~SCT^49668003^L5 vertebra~" in header["Segment0_Tags"]


def as_slicer_reads(header, array):
    """(X, Y, Z) codes by name, by the rules of ``vtkMRMLSegmentationStorageNode::ReadBinaryLabelmapRepresentation``.

    Segments are counted while there is an ID; a layer is cut to the extent of its first segment, and each segment is
    what has its label value there. A tag ends at ``|`` and has a name before ``:``; one without is read for ever.
    """
    layers, segments, number = {}, {}, 0
    while f"Segment{number}_ID" in header:
        field = {
            key: header.get(f"Segment{number}_{key}", "") for key in ("Layer", "Extent", "Tags", "Name", "LabelValue")
        }
        if field["Layer"] not in layers:
            extent = np.array(field["Extent"].split(), int).reshape(3, 2)
            kept = tuple(slice(first, last + 1) for first, last in extent)
            layers[field["Layer"]] = np.zeros_like(array)
            layers[field["Layer"]][kept] = array[kept]
        assert all(":" in tag for tag in field["Tags"].split("|")[:-1])
        segments[field["Name"]] = layers[field["Layer"]] == int(field["LabelValue"])
        number += 1
    return segments


def test_letters_that_the_format_does_not_have_do_not_lose_the_file(make_scan, tmp_path):
    renamed = [dataclasses.replace(s, name=f"{s.name} Kreuz für Steißbein") for s in MRSPINESEG.structures]
    scan = make_scan()
    (tmp_path / "a.seg.nrrd").write_bytes(seg_nrrd_bytes(scan.label, scan.affine, Anatomy(renamed)))
    assert nrrd.read_header(str(tmp_path / "a.seg.nrrd"))["Segment0_Name"].endswith(" Kreuz fur Stei?bein")


@pytest.mark.parametrize("ending", ["", " of a cat"])
def test_by_the_rules_of_slicers_reader_every_structure_is_whole(make_scan, tmp_path, ending):
    """A name that the anatomy's table does not have has no standard code, and no tags."""
    renamed = [dataclasses.replace(structure, name=structure.name + ending) for structure in MRSPINESEG.structures]
    scan, anatomy = make_scan(), Anatomy(renamed)
    (tmp_path / "a.seg.nrrd").write_bytes(seg_nrrd_bytes(scan.label, scan.affine, anatomy))
    array, header = nrrd.read(str(tmp_path / "a.seg.nrrd"))
    segments = as_slicer_reads(header, array)
    assert list(segments) == [anatomy[int(code)].name for code in np.unique(scan.label) if code]
    for name, inside in segments.items():
        np.testing.assert_array_equal(inside, scan.label == anatomy.code_of(name))
    assert header["Segmentation_ReferenceImageExtentOffset"] == "0 0 0"
    assert ("Segment0_Tags" in header) is (not ending)


def test_an_oblique_affine_keeps_its_directions(make_scan, tmp_path):
    turn = np.array([[0.8, 0.6, 0, 0], [-0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    affine = turn @ make_scan().affine
    (tmp_path / "a.seg.nrrd").write_bytes(seg_nrrd_bytes(make_scan().label, affine, MRSPINESEG))
    header = nrrd.read_header(str(tmp_path / "a.seg.nrrd"))
    for axis in range(3):  # LPS: x and y change sign
        np.testing.assert_allclose(header["space directions"][axis], affine[:3, axis] * [-1, -1, 1])
