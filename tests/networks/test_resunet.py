"""The residual U-Net: shapes, size, export, bad input."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch

from cps4_monai.networks import ResUNet, build_network
from cps4_monai.plan import plan_of


@pytest.mark.parametrize("size", [(32, 16), (33, 17), (1, 1), (50, 37)])
def test_any_size_goes_in_and_the_same_size_comes_out(size):
    network = ResUNet(1, 5, features=(4, 8, 8)).eval()
    assert network(torch.rand(2, 1, *size)).shape == (2, 5, *size)


def test_padding_leaves_the_logits_of_divisible_sizes_alone():
    network = ResUNet(1, 3, features=(4, 8)).eval()
    image = torch.rand(1, 1, 8, 8)
    features = network.encoder[0](image)
    by_hand = network.head(network.decoder[0](network.encoder[1](features), features))
    torch.testing.assert_close(network(image), by_hand)


def test_parameter_counts_are_those_of_the_documentation():
    def count(features):
        return sum(p.numel() for p in ResUNet(1, 20, features).parameters())

    assert count((32, 64, 128, 256, 512)) == pytest.approx(8.3e6, rel=0.03)
    assert count((24, 48, 96, 192, 384)) == pytest.approx(4.57e6, rel=0.01)


def test_default_weights_are_under_10_megabytes_in_half_precision():
    state = {k: v.half() if v.is_floating_point() else v for k, v in ResUNet().state_dict().items()}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    assert buffer.tell() < 10e6


def test_scripted_network_agrees():
    network = ResUNet(1, 3, features=(4, 8, 16)).eval()
    image = torch.rand(2, 1, 21, 13)
    torch.testing.assert_close(torch.jit.script(network)(image), network(image))


def test_onnx_export_agrees(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    network = ResUNet(1, 3, features=(4, 8, 16)).eval()
    image = torch.rand(1, 1, 22, 12)
    torch.onnx.export(network, (image,), str(tmp_path / "m.onnx"), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), network(image), rtol=1e-4, atol=1e-5)


def test_every_parameter_gets_a_gradient():
    network = ResUNet(1, 3, features=(4, 8, 16))
    network(torch.rand(2, 1, 16, 16)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters() if p.ndim > 1)


@pytest.mark.parametrize("bad", [{"features": (8,)}, {"features": (8, 0)}, {"out_channels": 0}])
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match="expected channels"):
        ResUNet(**bad)


def test_the_pieces_compose_to_the_whole_and_the_released_weights_still_fit():
    network = ResUNet(1, 5, features=(4, 8, 16)).eval()
    image = torch.rand(1, 1, 18, 13)
    levels = network.encode(image)
    assert [tuple(level.shape[1:]) for level in levels] == [(4, 20, 16), (8, 10, 8), (16, 5, 4)]
    features = network.decode(levels)
    assert features.shape == (1, network.features[0], 20, 16)
    assert torch.equal(network.head(features)[..., :18, :13], network(image))
    released = Path(__file__).resolve().parents[2] / "bundle" / "models" / "model.pt"
    described = build_network(plan_of(released).network, released)
    described.load_state_dict(torch.load(released, weights_only=True), strict=True)
