"""What the model zoo's own checks ask of a bundle (its ``verify_bundle.py`` and CONTRIBUTING), on the exported one."""

from __future__ import annotations

import ast
import contextlib
import json
import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser
from packaging.requirements import Requirement

from cps4_monai import export as export_room
from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.bundle_root import find_bundle_root

ROOT = Path(__file__).resolve().parents[2]
# Only what these packages do needs them; each is an extra of setup.cfg or comes with one of the required ones.
OPTIONAL = {
    "SimpleITK",
    "black",
    "dask",
    "dask_jobqueue",
    "distributed",
    "isort",
    "mlflow",
    "onnx",
    "onnxruntime",
    "onnxscript",
}
TEMPLATE = [  # the sections of the zoo's docs/readme_template.md, in its order
    "Authors",
    "Tags",
    "Model Description",
    "Data",
    "Preprocessing",
    "Performance",
    "Additional Usage Steps",
    "System Configuration",
    "Limitations",
    "Citation Info",
    "References",
]


@pytest.fixture(scope="module")
def metadata(exported_bundle: Path) -> dict[str, Any]:
    return json.loads((exported_bundle / "configs" / "metadata.json").read_text("utf-8"))


def config(bundle: Path, name: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / name))
    return parser


def texts(node: Any) -> Iterator[str]:
    """Every text in a config."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict | list):
        for item in node.values() if isinstance(node, dict) else node:
            yield from texts(item)


@pytest.mark.parametrize(
    "name",
    [
        "LICENSE",
        "configs/metadata.json",
        "configs/inference.json",
        "configs/train.json",
        "configs/logging.conf",
        "models/model.pt",
        "docs/README.md",
        "docs/data_license.txt",
    ],
)
def test_necessary_and_preferred_files_are_there(exported_bundle: Path, name: str) -> None:
    assert (exported_bundle / name).stat().st_size > 0


def test_the_licence_is_whole_and_that_of_the_package(exported_bundle: Path) -> None:
    text = (exported_bundle / "LICENSE").read_text("utf-8")
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text
    assert text == (ROOT / "LICENSE").read_text("utf-8")
    assert "CC BY 4.0" in (find_bundle_root() / "docs" / "data_license.txt").read_text("utf-8")
    assert "CC BY 4.0" not in (exported_bundle / "docs" / "data_license.txt").read_text("utf-8"), "of other weights"


def test_the_version_has_its_line_in_the_changelog(metadata: dict) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", metadata["version"]) and metadata["changelog"][metadata["version"]]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in metadata["changelog"])


def test_the_output_names_every_class(metadata: dict) -> None:
    pred = metadata["network_data_format"]["outputs"]["pred"]
    assert list(pred["channel_def"]) == [str(code) for code in range(pred["num_channels"])]
    assert pred["channel_def"] == MRSPINESEG.channel_def()


@pytest.mark.parametrize("key", [
    "schema", "version", "changelog", "monai_version", "pytorch_version", "numpy_version", "required_packages_version",
    "supported_apps", "name", "task", "description", "authors", "copyright", "data_source", "data_type",
    "image_classes", "label_classes", "pred_classes", "eval_metrics", "intended_use", "references",
    "network_data_format",
])  # fmt: skip
def test_metadata_has_each_key_that_the_zoo_shows(metadata: dict, key: str) -> None:
    assert key in metadata


def test_versions_are_those_that_were_tried(metadata: dict) -> None:
    """Those of the oldest Python, which the zoo's checks run with: they can be had for every newer one, too."""
    pins = map(Requirement, (ROOT / "constraints.txt").read_text("utf-8").splitlines())
    oldest = [pin for pin in pins if pin.marker is None or pin.marker.evaluate({"python_version": "3.10"})]
    pinned = {pin.name.lower(): str(pin.specifier).removeprefix("==") for pin in oldest}
    asked = {
        "monai": metadata["monai_version"],
        "torch": metadata["pytorch_version"],
        "numpy": metadata["numpy_version"],
    }
    asked |= metadata["required_packages_version"]
    assert asked == {name: pinned[name.lower()] for name in asked}


def with_what_they_bring(names: Iterable[str]) -> set[str]:
    """Names of packages and of all that they require, in lower case."""
    known, waiting = set(), list(names)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name not in known:
            known.add(name)
            with contextlib.suppress(PackageNotFoundError):
                lines = [line for line in requires(name) or [] if "extra ==" not in line]
                waiting += [re.match(r"[\w.-]+", line)[0] for line in lines]  # type: ignore[index]
    return known


def test_every_package_that_the_code_imports_is_required(
    exported_bundle: Path, metadata: dict, distributions_of_modules: dict[str, list[str]]
) -> None:
    """The zoo installs ``required_packages_version`` and what that brings along, then runs the configs."""
    imported: set[str] = set()
    for file in (exported_bundle / "cps4_monai").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    of_package = {module: {name.lower() for name in names} for module, names in distributions_of_modules.items()}
    used = {module for module in imported - OPTIONAL if module in of_package} - {"cps4_monai"}
    assert {"monai", "nibabel", "click"} <= used
    required = with_what_they_bring(["monai", "torch", "numpy", *metadata["required_packages_version"]])
    assert {module for module in used if not of_package[module] & required} == set()


@pytest.mark.parametrize(("name", "keys"), [
    ("inference.json", ["bundle_root", "device", "network_def", "inferer", "output_dir"]),
    ("train.json", [
        "bundle_root", "device", "dataset_dir", "output_dir", "train#trainer#max_epochs", "train#dataset#data",
        "train#handlers", "train#inferer", "validate#evaluator", "validate#handlers", "validate#dataset#data",
        "validate#inferer", "validate#key_metric", "val_interval",
    ]),
])  # fmt: skip
def test_configs_use_the_names_that_other_apps_look_for(exported_bundle: Path, name: str, keys: list[str]) -> None:
    parser = config(exported_bundle, name)
    assert [key for key in keys if key not in parser] == []


def test_validation_during_training_takes_its_interval_from_the_common_name(exported_bundle: Path) -> None:
    parser = config(exported_bundle, "train.json")
    assert parser["train#trainer#stage"] == "@train#stage" and parser["train#stage#val_interval"] == "@val_interval"


def test_no_config_names_a_place_of_one_machine(exported_bundle: Path) -> None:
    for path in (exported_bundle / "configs").rglob("*.json"):
        found = [
            text for text in texts(json.loads(path.read_text("utf-8"))) if re.search(r"(^|')(/|~|[A-Z]:\\)\w", text)
        ]
        assert [text for text in found if "@" not in text] == [], path.name


def test_no_file_needs_a_download(exported_bundle: Path) -> None:
    assert export_room.too_large_for_the_zoo(exported_bundle) == []
    assert not list(exported_bundle.glob("large_files.*"))


def test_a_file_that_the_zoo_would_not_take_is_named(tmp_path: Path, monkeypatch: Any, caplog: Any) -> None:
    monkeypatch.setattr("cps4_monai.export.bundle.ZOO_LIMIT_MB", 1)
    (tmp_path / "weights.pt").write_bytes(b"0" * (2**20 + 1))
    shutil.copy(find_bundle_root() / "models" / "plan.json", tmp_path)
    path = export_room.export_bundle(find_bundle_root(), tmp_path / "spine.zip", tmp_path / "weights.pt")
    assert "models/model.pt is larger than 1 MB" in caplog.text and "large_files.yml" in caplog.text
    assert path.is_file()


def test_the_zip_holds_one_folder_and_nothing_of_a_machine(exported_zip: Path) -> None:
    with zipfile.ZipFile(exported_zip) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {export_room.BUNDLE_NAME}
    assert not [name for name in names if re.search(r"__pycache__|\.pyc$|/\.|/runs/|/eval/|mlruns", name)]


def test_the_readme_has_the_sections_of_the_template_in_its_order(exported_bundle: Path) -> None:
    text = (exported_bundle / "docs" / "README.md").read_text("utf-8")
    headings = [line.lstrip("# ").strip("* ") for line in text.splitlines() if line.startswith("#")]
    assert [heading for heading in headings if heading in TEMPLATE] == TEMPLATE
    assert text.startswith("# ") and headings[-1] == "License"


def test_the_name_says_task_and_kind_of_data() -> None:
    assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)+", export_room.BUNDLE_NAME)
    assert {"mri", "segmentation"} <= set(export_room.BUNDLE_NAME.split("_"))
