"""What would fail hours later fails before training starts (issue, section 10)."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.assembly.finetune import seen_by
from cps4_monai.data.datalist import Entry, load_datalist
from cps4_monai.data.label_ownership import write_owned_label
from cps4_monai.data.leaks import LeakError, voxel_digest
from cps4_monai.preflight import (
    check_data,
    check_images,
    check_output_dir,
    check_prompt_map,
    check_ramp,
    check_reviewed,
    check_schedule,
    check_unseen,
)


def message(run: Callable, *arguments: object, **settings: object) -> str:
    """What the user is told when a run is refused."""
    with pytest.raises(ValueError) as caught:
        run(*arguments, **settings)
    return str(caught.value)


def test_the_output_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    assert check_output_dir(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert not list((tmp_path / "a" / "b").iterdir())


def test_an_unwritable_output_and_a_full_disk_name_the_setting(run_tiny: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    text = message(run_tiny, "training_stage1", tmp_path / "file" / "run")
    assert "output_dir" in text and "cannot be written" in text
    text = message(run_tiny, "training_stage1", tmp_path / "run", min_free_gib=1e9)
    assert "GiB free" in text and "lower min_free_gib" in text


def test_a_gpu_that_is_not_there(run_tiny: Callable, tmp_path: Path) -> None:
    assert "set device to auto or cpu" in message(run_tiny, "training_stage1", tmp_path, device_name="cuda:77")


def test_a_stage_1_checkpoint_of_other_prompts_or_classes(
    run_tiny: Callable, tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    checkpoint = str(tiny_run / "stage1" / "prompted_vision.pt")
    text = message(run_tiny, "training_stage2", tmp_path, stage1_checkpoint=checkpoint, prompt_template="CT of {name}")
    assert "prompt" in text and "CT of background" in text and "run training_stage1 again" in text
    table = MRSPINESEG.to_dict()
    table["structures"][1]["name"] = "sacrum"
    text = message(
        run_tiny,
        "training_stage2",
        tmp_path,
        stage1_checkpoint=checkpoint,
        anatomy_source=table,
        **edited(tiny_data, tmp_path, lambda content: content.pop("structures")),
    )
    assert "classes" in text and "anatomy" in text
    text = message(run_tiny, "training_stage2", tmp_path, stage1_checkpoint=str(tmp_path / "no.pt"))
    assert "does not exist" in text and "stage1_checkpoint" in text


def edited(tiny_data: Path, folder: Path, change: Callable[[dict], None]) -> dict[str, str]:
    content = json.loads((tiny_data / "datalist.json").read_text())
    change(content)
    (folder / "datalist.json").write_text(json.dumps(content))
    return {"datalist": str(folder / "datalist.json")}


def test_no_labeled_and_no_unlabeled_subject(run_tiny: Callable, tiny_data: Path, tiny_run: Path, tmp_path: Path):
    def only(labeled: bool) -> Callable[[dict], None]:
        return lambda c: c.update(training=[e for e in c["training"] if e["labeled"] == labeled])

    text = message(run_tiny, "training_stage1", tmp_path / "a", **edited(tiny_data, tmp_path, only(False)))
    assert "no labeled subject" in text and "labeled share" in text
    checkpoint = {"stage1_checkpoint": str(tiny_run / "stage1" / "prompted_vision.pt")}
    datalist = edited(tiny_data, tmp_path, only(True))
    text = message(run_tiny, "training_stage2", tmp_path / "b", **datalist, **checkpoint)
    assert "no unlabeled subject" in text and "'supervised'" in text
    run_tiny("training_stage2", tmp_path / "c", ("supervised",), **datalist)


def test_no_unlabeled_subject_is_told_before_stage_1_trains_where_stage_2_follows(
    run_tiny: Callable, tiny_data: Path, tmp_path: Path
) -> None:
    def labeled_alone(content: dict) -> None:
        content.update(training=[e for e in content["training"] if e["labeled"]])

    datalist = edited(tiny_data, tmp_path, labeled_alone)
    text = message(run_tiny, "run", tmp_path / "run", **datalist)
    assert "no unlabeled subject" in text and "'supervised'" in text and not (tmp_path / "run" / "stage1").exists()
    run_tiny("run", tmp_path / "supervised", ("supervised",), **datalist)
    run_tiny("training_stage1", tmp_path / "stage1", **datalist)


def test_a_copied_image_on_two_sides_stops_training_before_it_starts(run_tiny, tiny_data, tmp_path):
    def copy(content: dict) -> None:
        shutil.copy(tiny_data / content["training"][0]["image"], tmp_path / "sub-900_T2w.nii.gz")
        label = str(tiny_data / content["test"][0]["label"])
        content["test"].append({"image": str(tmp_path / "sub-900_T2w.nii.gz"), "label": label, "subject": "sub-900"})

    text = message(run_tiny, "training_stage1", tmp_path / "run", **edited(tiny_data, tmp_path, copy))
    assert "the same image content is on two sides" in text and "sub-900" in text
    assert not (tmp_path / "run" / "stage1").exists()


def without_the_lowest_disc(content: dict) -> None:
    """Labels as if no labeled subject showed class 11."""
    for entry in content["training"]:
        entry["classes"] = [code for code in entry.get("classes", []) if code != 11]


def test_classes_that_no_labeled_subject_shows_are_named(run_tiny, tiny_data_of, tmp_path, capsys):
    folder = tiny_data_of(tmp_path / "data", lambda codes: np.where(codes == 11, 0, codes))
    data = {"datalist": str(folder / "datalist.json"), "dataset_dir": str(folder)}
    run_tiny("training_stage1", tmp_path / "run", **data)
    assert "WARNING - datalist: class 11 (L5/S): no labeled subject shows it" in capsys.readouterr().out


def test_structures_that_were_added_after_the_datalist_was_made_are_named(run_tiny, tiny_data, tmp_path):
    """By its record no labeled subject shows the disc: its prompt would be left out of the map, without a word."""
    text = message(
        run_tiny, "training_stage1", tmp_path / "run", **edited(tiny_data, tmp_path, without_the_lowest_disc)
    )
    assert "shows 11 (L5/S), and the 'classes' of sub-" in text and "make the datalist again" in text
    assert not (tmp_path / "run" / "stage1").exists()


def test_digests_are_kept_and_read_anew_only_where_a_file_changed(tiny_data, tmp_path, monkeypatch):
    path = edited(tiny_data, tmp_path, without_the_lowest_disc)["datalist"]
    datalist = load_datalist(path, tiny_data)
    memory = tmp_path / "digests.json"
    first = check_data(datalist, memory=memory)
    kept = json.loads(memory.read_text())
    assert len(kept) == 10 and "class 11 (L5/S): no labeled subject shows it, so it cannot be learned" in first

    def unexpected(path: Path) -> str:
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr("cps4_monai.preflight.datalist.voxel_digest", unexpected)
    assert check_data(datalist, memory=memory) == first
    key = next(iter(kept))
    size, changed, version, digest = kept[key]
    for older in ([size, changed + 1, version, digest], [size, changed, digest]):  # a file; the way it is digested
        memory.write_text(json.dumps({**kept, key: older}))
        with pytest.raises(AssertionError, match="was read again"):
            check_data(datalist, memory=memory)


def test_digests_of_another_run_are_kept_and_nothing_new_writes_nothing(tiny_data, tmp_path, monkeypatch):
    datalist, memory = load_datalist(tiny_data / "datalist.json"), tmp_path / "digests.json"

    def after_another_run(path: Path) -> str:
        monkeypatch.undo()
        check_images({"test": datalist.test}, memory)
        return voxel_digest(path)

    monkeypatch.setattr("cps4_monai.preflight.datalist.voxel_digest", after_another_run)
    check_images({"training": datalist.training}, memory)
    kept = json.loads(memory.read_text())
    both = [entry.image for entry in (*datalist.training, *datalist.test)]
    assert {path: row[-1] for path, row in kept.items()} == {str(p.absolute()): voxel_digest(p) for p in both}
    written = memory.stat()
    check_images({"test": datalist.test}, memory)
    assert (memory.stat().st_ino, memory.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)


def test_a_remembered_leak_is_still_a_leak(tiny_data, tmp_path):
    datalist = load_datalist(tiny_data / "datalist.json")
    memory = tmp_path / "digests.json"
    check_data(datalist, memory=memory)
    kept = json.loads(memory.read_text())
    train, test = (str(side[0].image.absolute()) for side in (datalist.training, datalist.test))
    kept[train][-1] = kept[test][-1]
    memory.write_text(json.dumps(kept))
    with pytest.raises(LeakError, match="image content"):
        check_data(datalist, memory=memory)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_epochs": 0}, "max_epochs is 0"),
        ({"val_interval": 0}, "val_interval is 0"),
        ({"iterations_per_epoch": 0}, "iterations_per_epoch is 0"),
        ({"batch_sizes": {"batch_size_labeled": 0}}, "batch_size_labeled is 0"),
        ({"early_stopping_patience": 0}, "early_stopping_patience is 0"),
        ({"accumulation_steps": 0}, "accumulation_steps is 0"),
        ({"decode_first_epoch": 11}, "no epoch would have decoded pseudo-labels"),
    ],
)
def test_settings_that_leave_no_product_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_schedule("stage 2", **{"max_epochs": 10, "val_interval": 5, **settings})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"val_interval": 11}, "validated once, after the last epoch"),
        ({"early_stopping_patience": 2}, "cannot be stopped early"),
        ({"val_interval": 1, "early_stopping_patience": 3, "decode_first_epoch": 5}, "may end the run at epoch 4"),
    ],
)
def test_settings_that_leave_a_part_unused_are_said(settings: dict, words: str) -> None:
    (warning,) = check_schedule("stage 2", **{"max_epochs": 10, "val_interval": 5, **settings})
    assert words in warning


def test_settings_that_fit_are_quiet() -> None:
    assert check_schedule("stage 1", 10, 5, 100, {"batch": 1}, 1, 1, 10) == ()


@pytest.mark.parametrize(
    ("setting", "of_method", "words"),
    [
        (400, 0, "ramp_up_updates is 400, and BCP does not read it"),
        (400, 30, "ramp_up_updates is 400, and BCP takes 30"),
        (40, 40, "ramp_up_updates is 40, and there are 40 optimiser steps"),
    ],
)
def test_a_ramp_that_is_not_read_or_never_ends_is_said(setting: int, of_method: int, words: str) -> None:
    (warning,) = check_ramp("stage 2", setting, "BCP", of_method, 40)
    assert words in warning


def test_a_ramp_that_ends_within_the_run_is_quiet() -> None:
    assert check_ramp("stage 2", 39, "CPS4", 39, 40) == () == check_ramp("stage 2", 0, "UCMT", 0, 40)
    assert check_ramp("stage 2", 99, "CPS4", 99, None) == ()


@pytest.mark.parametrize(
    ("method", "said"), [("bcp", "BCP does not read it"), ("ucmt", "UCMT does not read it"), ("cps4", "")]
)
def test_a_size_overlay_s_ramp_stops_no_method_and_is_said_where_it_does_nothing(
    method: str, said: str, run_tiny: Callable, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    stage1 = str(tiny_run / "stage1" / "prompted_vision.pt")
    given = {"ramp_up_updates": 1, "stage1_checkpoint": stage1}
    workflow = run_tiny("training_stage2", tmp_path, (f"methods/{method}",), run=False, **given)
    workflow.parser.get_parsed_content("train#trainer")
    told = [line for line in capsys.readouterr().out.splitlines() if "ramp_up_updates" in line]  # the bundle's log
    assert len(told) == bool(said) and said in "".join(told)


@pytest.mark.parametrize(("dice", "said"), [(None, False), (0.1, False), (0.0996, True), (0.0, True)])
def test_a_prompt_map_that_knows_nothing_is_said(dice: float | None, said: bool) -> None:
    told = check_prompt_map("stage 2", "runs/p.pt", dice)
    assert len(told) == said and all(f"runs/p.pt has a Dice of {dice:.3f}" in warning for warning in told)


def test_stage_2_knows_the_score_of_its_stage_1(
    run_tiny: Callable, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tiny_run / "stage1" / "prompted_vision.pt"
    with (tiny_run / "stage1" / "metrics.csv").open() as file:
        scores = [float(line["value"]) for line in csv.DictReader(file) if line["name"] == "prompt_map_dice"]
    content = torch.load(path, weights_only=True)
    assert content["validated"] == {"prompt_map_dice": pytest.approx(max(scores), abs=1e-6)}
    torch.save({**content, "validated": {"prompt_map_dice": 0.01}}, tmp_path / "p.pt")
    workflow = run_tiny("training_stage2", tmp_path, run=False, stage1_checkpoint=str(tmp_path / "p.pt"))
    workflow.parser.get_parsed_content("train#trainer")
    assert "p.pt has a Dice of 0.010" in capsys.readouterr().out


def started_from(run: Path, folder: Path, unannotated: tuple[int, ...] = ()) -> str:
    """Weights of a run that know all classes but these."""
    shutil.copytree(run / "stage2", folder)
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps({**plan, "unannotated": list(unannotated)}))
    return str(folder / "model.pt")


def without_classes(*codes: int, unannotated: tuple[int, ...] = ()) -> Callable[[dict], None]:
    def change(content: dict) -> None:
        content["unannotated"] = list(unannotated)
        for entry in content["training"]:
            entry["classes"] = [code for code in range(1, 20) if code not in codes]

    return change


@pytest.mark.parametrize(
    ("unknown", "unannotated", "named"),
    [((), (), "7 (T12), 16 (T12/L1)"), ((16,), (), "7 (T12)"), ((), (7, 16), ""), ((7,), (16,), "")],
)
def test_classes_of_the_weights_that_the_new_labels_lack_are_said(
    unknown: Any,
    unannotated: Any,
    named: str,
    run_tiny: Any,
    tiny_data_of: Any,
    tiny_run: Path,
    tmp_path: Path,
    capsys: Any,
) -> None:
    folder = tiny_data_of(tmp_path / "data", lambda codes: np.where(np.isin(codes, [7, 16]), 0, codes))
    datalist = edited(folder, tmp_path, without_classes(7, 16, unannotated=unannotated)) | {"dataset_dir": str(folder)}
    weights = started_from(tiny_run, tmp_path / "weights", unknown)
    workflow = run_tiny("training_stage2", tmp_path, ("supervised",), run=False, **datalist, finetune_from=weights)
    workflow.parser.get_parsed_content("check_data")
    (told,) = [line for line in capsys.readouterr().out.splitlines() if "unlearn" in line] or [""]
    assert bool(told) == bool(named)
    if named:
        assert f"starts from {weights}, and no labeled subject shows its classes {named}: they are background" in told
        assert "mark them 255" in told and "--unannotated" in told


def test_scans_of_a_training_are_known_by_their_label_maps_and_patients_by_their_names(tmp_path: Path) -> None:
    def entry(name: str, content: bytes) -> Entry:
        path = tmp_path / f"{name}_dseg.nii.gz"
        path.write_bytes(content)
        return Entry(tmp_path / f"{name}.nii.gz", path, name)

    trained, fresh, session = entry("a", b"a"), entry("b", b"b"), entry("sub-4_ses-2", b"c")
    seen = seen_by([trained, Entry(tmp_path / "x.nii.gz", None, "sub-4_ses-1")], [])
    (tmp_path / "finetune").mkdir()
    again = seen_by([entry("z", b"z")], [])
    starts = {"starts": [{"settings": seen}, {"settings": again}]}
    (tmp_path / "finetune" / "run.json").write_text(json.dumps(starts))
    folders = [tmp_path / "stage2", tmp_path / "finetune"]
    with pytest.raises(ValueError, match=r"1 of 2 test scans \(a\) are known to this run"):
        check_unseen([trained, fresh], "test", folders)
    assert check_unseen([trained], "validation", folders) == check_unseen([fresh], "test", folders) == ()
    (told,) = check_unseen([fresh, session], "test", folders)
    assert told.startswith("names of 1 of the patients (sub-4) are those of patients that the run was trained on")


def test_label_maps_that_no_person_stands_for_any_more_are_named(tmp_path: Path) -> None:
    def entry(name: str, record: dict) -> Entry:
        path = tmp_path / f"{name}_dseg.nii.gz"
        write_owned_label(path, name.encode(), record)
        return Entry(tmp_path / f"{name}.nii.gz", path, name)

    accepted = entry("a", {"Review": {"State": "accepted"}})
    drawn = Entry(tmp_path / "b.nii.gz", tmp_path / "b_dseg.nii.gz", "b")
    drawn.label.write_bytes(b"b")
    assert check_reviewed("stage 2", [accepted, drawn, Entry(drawn.image, None, "c")]) == ()
    since = [entry("d", {"Review": {"State": "wrong"}}), entry("e", {})]
    (told,) = check_reviewed("stage 2", [accepted, drawn, *since, *since])
    assert told.startswith("2 label maps (d_dseg.nii.gz, e_dseg.nii.gz) are of this program")
    edited = since[1]
    edited.label.write_bytes(b"by hand")
    assert check_reviewed("stage 2", [edited]) == (), "as for cps4 datalist"


def test_a_training_from_scratch_unlearns_nothing(run_tiny: Any, tiny_data_of: Any, tmp_path: Path, capsys: Any):
    folder = tiny_data_of(tmp_path / "data", lambda codes: np.where(codes == 7, 0, codes))
    datalist = {"datalist": str(folder / "datalist.json"), "dataset_dir": str(folder)}
    workflow = run_tiny("training_stage2", tmp_path, ("supervised",), run=False, **datalist)
    workflow.parser.get_parsed_content("check_data")
    said = capsys.readouterr().out
    assert "7 (T12)" in said and "no labeled subject shows" in said and "unlearn" not in said


def test_weights_that_are_not_there_are_told_before_slices_are_made(run_tiny: Any, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for run_id in ("training_stage2", "training_stage1"):
        text = message(run_tiny, run_id, tmp_path, finetune_from="bundel", cache_dir=str(cache))
        assert "finetune_from is bundel" in text and "cps4 train finetune" in text
    assert not list(cache.rglob("*.npy"))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"views": "weakstrong"}, "views is 'weakstrong'; expected one of"),
        ({"pictured_structures": ["L5", "L9"]}, "pictured_structures has ['L9'], which the anatomy does not know"),
    ],
)
def test_views_and_pictures_are_checked_before_stage_1(
    run_tiny: Callable, tmp_path: Path, setting: dict, words: str
) -> None:
    assert words in message(run_tiny, "run", tmp_path, **setting)
    assert not (tmp_path / "stage1").exists()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"learning_rate": -1.0}, "Invalid learning rate: -1.0"),
        ({"ema_decay": 2.0}, "ema_decay"),
        ({"features": [16, 0]}, "features"),
        ({"train#method#text_wieght": 0.5}, "text_wieght"),
        ({"gradient_clip_norm": 0}, "stage 2: gradient_clip_norm is 0; expected a positive number"),
        ({"train#lr_scheduler#gama": 0.5}, "gama"),
    ],
)
def test_what_stage_2_cannot_be_made_of_is_told_before_stage_1(
    run_tiny: Callable, tmp_path: Path, setting: dict, words: str
) -> None:
    assert words in message(run_tiny, "run", tmp_path, **setting)
    assert not (tmp_path / "stage1").exists()


def test_an_unlabeled_scan_that_cannot_be_used_is_told_before_stage_1(
    run_tiny: Callable, tiny_data: Path, tmp_path: Path
) -> None:
    def blank(content: dict) -> None:
        entry = next(e for e in content["training"] if not e["labeled"])
        image = nib.load(tiny_data / entry["image"])
        nib.save(nib.Nifti1Image(np.zeros(image.shape, np.float32), image.affine), tmp_path / "blank.nii.gz")
        entry["image"] = str(tmp_path / "blank.nii.gz")

    datalist = edited(tiny_data, tmp_path, blank)
    run_tiny("training_stage1", tmp_path / "stage1_alone", **datalist)
    text = message(run_tiny, "run", tmp_path / "run", **datalist)
    assert "blank.nii.gz" in text and not (tmp_path / "run" / "stage1").exists()


def test_stage_1_of_both_stages_starts_as_it_does_by_itself(run_tiny: Callable, tmp_path: Path) -> None:
    both = run_tiny("run", tmp_path, run=False).parser
    steps = both["run"]
    for step in steps[: steps.index("@training_stage1")]:
        both.get_parsed_content(step.removeprefix("@"))
    started = {name: value.clone() for name, value in both.get_parsed_content("stage1#network").state_dict().items()}
    alone = run_tiny("training_stage1", tmp_path, run=False).parser.get_parsed_content("stage1#network").state_dict()
    assert started.keys() == alone.keys() and all(torch.equal(started[name], alone[name]) for name in alone)


def test_schedules_of_both_stages_are_checked_before_stage_1(run_tiny: Callable, tmp_path: Path) -> None:
    text = message(run_tiny, "run", tmp_path, overlays=("methods/cps4_plus",), decode_first_epoch=9)
    assert "stage 2: decode_first_epoch is 9, max_epochs 1" in text and not (tmp_path / "stage1").exists()


def test_decoded_labels_of_an_anatomy_without_levels_are_refused_before_stage_1(
    run_tiny: Callable, tmp_path: Path
) -> None:
    table = MRSPINESEG.to_dict()
    for structure in table["structures"]:
        structure["order"] = None
    path = tmp_path / "unordered.json"
    path.write_text(json.dumps(table))
    run = tmp_path / "run"
    for method in ("cps4_plus", "mt_decoded"):
        text = message(run_tiny, "run", run, overlays=(f"methods/{method}",), anatomy_source=str(path))
        assert "no labeled structure of the anatomy (S, L5, " in text and not (run / "stage1").exists()


def test_validation_labels_without_a_structure_are_refused(run_tiny: Callable, tiny_data: Path, tmp_path: Path) -> None:
    def empty(content: dict) -> None:
        content["unannotated"] = list(range(1, 20))

    text = message(run_tiny, "training_stage2", tmp_path, ("supervised",), **edited(tiny_data, tmp_path, empty))
    assert "annotated structure" in text or "unannotated" in text
