"""Networks of plans from elsewhere: built from plain values, and nothing is opened or fetched for them."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from monai.networks.nets import FlexibleUNet, UNet

from cps4_monai.networks import build_network

FETCHING = [
    ("nets.HoverNet", {"pretrained_url": "file:///tmp/weights.pth"}, "pretrained_url 'file:///tmp/weights.pth'"),
    ("nets.DenseNet121", {"spatial_dims": 2, "in_channels": 3, "out_channels": 2, "pretrained": 1}, "pretrained 1"),
    ("nets.EfficientNetBN", {"model_name": "efficientnet-b0"}, "pretrained True, which is its default"),
    ("nets.resnet.ResNetFeatures", {"model_name": "resnet10"}, "pretrained True, which is its default"),
    ("blocks.MCFCN", {}, "pretrained True, which is its default"),
    ("nets.cell_sam_wrapper.CellSamWrapper", {}, "checkpoint 'sam_vit_b_01ec64.pth', which is its default"),
    ("nets.TorchVisionFCModel", {"model_name": "get_model", "name": "fcn_resnet50"}, "fetches files when it is built"),
    ("nets.Transchex", {}, "fetches files when it is built"),
    ("blocks.text_embedding.TextEncoder", {"out_channels": 3}, "pretrained True, which is its default"),
]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise ConnectionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


@pytest.mark.parametrize(("name", "arguments", "words"), FETCHING)
def test_what_would_fetch_weights_is_refused(name: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=r"^bundle/model.pt: 'network' is monai.networks.") as caught:
        build_network({"_target_": f"monai.networks.{name}", **arguments}, "bundle/model.pt")
    assert words in str(caught.value)


def test_the_same_networks_without_foreign_weights_are_built() -> None:
    without = {"in_channels": 1, "out_channels": 3, "backbone": "efficientnet-b0", "spatial_dims": 2}
    for given in ({}, {"pretrained": False}):
        network = build_network({"_target_": "monai.networks.nets.FlexibleUNet", **without, **given})
        assert isinstance(network, FlexibleUNet)
    small = {"spatial_dims": 2, "in_channels": 1, "out_channels": 3, "channels": [4, 8], "strides": [2]}
    assert isinstance(build_network({"_target_": "monai.networks.nets.UNet", **small}), UNet)


@pytest.mark.parametrize(
    ("description", "words"),
    [
        ({"_target_": "monai.networks.nets.of_later.Net"}, r"which cannot be imported here \(No module .* versions of"),
        ({"_target_": "cps4_monai.networks.gone.Net"}, r"which cannot be imported here \(No module .* versions of"),
        (
            {"_target_": "monai.networks.nets.DynUNet", "spatial_dims": 2, "in_channels": 1, "out_channels": 2,
             "kernel_size": [], "strides": [], "upsample_kernel_size": []},
            r"does not fit monai.networks.nets.DynUNet \(IndexError: .*export the run again",
        ),
        ({"_target_": "cps4_monai.networks.ResUNet", "colour": 1}, r"does not fit .*colour.*export the run again"),
        ({"_target_": "cps4_monai.networks.ResUNet", "features": []}, r"does not fit .*export the run again"),
        ({"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1}, r"has the target .*expected a network"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_told_with_the_plans_network(description: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=rf"^bundle/model.pt: 'network' .*{words}"):
        build_network(description, "bundle/model.pt")


def test_a_package_that_a_network_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise ImportError("No module named 'einops'")

    monkeypatch.setattr(UNet, "__init__", missing)
    with pytest.raises(ValueError, match=r"'network' is monai.networks.nets.UNet, which needs .*'einops'.*install it"):
        build_network({"_target_": "monai.networks.nets.UNet"}, "model.pt")
