"""Correct, make a datalist, train again: the three commands in a row, and what the new plan says."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from cps4_monai import segment_scans
from cps4_monai.commands.datalist import datalist
from cps4_monai.commands.relabel import relabel
from cps4_monai.commands.train import train
from cps4_monai.plan import plan_of

QUICK = ("max_epochs=1", "iterations_per_epoch=2", "num_workers=0", "min_free_gib=0", "show_progress=false")


def call(command, *arguments):
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def tuned(bundle_dir, make_scan, tmp_path_factory):
    """Folder of a fine-tuning on a scan numbered anew, one accepted and one to validate by; a fourth is wrong."""
    folder = tmp_path_factory.mktemp("again")
    for seed, name in enumerate("abcd"):
        make_scan(seed=seed).save(folder / "in" / f"{name}_T2w.nii.gz")
    segment_scans(folder / "in", folder / "out", weights=bundle_dir, device="cpu", qc=False)
    for name, said in {"a": ["--shift", 1], "b": ["--accept"], "c": ["--accept"], "d": ["--wrong", "L4"]}.items():
        call(relabel, folder / "out" / f"{name}_T2w_dseg.nii.gz", *said)
    listed = call(datalist, folder / "out", "--corrected", "-o", folder / "corrected.json", "--val", 1)
    assert "2 labeled, 1 unlabeled, 1 validation, 0 test" in listed
    settings = [part for setting in QUICK for part in ("--set", setting)]
    given = ["--datalist", folder / "corrected.json", "-o", folder / "run", "--weights", bundle_dir]
    call(train, "finetune", *given, "--device", "cpu", *settings)
    return folder / "run"


def test_the_new_plan_says_what_its_weights_were_trained_on(tuned, bundle_dir):
    (last,) = plan_of(tuned / "models" / "model_finetuned.pt").trained_on["fine_tuned"]
    assert "2 labeled scans" in json.dumps(last), last
    assert "accepted" in json.dumps(last) or "numbered anew" in json.dumps(last)


def test_the_weights_that_it_started_from_stay_beside_the_new_ones(tuned, bundle_dir):
    models, released = tuned / "models", (bundle_dir / "models" / "model.pt").read_bytes()
    assert (models / "model.pt").read_bytes() == released  # one validation patient is too few to replace them
    assert (models / "model_finetuned.pt").read_bytes() != released
    assert json.loads((tuned / "finetune" / "deployment.json").read_text())["deployed"] is False


def test_the_new_weights_segment(tuned, make_scan, tmp_path):
    make_scan(seed=9).save(tmp_path / "in" / "e_T2w.nii.gz")
    run = segment_scans(
        tmp_path / "in", tmp_path / "out", weights=tuned / "models" / "model_finetuned.pt", device="cpu"
    )
    assert not run.failures and run.segmented
