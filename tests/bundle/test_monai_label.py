"""The bundle in MONAI Label: what its task classes rely on, and the classes themselves where they are installed.

``BundleInferTask`` and ``BundleTrainTask`` (MONAI Label 0.8.5) read ids of the configs and override others. The first
tests do the same with MONAI alone, step by step; the last ones run the classes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import SaveImaged

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.inference.bundle import open_bundle
from cps4_monai.inference.segment import Segmenter

pytestmark = pytest.mark.usefixtures("same_search_path")

FAST = {"finetune#learning_rate": 0.05, "num_workers": 0, "min_free_gib": 0.0, "iterations_per_epoch": 12}


@pytest.fixture
def scan(tiny_data: Path) -> Path:
    return sorted(tiny_data.rglob("*_T2w.nii.gz"))[0]


@pytest.fixture
def labeled(tmp_path: Path) -> list[dict[str, str]]:
    """What a datastore hands over: scans with their finished labels. What is bright is L5: soon learned."""
    affine = np.array([[-4.0, 0, 0, 0], [0, -7.5, 0, 0], [0, 0, 7.5, 0], [0, 0, 0, 1]])
    pairs = []
    for index in range(4):
        label = np.zeros((3, 32, 64), np.uint8)
        label[:, 8 + index : 20 + index, 20 - index : 44 - index] = 2
        image = (1000 * (label > 0) + np.random.default_rng(index).integers(0, 100, label.shape)).astype(np.int16)
        pair = {"image": str(tmp_path / f"{index}.nii.gz"), "label": str(tmp_path / f"{index}_final.nii.gz")}
        for key, array in (("image", image), ("label", label)):
            nib.save(nib.Nifti1Image(array, affine), pair[key])
        pairs.append(pair)
    return pairs


def parser_of(bundle: Path, name: str, **overrides: Any) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / name))
    parser.update({"bundle_root": str(bundle), **overrides})
    return parser


def expected_labels(bundle: Path, scan: Path) -> np.ndarray:
    return Segmenter(bundle, device="cpu")(scan, qc=False).labels


def checksum_holds(weights: Path) -> bool:
    digest = weights.with_name(f"{weights.name}.sha256").read_text("ascii").split()[0]
    return digest == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_label_names_come_from_the_first_output(exported_bundle: Path) -> None:
    """MONAI Label shows them in lower case; no two may fall together then."""
    formats = json.loads((exported_bundle / "configs" / "metadata.json").read_text("utf-8"))["network_data_format"]
    (first_in, _), (first_out, pred) = (next(iter(formats[side].items())) for side in ("inputs", "outputs"))
    assert (first_in, first_out) == ("image", "pred")
    shown = {name.lower(): int(code) for code, name in pred["channel_def"].items() if name.lower() != "background"}
    assert shown == {s.plain_name.lower(): s.code for s in MRSPINESEG.structures[1:]} and len(shown) == 19


def test_inference_parts_work_one_by_one(exported_bundle: Path, scan: Path) -> None:
    """As ``BundleInferTask``: a device that is a text, the network filled by itself, no writing by the bundle."""
    parser = parser_of(exported_bundle, "inference.json", device="cpu")
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(exported_bundle / "models" / "model.pt", weights_only=True))
    data: dict[str, Any] = {"image": str(scan)}
    for transform in parser.get_parsed_content("preprocessing").transforms:
        data = transform(data)
    with torch.no_grad():
        data["pred"] = parser.get_parsed_content("inferer")(data["image"][None], network)[0]
    after = [t for t in parser.get_parsed_content("postprocessing").transforms if not isinstance(t, SaveImaged)]
    for transform in after:
        data = transform(data)
    # Its ``Restored`` compares the shapes in this way and takes the affine from here.
    shape = data["image"].meta["spatial_shape"][-3:]
    assert not np.any(np.not_equal(data["pred"].shape[1:], shape))
    np.testing.assert_allclose(data["image"].meta["original_affine"], nib.load(scan).affine, atol=1e-6)
    expected = expected_labels(exported_bundle, scan)
    assert len(np.unique(expected)) > 3
    np.testing.assert_array_equal(data["pred"][0].numpy(), expected)


def training_overrides(bundle: Path, training: list, validation: list, epochs: int = 3) -> dict[str, Any]:
    """What ``BundleTrainTask`` passes to ``monai.bundle.run``."""
    raw = ConfigParser.load_config_file(str(bundle / "configs" / "train.json"))
    assert all("_target_" in handler for handler in raw["train"]["handlers"]), "it reads each entry's target"
    loader = {
        "_target_": "CheckpointLoader",
        "load_path": str(bundle / "models" / "model.pt"),
        "load_dict": {"model": "$@network"},
        "strict": False,
    }
    return {
        "bundle_root": str(bundle),
        "train#trainer#max_epochs": epochs,
        "train#dataset#data": training,
        "device": "cpu",
        "train#handlers": [loader, *raw["train"]["handlers"]],
        "displayable_configs": dict(raw["displayable_configs"]),
        "validate#dataset#data": validation,
    }


@pytest.mark.parametrize("min_subjects", [1, 5])
def test_training_writes_beside_the_weights_and_replaces_them_on_enough_subjects_only(
    min_subjects: int, unzip: Callable, labeled: list, scan: Path
) -> None:
    bundle = unzip(**FAST)
    model, released = bundle / "models" / "model.pt", bundle / "models" / "model_released.pt"
    tuned, before, answer = bundle / "models" / "model_finetuned.pt", model.read_bytes(), expected_labels(bundle, scan)
    overrides = training_overrides(bundle, labeled[:3], labeled[3:]) | {"finetune#best#min_subjects": min_subjects}
    files = {"meta_file": str(bundle / "configs/metadata.json"), "config_file": str(bundle / "configs/train.json")}
    run_id = overrides["displayable_configs"]["run_id"]
    monai.bundle.run(run_id=run_id, init_id=None, final_id=None, **files, **overrides)
    decision = json.loads((bundle / "runs/cps4/finetune/deployment.json").read_text())
    assert checksum_holds(model) and checksum_holds(tuned) and decision["validation_subjects"] == 1
    assert decision["deployed"] is (min_subjects == 1)
    assert open_bundle(tuned).sha256 == decision["sha256_fine_tuned"] == hashlib.sha256(tuned.read_bytes()).hexdigest()
    if min_subjects == 1:
        assert model.read_bytes() == tuned.read_bytes() and released.read_bytes() == before and checksum_holds(released)
        assert (expected_labels(bundle, scan) != answer).any()
    else:
        assert model.read_bytes() == before and not released.exists()
    log = (bundle / "runs/cps4/finetune/metrics.csv").read_text("utf-8").splitlines()
    scores = [float(line.split(",")[-1]) for line in log if ",val_dice," in line]
    assert len(scores) == 3 and max(scores) > 0.5, "it learns what is bright"


def test_training_starts_from_the_weights_at_their_own_geometry(unzip: Callable, labeled: list) -> None:
    """Where train.json says 0.6 mm, as the bundle of the repository does, the plan beside the weights counts."""
    bundle = unzip(**FAST | {"finetune#learning_rate": 1e-12, "spacing_mm": 0.6})
    before = (bundle / "models" / "model.pt").read_bytes()
    workflow = monai.bundle.create_workflow(
        config_file=str(bundle / "configs/train.json"),
        workflow_type="train",
        run_id="training_finetune",
        **training_overrides(bundle, labeled[:2], [], epochs=1),
    )
    workflow.run()
    parsed = workflow.parser.get_parsed_content
    batch = parsed("finetune#trainer").state.batch["labeled"]
    assert parsed("spacing_mm") == 0.6 and tuple(batch["image"].shape[1:]) == (1, 64, 32)
    assert parsed("finetune#trainer").data_loader.loader.dataset.sources["labeled"].cache.in_plane.spacing_mm == 7.5
    shipped = torch.load(bundle / "models" / "model.pt", weights_only=True)
    for name, parameter in parsed("finetune#network").named_parameters():
        torch.testing.assert_close(parameter, shipped[name].float(), atol=1e-6, rtol=0)
    assert (bundle / "models" / "model.pt").read_bytes() == before, "validated on the scans of training only"


def test_several_gpus_get_a_wrapped_network_and_a_device_each(unzip: Callable, monkeypatch: Any) -> None:
    """MONAI Label writes its overrides, a device among them, into a file that comes before ``multi_gpu_train.json``."""
    bundle = unzip(device="cuda")
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs" / name) for name in ("train.json", "multi_gpu_train.json")])
    assert parser["finetune#method#student"] == "@finetune#parallel_network"
    assert parser["finetune#parallel_network"]["network"] == "@finetune#network"
    assert parser["device"]["_target_"].endswith("select_device") and "LOCAL_RANK" in parser["device_name"]


# --- the classes themselves -----------------------------------------------------------------------------------------


@pytest.fixture
def tasks() -> SimpleNamespace:
    pytest.importorskip("monailabel", reason="MONAI Label is not installed: its own classes are not run")
    from monailabel.tasks.infer.bundle import BundleInferTask
    from monailabel.tasks.train.bundle import BundleTrainTask

    return SimpleNamespace(Infer=BundleInferTask, Train=BundleTrainTask)


def test_the_inference_task_gives_label_maps_and_names(tasks: SimpleNamespace, unzip: Callable, scan: Path) -> None:
    bundle = unzip()
    task = tasks.Infer(str(bundle), {})
    assert task.is_valid() and task.info()["labels"]["disc l5/s"] == 11 and task.info()["type"] == "segmentation"
    before = {path for path in bundle.rglob("*") if "__pycache__" not in path.parts}
    path, answer = task({"image": str(scan), "device": "cpu", "model": bundle.name})
    result, labels, source = nib.load(path), np.asarray(nib.load(path).dataobj), nib.load(scan)
    os.remove(path)
    assert answer["label_names"]["disc t9/t10"] == 19
    record = Segmenter(bundle, device="cpu")(scan, qc=False).record
    assert [flag["name"] for flag in answer["flags"]] == [flag["name"] for flag in record["Flags"]]
    assert answer["margin"] == pytest.approx(record["Levels"]["margin"], rel=1e-4)  # other sizes of batches
    np.testing.assert_allclose(result.affine, source.affine, atol=1e-5)
    np.testing.assert_array_equal(labels, expected_labels(bundle, scan))
    assert {path for path in bundle.rglob("*") if "__pycache__" not in path.parts} == before, "the task writes, not we"


def test_the_training_task_trains_and_the_inference_task_uses_it(
    tasks: SimpleNamespace, unzip: Callable, labeled: list, scan: Path
) -> None:
    bundle = unzip(**FAST)
    infer, train = tasks.Infer(str(bundle), {}), tasks.Train(str(bundle), {})
    assert train.is_valid() and train.config()["run_id"] == "training_finetune"
    # As a client does: all options with their first value.
    request = {key: value[0] if isinstance(value, list) else value for key, value in train.config().items()}
    request |= {"model": bundle.name, "device": "cpu", "max_epochs": 3, "val_split": 0.25}
    train(request, SimpleNamespace(datalist=lambda: labeled))
    tuned = bundle / "models" / "model_finetuned.pt"
    assert checksum_holds(bundle / "models" / "model.pt") and checksum_holds(tuned)
    path, _ = infer({"image": str(scan), "device": "cpu", "model": bundle.name, "model_filename": tuned.name})
    np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), expected_labels(tuned, scan))
    os.remove(path)
