"""The phantom: anatomy, determinism, field of view, and that position alone does not give the labels away."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.data.datalist import load_datalist
from cps4_monai.data.phantom import make_phantom, write_phantom_dataset
from cps4_monai.data.phantom.centreline import trace_centreline
from cps4_monai.data.phantom.spine import draw_spine
from cps4_monai.data.phantom.upsample import linear_weights, smooth_weights
from cps4_monai.data.volume import check_pair, read_volume


def present(label: np.ndarray) -> set[int]:
    return {int(c) for c in np.unique(label)} - {0}


def test_the_same_seed_gives_the_same_voxels_and_another_others() -> None:
    first, again, other = make_phantom(3, 48, 2), make_phantom(3, 48, 2), make_phantom(4, 48, 2)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first.label, other.label)


def test_shapes_types_and_geometry() -> None:
    image, label, affine = make_phantom(1, (64, 48), 5)
    assert image.shape == label.shape == (5, 48, 64)
    assert image.dtype == np.int16 and label.dtype == np.uint8 and image.min() >= 0
    assert nib.orientations.aff2axcodes(affine) == ("L", "P", "I")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    assert 3.8 <= spacing[0] <= 4.8 and spacing[1] == pytest.approx(spacing[2]) and 270 <= 64 * spacing[2] <= 350
    off_axis = np.abs(affine[:3, :3] / spacing - np.diag([-1, -1, -1])).max()
    assert 0 < off_axis < np.sin(np.deg2rad(10.5))


def test_twelve_to_eighteen_slices_unless_told_otherwise() -> None:
    assert {make_phantom(k, 16).image.shape[0] for k in range(12)} <= set(range(12, 19))


def test_structures_follow_each_other_up_the_spine() -> None:
    for seed in range(6):
        label = make_phantom(seed, 160, 1).label[0]
        orders = [s for s in MRSPINESEG.along_spine() if s.code in present(label)]
        heights = [np.nonzero(label == s.code)[1].mean() for s in orders]
        # Rows grow downwards, so each structure higher up the spine has a smaller one.
        assert all(a > b for a, b in pairwise(heights)), seed
        indices = [s.order for s in orders]
        assert indices == list(range(indices[0], indices[-1] + 1)), "no level may be skipped"


def test_each_structure_is_in_one_piece() -> None:
    label = make_phantom(2, 256, 1).label[0]
    for code in present(label):
        parts, count = ndimage.label(label == code)
        sizes = np.sort(np.bincount(parts.ravel())[1:])
        assert sizes[-1] / sizes.sum() > 0.97, (code, count)


def test_sizes_are_those_of_real_spines() -> None:
    _, label, affine = make_phantom(5, 256, 1)
    pixel_mm = np.linalg.norm(affine[:3, 2])
    area = {s.name: (label == s.code).sum() * pixel_mm**2 for s in MRSPINESEG.foreground}
    assert 600 < area["L3"] < 1250 and 90 < area["L3/L4"] < 480 and area["L3"] > 1.8 * area["L3/L4"]


def test_contrast_is_that_of_t2_bone_dark_cortex_bright_fluid() -> None:
    spine_bright = []
    for seed in range(4):
        image, label, _ = make_phantom(seed, 192, 1)
        vertebra = np.isin(label[0], range(3, 7))
        inner = ndimage.binary_erosion(vertebra, iterations=2)
        rim = vertebra & ~ndimage.binary_erosion(vertebra)
        assert np.median(image[0][rim]) < 0.7 * np.median(image[0][inner])
        behind = ndimage.binary_dilation(vertebra, structure=np.ones((15, 1))) & ~vertebra
        spine_bright.append(np.percentile(image[0][behind], 95) / np.median(image[0][inner]))
    assert min(spine_bright) > 1.5


def test_upper_levels_may_be_out_of_view_and_lookalikes_above_t9_stay_unlabeled() -> None:
    labels = [make_phantom([9, k], 64, 1).label for k in range(30)]
    shown = [present(label) for label in labels]
    assert all({1, 2, 3, 4, 11, 12, 13} <= s for s in shown)
    with_t9 = sum(10 in s for s in shown)
    assert 0 < with_t9 < 30
    free_above = [(label[0].any(0).argmax()) for label, s in zip(labels, shown, strict=True) if 10 in s]
    assert max(free_above) > 6


def test_without_the_sacrum_the_lowest_levels_are_out_of_view() -> None:
    for seed in range(8):
        shown = present(make_phantom(seed, 96, 3, sacrum=False).label)
        assert 1 not in shown and 11 not in shown and {6, 7, 8} <= shown


def test_the_mean_label_map_is_a_poor_predictor() -> None:
    labels = np.stack([make_phantom([1, k], 96, 3).label[1] for k in range(20)])
    one_hot = np.eye(MRSPINESEG.num_classes, dtype=np.float32)[labels]
    mean = one_hot[:4].mean(0)
    for predicted in (mean.argmax(-1), mean[..., 1:].argmax(-1) + 1):
        masked = np.where(mean[..., 1:].any(-1), predicted, 0)
        dice = [np.mean([_dice(masked == c, label == c) for c in present(label)]) for label in labels[4:]]
        assert np.mean(dice) < 0.30


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_lordosis_and_kyphosis_bend_the_right_way() -> None:
    spine = draw_spine(np.random.default_rng(0))
    curve = trace_centreline(spine)
    lean = np.arctan2(-curve.up[:, 1], -curve.up[:, 0])
    at = lambda s: lean[np.searchsorted(curve.s, s)]  # noqa: E731
    levels = spine.vertebra_centre
    assert at(1) > at(levels[2]) > at(levels[4]), "lumbar: the lean to anterior falls on the way up"
    assert at(levels[12]) > at(levels[6]), "thoracic: it rises again"


def test_coordinates_match_the_curve_itself() -> None:
    curve = trace_centreline(draw_spine(np.random.default_rng(1)))
    down, back = np.linspace(-150, 40, 191), np.linspace(-60, 60, 121)
    s, n = curve.coordinates(down, back)
    for target in (10.0, 60.0, 120.0):
        index = np.searchsorted(curve.s, target)
        point = curve.points[index] + 8 * curve.posterior[index]
        row, col = np.abs(down - point[0]).argmin(), np.abs(back - point[1]).argmin()
        assert s[row, col] == pytest.approx(target, abs=1.2) and n[row, col] == pytest.approx(8, abs=1.2)


def test_interpolation_weights_sum_to_one_and_keep_straight_lines() -> None:
    for weights in (linear_weights(37, 9), smooth_weights(37, 9)):
        np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(linear_weights(37, 9) @ np.arange(9), np.linspace(0, 8, 37), atol=1e-5)


@pytest.mark.parametrize(("size", "slices"), [(8, 3), ((64, 4), 3), (64, 0)])
def test_sizes_too_small_are_refused(size: object, slices: int) -> None:
    with pytest.raises(ValueError, match="expected at least 16 x 16 pixels and 1 slice"):
        make_phantom(0, size, slices)  # type: ignore[arg-type]


def test_a_data_set_loads_is_marked_and_is_the_same_again(tmp_path: Path) -> None:
    settings = {"size": 32, "slices": 2, "sacrum_free_share": 0.25, "labeled": 3, "val": 1, "test": 1}
    built = write_phantom_dataset(tmp_path / "a", 8, 5, **settings)
    write_phantom_dataset(tmp_path / "b", 8, 5, **settings)
    assert (len(built.labeled), len(built.unlabeled), len(built.validation), len(built.test)) == (3, 3, 1, 1)
    assert load_datalist(tmp_path / "a" / "datalist.json") == built
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name
    with open(tmp_path / "a" / "participants.tsv") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [r["sacrum_in_view"] for r in rows].count("no") == 2
    for row in rows:
        image = read_volume(tmp_path / "a" / f"{row['participant_id']}_T2w.nii.gz")
        label = read_volume(tmp_path / "a" / f"{row['participant_id']}_dseg.nii.gz", is_label=True, num_classes=20)
        check_pair(image, label)
        assert image.warnings == () and {int(c) for c in row["classes"].split()} == present(label.array) | {0}
        assert (1 in present(label.array)) == (row["sacrum_in_view"] == "yes")


def test_a_folder_with_other_scans_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "patient.nii.gz").touch()
    with pytest.raises(FileExistsError, match=r"patient\.nii\.gz"):
        write_phantom_dataset(tmp_path, 2, size=16, slices=1)
    with pytest.raises(ValueError, match="subjects is 0"):
        write_phantom_dataset(tmp_path / "x", 0)


def test_a_data_set_that_was_cut_short_is_made_whole_by_the_same_call(tmp_path: Path) -> None:
    def cut(name: str) -> None:
        if name == "sub-002":
            raise KeyboardInterrupt

    settings = {"size": 16, "slices": 1, "labeled": 1, "val": 1, "test": 1}
    with pytest.raises(KeyboardInterrupt):
        write_phantom_dataset(tmp_path / "cut", 4, on_subject=cut, **settings)
    assert not (tmp_path / "cut" / "participants.tsv").exists()
    write_phantom_dataset(tmp_path / "cut", 4, **settings)
    write_phantom_dataset(tmp_path / "whole", 4, **settings)
    files = {name: sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("cut", "whole")}
    assert files["cut"] == files["whole"] and len(files["whole"]) == 11, "and nothing is left of the cut"
    for name in files["whole"]:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_scans_of_the_same_names_that_this_command_did_not_write_are_left_alone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 16 x 16 pixels"):
        write_phantom_dataset(tmp_path, 2, size=8, slices=1)
    (tmp_path / "sub-001_T2w.nii.gz").write_bytes(b"a patient")
    with pytest.raises(FileExistsError, match="not made by this command"):
        write_phantom_dataset(tmp_path, 2, size=16, slices=1)
    assert (tmp_path / "sub-001_T2w.nii.gz").read_bytes() == b"a patient"


def test_nothing_of_other_data_sets_is_written_over(tmp_path: Path) -> None:
    table = "participant_id\tage\nsub-001\t54\n"
    bids, flat, nested = (tmp_path / name for name in ("bids", "flat", "nested"))
    for folder, scan in ((bids, "sub-001/anat/sub-001_T2w.nii.gz"), (flat, "sub-001_T2w.nii.gz")):
        (folder / scan).parent.mkdir(parents=True)
        (folder / scan).write_bytes(b"a patient")
        (folder / "participants.tsv").write_text(table)
    (nested / "sub-001").mkdir(parents=True)
    (nested / "sub-001/sub-001_T1w.nii").write_bytes(b"a patient")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for folder in (bids, flat, nested):
        with pytest.raises(FileExistsError, match=r"holds other files .*choose another folder"):
            write_phantom_dataset(folder, 4, size=16, slices=1, labeled=1, val=1, test=1)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_phantom_of_other_arguments_is_left_as_it_is(tmp_path: Path) -> None:
    settings = {"size": (16, 16), "slices": 1, "labeled": 1, "val": 1, "test": 1}
    write_phantom_dataset(tmp_path, 4, **settings)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    write_phantom_dataset(tmp_path, 4, **settings)
    with pytest.raises(FileExistsError, match=r"a phantom made with seed 0, not 2\. Fix: choose another folder"):
        write_phantom_dataset(tmp_path, 4, 2, **settings)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(("asked", "words"), [({"labeled": 6}, "6 labeled"), ({"val": 2, "test": 2}, "2 test and 2")])
def test_a_split_that_cannot_be_is_refused_before_a_scan_is_written(tmp_path: Path, asked: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        write_phantom_dataset(tmp_path / "a", 4, size=16, slices=1, **{"labeled": 1, "val": 1, "test": 1, **asked})
    assert not (tmp_path / "a").exists()
