"""ONNX Runtime gives the labels of torch; where its file comes from, and what is said where it cannot be used."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.bundle_root import find_bundle_root
from cps4_monai.commands.export import export as export_command
from cps4_monai.commands.segment import segment as segment_command
from cps4_monai.data.in_plane import InPlane
from cps4_monai.data.phantom import make_phantom
from cps4_monai.data.volume import volume_from_nifti
from cps4_monai.export import stage_bundle
from cps4_monai.extras import MissingExtraError
from cps4_monai.inference import onnx_network as onnx_room
from cps4_monai.inference import runtime as runtime_room
from cps4_monai.inference.bundle import open_bundle
from cps4_monai.inference.prepared import prepare_scan
from cps4_monai.inference.segment import Segmenter
from cps4_monai.networks import ResUNet
from cps4_monai.plan import Plan, write_plan

FEATURES = [4, 8]


@pytest.fixture(scope="module")
def scan():
    phantom = make_phantom(3, size=(150, 130), slices=5)
    return volume_from_nifti(nib.Nifti1Image(phantom.image, phantom.affine), path="phantom")


@pytest.fixture(scope="module")
def small_bundle(scan, tmp_path_factory) -> Path:
    """A bundle whose U-Net has random weights, balanced so that many classes win somewhere, all by small margins."""
    folder = tmp_path_factory.mktemp("small_bundle")
    torch.manual_seed(1)
    network = ResUNet(features=FEATURES)
    slices = prepare_scan(scan, InPlane(None, 2.0, "spacing")).slices[:, None]
    with torch.no_grad():
        network.train()(slices)  # statistics of BatchNorm
        network.head.bias -= network.eval()(slices).mean(dim=(0, 2, 3))
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}, folder / "w.pt")
    write_plan(
        folder, Plan(MRSPINESEG, (1,), 2.0, network={"_target_": "cps4_monai.networks.ResUNet", "features": FEATURES})
    )
    stage_bundle(find_bundle_root(), folder / "bundle", folder / "w.pt")
    return folder / "bundle"


@pytest.fixture(scope="module")
def exported(small_bundle) -> bytes:
    """Its network as ONNX; made once for all tests."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    bundle = open_bundle(small_bundle)
    return onnx_room.bundle_to_onnx(bundle, bundle.build_network(torch.device("cpu")))


@pytest.fixture
def cache(exported, tmp_path, monkeypatch) -> Path:
    """An empty cache folder of one's own; an export takes no time and is counted in ``exports``."""
    monkeypatch.setenv("CPS4_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(onnx_room, "exports", [], raising=False)

    def again(bundle, network):
        onnx_room.exports.append(bundle.sha256)
        return exported

    monkeypatch.setattr(onnx_room, "bundle_to_onnx", again)
    return tmp_path / "cache"


def test_labels_are_those_of_torch(small_bundle, cache, scan):
    segmenters = [Segmenter(small_bundle, device="cpu", runtime=name, raw=True) for name in ("torch", "onnx")]
    torch_labels, onnx_labels = (segmenter(scan, qc=False).labels for segmenter in segmenters)
    assert len(np.unique(torch_labels)) > 5
    assert (torch_labels == onnx_labels).mean() >= 0.9999


@pytest.mark.parametrize("shape", [(1, 1, 40, 24), (3, 1, 33, 17), (5, 1, 7, 90), (1, 1, 1, 1)])
def test_one_file_takes_any_number_and_size_of_slices(small_bundle, exported, shape):
    network = open_bundle(small_bundle).build_network(torch.device("cpu"))
    image = torch.rand(shape)
    with torch.no_grad():
        expected, found = network(image), onnx_room.OnnxNetwork(exported)(image)
    assert found.shape == expected.shape == (shape[0], 20, *shape[2:])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_five_views_go_through_it_too(small_bundle, cache, scan):
    scores = [Segmenter(small_bundle, device="cpu", runtime=name, tta=True) for name in ("torch", "onnx")]
    labels = [one.scores(one.prepare(scan)).labels for one in scores]
    assert (labels[0] == labels[1]).mean() >= 0.9999


def test_the_network_is_exported_once_for_its_weights(small_bundle, cache, tmp_path):
    first, second = (Segmenter(small_bundle, device="cpu", runtime="onnx") for _ in range(2))
    assert first.network is not second.network and len(onnx_room.exports) == 1
    assert len(list(cache.iterdir())) == 1 and first.runtime.startswith("onnxruntime ")
    next(cache.iterdir()).write_bytes(b"half a file")  # damaged: made again
    assert Segmenter(small_bundle, device="cpu", runtime="onnx").network is not None
    assert len(onnx_room.exports) == 2 and len(list(cache.iterdir())) == 1


def test_a_cache_that_cannot_be_written_costs_time_only(small_bundle, cache, caplog):
    cache.write_text("a file where the folder should be")
    assert Segmenter(small_bundle, device="cpu", runtime="onnx").network is not None
    assert "exported again at the next start" in caplog.text


def shipping(small_bundle: Path, folder: Path, content: bytes) -> Path:
    shutil.copytree(small_bundle, folder, ignore=shutil.ignore_patterns("cps4_monai"))
    (folder / "models" / "model.onnx").write_bytes(content)
    return folder


def test_a_file_that_the_bundle_ships_is_used(small_bundle, cache, exported, tmp_path, monkeypatch):
    folder = shipping(small_bundle, tmp_path / "shipping", exported)
    monkeypatch.setattr(runtime_room, "find_spec", lambda name: name == "onnxruntime" or None)  # no exporter
    segmenter = Segmenter(folder, device="cpu", runtime="onnx")
    assert segmenter.network.weights_sha256 == segmenter.bundle.sha256
    assert not onnx_room.exports and not cache.exists()


def test_an_exported_zip_may_ship_it(small_bundle, cache, exported, tmp_path, monkeypatch):
    zipped = tmp_path / "spine.zip"
    call = ["-o", str(zipped), "--bundle-root", str(small_bundle), "--onnx"]
    result = CliRunner().invoke(export_command, call, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    monkeypatch.setattr(onnx_room, "bundle_to_onnx", None)  # called, it would fail
    assert Segmenter(zipped, device="cpu", runtime="onnx").network.weights_sha256


def test_a_shipped_file_of_other_weights_or_a_damaged_one_is_left_out(small_bundle, cache, exported, tmp_path, caplog):
    folder = shipping(small_bundle, tmp_path / "other", exported)
    state = torch.load(folder / "models" / "model.pt", weights_only=True)
    state["head.bias"] += 1
    torch.save(state, folder / "models" / "model.pt")
    (folder / "models" / "model.pt.sha256").unlink()
    # Both files are left out; the export that replaces them is (here) still that of the first weights, and refused.
    with pytest.raises(ValueError, match=r"ONNX and torch differ by .* use the runtime torch"):
        _ = Segmenter(folder, device="cpu", runtime="onnx").network
    assert "it was made from other weights" in caplog.text
    (folder / "models" / "model.onnx").write_bytes(b"no ONNX")
    with pytest.raises(ValueError, match="differ by"):
        _ = Segmenter(folder, device="cpu", runtime="onnx").network
    assert "is left out: not an ONNX file" in caplog.text


@pytest.mark.parametrize(("onnx_seconds", "used"), [(1.0, "onnxruntime"), (3.0, "torch")])
def test_auto_takes_the_faster_one_and_says_by_how_much(small_bundle, cache, monkeypatch, onnx_seconds, used):
    monkeypatch.setattr(
        runtime_room, "_seconds", lambda net, probe: onnx_seconds if isinstance(net, onnx_room.OnnxNetwork) else 2.0
    )
    segmenter = Segmenter(small_bundle, device="cpu", runtime="auto")
    assert isinstance(segmenter.network, onnx_room.OnnxNetwork) == (used == "onnxruntime")
    assert segmenter.runtime.startswith(used) and f"{2.0 / onnx_seconds:.2f} times as fast" in segmenter.runtime


def test_missing_packages_are_named_and_auto_does_without(small_bundle, monkeypatch):
    monkeypatch.setattr(runtime_room, "find_spec", lambda name: None if name.startswith("onnx") else name)
    with pytest.raises(MissingExtraError, match=r'needs onnxruntime and onnx and onnxscript.*"cps4-monai\[onnx\]"'):
        Segmenter(small_bundle, device="cpu", runtime="onnx")
    segmenter = Segmenter(small_bundle, device="cpu", runtime="auto")
    assert isinstance(segmenter.network, ResUNet) and "not installed" in segmenter.runtime


def test_onnx_is_for_the_cpu(monkeypatch):
    with pytest.raises(ValueError, match="expected torch, onnx, auto"):
        runtime_room.device_for("fast", "cpu")
    monkeypatch.setattr(runtime_room, "select_device", lambda name: torch.device("cuda:0" if name != "cpu" else "cpu"))
    assert runtime_room.device_for("onnx", "auto").type == "cpu"
    assert runtime_room.device_for("auto", "auto").type == "cuda"
    with pytest.raises(ValueError, match=r"device 'cuda:0'; ONNX is used on CPUs only"):
        runtime_room.device_for("onnx", "cuda")


def test_the_command_says_what_ran_and_keeps_results_of_the_other_runtime(small_bundle, cache, scan, tmp_path, caplog):
    nib.save(nib.Nifti1Image(scan.array, scan.affine), tmp_path / "s.nii.gz")
    call = [str(tmp_path / "s.nii.gz"), "-o", str(tmp_path / "out"), "-w", str(small_bundle), "-d", "cpu", "--no-qc"]
    with caplog.at_level(logging.ERROR):
        result = CliRunner().invoke(segment_command, [*call, "--runtime", "onnx"])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out" / "s_dseg.json").read_text("utf-8"))
    assert record["Runtime"].startswith("onnxruntime ") and record["Device"] == "cpu"
    again = CliRunner().invoke(segment_command, [*call, "--runtime", "torch"])
    assert "1 kept" in again.output
