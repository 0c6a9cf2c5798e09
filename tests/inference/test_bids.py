"""Results of a BIDS data set as a derivative: names, the files at its top, and what the validator says."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cps4_monai import segment_scans
from cps4_monai.data.label_ownership import ForeignFileError
from cps4_monai.inference.bids import label_stem
from cps4_monai.scan_names import FileName


@pytest.fixture()
def data_set(make_scan, tmp_path):
    root = tmp_path / "bids"
    make_scan().save(root / "sub-1/ses-2/anat/sub-1_ses-2_T2w.nii.gz")
    description = {"Name": "coded", "BIDSVersion": "1.10.0", "DatasetType": "raw"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    return root


@pytest.fixture()
def run(bundle_dir):
    return lambda given, output, **more: segment_scans(given, output, weights=bundle_dir, device="cpu", **more)


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("sub-1_T2w", "sub-1_seg-spine"),
        ("sub-1_ses-2_acq-hr_run-1_T2w", "sub-1_ses-2_acq-hr_run-1_seg-spine"),
        ("sub-1_space-T1w_desc-preproc_T2w", "sub-1_space-T1w_seg-spine_desc-preproc"),
    ],
)
def test_a_label_map_has_one_suffix_and_the_entities_in_their_order(stem, expected):
    assert label_stem(stem) == expected
    assert FileName.of(f"{expected}_dseg.nii.gz").is_label_map


def test_a_label_map_is_still_matched_with_its_scan():
    names = "sub-1_ses-2_T2w.nii.gz", "sub-1_ses-2_seg-spine_dseg.nii.gz"
    assert len({FileName.of(name).key for name in names}) == 1


def test_a_data_set_gives_a_derivative_and_plain_files_keep_their_names(run, make_scan, data_set, tmp_path):
    out = data_set / "derivatives" / "cps4"
    assert not run(data_set, out, qc=False).failures
    assert (out / "sub-1/ses-2/anat/sub-1_ses-2_seg-spine_dseg.json").is_file()
    description = json.loads((out / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative" and description["GeneratedBy"][0]["Name"] == "cps4_monai"
    assert description["SourceDatasets"] == [{"URL": "../../"}] and description["Name"].endswith("of coded")
    assert [one.status for one in run(data_set, out, qc=False).outcomes] == ["kept"]
    scan = make_scan().save(tmp_path / "plain/sub-1_T2w.nii.gz")
    run(scan.parent, tmp_path / "out", qc=False)
    assert (tmp_path / "out/sub-1_T2w_dseg.nii.gz").is_file()
    assert not list((tmp_path / "out").glob("dataset_description.json")) + list((tmp_path / "out").glob(".bidsignore"))


def test_the_data_set_itself_is_no_place_for_its_derivative(run, data_set):
    before = (data_set / "dataset_description.json").read_text()
    with pytest.raises(ForeignFileError, match=r"dataset_description.json.*choose another output folder"):
        run(data_set, data_set, qc=False)
    assert (data_set / "dataset_description.json").read_text() == before


def test_the_validator_accepts_a_derivative(run, data_set, tmp_path):
    beside = Path(sys.executable).with_name("bids-validator-deno")
    validator = shutil.which("bids-validator-deno") or (str(beside) if beside.is_file() else None)
    if validator is None:
        pytest.skip("bids-validator-deno (pip install bids-validator-deno) is not installed")
    out = tmp_path / "derivative"
    run(data_set, out)
    done = subprocess.run([validator, "--json", str(out)], capture_output=True, text=True)
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert done.returncode == 0 and not [one for one in issues if one["severity"] == "error"], done.stdout


def test_t1w_scans_stand_in_where_a_folder_has_no_t2w_one(run, make_scan, tmp_path):
    data = tmp_path / "raw"
    for name in ("sub-1/anat/sub-1_T1w", "sub-2/anat/sub-2_T1w", "sub-2/anat/sub-2_T2w", "sub-3/dwi/sub-3_dwi"):
        make_scan().save(data / f"{name}.nii.gz")
    (data / "dataset_description.json").write_text('{"Name": "raw", "BIDSVersion": "1.10.0"}')
    result = run(data, tmp_path / "out", qc=False)
    assert [one.source.name for one in result.segmented] == ["sub-1_T1w.nii.gz", "sub-2_T2w.nii.gz"]
    reasons = {one.source.name: one.reason for one in result.outcomes if one.status == "skipped"}
    assert reasons["sub-2_T1w.nii.gz"].startswith("a T1w scan beside a T2w one")
    assert reasons["sub-3_dwi.nii.gz"].startswith("neither a T2w nor a T1w")
    assert (tmp_path / "out/sub-1/anat/sub-1_seg-spine_dseg.nii.gz").is_file()
