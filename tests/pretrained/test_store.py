"""Names in settings: found, of the wrong kind, or not fetched yet."""

from __future__ import annotations

import pytest

from cps4_monai.pretrained import CATALOGUE, find_weights, state_of
from cps4_monai.pretrained.store import ABSENT, write_record
from cps4_monai.text import TextEncoder
from cps4_monai.vision import VisionEncoder


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CPS4_CACHE_DIR", str(tmp_path))


def test_a_path_or_a_name_of_the_hub_is_no_name_of_the_catalogue():
    for value in ("runs/vision.pt", "./vit-s-focus", "emilyalsentzer/Bio_ClinicalBERT"):
        assert find_weights(value, "vision") is None


def test_weights_that_are_not_here_name_the_command(tmp_path):
    assert state_of(CATALOGUE["minilm-l6"]) == ABSENT
    with pytest.raises(ValueError, match="cps4 weights vit-s-focus") as raised:
        VisionEncoder("vit_small_patch14_dinov2", (28, 28), checkpoint_path="vit-s-focus")
    assert str(tmp_path / "weights" / "vit-s-focus") in str(raised.value)
    with pytest.raises(ValueError, match="cps4 weights minilm-l6"):
        TextEncoder("minilm-l6")


def test_weights_that_are_damaged_or_of_another_catalogue_are_refused(tmp_path):
    folder = tmp_path / "weights" / "vit-s-focus"
    folder.mkdir(parents=True)
    (folder / "model.pt").write_bytes(b"whole")
    for sha256, content, state in (
        (CATALOGUE["vit-s-focus"].sha256, b"whole", None),
        (CATALOGUE["vit-s-focus"].sha256, b"cut", "damaged"),
        ("0" * 64, b"cut", "of another package"),
    ):
        if state is None or sha256 == "0" * 64:
            (folder / "weights.json").unlink(missing_ok=True)
            write_record(folder, {"source": {"sha256": sha256}})
        (folder / "model.pt").write_bytes(content)
        if state is None:
            assert find_weights("vit-s-focus", "vision") == folder
        else:
            with pytest.raises(ValueError, match=rf"are {state}: fetch them once with `cps4 weights vit-s-focus`"):
                find_weights("vit-s-focus", "vision")


def test_an_encoder_of_the_other_kind_is_refused_with_the_setting_that_takes_it():
    with pytest.raises(ValueError, match=r"is a text encoder; name it as stage1#text_model, .* \['vit-s-focus'\]"):
        find_weights("minilm-l6", "vision")
    with pytest.raises(ValueError, match=r"is a vision encoder; name it as stage1#vision_checkpoint"):
        find_weights("vit-s-focus", "text")


def test_a_path_that_does_not_exist_offers_the_names(tmp_path):
    with pytest.raises(ValueError, match=r"name of `cps4 weights` \(vit-s-focus\)"):
        VisionEncoder("vit_small_patch14_dinov2", (28, 28), checkpoint_path=tmp_path / "vit-s-focsu")


def test_the_catalogue_pins_versions_hashes_and_licences():
    for name, encoder in CATALOGUE.items():
        assert encoder.name == name and encoder.kind in ("vision", "text")
        assert len(encoder.sha256) == 64 and int(encoder.sha256, 16)
        assert encoder.version in encoder.wheel and encoder.licence and encoder.credit
