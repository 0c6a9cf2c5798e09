"""The commands of the bundle's README on a real scan, with the released weights: each gives the value that is known.

Those that train from scratch, take several processes or a zip are tested on the phantom; ``TESTED`` says where.
"""

from __future__ import annotations

import ast
import json
import logging
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from monai.bundle import ConfigParser

from cps4_monai import segment
from cps4_monai.assembly.stage2 import deployed_plan
from cps4_monai.data.volume import read_volume
from cps4_monai.evaluation.case import evaluate_arrays
from cps4_monai.failure import cause_of
from cps4_monai.inference.bundle import open_bundle
from cps4_monai.inference.segment import Segmenter
from cps4_monai.plan import read_plan
from cps4_monai.workflow import CPS4Workflow

pytestmark = pytest.mark.usefixtures("same_search_path")

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "bundle" / "docs" / "README.md"
SCAN = "sub-052"  # a validation subject, the regression scan of the released weights
DICE = {"decoded": 0.9426, "argmax": 0.9424}  # Dice (b) of the released weights on it, 2026-11-26
TESTED = {  # what comes after "python -m", in its order on the page: the file and a test in it
    "monai.bundle run training_stage2 any_contrast.json": "test_documented_commands.py::test_the_commands_that_made",
    "monai.bundle run training_stage1": "test_run_as_written.py::test_stage_1_from_the_bundles_folder",
    "monai.bundle run training_stage2": "test_run_as_written.py::test_stage_2_from_elsewhere_with_bundle_root",
    "monai.bundle run training_stage2 as_trained.json": "test_documented_commands.py::test_training_on_from",
    "monai.bundle run training_stage1 cps4_monai.CPS4Workflow": "test_run_as_written.py::test_both_stages_without_a",
    "monai.bundle run training_stage2 mean_teacher.json": "test_training_runs.py::test_every_method_overlay_trains",
    "torchrun training_stage2 multi_gpu_train.json": "test_run_as_written.py::test_two_processes_train_together",
    "monai.bundle run evaluate.json": "test_documented_commands.py::test_evaluation_of_the_shipped_weights",
    "monai.bundle run inference.json": "test_documented_commands.py::test_inference",
    "monai.bundle ckpt_export inference.json": "test_documented_commands.py::test_torchscript",
    "monai.bundle onnx_export inference.json": "test_documented_commands.py::test_onnx",
    "monai.bundle verify_metadata": "test_bundle_verbs.py::test_metadata_is_valid_by_monais_schema",
    "monai.bundle verify_net_in_out inference.json": "test_bundle_verbs.py::test_the_shipped_network_takes_and_gives",
    "monai.bundle download": "test_offline_verbs.py::test_download_takes_a_file_url_and_load_the_result",
    "monai.bundle.load": "test_offline_verbs.py::test_download_takes_a_file_url_and_load_the_result",
    "training_finetune": "test_documented_commands.py::test_fine_tuning",
}


def commands() -> list[str]:
    """Lines of the code blocks that start Python or torchrun."""
    blocks = re.findall(r"^```\n(.*?)^```", README.read_text("utf-8"), flags=re.M | re.S)
    return [line for block in blocks for line in block.splitlines() if line.startswith(("python", "torchrun"))]


def kind(command: str) -> str:
    """A command as ``TESTED`` names it: its verb, its run id and the last of its configs but train.json."""
    if command.startswith("python -c"):
        return "monai.bundle.load"
    words = shlex.split(command)
    verb = "torchrun" if words[0] == "torchrun" else " ".join(words[2:4])
    run_id = [word for word in words if word.startswith("training_stage")]
    named = [words[words.index(option) + 1] for option in ("--config_file", "--workflow_name") if option in words]
    configs = [name for one in named for name in (ast.literal_eval(one) if one.startswith("[") else [one])]
    last = [Path(name).name for name in configs if Path(name).name not in ("train.json", "release.json")][-1:]
    if "configs/as_trained.json" in configs:
        last = ["as_trained.json"]
    return " ".join([verb, *run_id, *last])


def test_each_command_of_the_page_has_its_test() -> None:
    missing = [command for command in commands() if kind(command) not in TESTED]
    assert not missing, missing
    assert "`training_finetune`" in README.read_text("utf-8")
    for place in TESTED.values():
        file, name = place.split("::")
        assert f"def {name}" in (Path(__file__).with_name(file)).read_text("utf-8"), place


# --- with the released weights, on a real scan ----------------------------------------------------------------------


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the bundle, which is the working directory, as the README says."""
    folder = tmp_path / "bundle"
    shutil.copytree(ROOT / "bundle", folder, ignore=shutil.ignore_patterns("runs", "eval"))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def data(spider_dir: Path, tmp_path: Path) -> dict[str, str]:
    """``--dataset_dir`` and ``--datalist``: the regression scan to test on, two others to train and validate on."""
    volumes = {s: {"image": f"volumes/{s}_T2w.nii.gz", "label": f"volumes/{s}_dseg.nii.gz", "subject": s}
               for s in (SCAN, "sub-209", "sub-005")}  # fmt: skip
    content = {"name": "real", "unannotated": [1], "training": [volumes["sub-209"]],
               "validation": [volumes["sub-005"]], "test": [volumes[SCAN]]}  # fmt: skip
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    return {"dataset_dir": str(spider_dir), "datalist": str(tmp_path / "datalist.json")}


def dice_of(labels: np.ndarray, spider_dir: Path) -> float:
    """Dice (b) of a label map of the regression scan."""
    truth = read_volume(spider_dir / "volumes" / f"{SCAN}_dseg.nii.gz", is_label=True, num_classes=20)
    scores = evaluate_arrays(labels, truth.array, truth.affine, truth.spacing_mm, open_bundle().anatomy, [1],
                             case=SCAN, subject=SCAN)  # fmt: skip
    return float(scores.case["dice_b"])


def test_evaluation_of_the_shipped_weights_gives_their_dice_decoded_and_not(bundle: Path, data: dict) -> None:
    configs = ["configs/train.json", "configs/evaluate.json"]
    monai.bundle.run(config_file=configs, checkpoint="models/model.pt", device_name="cpu", **data)
    folder = bundle / "runs" / "cps4" / "evaluation"
    table = pd.read_csv(folder / "comparison.csv")
    dice = table[table["metric"] == "dice_b"].set_index("output")["mean"]
    assert dice["levels decoded"] == pytest.approx(DICE["decoded"], abs=0.003)
    assert dice["plain argmax"] == pytest.approx(DICE["argmax"], abs=0.003)
    assert json.loads((folder / "evaluation.json").read_text())["weights_sha256"] == open_bundle().sha256


def test_inference_gives_the_label_map_of_cps4_segment(bundle: Path, data: dict, spider_dir: Path) -> None:
    monai.bundle.run(config_file="configs/inference.json", device_name="cpu", **data)
    (path,) = (bundle / "eval").rglob(f"{SCAN}*_dseg.nii.gz")
    found = read_volume(path, is_label=True, num_classes=20)
    np.testing.assert_array_equal(
        np.asarray(nib.load(path).dataobj), segment(spider_dir / "volumes" / f"{SCAN}_T2w.nii.gz", qc=False).labels
    )
    assert dice_of(found.array, spider_dir) == pytest.approx(DICE["decoded"], abs=0.003)


@pytest.fixture
def slices(spider_dir: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """One slice of the scan as the network takes it, (1, 1, 256, 128), and the classes that the weights give it."""
    segmenter = Segmenter(device="cpu")
    image = segmenter.prepare(spider_dir / "volumes" / f"{SCAN}_T2w.nii.gz").slices
    middle = torch.as_tensor(np.asarray(image)[len(image) // 2], dtype=torch.float32).reshape(1, 1, *image.shape[-2:])
    padded = torch.nn.functional.pad(middle, (0, 128 - middle.shape[-1], 0, 256 - middle.shape[-2]))
    with torch.no_grad():
        return padded, open_bundle().build_network(torch.device("cpu"))(padded)


EXPORT = {"config_file": "configs/inference.json", "meta_file": "configs/metadata.json", "ckpt_file": "models/model.pt"}


def test_torchscript_of_the_shipped_weights_computes_the_same(bundle: Path, slices: tuple) -> None:
    monai.bundle.ckpt_export("network_def", filepath="models/model.ts", **EXPORT)
    image, expected = slices
    with torch.no_grad():
        found = torch.jit.load("models/model.ts").eval()(image)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert len(found.argmax(1).unique()) > 5


def test_onnx_of_the_shipped_weights_computes_the_same(bundle: Path, slices: tuple) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    monai.bundle.onnx_export("network_def", filepath="models/model.onnx", input_shape=[1, 1, 256, 128], **EXPORT)
    session = runtime.InferenceSession("models/model.onnx")
    image, expected = slices
    (found,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    assert (found.argmax(1) == expected.argmax(1).numpy()).mean() > 0.9999


def fine_tune(bundle: Path, spider_dir: Path, subjects: list[str], validation: list[str], **more: Any) -> dict:
    """``training_finetune`` with what MONAI Label's ``BundleTrainTask`` passes; the decision that it leaves."""
    training, validation = (
        [{k: str(spider_dir / "volumes" / f"{s}_{end}.nii.gz") for k, end in (("image", "T2w"), ("label", "dseg"))}
         for s in side] for side in (subjects, validation)
    )  # fmt: skip
    files = {"meta_file": str(bundle / "configs/metadata.json"), "config_file": str(bundle / "configs/train.json")}
    given = {"bundle_root": str(bundle), "device": "cpu", "train#dataset#data": training,
             "validate#dataset#data": validation}  # fmt: skip
    monai.bundle.run(run_id="training_finetune", init_id=None, final_id=None, **files, **given, **more)
    return json.loads((bundle / "runs/cps4/finetune/deployment.json").read_text())


def test_fine_tuning_starts_at_the_weights_own_dice_and_leaves_them_in_use(bundle: Path, spider_dir: Path) -> None:
    before = (bundle / "models" / "model.pt").read_bytes()
    settings = {"train#trainer#max_epochs": 1, "iterations_per_epoch": 2, "num_workers": 0, "min_free_gib": 0.0}
    decision = fine_tune(bundle, spider_dir, ["sub-209"], [SCAN], **settings)
    assert decision["score_before"] > 0.9 and decision["score_fine_tuned"] > 0.9, "not 0.06, as at another spacing"
    assert decision["deployed"] is False and decision["held_out"] is True and decision["validation_subjects"] == 1
    assert (bundle / "models" / "model.pt").read_bytes() == before
    tuned = Segmenter(bundle / "models" / "model_finetuned.pt", device="cpu")
    scan = spider_dir / "volumes" / f"{SCAN}_T2w.nii.gz"
    assert dice_of(tuned(scan, qc=False).labels, spider_dir) > 0.9


def as_documented(command: str, spider_dir: Path, **more: Any) -> CPS4Workflow:
    """The workflow of a command of the page, with every setting checked by name; ``$R`` and ``<...>`` are the data."""
    data = {"dataset_dir": str(spider_dir), "datalist": str(spider_dir / "splits.json")}
    command = command.replace("$R", "").replace("<scans>", str(spider_dir)).replace("<datalist.json>", data["datalist"])
    words = shlex.split(command)
    options = {words[i].removeprefix("--"): words[i + 1] for i in range(5, len(words), 2)}
    configs = [Path(name).name for name in ast.literal_eval(options.pop("config_file"))]
    options = {key: _value(value) for key, value in options.items()}
    return CPS4Workflow(configs, run_id=words[4], **{**data, "device_name": "cpu", **options, **more})


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def test_the_commands_that_made_the_released_weights_are_of_their_plan(spider_dir: Path, tmp_path: Path) -> None:
    made = [command for command in commands() if " $R " in command]
    assert [kind(c).split()[-1] for c in made] == ["any_contrast.json", "any_contrast.json"]
    released = read_plan(ROOT / "bundle" / "models" / "plan.json")
    for command in made:
        workflow = as_documented(command, spider_dir, output_dir=str(tmp_path), finetune_from=None)
        parsed = workflow.parser.get_parsed_content
        plan = deployed_plan(parsed("context"), parsed("train#method"))
        # The data of the release mark what is not annotated by 255; those of this test leave a class out instead.
        plan = replace(plan, unannotated=released.unannotated)
        assert plan.differences(released) == [] and plan.slice_size == released.slice_size
        assert plan.network == released.network


def test_training_on_from_the_weights_is_accepted_and_at_another_spacing_refused(
    spider_dir: Path, bundle: Path, tmp_path: Path
) -> None:
    (command,) = [c for c in commands() if "as_trained.json" in c]
    workflow = as_documented(command, spider_dir, output_dir=str(tmp_path / "run"))
    workflow.parser.get_parsed_content("check_start")
    shipped, started = open_bundle(), workflow.parser.get_parsed_content("network").state_dict()
    expected = shipped.build_network(torch.device("cpu")).state_dict()
    assert all(torch.equal(value.float(), started[name].float()) for name, value in expected.items())
    other = as_documented(command, spider_dir, output_dir=str(tmp_path / "run"), spacing_mm=0.6)
    with pytest.raises(RuntimeError, match="check_same_pixels") as caught:
        other.parser.get_parsed_content("check_start")
    assert "spacing_mm is 0.6, of the weights 1.0" in str(cause_of(caught.value))


def test_training_from_scratch_at_other_settings_than_the_weights_says_so(
    spider_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow = CPS4Workflow("train.json", dataset_dir=str(spider_dir), datalist=str(spider_dir / "splits.json"),
                            output_dir=str(tmp_path))  # fmt: skip
    monkeypatch.setattr(
        logging.getLogger("cps4_monai.plan"), "handlers", [caplog.handler]
    )  # the workflow took that of the root away
    workflow.parser.get_parsed_content("check_start")
    assert "training from scratch" in caplog.text and "spacing_mm is 0.6, of the weights 1.0" in caplog.text
    assert ConfigParser.load_config_file(str(ROOT / "bundle/configs/as_trained.json"))["spacing_mm"] == 1.0
