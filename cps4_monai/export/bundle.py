"""A self-contained bundle: configs, weights and the package in one folder and one zip that run without installation."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import zipfile
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from cps4_monai.atomic_file import write_atomically
from cps4_monai.bundle_root import BUNDLE_STAGE1, BUNDLE_WEIGHTS
from cps4_monai.export.as_trained import FILE_NAME as AS_TRAINED
from cps4_monai.export.as_trained import as_trained, settings_as_trained
from cps4_monai.export.card import card_of_name, card_of_weights, licence_of_data
from cps4_monai.export.facts import WeightsFacts, figures_of
from cps4_monai.export.layout import lay_out
from cps4_monai.export.metadata import SHA256, metadata_of_weights, speaks_of
from cps4_monai.file_hash import check_recorded, file_sha256, record_sha256, sha256_file
from cps4_monai.plan import Plan, plan_of, write_plan

logger = logging.getLogger(__name__)

BUNDLE_NAME = "spine_mri_cps4_segmentation"
ZOO_LIMIT_MB = 25  # the model zoo takes larger files by their address only, in large_files.yml
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "runs", "eval", "mlruns")
_PACKAGE = Path(__file__).resolve().parents[1]
_WHOLE_FOLDERS = ("configs", "docs", _PACKAGE.name)  # the package lies in bundles that were exported before
_MODELS = {
    *(BUNDLE_WEIGHTS, sha256_file(BUNDLE_WEIGHTS), BUNDLE_WEIGHTS.with_name("plan.json")),
    *(BUNDLE_STAGE1, BUNDLE_STAGE1.with_name("plan.json")),
}
_NAMED_LEFT_BEHIND = 8


def export_bundle(
    bundle_root: str | Path,
    output: str | Path,
    weights: str | Path | None = None,
    name: str = BUNDLE_NAME,
    half: bool = False,
    onnx: bool = False,
    evaluation: str | Path | None = None,
    stage1: str | Path | None = None,
) -> Path:
    """Stage the bundle with the package inside, and zip it.

    The zip holds one folder ``name`` in the model-zoo layout; the configs put that folder on the module search path,
    so it runs after unzipping on a machine where the package is not installed. Its metadata, README and licence of the
    data are kept where they are about these very weights (``weights_sha256`` of the metadata); else what they say of
    weights is written anew, from the plan and the evaluation.

    Args:
        bundle_root: the bundle's folder.
        output: path of the zip to write; written beside and renamed, so that it is there whole or not at all.
        weights: state dict to ship as ``models/model.pt``, its ``plan.json`` beside it; default: the bundle's own,
            where there is one.
        name: name of the folder inside the zip.
        half: ship the weights in half precision; every loader converts them back to the network's own.
        onnx: ship the network as ``models/model.onnx``, too (extra ``onnx``).
        evaluation: folder of `cps4 evaluate` of ``weights``, whose figures are stated; None: no figure is.
        stage1: file of a stage 1 to ship with ``weights``, in half precision, so that `cps4 attention` shows its class
            prompts; None: none, but the bundle's own goes with the bundle's own weights.

    Returns:
        Path of the zip.

    Raises:
        ValueError: the bundle or the weights are not there, ``name`` is no name of a folder, a file that is no bundle
            is at ``output``, the weights have no plan or one without their network, the evaluation is of others, the
            network cannot be exported to ONNX, or the stage 1 has no class prompts to show.
    """
    root, output = Path(bundle_root), Path(output)
    if not (root / "configs" / "metadata.json").is_file():
        raise ValueError(f"{root} is no bundle: it has no configs/metadata.json; pass the folder that holds configs")
    if weights is not None and not Path(weights).is_file():
        raise ValueError(f"weights {weights} are not there; pass the best model of a run, such as RUN/stage2/model.pt")
    if output.suffix != ".zip":
        raise ValueError(f"output is {output.name!r}; expected a name that ends in .zip")
    if name in ("", "..") or {PurePosixPath(name).name, PureWindowsPath(name).name} != {name}:
        raise ValueError(
            f"name is {name!r}; expected the name of one folder in the zip, such as {BUNDLE_NAME}, without a path: "
            "where the zip is written says the output"
        )
    if output.exists() and not _is_bundle(output):
        raise ValueError(
            f"{output}: found a file that is no bundle; expected none, or a bundle to replace. Fix: choose another "
            "name, or move it away"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export-") as staging:
        folder = Path(staging) / name
        stage_bundle(root, folder, weights, half, onnx, evaluation, stage1)
        _rename(folder / "docs" / "README.md", name)
        for file in too_large_for_the_zoo(folder):
            logger.warning(
                "%s is larger than %d MB: the model zoo takes it by its address in large_files.yml only",
                file.relative_to(folder),
                ZOO_LIMIT_MB,
            )
        write_atomically(output, lambda beside: _zip_folder(folder, beside))
    return output


def _is_bundle(path: Path) -> bool:
    """Whether a zip holds one folder with a bundle's metadata, as an earlier export does."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(PurePosixPath(name).match("*/configs/metadata.json") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def too_large_for_the_zoo(folder: Path) -> list[Path]:
    """Files of a bundle that the model zoo would not take as they are."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size > ZOO_LIMIT_MB * 2**20)


def stage_bundle(
    root: Path,
    folder: Path,
    weights: str | Path | None,
    half: bool = False,
    onnx: bool = False,
    evaluation: str | Path | None = None,
    stage1: str | Path | None = None,
) -> None:
    """Copy bundle, package and weights with their plan to ``folder``; its texts are about these weights.

    What else lies in ``root`` (results, logs, other weights, label maps) is left behind, with a warning that names it.

    Raises:
        ValueError: the weights have no plan, or one without their network; an evaluation of others; a stage 1 without
            class prompts.
    """
    if stage1 is not None and weights is None:
        raise ValueError("stage1 is given without weights; expected both: a bundle's own goes with its own weights")
    plan = None if weights is None else _plan_to_ship(Path(weights))
    if weights is None and (root / BUNDLE_WEIGHTS).is_file():
        check_recorded(root / BUNDLE_WEIGHTS)
    prompts = None if stage1 is None else _plan_of_stage1(Path(stage1))
    _copy_bundle(root, folder)
    if not (folder / _PACKAGE.name).exists():
        shutil.copytree(_PACKAGE, folder / _PACKAGE.name, ignore=_code_only)
    model = folder / BUNDLE_WEIGHTS
    if weights is not None and plan is not None:
        shutil.rmtree(model.parent, ignore_errors=True)  # nothing of the bundle's own weights stays beside others
        model.parent.mkdir()
        shutil.copyfile(weights, model)
        write_plan(model.parent, plan)
    if model.is_file():
        _fit_configs(folder / "configs", plan_of(model), given=weights is not None)
        _describe(folder, model, evaluation, prompts, given=weights is not None)
        if half and _halve(model):
            _note_halved(folder)
        _sign(folder, model)
    if stage1 is not None and prompts is not None:
        _add_stage1(folder, Path(stage1), prompts)
    if onnx:
        _add_onnx(folder)
    lay_out(folder)


def _copy_bundle(root: Path, folder: Path) -> None:
    """Copies what a bundle is made of, and names what is left behind: a bundle in use holds what is no one else's."""
    left_behind: list[str] = []

    def ignored(place: str, names: list[str]) -> set[str]:
        hidden, parts = _LEFT_OUT(place, names), Path(place).relative_to(root).parts
        foreign = {
            name for name in set(names) - hidden if not _is_of_bundle(root.joinpath(*parts, name), (*parts, name))
        }
        left_behind.extend("/".join((*parts, name)) for name in sorted(foreign))
        return hidden | foreign

    shutil.copytree(root, folder, ignore=ignored)
    if left_behind:
        more = len(left_behind) - _NAMED_LEFT_BEHIND
        named = ", ".join(sorted(left_behind)[:_NAMED_LEFT_BEHIND]) + (f" and {more} more" if more > 0 else "")
        logger.warning("%s: left behind, as no part of the bundle: %s", root, named)


def _is_of_bundle(path: Path, place: tuple[str, ...]) -> bool:
    """Whether a file or folder at ``place`` (its parts below the bundle) is shipped."""
    top, *below = place
    if path.is_dir():
        return top in _WHOLE_FOLDERS or place in (("label_app",), ("models",), BUNDLE_STAGE1.parent.parts)
    if not below:
        return top.startswith(("LICENSE", "NOTICE"))
    if top in _WHOLE_FOLDERS:
        return True
    return Path(*place) in _MODELS or (top == "label_app" and path.suffix == ".py")


def _describe(folder: Path, model: Path, evaluation: str | Path | None, stage1: Plan | None, given: bool) -> None:
    """What the texts say of weights: kept where it is about these, else written from their plans and evaluation."""
    configs, docs = folder / "configs", folder / "docs"
    metadata = json.loads((configs / "metadata.json").read_text(encoding="utf-8"))
    sha256, plan = file_sha256(model), plan_of(model)
    if not given and SHA256 not in metadata:
        logger.warning("%s: metadata.json has no %s; its figures are taken to be of these weights", folder.name, SHA256)
    elif not speaks_of(metadata, sha256):
        facts = WeightsFacts(plan, {} if evaluation is None else figures_of(evaluation, sha256), stage1)
        _write_json(configs / "metadata.json", metadata_of_weights(metadata, facts))
        card = card_of_weights((docs / "README.md").read_text(encoding="utf-8"), facts)
        (docs / "README.md").write_text(card, encoding="utf-8")
        (docs / "data_license.txt").write_text(licence_of_data(facts), encoding="utf-8")


def _fit_configs(configs: Path, plan: Plan, given: bool) -> None:
    """The plan's settings as an overlay of ``train.json``, and its network where no file can be read for it.

    Weights that were given make their run's settings the bundle's own, so that all its verbs fit them.
    """
    base = json.loads((configs / "train.json").read_text(encoding="utf-8"))
    _write_json(configs / AS_TRAINED, as_trained(plan, base))
    if given:
        _set(configs / "train.json", settings_as_trained(plan, base))
    # MONAI's `load` takes the network of a config without knowing where the bundle lies.
    _set(configs / "inference.json", {"network_def": {"_requires_": "@package_path", **(plan.network or {})}})


def _set(config: Path, values: dict[str, Any]) -> None:
    """Writes values into a config, each at its id (``a#b``); one that has them stays as it is laid out."""
    content = json.loads(config.read_text(encoding="utf-8"))
    changed = False
    for key, value in values.items():
        *parts, last = key.split("#")
        place = content
        for part in parts:
            place = place[part]
        if _plain_node(place.get(last)) != _plain_node(value):
            place[last], changed = value, True
    if changed:
        _write_json(config, content)


def _plain_node(node: Any) -> Any:
    """Without MONAI's marks, whose order and presence say nothing of the object."""
    return {key: value for key, value in node.items() if key != "_requires_"} if isinstance(node, dict) else node


def _rename(page: Path, name: str) -> None:
    if page.is_file():
        page.write_text(card_of_name(page.read_text(encoding="utf-8"), name), encoding="utf-8")


def _sign(folder: Path, model: Path) -> None:
    """The SHA-256 of the weights as they are shipped, beside them and in the metadata."""
    digest = record_sha256(model)
    path = folder / "configs" / "metadata.json"
    metadata = json.loads(path.read_text(encoding="utf-8"))
    if not speaks_of(metadata, digest):
        _write_json(path, {**metadata, SHA256: digest})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")


def _code_only(folder: str, names: list[str]) -> set[str]:
    """Without the bundle, which here is what the package is copied into, and the 2 MB of the reports' viewer."""
    data = {_PACKAGE: {"bundle"}, _PACKAGE / "report": {"niivue"}}.get(Path(folder), set())
    return data & set(names) | _LEFT_OUT(folder, names)


def _plan_to_ship(weights: Path) -> Plan:
    plan = plan_of(weights)
    if plan.network is None:
        raise ValueError(
            f"{weights}: its plan does not say how to build the network; give its class a method arguments() that "
            "returns the constructor's arguments in plain values, and train again"
        )
    return plan


def _halve(model: Path) -> bool:
    """Stores the weights in half precision; whether that changed them."""
    import torch

    weights = torch.load(model, map_location="cpu", weights_only=True)
    halved = _in_half(weights)
    torch.save(halved, model)
    return any(halved[name].dtype != value.dtype for name, value in weights.items())


def _note_halved(folder: Path) -> None:
    """Says of the figures, in metadata and card, that they are of the weights before."""
    path, page = folder / "configs" / "metadata.json", folder / "docs" / "README.md"
    metadata = json.loads(path.read_text(encoding="utf-8"))
    figures = metadata.get("eval_metrics") or {}
    conditions = figures.get("conditions")
    if not conditions:
        if figures:
            logger.warning("%s: eval_metrics has no conditions that say the figures are of full precision", folder.name)
        return
    told = f"{conditions}; measured before the weights were stored in half precision"
    _write_json(path, {**metadata, "eval_metrics": {**figures, "conditions": told}})
    page.write_text(page.read_text(encoding="utf-8").replace(conditions, told), encoding="utf-8")


def _in_half(weights: dict[str, Any]) -> dict[str, Any]:
    return {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}


def _plan_of_stage1(file: Path) -> Plan:
    from cps4_monai.vision.stage1_file import holds_prompted_vision

    if not holds_prompted_vision(file):
        raise ValueError(
            f"{file}: holds an assistant of templates, which has no class prompts to show; leave it out of the bundle"
        )
    return plan_of(file)


def _add_stage1(folder: Path, file: Path, plan: Plan) -> None:
    """The image side of stage 1 in half precision, its plan beside it; loading makes it float32 again."""
    import torch

    from cps4_monai.vision.checkpoint import read_prompted_vision

    content, shipped = read_prompted_vision(file), folder / BUNDLE_STAGE1
    shutil.rmtree(shipped.parent, ignore_errors=True)  # one that the bundle had
    write_plan(shipped.parent, plan)
    torch.save({**content, "weights": _in_half(content["weights"])}, shipped)


def _add_onnx(folder: Path) -> None:
    """The staged weights as ONNX, checked against torch."""
    import torch

    from cps4_monai.inference.bundle import open_bundle
    from cps4_monai.networks.onnx_export import check_onnx, to_onnx

    bundle = open_bundle(folder)
    network = bundle.build_network(torch.device("cpu"))
    content = to_onnx(network, {"weights_sha256": bundle.sha256})
    check_onnx(content, network)
    (folder / "models" / "model.onnx").write_bytes(content)


def _zip_folder(folder: Path, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(file, file.relative_to(folder.parent))
