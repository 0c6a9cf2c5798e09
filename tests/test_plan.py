"""The plan: read as it was written, refused where it is wrong, and settings that contradict it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from cps4_monai.anatomy import MRSPINESEG, Anatomy, load_anatomy
from cps4_monai.bundle_root import find_bundle_root
from cps4_monai.networks import ResUNet, build_network, describe
from cps4_monai.plan import Plan, PlanError, check_same_pixels, check_unchanged, plan_of, read_plan, write_plan

PLAN = Plan(
    MRSPINESEG,
    (1,),
    1.5,
    (208, 112),
    network=describe(ResUNet(features=[4, 8])),
    activation="softmax",
    decoding={"min_structures": 3},
    flags={"calibrated_on": "two patients"},
    trained_on={"labeled_subjects": 2},
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read_plan(write_plan(tmp_path, PLAN)).to_dict() == PLAN.to_dict()
    assert json.loads((tmp_path / "plan.json").read_text())["trained_on"] == {"labeled_subjects": 2}


def test_a_network_comes_back_from_its_description() -> None:
    network = build_network(PLAN.network)
    assert isinstance(network, ResUNet) and network.features == (4, 8) and network.out_channels == 20


def test_inference_takes_the_whole_field_of_view_unless_slices_are_resized() -> None:
    assert PLAN.inference_size is None
    assert replace(PLAN, in_plane_mode="central_half", spacing_mm=None).inference_size == (208, 112)


@pytest.mark.parametrize(("field", "value"), [
    ("spacing_mm", -1), ("spacing_mm", "1.5"), ("slice_size", [208]), ("slice_size", [0, 4]), ("percentiles", [99, 1]),
    ("unannotated", [20]), ("unannotated", 1), ("in_plane_mode", "other"), ("network", {"features": [4]}),
])  # fmt: skip
def test_a_wrong_value_names_its_field_and_the_file(field: str, value: object, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**PLAN.to_dict(), field: value}))
    with pytest.raises(PlanError, match=rf"plan.json: '{field}' is"):
        read_plan(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "other"}, "not a plan"),
        ({"version": 2}, "version 2"),
        ({"colour": "red"}, r"unknown fields \['colour'\]"),
    ],
)
def test_another_file_version_or_field_is_refused(change: dict, words: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps({**PLAN.to_dict(), **change}))
    with pytest.raises(PlanError, match=words):
        read_plan(tmp_path / "plan.json")


def test_weights_of_another_plan_keep_theirs(tmp_path: Path) -> None:
    write_plan(tmp_path, PLAN)
    write_plan(tmp_path, replace(PLAN, spacing_mm=1.0))  # no weights yet
    (tmp_path / "model.pt").write_bytes(b"weights")
    with pytest.raises(PlanError, match=r"spacing_mm is 2.0, of the weights 1.0"):
        write_plan(tmp_path, replace(PLAN, spacing_mm=2.0))
    assert read_plan(tmp_path / "plan.json").spacing_mm == 1.0


def weights_in(folder: Path) -> Path:
    write_plan(folder, PLAN)
    (folder / "model.pt").write_bytes(b"weights")
    return folder / "model.pt"


def test_training_from_weights_that_see_other_pixels_is_refused_unless_asked_for(tmp_path: Path) -> None:
    weights = weights_in(tmp_path)
    check_same_pixels(replace(PLAN, slice_size=(64, 32), unannotated=()), weights)  # cropping changes no pixel
    check_same_pixels(PLAN, None)
    other = Anatomy(MRSPINESEG.structures[:2])
    for fine in (replace(PLAN, spacing_mm=0.6), replace(PLAN, percentiles=(1, 99)), Plan(other, (), 1.5)):
        with pytest.raises(PlanError, match=r"of the weights .*finetune_other_geometry"):
            check_same_pixels(fine, weights)
        check_same_pixels(fine, weights, allow_other=True)


@pytest.mark.parametrize("allow_other", [False, True])
def test_weights_that_are_not_there_are_told_with_the_folder_that_the_path_starts_in(
    allow_other: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = (
        rf"finetune_from is bundle: bundle is not there, looked for from {re.escape(str(tmp_path))}; .*the whole path"
    )
    with pytest.raises(PlanError, match=told):
        check_same_pixels(PLAN, "bundle", allow_other)
    (tmp_path / "bundle").mkdir()
    with pytest.raises(PlanError, match=r"model\.pt is not there"):
        check_same_pixels(PLAN, "bundle", allow_other)


def test_weights_without_a_plan_and_no_weights_are_told(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"weights")
    with pytest.raises(PlanError, match=r"has no plan.json beside it"):
        plan_of(tmp_path / "model.pt")
    with pytest.raises(PlanError, match=r"no.pt: no such file"):
        plan_of([tmp_path / "no.pt", tmp_path / "neither.pt"])


def test_an_evaluation_at_another_spacing_is_refused() -> None:
    check_unchanged(PLAN, 1.5, [208, 112], "spacing")
    with pytest.raises(PlanError, match=r"evaluation at another geometry .*spacing_mm is 0.6, of the weights 1.5"):
        check_unchanged(PLAN, 0.6, [208, 112], "spacing")


def test_the_released_weights_have_their_plan() -> None:
    plan = plan_of(find_bundle_root() / "models" / "model.pt")
    assert (plan.spacing_mm, plan.slice_size, plan.unannotated) == (1.0, (320, 192), ())
    assert plan.anatomy.names == MRSPINESEG.names and plan.activation is None


@pytest.mark.parametrize(
    ("code", "change"),
    [(0, {"long_name": ""}), (0, {"order": 99}), (0, {"kind": "other"}), (2, {"snomed": 123})],
)
def test_finished_weights_open_with_a_table_of_classes_that_a_persons_file_may_not_have(code: int, change: dict):
    content = json.loads(json.dumps(PLAN.to_dict()))
    content["anatomy"]["structures"][code].update(change)
    opened = Plan.from_dict(content, "plan.json")
    assert opened.anatomy.to_dict() == content["anatomy"]
    assert len(opened.anatomy.prompts) == 20 and opened.anatomy[2].standard_code[0] in ("49668003", "123")
    with pytest.raises(ValueError, match=next(iter(change))):
        load_anatomy(content["anatomy"])
    content["anatomy"]["structures"][1].update(order=3)  # as another one: levels cannot be numbered
    with pytest.raises(PlanError, match="all have order 3"):
        Plan.from_dict(content, "plan.json")
