"""`cps4 attention`: where the prompts of a stage 1 attend to, on scans that are in no datalist."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.bundle_root import BUNDLE_STAGE1
from cps4_monai.commands.attention import attention
from cps4_monai.commands.export import export
from cps4_monai.export import BUNDLE_NAME
from cps4_monai.plan import Plan, write_plan
from cps4_monai.report.attention import attention_figure
from cps4_monai.report.attention_page import named
from cps4_monai.vision import PromptedVision, VisionEncoder, save_prompted_vision
from cps4_monai.vision.stage1_file import ASSISTANT

SIZE = (64, 32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run with a stage 1 of random weights."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    encoder = VisionEncoder("vit_tiny_patch16_224", SIZE, False, patch_size=8, embed_dim=24, depth=1, num_heads=2)
    model = PromptedVision(encoder, torch.randn(MRSPINESEG.num_classes, 12), unannotated=(1,))
    plan = Plan(MRSPINESEG, unannotated=(1,), spacing_mm=4.0, slice_size=SIZE, activation="sigmoid")
    (folder / "stage1").mkdir()
    write_plan(folder / "stage1", plan)
    save_prompted_vision(folder / "stage1" / "prompted_vision.pt", model, MRSPINESEG, plan)
    return folder


def scan_at(path: Path) -> Path:
    """A sagittal scan of one slice, (1, 48, 96) voxels of 4 x 3 x 3 mm."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(0).integers(0, 200, (1, 48, 96)).astype(np.uint8)
    nib.save(nib.Nifti1Image(image, np.diag([4.0, 3.0, 3.0, 1.0])), path)
    return path


def called(*arguments: object) -> Result:
    return CliRunner().invoke(attention, [*map(str, arguments), "--device", "cpu"])


def test_a_scan_gets_a_picture_of_the_named_prompts_and_a_page(run: Path, tmp_path: Path) -> None:
    scan = scan_at(tmp_path / "in" / "a.nii.gz")
    result = called(scan, "--stage1", run, "-o", tmp_path / "out", "--prompts", "L5, L4/L5")
    assert result.exit_code == 0, result.output
    picture = Image.open(tmp_path / "out" / "a_attention.png")
    panels = np.zeros(SIZE), None, np.zeros((20, 8, 4)), ["L5", "L4/L5"]
    alike = Image.open(io.BytesIO(attention_figure(*panels, spacing_mm=(4.0, 4.0), title="a, slice 1 of 1")))
    assert picture.size == alike.size, "image, and the two prompts"
    page = (tmp_path / "out" / "attention.html").read_text(encoding="utf-8")
    assert page.count("data:image/webp") == 1 and "Whole scans" in page


def test_without_a_stage_1_that_of_the_bundle_is_shown(tmp_path: Path) -> None:
    result = called(scan_at(tmp_path / "a.nii.gz"), "-o", tmp_path / "out", "--prompts", "L5")
    assert result.exit_code == 0 and (tmp_path / "out" / "a_attention.png").is_file(), result.output


def test_a_folder_is_searched_and_its_label_maps_are_passed_over(run: Path, tmp_path: Path) -> None:
    for name in ("x/a_T2w.nii.gz", "y/a_T2w.nii.gz", "y/a_dseg.nii.gz"):
        scan_at(tmp_path / "in" / name)
    stage1 = run / "stage1" / "prompted_vision.pt"
    assert called(tmp_path / "in", "-s", stage1, "-o", tmp_path / "out").exit_code == 0
    pictures = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png"))
    assert pictures == ["x/a_T2w_attention.png", "y/a_T2w_attention.png"]


def test_each_scan_has_a_name_of_its_own() -> None:
    assert list(named([Path("b.nii"), Path("c.nii.gz")])) == ["b", "c"]
    scans = [Path("in/a/t2.nii.gz"), Path("in/b/T2.nii.gz"), Path("in/c/001_t2.nii.gz")]
    assert named(scans) == dict(zip(["a/t2", "b/T2", "001_t2"], scans, strict=True))
    above = [Path("../a/t2.nii.gz"), Path("b/t2.nii.gz")]
    assert not any(".." in name for name in named(above)) and len(named(above)) == 2
    with pytest.raises(ValueError, match=r"t2\.nii: its picture would have the name of that of a/T2\.nii\.gz"):
        named([Path("a/T2.nii.gz"), Path("a/t2.nii")])


@pytest.mark.parametrize("name", ["attention.html", "a_attention.png"])
def test_files_of_somebody_else_are_not_replaced(run: Path, tmp_path: Path, name: str) -> None:
    scan, out = scan_at(tmp_path / "a.nii.gz"), tmp_path / "out"
    assert called(scan, "-s", run, "-o", out).exit_code == called(scan, "-s", run, "-o", out).exit_code == 0
    (out / name).write_bytes(b"notes of mine, and no picture, nor a page of ours" * 3)
    result = called(scan, "-s", run, "-o", out)
    assert result.exit_code == 1 and "never overwritten" in result.output
    assert (out / name).read_bytes().startswith(b"notes of mine")


def test_one_scan_that_cannot_be_read_does_not_lose_the_others(run: Path, tmp_path: Path) -> None:
    scan_at(tmp_path / "in" / "a_T2w.nii.gz")
    (tmp_path / "in" / "b_T2w.nii.gz").write_bytes(b"no scan")
    (tmp_path / "in" / "c.mha").write_bytes(b"of another format")
    result = called(tmp_path / "in", "-s", run, "-o", tmp_path / "out")
    assert result.exit_code == 1 and "1 of 2 scans could not be read" in result.output, result.output
    assert "b_T2w.nii.gz" in result.output and "passed over" in result.output and "c.mha" in result.output
    assert (tmp_path / "out" / "a_T2w_attention.png").is_file() and (tmp_path / "out" / "attention.html").is_file()


def test_scans_without_geometry_are_shown_by_the_spacing_that_is_assumed(run: Path, tmp_path: Path) -> None:
    header = nib.Nifti1Header()
    image = nib.Nifti1Image(np.random.default_rng(0).integers(0, 200, (1, 48, 96)).astype(np.uint8), None, header)
    image.set_qform(None, 0)
    image.set_sform(None, 0)
    nib.save(image, tmp_path / "a.nii.gz")
    refused = called(tmp_path / "a.nii.gz", "-s", run, "-o", tmp_path / "out")
    assert refused.exit_code == 1 and "--assume-spacing" in refused.output
    shown = called(tmp_path / "a.nii.gz", "-s", run, "-o", tmp_path / "out", "--assume-spacing", "4,3,3")
    assert shown.exit_code == 0, shown.output


def test_the_viewer_has_the_first_scans_and_says_so(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cps4_monai.report.attention_pictures.attention_pictures.__defaults__", ("cpu", 4, 1))
    scans = [scan_at(tmp_path / name) for name in ("a.nii.gz", "b.nii.gz")]
    assert called(*scans, "-s", run, "-o", tmp_path / "out").exit_code == 0
    page = (tmp_path / "out" / "attention.html").read_text(encoding="utf-8")
    assert "The first 1 of 2 scans." in page and (tmp_path / "out" / "b_attention.png").is_file()


def test_what_cannot_be_shown_is_refused_in_a_line(run: Path, tmp_path: Path) -> None:
    scan = scan_at(tmp_path / "a.nii.gz")
    result = called(scan, "-s", run, "-o", tmp_path / "out", "--prompts", "L7")
    assert result.exit_code == 1 and "no structure is called 'L7'" in result.output
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no NIfTI scan in it" in called(empty, "-s", run, "-o", tmp_path / "out").output
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "c.mha").write_bytes(b"of another format")
    told = called(tmp_path / "other", "-s", run, "-o", tmp_path / "out").output
    assert "no NIfTI scan in it" in told and "c.mha" in told
    result = called(scan, "-s", empty, "-o", tmp_path / "out")
    assert result.exit_code == 1 and "holds no stage1/prompted_vision.pt" in result.output


@pytest.mark.parametrize("given", ["spine.zip", "runs"])
def test_what_holds_no_stage_1_is_told_what_would(tmp_path, given):
    (tmp_path / "runs").mkdir()
    (tmp_path / "spine.zip").write_bytes(b"PK")
    result = called(tmp_path, "--stage1", tmp_path / given, "-o", tmp_path / "out")
    told = {"spine.zip": "spine.zip: no bundle", "runs": "runs: holds no stage1/prompted_vision.pt"}[given]
    assert result.exit_code == 1 and told in result.output


def test_a_bundle_ships_the_stage_1_of_its_run_and_shows_the_same_maps(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In half precision: pictures of zip, unpacked folder and run agree but for a shade."""
    monkeypatch.setattr("cps4_monai.export.bundle.lay_out", lambda folder: None)  # ten seconds each: test_model_zoo.py
    assert exported(tiny_run, tmp_path / "with.zip", "--stage1", str(tiny_run)).exit_code == 0
    with zipfile.ZipFile(tmp_path / "with.zip") as archive:
        archive.extractall(tmp_path)
    scan = scan_at(tmp_path / "a.nii.gz")
    pictures = {}
    for name, given in (("run", tiny_run), ("zip", tmp_path / "with.zip"), ("folder", tmp_path / BUNDLE_NAME)):
        result = called(scan, "--stage1", given, "-o", tmp_path / name)
        assert result.exit_code == 0, result.output
        pictures[name] = np.asarray(Image.open(tmp_path / name / "a_attention.png").convert("RGB")).astype(int)
    assert np.array_equal(pictures["zip"], pictures["folder"])
    assert np.abs(pictures["zip"] - pictures["run"]).mean() < 2
    weights = torch.load(tmp_path / BUNDLE_NAME / BUNDLE_STAGE1, weights_only=True)["weights"]
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float16}

    assert exported(tmp_path / BUNDLE_NAME, tmp_path / "again.zip").exit_code == 0, "a bundle's own goes with its own"
    assert exported(tiny_run, tmp_path / "without.zip").exit_code == 0
    for name, there in (("again.zip", True), ("without.zip", False)):
        with zipfile.ZipFile(tmp_path / name) as archive:
            assert any(item.endswith(BUNDLE_STAGE1.as_posix()) for item in archive.namelist()) is there
    result = called(scan, "--stage1", tmp_path / "without.zip", "-o", tmp_path / "none")
    assert result.exit_code == 1 and "export --run RUN --stage1 RUN" in result.output


def test_what_has_no_prompts_is_not_shipped(tiny_run: Path, tmp_path: Path) -> None:
    files = {"assistant": {"format": ASSISTANT}, "other": {"a": torch.zeros(1)}}
    told = {"assistant": "an assistant of templates", "other": "other.pt"}
    for name, content in files.items():
        torch.save(content, tmp_path / f"{name}.pt")
        result = exported(tiny_run, tmp_path / "a.zip", "--stage1", str(tmp_path / f"{name}.pt"))
        assert result.exit_code == 1 and told[name] in result.output and "Traceback" not in result.output
    result = CliRunner().invoke(export, ["--stage1", str(tiny_run), "-o", str(tmp_path / "a.zip")])
    assert result.exit_code == 2 and "belongs to --run" in result.output
    assert not (tmp_path / "a.zip").exists()


def exported(source: Path, output: Path, *more: str) -> Result:
    """Of a run, or of a bundle's folder with its own weights."""
    of = "--bundle-root" if (source / "configs").is_dir() else "--run"
    return CliRunner().invoke(export, [of, str(source), "-o", str(output), *more])
