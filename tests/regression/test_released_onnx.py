"""The released weights in ONNX Runtime: the labels that torch gives, pixel by pixel and after decoding."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

from cps4_monai.inference.segment import Segmenter

STORE = runpy.run_path(str(Path(__file__).with_name("store_output.py")))


def test_onnx_gives_the_labels_of_torch(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    monkeypatch.setenv("CPS4_CACHE_DIR", str(tmp_path))
    scan = STORE["phantom_image"]()
    by_torch, by_onnx = (Segmenter(device="cpu", runtime=name) for name in ("torch", "onnx"))
    prepared = by_torch.prepare(scan)
    expected, found = by_torch.scores(prepared), by_onnx.scores(prepared)
    assert by_onnx.runtime.startswith("onnxruntime") and len(np.unique(expected.labels)) > 5
    assert (found.labels == expected.labels).mean() >= 0.9999
    decoded = [one.finish(prepared, scores).labels for one, scores in ((by_torch, expected), (by_onnx, found))]
    assert (decoded[0] == decoded[1]).mean() >= 0.9999
