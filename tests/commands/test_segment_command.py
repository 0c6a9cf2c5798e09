"""`cps4 segment`: its options, kinds of input, what it tells, and that a kill loses nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cps4_monai.commands.segment import segment
from cps4_monai.data.label_ownership import is_ours


def test_missing_files_and_empty_folders_are_told_and_the_rest_is_segmented(inputs):
    good, empty = inputs.save(), inputs.root / "empty"
    empty.mkdir()
    gone = inputs.folder / "gone.nii.gz"
    result = inputs.segment(gone, good, empty)
    first, second = (row["reason"] for row in inputs.rows("failures.csv"))
    assert result.exit_code == 1 and "no such file" in first and "no scan in this folder" in second
    assert "1 segmented, 0 kept, 2 failed" in result.output and inputs.codes().any()
    assert "Traceback" not in result.output and result.output.count(f"failed {gone}: ") == 1


def test_a_damaged_file_is_named_once_and_the_others_are_segmented(inputs):
    inputs.save("good.nii.gz")
    bad = inputs.save("bad.nii.gz")
    bad.write_bytes(bad.read_bytes()[:200])
    result = inputs.segment()
    assert result.exit_code == 1 and result.output.count(f"failed {bad}: found damaged gzip") == 1
    assert not (inputs.out / "bad_dseg.nii.gz").exists() and inputs.codes("good").any()
    assert [row["status"] for row in inputs.rows("scans.csv")] == ["failed", "done"]


def test_bids_datalists_and_files_in_one_call(inputs):
    bids = inputs.folder / "bids"
    for name in ("bids/sub-1/anat/sub-1_T2w.nii.gz", "list/x/p.nii.gz", "one.nii.gz"):
        inputs.save(name)
    (bids / "dataset_description.json").write_text("{}")
    datalist = inputs.folder / "list/d.json"
    datalist.write_text(json.dumps({"test": [{"image": "x/p.nii.gz"}]}))
    inputs.segmented(bids, datalist, inputs.folder / "one.nii.gz")
    for name in ("sub-1/anat/sub-1_seg-spine", "x/p", "one"):
        assert inputs.codes(name).any() and inputs.record(name)["Sources"][0].startswith("/")


def test_dicom_folder_with_a_localizer_inside(inputs, dicom):
    dicom.save_all(inputs.folder, dicom.series_of(dicom.sagittal(inputs.scan)))
    dicom.save_all(inputs.folder, dicom.series_of(np.ones((3, 8, 8), int), series="2", SeriesDescription="localizer"))
    inputs.segmented()
    assert "localizer" in inputs.warnings("in") and sorted(inputs.mask("in").shape) == sorted(inputs.scan.label.shape)
    assert "0 segmented, 1 kept" in inputs.segment().output


def test_of_a_study_the_sagittal_t2_is_taken_and_the_others_are_listed(inputs, dicom):
    for number, name in enumerate(["t1_tse_sag", "t2_tse_sag", "localizer"], 1):
        slices = dicom.series_of(dicom.sagittal(inputs.scan), series=str(number), SeriesDescription=name)
        dicom.save_all(inputs.folder / f"S{number}", slices)
    inputs.segmented()
    rows = {row["scan"]: row["status"] for row in inputs.rows("scans.csv")}
    assert rows["S2"] == "done" and inputs.record("S2")["Series"]["Number"] == 2
    told = inputs.segment().output
    assert "series 1 't1_tse_sag' (5 images): T1-weighted; taken of this study: series 2" in told
    assert "a localizer" in told
    assert inputs.segment("--series", "1").exit_code == 0 and inputs.record("S1")["Series"]["Number"] == 1
    told = inputs.segment("--series", "pd").output
    assert "no series 'pd'; found series 1 't1_tse_sag'" in told and "series 3 'localizer'" in told


def test_no_name_of_a_patient_is_in_any_output(inputs, dicom):
    dicom.save_all(inputs.folder / "p", dicom.series_of(dicom.sagittal(inputs.scan)))
    inputs.segmented(inputs.folder)
    for path in inputs.out.rglob("*"):
        assert path.is_dir() or b"Meier" not in path.read_bytes()


def test_again_and_overwrite(inputs):
    inputs.save()
    result = inputs.segment(qc=True)
    assert result.exit_code == 0 and (inputs.out / "s_qc.png").exists()
    assert result.output.strip().splitlines()[-1] == f"report: {inputs.out / 'report.html'}"
    stamp = (inputs.out / "s_dseg.nii.gz").stat().st_mtime_ns
    assert "0 segmented, 1 kept, 0 failed" in inputs.segment(qc=True).output
    assert "1 kept, though made with other weights or settings" in inputs.segment("--raw").output
    assert (inputs.out / "s_dseg.nii.gz").stat().st_mtime_ns == stamp
    assert "1 segmented" in inputs.segment("--raw", "--overwrite").output
    assert (inputs.out / "s_dseg.nii.gz").stat().st_mtime_ns > stamp


def test_a_file_name_is_no_markup_and_no_formula(inputs, monkeypatch):
    from rich.console import Console

    monkeypatch.setattr(Console, "is_terminal", property(lambda self: True))  # the bar is drawn
    name = "[/red]a$_$b\n[bold"
    inputs.save(f"{name}.nii.gz")
    result = inputs.segment(qc=True)
    assert result.exit_code == 0, result.output
    assert (inputs.out / f"{name}_qc.png").exists() and inputs.rows("scans.csv")[0]["scan"] == name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--weights", "/nowhere.zip"), "no such file or folder"),
        (("--device", "tpu"), "expected auto, cpu"),
        (("--device", "cuda:77"), "set device to auto or cpu"),
        (("--assume-spacing", "0"), "one or three positive"),
        (("--jobs", "0"), "0 is not in the range"),
        (("--batch-size", "0"), "0 is not in the range"),
        (("--no-such-option",), "No such option"),
    ],
)
def test_wrong_settings_are_told_without_a_traceback(inputs, arguments, words):
    inputs.save()
    result = inputs.segment(*arguments)
    assert result.exit_code in (1, 2) and words in result.output and "Traceback" not in result.output
    assert not inputs.out.exists()


def test_a_device_that_is_not_here_is_told(inputs):
    import torch

    inputs.save()
    result = inputs.segment("--device", "mps")
    assert result.exit_code == (0 if torch.backends.mps.is_available() else 1)
    assert "Apple's GPU is not available here" in result.output or result.exit_code == 0


def test_weights_that_do_not_fit_end_the_run_and_are_no_scans_fault(inputs, edited_bundle):
    import io

    import torch

    buffer = io.BytesIO()
    torch.save({"other": torch.zeros(2)}, buffer)
    for name in ("a.nii.gz", "b.nii.gz"):
        inputs.save(name)
    result = inputs.segment("--weights", edited_bundle(weights=buffer.getvalue()))
    assert result.exit_code == 1 and "weights of another network" in result.output
    assert result.output.count("weights of another network") == 1 and not list(inputs.out.glob("*dseg*"))


def test_help_shows_examples_and_loads_nothing_heavy():
    code = "import sys; from cps4_monai.commands.segment import segment; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    result = CliRunner().invoke(segment, ["--help"])
    assert result.exit_code == 0 and "cps4 segment scan.nii.gz -o out" in result.output
    for option in ("--device", "--weights", "--batch-size", "--overwrite", "--no-qc", "--tta", "--jobs", "--raw"):
        assert option in result.output


def test_every_key_of_the_sidecar_and_every_file_is_on_the_page(inputs):
    page = (Path(__file__).resolve().parents[2] / "docs/how-to/segment.md").read_text("utf-8")
    inputs.save()
    assert inputs.segment(qc=True).exit_code == inputs.segment("--overwrite", qc=True).exit_code == 0
    record = inputs.record()
    structure = next(s for s in record["Structures"] if s["name"] == "L5")
    keys = {*record, *structure} - {"code", "name", "kind"}
    assert {key for key in keys if f"`{key}`" not in page} == set()
    files = {
        path.name.replace("s_", "<scan>_", 1) if path.name.startswith("s_") else path.name
        for path in inputs.out.iterdir()
    }
    assert {name for name in files if f"`{name}`" not in page} == set()
    assert structure["state"] == "present" and structure["volume_ml"] > 0 and 0 < structure["confidence"] <= 1
    assert len(record["Weights"]["Sha256"]) == 64 and record["Device"] == "cpu" and record["Seconds"]["network"] > 0


def test_a_zip_on_another_path_and_test_time_augmentation(inputs):
    inputs.save()
    archive = shutil.make_archive(str(inputs.root / "weights of mine"), "zip", inputs.bundle)
    inputs.segmented("--weights", archive, "--tta")
    record = inputs.record()
    assert record["Settings"]["TestTimeAugmentation"] and record["Weights"]["Name"] == "weights of mine.zip"


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory):
    """The bundle with a small network of its own kind, for processes of their own."""
    import torch

    from cps4_monai.anatomy import MRSPINESEG
    from cps4_monai.bundle_root import find_bundle_root
    from cps4_monai.export import stage_bundle
    from cps4_monai.networks import ResUNet
    from cps4_monai.plan import Plan, write_plan

    folder = tmp_path_factory.mktemp("small")
    torch.save(ResUNet(features=(4, 8)).state_dict(), folder / "w.pt")
    network = {"_target_": "cps4_monai.networks.ResUNet", "features": [4, 8]}
    write_plan(folder, Plan(MRSPINESEG, (), 4.0, network=network))
    stage_bundle(find_bundle_root(), folder / "bundle", folder / "w.pt")
    return folder / "bundle"


def test_segmenting_imports_no_training_and_no_drawing_before_it_is_needed(inputs, small_bundle):
    inputs.save()
    heavy = ["monai", "ignite", "pandas", "timm", "transformers", "torchvision", "skimage", "SimpleITK", "matplotlib"]
    heavy += ["dask", "distributed"]
    code = (
        "import sys; from cps4_monai.inference.batch import segment_scans;"
        f"run = segment_scans({str(inputs.folder)!r}, {str(inputs.out)!r}, weights={str(small_bundle)!r}, qc=False);"
        f"print(len(run.segmented), sorted(set({heavy!r}) & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "1 []"


def test_after_a_kill_the_same_command_does_only_what_is_missing(inputs, small_bundle):
    names = [f"s{number:02d}" for number in range(12)]
    for name in names:
        inputs.save(f"{name}.nii.gz")
    command = [sys.executable, "-m", "cps4_monai.cli", "segment", inputs.folder, "-o", inputs.out, "-w", small_bundle,
               "-d", "cpu", "-j", "1"]  # fmt: skip
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(inputs.out.glob("[!.]*_dseg.nii.gz")):
        time.sleep(0.002)
    process.kill()
    process.wait()
    there = {path: path.stat().st_mtime_ns for path in inputs.out.glob("[!.]*_dseg.nii.gz")}
    assert there and all(is_ours(path) for path in there)  # whole, with their sidecars
    result = inputs.segment("--weights", small_bundle, qc=True)
    assert result.exit_code == 0, result.output
    assert f"{len(names) - len(there)} segmented, {len(there)} kept, 0 failed" in result.output
    assert {path: path.stat().st_mtime_ns for path in there} == there
    assert all(
        (inputs.out / f"{name}_qc.png").exists() and is_ours(inputs.out / f"{name}_dseg.nii.gz") for name in names
    )


def test_where_nothing_is_segmented_the_exit_code_says_so(inputs):
    """A folder that holds what looks like label maps alone: of scans that somebody masked, perhaps."""
    few = np.where(np.arange(inputs.scan.image.size).reshape(inputs.scan.image.shape) % 7 == 0, 3, 0).astype(np.uint8)
    path = inputs.save("quiet.nii.gz", few)
    result = inputs.segment()
    assert result.exit_code == 1 and "0 segmented, 0 kept, 0 failed" in result.output
    assert "few of them: a label map; if not, name the file" in result.output and "to look at" not in result.output
    result = inputs.segment(path)
    assert result.exit_code == 0 and "a label map? It was segmented as a scan" in inputs.warnings("quiet")


def test_who_stops_it_is_told_how_it_goes_on(inputs, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    inputs.save()
    monkeypatch.setattr("cps4_monai.inference.batch.segment_scans", stopped)
    result = inputs.segment()
    assert result.exit_code == 1 and f"stopped; the same command goes on with what is missing in {inputs.out}" in (
        result.output
    )
