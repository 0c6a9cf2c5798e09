"""Weights from files: what is accepted, and what the errors say."""

from __future__ import annotations

import hashlib

import pytest
import torch

from cps4_monai.networks import ResUNet, finetune_from, load_weights


def tiny(classes=3):
    return ResUNet(1, classes, features=(4, 8))


def test_half_precision_weights_fill_a_float_network(tmp_path):
    source, target = tiny(), tiny()
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in source.state_dict().items()}, tmp_path / "m.pt")
    assert load_weights(target, tmp_path / "m.pt") is target
    assert target.head.weight.dtype == torch.float32
    torch.testing.assert_close(target.head.weight, source.head.weight, atol=1e-3, rtol=1e-3)


def test_weights_are_checked_against_the_digest_beside_them(tmp_path):
    torch.save(tiny().state_dict(), tmp_path / "m.pt")
    beside = tmp_path / "m.pt.sha256"
    beside.write_text(f"{hashlib.sha256((tmp_path / 'm.pt').read_bytes()).hexdigest().upper()}  m.pt\n")
    load_weights(tiny(), tmp_path / "m.pt")
    for content, words in ((f"{'0' * 64}  m.pt", "says 0000"), ("", "says nothing")):
        beside.write_text(content)
        with pytest.raises(ValueError, match=f"{words}.*damaged or were changed"):
            load_weights(tiny(), tmp_path / "m.pt")


def test_a_bundle_folder_gives_its_model(tmp_path):
    (tmp_path / "models").mkdir()
    source, target = tiny(), tiny()
    torch.save(source.state_dict(), tmp_path / "models" / "model.pt")
    assert torch.equal(finetune_from(target, tmp_path).head.weight, source.head.weight)


def test_no_bundle_leaves_the_network_alone():
    network = tiny()
    before = network.head.weight.clone()
    assert torch.equal(finetune_from(network, None).head.weight, before)
    assert torch.equal(finetune_from(network, "").head.weight, before)


def test_weights_of_other_classes_are_named(tmp_path):
    torch.save(tiny(5).state_dict(), tmp_path / "m.pt")
    with pytest.raises(ValueError, match=r"head.weight: \(5, 4, 1, 1\) in the file, \(3, 4, 1, 1\)"):
        load_weights(tiny(3), tmp_path / "m.pt")


def test_weights_of_other_levels_are_named(tmp_path):
    torch.save(ResUNet(1, 3, features=(4, 8, 8)).state_dict(), tmp_path / "m.pt")
    with pytest.raises(ValueError, match="another network"):
        load_weights(tiny(3), tmp_path / "m.pt")


def test_missing_damaged_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        finetune_from(tiny(), tmp_path / "nowhere")
    (tmp_path / "half.pt").write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(ValueError, match="cannot be read"):
        load_weights(tiny(), tmp_path / "half.pt")
    torch.save({"trainer": {"epoch": 3}}, tmp_path / "resume.pt")
    with pytest.raises(ValueError, match="no plain state dict"):
        load_weights(tiny(), tmp_path / "resume.pt")
