"""MONAI's verbs on the bundle: verify, export, load."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import monai.bundle
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.export import stage_bundle, weights_of_run

BUNDLE = Path(__file__).resolve().parents[2] / "bundle"
SCHEMA = BUNDLE / "docs" / "meta_schema_20240725.json"


@pytest.fixture(scope="module")
def staged(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a bundle with the weights of the tiny run."""
    folder = tmp_path_factory.mktemp("staged") / "tiny_bundle"
    stage_bundle(BUNDLE, folder, weights_of_run(tiny_run))
    return folder


@pytest.fixture
def files(staged: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Arguments that the exporting verbs share, from within the bundle's folder."""
    monkeypatch.chdir(staged)
    return {
        "net_id": "network_def",
        "ckpt_file": "models/model.pt",
        "meta_file": "configs/metadata.json",
        "config_file": "configs/inference.json",
    }


@pytest.fixture
def image(staged: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """An input and the network's output for it."""
    network = monai.bundle.ConfigParser()
    network.read_config(str(staged / "configs" / "inference.json"))
    network["bundle_root"] = str(staged)
    net = network.get_parsed_content("network_def").eval()
    net.load_state_dict(torch.load(staged / "models" / "model.pt", weights_only=True))
    x = torch.rand(1, 1, 32, 16)
    with torch.no_grad():
        return x, net(x)


def test_metadata_is_valid_by_monais_schema(tmp_path: Path) -> None:
    schema = shutil.copy(SCHEMA, tmp_path / "schema.json")
    monai.bundle.verify_metadata(meta_file=str(BUNDLE / "configs" / "metadata.json"), filepath=str(schema))


def test_metadata_names_every_class_of_the_anatomy() -> None:
    metadata = monai.bundle.ConfigParser.load_config_file(str(BUNDLE / "configs" / "metadata.json"))
    pred = metadata["network_data_format"]["outputs"]["pred"]
    assert pred["channel_def"] == MRSPINESEG.channel_def() and pred["num_channels"] == MRSPINESEG.num_classes
    assert metadata["version"] in metadata["changelog"]
    assert metadata["label_classes"].endswith(", ".join(f"{c} {n}" for c, n in enumerate(MRSPINESEG.names)))


def test_the_shipped_network_takes_and_gives_what_metadata_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BUNDLE)
    monai.bundle.verify_net_in_out(
        net_id="network_def", meta_file="configs/metadata.json", config_file="configs/inference.json", n=2
    )


def test_configs_have_the_properties_that_monai_expects(staged: Path) -> None:
    for name, kind in (("train.json", "train"), ("inference.json", "infer")):
        workflow = ConfigWorkflow(str(staged / "configs" / name), workflow_type=kind, logging_file=False)
        assert not [
            key
            for key, value in workflow.properties.items()
            if value["required"] and value["id"] not in workflow.parser
        ]


def test_torchscript_export_computes_the_same(files: dict, image: tuple, tmp_path: Path) -> None:
    monai.bundle.ckpt_export(filepath=str(tmp_path / "model.ts"), **files)
    x, expected = image
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts").eval()(x), expected)


def test_onnx_export_computes_the_same(files: dict, image: tuple, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    x, expected = image
    monai.bundle.onnx_export(filepath=str(tmp_path / "model.onnx"), input_shape=list(x.shape), **files)
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


def test_load_gives_the_network_with_its_weights(staged: Path, tiny_run: Path) -> None:
    network = monai.bundle.load("tiny_bundle", bundle_dir=str(staged.parent), source="monaihosting")
    expected = torch.load(tiny_run / "stage2" / "model.pt", weights_only=True)
    assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items())


def test_load_gives_the_released_network_with_all_of_its_weights() -> None:
    """MONAI takes the network of `train.json`, and passes over weights that do not fit it without an error."""
    network = monai.bundle.load(BUNDLE.name, bundle_dir=str(BUNDLE.parent), source="monaihosting")
    expected = torch.load(BUNDLE / "models" / "model.pt", weights_only=True)
    found = network.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key].cpu(), value.to(found[key].dtype)) for key, value in expected.items())


def test_a_workflow_of_the_staged_bundle_segments(staged: Path, tiny_data: Path, tmp_path: Path) -> None:
    workflow = monai.bundle.create_workflow(
        config_file=str(staged / "configs" / "inference.json"),
        workflow_type="infer",
        bundle_root=str(staged),
        dataset_dir=str(tiny_data),
        output_dir=str(tmp_path),
        device_name="cpu",
    )
    workflow.run()
    assert len(list(tmp_path.glob("*.nii.gz"))) == 2
