"""Rounds of both stages: what is trained on what, and what is made again."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from cps4_monai import rounds
from cps4_monai.commands.train import train
from cps4_monai.data.datalist import load_datalist
from cps4_monai.data.entries import Datalist, DatalistError
from cps4_monai.export import weights_of_run
from cps4_monai.file_hash import file_sha256
from cps4_monai.inference.outcome import ScanOutcome


@pytest.fixture
def labels_of_phantom(tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Segmenting gives the phantom's own labels, which training does not know; the first scan has an alarm.

    As `cps4 segment` does, it keeps what is there with the record of the weights that made it.
    """
    calls: list[str] = []

    def segment(inputs: list[Path], output: Path, **options: Any) -> SimpleNamespace:
        calls.append(str(options["weights"]))
        assert Path(options["weights"]).is_file()
        made_by = {"Sha256": file_sha256(weights_of_run(Path(options["weights"]).parent))}
        outcomes = []
        for number, image in enumerate(inputs):
            label = output / f"{image.parent.name}_{image.name.replace('T2w', 'dseg')}"
            label.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(image.with_name(image.name.replace("T2w", "dseg")), label)
            flags = [{"name": "level_ambiguous", "kind": "alarm", "detail": "either"}] if number == 0 else []
            record, sidecar = {"Flags": flags, "Weights": made_by}, label.with_suffix(".json")
            if sidecar.is_file() and not options.get("overwrite"):
                record = json.loads(sidecar.read_text())
            sidecar.write_text(json.dumps(record))
            outcomes.append(ScanOutcome(image, image.stem, "done", "", label, None, record))
        return SimpleNamespace(segmented=outcomes, report=output / "report.html")

    monkeypatch.setattr(rounds, "segment_scans", segment)
    return calls


def call(tiny_data: Path, tiny_overlay: Path, output: Path, *more: str, stage: str = "all") -> Any:
    options = ["--datalist", str(tiny_data / "datalist.json"), "-o", str(output), "--overlay", str(tiny_overlay)]
    return CliRunner().invoke(train, [stage, *options, "--device", "cpu", *more])


def labeled_of(run: Path) -> int:
    return len(json.loads((run / "run.json").read_text())["starts"][-1]["settings"]["labels of"])


def test_stage_1_of_the_second_round_trains_on_labels_of_the_first(
    tiny_data: Path, tiny_overlay: Path, tmp_path: Path, labels_of_phantom: list[str]
) -> None:
    result = call(tiny_data, tiny_overlay, tmp_path, "--rounds", "2")
    assert result.exit_code == 0, result.output
    first = tmp_path / "rounds" / "1"
    data = load_datalist(tiny_data / "datalist.json")
    made = load_datalist(first / "pseudo_labels.json")
    assert len(made.labeled) == len(data.labeled) + len(data.unlabeled) - 1, "the one with an alarm is left out"
    assert [e.label for e in made.labeled[: len(data.labeled)]] == [e.label.resolve() for e in data.labeled if e.label]
    assert made.structures == data.structures and made.structures[2] == "L5"
    assert made.validation[0].label == data.validation[0].label and not made.test
    trained_on = [labeled_of(run / stage) for run in (first, tmp_path) for stage in ("stage1", "stage2")]
    few = len(data.labeled)
    assert trained_on == [few, few, len(made.labeled), few]
    started = json.loads((tmp_path / "config.json").read_text())["stage1"]["start_from"]
    assert started == str(first / "stage1" / "prompted_vision.pt")
    before = {path: path.stat().st_mtime_ns for path in (first / "pseudo_labels.json", first / "weights.zip")}
    again = call(tiny_data, tiny_overlay, tmp_path, "--rounds", "2")
    assert again.exit_code == 0 and len(labels_of_phantom) == 1
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    model = (first / "stage2" / "model.pt").read_bytes()
    longer = call(tiny_data, tiny_overlay, tmp_path, "--rounds", "2", "--set", "max_epochs=9")
    assert longer.exit_code == 1 and "to train on would replace" in longer.output
    assert (first / "stage2" / "model.pt").read_bytes() == model
    content = json.loads((first / "pseudo_labels.json").read_text())
    (first / "pseudo_labels.json").write_text(json.dumps({**content, "weights_sha256": "0" * 64}))
    other = call(tiny_data, tiny_overlay, tmp_path, "--rounds", "2")
    assert other.exit_code == 1 and "its label maps are of weights 000000000000..." in other.output


def test_the_second_stage_1_goes_on_from_the_first_ones_encoder(
    tiny_data: Path, tiny_overlay: Path, tmp_path: Path, labels_of_phantom: list[str], monkeypatch: Any
) -> None:
    real, seeds = rounds.run_workflow, itertools.count()
    # Each stage draws other weights: what is equal was taken over.
    monkeypatch.setattr(rounds, "run_workflow", lambda **options: real(**{**options, "seed": next(seeds)}))
    still = ["--set", "stage1#lr_pretrained=0.0", "--set", "stage1#lr_new=0.0"]
    result = call(tiny_data, tiny_overlay, tmp_path, "--rounds", "3", "--set", "stage1#max_epochs=1", *still)
    assert result.exit_code == 0, result.output
    folders = [tmp_path / "rounds" / "1", tmp_path / "rounds" / "2", tmp_path]
    files = [torch.load(f / "stage1" / "prompted_vision.pt", weights_only=True)["weights"] for f in folders]
    encoders = [{k: v for k, v in file.items() if k.startswith("image_encoder.")} for file in files]
    assert encoders[0]
    for other in encoders[1:]:
        assert all(torch.equal(value, other[key]) for key, value in encoders[0].items())


def test_rounds_that_were_stopped_go_on(
    tiny_data: Path, tiny_overlay: Path, tmp_path: Path, labels_of_phantom: list[str], monkeypatch: Any
) -> None:
    """Killed as the stage 1 of the second round begins, and moved; what was done is not done again."""
    real, begun = rounds.run_workflow, []

    def stopped(*args: Any, **options: Any) -> Any:
        begun.append(options["run_id"])
        if len(begun) == 3:
            raise RuntimeError("the power went off")
        return real(*args, **options)

    monkeypatch.setattr(rounds, "run_workflow", stopped)
    assert call(tiny_data, tiny_overlay, tmp_path / "run", "--rounds", "2").exit_code == 1
    run = (tmp_path / "run").rename(tmp_path / "moved")
    done = {path: path.stat().st_mtime_ns for path in run.rglob("*.pt") if path.name != "resume.pt"}
    again = call(tiny_data, tiny_overlay, run, "--rounds", "2")
    assert again.exit_code == 0, again.output
    assert begun[3:] == ["training_stage1", "training_stage2"] * 2 and len(labels_of_phantom) == 1
    assert len(done) >= 2 and all(path.stat().st_mtime_ns == then for path, then in done.items())
    assert (run / "stage2" / "model.pt").is_file()


def test_the_same_rounds_are_trained_by_one_process_at_a_time(
    tiny_data: Path, tiny_overlay: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    beside = []

    def run(**options: Any) -> Any:
        if not beside:
            beside.append("")
            beside.append(call(tiny_data, tiny_overlay, tmp_path, "--rounds", "2").output)
        raise RuntimeError("the power went off")

    monkeypatch.setattr(rounds, "run_workflow", run)
    call(tiny_data, tiny_overlay, tmp_path, "--rounds", "2")
    assert f"{tmp_path / 'rounds'}: another process trains in this folder" in beside[1]


def test_another_number_of_rounds_is_refused_before_anything_is_trained(
    tiny_data: Path, tiny_overlay: Path, tiny_run: Path, tmp_path: Path, labels_of_phantom: list[str], monkeypatch: Any
) -> None:
    plain, twice = tmp_path / "plain", tmp_path / "twice"
    shutil.copytree(tiny_run, plain)
    refused = call(tiny_data, tiny_overlay, plain, "--rounds", "2")
    assert refused.exit_code == 1 and not (plain / "rounds").exists()
    assert f"{plain / 'stage1' / 'resume.pt'}: of a run of 1 round, expected the last of 2" in refused.output
    assert "another output folder, or leave --rounds out" in refused.output
    (plain / "stage1" / "resume.pt").unlink()
    again = call(tiny_data, tiny_overlay, plain, "--rounds", "2")
    assert f"{plain / 'stage2' / 'resume.pt'}: of a run of 1 round" in again.output

    assert call(tiny_data, tiny_overlay, twice, "--rounds", "2").exit_code == 0
    refused = call(tiny_data, tiny_overlay, twice, "--rounds", "3")
    assert refused.exit_code == 1 and not (twice / "rounds" / "2").exists()
    assert "of a run of 2 rounds, expected the last of 3" in refused.output and "--rounds 2" in refused.output

    for stage in ("stage1", "all"):
        refused = call(tiny_data, tiny_overlay, twice, stage=stage)
        assert refused.exit_code == 1 and "'cps4 train all --rounds 2'" in refused.output

    for stage in ("stage1", "stage2"):  # stopped before the last round: it may be that of more rounds
        (twice / stage / "resume.pt").unlink()
    begun: list[str] = []

    def stopped(**options: Any) -> Any:
        begun.append(options["output_dir"])
        raise RuntimeError("the power went off")

    monkeypatch.setattr(rounds, "run_workflow", stopped)
    assert "the power went off" in call(tiny_data, tiny_overlay, twice, "--rounds", "3").output
    assert begun == [str(twice / "rounds" / "1")]


def test_structures_that_no_person_labeled_are_not_annotated(
    tiny_data: Path, tiny_run: Path, tmp_path: Path, labels_of_phantom: list[str]
) -> None:
    shutil.copytree(tiny_run, tmp_path / "run")
    both = load_datalist(tiny_data / "datalist.json").labeled
    (few, many), (few_codes, many_codes) = both, ({*np.unique(codes_of(entry.label))} for entry in both)
    assert many_codes - few_codes == {10, 19} and few_codes < many_codes, "the phantom's"
    other = load_datalist(tiny_data / "datalist.json").unlabeled[0]
    data = Datalist((few, other, replace(many, label=None)), (), name="two")
    labels = {e.subject: e.label for e in load_datalist(rounds.label_unlabeled(tmp_path / "run", data)).labeled}
    assert labels.keys() == {few.subject, many.subject}
    made, true = codes_of(labels[many.subject]), codes_of(many.label)
    assert (made == np.where(np.isin(true, (10, 19)), 255, true)).all()


def test_what_other_weights_segmented_before_a_stop_is_segmented_again(
    tiny_data: Path, tiny_run: Path, tmp_path: Path, labels_of_phantom: list[str], monkeypatch: Any
) -> None:
    """Stopped before the datalist was written; then stage 2 was trained further, and has other weights."""
    shutil.copytree(tiny_run, tmp_path / "run")
    data = load_datalist(tiny_data / "datalist.json")

    def records() -> set[str]:
        folder = tmp_path / "run" / "unlabeled_scans"
        return {json.loads(path.read_text())["Weights"]["Sha256"] for path in folder.glob("*.json")}

    with monkeypatch.context() as context:
        context.setattr(rounds, "_of_known_classes", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            rounds.label_unlabeled(tmp_path / "run", data)
    weights = weights_of_run(tmp_path / "run")
    (before,) = records()
    assert before == file_sha256(weights)
    torch.save(torch.load(weights, weights_only=True) | {"more": torch.zeros(1)}, weights)
    with monkeypatch.context() as context:
        segment = rounds.segment_scans
        context.setattr(rounds, "segment_scans", lambda *args, overwrite=False, **options: segment(*args, **options))
        with pytest.raises(DatalistError, match=rf"is of weights {before[:12]}\.\.\., expected .* Fix: delete"):
            rounds.label_unlabeled(tmp_path / "run", data)
    assert not (tmp_path / "run" / "pseudo_labels.json").exists()
    content = json.loads(rounds.label_unlabeled(tmp_path / "run", data).read_text())
    assert records() == {content["weights_sha256"]} == {file_sha256(weights)} != {before}


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("cps4", "every training scan has a label"),
        ("supervised", "--rounds is for a method that asks for prompts"),
        ("vessa", "stage1#method is VessaPretraining, whose weights are bound to the labeled scans"),
    ],
)
def test_rounds_without_unlabeled_scans_or_without_class_prompts_are_refused_before_anything_is_trained(
    method: str, words: str, tiny_data: Path, tiny_overlay: Path, tmp_path: Path
) -> None:
    content = json.loads((tiny_data / "datalist.json").read_text())
    content["training"] = [entry for entry in content["training"] if entry["labeled"]]
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    more = ("--datalist", str(tmp_path / "datalist.json"), "--dataset-dir", str(tiny_data), "--overlay", method)
    result = call(tiny_data, tiny_overlay, tmp_path / "run", "--rounds", "2", *more)
    assert result.exit_code == 1 and words in result.output, result.output
    assert not list(tmp_path.rglob("*.pt")) and not (tmp_path / "run" / "rounds").exists()


@pytest.mark.parametrize(
    ("setting", "words"), [("ema_decay=2", "ema_decay is 2"), ("max_epochs=0", "stage 2: max_epochs is 0")]
)
def test_rounds_whose_stage_2_cannot_be_made_are_refused_before_anything_is_trained(
    setting: str, words: str, tiny_data: Path, tiny_overlay: Path, tmp_path: Path
) -> None:
    result = call(tiny_data, tiny_overlay, tmp_path / "run", "--rounds", "2", "--set", setting)
    assert result.exit_code == 1 and words in result.output, result.output
    assert not list(tmp_path.rglob("*.pt")) and not (tmp_path / "run" / "rounds").exists()


def codes_of(label: Path | None) -> np.ndarray:
    return np.asarray(nib.load(label).dataobj)


def test_what_no_round_can_be_made_of_is_told(
    tiny_run: Path, tiny_data: Path, tiny_overlay: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    assert "--rounds goes with all" in call(tiny_data, tiny_overlay, tmp_path, "--rounds", "2", stage="stage1").output
    with pytest.raises(ValueError, match="rounds is 1; expected 2 or more"):
        rounds.train_in_rounds(1, tmp_path, {})
    with pytest.raises(ValueError, match=r"stage1_checkpoint is one\.pt, and each round has a stage 1 of its own"):
        rounds.train_in_rounds(2, tmp_path, {"stage1_checkpoint": "one.pt"})
    everything = load_datalist(tiny_data / "datalist.json")
    labeled = Datalist(everything.labeled, everything.validation)
    with pytest.raises(DatalistError, match="every training scan has a label"):
        rounds.label_unlabeled(tmp_path, labeled)
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    nothing = SimpleNamespace(segmented=[], report=run / "report.html")
    monkeypatch.setattr(rounds, "segment_scans", lambda *args, **options: nothing)
    with pytest.raises(DatalistError, match="unlabeled scans none was segmented without an alarm"):
        rounds.label_unlabeled(run, everything)
    assert not (run / "pseudo_labels.json").exists()
