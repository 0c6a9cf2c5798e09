from __future__ import annotations

import numpy as np
import pytest

from cps4_monai.data.nifti_file import InvalidVolumeError
from cps4_monai.inference.dicom import folder_key, list_series, read_dicom
from cps4_monai.inference.sources import find_sources

sitk = pytest.importorskip("SimpleITK", reason="the extra `dicom` is not installed")


def write_series(folder, array, spacing=(2.0, 2.0, 4.0), uid="1", orientation=(0, 1, 0, 0, 0, -1), **tags):
    """A series of slices (rows, columns) along the first axis of ``array``, sagittal unless told otherwise.

    Tags are named ``t0008_103e="T2"``; ``positions`` replaces the even places along the normal.
    """
    folder.mkdir(parents=True, exist_ok=True)
    positions = tags.pop("positions", np.arange(len(array)) * spacing[2])
    normal = np.cross(orientation[:3], orientation[3:])
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for index, (one, place) in enumerate(zip(array, positions, strict=True)):
        image = sitk.GetImageFromArray(one.astype(np.int16))
        image.SetSpacing(spacing[:2])
        values = {
            "0008|0060": "MR", "0008|0016": "1.2.840.10008.5.1.4.1.1.4", "0008|0018": f"1.2.3.{uid}.{index + 1}",
            "0020|000e": f"1.2.3.{uid}", "0020|000d": "1.2.3", "0008|0008": "ORIGINAL\\PRIMARY\\M",
            "0008|103e": "T2 SAG", "0020|0013": str(index + 1),
            "0020|0032": "\\".join(f"{v:.4f}" for v in np.array([5.0, -30, 90]) + place * normal),
            "0020|0037": "\\".join(map(str, orientation)),
            **{tag[1:].replace("_", "|"): value for tag, value in tags.items()},
        }  # fmt: skip
        for tag, value in values.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{uid}_{index:03d}.dcm"))
        writer.Execute(image)
    return folder


def sagittal(scan):
    """(slices, rows down, columns back) of a coded scan, whose axes run left, back and up."""
    return scan.image.transpose(0, 2, 1)[:, ::-1]


def test_a_series_becomes_a_volume_with_its_geometry(tmp_path, make_scan):
    scan = make_scan()
    volume = read_dicom(write_series(tmp_path / "s", sagittal(scan)))
    assert sorted(volume.shape) == sorted(scan.image.shape) and not volume.warnings
    assert sorted(volume.spacing_mm) == [2.0, 2.0, 4.0]
    corner = volume.affine @ [0, 0, 0, 1]  # LPS (5, -30, 90) is RAS (-5, 30, 90); GDCM may begin at either end
    assert corner[1:3] == pytest.approx([30, 90])
    assert volume.content_key == folder_key(tmp_path / "s")


def test_a_dicom_scan_is_segmented_like_its_nifti_twin(tmp_path, make_scan, segmenter):
    scan = make_scan()
    result = segmenter(write_series(tmp_path / "s", sagittal(scan)), qc=False)
    volumes = segmenter(scan.nifti(), qc=False).volumes_ml
    assert result.volumes_ml == pytest.approx(volumes)
    assert [flag.name for flag in result.flags] == ["cut_structure"]


@pytest.mark.parametrize("tags", [
    {"t0008_103e": "localizer_3plane"}, {"t0008_103e": "LOC"}, {"t0008_103e": "Scout"},
    {"t0008_0008": "ORIGINAL\\PRIMARY\\LOCALIZER"}, {"t0008_0060": "CT"},
])  # fmt: skip
def test_localizers_and_other_modalities_are_passed_over_with_a_warning(tmp_path, make_scan, tags):
    write_series(tmp_path / "s", sagittal(make_scan()))
    write_series(tmp_path / "s", np.ones((3, 8, 8)), uid="2", **tags)
    volume = read_dicom(tmp_path / "s")
    assert sorted(volume.shape) == [5, 40, 96]
    assert len(volume.warnings) == 1 and "passed over" in volume.warnings[0]


def test_several_series_are_listed_and_none_is_guessed(tmp_path, make_scan):
    write_series(tmp_path / "s", sagittal(make_scan()))
    write_series(tmp_path / "s", sagittal(make_scan()), uid="2", t0008_103e="T2 FS")
    with pytest.raises(InvalidVolumeError, match=r"2 series.*T2 SAG.*T2 FS.*folder of its own"):
        read_dicom(tmp_path / "s")
    assert len(list_series(tmp_path / "s")) == 2 and folder_key(tmp_path / "s") == ""


def test_only_a_localizer_is_no_scan(tmp_path):
    with pytest.raises(InvalidVolumeError, match="0 series"):
        read_dicom(write_series(tmp_path / "s", np.ones((3, 8, 8)), t0008_103e="localizer"))


def test_echoes_and_missing_slices_are_noticed(tmp_path, make_scan):
    array = sagittal(make_scan())
    with pytest.raises(InvalidVolumeError, match="several images at one place"):
        read_dicom(write_series(tmp_path / "echoes", array, positions=[0, 4, 8, 8, 12]))
    volume = read_dicom(write_series(tmp_path / "gap", array, positions=[0, 4, 8, 12, 20]))
    assert any("are slices missing" in warning for warning in volume.warnings)


def test_damaged_files_are_a_clear_error(tmp_path, make_scan):
    folder = write_series(tmp_path / "s", sagittal(make_scan()))
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(InvalidVolumeError, match="To mend"):
        read_dicom(folder)


def test_several_frames_in_one_file_are_told_how_to_mend(tmp_path, make_scan):
    image = sitk.GetImageFromArray(sagittal(make_scan()).astype(np.int16))
    image.SetMetaData("0008|0060", "MR")
    (tmp_path / "s").mkdir()
    sitk.WriteImage(image, str(tmp_path / "s" / "enhanced.dcm"))
    with pytest.raises(InvalidVolumeError, match=r"enhanced DICOM.*dcm2niix"):
        read_dicom(tmp_path / "s")


def test_series_folders_are_found_beside_nifti_files(tmp_path, make_scan):
    write_series(tmp_path / "pat1" / "t2", sagittal(make_scan()))
    write_series(tmp_path / "pat2", sagittal(make_scan()))
    make_scan().save(tmp_path / "scan.nii.gz")
    assert [(s.name, s.kind) for s in find_sources([tmp_path]).scans] == [
        ("scan", "nifti"), ("pat1/t2", "dicom"), ("pat2", "dicom"),
    ]  # fmt: skip
    assert [s.name for s in find_sources([tmp_path / "pat2"]).scans] == ["pat2"]
