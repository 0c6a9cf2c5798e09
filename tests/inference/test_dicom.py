"""Volumes of DICOM folders: equal to those of the same scan as NIfTI, or a clear error."""

from __future__ import annotations

import os
import warnings
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pytest

from cps4_monai.data.nifti_file import InvalidVolumeError
from cps4_monai.data.volume import volume_from_nifti
from cps4_monai.inference.dicom import list_series, read_dicom, series_key
from cps4_monai.inference.dicom import series as series_module
from cps4_monai.inference.dicom.images import _stored_number


@pytest.fixture()
def scan(make_scan):
    return make_scan()


@pytest.fixture()
def slices(dicom, scan):
    """Function that makes the scan's series, with other tags or places."""
    return lambda **changes: dicom.twin_of(scan, **changes)


@pytest.fixture()
def save(dicom, tmp_path):
    """Function that writes files into a folder, after those that are there."""
    return lambda files, folder="s", **how: dicom.save_all(tmp_path / folder, files, **how)


def canonical(array, affine):
    image = nib.as_closest_canonical(nib.Nifti1Image(np.asarray(array, np.float32), affine))
    return np.asarray(image.dataobj), image.affine


def assert_equals_nifti(volume, scan):
    """Equal voxels and equal geometry, whatever the order and direction of the axes."""
    voxels, affine = canonical(volume.array, volume.affine)
    expected, expected_affine = canonical(scan.image, scan.affine)
    assert np.array_equal(voxels, expected)
    assert affine == pytest.approx(expected_affine, abs=1e-5)


def test_a_series_equals_its_nifti_twin_and_its_axes_run_left_right_back_up(save, slices, scan):
    volume = read_dicom(save(slices()))
    assert_equals_nifti(volume, scan)
    assert volume.spacing_mm == (4.0, 2.0, 2.0) and not volume.warnings  # 4 mm of the positions, not 3.6 of the slices
    assert nib.aff2axcodes(volume.affine)[0] in "LR" and volume.shape == (5, 40, 96)


@pytest.mark.parametrize("name", ["IM{}", "{}.IMA", "1.2.840.{}"])
def test_names_of_files_and_their_order_do_not_matter(save, slices, scan, name):
    assert_equals_nifti(read_dicom(save(slices()[::-1], name=name)), scan)


def test_files_without_preamble_are_read(save, slices, scan):
    folder = save(slices())
    for path in folder.iterdir():
        content = path.read_bytes()
        assert content[128:132] == b"DICM"
        path.write_bytes(content[132:])
    assert_equals_nifti(read_dicom(folder), scan)


def test_latin_1_that_is_not_declared_is_read_and_shown(save, slices, scan):
    folder = save(slices(SpecificCharacterSet="ISO_IR 100", SeriesDescription="t2_sag Rücken"))
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(b"ISO_IR 100", b"ISO_IR 6  "))
    volume = read_dicom(folder)
    assert_equals_nifti(volume, scan)
    assert volume.provenance["Series"]["Description"] == "t2_sag Rücken"


def test_places_decide_where_numbers_are_all_the_same(save, slices, scan):
    assert_equals_nifti(read_dicom(save(slices(InstanceNumber=1))), scan)


def test_an_axial_series_gets_its_axes_in_the_order_of_the_patients(dicom, save):
    array = np.random.default_rng(0).integers(0, 99, (4, 7, 6))
    volume = read_dicom(save(dicom.series_of(array, (1.5, 1.0, 3.0), orientation=dicom.AXIAL)))
    assert volume.shape == (6, 7, 4) and volume.spacing_mm == (1.0, 1.5, 3.0)
    assert np.array_equal(volume.array, array.transpose(2, 1, 0))


def test_a_sheared_stack_is_an_error_as_in_nifti(save, slices, scan):
    with pytest.raises(InvalidVolumeError, match=r"sheared by 36\.9 degrees") as dicom_error:  # atan(3 / 4)
        read_dicom(save(slices(step=(4, 3, 0))))
    sheared = scan.affine @ [[1, 0, 0, 0], [-1.5, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    with pytest.raises(InvalidVolumeError) as nifti_error:
        volume_from_nifti(nib.Nifti1Image(scan.image, sheared), path="n")
    assert dicom_error.value.found == nifti_error.value.found


def test_a_stack_sheared_by_less_than_five_degrees_keeps_its_shear(save, slices, segmenter):
    folder = save(slices(step=(4, 0.2, 0)))  # atan(0.2 / 4) = 2.9 degrees
    volume = read_dicom(folder)
    assert np.abs(volume.affine[:3, 0]) == pytest.approx([4, 0.2, 0], abs=1e-6)
    result = segmenter(folder, qc=False)
    assert result.affine == pytest.approx(volume.affine) and int(result.header["qform_code"]) == 0


def test_duplicates_are_dropped_and_said_so(save, slices, scan):
    files = slices()
    volume = read_dicom(save(files + files[1:3]))
    assert_equals_nifti(volume, scan)
    assert volume.warnings == ("2 duplicates (same SOPInstanceUID and place) were dropped: IM0005.dcm, IM0006.dcm",)


def test_one_uid_for_all_images_drops_none(save, slices, scan):
    assert_equals_nifti(read_dicom(save(slices(SOPInstanceUID="1.2.3.9"))), scan)


def test_a_missing_slice_is_an_error_that_names_the_places(save, slices):
    files = slices()
    with pytest.raises(InvalidVolumeError, match=r"8\.00 mm from \(0\.0, .*IM0001.*\(-8\.0, .*IM0000.*4\.00 mm"):
        read_dicom(save([files[0], *files[2:]]))


def test_slices_off_the_line_are_an_error(save, slices):
    files = slices()
    files[2].ImagePositionPatient = [0, -28, 100]
    with pytest.raises(InvalidVolumeError, match="uneven distances"):
        read_dicom(save(files))


def test_echoes_are_an_error_that_says_what_differs(save, slices):
    second = slices(EchoTime=80)
    for number, one in enumerate(second):
        one.SOPInstanceUID = f"1.2.4.{number}"
    with pytest.raises(InvalidVolumeError, match=r"several images at one place.*EchoTime 20\.0, 80\.0.*own"):
        read_dicom(save(slices(EchoTime=20) + second))


def test_stations_in_one_series_are_an_error(save, slices):
    lower = slices()
    for one in lower:
        one.SOPInstanceUID += ".1"
        one.ImagePositionPatient = [*one.ImagePositionPatient[:2], -90]
    with pytest.raises(InvalidVolumeError, match="side by side in one plane"):
        read_dicom(save(slices() + lower))


def test_a_stray_of_another_orientation_is_passed_over(dicom, save, slices, scan):
    stray = slices()[0]
    stray.ImageOrientationPatient, stray.SOPInstanceUID = list(dicom.AXIAL), "1.2.9"
    volume = read_dicom(save([*slices(), stray]))
    assert_equals_nifti(volume, scan)
    assert volume.warnings == ("IM0005.dcm: of another orientation than the other 5 images, passed over",)


def test_two_halves_of_other_orientations_are_an_error(dicom, save, slices):
    other = slices(ImageOrientationPatient=list(dicom.CORONAL))
    for one in other:
        one.SOPInstanceUID += ".1"
    with pytest.raises(InvalidVolumeError, match=r"several orientations in one series \(5 sagittal, 5 coronal\)"):
        read_dicom(save(slices() + other))


def test_one_image_of_another_size_or_spacing_is_named(dicom, save, slices):
    files = slices()
    dicom.set_pixels(files[1], np.ones((48, 40), int))
    with pytest.raises(InvalidVolumeError, match=r"4 of 96 x 40, 1 of 48 x 40; unlike most: IM0001\.dcm"):
        read_dicom(save(files))
    files = slices()
    files[3].PixelSpacing = [1, 1]
    with pytest.raises(InvalidVolumeError, match=r"pixel spacings.*IM0003\.dcm"):
        read_dicom(save(files, "spacing"))


@pytest.mark.parametrize("lost", [["PixelSpacing"], ["ImagePositionPatient"], ["ImageOrientationPatient"],
                                  ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"]])  # fmt: skip
@pytest.mark.parametrize("how", ["missing", "empty"])
def test_missing_geometry_is_an_error_and_assume_spacing_mends_it(save, slices, scan, lost, how):
    files = slices(step=(-4, 0, 0))  # numbers run along the normal, the direction that is assumed
    for one in files:
        for name in lost:
            delattr(one, name) if how == "missing" else setattr(one, name, None)
    folder = save(files[::-1])
    with pytest.raises(InvalidVolumeError, match=rf"no usable {lost[0]} in 5 of 5 images.*--assume-spacing"):
        read_dicom(folder)
    volume = read_dicom(folder, [4, 2, 2])
    assert volume.spacing_mm == (4, 2, 2) and volume.shape == (5, 40, 96)
    assert np.array_equal(canonical(volume.array, volume.affine)[0], canonical(scan.image, scan.affine)[0][::-1])
    assert len(volume.warnings) == 1 and all(f"no usable {name}" in volume.warnings[0] for name in lost)
    assert ("in the order of InstanceNumber, 4 mm apart" in volume.warnings[0]) == (lost != ["PixelSpacing"])


def test_assume_spacing_changes_nothing_that_the_header_says(save, slices, scan):
    assert_equals_nifti(read_dicom(save(slices()), 7.0), scan)
    files = slices()
    for one in files:
        del one.PixelSpacing
    assert read_dicom(save(files, "none"), 7.0).spacing_mm == (4.0, 7.0, 7.0)


@pytest.mark.parametrize("lost", ["ImagePositionPatient", "ImageOrientationPatient"])
@pytest.mark.parametrize("assumed", [[9, 1, 1], None])
@pytest.mark.parametrize("tags", [{}, {"InstanceNumber": 1}])
def test_geometry_that_one_image_lacks_is_not_assumed_for_all(save, slices, lost, assumed, tags):
    """The others say where they lie: a spacing for headers without any would put them elsewhere."""
    files = slices(**tags)
    delattr(files[3], lost)
    found = rf"no usable {lost} in 1 of 5 images \(IM0003\.dcm\).*in none"
    with pytest.raises(InvalidVolumeError, match=found) as error:
        read_dicom(save(files), assumed)
    assert "--assume-spacing" not in str(error.value)  # it would be refused


@pytest.mark.parametrize("spacing", [[0, 2], [-1, 2], [2]])
def test_spacing_that_is_none_is_missing(save, slices, spacing):
    with pytest.raises(InvalidVolumeError, match="no usable PixelSpacing"):
        read_dicom(save(slices(PixelSpacing=spacing)))


def test_no_place_and_no_number_is_an_error_that_no_spacing_mends(save, slices):
    files = slices(InstanceNumber=1)
    for one in files:
        del one.ImagePositionPatient
    with pytest.raises(InvalidVolumeError, match="without InstanceNumbers that order them"):
        read_dicom(save(files), 2.0)


def test_one_slice_takes_its_thickness_or_asks_for_it(save, slices):
    one = slices()[2]
    one.SpacingBetweenSlices = 4.5
    assert read_dicom(save([one])).spacing_mm == (4.5, 2, 2)
    one.SliceThickness, one.SpacingBetweenSlices = 5.5, 0
    assert read_dicom(save([one], "zero")).spacing_mm == (5.5, 2, 2)
    folder = save(slices(SliceThickness=None)[2:3], "other")
    with pytest.raises(InvalidVolumeError, match="no usable SpacingBetweenSlices or SliceThickness"):
        read_dicom(folder)
    assert read_dicom(folder, [5, 1, 1]).spacing_mm == (5, 2, 2)


def test_each_slice_is_scaled_by_its_own_slope_and_intercept(save, slices, scan):
    files = slices()
    for index, one in enumerate(files):
        factor = 1 + index % 2
        one.RescaleSlope, one.RescaleIntercept = 1 / factor, -10
        one.PixelData = ((one.pixel_array + 10) * factor).astype("<i2").tobytes()
    assert_equals_nifti(read_dicom(save(files)), scan)


def test_monochrome1_is_turned_round(save, slices, scan):
    files = slices()
    for one in files:
        one.PhotometricInterpretation = "MONOCHROME1"
        one.PixelData = (1000 - one.pixel_array).astype("<i2").tobytes()
    volume = read_dicom(save(files))
    voxels, _ = canonical(volume.array, volume.affine)
    expected, _ = canonical(scan.image, scan.affine)
    assert np.array_equal(voxels - voxels.min(), expected - expected.min())


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize(
    ("stored", "tags"),
    [
        (-32768, {"PixelPaddingValue": -32768}),
        (-32768, {"PixelPaddingValue": 32768}),  # without its sign
        (30000, {"PixelPaddingValue": 29000, "PixelPaddingRangeLimit": 31000}),
    ],
)
def test_padding_around_the_picture_is_no_grey_value(save, slices, scan, stored, tags, inverted):
    files = slices()
    for one in files:
        pixels = one.pixel_array.copy()
        pixels = 1000 - pixels if inverted else pixels
        pixels[:5] = stored
        one.PixelData = pixels.astype("<i2").tobytes()
        for name, value in tags.items():
            one.add_new(name, "US" if value > 32767 else "SS", value)
        one.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    volume = read_dicom(save(files))
    voxels, _ = canonical(volume.array, volume.affine)
    expected, _ = canonical(scan.image, scan.affine)
    picture = (slice(None), slice(None), slice(0, voxels.shape[2] - 5))  # rows run downwards
    kept = expected[picture]
    assert np.array_equal(voxels[picture] - voxels.min(), kept - kept.min())
    assert (voxels[:, :, -5:] == voxels[picture].min()).all()
    assert any("padding" in warning and "made dark" in warning for warning in volume.warnings)


@pytest.mark.parametrize(
    ("value", "kind", "stored"),
    [
        (-32768, "i2", -32768),
        (63536, "i2", -2000),
        (-1, "u2", 65535),
        (255, "u1", 255),
        (63536, "u1", None),
        ("", "i2", None),
    ],
)
def test_a_padding_value_is_one_that_pixels_can_have(value, kind, stored):
    assert _stored_number(value, kind) == stored


def test_a_mosaic_is_no_slice(save, slices):
    files = slices(ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"])
    with pytest.raises(InvalidVolumeError, match="a mosaic, all slices side by side in one image"):
        read_dicom(save(files[:1]))


def test_enhanced_mr_equals_its_classic_twin(dicom, save, slices, scan):
    files = slices(RescaleSlope=0.5)
    for one in files:
        one.PixelData = (one.pixel_array * 2).astype("<i2").tobytes()
    assert_equals_nifti(read_dicom(save([dicom.enhanced_of(files)])), scan)


def test_enhanced_mr_gets_the_same_checks(dicom, tmp_path, slices):
    files = slices()
    enhanced = {
        "gap": (dicom.enhanced_of([files[0], *files[2:]]), r"uneven distances.*IM0000\.dcm frame 2"),
        "shear": (dicom.enhanced_of(slices(step=(4, 3, 0))), "sheared by 36.9 degrees"),
        "echoes": (dicom.enhanced_of([*files, *files]), "several images at one place"),
    }
    for name, (one, words) in enhanced.items():
        with pytest.raises(InvalidVolumeError, match=words):
            read_dicom(dicom.save_all(tmp_path / name, [one]))


def test_frames_without_places_are_an_error_that_a_spacing_mends(dicom, save, slices):
    one = dicom.enhanced_of(slices())
    del one.PerFrameFunctionalGroupsSequence
    folder = save([one])
    with pytest.raises(InvalidVolumeError, match="no usable ImagePositionPatient in 5 of 5"):
        read_dicom(folder)
    assert read_dicom(folder, [4, 2, 2]).spacing_mm == (4, 2, 2)


def test_rle_is_read(save, slices, scan):
    from pydicom.uid import RLELossless

    files = slices()
    for one in files:
        one.compress(RLELossless)
    assert_equals_nifti(read_dicom(save(files)), scan)


@pytest.mark.parametrize("syntax", ["JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless"])
def test_compressed_files_are_read_with_the_package_of_the_extra(dicom, save, slices, scan, syntax):
    pytest.importorskip("gdcm", reason="python-gdcm of the extra `dicom` is not installed")
    folder = dicom.recompress(save(slices()), syntax)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5 * 96 * 40 * 2
    assert_equals_nifti(read_dicom(folder), scan)


def test_what_cannot_be_decoded_names_the_syntax_and_the_package(save, slices):
    from pydicom.encaps import encapsulate
    from pydicom.uid import HTJ2KLossless

    files = slices()
    for one in files:
        one.file_meta.TransferSyntaxUID, one.PixelData = HTJ2KLossless, encapsulate([b"\xff\x4f\xff\x51" + bytes(60)])
        one["PixelData"].is_undefined_length = True
    with pytest.raises(InvalidVolumeError, match=r"5 files.*High-Throughput JPEG 2000.*1\.2\.840\.10008\.1\.2\.4\.201"):
        read_dicom(save(files))


@pytest.mark.parametrize("size", [0, 60, 300, 900])
def test_a_file_that_cannot_be_parsed_is_an_error_that_names_it(save, slices, size):
    folder = save(slices())
    bad = folder / "IM0004.dcm"  # the last slice: without it the distances would be even
    bad.write_bytes(bad.read_bytes()[:size])
    with pytest.raises(InvalidVolumeError, match=r"1 file that cannot be read \(IM0004\.dcm: "):
        read_dicom(folder)


def test_links_that_lead_to_no_file_are_named_and_the_series_is_not_read_without_them(save, slices, tmp_path):
    """As DataLad leaves files that are not fetched: the last slice, without which the distances would be even."""
    folder = save(slices())
    assert list_series(folder)
    (folder / "IM0004.dcm").unlink()
    (folder / "IM0004.dcm").symlink_to(tmp_path / "not-there.dcm")
    (folder / "notes.txt").symlink_to(tmp_path / "not-there.txt")
    with pytest.raises(InvalidVolumeError, match=r"1 file that cannot be read \(IM0004\.dcm: not readable"):
        read_dicom(folder)


def test_headers_are_read_once_for_all_series_of_a_folder_as_long_as_no_file_changes(save, slices, monkeypatch):
    folder = save(slices())
    read: list[str] = []
    header_of = series_module._header_of
    monkeypatch.setattr(series_module, "_header_of", lambda path: read.append(path.name) or header_of(path))
    (first,), (again,) = list_series(folder), list_series(folder)
    assert len(read) == len(set(read)) > 1 and again == first
    count = len(read)
    os.utime(folder / "IM0001.dcm", ns=(1, 1))
    list_series(folder)
    assert len(read) == 2 * count


def test_files_that_are_cut_off_in_their_pixels_are_all_named(save, slices):
    folder = save(slices())
    for name in ("IM0001.dcm", "IM0003.dcm"):
        (folder / name).write_bytes((folder / name).read_bytes()[:-100])
    with pytest.raises(InvalidVolumeError, match=r"2 files.*IM0001\.dcm, IM0003\.dcm: cut off: 7580 of 7680 bytes"):
        read_dicom(folder)


def test_files_of_other_kinds_are_no_matter(save, slices, scan):
    folder = save(slices())
    for name in ("README", "notes.txt", "Thumbs.db", "DICOMDIR", ".hidden", "viewer.exe"):
        (folder / name).write_bytes(b"no DICOM, but text")
    assert_equals_nifti(read_dicom(folder), scan)


def test_values_that_break_the_standard_warn_nobody(save, slices, scan):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydicom, when it writes them
        files = slices(ImageType="original\\primary", SpecificCharacterSet="ISO_IR 999")
        for one in files:
            one.add_new(0x00080060, "CS", "MR")
            one.add_new(0x00181030, "LO", "x" * 99)
        folder = save(files)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        volume = read_dicom(folder)
    assert_equals_nifti(volume, scan)
    assert not caught and not volume.warnings


def test_warnings_of_others_are_left_alone_by_readers_in_several_threads(save, slices):
    """One list of filters serves all threads: who puts another one there for a while takes it from everybody."""
    folder = save(slices())
    with warnings.catch_warnings(record=True) as caught, ThreadPoolExecutor(4) as pool:
        warnings.simplefilter("always")
        filters, shown = warnings.filters, warnings.showwarning
        for reading in [pool.submit(read_dicom, folder) for _ in range(8)]:
            reading.result()
        assert warnings.filters is filters and warnings.showwarning is shown
        warnings.warn("of somebody else", UserWarning, stacklevel=1)
    assert [str(one.message) for one in caught] == ["of somebody else"]


def test_a_folder_without_dicom_is_told(tmp_path):
    pytest.importorskip("pydicom")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InvalidVolumeError, match="no DICOM series"):
        read_dicom(tmp_path)


def test_without_pydicom_the_extra_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ImportError, match=r"cps4-monai\[dicom\]"):
        read_dicom(tmp_path)


def test_pixels_of_other_series_are_not_read(dicom, save, slices, monkeypatch):
    from cps4_monai.inference.dicom import pixels

    save(slices(series="2", SeriesDescription="t1_tse_sag"))
    folder = save(slices())
    read, read_bytes = [], pixels.Path.read_bytes
    monkeypatch.setattr(pixels.Path, "read_bytes", lambda path: read.append(path.name) or read_bytes(path))
    read_dicom(folder)
    assert sorted(read) == [f"IM{n:04d}.dcm" for n in range(5, 10)]  # each once


def test_the_key_is_that_of_the_files_in_the_order_of_the_slices(save, slices):
    import hashlib

    folder = save(slices())
    contents = b"".join((folder / f"IM{n:04d}.dcm").read_bytes() for n in (4, 3, 2, 1, 0))  # along the normal, to R
    assert read_dicom(folder).content_key == series_key(folder) == hashlib.sha256(contents).hexdigest()


def test_a_dicom_scan_is_segmented_like_its_nifti_twin(save, slices, scan, segmenter):
    result = segmenter(save(slices()), qc=False)
    twin = segmenter(scan.nifti(), qc=False)
    assert np.array_equal(canonical(result.labels, result.affine)[0], canonical(twin.labels, twin.affine)[0])
    assert twin.labels.any() and result.record["Series"]["InstanceUID"] == "1.2.3.1"


def test_a_real_scan_as_dicom_equals_its_nifti(dicom, tmp_path, spider_dir):
    """On real data; skips where they are not."""
    image = nib.as_closest_canonical(nib.load(sorted((spider_dir / "volumes").glob("*_T2w.nii.gz"))[0]))
    array, affine = np.asarray(image.dataobj).astype(np.uint16), image.affine
    down_back = array[:, ::-1, ::-1].transpose(0, 2, 1)
    corner = np.diag([-1, -1, 1, 1]) @ affine @ [0, array.shape[1] - 1, array.shape[2] - 1, 1]
    x, y, z = image.header.get_zooms()
    files = dicom.series_of(down_back, (float(z), float(y), float(x)), step=(-float(x), 0, 0))
    for index, one in enumerate(files):
        one.ImagePositionPatient = [round(float(v), 6) for v in corner[:3] - [index * x, 0, 0]]
    dicom.save_all(tmp_path / "classic", files)
    dicom.save_all(tmp_path / "enhanced", [dicom.enhanced_of(files)])
    for folder in ("classic", "enhanced"):
        volume = read_dicom(tmp_path / folder)
        voxels, where = canonical(volume.array, volume.affine)
        assert np.array_equal(voxels, array) and where == pytest.approx(affine, abs=1e-4)
        assert len(list_series(tmp_path / folder)) == 1
