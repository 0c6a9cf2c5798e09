"""The folder for machines without a network: hashes, what is refused, and pip with the index switched off."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location("wheelhouse", ROOT / "offline" / "wheelhouse.py")
assert SPEC is not None and SPEC.loader is not None
script = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(script)


def write_wheel(folder: Path, name: str, version: str) -> Path:
    """A wheel of one module."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", f"{name}.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n{about}/RECORD,,\n")
    return path


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that filling starts; pip and `cps4 weights` are replaced by tiny products of theirs."""
    commands: list[list[str]] = []

    def run(command: list[str], failed: str) -> None:
        commands.append(command)
        if "pip" in command:
            wheels = Path(command[command.index("--wheel-dir") + 1])
            write_wheel(wheels, "cps4_tiny", "1.0"), write_wheel(wheels, "cps4_other", "2.0+cpu")
        else:
            place = Path(command[-1]) / command[command.index("weights") + 1]
            place.mkdir(parents=True)
            (place / "weights.json").write_text("{}")

    monkeypatch.setattr(script, "run", run)
    return commands


@pytest.fixture
def house(steps: list[list[str]], tmp_path: Path) -> Path:
    """A whole wheelhouse of two wheels, one encoder and a data set of one file."""
    data = tmp_path / "scans"
    data.mkdir()
    (data / "datalist.json").write_text("[]")
    script.fill(tmp_path / "house", "train", torch="2.0+cpu", weights=["minilm-l6"], data=data)
    return tmp_path / "house"


def pip_install(house: Path, target: Path) -> subprocess.CompletedProcess:
    """pip as docs/how-to/offline-machines.md has it, without any setting of this machine."""
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--find-links", str(house / "wheels"),
               "--require-hashes", "-r", str(house / "requirements.txt"), "--target", str(target)]  # fmt: skip
    settings = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    return subprocess.run(command, env={**settings, "PIP_CONFIG_FILE": os.devnull}, text=True, capture_output=True)


def test_all_files_have_their_hash_and_pip_installs_without_an_index(house: Path, tmp_path: Path) -> None:
    assert "8 files, 2 of them wheels" in script.check(house)
    assert script.read_sums(house).keys() == {
        "about.json", "cache/weights/minilm-l6/weights.json", "constraints.txt", "data/scans/datalist.json",
        "requirements.txt", "wheelhouse.py", "wheels/cps4_other-2.0+cpu-py3-none-any.whl",
        "wheels/cps4_tiny-1.0-py3-none-any.whl",
    }  # fmt: skip
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=house, check=True)
    assert pip_install(house, tmp_path / "installed").returncode == 0
    assert (tmp_path / "installed" / "cps4_tiny.py").is_file() and (tmp_path / "installed" / "cps4_other.py").is_file()


def test_a_damaged_wheel_is_refused_by_the_check_and_by_pip(house: Path, tmp_path: Path) -> None:
    wheel = write_wheel(house / "wheels", "cps4_tiny", "1.0")
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("cps4_tiny_more.py", "raise AssertionError\n")
    with pytest.raises(script.WheelhouseError, match=r"wheels/cps4_tiny-1.0-py3-none-any.whl: damaged.*\nFix: copy"):
        script.check(house)
    done = pip_install(house, tmp_path / "installed")
    assert done.returncode != 0 and "DO NOT MATCH THE HASHES" in done.stderr
    assert not (tmp_path / "installed" / "cps4_tiny.py").exists()


def test_what_is_missing_or_foreign_is_named(house: Path) -> None:
    (house / "data" / "scans" / "datalist.json").unlink()
    write_wheel(house / "wheels", "cps4_foreign", "1.0")
    (house / "notes.txt").write_text("a file beside them is nobody's business")
    assert script.problems_of(house) == [
        "data/scans/datalist.json: missing",
        "wheels/cps4_foreign-1.0-py3-none-any.whl: not of this wheelhouse",
    ]


def test_the_copy_in_the_folder_checks_by_itself(house: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-I", str(house / "wheelhouse.py"), "check", str(house)]
    assert subprocess.run(command, cwd=tmp_path, text=True, capture_output=True).stdout.startswith(f"{house} is whole")
    (house / "SHA256SUMS").unlink()
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 1 and done.stderr.startswith("Error: ") and "to its end" in done.stderr
    (house / "SHA256SUMS").write_text("nothing of it\n")
    with pytest.raises(script.WheelhouseError, match="line 1: 'nothing of it'; expected"):
        script.check(house)


def test_wheels_for_another_python_are_refused_before_pip(house: Path) -> None:
    about = json.loads((house / "about.json").read_text())
    (house / "about.json").write_text(json.dumps({**about, "python": "2.7"}))
    script.write_sums(house)
    with pytest.raises(script.WheelhouseError, match=r"wheels are for Python 2\.7, .* Fix: use that Python"):
        script.check(house)


def test_a_folder_with_other_files_and_data_that_is_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(script.WheelhouseError, match="holds other files"):
        script.fill(tmp_path)
    with pytest.raises(script.WheelhouseError, match=r"DATA is .*no folder"):
        script.fill(tmp_path / "house", data=tmp_path / "nowhere")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_filled_again_the_wheels_are_new_and_a_failed_step_leaves_no_whole_folder(
    house: Path, steps: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(house / "wheels", "cps4_tiny", "0.9")
    script.fill(house)
    assert not (house / "wheels" / "cps4_tiny-0.9-py3-none-any.whl").exists()
    assert not (house / "data").exists() and "whole" in script.check(house)
    monkeypatch.undo()
    with pytest.raises(script.WheelhouseError, match="could not be had"):
        script.run([sys.executable, "-c", "raise SystemExit(3)"], "it could not be had")
    monkeypatch.setattr(script, "run", lambda *step: (_ for _ in ()).throw(script.WheelhouseError("no index")))
    assert script.main(["fill", str(house)]) == 1
    with pytest.raises(script.WheelhouseError, match="SHA256SUMS is not there"):
        script.check(house)


def test_two_wheels_of_one_package_and_other_names_are_refused(house: Path) -> None:
    other = write_wheel(house / "wheels", "CPS4_tiny", "1.1")
    with pytest.raises(script.WheelhouseError, match="two wheels of cps4-tiny"):
        script.write_requirements(house)
    other.rename(house / "wheels" / "cps4.whl")
    with pytest.raises(script.WheelhouseError, match=r"expected NAME-VERSION-TAGS\.whl"):
        script.write_requirements(house)


def test_another_torch_replaces_the_pins_of_those_that_follow_it(house: Path, steps: list[list[str]]) -> None:
    pins = (house / "constraints.txt").read_text().splitlines()
    assert not [pin for pin in pins if pin.startswith(("torch==", "torchvision==", "triton=="))]
    assert set(pins) < set((ROOT / "constraints.txt").read_text().splitlines()) and len(pins) > 100
    assert steps[0][-2:] == [f"{ROOT}[train]", "torch==2.0+cpu"]
    assert steps[1][-4:] == ["weights", "minilm-l6", "--folder", str(house / "cache" / "weights")]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_hands_its_variables_on() -> None:
    variables = ["WHEELHOUSE=house", "EXTRAS=train", "TORCH=2.0+cpu", "WEIGHTS=minilm-l6", "DATA=scans"]
    told = subprocess.run(
        ["make", "-n", "wheelhouse", *variables], cwd=ROOT, text=True, capture_output=True, check=True
    )
    words = " ".join(told.stdout.replace("\\\n", " ").split())
    assert "wheelhouse.py fill house --extras train --torch 2.0+cpu --weights minilm-l6 --data scans" in words
