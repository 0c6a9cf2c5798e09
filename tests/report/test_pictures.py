from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.metrics.tables import SUMMARY_COLUMNS
from cps4_monai.palette import structure_colours
from cps4_monai.report.attention import attention_figure, heat_overlay, upsampled
from cps4_monai.report.charts import learning_curve, method_bars
from cps4_monai.report.overlay import blend_labels, drawable, mid_slice, outline, spread
from cps4_monai.report.overlay import structure_places as places_of
from cps4_monai.report.pictures import sagittal_mosaic, side_by_side, slice_rows
from cps4_monai.report.slab import grey_window, in_window, sagittal_slab

AFFINE = np.diag([4.0, -1.0, 1.0, 1.0])


def _volume(slices=8):
    rng = np.random.default_rng(0)
    image = rng.normal(100, 20, (slices, 40, 60)).astype(np.float32)
    label = np.zeros(image.shape, np.uint8)
    label[2:6, 10:20, 20:30], label[2:6, 10:20, 30:34] = 3, 12
    return image, label


def _size(png):
    return Image.open(io.BytesIO(png)).size


def test_bare_slice_stays_grey_and_structures_are_tinted():
    image = np.full((6, 6), 0.5, np.float32)
    label = np.zeros((6, 6), np.uint8)
    label[1:5, 1:5] = 2
    colours = structure_colours(MRSPINESEG)
    plain, tinted = blend_labels(image, None, colours), blend_labels(image, label, colours)
    assert (plain == 127).all() and (tinted[0] == 127).all()
    to_colour = np.abs(tinted.astype(int) - colours[2]).sum(-1)
    assert to_colour[1, 1] < to_colour[2, 2] < np.abs(127 - colours[2].astype(int)).sum()  # outline, inside, bare


def test_outline_marks_both_sides_of_a_border():
    label = np.array([[0, 1, 1], [0, 1, 1], [0, 1, 1]])
    assert outline(label).tolist() == [[True, True, False]] * 3
    assert not outline(np.ones((3, 3), int)).any()


def test_middle_slice_is_that_of_the_label():
    label = np.zeros((10, 4, 4), np.uint8)
    label[6:9] = 1
    assert mid_slice(label, 10) == 7
    assert mid_slice(np.zeros_like(label), 10) == 5 and mid_slice(None, 1) == 0


def test_places_of_names_worked_out_by_hand():
    label = np.zeros((6, 8), np.uint8)
    label[1:4, 2:5] = 3
    places = places_of(label, 5)
    assert places[3].tolist() == [2, 2, 4] and np.isnan(places[1]).all()


def test_window_holds_constant_images_and_spans_the_rest():
    flat, image = np.zeros((4, 4)), _volume()[0]
    assert np.isfinite(in_window(flat, grey_window(flat))).all()
    nearly_flat = np.zeros((40, 40, 40), np.float32)
    nearly_flat[1, 1, 1] = 3.0  # at no percentile, and not among every 4th voxel
    assert grey_window(nearly_flat) == (0.0, 3.0)
    scaled = in_window(image, grey_window(image))
    tiny = np.asarray(image, dtype=np.float64) * 1e-12  # intensities of any size look alike
    np.testing.assert_allclose(in_window(tiny, grey_window(tiny)), scaled, atol=1e-4)
    assert scaled.min() == 0 and scaled.max() == 1 and scaled.dtype == np.float32


@pytest.mark.parametrize("slices", [1, 2, 8, 40])
def test_mosaic_for_any_number_of_slices(slices):
    image, label = _volume(slices)
    assert _size(sagittal_mosaic(image, label, AFFINE, title="scan", alarms=["gap"]))[0] > 200
    assert len(spread(slices, 10)) == min(slices, 10)


@pytest.mark.parametrize("title", ["cost $5", "a$_$b", "$\\frac$", "脊椎", "x" * 200])
def test_any_file_name_can_be_a_title(title, recwarn):
    image, label = _volume(2)
    assert _size(sagittal_mosaic(image, label, AFFINE, title=title))[0] > 200
    assert not [str(w.message) for w in recwarn if "lyph" in str(w.message)]


@pytest.mark.parametrize("name", ["a$\\x$b", "p$_{1$, slice 2", "$^$x"])
def test_any_name_can_stand_in_charts_and_pictures_of_attention(name):
    assert _size(attention_figure(np.eye(32, 24), None, np.full((20, 4, 3), 0.1), ["L5"], title=name))[0] > 100
    values = pd.DataFrame({"iteration": [1, 2], "name": [name, "b"], "value": [1.0, 2.0]})
    assert name.split("$")[-1] in learning_curve(values, name)
    row = dict.fromkeys(SUMMARY_COLUMNS, 0.5) | {"structure": "overall", "metric": "dice_b"}
    assert name.split("$")[-1] in method_bars({name: pd.DataFrame([row])})


def test_titles_are_shortened_in_their_middle():
    assert drawable("sub-001_T2w", 11) == "sub-001_T2w"
    assert drawable("0123456789", 6) == "012…89" and len(drawable("x" * 99, 20)) == 20
    assert drawable("a脊b", 9) == "a□b"


def test_mosaic_without_label_and_pictures_beside_each_other():
    image, label = _volume()
    assert _size(sagittal_mosaic(image, None, AFFINE))[1] > 200
    slab = sagittal_slab(image, {"label": label, "prediction": label}, AFFINE)
    assert _size(side_by_side(slab))[0] > _size(side_by_side(sagittal_slab(image, {"label": label}, AFFINE)))[0]
    assert _size(slice_rows(slab))[1] > _size(slice_rows(sagittal_slab(image, {"label": label}, AFFINE)))[1]


def test_names_are_left_out_of_the_picture_where_they_mean_nothing():
    image, label = _volume()
    pictures = (sagittal_mosaic(image, label, AFFINE, alarms=[alarm]) for alarm in ("gap", "unusual_contrast"))
    named, bare = (np.asarray(Image.open(io.BytesIO(picture)))[50:] for picture in pictures)  # below the alarms
    assert named.shape == bare.shape and (named != bare).any()


def test_orientation_of_the_file_does_not_change_the_picture():
    image, label = _volume()
    turned = np.eye(4)
    turned[:3, :3] = AFFINE[:3, :3][:, [2, 0, 1]]
    first = sagittal_mosaic(image, label, AFFINE)
    assert first == sagittal_mosaic(image.transpose(2, 0, 1), label.transpose(2, 0, 1), turned)


def test_attention_keeps_an_absent_class_dark_and_shows_a_present_one():
    image = np.zeros((16, 16), np.float32)
    hot = np.zeros((16, 16), np.float32)
    hot[4:8, 4:8] = 1
    assert (heat_overlay(image, np.zeros((16, 16))) == 0).all()
    shown = heat_overlay(image, hot)
    assert shown[5, 5].max() > 200 and shown[0, 0].max() == 0
    assert upsampled(np.ones((2, 2, 2)), (8, 8)).shape == (2, 8, 8)


def test_attention_figure_has_a_panel_per_prompt_and_a_row_per_model():
    image, label = np.random.default_rng(0).random((32, 24)), np.zeros((32, 24), np.uint8)
    maps = np.full((20, 8, 6), 0.2)
    one = _size(attention_figure(image, label, maps, ["L5"]))
    wide = _size(attention_figure(image, label, maps, ["L5", "L4"]))
    tall = _size(attention_figure(image, None, {"ours": maps, "clip": maps}, ["L5"]))
    assert wide[0] > one[0] and tall[1] > one[1]


def test_attention_figure_refuses_logits_and_unknown_names():
    image = np.zeros((8, 8))
    with pytest.raises(ValueError, match="not the logits"):
        attention_figure(image, None, np.full((20, 2, 2), 3.0), ["L5"])
    with pytest.raises(ValueError, match="no structure is called"):
        attention_figure(image, None, np.zeros((20, 2, 2)), ["C1"])
