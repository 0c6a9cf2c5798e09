"""A ViT of DINOv2's architecture out of an ONNX file, under timm's names."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from cps4_monai.extras import require

BACKBONE = "backbone"
# Names of one block: Hugging Face's, which exporting keeps, and timm's.
KEPT = {
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "attention.output.dense.bias": "attn.proj.bias",
    "layer_scale1.lambda1": "ls1.gamma",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.bias": "mlp.fc2.bias",
    "layer_scale2.lambda1": "ls2.gamma",
}
# Weights of linear layers have lost their names: they are found as the constant input of the MatMul node of this name.
MULTIPLIED = {
    "attention.output.dense": "attn.proj.weight",
    "mlp.fc1": "mlp.fc1.weight",
    "mlp.fc2": "mlp.fc2.weight",
}
OUTSIDE = {
    "embeddings.cls_token": "cls_token",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}


def vit_from_onnx(content: bytes) -> dict[str, np.ndarray]:
    """State dict of timm's DINOv2 ViT (``vit_*_patch14_dinov2``, no classifier) from an exported Hugging Face one.

    The graph is read, never run. What does not belong to the backbone (a decoder) is left out.

    Args:
        content: the ONNX file. Initialisers of the backbone keep the names of Hugging Face's ``Dinov2Model`` below
            ``backbone``; linear weights are transposed inputs of MatMul nodes named by their module; the position
            embedding is in two constants, class token and patches.

    Returns:
        14 arrays per block and 6 more, float32.

    Raises:
        ValueError: no ONNX file, or one without a tensor that the architecture needs; names it.
        ImportError: the package ``onnx`` is not installed; says the command.
    """
    graph = _Graph(content)
    state = {timm: graph.initialiser(f"{BACKBONE}.{name}") for name, timm in OUTSIDE.items()}
    state["pos_embed"] = np.concatenate([graph.position("Concat"), graph.position("Reshape")], axis=1)
    for number in range(graph.blocks()):
        layer = f"{BACKBONE}.encoder.layer.{number}"
        block = {timm: graph.initialiser(f"{layer}.{name}") for name, timm in KEPT.items()}
        block |= {timm: graph.multiplied_by(f"{layer}.{name}").T for name, timm in MULTIPLIED.items()}
        projections = [f"{layer}.attention.attention.{name}" for name in ("query", "key", "value")]
        block["attn.qkv.weight"] = np.concatenate([graph.multiplied_by(name).T for name in projections])
        block["attn.qkv.bias"] = np.concatenate([graph.initialiser(f"{name}.bias") for name in projections])
        state |= {f"blocks.{number}.{name}": value for name, value in block.items()}
    return {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in state.items()}


class _Graph:
    """Constants of an ONNX graph by the names of the modules that they belong to."""

    def __init__(self, content: bytes) -> None:
        onnx: Any = require("onnx", "reading ONNX files")
        from google.protobuf.message import DecodeError  # comes with onnx

        try:
            graph = onnx.load_model_from_string(content).graph
        except DecodeError as error:
            raise ValueError(f"not an ONNX file ({error}); expected the one of the wheel") from error
        self._to_array: Callable[[Any], np.ndarray] = onnx.numpy_helper.to_array
        self.initialisers = {tensor.name: tensor for tensor in graph.initializer}
        self.nodes = {node.name: node for node in graph.node}

    def initialiser(self, name: str) -> np.ndarray:
        if name not in self.initialisers:
            raise ValueError(f"the ONNX file has no constant {name!r}; expected a ViT of DINOv2's architecture")
        return self._to_array(self.initialisers[name])

    def multiplied_by(self, module: str) -> np.ndarray:
        """The constant (in, out) that the MatMul of a linear layer multiplies its input by."""
        # A module "a.layer.0.b" is the path "/a/layer.0/b": an element of a list stays one step with its list.
        node = "/" + re.sub(r"\.(?!\d)", "/", module) + "/MatMul"
        if node not in self.nodes:
            raise ValueError(f"the ONNX file has no node {node!r}; expected a ViT of DINOv2's architecture")
        constants = [name for name in self.nodes[node].input if name in self.initialisers]
        if len(constants) != 1:
            raise ValueError(f"node {node!r} of the ONNX file has {len(constants)} constant inputs; expected 1")
        return self.initialiser(constants[0])

    def position(self, node_type: str) -> np.ndarray:
        """The constant (1, n, D) that the embeddings' node of this type takes."""
        nodes = (n for n in self.nodes.values() if n.op_type == node_type and n.name.startswith(f"/{BACKBONE}/embed"))
        taken = (name for node in nodes for name in node.input if name.startswith(f"onnx::{node_type}"))
        constants = [name for name in taken if name in self.initialisers and len(self.initialisers[name].dims) == 3]
        if len(constants) != 1:
            raise ValueError(
                f"the embeddings in the ONNX file take {len(constants)} constants onnx::{node_type}_* of three "
                "dimensions; expected 1, a part of the position embedding"
            )
        return self.initialiser(constants[0])

    def blocks(self) -> int:
        pattern = re.compile(rf"{BACKBONE}\.encoder\.layer\.(\d+)\.")
        numbers = {int(match.group(1)) for match in map(pattern.match, self.initialisers) if match}
        if numbers != set(range(len(numbers))) or not numbers:
            raise ValueError(f"the ONNX file has the blocks {sorted(numbers)}; expected 0, 1, ... without a gap")
        return len(numbers)
