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

from cps4_monai.anatomy import MRSPINESEG, load_anatomy
from cps4_monai.bundle_root import find_bundle_root
from cps4_monai.commands.export import export as export_command
from cps4_monai.export import BUNDLE_NAME, export_bundle
from cps4_monai.networks import ResUNet
from cps4_monai.plan import Plan, read_plan, write_plan


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


def test_the_plan_of_the_run_lies_beside_its_weights(unzipped: Path, tiny_run: Path) -> None:
    plan = read_plan(unzipped / "models" / "plan.json")
    assert plan.to_dict() == read_plan(tiny_run / "stage2" / "plan.json").to_dict()
    assert plan.network["features"] == [4, 8] and plan.spacing_mm == 7.5 and plan.unannotated == ()
    assert plan.slice_size == (64, 32) and plan.inference_size is None
    weights = torch.load(unzipped / "models" / "model.pt", weights_only=True)
    original = torch.load(tiny_run / "stage2" / "model.pt", weights_only=True)
    assert weights.keys() == original.keys()
    assert all(w.dtype in (torch.float16, torch.int64) for w in weights.values())
    assert not list(unzipped.rglob("__pycache__")) and not (unzipped / "runs").exists()


def test_configs_are_shipped_as_they_are(unzipped: Path) -> None:
    for file in (find_bundle_root() / "configs").rglob("*.json"):
        assert (
            unzipped / "configs" / file.relative_to(find_bundle_root() / "configs")
        ).read_bytes() == file.read_bytes()


def weights_with(folder: Path, **plan: Any) -> Path:
    """Weights of nothing, with a plan beside them."""
    network = {"_target_": "cps4_monai.networks.ResUNet", "features": [4, 8]}
    torch.save(ResUNet(features=[4, 8]).state_dict(), folder / "weights.pt")
    write_plan(folder, Plan(**{"anatomy": MRSPINESEG, "network": network, **plan}))
    return folder / "weights.pt"


def test_nothing_of_the_bundles_own_weights_stays_beside_others(tmp_path: Path) -> None:
    path = export_bundle(find_bundle_root(), tmp_path / "b.zip", weights_with(tmp_path))
    with zipfile.ZipFile(path) as archive:
        names = sorted(Path(name).name for name in archive.namelist() if "/models/" in name)
    assert names == ["model.pt", "model.pt.sha256", "plan.json"]


def test_another_anatomy_is_written_into_the_metadata(tmp_path: Path) -> None:
    table = {"structures": [{"code": 0, "name": "background", "long_name": "background", "kind": "background"},
                            {"code": 1, "name": "bone", "long_name": "bone", "kind": "vertebra"}]}  # fmt: skip
    path = export_bundle(find_bundle_root(), tmp_path / "b.zip", weights_with(tmp_path, anatomy=load_anatomy(table)))
    with zipfile.ZipFile(path) as archive:
        metadata = json.loads(archive.read(f"{BUNDLE_NAME}/configs/metadata.json"))
    pred = metadata["network_data_format"]["outputs"]["pred"]
    assert pred["num_channels"] == 2 and pred["channel_def"] == {"0": "background", "1": "bone"}
    assert metadata["label_classes"] == "one channel, codes: 0 background, 1 bone"
    assert metadata["version"] in metadata["changelog"]


def test_weights_without_a_plan_or_with_one_without_network_are_refused(tmp_path: Path) -> None:
    weights = weights_with(tmp_path, network=None)
    with pytest.raises(ValueError, match=r"does not say how to build the network; give its class a method arguments"):
        export_bundle(find_bundle_root(), tmp_path / "b.zip", weights)
    (tmp_path / "plan.json").unlink()
    with pytest.raises(ValueError, match=r"has no plan.json beside it"):
        export_bundle(find_bundle_root(), tmp_path / "b.zip", weights)
    assert not (tmp_path / "b.zip").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.update(output="spine.tar"), "ends in .zip"),
        (lambda a: a.update(weights="no.pt"), "no.pt are not there"),
        (lambda a: a.update(bundle_root="nowhere"), "is no bundle"),
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
