"""The worst cases of a study are drawn from what was scored."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.bench import gallery
from cps4_monai.bench.results import find_studies, load_results


@pytest.mark.parametrize("decoded", [True, False])
def test_the_picture_is_of_the_label_map_that_has_the_score(write_runs, tmp_path: Path, monkeypatch, decoded: bool):
    runs = write_runs({("ours", "5", 0): {"sub-001": 0.3}})
    image = nib.Nifti1Image(np.zeros((4, 4, 2), np.uint8), np.diag([4.0, 1.0, 1.0, 1.0]))
    section = runs / "cells" / "ours-5pct-seed0" / "test"
    files = [runs / name for name in ("sub-001_T2w.nii.gz", "sub-001_dseg.nii.gz")]
    files += [folder / "predictions" / "sub-001_T2w_dseg.nii.gz" for folder in (section, section / "argmax")]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, path)
    entry = {"image": files[0].name, "label": files[1].name, "subject": "sub-001"}
    (runs / "data" / "list.json").write_text(json.dumps({"training": [], "test": [entry]}))
    if decoded:
        for table in section.glob("*.csv"):
            (section / "argmax" / table.name).write_bytes(table.read_bytes())
    else:
        files[3].unlink()
        files[3].parent.rmdir()
        files[3].parents[1].rmdir()
    (study,) = find_studies(runs)
    results = load_results(study, runs, "test")
    assert (results.cells[0].decoded is not None) == decoded
    drawn = []
    monkeypatch.setattr(gallery, "case_slab", lambda case, anatomy: drawn.append(case.pred))
    monkeypatch.setattr(gallery, "side_by_side", lambda slab, anatomy: b"")
    monkeypatch.setattr(gallery, "parsed_config", lambda cell: _Config())
    (figure,) = gallery.worst_cases(results)
    assert drawn == [files[3] if decoded else files[2]] and "Dice (b) 0.300" in figure.caption


class _Config:
    def get_parsed_content(self, name: str):
        return {"anatomy": MRSPINESEG}[name]


@pytest.fixture
def with_stage1(write_runs, monkeypatch):
    """A study whose stage 1 has attention to show."""
    monkeypatch.setattr(gallery, "_has_attention", lambda weights: True)
    runs = write_runs({("ours", "5", 0): {"sub-001": 0.3}})
    (study,) = find_studies(runs)
    return load_results(study, runs, "test")


def test_a_cell_out_of_an_archive_has_no_config_to_draw_attention_by(with_stage1) -> None:
    assert gallery.attention_gallery(with_stage1) == []


def test_attention_that_cannot_be_drawn_costs_its_picture_and_not_the_report(with_stage1, caplog) -> None:
    """As where the data were moved: MONAI's parser raises a RuntimeError from the datalist's own."""
    config = {"anatomy": None, "cache": None, "data": "$open('gone/datalist.json')", "pictured_structures": []}
    (with_stage1.cells[0].folder / "config.json").write_text(json.dumps(config))
    assert gallery.attention_gallery(with_stage1) == []
    assert "no picture of the attention at 5 % labeled" in caplog.text and "gone/datalist.json" in caplog.text
