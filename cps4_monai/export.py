"""A self-contained bundle: configs, weights and the package in one folder and one zip that run without installation."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BUNDLE_NAME = "spine_mri_cps4_segmentation"
# What a run may have changed that its weights depend on; the same ids in train.json and inference.json.
SETTINGS_OF_THE_WEIGHTS = (
    "anatomy_source",
    "prompt_template",
    "unannotated",
    "spacing_mm",
    "slice_size",
    "in_plane_mode",
    "features",
)
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "runs", "eval", "mlruns")


def export_bundle(
    bundle_root: str | Path,
    output: str | Path,
    weights: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    name: str = BUNDLE_NAME,
) -> Path:
    """Stage the bundle with the package inside, and zip it.

    The zip holds one folder ``name`` in the model-zoo layout; the configs put that folder on the module search path,
    so it runs after unzipping on a machine where the package is not installed.

    Args:
        bundle_root: the bundle's folder.
        output: path of the zip to write; written beside and renamed, so that it is there whole or not at all.
        weights: state dict to ship as ``models/model.pt``; default: the bundle's own, where there is one.
        settings: values of ``SETTINGS_OF_THE_WEIGHTS`` that the weights were trained with.
        name: name of the folder inside the zip.

    Returns:
        Path of the zip.

    Raises:
        ValueError: the bundle or the weights are not there, or ``settings`` has a setting that does not belong here.
    """
    root, output = Path(bundle_root), Path(output)
    if not (root / "configs" / "metadata.json").is_file():
        raise ValueError(f"{root} is no bundle: it has no configs/metadata.json; pass the folder that holds configs")
    if weights is not None and not Path(weights).is_file():
        raise ValueError(f"weights {weights} are not there; pass the best model of a run, such as RUN/stage2/model.pt")
    if output.suffix != ".zip":
        raise ValueError(f"output is {output.name!r}; expected a name that ends in .zip")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export-") as staging:
        folder = Path(staging) / name
        stage_bundle(root, folder, weights, settings or {})
        unfinished = Path(staging) / output.name
        _zip_folder(folder, unfinished)
        os.replace(unfinished, output)
    return output


def settings_of_run(run_dir: str | Path) -> tuple[Path, dict[str, Any]]:
    """Best weights of a training run and the settings that they depend on.

    Raises:
        ValueError: the folder holds no finished stage 2.
    """
    weights, record = Path(run_dir) / "stage2" / "model.pt", Path(run_dir) / "stage2" / "run.json"
    for path in (weights, record):
        if not path.is_file():
            raise ValueError(f"{path} is not there; pass the output folder of a run whose stage 2 has validated once")
    content = json.loads(record.read_text(encoding="utf-8"))["starts"][-1]["settings"]
    settings = {key: content[key] for key in SETTINGS_OF_THE_WEIGHTS if key in content}
    if settings.get("anatomy_source") is not None:  # a file on this machine: the table itself travels instead
        settings["anatomy_source"] = content["anatomy"]
    return weights, settings


def stage_bundle(root: Path, folder: Path, weights: str | Path | None, settings: Mapping[str, Any]) -> None:
    """Copy bundle, package and weights to ``folder`` and write the settings into its configs."""
    shutil.copytree(root, folder, ignore=_LEFT_OUT)
    package = Path(__file__).resolve().parent
    if not (folder / package.name).exists():
        shutil.copytree(package, folder / package.name, ignore=_LEFT_OUT)
    if weights is not None:
        (folder / "models").mkdir(exist_ok=True)
        shutil.copyfile(weights, folder / "models" / "model.pt")
    for config in ("train.json", "inference.json"):
        _write_settings(folder / "configs" / config, settings)
    model = folder / "models" / "model.pt"
    if model.is_file():
        digest = hashlib.sha256(model.read_bytes()).hexdigest()
        (folder / "models" / "model.pt.sha256").write_text(f"{digest}  model.pt\n", encoding="ascii")


def _write_settings(config: Path, settings: Mapping[str, Any]) -> None:
    unknown = sorted(set(settings) - set(SETTINGS_OF_THE_WEIGHTS))
    if unknown:
        raise ValueError(
            f"settings {unknown} do not travel with weights; expected some of {list(SETTINGS_OF_THE_WEIGHTS)}"
        )
    content = json.loads(config.read_text(encoding="utf-8"))
    content.update({key: value for key, value in settings.items() if key in content})
    config.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")


def _zip_folder(folder: Path, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(file, file.relative_to(folder.parent))
