"""Every method that `cps4 methods` lists, and the published settings of each, from training to an exported bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from cps4_monai.commands.evaluate import evaluate
from cps4_monai.commands.export import export
from cps4_monai.commands.train import train
from cps4_monai.inference.segment import segment
from cps4_monai.method_list import MethodEntry, list_methods
from cps4_monai.plan import read_plan
from cps4_monai.run_folder import STAGE1_WEIGHTS, STAGE2_WEIGHTS

BUNDLE = Path(__file__).resolve().parents[2] / "bundle"
LISTED = {entry.name: entry for entry in list_methods(BUNDLE)}
# Other variants differ in a number or two of their method and are trained where that is tested; those with a folder of
# a pretrained model, in tests/vessa/test_local_parts.py.
NAMES = [
    name
    for name, entry in LISTED.items()
    if (entry.after is None and "_local_" not in name)
    or name.endswith("_paper")
    or name in ("bcp_first_phase", "graphcl_aligned", "vessa_no_feedback", "vessa_assistant_only")
]


def overlays_of(entry: MethodEntry) -> list[Path]:
    """The overlay, after those that it builds on."""
    before = [] if entry.after is None else overlays_of(LISTED[entry.after])
    return [*before, entry.path]


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys() and [key for key in one if not torch.equal(one[key], other[key])] == []


@pytest.mark.parametrize("name", NAMES)
def test_it_is_trained_in_both_forms_evaluated_and_exported_and_the_bundle_segments_as_was_evaluated(
    name: str, tiny_data: Path, tiny_overlay: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cps4 train all` and MONAI's own `bundle run`; `cps4 evaluate`, `cps4 export`; the bundle on a test scan.

    Both forms give the same weights, bit by bit: of stage 1 where there is one, else of stage 2.
    """
    monkeypatch.setattr("cps4_monai.export.bundle.lay_out", lambda folder: None)  # ten seconds: test_model_zoo.py
    overlays = [*overlays_of(LISTED[name]), tiny_overlay]
    data = {"datalist": tiny_data / "datalist.json", "cache_dir": tiny_data / "cache"}
    run = tmp_path / "run"
    words = ["all", "--datalist", str(data["datalist"]), "--set", f"cache_dir={data['cache_dir']}", "-o", str(run)]
    words += [word for overlay in overlays for word in ("--overlay", str(overlay))]
    trained = CliRunner().invoke(train, [*words, "--device", "cpu"])
    assert trained.exit_code == 0, trained.output
    asked = "no stage 1" not in LISTED[name].needs
    assert (run / "stage1").exists() is asked, "a stage 1 that nothing would read is not trained"

    monkeypatch.chdir(BUNDLE)
    given: dict[str, Any] = {key: str(value) for key, value in data.items()}
    given |= {"dataset_dir": str(tiny_data), "output_dir": str(tmp_path / "plain")}
    for stage in ("training_stage1", "training_stage2") if asked else ("training_stage2",):
        monai.bundle.run(stage, config_file=["configs/train.json", *map(str, overlays)], **given)
    runs, said = (run, tmp_path / "plain"), read_plan(run / "stage2" / "plan.json").trained_on.get("stage_1")
    if asked:  # stage 2 of one process for both stages begins with other random weights than one that follows stage 1
        ours, plain = (torch.load(folder / STAGE1_WEIGHTS, weights_only=True) for folder in runs)
        assert_same(ours["weights"], plain["weights"])
        assert said == ours["objective"]["name"] and (tmp_path / "plain" / STAGE2_WEIGHTS).is_file()
    else:
        assert_same(*(torch.load(folder / STAGE2_WEIGHTS, weights_only=True) for folder in runs))
        assert said is None

    scored = CliRunner().invoke(evaluate, [str(run), "-o", str(tmp_path / "scores"), "--device", "cpu"])
    assert scored.exit_code == 0 and "Dice (b), levels decoded" in scored.output, scored.output
    exported = CliRunner().invoke(export, ["--run", str(run), "-o", str(tmp_path / "spine.zip")])
    assert exported.exit_code == 0, exported.output
    path = min((tmp_path / "scores" / "predictions").glob("*.nii.gz"))
    scan = next(tiny_data.rglob(path.name.replace("_dseg", "")))
    result = segment(scan, weights=tmp_path / "spine.zip", device="cpu", qc=False)
    np.testing.assert_array_equal(result.labels, np.asarray(nib.load(path).dataobj))
