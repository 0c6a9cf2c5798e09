"""The bundle workflow that finds its own configs and refuses settings that nothing reads."""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow

from cps4_monai.atomic_file import write_atomically
from cps4_monai.bundle_root import find_bundle_root
from cps4_monai.failure import cause_of, is_told, one_line, write_traceback
from cps4_monai.fingerprint import PLACES_AND_PACE
from cps4_monai.known_settings import read_settings, refuse_unknown_settings, unread_settings
from cps4_monai.preflight import check_output_dir
from cps4_monai.run_folder import RECORD
from cps4_monai.training_lock import alone_in

logger = logging.getLogger(__name__)

DEFAULT_CONFIG = "train.json"
RUN_CONFIG = "config.json"
_ALWAYS_BUILT = ("imports", "initialize", "finalize", "evaluation_dir", "rank")
_OF_STAGE1 = ("@stage1#stage", "@stage1#network", "@training_stage1", "@set_stage1_aside")
_TRAINING = ("training_", "pretraining")
_NOT_WARNED_OF = {*PLACES_AND_PACE, "output_root"}
_FLOAT = re.compile(r"[+-]?(\d+\.|\.\d+)([eE][+-]?\d+)?")
_PLACE_OF_CONFIGS = "Not all config files are in "  # a warning of MONAI's, of a place that it is told here anyway
_WORKFLOWS = ("monai.bundle.workflows",)
_ENGINES = (
    "monai.handlers.StatsHandler",
    *(f"ignite.engine.engine.{name}" for name in ("SupervisedEvaluator", "SemiSupervisedTrainer")),
)
_PYTHON_NAMES = {"None": "null", "True": "true", "False": "false"}
_PATHS = ("datalist", "dataset_dir", "output_dir", "cache_dir", "stage1_checkpoint", "anatomy_source", "finetune_from")
_MORE_PATHS = ("evaluation_dir", "output_root", "checkpoint", "finetune#output_dir")


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
    known = sorted(p.stem for p in configs.rglob("*.json"))
    close = difflib.get_close_matches(given.stem, known, n=3)
    meant = f"did you mean {' or '.join(close)}? Else give" if close else f"expected one of {known}, or"
    raise FileNotFoundError(f"no config called {str(name)!r}; {meant} the path of a file")


def check_settings(overlays: Sequence[str | Path], given: Mapping[str, Any]) -> None:
    """Refuses settings that the bundle's training config and these overlays neither define nor refer to.

    A workflow does it, too; this is for who has something to do before there is one.

    Raises:
        FileNotFoundError: there is no such overlay.
        ValueError: names the setting and the nearest ones.
    """
    root = find_bundle_root()
    refuse_unknown_settings([str(resolve_config(name, root)) for name in (DEFAULT_CONFIG, *overlays)], given)


def read_overlays(names: Sequence[str | Path]) -> dict[Path, dict[str, Any]]:
    """Path and settings of each overlay by which the bundle of this package is trained; MONAI's "+" and "~" left out.

    Raises:
        FileNotFoundError: there is no such overlay.
        ValueError: one holds no settings.
    """
    paths = [resolve_config(name, find_bundle_root()) for name in names]
    return {
        path: {key.lstrip("+~"): value for key, value in read_settings(path).items() if key != ConfigParser.meta_key}
        for path in paths
    }


class CPS4Workflow(ConfigWorkflow):
    """``ConfigWorkflow`` that needs no path, lets no unknown setting pass, and warns of one that its run does not read.

    A training or evaluation run keeps the merged config as ``config.json`` in its folder: what `cps4 evaluate` reads.
    Without ``output_dir`` a run goes to ``runs/cps4`` of the working directory; with ``bundle_root``, of that folder.

    Args:
        config_file: configs merged in order, by path or by name; default ``train.json`` of the bundle.
        bundle_root: the bundle's folder; default: the one found beside the package.
        overlays: further configs (paths or names such as ``mean_teacher``) merged after ``config_file``.
        run_id: expression to run, e.g. ``training_stage1``.
        workflow_type: "train" or "inference": which properties MONAI expects of the configs.
        also_read_by: further run ids of one command: what they read is not warned of.
        also_given: settings of overlays that are to be warned of as those of ``override`` are; overlays are written for
            several stages as a rule, so that theirs are not.
        tracking: as MONAI's; "mlflow" takes the bundle's ``configs/mlflow.json``, which follows both stages. (MONAI's
            own settings follow ``train#trainer`` and ``validate#evaluator`` only, which here are stage 2.)
        override: id-value pairs, e.g. ``dataset_dir="data"`` or ``**{"stage1#max_epochs": 10}``.

    Raises:
        FileNotFoundError: a config or the bundle is not there.
        ValueError: an override or an overlay has a setting that does not exist; the message names the nearest ones.
    """

    properties: Any = None  # MONAI's attribute access asks for both, also where its constructor was not reached
    parser: Any = None

    def __init__(
        self,
        config_file: str | Sequence[str] | None = None,
        bundle_root: str | None = None,
        overlays: str | Sequence[str] = (),
        run_id: str = "run",
        workflow_type: str | None = "train",
        also_read_by: Sequence[str] = (),
        also_given: Sequence[str] = (),
        tracking: str | dict[str, Any] | None = None,
        **override: Any,
    ) -> None:
        override = {key: _as_written(key, value) for key, value in override.items()}
        self._output_dir: str | None = override.get("output_dir")
        self._given, self._also_read_by = [*override, *also_given], list(also_read_by)
        with self._told():
            root = Path(bundle_root) if bundle_root is not None else find_bundle_root()
            names = [config_file or DEFAULT_CONFIG] if isinstance(config_file, str | type(None)) else list(config_file)
            extra = [overlays] if isinstance(overlays, str) else list(overlays)
            files = [str(resolve_config(name, root)) for name in [*names, *extra]]
            refuse_unknown_settings(files, override)
            if bundle_root is None and ConfigParser.load_config_files(files).get("output_root") == "@bundle_root":
                override = {"output_root": os.getcwd(), **override}
            with _without(_says_place, _WORKFLOWS):
                super().__init__(
                    config_file=files if len(files) > 1 else files[0],
                    run_id=run_id,
                    workflow_type=workflow_type,
                    tracking=str(root / "configs" / "mlflow.json") if tracking == "mlflow" else tracking,
                    **{**_beside_configs(root), "bundle_root": str(root), **override},
                )
            self._pass_over_unused_stage1()

    def initialize(self) -> Any:
        """As MONAI's, with errors as :meth:`run` has them."""
        with self._told():
            return super().initialize()

    def run(self) -> Any:
        """Runs, with the merged config in the run's folder.

        Raises:
            ValueError: a setting, a file or a folder that cannot be used. It is the cause itself, not what MONAI's
                parser made of it; the whole traceback is in ``error.log`` of the run's folder.
            SystemExit: the same, in one line, under ``python -m monai.bundle``.
        """
        with self._told(), self._config_in_folder():
            self._warn_of_unread()
            return super().run()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors end with their cause: one line in a terminal, the exception itself in Python."""
        try:
            with _without(_says_exception, _ENGINES if _is_command() else ()):
                yield
        except Exception as error:
            log = write_traceback(error, self._folder())
            if _is_command():
                raise SystemExit(f"Error: {one_line(error)}\nThe traceback is in {log}.") from None
            logger.debug("traceback in %s", log)
            cause = cause_of(error)
            if cause is error or not is_told(cause):
                raise
            raise cause from None

    @property
    def asks_for_prompts(self) -> bool:
        """Whether stage 2 has a provider, and so a stage 1 before it."""
        return "train#provider" not in self.parser or self.parser["train#provider"] is not None

    def _pass_over_unused_stage1(self) -> None:
        """``run`` trains both stages: without the first where the method of the second has no provider."""
        both = self.parser.get("run")
        if self.run_id != "run" or not isinstance(both, list) or self.asks_for_prompts:
            return
        left = [step for step in both if step not in _OF_STAGE1]
        if left != both:
            self.parser["run"] = left
            logger.info("the method asks for no prompts (train#provider is null): no stage 1 is trained")

    def _warn_of_unread(self) -> None:
        """One line for all settings of the command that this run does not read; those of places are everywhere."""
        parsed = self.parser.get_parsed_content
        if "rank" in self.parser and parsed("rank") > 0:
            return
        config, run_id = self.parser.get(), self.run_id
        read_by = [run_id, *self._also_read_by, *_ALWAYS_BUILT]
        unread = unread_settings(config, read_by, [name for name in self._given if name not in _NOT_WARNED_OF])
        if not unread:
            return
        trainings = [name for name in config if name.startswith(_TRAINING)]
        others = [name for name in trainings if unread_settings(config, [name], unread) != unread]
        elsewhere = f"train with {' or '.join(others)}" if others else "choose a method that reads it"
        logger.warning(
            "%s does not read %s: what is set there changes nothing. Fix: nothing, if it is for another stage or "
            "method; else leave it out, or %s (`cps4 methods NAME` shows the settings of a method)",
            *(run_id, ", ".join(unread), elsewhere),
        )

    def _folder(self) -> Path | None:
        """The run's folder, where the config says one; nothing is built for it."""
        if self._output_dir is not None:
            return Path(str(self._output_dir))  # MONAI takes "2025" for a number
        if self.parser is None:
            return None
        try:
            return Path(str(self.parser.get_parsed_content("output_dir")))
        except Exception:  # the config itself may be what is wrong
            return None

    @contextmanager
    def _config_in_folder(self) -> Iterator[None]:
        """Writes ``config.json``; one that was there comes back where this run is refused before it trains."""
        folder = self._config_folder()
        if folder is None:
            yield
            return
        with nullcontext() if "evaluation_dir" in self.parser else alone_in(folder), self._config_at(folder):
            yield

    @contextmanager
    def _config_at(self, folder: Path) -> Iterator[None]:
        path, records = folder / RUN_CONFIG, _records(folder)
        before = path.read_bytes() if path.is_file() else None
        content = dict(self.parser.get())
        for key in _PATHS:  # read again from another working directory
            if isinstance(content.get(key), str) and Path(content[key]).exists():
                content[key] = str(Path(content[key]).resolve())
        write_atomically(path, lambda beside: ConfigParser.export_config_file(content, str(beside), "json", indent=1))
        try:
            yield
        except BaseException:  # Ctrl-C among them
            if before is not None and _records(folder) == records:
                write_atomically(path, before)
            raise

    def _config_folder(self) -> Path | None:
        """Where ``config.json`` goes, made where it is not there; None where this process writes none."""
        parsed = self.parser.get_parsed_content
        if self.workflow_type != "train" or ("rank" in self.parser and parsed("rank") > 0):
            return None
        if "evaluation_dir" not in self.parser:
            return check_output_dir(parsed("output_dir"), 0)
        folder = Path(parsed("evaluation_dir"))
        if trainings := sorted(str(path.relative_to(folder)) for path in _records(folder)):
            raise ValueError(
                f"evaluation_dir {folder} holds a training ({', '.join(trainings)}), whose {RUN_CONFIG} would be "
                "replaced; expected a folder for results. Fix: choose another one (-o), or leave it out: results then "
                "go to a folder of their own within the run"
            )
        return check_output_dir(folder, 0)


def _records(folder: Path) -> dict[Path, bytes]:
    """What the trainings in a run's folder say of their starts."""
    return {path: path.read_bytes() for path in folder.glob(f"*/{RECORD}")}


def _beside_configs(root: Path) -> dict[str, str]:
    """MONAI looks for both files beside the first config, which may be that of an earlier run."""
    logging_file = root / "configs" / "logging.conf"
    settings = {"meta_file": str(root / "configs" / "metadata.json")}
    return {**settings, "logging_file": str(logging_file)} if logging_file.is_file() else settings


def _says_place(record: logging.LogRecord) -> bool:
    """That MONAI would look for metadata and logging beside the first config: it is told where they are."""
    return record.getMessage().startswith(_PLACE_OF_CONFIGS)


def _says_exception(record: logging.LogRecord) -> bool:
    """What engines and MONAI's handlers log of an exception before it is told in one line: its traceback, twice."""
    return record.levelno == logging.ERROR and "xception: " in record.getMessage()


@contextmanager
def _without(unwanted: Callable[[logging.LogRecord], bool], loggers: Sequence[str]) -> Iterator[None]:
    """Leaves records of these loggers out."""

    def is_wanted(record: logging.LogRecord) -> bool:
        return not unwanted(record)

    for name in loggers:
        logging.getLogger(name).addFilter(is_wanted)
    try:
        yield
    finally:
        for name in loggers:
            logging.getLogger(name).removeFilter(is_wanted)


def run_workflow(*args: Any, **options: Any) -> CPS4Workflow:
    """Builds a :class:`CPS4Workflow` of these arguments, runs it, and gives it back, for what its config holds."""
    workflow = CPS4Workflow(*args, **options)
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return workflow


def parse_settings(pairs: Iterable[str]) -> dict[str, Any]:
    """``ID=VALUE`` pairs of a command line to overrides.

    Values are read as JSON where they are JSON (``null`` unsets a setting), Python's ``None``, ``True`` and ``False``
    are taken for JSON's, and the rest is text.

    Raises:
        ValueError: a pair without "="; a list or mapping that is not JSON.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise ValueError(f"setting {pair!r} is not of the form ID=VALUE, e.g. stage1#max_epochs=50")
        try:
            settings[key] = json.loads(_PYTHON_NAMES.get(value, value))
        except json.JSONDecodeError as error:
            if _FLOAT.fullmatch(value):  # .5 and 1., which JSON does not have
                settings[key] = float(value)
                continue
            if value.startswith(("{", "[")):
                raise ValueError(
                    f"setting {key}: {value!r} is no JSON ({error}). Fix: write lists and mappings as JSON, with "
                    """names in double quotes, e.g. --set 'geometry={"rotate_deg": 10}'"""
                ) from error
            settings[key] = value
    return settings


def _as_written(key: str, value: Any) -> Any:
    """The name of a file or folder as it stands in the command, where MONAI's command line made a number of it.

    ``--output_dir 2025_01`` is 202501 there, and ``1e3`` is 1000.0.
    """
    if key not in (*_PATHS, *_MORE_PATHS) or isinstance(value, bool) or not isinstance(value, int | float):
        return value
    words = sys.argv if _is_command() else []
    texts = [after for word, after in pairwise(words) if word == f"--{key}"]
    texts += [word.partition("=")[2] for word in words if word.startswith(f"--{key}=")]
    return texts[-1] if texts else str(value)


def _is_command() -> bool:
    """Whether this process is ``python -m monai.bundle``, whose user reads a terminal."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name in ("monai.bundle", "monai.bundle.__main__")
