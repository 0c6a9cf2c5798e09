"""What file names, headers and data sets of other tools get: a check for each of their rows of the inputs page."""

from __future__ import annotations

import json
import logging
import os
import zlib
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner

from cps4_monai.commands.datalist import datalist
from cps4_monai.commands.report import report
from cps4_monai.data.datalist import DatalistError, LeakError, load_datalist

row = pytest.mark.row


def same_labels(inputs, warning: str, change, **saved) -> None:
    inputs.save(change=change, **saved)
    inputs.segmented()
    np.testing.assert_array_equal(inputs.codes(), inputs.scan.label)
    assert warning in inputs.warnings()


def make_data(folder, names, label=lambda name: name.replace("_T2w", "_dseg")):
    """Scans with label maps, different in every voxel."""
    for name in names:
        for path, low in ((folder / name, 20), (folder / label(name), 0)):
            path.parent.mkdir(parents=True, exist_ok=True)
            values = np.random.default_rng(zlib.crc32(name.encode())).integers(low, low + 20, (2, 4, 5))
            nib.save(nib.Nifti1Image(values.astype(np.int16 if low else np.uint8), np.eye(4)), path)


def listed(folder, *more: str):
    """What `cps4 datalist` says, and the datalist."""
    out = folder / "d.json"
    result = CliRunner().invoke(datalist, [str(folder), "-o", str(out), *more])
    assert result.exit_code == 0, result.output
    return result.output, load_datalist(out)


def people(made) -> dict[str, str]:
    return {e.subject: e.patient for side in made.sides.values() for e in side}


@row("sform set, spacing in the header 0, negative or not finite")
def test_sform_alone(inputs):
    def change(header):
        header["pixdim"][1:4] = 0
        header["qform_code"] = 0

    same_labels(inputs, "that of the sform was used", change)


@row("sform set but all zeros, qform usable")
def test_qform_alone(inputs):
    def change(header):
        header["srow_x"] = header["srow_y"] = header["srow_z"] = 0

    same_labels(inputs, "the qform was used", change)


@row("header in metres or micrometres")
def test_other_units(inputs):
    for code, factor in ((1, 1e-3), (3, 1e3)):

        def change(header, code=code):
            header["xyzt_units"] = code

        same_labels(inputs, "converted", change, affine=np.diag([factor] * 3 + [1.0]) @ inputs.scan.affine)
        volume = next(s["volume_ml"] for s in inputs.record()["Structures"] if s["name"] == "L5")
        expected = (inputs.scan.label == 2).sum() * abs(np.linalg.det(inputs.scan.affine[:3, :3])) / 1000
        assert volume == pytest.approx(expected, rel=1e-3)
        for path in inputs.out.iterdir():
            path.unlink()


@row("4-D whose time axis has length 0")
def test_no_time(inputs):
    def change(header):
        header["dim"] = [4, *inputs.scan.image.shape, 0, 1, 1, 1]

    same_labels(inputs, "", change)
    assert inputs.mask().shape == inputs.scan.label.shape


@row("endings in capitals (`.NII.GZ`)")
def test_capitals(inputs, tmp_path):
    inputs.save("s.nii.gz").rename(inputs.folder / "s.NII.GZ")
    inputs.segmented()
    np.testing.assert_array_equal(inputs.codes(), inputs.scan.label)
    make_data(tmp_path / "data", [f"sub-{n}_T2w.nii.gz" for n in range(4)])
    for path in (tmp_path / "data").iterdir():
        path.rename(path.with_name(path.name.replace(".nii.gz", ".NII.GZ")))
    assert len(people(listed(tmp_path / "data")[1])) == 4


@row("BIDS `ses-`, `acq-`, `run-` of one subject")
def test_entities(tmp_path):
    more = ("ses-1", "ses-2_acq-sag", "ses-2_acq-ax", "run-2")
    make_data(tmp_path, [f"sub-{n}/anat/sub-{n}_{m}_T2w.nii.gz" for n in range(4) for m in more])
    _, made = listed(tmp_path, "--val", "1", "--test", "1")
    assert people(made) == {f"sub-{n}_{m}": f"sub-{n}" for n in range(4) for m in more}
    assert [len({e.patient for e in side}) for side in made.sides.values()] == [2, 1, 1]
    assert all(e.label is not None and e.label.name == f"{e.subject}_dseg.nii.gz" for e in made.training)


@row("equal file names in several folders (`p1/t2.nii.gz`, `p2/t2.nii.gz`)")
def test_a_folder_for_each_patient(tmp_path):
    names = [f"p{n}/{m}.nii.gz" for n in range(4) for m in ("t1", "t2")]
    make_data(tmp_path, names, label=lambda name: name.replace(".nii", "_seg.nii"))
    told, made = listed(tmp_path, "--val", "1", "--test", "1")
    assert people(made) == {f"p{n}/{m}": f"p{n}" for n in range(4) for m in ("t1", "t2")}
    assert "8 scans share their file names" in told and "count as 4 patients" in told
    assert [len(side) for side in made.sides.values()] == [4, 2, 2]


@row("second channel of nnU-Net's layout (`imagesTr/A_0001.nii.gz`)")
def test_second_channel(tmp_path):
    names = [f"imagesTr/A{n}_000{c}.nii.gz" for n in range(4) for c in (0, 1)]
    make_data(tmp_path, names, label=lambda name: f"labelsTr/{name[9:11]}.nii.gz")
    told, made = listed(tmp_path, "--val", "1", "--test", "1")
    assert people(made) == {f"A{n}": f"A{n}" for n in range(4)}
    assert all(e.image.name.endswith("_0000.nii.gz") for side in made.sides.values() for e in side)
    assert "4 files of imagesTr are further channels" in told and "A2_0001.nii.gz" in told


@row("second channel beside the first outside of these folders (`A_0001` and `A_0000`)")
def test_second_channel_elsewhere(tmp_path):
    names = [f"A{n}_000{c}.nii.gz" for n in range(4) for c in (0, 1)]
    make_data(tmp_path / "channels", names, label=lambda name: f"{name[:2]}_seg.nii.gz")
    told, made = listed(tmp_path / "channels", "--val", "1", "--test", "1")
    assert people(made) == {f"A{n}": f"A{n}" for n in range(4)}
    assert "4 files are further channels" in told and "A2_0001.nii.gz" in told
    by_hand = {"training": ["A0_0000.nii.gz", "A1_0000.nii.gz"], "test": ["A0_0001.nii.gz"]}
    (tmp_path / "channels" / "d.json").write_text(json.dumps(by_hand))
    with pytest.raises(LeakError, match="same patient"):
        load_datalist(tmp_path / "channels" / "d.json")
    numbered = [f"case_000{n}.nii.gz" for n in range(4)]
    make_data(tmp_path / "patients", numbered, label=lambda name: name.replace(".nii", "_seg.nii"))
    assert len(set(people(listed(tmp_path / "patients")[1]).values())) == 4


@row("names that end in a date (`p1_20200131`, `p1_20210207`)")
def test_dates(tmp_path):
    names = [f"p{n}_{year}0131.nii.gz" for n in range(4) for year in (2020, 2021)]
    make_data(tmp_path, names, label=lambda name: name.replace(".nii", "_seg.nii"))
    told, made = listed(tmp_path, "--val", "1", "--test", "1")
    assert people(made) == {f"p{n}_{year}0131": f"p{n}" for n in range(4) for year in (2020, 2021)}
    assert "8 names end in a date and count as 4 patients" in told
    assert [len(side) for side in made.sides.values()] == [4, 2, 2]


@row("names that differ in contrast, sequence or plane alone (`1_t1`, `1_t2`, `1_t2_SPACE`, `p1-sag-stir`)")
def test_sequences(tmp_path):
    names = [f"{n}_{sequence}.nii.gz" for n in range(4) for sequence in ("t1", "t2_SPACE")]
    make_data(tmp_path, names, label=lambda name: name.replace(".nii", "_seg.nii"))
    told, made = listed(tmp_path, "--val", "1", "--test", "1")
    assert people(made) == {name.removesuffix(".nii.gz"): name[0] for name in names}
    assert "8 names end in words for the sequence and count as 4 patients" in told
    assert [len(side) for side in made.sides.values()] == [4, 2, 2]


@row("label map of another tool: `_T2w_dseg`, `_T2w_label-spine_dseg`, `seg.nii.gz` beside one scan")
def test_labels_of_other_tools(tmp_path):
    forms = ("{}_T2w_dseg.nii.gz", "{}_dseg.nii.gz", "{}_T2w_label-spine_dseg.nii.gz")
    for number, form in enumerate(forms):
        make_data(
            tmp_path / "bids",
            [f"sub-{number}_T2w.nii.gz"],
            lambda name, form=form: "derivatives/x/" + form.format(name[:5]),
        )
    make_data(tmp_path / "plain", [f"p{n}/t2.nii.gz" for n in range(3)], lambda name: f"{name[:2]}/seg.nii.gz")
    for folder in ("bids", "plain"):
        _, made = listed(tmp_path / folder, "--val", "1", "--test", "1")
        assert [len(side) for side in made.sides.values()] == [1, 1, 1] and len(made.labeled) == 1


@row("label map that belongs to no scan, or to several equally well")
def test_orphans(tmp_path):
    make_data(tmp_path, [f"sub-{n}_T2w.nii.gz" for n in range(3)])
    make_data(tmp_path, ["sub-9_dseg.nii.gz"])
    (tmp_path / "sub-1_seg.nii.gz").write_bytes((tmp_path / "sub-1_dseg.nii.gz").read_bytes())
    for name in ("a", "b"):
        make_data(tmp_path, [f"{name}/sub-7_T2w.nii.gz"], lambda name: "c/sub-7_dseg.nii.gz")
    told, _ = listed(tmp_path)
    warnings = {line for line in told.splitlines() if line.startswith("warning")}
    lone = tmp_path / "lone"
    make_data(lone, ["p1/mr/t2.nii.gz", "p2/mr/t2.nii.gz"], lambda name: name.replace("mr/t2", "seg/t2_seg"))
    refused = CliRunner().invoke(datalist, [str(lone), "-o", str(lone / "d.json")])
    assert refused.exit_code == 1 and "no scan has a label map (2 label maps belong to no scan" in refused.output
    for words, name in (
        ("belong to no scan", "sub-9_dseg"),
        ("belong to no scan", "sub-7_dseg"),
        ("not called dseg", "sub-1_seg"),
    ):
        assert [w for w in warnings if words in w and name in w], told


@row("file name that is not UTF-8, in any locale")
def test_other_encodings(inputs):
    odd = os.fsdecode(b"M\xfcller")
    inputs.save()
    try:
        (inputs.folder / f"{odd}.nii.gz").write_bytes((inputs.folder / "s.nii.gz").read_bytes())
    except OSError:
        pytest.skip("this file system refuses names that are not UTF-8")
    assert inputs.segment(qc=True).exit_code == 0
    assert sorted(r["scan"] for r in inputs.rows("scans.csv")) == ["M\\xfcller", "s"]
    assert "M\\xfcller" in (inputs.out / "report.html").read_text("utf-8")
    np.testing.assert_array_equal(inputs.codes(odd), inputs.scan.label)
    assert (inputs.out / f"{odd}_qc.png").exists()
    again = CliRunner().invoke(report, [str(inputs.out)])  # its scan is found again by the JSON
    assert again.exit_code == 0 and not [r for r in inputs.rows("scans.csv") if "not found" in r["warnings"]]


@row("subfolders of the scans")
def test_mirrored(inputs, tmp_path):
    from cps4_monai.evaluation.matching import match_folder
    from cps4_monai.transforms.label_saving import SaveLabelsd

    for name in ("p1", "p2"):
        inputs.save(f"{name}/t2.nii.gz")
        inputs.save(f"truth/{name}/seg.nii.gz", inputs.scan.label)
    inputs.segmented(inputs.folder)
    assert {r["scan"] for r in inputs.rows("scans.csv") if r["status"] == "done"} == {"p1/t2", "p2/t2"}
    cases = match_folder(inputs.out, inputs.folder / "truth").cases
    assert [(c.subject, c.pred and c.pred.parent.name) for c in cases] == [("p1", "p1"), ("p2", "p2")]
    saver = SaveLabelsd(output_dir=tmp_path / "plain", data_root_dir=inputs.folder)
    assert saver.label_path(inputs.folder / "p1/t2.nii.gz") == tmp_path / "plain/p1/t2_dseg.nii.gz"


@row("datalist with byte-order mark, or in UTF-16")
def test_encodings_of_datalists(tmp_path):
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "d.json").write_text(json.dumps({"test": ["ü.nii"]}), encoding=encoding)
        assert load_datalist(tmp_path / "d.json", check_files=False).test[0].image == tmp_path / "ü.nii"


@row("datalist with backslashes")
def test_windows_paths(tmp_path):
    path = tmp_path / "d.json"
    path.write_text(json.dumps({"test": [{"image": "p1\\t2.nii.gz"}]}))
    assert load_datalist(path, check_files=False).test[0].image == tmp_path / "p1" / "t2.nii.gz"
    path.write_text(json.dumps({"test": [{"image": "D:\\p1\\t2.nii.gz"}]}))
    with pytest.raises(DatalistError, match="drive letter"):
        load_datalist(path)


@row("datalist with `fold`")
def test_folds(tmp_path):
    (tmp_path / "d.json").write_text(json.dumps({"training": [{"image": "a.nii", "fold": 0}]}))
    assert "fold" in " ".join(load_datalist(tmp_path / "d.json", check_files=False).warnings)


@row("few labeled patients")
def test_few_patients(tmp_path):
    make_data(tmp_path, ["sub-1_T2w.nii.gz"])
    assert "training refuses this datalist" in listed(tmp_path)[0]
    make_data(tmp_path, ["sub-1_T2w.nii.gz", "sub-2_T2w.nii.gz"])
    told, made = listed(tmp_path)
    assert len(made.validation) == len(made.labeled) == 1 and "training refuses" not in told


@row("array in Python (`segment(array)`)")
def test_arrays(inputs):
    from cps4_monai import segment

    scan = inputs.scan
    result = segment(scan.image, affine=scan.affine, weights=inputs.bundle, device="cpu", qc=False)
    np.testing.assert_array_equal(result.labels, scan.label)
    with pytest.raises(TypeError, match="without affine"):
        segment(scan.image, weights=inputs.bundle, device="cpu")


@row("loader workers and little shared memory (`/dev/shm`)")
def test_shared_memory(tiny_data, tmp_path, monkeypatch, caplog):
    import shutil

    from cps4_monai.data.cache import SliceCache
    from cps4_monai.data.datasets import SliceDataset
    from cps4_monai.data.image_batches import ImageLoader
    from cps4_monai.data.in_plane import InPlane

    cache = SliceCache(tmp_path, InPlane(size=(32, 32), spacing_mm=4.0, mode="spacing"))
    dataset = SliceDataset(load_datalist(tiny_data / "datalist.json").labeled, cache)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=64 * 1024))
    with caplog.at_level(logging.WARNING):
        assert next(iter(ImageLoader(dataset, batch_size=8, num_workers=2)))["image"].shape[0] > 0
    assert "using 0" in caplog.text


@row("no home folder")
def test_no_home(monkeypatch):
    from pathlib import Path

    from cps4_monai.cache_folder import cache_folder

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("CPS4_CACHE_DIR", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert cache_folder().is_absolute()


@row("anatomy whose structures have no order")
def test_without_order(tmp_path):
    names = ("background", "cord", "canal")
    structures = [
        {"code": c, "name": n, "long_name": n, "kind": "other" if c else "background"} for c, n in enumerate(names)
    ]
    (tmp_path / "anatomy.json").write_text(json.dumps({"structures": structures}))
    label = np.zeros((5, 60, 60), np.uint8)
    (tmp_path / "masks").mkdir()
    nib.save(nib.Nifti1Image(label, np.diag([4.0, 1, 1, 1])), tmp_path / "masks/empty_dseg.nii.gz")
    label[1:4, 20:40, 20:40] = 1
    nib.save(nib.Nifti1Image(label, np.diag([4.0, 1, 1, 1])), tmp_path / "masks/cord_dseg.nii.gz")
    result = CliRunner().invoke(report, [str(tmp_path / "masks"), "--anatomy", str(tmp_path / "anatomy.json")])
    assert result.exit_code == 0, result.output
    lines = (tmp_path / "masks" / "scans.csv").read_text("utf-8").splitlines()
    assert {line.split(",")[0]: line.split(",")[2] for line in lines[1:]} == {"cord": "", "empty": "nothing_found"}
    assert {line.split(",")[0]: line.split(",")[6] for line in lines[1:]} == {"cord": "1", "empty": "0"}
    page = (tmp_path / "masks" / "report.html").read_text("utf-8")
    assert "1 structure<" in page and "not named" not in page
