"""A bundle whose network is right by construction, and scans for it: each structure has a grey value of its own.

The network is one 1 x 1 convolution. With mean grey values m, the logits 2 k m x - k m^2 differ from -k (x - m)^2 by a
term that all classes share, so the argmax is the structure with the nearest grey value. Nothing has to be trained.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

SPACING = 2.0  # mm in plane, the bundle's as well: nothing is resampled
SHARPNESS = 2500.0


def grey_values() -> np.ndarray:
    """Mean grey value of each of the 20 codes, background 0, L5 (which every scan shows) 1."""
    order = [0, *[c for c in range(1, 20) if c != 2], 2]
    values = np.zeros(20)
    values[order] = np.linspace(0, 1, 20)
    return values


@dataclass
class CodedScan:
    """A scan (X, Y, Z) in L-P-S order with its truth."""

    image: np.ndarray
    label: np.ndarray
    affine: np.ndarray
    zooms: tuple[float, float, float] = field(default=(4.0, SPACING, SPACING))

    def nifti(self) -> nib.Nifti1Image:
        return nib.Nifti1Image(self.image, self.affine)

    def save(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(self.nifti(), path)
        return path


def coded_label(slices: int = 5, height: int = 96, width: int = 40) -> np.ndarray:
    """(X, Y, Z): L5/S at the bottom with 24 mm of room below, then L5, L4/L5, ... as far as the view goes."""
    label = np.zeros((slices, width, height), np.uint8)  # Z runs to superior
    bottom, code = 12, 0
    first, last = (1, slices - 1) if slices > 2 else (0, slices)
    while bottom < height and code < 9:
        label[first:last, 12:27, bottom : bottom + 4] = 11 + code
        label[first:last, 12:27, bottom + 4 : bottom + 17] = 2 + code
        bottom, code = bottom + 17, code + 1
    return label


def coded_scan(slices: int = 5, height: int = 96, width: int = 40, seed: int = 0, thickness: float = 4.0) -> CodedScan:
    label = coded_label(slices, height, width)
    noise = np.random.default_rng(seed).integers(-8, 9, label.shape)
    image = (np.round(1000 * grey_values()[label]) + noise).astype(np.int16)
    affine = np.array([[-thickness, 0, 0, 8], [0, -SPACING, 0, 30], [0, 0, SPACING, -90], [0, 0, 0, 1]], float)
    return CodedScan(image, label, affine, (thickness, SPACING, SPACING))


@pytest.fixture(scope="session")
def make_scan():
    """Function that makes a coded scan."""
    return coded_scan


@pytest.fixture(scope="session")
def dicom():
    """Functions that write DICOM series (dicom_writing.py)."""
    pytest.importorskip("pydicom", reason="the extra `dicom` is not installed")
    import importlib.util

    spec = importlib.util.spec_from_file_location("dicom_writing", Path(__file__).with_name("dicom_writing.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def bundle_dir(tmp_path_factory) -> Path:
    """The staged bundle, a folder."""
    import torch

    from cps4_monai.anatomy import MRSPINESEG
    from cps4_monai.bundle_root import find_bundle_root
    from cps4_monai.export import stage_bundle
    from cps4_monai.plan import Plan, write_plan

    folder = tmp_path_factory.mktemp("bundle") / "coded"
    means = torch.from_numpy(grey_values()).float()
    state = {"conv.weight": (2 * SHARPNESS * means)[:, None, None, None], "conv.bias": -SHARPNESS * means**2}
    weights = folder.parent / "weights.pt"
    torch.save({key: value.half().float() for key, value in state.items()}, weights)
    network = {
        "_target_": "monai.networks.blocks.Convolution",
        "spatial_dims": 2,
        "in_channels": 1,
        "out_channels": 20,
        "kernel_size": 1,
        "conv_only": True,
    }
    write_plan(weights.parent, Plan(MRSPINESEG, (1,), SPACING, network=network))
    stage_bundle(find_bundle_root(), folder, weights)
    return folder


def edit_plan(folder: Path, **fields) -> None:
    plan = folder / "models" / "plan.json"
    plan.write_text(json.dumps({**json.loads(plan.read_text()), **fields}))


@pytest.fixture()
def edited_bundle(bundle_dir, tmp_path):
    """Function that copies the bundle with other values in its plan, or other weights."""
    import shutil

    def copy(weights: bytes | None = None, **fields) -> Path:
        folder = tmp_path / "edited_bundle"
        shutil.copytree(bundle_dir, folder, ignore=shutil.ignore_patterns("cps4_monai"))
        edit_plan(folder, **fields)
        if weights is not None:
            (folder / "models/model.pt").write_bytes(weights)
            digest = hashlib.sha256(weights).hexdigest()
            (folder / "models/model.pt.sha256").write_text(f"{digest}  model.pt\n")
        return folder

    return copy


@pytest.fixture(scope="session")
def segmenter(bundle_dir):
    """Loaded once for all tests that need nothing special."""
    from cps4_monai.inference.segment import Segmenter

    return Segmenter(bundle_dir, device="cpu")


@pytest.fixture(scope="module")
def browser():
    """Chromium without a head."""
    from in_browser import launched

    yield from launched()
