"""The bundle's app of MONAI Label on real scans: what training leaves must not be worse on scans that it never saw."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from cps4_monai.bundle_root import find_bundle_root
from cps4_monai.export import BUNDLE_NAME, stage_bundle
from cps4_monai.inference.segment import Segmenter

pytestmark = pytest.mark.usefixtures("same_search_path")
TRAINED, VALIDATED, UNSEEN = slice(0, 5), slice(30, 35), slice(37, 40)


def app_of(bundle: Path) -> ModuleType:
    """The module ``label_app/main.py`` of a bundle, as MONAI Label loads it."""
    spec = importlib.util.spec_from_file_location("label_app_main", bundle / "label_app" / "main.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def entries(spider_dir: Path) -> Callable[[str, slice], list[dict[str, str]]]:
    """Function that gives scans of lumbar_t1, which lies beside SPIDER, as a datastore of MONAI Label does."""
    folder = spider_dir.parent / "lumbar_t1"
    if not (folder / "datalist.json").is_file():
        pytest.skip("lumbar_t1 is not here, beside the folder of CPS4_SPIDER_DIR")
    listed = json.loads((folder / "datalist.json").read_text("utf-8"))

    def chosen(side: str, part: slice) -> list[dict[str, str]]:
        return [{key: str(folder / one[key]) for key in ("image", "label")} for one in listed[side][part]]

    return chosen


def mean_dice(weights: Path, scans: list[dict[str, str]]) -> float:
    """Mean over scans of the mean Dice over the structures of the label."""
    segmenter, means = Segmenter(weights, device="cpu"), []
    for scan in scans:
        label, made = np.asarray(nib.load(scan["label"]).dataobj), segmenter(scan["image"], qc=False).labels
        codes = [code for code in np.unique(label) if code]
        means.append(
            np.mean([2 * ((label == c) & (made == c)).sum() / ((label == c).sum() + (made == c).sum()) for c in codes])
        )
    return float(np.mean(means))


def test_training_leaves_weights_that_are_better_on_unseen_scans_or_untouched(
    entries: Callable[[str, slice], list[dict[str, str]]], tmp_path: Path
) -> None:
    pytest.importorskip("monailabel", reason="MONAI Label is not installed: its training is not run")
    bundle = tmp_path / BUNDLE_NAME
    stage_bundle(find_bundle_root(), bundle, None)
    config = bundle / "configs" / "train.json"
    settings = {"num_workers": 0, "min_free_gib": 0.0, "iterations_per_epoch": 4}
    config.write_text(json.dumps(json.loads(config.read_text("utf-8")) | settings), encoding="utf-8")
    model, unseen = bundle / "models" / "model.pt", entries("validation", UNSEEN)
    released, before = model.read_bytes(), mean_dice(model, unseen)
    datastore = entries("training", TRAINED) + entries("validation", VALIDATED)
    train = app_of(bundle).Train(str(bundle), {})
    train(
        {"model": bundle.name, "device": "cpu", "max_epochs": 1, "val_split": 0.5},
        SimpleNamespace(datalist=lambda: datastore),
    )
    decision = json.loads((bundle / "runs/cps4/finetune/deployment.json").read_text("utf-8"))
    after = mean_dice(model, unseen)
    scores = [round(score, 4) for score in (decision["score_before"], decision["score_fine_tuned"], before, after)]
    print("validated before and after, unseen before and after:", scores, "deployed:", decision["deployed"])
    assert decision["validation_subjects"] == 5 and before > 0.8
    assert after > before if decision["deployed"] else model.read_bytes() == released
