"""The bundle workflow that finds its own configs and refuses settings that nothing reads."""

from __future__ import annotations

import copy
import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS

from cps4_monai.bundle_root import find_bundle_root

DEFAULT_CONFIG = "train.json"
_REFERENCE = re.compile(r"@([A-Za-z_][\w#.]*)")


def resolve_config(name: str | Path, bundle_root: Path) -> Path:
    """Path of a config given by path, by file name in ``configs``, or by bare name (``mean_teacher``).

    Raises:
        FileNotFoundError: no such file; the message lists the configs there are.
    """
    configs = bundle_root / "configs"
    given = Path(name)
    candidates = [given, configs / given, configs / "methods" / given]
    candidates += [path.with_name(path.name + ".json") for path in candidates]
    for path in candidates:
        if path.is_file():
            return path
    known = sorted(str(p.relative_to(configs)) for p in configs.rglob("*.json"))
    raise FileNotFoundError(f"no config called {str(name)!r}; give a path, or one of {known}")


class CPS4Workflow(ConfigWorkflow):
    """``ConfigWorkflow`` that needs no path and lets no unknown setting pass.

    Args:
        config_file: configs merged in order, by path or by name; default ``train.json`` of the bundle.
        bundle_root: the bundle's folder; default: the one found beside the package.
        overlays: further configs (paths or names such as ``mean_teacher``) merged after ``config_file``.
        check_settings: refuse settings that the configs neither define nor refer to.
        run_id: expression to run, e.g. ``training_stage1``.
        workflow_type: "train" or "inference": which properties MONAI expects of the configs.
        tracking: as MONAI's; "mlflow" follows the engines of the stage that runs.
        override: id-value pairs, e.g. ``dataset_dir="data"`` or ``**{"stage1#max_epochs": 10}``.

    Raises:
        FileNotFoundError: a config or the bundle is not there.
        ValueError: an override or an overlay has a setting that does not exist; the message names the nearest ones.
    """

    def __init__(
        self,
        config_file: str | Sequence[str] | None = None,
        bundle_root: str | None = None,
        overlays: str | Sequence[str] = (),
        check_settings: bool = True,
        run_id: str = "run",
        workflow_type: str | None = "train",
        tracking: str | dict | None = None,
        **override: Any,
    ) -> None:
        root = Path(bundle_root) if bundle_root is not None else find_bundle_root()
        names = [config_file or DEFAULT_CONFIG] if isinstance(config_file, str | type(None)) else list(config_file)
        extra = [overlays] if isinstance(overlays, str) else list(overlays)
        files = [str(resolve_config(name, root)) for name in [*names, *extra]]
        if check_settings:
            _refuse_unknown_settings(files, override)
        super().__init__(
            config_file=files if len(files) > 1 else files[0],
            run_id=run_id,
            workflow_type=workflow_type,
            tracking=tracking_settings(run_id) if tracking == "mlflow" else tracking,
            **{"meta_file": str(root / "configs" / "metadata.json"), "bundle_root": str(root), **override},
        )


def tracking_settings(run_id: str) -> dict[str, Any]:
    """MONAI's MLflow settings with the engines of the stage that runs.

    MONAI patches only ``train#trainer`` and ``validate#evaluator``, which here are stage 2; stage 1 has ids of its own.
    """
    settings = copy.deepcopy(DEFAULT_EXP_MGMT_SETTINGS["mlflow"])
    if run_id == "training_stage1":
        settings["handlers_id"] = {
            "trainer": {"id": "stage1#train#trainer", "handlers": "stage1#train#handlers"},
            "validator": {"id": "stage1#validate#evaluator", "handlers": "stage1#validate#handlers"},
        }
        settings["configs"]["trainer"]["output_transform"] = "$monai.handlers.from_engine(['loss'], first=True)"
    return settings


def parse_settings(pairs: Iterable[str]) -> dict[str, Any]:
    """``ID=VALUE`` pairs of a command line to overrides; values are read as JSON where they are JSON, else as text.

    Raises:
        ValueError: a pair without "=".
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise ValueError(f"setting {pair!r} is not of the form ID=VALUE, e.g. stage1#max_epochs=50")
        try:
            settings[key] = json.loads(value)
        except json.JSONDecodeError:
            settings[key] = value
    return settings


def user_error(error: BaseException) -> BaseException | None:
    """The ValueError, TypeError or OSError behind what MONAI's config parser raised, if there is one."""
    cause: BaseException | None = error
    found = None
    while cause is not None:
        if isinstance(cause, ValueError | TypeError | OSError):
            found = cause
        cause = cause.__cause__
    return found


_CONSTRUCTOR_ARGUMENTS = {"meta_file", "logging_file", "init_id", "final_id", "properties_path"}


def _refuse_unknown_settings(files: Sequence[str], override: Mapping[str, Any]) -> None:
    layers = [json.loads(Path(f).read_text(encoding="utf-8")) for f in files]
    known: set[str] = set()
    referenced: set[str] = set()
    for file, layer in zip(files, layers, strict=True):
        referenced |= set(_references(layer))
        if known:
            _raise_if_unknown(layer, known, referenced, layers, f"config {file}")
        known |= set(_setting_ids(layer))
    for value in override.values():
        referenced |= set(_references(value))
    pairs = [key for key in override if key not in _CONSTRUCTOR_ARGUMENTS]
    _raise_if_unknown(pairs, known, referenced, layers, "the command")


def _is_argument(setting: str, layers: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the setting is an argument of an object that a config builds: its own class checks the name."""
    parent = setting.rpartition("#")[0]
    for layer in layers:
        node: Any = layer
        for part in parent.split("#") if parent else ():
            node = node.get(part) if isinstance(node, Mapping) else None
        if parent and isinstance(node, Mapping) and "_target_" in node:
            return True
    return False


def _raise_if_unknown(
    settings: Iterable[str], known: set[str], referenced: set[str], layers: Sequence[Mapping[str, Any]], where: str
) -> None:
    read = referenced | {ref.rpartition("#")[0] for ref in referenced}
    for setting in settings:
        plain = setting.removeprefix("+").removeprefix("~")
        if plain in known or plain in read or plain.startswith("_") or _is_argument(plain, layers):
            continue
        if any(_is_run_id(layer.get(plain)) for layer in layers):
            continue
        near = difflib.get_close_matches(plain, sorted(known), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "see the configs for the settings there are"
        raise ValueError(f"{where} sets {setting!r}, which no config defines or reads: {hint}")


def _is_run_id(value: Any) -> bool:
    """Whether a value is a list of expressions: something to run, which nothing else need refer to."""
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) and v[:1] in "$@" for v in value)


def _setting_ids(node: Any, prefix: str = "") -> Iterator[str]:
    items: Iterator[tuple[str, Any]]
    if isinstance(node, Mapping):
        items = iter(node.items())
    elif isinstance(node, list):
        items = ((str(i), v) for i, v in enumerate(node))
    else:
        return
    for key, value in items:
        path = f"{prefix}#{key}" if prefix else str(key)
        yield path
        yield from _setting_ids(value, path)


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield from (m.rstrip(".").split(".")[0] for m in _REFERENCE.findall(node))
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)
