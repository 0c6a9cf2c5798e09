"""Settings that are true or false: texts that MONAI's command line makes of `false` would pass for true."""

from __future__ import annotations

import pytest

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.data.datalist import load_datalist
from cps4_monai.plan import Plan, check_same_pixels
from cps4_monai.precision import Precision
from cps4_monai.transforms.label_saving import SaveLabelsd
from cps4_monai.true_or_false import true_or_false


@pytest.mark.parametrize(("value", "expected"), [(True, True), (False, False), (0, False), (1.0, True)])
def test_what_is_true_or_false(value, expected):
    assert true_or_false(value, "amp") is expected


@pytest.mark.parametrize("value", ["false", "true", "False", "", None, 2, []])
def test_anything_else_is_refused(value):
    with pytest.raises(ValueError, match=r"amp is .*; expected True or False"):
        true_or_false(value, "amp")


def test_settings_of_the_plain_command_line_are_looked_at(tmp_path):
    (tmp_path / "d.json").write_text('{"training": []}')
    (tmp_path / "model.pt").write_bytes(b"")
    for name, made in (
        ("overwrite", lambda: SaveLabelsd(output_dir=tmp_path, overwrite="false")),
        ("amp", lambda: Precision(amp="false")),
        ("unlabeled_slices", lambda: load_datalist(tmp_path / "d.json", unlabeled_slices="false")),
        ("finetune_other_geometry", lambda: check_same_pixels(Plan(MRSPINESEG), tmp_path / "model.pt", "false")),
    ):
        with pytest.raises(ValueError, match=f"{name} is 'false'"):
            made()


def test_a_folder_of_a_year_is_a_folder(tmp_path, monkeypatch):
    """MONAI makes a number of ``--output_dir 2025``."""
    monkeypatch.chdir(tmp_path)
    assert str(SaveLabelsd(output_dir=2025).output_dir) == "2025"
    assert SaveLabelsd(output_dir="out", data_root_dir=2025).data_root_dir == tmp_path / "2025"
