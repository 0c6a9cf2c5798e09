"""What an installation has: declared packages, parts that do without the others, the bundle inside the wheel."""

from __future__ import annotations

import ast
import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from cps4_monai.extras import EXTRAS, MissingExtraError, explain, require

ROOT = Path(__file__).resolve().parents[1]
BY_OTHERS = {"fire", "jsonschema", "mlflow"}  # imported by MONAI when it is asked for what needs them
BROUGHT = {"torchvision"}  # by timm


def declared(extra: str | None = None) -> set[str]:
    """Distributions of an extra, or of the base, in lower case."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    text = config["options.extras_require"][extra] if extra else config["options"]["install_requires"]
    return {re.match(r"[\w.-]+", line)[0].lower() for line in text.split("\n") if line.strip()}  # type: ignore[index]


@pytest.fixture
def distribution(distributions_of_modules: dict[str, list[str]]) -> Callable[[str], str]:
    """The distribution that brings a module; the shortest name where several do (mlflow, mlflow-skinny)."""

    def of(module: str) -> str:
        if module not in distributions_of_modules:
            pytest.skip(f"{module} is not installed: its distribution cannot be looked up")
        return min(distributions_of_modules[module], key=len).lower()

    return of


def imported(*folders: str) -> set[str]:
    """Top-level modules of others that the files of folders import, at the top or within functions."""
    names: set[str] = set()
    for file in [file for folder in folders for file in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"cps4_monai"}


def test_what_is_imported_is_declared_and_nothing_else_is(distribution: Callable[[str], str]) -> None:
    used = {distribution(module) for module in imported("cps4_monai")} | BY_OTHERS
    used |= {
        distribution(module) for module in {*EXTRAS["dicom"], *EXTRAS["slicer"], *EXTRAS["weights"], *EXTRAS["onnx"]}
    }  # imported by name
    assert used == declared().union(*(declared(extra) for extra in EXTRAS))


def test_what_tests_and_benchmarks_import_is_in_the_extra_of_developers(
    distribution: Callable[[str], str], distributions_of_modules: dict[str, list[str]]
) -> None:
    # Not installed are modules of this repository, and MONAI Label, whose tests skip then.
    used = {distribution(module) for module in imported("tests", "benchmarks") & set(distributions_of_modules)}
    known = declared().union(*(declared(extra) for extra in (*EXTRAS, "dev"))) | BY_OTHERS
    assert used - known == set()


@pytest.mark.parametrize("extra", EXTRAS)
def test_each_module_is_in_the_extra_that_users_are_told(extra: str, distribution: Callable[[str], str]) -> None:
    assert {distribution(module) for module in set(EXTRAS[extra]) - BROUGHT} <= declared(extra)


def test_a_module_that_is_not_there_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRAS, "dicom", ("no_such_module",))
    with pytest.raises(MissingExtraError, match=r'DICOM needs no_such_module, .* pip install "cps4-monai\[dicom\]"'):
        require("no_such_module", "DICOM")


def test_a_missing_module_is_found_behind_the_errors_of_others() -> None:
    lazy = RuntimeError("cannot instantiate")
    lazy.__cause__ = ImportError("from ignite.engine import Events (No module named 'ignite').")
    assert explain(lazy, "training") == 'training needs ignite, not installed here: pip install "cps4-monai[train]"'
    assert explain(ImportError("No module named 'numpy'", name="numpy"), "training") is None


BLOCKED = """
import sys
sys.modules.update(dict.fromkeys({blocked!r}))  # None: "not found", for imports and for find_spec
from cps4_monai.cli import main
main({arguments!r})
"""
NOT_BASE = [*sorted({module for brought in EXTRAS.values() for module in brought}), "skimage"]


def without_extras(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command where every module that no package of the base brings is refused."""
    program = BLOCKED.format(blocked=NOT_BASE, arguments=list(arguments))
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)


def test_segmenting_and_scoring_need_the_base_only(tiny_data: Path, tmp_path: Path) -> None:
    scan = next(tiny_data.glob("*_T2w.nii.gz"))
    done = without_extras("segment", str(scan), "-o", str(tmp_path / "out"), "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "out").glob("*_dseg.nii.gz"))
    masks = tmp_path / "masks"
    masks.mkdir()
    for label in sorted(tiny_data.glob("*_dseg.nii.gz"))[:2]:
        shutil.copy(label, masks)
    scored = without_extras("report", "-p", str(masks), "-l", str(tiny_data), "-o", str(tmp_path / "report"))
    assert scored.returncode == 0, scored.stderr


def test_training_without_its_extra_ends_in_one_line(tiny_data: Path, tmp_path: Path) -> None:
    done = without_extras("train", "all", "--datalist", str(tiny_data / "datalist.json"), "-o", str(tmp_path / "run"))
    assert done.returncode == 1
    assert re.fullmatch(
        r'Error: cps4 train needs \w+, not installed here: pip install "cps4-monai\[train\]"\n', done.stderr
    )


def test_attention_logits_and_the_file_between_the_stages_need_no_timm() -> None:
    program = (
        "import sys, cps4_monai.vision.prompted, cps4_monai.vision.checkpoint, cps4_monai.prompt_map, "
        "cps4_monai.methods; print({'timm', 'torchvision'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "set()"


def _has_setuptools(major: int) -> bool:
    try:
        return int(metadata.version("setuptools").partition(".")[0]) >= major
    except metadata.PackageNotFoundError:
        return False


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as a wheel that was unpacked into an empty folder, which is all that ``pip --target`` does."""
    if not _has_setuptools(77):  # not by importing it: once distutils is loaded, that fails
        pytest.skip("setuptools from 77 on is not installed: no wheel can be built here")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a build leaves files beside what it is made of
    source.mkdir()
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("cps4_monai", "bundle"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "runs", "eval"))
    program = f"import setuptools.build_meta as backend; backend.build_wheel({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=source)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "target")
    return folder / "target"


def test_an_installed_package_has_its_bundle(installed: Path, tmp_path: Path) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(installed)!r})\n"
        "from cps4_monai.bundle_root import find_bundle_root\n"
        "from cps4_monai.export import export_bundle\n"
        f"print(find_bundle_root()); export_bundle(find_bundle_root(), {str(tmp_path / 'b.zip')!r})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert Path(done.stdout.strip()) == installed / "cps4_monai" / "bundle"
    sources = {p.relative_to(ROOT / "bundle") for p in (ROOT / "bundle").rglob("*") if p.is_file()}
    inside = installed / "cps4_monai" / "bundle"
    assert {p.relative_to(inside) for p in inside.rglob("*") if p.is_file()} == {
        p for p in sources if p.parts[0] not in ("runs", "eval") and "__pycache__" not in p.parts
    }
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        assert not [name for name in archive.namelist() if "cps4_monai/bundle/" in name]
