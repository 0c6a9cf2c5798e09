"""Reading and checking volumes: the rows of the inputs page that are about one file, and writing label maps."""

from __future__ import annotations

import gzip
import os
import pickle

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cps4_monai.data.label_file import GEOMETRY_FIELDS
from cps4_monai.data.volume import InvalidVolumeError, check_pair, read_volume, volume_from_nifti, write_label_volume

AFFINE = np.array([[-4.0, 0, 0, 30], [0, 0.5, 0, -20], [0, 0, 0.5, -10], [0, 0, 0, 1.0]])


def scan(shape=(3, 8, 6), dtype=np.int16):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def save(path, array, affine=AFFINE, sform=1, qform=1, cls=nib.Nifti1Image, header=None):
    image = cls(array, affine, header)
    image.header.set_qform(affine, qform)
    image.header.set_sform(affine, sform)
    nib.save(image, path)
    return path


def edit(path, **fields):
    """Overwrites header fields of an uncompressed file, without nibabel's corrections."""
    content = bytearray(path.read_bytes())
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    content[:348] = header.binaryblock
    path.write_bytes(bytes(content))
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", ">i2", ">f4"])
def test_every_number_type_gives_the_same_values(tmp_path, name, dtype):
    dtype = np.dtype(dtype)
    header = nib.Nifti1Header(endianness=">" if dtype.byteorder == ">" else "<")
    header.set_data_dtype(dtype)
    path = save(tmp_path / name, scan((3, 5, 6), np.uint8).astype(dtype), header=header)
    volume = read_volume(path)
    assert volume.array.dtype == np.float32 and volume.array.dtype.isnative
    np.testing.assert_array_equal(volume.array, scan((3, 5, 6)))
    np.testing.assert_allclose(volume.affine, AFFINE)
    assert volume.spacing_mm == pytest.approx((4, 0.5, 0.5)) and volume.warnings == () and len(volume.content_key) == 64


def test_nifti_2_is_read_and_written(tmp_path):
    volume = read_volume(save(tmp_path / "a.nii.gz", scan(), cls=nib.Nifti2Image))
    written = nib.load(write_label_volume(tmp_path / "b.nii.gz", np.zeros((3, 8, 6)), volume))
    assert isinstance(written, nib.Nifti2Image) and written.shape == (3, 8, 6)


def test_slope_and_intercept_are_applied(tmp_path):
    path = edit(save(tmp_path / "a.nii", scan()), scl_slope=2.0, scl_inter=-5.0)
    np.testing.assert_allclose(read_volume(path).array, scan() * 2.0 - 5)


@pytest.mark.parametrize("slope", [0.0, np.nan, np.inf])
def test_unusable_slope_means_no_scaling(tmp_path, slope):
    path = edit(save(tmp_path / "a.nii", scan()), scl_slope=slope, scl_inter=7)
    np.testing.assert_allclose(read_volume(path).array, scan())


@pytest.mark.parametrize("slices", [1, 200])
def test_one_to_two_hundred_slices(tmp_path, slices):
    assert read_volume(save(tmp_path / "a.nii", scan((slices, 4, 4)))).shape == (slices, 4, 4)


def test_one_time_point_is_squeezed(tmp_path):
    volume = read_volume(save(tmp_path / "a.nii", scan((3, 4, 5, 1))))
    assert volume.shape == (3, 4, 5)
    written = nib.load(write_label_volume(tmp_path / "b.nii", np.ones((3, 4, 5), np.uint8), volume))
    assert written.shape == (3, 4, 5)
    np.testing.assert_array_equal(written.affine, AFFINE)


def test_several_time_points_are_refused(tmp_path):
    with pytest.raises(InvalidVolumeError, match=r"4-D data \(3, 4, 5, 2\).*one time point"):
        read_volume(save(tmp_path / "a.nii", scan((3, 4, 5, 2))))


@pytest.mark.parametrize("dtype", [np.complex64, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])])
def test_colours_and_complex_numbers_are_refused(tmp_path, dtype):
    with pytest.raises(InvalidVolumeError, match="one real number"):
        read_volume(save(tmp_path / "a.nii", np.zeros((3, 4, 5), dtype)))


@pytest.mark.parametrize(("sform", "qform"), [(1, 0), (0, 1), (2, 1), (4, 4)])
def test_one_set_form_is_enough(tmp_path, sform, qform):
    path = save(tmp_path / "a.nii", scan(), sform=sform, qform=qform)
    volume = read_volume(path)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)
    assert volume.warnings == ()


def test_the_sform_wins_with_a_warning_where_the_forms_disagree(tmp_path):
    path = edit(save(tmp_path / "a.nii", scan()), qoffset_x=99.0)
    volume = read_volume(path)
    np.testing.assert_allclose(volume.affine, AFFINE)
    assert any("disagree" in w for w in volume.warnings)


def test_forms_within_a_thousandth_agree(tmp_path):
    path = edit(save(tmp_path / "a.nii", scan()), qoffset_x=30.0005)
    assert read_volume(path).warnings == ()


def test_forms_of_a_header_in_metres_are_compared_in_millimetres(tmp_path):
    path = save(tmp_path / "a.nii", scan(), affine=np.diag([1e-3, 1e-3, 1e-3, 1.0]) @ AFFINE)
    edit(path, xyzt_units=1, qoffset_x=nib.load(path).header["qoffset_x"] + 0.0009)
    assert "sform and qform disagree by 0.9 mm; the sform was used" in read_volume(path).warnings


def test_no_form_needs_an_assumed_spacing(tmp_path):
    path = edit(save(tmp_path / "a.nii", scan()), sform_code=0, qform_code=0)
    with pytest.raises(InvalidVolumeError, match="assume-spacing"):
        read_volume(path)
    volume = read_volume(path, assume_spacing=(4, 0.5, 0.5))
    assert volume.spacing_mm == (4, 0.5, 0.5) and "assumed" in volume.warnings[0]
    assert "axes that run to right, anterior, superior: check that the picture is upright" in volume.warnings[0]


@pytest.mark.parametrize("qfac", [0.0, 2.0, np.nan, -2.0])
@pytest.mark.parametrize("sform", [0, 1])
def test_a_qfac_that_is_not_1_or_minus_1_counts_by_its_sign(tmp_path, sform, qfac):
    affine = AFFINE * [[1], [1], [-1 if qfac < 0 else 1], [1]] @ np.diag([-1.0, 1, 1, 1])  # qfac 1: right-handed
    path = save(tmp_path / "a.nii", scan(), affine, sform=sform)
    pixdim = nib.load(path).header["pixdim"].copy()
    assert pixdim[0] == (-1 if qfac < 0 else 1)
    pixdim[0] = qfac
    volume = read_volume(edit(path, pixdim=pixdim))
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    assert volume.warnings == () and volume.header["pixdim"].tobytes() == pixdim.tobytes()
    written = read_volume(write_label_volume(tmp_path / "b.nii", scan() % 20, volume), is_label=True)
    assert written.header["pixdim"].tobytes() == pixdim.tobytes()


def test_a_qform_that_is_no_rotation_is_not_mended_by_a_spacing(tmp_path):
    path = edit(save(tmp_path / "a.nii", scan(), sform=0), quatern_b=2.0)
    with pytest.raises(InvalidVolumeError, match=r"no rotation.*quatern_b") as caught:
        read_volume(path)
    assert "assume" not in str(caught.value)
    volume = read_volume(path, assume_spacing=(4, 0.5, 0.5))
    assert "check that the picture is upright" in volume.warnings[0]


@pytest.mark.parametrize("spacing", [0.0, -0.5, np.nan, np.inf])
def test_unusable_spacing_needs_an_assumed_one(tmp_path, spacing):
    path = save(tmp_path / "a.nii", scan())
    pixdim = nib.load(path).header["pixdim"].copy()
    pixdim[2] = spacing
    edit(path, pixdim=pixdim, sform_code=0)
    with pytest.raises(InvalidVolumeError, match=r"spacing.*assume-spacing"):
        read_volume(path)
    volume = read_volume(path, assume_spacing=(4, 0.5, 0.7))
    assert volume.spacing_mm == pytest.approx((4, 0.5, 0.7))
    assert nib.aff2axcodes(volume.affine) == ("L", "A", "S") and "upright" not in volume.warnings[0]


@pytest.mark.parametrize("spacing", [0.0, -0.5, np.nan, np.inf])
def test_a_right_sform_stands_in_for_an_unusable_spacing(tmp_path, spacing):
    path = save(tmp_path / "a.nii", scan())
    pixdim = nib.load(path).header["pixdim"].copy()
    pixdim[2] = spacing
    volume = read_volume(edit(path, pixdim=pixdim))
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)
    assert "that of the sform was used" in volume.warnings[0]


def test_a_right_qform_stands_in_for_an_sform_of_zeros(tmp_path):
    path = edit(save(tmp_path / "a.nii", scan()), srow_x=[0] * 4, srow_y=[0] * 4, srow_z=[0] * 4, qform_code=1)
    volume = read_volume(path)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-4)
    assert volume.warnings == ("the sform has no usable spacing; the qform was used",)


@pytest.mark.parametrize(("unit", "factor", "name"), [(1, 1e-3, "metres"), (3, 1e3, "micrometres")])
def test_other_units_become_millimetres(tmp_path, unit, factor, name):
    path = tmp_path / "a.nii"
    image = nib.Nifti1Image(scan(), np.diag([factor, factor, factor, 1]) @ AFFINE)
    image.header["xyzt_units"] = unit
    nib.save(image, path)
    volume = read_volume(path)
    np.testing.assert_allclose(volume.affine, AFFINE, rtol=1e-5)
    assert any(f"in {name}" in warning for warning in volume.warnings)


def test_a_unit_in_which_no_scan_can_be_is_named(tmp_path):
    path = edit(save(tmp_path / "a.nii", scan((10, 320, 320))), xyzt_units=1)
    words = (
        r"160000 mm: spacing 4 x 0.5 x 0.5 in metres, the header's unit \(xyzt_units 1\).*millimetres \(xyzt_units 2\)"
    )
    with pytest.raises(InvalidVolumeError, match=words):
        read_volume(path)
    assert read_volume(edit(path, xyzt_units=2)).warnings == ()


def test_a_time_axis_of_length_zero_is_none(tmp_path):
    path = edit(save(tmp_path / "a.nii", scan()), dim=[4, *scan().shape, 0, 1, 1, 1])
    np.testing.assert_array_equal(read_volume(path).array, scan())


@pytest.mark.parametrize("spacing", [(1, 2), (0, 1, 1), (np.nan,)])
def test_assumed_spacing_must_be_positive(tmp_path, spacing):
    with pytest.raises(ValueError, match="assume_spacing"):
        read_volume(save(tmp_path / "a.nii", scan()), assume_spacing=spacing)


def test_a_singular_affine_is_refused(tmp_path):
    path = edit(save(tmp_path / "a.nii", scan()), srow_y=[4.0, 0, 0, 0], srow_z=[0, 0.5, 0.5, 0], srow_x=[4, 0, 0, 0])
    with pytest.raises(InvalidVolumeError, match="singular"):
        read_volume(path)


@pytest.mark.parametrize(("degrees", "good"), [(4.0, True), (6.0, False)])
def test_shear_is_borne_up_to_five_degrees(tmp_path, degrees, good):
    angle = np.radians(degrees)
    rows = {"srow_x": [4.0, 0.5 * np.sin(angle), 0, 0], "srow_y": [0, 0.5 * np.cos(angle), 0, 0]}
    path = edit(save(tmp_path / "a.nii", scan()), qform_code=0, **rows)
    if good:
        read_volume(path)
    else:
        with pytest.raises(InvalidVolumeError, match=r"sheared by 6.0"):
            read_volume(path)


def test_not_finite_voxels_become_the_minimum_with_a_count(tmp_path):
    array = scan(dtype=np.float32) + 5
    array[0, 0, :3] = np.nan, np.inf, -np.inf
    volume = read_volume(save(tmp_path / "a.nii", array))
    np.testing.assert_array_equal(volume.array[0, 0, :3], [8, 8, 8])
    assert volume.warnings[0].startswith("3 voxels")


@pytest.mark.parametrize("value", [np.nan, 0.0, 7.0])
def test_nothing_finite_or_constant_is_refused(tmp_path, value):
    with pytest.raises(InvalidVolumeError, match=r"no finite voxel|constant"):
        read_volume(save(tmp_path / "a.nii", np.full((3, 4, 5), value, np.float32)))


@pytest.mark.parametrize(("scale", "offset"), [(1e300, 0), (1e-300, 0), (1.0, 1e12)])
def test_values_beyond_float32_keep_their_contrast(tmp_path, scale, offset):
    volume = read_volume(save(tmp_path / "a.nii", scan(dtype=np.float64) * scale + offset))
    np.testing.assert_allclose(volume.array, scan() * scale + offset)
    assert len(np.unique(volume.array)) == scan().size


def test_damaged_files_are_refused_by_name(tmp_path):
    whole = save(tmp_path / "ok.nii.gz", scan((5, 40, 40))).read_bytes()
    plain = gzip.decompress(whole)
    cases = {
        "truncated.nii.gz": (whole[: len(whole) // 2], "damaged gzip"),
        "corrupt.nii.gz": (whole[:60] + bytes(40) + whole[100:], "damaged gzip|NIfTI magic|damaged header"),
        "empty.nii.gz": (b"", "empty file"),
        "text.nii.gz": (b"this is no image\n" * 50, "magic"),
        "short.nii": (plain[:1000], "truncated"),
        "header.nii": (plain[:100], "magic"),
        "pair.hdr": (plain[:344] + b"ni1\0", "pair"),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InvalidVolumeError, match=message) as caught:
            read_volume(path)
        assert name in str(caught.value) and "Fix: " in str(caught.value)


def test_missing_files_folders_and_permissions_are_named(tmp_path):
    with pytest.raises(InvalidVolumeError, match="no such file"):
        read_volume(tmp_path / "none.nii")
    with pytest.raises(InvalidVolumeError, match="not readable"):
        read_volume(tmp_path)
    if os.getuid() != 0:
        path = save(tmp_path / "a.nii", scan())
        path.chmod(0)
        with pytest.raises(InvalidVolumeError, match="permission"):
            read_volume(path)


@pytest.mark.parametrize("dims", [[3, 3, 0, 6, 1, 1, 1, 1], [0] * 8, [3, 30000, 30000, 30000, 1, 1, 1, 1], [9] * 8])
def test_senseless_dimensions_are_refused(tmp_path, dims):
    with pytest.raises(InvalidVolumeError, match=r"dimensions|truncated"):
        read_volume(edit(save(tmp_path / "a.nii", scan()), dim=dims))


def test_label_values_are_checked_against_the_table(tmp_path):
    labels = (scan() % 4).astype(np.float32)
    good = read_volume(save(tmp_path / "a.nii", labels), is_label=True, num_classes=4)
    assert good.array.dtype == np.uint8
    with pytest.raises(InvalidVolumeError, match=r"outside the table: 3;.*0 to 2"):
        read_volume(tmp_path / "a.nii", is_label=True, num_classes=3)
    with pytest.raises(InvalidVolumeError, match=r"not whole numbers: 0\.5"):
        read_volume(save(tmp_path / "b.nii", labels + np.float32(0.5) * (labels == 0)), is_label=True)
    with pytest.raises(InvalidVolumeError, match="outside the table: -1"):
        read_volume(save(tmp_path / "c.nii", labels - 1), is_label=True)
    assert read_volume(save(tmp_path / "d.nii", labels * 0), is_label=True).array.max() == 0


def test_pairs_must_share_shape_and_affine(tmp_path):
    image = read_volume(save(tmp_path / "a.nii", scan()))
    near, far = AFFINE.copy(), AFFINE.copy()
    near[0, 3] += 5e-4
    far[0, 3] += 5e-3
    check_pair(image, read_volume(save(tmp_path / "b.nii", scan() % 3, near), is_label=True))
    with pytest.raises(InvalidVolumeError, match="apart"):
        check_pair(image, read_volume(save(tmp_path / "c.nii", scan() % 3, far), is_label=True))
    with pytest.raises(InvalidVolumeError, match="shape"):
        check_pair(image, read_volume(save(tmp_path / "d.nii", scan((3, 8, 5)) % 3), is_label=True))


def test_a_voxel_size_that_differs_a_little_adds_up_over_a_scan(tmp_path):
    image, wider = np.diag([4.0, 0.55, 0.55, 1.0]), np.diag([4.0, 0.5509, 0.55, 1.0])
    volume = read_volume(save(tmp_path / "a.nii", scan((3, 512, 5)), image))
    with pytest.raises(InvalidVolumeError, match=r"up to 0\.46 mm .* a quarter of a voxel \(0\.138 mm\)"):
        check_pair(volume, read_volume(save(tmp_path / "b.nii", scan((3, 512, 5)) % 3, wider), is_label=True))
    small = read_volume(save(tmp_path / "c.nii", scan((3, 100, 5)), image))
    check_pair(small, read_volume(save(tmp_path / "d.nii", scan((3, 100, 5)) % 3, wider), is_label=True))


@pytest.mark.parametrize("endianness", ["<", ">"])
def test_written_label_maps_copy_the_geometry_bit_for_bit(tmp_path, endianness):
    header = nib.Nifti1Header(endianness=endianness)
    header.set_data_dtype(np.int16)
    header.set_xyzt_units("mm", "sec")
    path = edit(save(tmp_path / "a.nii", scan(), sform=2, qform=1, header=header), qoffset_x=30.25)
    volume = read_volume(path)
    codes = (scan() % 20).astype(np.int64)
    out = write_label_volume(tmp_path / "new" / "b.nii.gz", codes, volume)
    raw = nib.Nifti1Header(gzip.decompress(out.read_bytes())[:348], check=False)
    for field in GEOMETRY_FIELDS:
        assert raw[field].tobytes() == volume.header[field].tobytes(), field
    assert raw.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(nib.load(out).dataobj), codes)
    assert [p.name for p in out.parent.iterdir()] == ["b.nii.gz"]


def test_writing_refuses_other_shapes_names_and_values(tmp_path):
    volume = read_volume(save(tmp_path / "a.nii", scan()))
    good = np.zeros((3, 8, 6))
    for name, array in (("b.nii", good[:2]), ("b.png", good), ("b.nii", good + 0.5)):
        with pytest.raises(ValueError, match=r"shape|ends in|whole numbers"):
            write_label_volume(tmp_path / name, array, volume)
    assert not (tmp_path / "b.nii").exists()


def test_the_error_survives_a_process_boundary():
    error = InvalidVolumeError("a.nii", "x", "y", "z")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "a.nii: found x; expected y. Fix: z."


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_volume_and_header_gives_a_volume_or_a_clear_error(data):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=5))
    dtype = data.draw(st.sampled_from([np.uint8, np.int16, np.float32, np.float64]))
    elements = st.floats(width=32) if np.dtype(dtype).kind == "f" else None
    array = data.draw(hnp.arrays(dtype, shape, elements=elements))
    header = nib.Nifti1Image(array, AFFINE).header
    number = st.one_of(st.sampled_from([0.0, -1.0, np.nan, np.inf, 1e30]), st.floats(width=32))
    fields = ["pixdim", "srow_x", "quatern_b", "scl_slope", "scl_inter", "dim", "vox_offset"]
    for field in data.draw(st.sets(st.sampled_from(fields))):
        if field == "dim":
            header["dim"] = data.draw(st.lists(st.integers(-3, 9), min_size=8, max_size=8))
        else:
            size = header[field].size
            values = data.draw(st.lists(number, min_size=size, max_size=size))
            header[field] = np.reshape(values, header[field].shape)
    header["qform_code"], header["sform_code"] = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))
    with np.errstate(all="ignore"):
        content = header.binaryblock + b"\0" * 4 + array.tobytes(order="F")
        try:
            volume = volume_from_nifti(content, path="random.nii")
        except InvalidVolumeError as error:
            assert "random.nii" in str(error) and "Fix: " in str(error)
        else:
            assert volume.array.ndim == 3 and np.isfinite(volume.array).all() and np.isfinite(volume.affine).all()


def test_real_scans_are_read_without_warning(spider_dir):
    volume = read_volume(sorted((spider_dir / "volumes").glob("*_T2w.nii.gz"))[0])
    assert nib.aff2axcodes(volume.affine) == ("L", "P", "I") and volume.warnings == ()


def test_a_nifti_2_file_that_is_cut_within_its_header_is_named(tmp_path):
    path = tmp_path / "a.nii"
    nib.save(nib.Nifti2Image(np.zeros((2, 3, 4), np.int16), np.eye(4)), path)
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(InvalidVolumeError, match=r"a\.nii"):
        read_volume(path)


def test_a_label_map_without_geometry_is_told_where_to_take_it_from(tmp_path):
    """A spacing that is assumed for it would lay it elsewhere than its image."""
    path = tmp_path / "a_dseg.nii"
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4), np.uint8), None), path)
    with pytest.raises(
        InvalidVolumeError, match="Fix: copy the header of its image to it; where that image has no geometry"
    ):
        read_volume(path, is_label=True)
