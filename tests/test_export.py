"""Self-contained bundles: what is in the zip, which settings travel, and that it runs without the package installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from cps4_monai.bundle_root import find_bundle_root
from cps4_monai.commands.export import export as export_command
from cps4_monai.export import BUNDLE_NAME, export_bundle, settings_of_run


@pytest.fixture(scope="module")
def unzipped(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle folder of an exported tiny run, in half precision."""
    folder = tmp_path_factory.mktemp("exported")
    result = CliRunner().invoke(
        export_command, ["--run", str(tiny_run), "-o", str(folder / "spine.zip"), "--half"], catch_exceptions=False
    )
    assert result.exit_code == 0 and result.output.endswith(f"bundle: {folder / 'spine.zip'}\n")
    with zipfile.ZipFile(folder / "spine.zip") as archive:
        archive.extractall(folder)
    return folder / BUNDLE_NAME


def isolated(*arguments: str, cwd: Path) -> str:
    """Runs Python without the environment's .pth files, so that an editable installation is not found."""
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-S", *arguments], cwd=cwd, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_zip_runs_where_the_package_is_not_installed(unzipped: Path, tiny_data: Path, tmp_path: Path) -> None:
    without = [sys.executable, "-S", "-c", "import cps4_monai"]
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}
    assert subprocess.run(without, cwd=tmp_path, env=environment, capture_output=True).returncode == 1
    program = (
        "import sys; from monai.bundle import run; "
        f"run('run', config_file={str(unzipped / 'configs' / 'inference.json')!r}, bundle_root={str(unzipped)!r}, "
        f"dataset_dir={str(tiny_data)!r}, output_dir={str(tmp_path / 'out')!r}, device_name='cpu'); "
        "print('FROM', sys.modules['cps4_monai'].__file__)"
    )
    output = isolated("-c", program, cwd=tmp_path)
    assert f"FROM {unzipped / 'cps4_monai' / '__init__.py'}" in output
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 2


def test_the_zip_trains_from_its_own_folder(
    unzipped: Path, tiny_data: Path, tiny_overlay: Path, tmp_path: Path
) -> None:
    overlays = f"['configs/train.json','{tiny_overlay}','configs/methods/supervised.json']"
    isolated("-m", "monai.bundle", "run", "training_stage2", "--config_file", overlays, "--dataset_dir",
             str(tiny_data), "--output_dir", str(tmp_path), "--iterations_per_epoch", "1", cwd=unzipped)  # fmt: skip
    assert (tmp_path / "stage2" / "model.pt").is_file()


def test_settings_of_the_run_stand_in_the_configs(unzipped: Path, tiny_run: Path) -> None:
    inference, train = (json.loads((unzipped / "configs" / f"{n}.json").read_text()) for n in ("inference", "train"))
    assert inference["features"] == train["features"] == [4, 8] and inference["spacing_mm"] == 7.5
    assert train["slice_size"] == [64, 32] and inference["slice_size"] is None
    assert inference["unannotated"] == [] and train["unannotated"].startswith("$")
    weights = torch.load(unzipped / "models" / "model.pt", weights_only=True)
    original = torch.load(tiny_run / "stage2" / "model.pt", weights_only=True)
    assert weights.keys() == original.keys()
    assert all(w.dtype in (torch.float16, torch.int64) for w in weights.values())
    assert not list(unzipped.rglob("__pycache__")) and not (unzipped / "runs").exists()


def test_the_mode_central_half_takes_its_size_along(tmp_path: Path) -> None:
    settings = {"in_plane_mode": "central_half", "spacing_mm": None, "slice_size": [64, 32]}
    content = exported_config(tmp_path, settings)
    assert (content["in_plane_mode"], content["spacing_mm"], content["slice_size"]) == ("central_half", None, [64, 32])


def exported_config(folder: Path, settings: dict[str, Any], name: str = "inference.json") -> dict[str, Any]:
    path = export_bundle(find_bundle_root(), folder / "b.zip", settings=settings)
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(f"{BUNDLE_NAME}/configs/{name}"))


def test_another_anatomy_is_written_into_the_metadata(tmp_path: Path) -> None:
    table = {"structures": [{"code": 0, "name": "background", "long_name": "background", "kind": "background"},
                            {"code": 1, "name": "bone", "long_name": "bone", "kind": "vertebra"}]}  # fmt: skip
    metadata = exported_config(tmp_path, {"anatomy_source": table}, "metadata.json")
    pred = metadata["network_data_format"]["outputs"]["pred"]
    assert pred["num_channels"] == 2 and pred["channel_def"] == {"0": "background", "1": "bone"}
    assert metadata["label_classes"] == "one channel, codes: 0 background, 1 bone"
    assert metadata["version"] in metadata["changelog"]


def test_the_class_table_travels_instead_of_its_path(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "stage2").mkdir()
    (tmp_path / "stage2" / "model.pt").write_bytes((tiny_run / "stage2" / "model.pt").read_bytes())
    record = json.loads((tiny_run / "stage2" / "run.json").read_text())
    record["starts"][-1]["settings"].update(anatomy_source="/elsewhere/three.json", anatomy={"structures": []})
    (tmp_path / "stage2" / "run.json").write_text(json.dumps(record))
    assert settings_of_run(tmp_path)[1]["anatomy_source"] == {"structures": []}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.update(output="spine.tar"), "ends in .zip"),
        (lambda a: a.update(weights="no.pt"), "no.pt are not there"),
        (lambda a: a.update(bundle_root="nowhere"), "is no bundle"),
        (lambda a: a.update(settings={"learning_rate": 1}), "do not travel with weights"),
    ],
)
def test_bad_requests_are_refused(change: Callable, message: str, tmp_path: Path) -> None:
    arguments = {"bundle_root": find_bundle_root(), "output": tmp_path / "spine.zip"}
    change(arguments)
    with pytest.raises(ValueError, match=message):
        export_bundle(**arguments)
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_finished_run_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(export_command, ["--run", str(tmp_path), "-o", str(tmp_path / "spine.zip")])
    assert result.exit_code == 1 and result.output.startswith("Error: ") and result.output.count("\n") == 1
