"""benchmarks/gpu.sh: each of its calls has arguments that the script called takes, in the order that is wanted."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# In place of Python: parses the arguments of the benchmark that is called and goes no further; modules are told.
PARSES_ONLY = """
import argparse, runpy, sys
real = argparse.ArgumentParser.parse_args
def parse_args(self, *given, **more):
    real(self, *given, **more)
    sys.exit(0)
argparse.ArgumentParser.parse_args = parse_args
if sys.argv[1] == "-m":
    print("called", *sys.argv[2:])
else:
    sys.argv = sys.argv[1:]
    sys.path.insert(0, "benchmarks")
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.exit("it took no arguments")
"""


@pytest.fixture
def call(tmp_path: Path):
    """Function that runs the script on folders that hold no more than their datalists; gives what it told."""
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    for name, datalist in (("lumbar_t1", "datalist.json"), ("spider", "splits.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / datalist).write_text("{}")
    (tmp_path / "parses_only.py").write_text(PARSES_ONLY)
    python = tmp_path / "python"
    python.write_text(f'#!/usr/bin/env bash\nexec "{sys.executable}" "{tmp_path}/parses_only.py" "$@"\n')
    python.chmod(0o755)

    def run(folder: Path = ROOT, **variables: str) -> str:
        given = {"PYTHON": str(python), "SPIDER": str(tmp_path / "spider"), **variables}
        command = ["bash", f"{ROOT}/benchmarks/gpu.sh", str(tmp_path / "lumbar_t1"), str(tmp_path / "out"), "300"]
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, **given}, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_every_benchmark_takes_its_arguments(call):
    """Those of a GPU: the others are tried by a rehearsal."""
    told = call(PARTS="benchmarks")
    steps = ["tests", "prompt_map", "stage2", "stage2_batch8", "stage1", "methods", "scan", "data_wait"]
    steps += ["tests_methods", "tests_methods_amp"]
    assert re.findall(r"^(?:bench_)?(\w+): done$", told, re.MULTILINE) == steps, told
    assert told.count(": wanted: ") == 7 and "at most 1.05" in told
    assert "bench_data_wait: SPIDER=FOLDER is missing" in call(PARTS="benchmarks", SPIDER="")


def test_its_pieces_are_all_the_tests_of_a_gpu():
    """A test that no piece chooses would never run there."""

    def chosen(*words: str) -> set[str]:
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0", "tests/test_gpu.py", *words]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return {line for line in listed.splitlines() if "::" in line}

    script = (ROOT / "benchmarks" / "gpu.sh").read_text(encoding="utf-8")
    pieces = [chosen("-k", words) for words in re.findall(r'-k "([^"]+)"', script)]
    assert len(pieces) == 3 and all(pieces) and sum(map(len, pieces)) == len(set.union(*pieces))
    assert set.union(*pieces) == chosen()


def test_studies_at_the_papers_size_come_first_and_spiders_on_its_own_data(call, tmp_path):
    studies = re.findall(r"bench run studies/(\w+)\.yaml .*--datalist (\S+)", call(PARTS="studies"))
    lumbar = ["lumbar_t1_paper_size", "lumbar_t1", "table1", "ablation_lumbar_t1"]
    spider = ["spider_pretrained", "ablation_spider_pretrained"]
    assert [name for name, _ in studies] == [*lumbar, *spider]
    lists = [tmp_path / "lumbar_t1" / "datalist.json"] * 4 + [tmp_path / "spider" / "splits.json"] * 2
    assert [datalist for _, datalist in studies] == [str(path) for path in lists]
    without = re.findall(r"bench run studies/(\w+)\.yaml", call(PARTS="studies", SPIDER=""))
    assert without == lumbar
    assert "spider_pretrained: no " in call(PARTS="studies", STUDIES="spider_pretrained", SPIDER="")
    assert all((ROOT / "studies" / f"{name}.yaml").is_file() for name, _ in studies)


def test_the_release_is_trained_and_checked_by_calls_that_exist_and_a_rehearsal_leaves_the_run_to_do(call):
    for rehearse in ("1", ""):
        told = call(PARTS="release", REHEARSE=rehearse)
        assert len(re.findall(r"^release_\w+: done$", told, re.MULTILINE)) == 7, told


def test_wheels_are_installed_once_and_again_where_they_are_others(call, tmp_path):
    folder = tmp_path / "checkout"
    (folder / "WHEELS").mkdir(parents=True)
    (tmp_path / "tmp").mkdir()
    wheel = folder / "WHEELS" / "one-1-py3-none-any.whl"

    def installed(**variables: str) -> list[str]:
        return re.findall(r"called pip install .* (\S+)", call(folder, TMPDIR=str(tmp_path / "tmp"), **variables))

    wheel.write_text("first")
    assert installed(PARTS="none") == ["WHEELS/one-1-py3-none-any.whl"]
    os.utime(wheel, (0, 0))  # as another copy of the checkout has it
    assert installed(PARTS="none") == []
    (tmp_path / "tmp" / "gpu_site" / "of_the_first.py").touch()
    wheel.write_text("second")
    assert len(installed(PARTS="none")) == 1 and not (tmp_path / "tmp" / "gpu_site" / "of_the_first.py").exists()
    (folder / "WHEELS").rename(folder / "WHEELS_NNUNET")
    given = {"PARTS": "nnunet", "NNUNET": "spider", "SPIDER": ""}
    assert [installed(**given) for _ in range(2)] == [["WHEELS_NNUNET/one-1-py3-none-any.whl"], []]
