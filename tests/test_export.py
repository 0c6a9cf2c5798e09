"""Self-contained bundles: what is in the zip, which settings travel, and that it runs without the package installed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from cps4_monai.anatomy import MRSPINESEG, load_anatomy
from cps4_monai.assembly.stage2 import deployed_plan
from cps4_monai.bundle_root import find_bundle_root
from cps4_monai.commands.evaluate import evaluate as evaluate_command
from cps4_monai.commands.export import export as export_command
from cps4_monai.evaluation.folder import Evaluation
from cps4_monai.evaluation.record import read_record, write_record
from cps4_monai.export import BUNDLE_NAME, export_bundle, stage_bundle, weights_of_run
from cps4_monai.export.as_trained import as_trained, settings_as_trained
from cps4_monai.export.card import card_of_weights
from cps4_monai.export.facts import WeightsFacts, figures_of
from cps4_monai.networks import ResUNet
from cps4_monai.plan import Plan, plan_of, read_plan, write_plan
from cps4_monai.workflow import CPS4Workflow


@pytest.fixture(scope="module")
def unzipped(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle folder of an exported tiny run, in half precision."""
    folder = tmp_path_factory.mktemp("exported")
    result = CliRunner().invoke(
        export_command, ["--run", str(tiny_run), "-o", str(folder / "spine.zip"), "--half"], catch_exceptions=False
    )
    assert result.exit_code == 0 and result.output.endswith(f"bundle: {folder / 'spine.zip'}\n")
    with zipfile.ZipFile(folder / "spine.zip") as archive:
        archive.extractall(folder)
    return folder / BUNDLE_NAME


def isolated(*arguments: str, cwd: Path) -> str:
    """Runs Python without the environment's .pth files, so that an editable installation is not found."""
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-S", *arguments], cwd=cwd, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def said_by(path: Path) -> object:
    """What a file says: exports lay JSON out anew."""
    return json.loads(path.read_text("utf-8")) if path.suffix == ".json" else path.read_bytes()


def test_the_zip_runs_where_the_package_is_not_installed(unzipped: Path, tiny_data: Path, tmp_path: Path) -> None:
    without = [sys.executable, "-S", "-c", "import cps4_monai"]
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}
    assert subprocess.run(without, cwd=tmp_path, env=environment, capture_output=True).returncode == 1
    program = (
        "import sys; from monai.bundle import run; "
        f"run('run', config_file={str(unzipped / 'configs' / 'inference.json')!r}, bundle_root={str(unzipped)!r}, "
        f"dataset_dir={str(tiny_data)!r}, output_dir={str(tmp_path / 'out')!r}, device_name='cpu'); "
        "print('FROM', sys.modules['cps4_monai'].__file__)"
    )
    output = isolated("-c", program, cwd=tmp_path)
    assert f"FROM {unzipped / 'cps4_monai' / '__init__.py'}" in output
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 2


def test_the_zip_trains_from_its_own_folder(
    unzipped: Path, tiny_data: Path, tiny_overlay: Path, tmp_path: Path
) -> None:
    overlays = f"['configs/train.json','{tiny_overlay}','configs/methods/supervised.json']"
    isolated("-m", "monai.bundle", "run", "training_stage2", "--config_file", overlays, "--dataset_dir",
             str(tiny_data), "--output_dir", str(tmp_path), "--iterations_per_epoch", "1", cwd=unzipped)  # fmt: skip
    assert (tmp_path / "stage2" / "model.pt").is_file()


def test_weights_of_a_training_that_has_not_ended_are_told(tiny_run: Path, tmp_path: Path, caplog: Any) -> None:
    shutil.copytree(tiny_run / "stage2", tmp_path / "stage2")
    weights_of_run(tmp_path)
    assert not caplog.records
    record = json.loads((tmp_path / "stage2" / "run.json").read_text())
    record["starts"][-1]["epochs"] = 300
    (tmp_path / "stage2" / "run.json").write_text(json.dumps(record))
    assert weights_of_run(tmp_path) == tmp_path / "stage2" / "model.pt"
    assert "the training has done 1 of 300 epochs" in caplog.text


def test_the_plan_of_the_run_lies_beside_its_weights(unzipped: Path, tiny_run: Path) -> None:
    plan = read_plan(unzipped / "models" / "plan.json")
    assert plan.to_dict() == read_plan(tiny_run / "stage2" / "plan.json").to_dict()
    assert plan.network["features"] == [4, 8] and plan.spacing_mm == 7.5 and plan.unannotated == ()
    assert plan.slice_size == (64, 32) and plan.inference_size is None
    weights = torch.load(unzipped / "models" / "model.pt", weights_only=True)
    original = torch.load(tiny_run / "stage2" / "model.pt", weights_only=True)
    assert weights.keys() == original.keys()
    assert all(w.dtype in (torch.float16, torch.int64) for w in weights.values())
    assert not list(unzipped.rglob("__pycache__")) and not (unzipped / "runs").exists()


def test_configs_are_shipped_as_they_are_but_for_what_is_about_weights(unzipped: Path) -> None:
    configs = find_bundle_root() / "configs"
    for file in configs.rglob("*.json"):
        shipped = unzipped / "configs" / file.relative_to(configs)
        of_weights = ("metadata.json", "as_trained.json", "train.json", "inference.json")
        assert (said_by(shipped) == said_by(file)) == (file.name not in of_weights)


def texts_of(folder: Path) -> str:
    """What a bundle says of itself."""
    return "".join((folder / f).read_text("utf-8") for f in ("configs/metadata.json", "docs/README.md",
                                                             "docs/data_license.txt"))  # fmt: skip


def test_a_run_that_was_not_evaluated_claims_nothing(unzipped: Path, tiny_run: Path) -> None:
    metadata = json.loads((unzipped / "configs" / "metadata.json").read_text("utf-8"))
    assert metadata["eval_metrics"] == {}
    assert metadata["weights_sha256"] == sha256(unzipped / "models" / "model.pt")
    trained_on = read_plan(tiny_run / "stage2" / "plan.json").trained_on
    assert trained_on["labeled_subjects"] == 2 and "labeled subjects: 2; unlabeled scans: 4" in metadata["data_source"]
    text = texts_of(unzipped)
    assert "Not evaluated: no figure is known" in text and "7.5 mm in plane, 64 x 32 pixels" in text
    for released in ("SPIDER", "0.901", "0.773", "0.880", "T2-weighted", "18 labeled", "CC BY", "made in another way"):
        assert released not in text, released


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_evaluation_of_these_weights_is_stated_and_one_of_others_is_not(
    tiny_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    (run / "stage2").mkdir(parents=True)
    for name in ("model.pt", "plan.json"):
        shutil.copy(tiny_run / "stage2" / name, run / "stage2")
    shutil.copy(tiny_run / "config.json", run)
    result = CliRunner().invoke(evaluate_command, [str(run), "--device", "cpu"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    means = {n: pd.read_csv(run / "evaluation" / n / "cases.csv")["dice_b"].mean() for n in (".", "argmax")}
    figures = exported(run, tmp_path, "a")["eval_metrics"]
    assert figures["conditions"].startswith("2 test subjects of datalist; mean over the structures of a subject in 3-D")
    for name, mean in (("mean_dice", means["."]), ("mean_dice_argmax", means["argmax"])):
        low, high = figures[f"{name}_ci95"]
        assert figures[name] == pytest.approx(mean, abs=6e-4) and low <= figures[name] <= high
    assert f"| levels decoded, as inference does | {means['.']:.3f} |" in texts_of(tmp_path / "a")
    monkeypatch.setattr(
        logging.getLogger("cps4_monai.export"), "handlers", [caplog.handler]
    )  # evaluating took that of the root away
    state = torch.load(run / "stage2" / "model.pt", weights_only=True)
    torch.save({**state, "head.bias": state["head.bias"] + 1}, run / "stage2" / "model.pt")
    assert exported(run, tmp_path, "b")["eval_metrics"] == {}
    (warning,) = [message for message in caplog.messages if "states no figures" in message]
    assert "states no figures" in warning and "an evaluation of other weights" in warning
    command = ["--run", str(run), "--evaluation", str(run / "evaluation"), "-o", str(tmp_path / "c.zip")]
    result = CliRunner().invoke(export_command, command)
    assert result.exit_code == 1 and "an evaluation of other weights" in result.output


def test_the_card_speaks_of_the_stage_1_that_is_shipped_and_of_no_other(tiny_run: Path, tmp_path: Path) -> None:
    weights, stage1 = tiny_run / "stage2" / "model.pt", tiny_run / "stage1" / "prompted_vision.pt"
    for name, shipped in (("without", None), ("with", stage1)):
        stage_bundle(find_bundle_root(), tmp_path / name, weights, stage1=shipped)
        text = texts_of(tmp_path / name)
        assert not [told for told in ("two blocks of a ViT-S", "81 of 100") if told in text]
        assert ("#### **Class prompts**" in text) == (shipped is not None) == ("Its stage 1 (models/stage1/" in text)
    assert "trained on: data set: datalist; labeled subjects: 2" in text.split("#### **Class prompts**")[1]


def test_figures_of_weights_that_are_halved_say_when_they_were_measured(
    tiny_run: Path, unzipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second weights are in half precision before: nothing changes them."""
    figures = {"mean_dice": 0.9, "conditions": "2 test subjects"}
    monkeypatch.setattr("cps4_monai.export.bundle.figures_of", lambda folder, sha256: dict(figures))
    whole, halved = tiny_run / "stage2" / "model.pt", unzipped / "models" / "model.pt"
    for number, (weights, half, noted) in enumerate([(whole, False, 0), (whole, True, 2), (halved, True, 0)]):
        folder = tmp_path / str(number)
        stage_bundle(find_bundle_root(), folder, weights, half=half, evaluation=tmp_path)
        assert texts_of(folder).count("before the weights were stored in half precision") == noted


def test_figures_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    """Where no structure counts, the means are NaN, which JSON does not have."""

    def evaluated(folder: Path, dice: float) -> None:
        summary = {"structure": "overall", "metric": "dice_b", "mean": dice, "ci_low": dice, "ci_high": dice}
        cases = pd.DataFrame({"case": ["a"], "subject": ["a"]})
        Evaluation(cases, cases, pd.DataFrame([summary]), pd.DataFrame({"case": []})).save(folder)
        write_record(folder, weights, "test", "mine")

    weights = weights_with(tmp_path)
    for folder, dice in ((tmp_path / "none", float("nan")), (tmp_path / "some", 0.5)):
        evaluated(folder / "argmax", dice)
        evaluated(folder, float("nan"))
    assert figures_of(tmp_path / "none", sha256(weights)) == {}
    some = figures_of(tmp_path / "some", sha256(weights))
    assert sorted(some) == ["conditions", "mean_dice_argmax", "mean_dice_argmax_ci95"]
    path = export_bundle(find_bundle_root(), tmp_path / "b.zip", weights, evaluation=tmp_path / "none")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path)
    assert "NaN" not in texts_of(tmp_path / BUNDLE_NAME) and "Not evaluated" in texts_of(tmp_path / BUNDLE_NAME)


def exported(run: Path, folder: Path, name: str) -> dict[str, Any]:
    """Metadata of the bundle that `cps4 export --run` makes; unzipped as ``name``."""
    command = ["--run", str(run), "-o", str(folder / f"{name}.zip"), "--name", name]
    result = CliRunner().invoke(export_command, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    with zipfile.ZipFile(folder / f"{name}.zip") as archive:
        archive.extractall(folder)
    return json.loads((folder / name / "configs" / "metadata.json").read_text("utf-8"))


def test_tables_that_were_replaced_are_not_stated(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"weights")
    (tmp_path / "summary.csv").write_text("metric\n")
    write_record(tmp_path, tmp_path / "weights.pt", "test", "mine")
    assert read_record(tmp_path).weights_sha256 == hashlib.sha256(b"weights").hexdigest()
    (tmp_path / "summary.csv").write_text("metric\nother\n")
    with pytest.raises(ValueError, match=r"summary.csv: not the table that evaluation.json beside it is about"):
        figures_of(tmp_path, hashlib.sha256(b"weights").hexdigest())
    (tmp_path / "argmax").mkdir()
    (tmp_path / "argmax" / "summary.csv").write_text("metric\n")
    write_record(tmp_path, tmp_path / "weights.pt", "test", "mine")
    (tmp_path / "argmax" / "summary.csv").write_text("metric\nother\n")
    with pytest.raises(ValueError, match=r"argmax/summary.csv: not the table that .*evaluation.json is about"):
        figures_of(tmp_path, hashlib.sha256(b"weights").hexdigest())


def test_the_released_weights_keep_their_texts_and_fine_tuned_ones_in_their_place_do_not(tmp_path: Path) -> None:
    root = tmp_path / "bundle"
    shutil.copytree(find_bundle_root(), root, ignore=shutil.ignore_patterns("runs"))
    stage_bundle(root, tmp_path / "released", None)
    assert texts_of(tmp_path / "released") == texts_of(root) and "0.901" in texts_of(root)
    for file in (root / "configs").rglob("*.json"):
        assert said_by(tmp_path / "released" / file.relative_to(root)) == said_by(file)
    network = {"_target_": "cps4_monai.networks.ResUNet", "in_channels": 1, "out_channels": 20, "features": [4, 8]}
    torch.save(ResUNet(features=[4, 8]).state_dict(), root / "models" / "model.pt")
    plan = {**read_plan(root / "models" / "plan.json").to_dict(), "network": network}
    plan["trained_on"]["fine_tuned"] = True
    (root / "models" / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(ValueError, match=r"model\.pt has SHA-256 .* delete that file if you put other weights there"):
        stage_bundle(root, tmp_path / "damaged", None)
    (root / "models" / "model.pt.sha256").unlink()
    stage_bundle(root, tmp_path / "tuned", None)
    assert "0.901" not in texts_of(tmp_path / "tuned") and "fine tuned: True" in texts_of(tmp_path / "tuned")


def test_texts_that_somebody_wrote_for_these_weights_are_kept(unzipped: Path, tmp_path: Path) -> None:
    shutil.copytree(unzipped, tmp_path / "mine")
    card = tmp_path / "mine" / "docs" / "README.md"
    card.write_text(card.read_text("utf-8").replace("is not recorded", "is mine"), encoding="utf-8")
    stage_bundle(tmp_path / "mine", tmp_path / "again", None)
    assert texts_of(tmp_path / "again") == texts_of(tmp_path / "mine")


def test_as_trained_trains_at_the_geometry_and_network_of_the_weights(
    unzipped: Path, tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    workflow = CPS4Workflow(
        bundle_root=str(unzipped), overlays=["as_trained.json", "supervised"], dataset_dir=str(tiny_data),
        output_dir=str(tmp_path),
    )  # fmt: skip
    parsed = workflow.parser.get_parsed_content
    plan = deployed_plan(parsed("context"), parsed("train#method"))
    shipped = read_plan(tiny_run / "stage2" / "plan.json")
    assert plan.differences(shipped) == [] and plan.slice_size == shipped.slice_size and plan.network == shipped.network


def test_percentiles_travel_and_go_back_to_the_usual_ones(tmp_path: Path) -> None:
    path = export_bundle(find_bundle_root(), tmp_path / "b.zip", weights_with(tmp_path, percentiles=(1, 99)))
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path)
    root = tmp_path / BUNDLE_NAME
    model = root / "models" / "model.pt"
    train, overlay = (json.loads((root / "configs" / f"{n}.json").read_text("utf-8")) for n in ("train", "as_trained"))
    assert train["cache"]["percentiles"] == [1, 99] and train["cache"]["_target_"] == "cps4_monai.assembly.slice_cache"
    assert "cache#percentiles" not in train and "cache#percentiles" not in as_trained(plan_of(model), train)
    assert overlay["cache#percentiles"] == [1, 99]
    given = {"dataset_dir": str(tmp_path), "output_dir": str(tmp_path / "run")}
    for settings in ({"bundle_root": str(root)}, {"overlays": [str(root / "configs" / "as_trained.json")]}):
        cache = CPS4Workflow(**settings, **given).parser.get_parsed_content("cache")
        assert (cache.lower, cache.upper) == (1, 99)
    (tmp_path / "other").mkdir()
    weights = weights_with(tmp_path / "other")
    with zipfile.ZipFile(export_bundle(root, tmp_path / "c.zip", weights, "usual")) as archive:
        train = json.loads(archive.read("usual/configs/train.json"))
    assert train["cache"]["percentiles"] == [0.5, 99.5]


def test_the_overlay_of_the_weights_stays_whole_when_the_bundle_is_exported_again(
    unzipped: Path, tmp_path: Path
) -> None:
    overlay = json.loads((unzipped / "configs" / "as_trained.json").read_text("utf-8"))
    with zipfile.ZipFile(export_bundle(unzipped, tmp_path / "again.zip", None, "again")) as archive:
        again = json.loads(archive.read("again/configs/as_trained.json"))
    pixels = {"spacing_mm", "slice_size"}
    assert pixels < set(again) and {"features", "network_def"} & set(again)
    assert {key: again[key] for key in pixels} == {key: overlay[key] for key in pixels}


def test_a_bundle_with_a_network_of_its_own_is_exported_again_with_others() -> None:
    base = json.loads((find_bundle_root() / "configs" / "train.json").read_text("utf-8"))
    own = {"_target_": "cps4_monai.networks.ResUNet", "features": [4, 8]}
    for network in (own, {**own, "in_channels": 1, "out_channels": 20, "features": [8, 16]}):
        settings = settings_as_trained(Plan(MRSPINESEG, network=network), {**base, "network_def": own})
        assert settings["network_def"] == {"_requires_": "@package_path", **network} and "features" not in settings


def test_as_trained_names_the_whole_of_another_network_and_anatomy() -> None:
    base = json.loads((find_bundle_root() / "configs" / "train.json").read_text("utf-8"))
    table = {"structures": [{"code": 0, "name": "background", "long_name": "background", "kind": "background"},
                            {"code": 1, "name": "bone", "long_name": "bone", "kind": "vertebra"}]}  # fmt: skip
    network = {"_target_": "monai.networks.nets.UNet", "spatial_dims": 2}
    plan = Plan(load_anatomy(table), (), None, (64, 32), "central_half", network=network)
    settings = settings_as_trained(plan, base)
    assert settings["network_def"] == {"_requires_": "@package_path", **network} and "features" not in settings
    assert settings["spacing_mm"] is None and settings["in_plane_mode"] == "central_half"
    assert load_anatomy(settings["anatomy_source"]).names == ["background", "bone"]


def test_the_overlay_in_the_repository_is_that_of_the_released_weights() -> None:
    root = find_bundle_root()
    base, overlay = (json.loads((root / "configs" / f"{n}.json").read_text("utf-8")) for n in ("train", "as_trained"))
    assert as_trained(read_plan(root / "models" / "plan.json"), base) == overlay
    metadata = json.loads((root / "configs" / "metadata.json").read_text("utf-8"))
    assert metadata["weights_sha256"] == sha256(root / "models" / "model.pt"), "new weights: new figures and texts"


def test_a_readme_without_the_sections_about_weights_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no sections \['Authors', 'Data', .*expected those of the model zoo"):
        card_of_weights("# Mine\n\n## **Model Description**\nBest.\n", WeightsFacts(Plan(MRSPINESEG)))


def weights_with(folder: Path, **plan: Any) -> Path:
    """Weights of nothing, with a plan beside them."""
    network = {"_target_": "cps4_monai.networks.ResUNet", "features": [4, 8]}
    torch.save(ResUNet(features=[4, 8]).state_dict(), folder / "weights.pt")
    write_plan(folder, Plan(**{"anatomy": MRSPINESEG, "network": network, **plan}))
    return folder / "weights.pt"


def test_nothing_of_the_bundles_own_weights_stays_beside_others(tmp_path: Path) -> None:
    path = export_bundle(find_bundle_root(), tmp_path / "b.zip", weights_with(tmp_path))
    with zipfile.ZipFile(path) as archive:
        names = sorted(Path(name).name for name in archive.namelist() if "/models/" in name)
    assert names == ["model.pt", "model.pt.sha256", "plan.json"]


LEFT_THERE = (
    *("error.log", "report.html", "evaluation/cases.csv", "runs/a/stage2/model.pt", "out/sub-1_dseg.nii.gz"),
    *("models/model_finetuned.pt", "models/model_released.pt", "models/resume.pt", "models/model.onnx"),
    *("label_app/logs/app.log", "label_app/notes.txt", "label_app/sessions/scan.py", "configs/.secret.json"),
)
SHIPPED = (
    *("LICENSE", "LICENSE-of-others.txt", "docs/README.md", "docs/data_license.txt", "docs/meta_schema_20240725.json"),
    *("configs/metadata.json", "configs/logging.conf", "configs/train.json", "configs/methods/cps4.json"),
    *("label_app/main.py", "models/model.pt", "models/model.pt.sha256", "models/plan.json", "cps4_monai/cli.py"),
    *("models/stage1/plan.json", "models/stage1/prompted_vision.pt"),
)


def test_what_a_bundle_in_use_holds_of_its_users_is_left_behind_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "bundle"
    shutil.copytree(find_bundle_root(), root)
    (root / "LICENSE-of-others.txt").write_text("theirs")
    for place in LEFT_THERE:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text("of a patient")
    monkeypatch.setattr(logging.getLogger("cps4_monai.export"), "handlers", [caplog.handler])
    path = export_bundle(root, tmp_path / "b.zip")
    with zipfile.ZipFile(path) as archive:
        names = {name.removeprefix(f"{BUNDLE_NAME}/") for name in archive.namelist()}
    assert set(SHIPPED) <= names and not names & set(LEFT_THERE)
    assert {name for name in names if name.startswith(("models/", "label_app/"))} <= set(SHIPPED)
    configs = {file.relative_to(root).as_posix() for file in (root / "configs").rglob("[!.]*") if file.is_file()}
    assert configs <= names
    (told,) = {message for message in caplog.messages if "left behind" in message}
    assert "error.log, evaluation, label_app/logs" in told and "and 3 more" in told and ".secret" not in told


def test_another_anatomy_is_written_into_the_metadata(tmp_path: Path) -> None:
    table = {
        "structures": [
            {"code": 0, "name": "background", "long_name": "background", "kind": "background"},
            {"code": 1, "name": "bone", "long_name": "bone", "kind": "vertebra"},
        ]
    }
    path = export_bundle(find_bundle_root(), tmp_path / "b.zip", weights_with(tmp_path, anatomy=load_anatomy(table)))
    with zipfile.ZipFile(path) as archive:
        metadata = json.loads(archive.read(f"{BUNDLE_NAME}/configs/metadata.json"))
    pred = metadata["network_data_format"]["outputs"]["pred"]
    assert pred["num_channels"] == 2 and pred["channel_def"] == {"0": "background", "1": "vertebra bone"}
    assert metadata["label_classes"] == "one channel, codes: 0 background, 1 bone"
    assert metadata["version"] in metadata["changelog"]


def test_the_bundle_of_another_anatomy_trains_and_is_evaluated_as_it_is(
    tiny_data_of: Callable[..., Path], tiny_overlay: Path, tmp_path: Path
) -> None:
    table = {
        "structures": [
            {"code": 0, "name": "background", "long_name": "background", "kind": "background"},
            {"code": 1, "name": "bone", "long_name": "bone", "kind": "vertebra"},
        ]
    }
    network = {"_target_": "cps4_monai.networks.ResUNet", "out_channels": 2, "features": [4, 8]}
    weights = weights_with(tmp_path, anatomy=load_anatomy(table), spacing_mm=7.5, slice_size=(64, 32), network=network)
    torch.save(ResUNet(out_channels=2, features=[4, 8]).state_dict(), weights)
    with zipfile.ZipFile(export_bundle(find_bundle_root(), tmp_path / "b.zip", weights)) as archive:
        archive.extractall(tmp_path)
    data = tiny_data_of(tmp_path / "data", lambda codes: codes > 0)
    tiny = {**json.loads(tiny_overlay.read_text()), "iterations_per_epoch": 1}
    tiny.pop("features")
    for run_id, overlays in (("training_stage2", ["supervised"]), ("run", ["supervised", "evaluate"])):
        workflow = CPS4Workflow(
            bundle_root=str(tmp_path / BUNDLE_NAME), overlays=overlays, run_id=run_id, dataset_dir=str(data),
            output_dir=str(tmp_path / "run"), **tiny,
        )  # fmt: skip
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    assert (tmp_path / "run" / "evaluation" / "summary.csv").is_file()


def test_weights_without_a_plan_or_with_one_without_network_are_refused(tmp_path: Path) -> None:
    weights = weights_with(tmp_path, network=None)
    with pytest.raises(ValueError, match=r"does not say how to build the network; give its class a method arguments"):
        export_bundle(find_bundle_root(), tmp_path / "b.zip", weights)
    (tmp_path / "plan.json").unlink()
    with pytest.raises(ValueError, match=r"has no plan.json beside it"):
        export_bundle(find_bundle_root(), tmp_path / "b.zip", weights)
    assert not (tmp_path / "b.zip").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.update(output="spine.tar"), "ends in .zip"),
        (lambda a: a.update(weights="no.pt"), "no.pt are not there"),
        (lambda a: a.update(bundle_root="nowhere"), "is no bundle"),
        *(
            (lambda a, name=name: a.update(name=name, output=a["output"].parent / "b" / "b.zip"), "name of one folder")
            for name in ("../out", "/tmp/cps4_escaped", "a/b", "..", ".", "", "a\\b", "C:a", "a/")
        ),
    ],
)
def test_bad_requests_are_refused(change: Callable, message: str, tmp_path: Path) -> None:
    arguments = {"bundle_root": find_bundle_root(), "output": tmp_path / "spine.zip"}
    change(arguments)
    with pytest.raises(ValueError, match=message):
        export_bundle(**arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"precious", b""])
def test_a_file_that_is_no_bundle_is_never_replaced(content: bytes, tmp_path: Path) -> None:
    output = tmp_path / "mine.zip"
    output.write_bytes(content)
    with pytest.raises(ValueError, match=r"mine\.zip: found a file that is no bundle.*Fix: choose another name"):
        export_bundle(find_bundle_root(), output)
    assert output.read_bytes() == content
    with zipfile.ZipFile(output, "w") as archive:
        archive.writestr("spine/configs/metadata.json", "{}")
    assert export_bundle(find_bundle_root(), output) == output and len(zipfile.ZipFile(output).namelist()) > 20


def test_a_folder_without_a_finished_run_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(export_command, ["--run", str(tmp_path), "-o", str(tmp_path / "spine.zip")])
    assert result.exit_code == 1 and result.output.startswith("Error: ") and result.output.count("\n") == 1
