"""Every verb of ``monai.bundle`` on the exported bundle, from elsewhere and without a network."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import monai.bundle
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from cps4_monai.export import BUNDLE_NAME
from cps4_monai.networks import ResUNet


@pytest.fixture(autouse=True)
def _elsewhere_and_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:
            raise AssertionError(f"a connection to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def files(exported_bundle: Path) -> dict[str, str]:
    """Arguments that verifying and exporting verbs share; the model zoo's checks pass bundle_root as well."""
    return {
        "net_id": "network_def",
        "meta_file": str(exported_bundle / "configs" / "metadata.json"),
        "config_file": str(exported_bundle / "configs" / "inference.json"),
        "bundle_root": str(exported_bundle),
    }


@pytest.fixture
def network(exported_bundle: Path) -> torch.nn.Module:
    """The shipped network, put together by hand."""
    network = ResUNet(features=[4, 8])
    network.load_state_dict(torch.load(exported_bundle / "models" / "model.pt", weights_only=True))
    return network.eval()


def test_download_takes_a_file_url_and_load_the_result(
    exported_zip: Path, network: torch.nn.Module, tmp_path: Path
) -> None:
    url, folder = exported_zip.as_uri(), str(tmp_path / "bundles")
    monai.bundle.download(name=BUNDLE_NAME, url=url, bundle_dir=folder, progress=False)
    assert (tmp_path / "bundles" / BUNDLE_NAME / "configs" / "metadata.json").is_file()
    loaded = monai.bundle.load(BUNDLE_NAME, bundle_dir=str(tmp_path / "bundles"), device="cpu").eval()
    image = torch.rand(1, 1, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(loaded(image), network(image))
    assert next(loaded.parameters()).dtype == torch.float32  # the file has half precision


def test_load_of_the_inference_workflow_and_of_the_bare_weights(
    exported_bundle: Path, network: torch.nn.Module
) -> None:
    arguments = {"name": BUNDLE_NAME, "bundle_dir": str(exported_bundle.parent), "device": "cpu"}
    given = monai.bundle.load(**arguments, model=ResUNet(features=[4, 8]))
    as_inferred = monai.bundle.load(**arguments, workflow_type="inference")
    for name, value in network.state_dict().items():
        assert torch.equal(given.state_dict()[name], value) and torch.equal(as_inferred.state_dict()[name], value)


def test_the_schema_that_verify_metadata_needs_is_in_the_bundle(exported_bundle: Path, tmp_path: Path) -> None:
    schema = exported_bundle / "docs" / "meta_schema_20240725.json"
    metadata = ConfigParser.load_config_file(str(exported_bundle / "configs" / "metadata.json"))
    assert metadata["schema"].endswith(f"/{schema.name}")
    verify = {"meta_file": str(exported_bundle / "configs" / "metadata.json")}
    monai.bundle.verify_metadata(**verify, filepath=str(schema))
    shutil.copy(schema, tmp_path / "schema.json")
    broken = {key: value for key, value in metadata.items() if key != "authors"}
    ConfigParser.export_config_file(broken, str(tmp_path / "metadata.json"))
    with pytest.raises(ValueError, match="'authors' is a required property"):
        monai.bundle.verify_metadata(meta_file=str(tmp_path / "metadata.json"), filepath=str(tmp_path / "schema.json"))


@pytest.mark.parametrize(("p", "n"), [(1, 1), (2, 3)])
def test_the_network_takes_and_gives_what_metadata_says(files: dict[str, str], p: int, n: int) -> None:
    monai.bundle.verify_net_in_out(**files, p=p, n=n, any=32, device="cpu")


def test_torchscript_export_computes_the_same(
    files: dict[str, str], exported_bundle: Path, network: torch.nn.Module, tmp_path: Path
) -> None:
    weights = str(exported_bundle / "models" / "model.pt")
    monai.bundle.ckpt_export(**files, filepath=str(tmp_path / "model.ts"), ckpt_file=weights)
    scripted, metadata, _ = monai.data.load_net_with_metadata(str(tmp_path / "model.ts"))
    image = torch.rand(2, 1, 40, 24)
    with torch.no_grad():
        torch.testing.assert_close(scripted.eval()(image), network(image))
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"]["2"] == "vertebra L5"


def test_workflows_have_every_property_of_monai(exported_bundle: Path, tiny_data: Path) -> None:
    """MONAI looks at each property, which makes the object behind it: the scans are needed, too."""
    workflow = monai.bundle.create_workflow(
        config_file=str(exported_bundle / "configs" / "inference.json"),
        workflow_type="infer",
        bundle_root=str(exported_bundle),
        dataset_dir=str(tiny_data),
        device_name="cpu",
    )
    assert isinstance(workflow, ConfigWorkflow) and not workflow.check_properties()
    metadata = ConfigParser.load_config_file(str(exported_bundle / "configs" / "metadata.json"))
    assert isinstance(workflow.network_def, ResUNet) and len(workflow.dataset) == 2
    assert workflow.version == metadata["version"]


def test_the_structure_is_that_of_a_new_bundle_and_more(exported_bundle: Path, tmp_path: Path) -> None:
    monai.bundle.init_bundle(str(tmp_path / "new"), network=ResUNet(features=[4, 8]), dataset_license=True)
    new = {str(path.relative_to(tmp_path / "new")) for path in (tmp_path / "new").rglob("*") if path.is_file()}
    assert "models/model.pt" in new and "docs/data_license.txt" in new
    assert not [name for name in new if not (exported_bundle / name).is_file()]
