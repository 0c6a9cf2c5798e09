"""The anatomy table against MRSpineSeg's published codes, the metadata of the bundle, and other anatomies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cps4_monai.anatomy import MRSPINESEG, Anatomy, Structure, load_anatomy

METADATA = Path(__file__).resolve().parents[1] / "bundle" / "configs" / "metadata.json"


def test_codes_are_those_of_mrspineseg() -> None:
    names = "background S L5 L4 L3 L2 L1 T12 T11 T10 T9 L5/S L4/L5 L3/L4 L2/L3 L1/L2 T12/L1 T11/T12 T10/T11 T9/T10"
    assert MRSPINESEG.names == names.split()


def test_vertebrae_and_discs_alternate_along_the_spine_from_the_sacrum() -> None:
    names = [s.name for s in MRSPINESEG.along_spine()]
    assert names[:6] == ["S", "L5/S", "L5", "L4/L5", "L4", "L3/L4"]
    assert names[-3:] == ["T10", "T9/T10", "T9"]
    assert [s.order for s in MRSPINESEG.along_spine()] == list(range(19))


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("L5", "A magnetic resonance image of a lumbar vertebra 5"),
        ("L4/L5", "A magnetic resonance image of a intervertebral disc between lumbar vertebra 4 and 5"),
        (
            "T12/L1",
            "A magnetic resonance image of a intervertebral disc between thoracic vertebra 12 and lumbar vertebra 1",
        ),
        ("S", "A magnetic resonance image of a sacrum"),
    ],
)
def test_prompts_follow_the_papers_template(name: str, prompt: str) -> None:
    assert MRSPINESEG.prompts[MRSPINESEG.code_of(name)] == prompt


def test_metadata_of_the_bundle_names_the_same_classes() -> None:
    meta = json.loads(METADATA.read_text())
    output = meta["network_data_format"]["outputs"]["pred"]
    assert output["channel_def"] == MRSPINESEG.channel_def()
    assert output["num_channels"] == MRSPINESEG.num_classes


def test_a_three_class_anatomy_is_a_file(tmp_path: Path) -> None:
    content = {
        "prompt_template": "An MRI of the {name}",
        "structures": [
            {"code": 0, "name": "background", "long_name": "background", "kind": "background"},
            {"code": 1, "name": "LV", "long_name": "left ventricle", "kind": "other"},
            {"code": 2, "name": "RV", "long_name": "right ventricle", "kind": "other"},
        ],
    }
    path = tmp_path / "heart.json"
    path.write_text(json.dumps(content))
    heart = load_anatomy(path)
    assert heart.prompts == [
        "An MRI of the background",
        "An MRI of the left ventricle",
        "An MRI of the right ventricle",
    ]
    assert heart.num_classes == 3
    assert load_anatomy(heart.to_dict()).prompts == heart.prompts
    assert load_anatomy({"format": 1, "anatomy": heart.to_dict()}).prompts == heart.prompts, "the plan of weights"
    assert load_anatomy(path, prompt_template="{name}").prompts[1] == "left ventricle"


@pytest.mark.parametrize(
    ("structures", "template", "message"),
    [
        ([Structure(0, "b", "b", "background"), Structure(2, "x", "x", "disc")], "{name}", "without gaps"),
        ([Structure(0, "b", "b", "background"), Structure(1, "b", "x", "disc")], "{name}", "occur twice"),
        ([Structure(0, "b", "b", "background"), Structure(1, "x", "x", "rib")], "{name}", "unknown"),
        ([Structure(0, "b", "b", "background"), Structure(1, "x", "x", "disc")], "no field", "must contain"),
    ],
)
def test_a_table_that_cannot_work_is_refused(structures: list[Structure], template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Anatomy(structures, template)


@pytest.mark.parametrize("text", ["", "[]", '{"structures": 3}', '{"structures": [{"kode": 0}]}'])
def test_a_file_that_is_no_anatomy_is_named_in_the_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"broken\.json"):
        load_anatomy(path)


def test_unknown_name_lists_the_names_there_are() -> None:
    with pytest.raises(ValueError, match="L5/S"):
        MRSPINESEG.code_of("L6")


def test_standard_codes_are_those_of_snomed_ct_and_stay_out_of_what_is_stored() -> None:
    codes = [s.standard_code for s in MRSPINESEG.foreground]
    assert all(codes) and len({code for code, _ in codes}) == 19
    assert MRSPINESEG[2].standard_code == ("49668003", "L5 vertebra")
    assert MRSPINESEG[MRSPINESEG.code_of("L5/S")].standard_code == ("715056000", "L5/S1 disc")
    assert set(MRSPINESEG.to_dict()["structures"][2]) == {"code", "name", "long_name", "kind", "order"}


def test_an_anatomy_may_bring_codes_of_its_own() -> None:
    own = [
        {"code": 0, "name": "bg", "long_name": "background", "kind": "background"},
        {"code": 1, "name": "LV", "long_name": "left ventricle", "kind": "other", "snomed": "87878005"},
        {"code": 2, "name": "L5", "long_name": "somewhere else", "kind": "other"},
    ]
    anatomy = load_anatomy({"structures": own})
    assert anatomy[1].standard_code == ("87878005", "left ventricle") and anatomy[2].standard_code is None
    assert load_anatomy(anatomy.to_dict())[1].snomed == "87878005"


def heart(**changes: object) -> dict[str, Any]:
    """A table of three classes; `changes` of the last one, of ``background`` or of the ``template``."""
    background = {"code": 0, "name": "b", "long_name": "b", "kind": "background", **changes.pop("background", {})}
    last = {"code": 2, "name": "y", "long_name": "y", "kind": "vertebra", "order": 1, **changes}
    template = last.pop("template", "{name}")
    middle = {"code": 1, "name": "x", "long_name": "x", "kind": "disc", "order": 0}
    return {"prompt_template": template, "structures": [background, middle, last]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"code": "2"}, "code is '2'; expected a whole number"),
        ({"code": None}, "code is None; expected a whole number"),
        ({"code": 2.0}, r"code is 2\.0; expected a whole number"),
        ({"code": True}, "code is True; expected a whole number"),
        ({"name": None}, "name is None; expected text"),
        ({"long_name": None}, "long_name is None; expected text"),
        ({"long_name": ""}, "long_name is ''; expected text"),
        ({"kind": ["vertebra"]}, r"kind is \['vertebra'\]; expected one of"),
        ({"order": "0"}, "order is '0'; expected a whole number"),
        ({"order": 1.5}, r"order is 1\.5; expected a whole number"),
        ({"order": 0}, r"\['x', 'y'\] all have order 0; expected each place"),
        ({"snomed": 87878005}, "snomed is 87878005; expected text"),
        ({"kind": "background", "order": None}, r"\['y'\] have kind 'background'; expected it of code 0 alone"),
        ({"background": {"kind": "other"}}, "code 0 has kind 'other'; expected 'background'"),
        ({"background": {"order": 5}}, "background 'b' has order 5; expected none"),
        ({"template": None}, "prompt_template is None; expected text"),
        ({"template": ["{name}"]}, "prompt_template is .*expected text"),
        ({"template": "{name} {x}"}, r"cannot be filled \(KeyError: 'x'\)"),
        ({"template": "{name} {}"}, "cannot be filled"),
        ({"template": "{name} {"}, "cannot be filled"),
        ({"template": "{name.real}"}, "cannot be filled"),
        ({"template": "{{name}}"}, "must contain the field {name}"),
    ],
)
def test_each_field_of_a_file_is_checked_and_the_file_named(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "heart.json"
    path.write_text(json.dumps(heart(**changes)))
    with pytest.raises(ValueError, match=rf"heart\.json: .*{message}"):
        load_anatomy(path)
    assert [s.name for s in load_anatomy(heart()).along_spine()] == ["x", "y"]


def test_what_is_no_file_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="anatomy is 3; expected the path"):
        load_anatomy(3)
    path = tmp_path / "binary.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"binary\.json: cannot be read as an anatomy file"):
        load_anatomy(path)
