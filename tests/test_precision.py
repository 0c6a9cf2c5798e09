"""`amp` means reduced precision where the hardware computes it natively, and float32 elsewhere."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest
import torch

from cps4_monai import precision
from cps4_monai.precision import Precision, computes_bfloat16, cpu_computes_bfloat16, reduced_dtype


@pytest.mark.parametrize(
    ("machine", "onednn", "instructions", "kernels", "native"),
    [
        ("x86_64", True, True, "AVX512", True),
        ("AMD64", True, True, "AVX512", True),
        ("x86_64", True, False, "AVX512", False),  # AVX-512 without bfloat16, where oneDNN alone says yes
        ("x86_64", False, True, "AVX512", False),  # ONEDNN_MAX_CPU_ISA=AVX2
        ("x86_64", True, True, "AVX2", False),  # ATEN_CPU_CAPABILITY=avx2
        ("x86_64", False, False, "AVX2", False),
        ("aarch64", True, False, "DEFAULT", True),  # oneDNN asks the Arm processor itself
        ("aarch64", False, False, "DEFAULT", False),
        ("arm64", False, False, "DEFAULT", False),  # torch for Macs has no oneDNN
        ("ppc64le", True, True, "VSX", False),
    ],
)
def test_a_cpu_needs_instructions_and_kernels(machine, onednn, instructions, kernels, native):
    assert cpu_computes_bfloat16(machine, onednn, instructions, kernels) is native


@pytest.mark.parametrize(
    ("device_type", "native", "asked", "dtype"),
    [
        ("cpu", True, None, torch.bfloat16),
        ("cpu", False, None, None),
        ("cpu", False, "bfloat16", torch.bfloat16),
        ("cpu", True, "float16", torch.float16),
        ("cuda", True, None, torch.bfloat16),
        ("cuda", False, None, torch.float16),
        ("cuda", True, "float16", torch.float16),
        ("mps", True, None, torch.bfloat16),
        ("mps", False, None, None),
    ],
)
def test_the_type_follows_the_device_unless_one_is_forced(device_type, native, asked, dtype):
    assert reduced_dtype(device_type, native, asked) == dtype


@pytest.mark.parametrize(("capability", "native"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_cuda_computes_bfloat16_from_ampere_on(monkeypatch, capability, native):
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert computes_bfloat16(torch.device("cuda")) is native


def test_rocm_computes_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert computes_bfloat16(torch.device("cuda"))


@pytest.mark.parametrize("native", [True, False])
def test_mps_computes_it_from_the_system_that_has_it(monkeypatch, native):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: native and major == 14)
    assert computes_bfloat16(torch.device("mps")) is native


def test_without_native_bfloat16_autocast_is_off_and_one_line_says_so(monkeypatch, caplog):
    monkeypatch.setattr(precision, "computes_bfloat16", lambda device: False)
    with caplog.at_level(logging.INFO):
        plain = Precision("cpu", amp=True)
    assert (plain.dtype, plain.new_scaler(), plain.name) == (None, None, "float32")
    assert [record.message for record in caplog.records] == [
        "amp is on, but cpu does not compute bfloat16 natively: float32 is used, as the faster"
    ]
    with plain.autocast():
        assert not torch.is_autocast_enabled("cpu")


def test_without_amp_nothing_is_said_and_a_type_forces_nothing(caplog):
    with caplog.at_level(logging.INFO):
        plain = Precision("cpu", amp=False, dtype="bfloat16")
    assert plain.dtype is None and not caplog.records


def test_float16_is_scaled_and_bfloat16_is_not():
    assert Precision("cpu", amp=True, dtype="float16").new_scaler() is not None
    assert Precision("cpu", amp=True, dtype="bfloat16").new_scaler() is None
    assert Precision("cpu", amp=False, dtype="float16").new_scaler() is None


def test_a_forced_type_is_computed_in():
    with Precision("cpu", amp=True, dtype="bfloat16").autocast():
        assert torch.nn.Linear(2, 2)(torch.rand(1, 2)).dtype == torch.bfloat16


def test_unknown_type_is_refused():
    with pytest.raises(ValueError, match="amp_dtype is 'int8'"):
        Precision("cpu", amp=True, dtype="int8")


@pytest.mark.parametrize(
    "narrow",
    [
        {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
        {"ATEN_CPU_CAPABILITY": "avx2"},
        {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    ],
    ids=lambda narrow: "+".join(narrow),
)
def test_a_machine_made_narrow_computes_float32(narrow):
    code = "from cps4_monai.precision import Precision; print(Precision('cpu', amp=True).name)"
    answer = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **narrow}, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "float32"
