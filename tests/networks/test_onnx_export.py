"""A network as ONNX: any number and size of slices, checked against torch before it is shipped."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest
import torch

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.bundle_root import find_bundle_root
from cps4_monai.export import export_bundle
from cps4_monai.extras import MissingExtraError
from cps4_monai.networks import ResUNet, onnx_export
from cps4_monai.networks.onnx_export import check_onnx, to_onnx
from cps4_monai.plan import Plan, write_plan

FEATURES = [4, 8]


@pytest.fixture(scope="module")
def network() -> ResUNet:
    torch.manual_seed(1)
    network = ResUNet(features=FEATURES)
    network.train()(torch.rand(2, 1, 64, 48))  # statistics of BatchNorm that are not those of a new network
    return network.eval()


@pytest.fixture(scope="module")
def exported(network: ResUNet) -> bytes:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    return to_onnx(network, {"weights_sha256": "abc"})


@pytest.mark.parametrize("shape", [(1, 1, 40, 24), (3, 1, 33, 17), (5, 1, 7, 90), (1, 1, 1, 1)])
def test_one_file_takes_any_number_and_size_of_slices(network: ResUNet, exported: bytes, shape: tuple) -> None:
    import onnxruntime

    image = torch.rand(shape)
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["pred"], {"image": image.numpy()})
    with torch.no_grad():
        expected = network(image)
    assert logits.shape == (shape[0], 20, *shape[2:])
    torch.testing.assert_close(torch.from_numpy(logits), expected, atol=1e-5, rtol=1e-4)


def test_a_file_of_other_weights_is_refused(network: ResUNet, exported: bytes) -> None:
    check_onnx(exported, network)
    other = ResUNet(features=FEATURES)
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        other.head.bias += 1
    with pytest.raises(ValueError, match="ONNX and torch differ by"):
        check_onnx(exported, other)
    with pytest.raises(ValueError, match="where torch gives"):
        check_onnx(exported, ResUNet(out_channels=3, features=FEATURES))


def test_seven_levels_and_their_64_pixels_are_exported() -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    import onnxruntime

    deep = ResUNet(out_channels=3, features=[2] * 7).eval()
    assert deep.divisor == 64
    content = to_onnx(deep)
    check_onnx(content, deep)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for shape in ((1, 1, 70, 30), (2, 1, 300, 64)):
        image = torch.rand(shape)
        (logits,) = session.run(["pred"], {"image": image.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(logits), deep(image), atol=1e-5, rtol=1e-4)


def bundle_weights(network: ResUNet, folder: Path) -> Path:
    torch.save(network.state_dict(), folder / "model.pt")
    described = {"_target_": "cps4_monai.networks.ResUNet", "features": FEATURES}
    write_plan(folder, Plan(MRSPINESEG, (1,), 2.0, network=described))
    return folder / "model.pt"


def test_an_exported_zip_holds_the_network_and_names_its_weights(
    network: ResUNet, exported: bytes, tmp_path: Path
) -> None:
    import onnx

    weights, zipped = bundle_weights(network, tmp_path), tmp_path / "spine.zip"
    export_bundle(find_bundle_root(), zipped, weights, onnx=True)
    with zipfile.ZipFile(zipped) as archive:
        (place,) = [name for name in archive.namelist() if name.endswith("models/model.onnx")]
        model = onnx.load_from_string(archive.read(place))
        shipped = archive.read(place.replace(".onnx", ".pt"))
    properties = {prop.key: prop.value for prop in model.metadata_props}
    assert properties["weights_sha256"] == hashlib.sha256(shipped).hexdigest()
    check_onnx(model.SerializeToString(), network)


def test_without_its_packages_the_extra_is_named(network: ResUNet, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str, task: str) -> None:
        raise MissingExtraError(f"{task} needs {module}")

    monkeypatch.setattr(onnx_export, "require", missing)
    with pytest.raises(MissingExtraError, match="checking an exported network needs onnxruntime"):
        check_onnx(b"", network)
