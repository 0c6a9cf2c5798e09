"""What DICOM gets: a check for each of its rows of the inputs page, under the row's own words."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

row = pytest.mark.row


@pytest.fixture()
def slices(dicom, inputs):
    """Function that makes the series of the scan, with other tags or places."""
    return lambda **changes: dicom.twin_of(inputs.scan, **changes)


@pytest.fixture()
def save(dicom, inputs):
    """Function that writes files into a folder of the inputs, after those that are there."""
    return lambda files, folder="s", **how: dicom.save_all(inputs.folder / folder, files, **how)


def same_labels(inputs, name: str = "s") -> None:
    """The label map holds the scan's labels at the scan's places, whatever the order of its axes."""
    mask = nib.as_closest_canonical(inputs.mask(name))
    truth = nib.as_closest_canonical(nib.Nifti1Image(inputs.scan.label, inputs.scan.affine))
    np.testing.assert_array_equal(np.asarray(mask.dataobj), np.asarray(truth.dataobj))
    np.testing.assert_allclose(mask.affine, truth.affine, atol=1e-5)


def segmented(inputs, *arguments) -> None:
    inputs.segmented(*arguments)
    same_labels(inputs)


@row("names without ending, any order of files, any characters in the path, undeclared Latin-1, no preamble")
def test_odd_files(inputs, save, slices):
    folder = save(
        slices(SpecificCharacterSet="ISO_IR 100", SeriesDescription="t2_sag Rücken")[::-1], "ünï 脊", name="{}"
    )
    for number, path in enumerate(sorted(folder.iterdir())):
        content = path.read_bytes().replace(b"ISO_IR 100", b"ISO_IR 6  ")
        path.write_bytes(content[132:] if number % 2 else content)
    inputs.segmented()
    same_labels(inputs, "ünï 脊")
    assert inputs.record("ünï 脊")["Series"]["Description"] == "t2_sag Rücken"


@row("no slice thickness; equal InstanceNumbers")
def test_places_decide(inputs, save, slices):
    save(slices(SliceThickness=None, InstanceNumber=1))
    segmented(inputs)


@row("MONOCHROME1; slope and intercept of each slice")
def test_grey_values(inputs, save, slices):
    files = slices()
    for index, one in enumerate(files):
        factor = 1 + index % 2
        one.RescaleSlope, one.RescaleIntercept, one.PhotometricInterpretation = 1 / factor, 10, "MONOCHROME1"
        one.PixelData = ((1000 - one.pixel_array - 10) * factor).astype("<i2").tobytes()
    save(files)
    segmented(inputs)


@row("padding around the picture (PixelPaddingValue, PixelPaddingRangeLimit)")
@pytest.mark.parametrize(("stored", "limit"), [(-32768, None), (31000, 32767)])
def test_padding(inputs, save, slices, stored, limit):
    files = slices()
    assert not inputs.scan.label[:, 0].any()
    for one in files:
        pixels = one.pixel_array.copy()
        pixels[:, [0, -1]] = stored
        one.PixelData, one.PixelPaddingValue = pixels.astype("<i2").tobytes(), stored
        if limit is not None:
            one.PixelPaddingRangeLimit = limit
    save(files)
    segmented(inputs)
    assert "padding around the picture" in inputs.warnings()


@row("RLE, JPEG, JPEG-LS, JPEG 2000")
@pytest.mark.parametrize("syntax", ["RLELossless", "JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless"])
def test_compression(inputs, dicom, save, slices, syntax):
    pytest.importorskip("gdcm", reason="python-gdcm of the extra `dicom` is not installed")
    dicom.recompress(save(slices()), syntax)
    segmented(inputs)


@row("RLE, JPEG, JPEG-LS, JPEG 2000")
def test_no_decoder(inputs, save, slices):
    from pydicom.encaps import encapsulate
    from pydicom.uid import HTJ2KLossless

    files = slices()
    for one in files:
        one.file_meta.TransferSyntaxUID, one.PixelData = HTJ2KLossless, encapsulate([b"\xff\x4f\xff\x51" + bytes(60)])
        one["PixelData"].is_undefined_length = True
    save(files)
    assert "High-Throughput JPEG 2000" in inputs.refused()


@row("enhanced (multi-frame) MR")
def test_enhanced(inputs, dicom, save, slices):
    save([dicom.enhanced_of(slices())])
    segmented(inputs)


@row("one image")
def test_one_image(inputs, save, slices):
    save([slices(SpacingBetweenSlices=5)[2]], "between")
    save([slices(series="2", StudyInstanceUID="1.2.4")[2]], "thickness")
    inputs.segmented()
    for name, mm in (("between", 5), ("thickness", 3.6)):
        assert inputs.mask(name).shape == (1, 40, 96) and inputs.mask(name).header.get_zooms()[0] == pytest.approx(mm)
        assert inputs.codes(name).any()


@row("the same image twice (one SOPInstanceUID, one place)")
def test_duplicates(inputs, save, slices):
    save(slices())
    save(slices()[1:3])
    segmented(inputs)
    assert "2 duplicates" in inputs.warnings()


@row("a few images of another orientation in the series")
def test_strays(inputs, dicom, save, slices):
    stray = slices(ImageOrientationPatient=list(dicom.AXIAL))[0]
    stray.SOPInstanceUID = "1.2.9"
    save([*slices(), stray])
    segmented(inputs)
    assert "IM0005.dcm: of another orientation" in inputs.warnings()


@row("images in three planes, or a description or ImageType that says localizer; `LOC` beside a weighting says none")
def test_localizers(inputs, dicom, save, slices):
    save(slices(SeriesDescription="T2 sag LOC. HWS"))
    save(slices(series="2", SeriesDescription="3-plane loc"), "named")
    save(slices(series="3", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "typed")
    planes = [dicom.series_of(np.ones((2, 8, 8), int), series="4", orientation=plane)
              for plane in (dicom.SAGITTAL, dicom.AXIAL, dicom.CORONAL)]  # fmt: skip
    save([one for plane in planes for one in plane], "planes")
    told = inputs.segment()
    assert told.exit_code == 0 and told.output.count("a localizer") == 3 and "1 segmented" in told.output
    same_labels(inputs)
    alone = inputs.segment(inputs.folder / "named")
    assert alone.exit_code == 1 and "nothing to segment" in alone.output and "a localizer" in alone.output


@row("screenshots, presentation states, reports, CT, colours, mosaics of slices")
def test_no_mr_images(inputs, dicom, save, slices):
    colours, shot = slices(series="96"), dicom.dataset("1", "99", dicom.SECONDARY_CAPTURE)
    for one in colours:
        one.SamplesPerPixel, one.PhotometricInterpretation = 3, "RGB"
    others = [dicom.dataset("1", "97", dicom.PRESENTATION_STATE, Modality="PR"),
              dicom.dataset("1", "98", "1.2.840.10008.5.1.4.1.1.88.11", Modality="SR"),
              dicom.set_pixels(shot, np.ones((9, 9), np.uint16))]  # fmt: skip
    mosaic = slices(series="94", ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])[:1]
    save([*slices(), *others, *colours, *mosaic, *slices(series="95", SOPClassUID=dicom.CT, Modality="CT")])
    segmented(inputs)
    assert "a mosaic" in inputs.warnings()
    for words in ("its modality is PR", "its modality is SR", "its modality is CT", "a screenshot", "in colours"):
        assert words in inputs.warnings()


@row("several series")
def test_several_series(inputs, save, slices):
    save(slices(series="1", SeriesDescription="t1_tse_sag"))
    save(slices(series="2"))
    segmented(inputs)
    assert inputs.record()["Series"]["Number"] == 2 and "T1-weighted" in inputs.warnings()
    segmented(inputs, inputs.folder, "--series", "t1", "--overwrite")
    assert inputs.record()["Series"]["Number"] == 1
    save(slices(series="3"))  # as good as series 2
    inputs.segmented()
    for number in (2, 3):
        same_labels(inputs, f"s_series-{number}")


@row("several series")
def test_the_images_of_a_dixon_scan(inputs, save, slices):
    for number, part in enumerate(("F", "W", "opp", "in"), start=1):
        save(slices(series=str(number), SeriesDescription=f"t2_tse_dixon_sag_{part}"))
    segmented(inputs)
    assert inputs.record()["Series"]["Number"] == 4
    for path in sorted((inputs.folder / "s").iterdir())[-len(slices()) :]:
        path.unlink()  # that in phase: the water image is next
    segmented(inputs, inputs.folder, "--overwrite")
    assert inputs.record()["Series"]["Number"] == 2


@row("one file or several of a series")
def test_files_of_a_series(inputs, save, slices):
    save(slices(series="1", SeriesDescription="t1_tse_sag"))
    folder = save(slices(series="2"))
    segmented(inputs, folder / "IM0002.dcm", folder / "IM0004.dcm")
    assert inputs.record()["Series"]["Number"] == 1
    inputs.segmented(*sorted(folder.iterdir()))
    for number in (1, 2):
        same_labels(inputs, f"s_series-{number}")
    assert "one of series 'stir', as --series" in inputs.refused(folder / "IM0002.dcm", "--series", "stir")


@row("no PixelSpacing, ImagePositionPatient or ImageOrientationPatient, or an empty one")
@pytest.mark.parametrize("name", ["PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"])
def test_no_geometry(inputs, save, slices, name):
    files = slices()
    for one in files[::2]:
        delattr(one, name)
    for one in files[1::2]:
        setattr(one, name, None)
    save(files)
    assert f"no usable {name} in 5 of 5 images" in inputs.refused()
    inputs.segmented(inputs.folder, "--assume-spacing", "4,2,2")
    assert inputs.codes().shape == (5, 40, 96) and (inputs.codes() > 0).sum() == (inputs.scan.label > 0).sum()
    assert f"no usable {name}" in inputs.warnings() and "assumed" in inputs.warnings()


@row("neither positions nor InstanceNumbers that order the images")
def test_no_order(inputs, save, slices):
    save(slices(ImagePositionPatient=None, InstanceNumber=1))
    assert "without InstanceNumbers" in inputs.refused(inputs.folder, "--assume-spacing", "4,2,2")


@row("stack sheared in plane or by gantry tilt")
def test_sheared(inputs, save, slices):
    save(slices(step=(4, 3, 0)))
    assert "sheared by 36.9 degrees" in inputs.refused()  # atan(3 / 4)
    save(slices(step=(4, 0.2, 0), series="2"), "little")
    inputs.segmented(inputs.folder / "little")
    assert np.abs(inputs.mask("little").affine[:3, 0]) == pytest.approx([4, 0.2, 0], abs=1e-6)


@row("a slice is missing within the stack, or lies off the line")
def test_uneven(inputs, save, slices):
    save([one for number, one in enumerate(slices()) if number != 1])
    assert "8.00 mm from (0.0, -30.0, 100.0) in IM0001.dcm" in inputs.refused()
    files = slices()
    files[2].ImagePositionPatient = [0, -28, 100]
    off = save(files, "off")
    assert "uneven distances" in inputs.refused(off)


@row("several images at one place (echoes, time points), or side by side in one plane")
def test_no_single_stack(inputs, save, slices):
    echoes, lower = slices(EchoTime=80), slices()
    for number, one in enumerate([*echoes, *lower]):
        one.SOPInstanceUID = f"1.2.4.{number}"
    for one in lower:
        one.ImagePositionPatient = [*one.ImagePositionPatient[:2], -90]
    assert "EchoTime 20.0, 80.0" in inputs.refused(save([*slices(EchoTime=20), *echoes]))
    assert "side by side in one plane" in inputs.refused(save([*slices(), *lower], "stations"))


@row("images of several sizes, spacings or orientations")
def test_mixtures(inputs, dicom, save, slices):
    sizes, spacings = slices(), slices()
    dicom.set_pixels(sizes[1], np.ones((48, 40), int))
    spacings[3].PixelSpacing = [1, 1]
    planes = slices(ImageOrientationPatient=list(dicom.CORONAL))
    for one in planes:
        one.SOPInstanceUID += ".1"
    for files, words in (
        (sizes, "unlike most: IM0001.dcm"), (spacings, "IM0003.dcm"), ([*slices(), *planes], "5 sagittal, 5 coronal"),
    ):  # fmt: skip
        assert words in inputs.refused(save(files, words[:9]))


@row("files that cannot be parsed, are cut off or empty")
def test_damaged_files(inputs, save, slices):
    folder = save(slices())
    for name, size in (("IM0000", 200), ("IM0002", -100), ("IM0004", 0)):  # the first, a middle one, the last
        path = folder / f"{name}.dcm"
        whole = path.read_bytes()
        path.write_bytes(whole[:size])
        assert f"1 file that cannot be read ({name}.dcm: " in inputs.refused()
        path.write_bytes(whole)
    for name in ("IM0001", "IM0004"):
        (folder / f"{name}.dcm").write_bytes(b"")
    assert "IM0001.dcm, IM0004.dcm: empty" in inputs.refused()
