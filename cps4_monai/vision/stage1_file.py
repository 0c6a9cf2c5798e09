"""The file between the stages: what every kind of it holds, and how it is held against the settings of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from cps4_monai.anatomy import Anatomy, load_anatomy
from cps4_monai.atomic_file import write_atomically
from cps4_monai.plan import Plan

logger = logging.getLogger(__name__)
PROMPTED_VISION = "cps4_monai.prompted_vision"
ASSISTANT = "cps4_monai.assistant"
NAME = "stage-1 file"  # in messages and in the record of what a run was trained with
VERSION = 1
KEYS = ("anatomy", "arguments", "image_size", "unannotated", "weights")


class Stage1Model(Protocol):
    """What stage 1 leaves, of any kind.

    Attributes:
        objective: what it was trained by; empty where nothing is known.
        substitution: what stood in place of data that the objective was published with; None: nothing.
    """

    objective: str
    substitution: str | None

    @property
    def num_classes(self) -> int:
        """Background included."""

    @property
    def arguments(self) -> dict[str, Any]:
        """With which it is built again."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of a slice in pixels."""

    @property
    def unannotated(self) -> Sequence[int]:
        """Codes that no label shows."""

    def state_dict(self) -> Mapping[str, Any]:
        """Its weights."""


def write_stage1_file(
    path: str | Path, kind: str, model: Stage1Model, anatomy: Anatomy, plan: Plan | None, **own: Any
) -> None:
    """Writes the result of stage 1; a file that is there already is replaced only by a complete one.

    Args:
        path: the file; its folder is made where it does not exist.
        kind: its ``format``.
        model: what was trained.
        anatomy: the classes and prompts that it was trained with.
        plan: of the run: spacing, in-plane mode and percentiles of the slices that it saw, and what they were.
        **own: what this kind holds besides.

    Raises:
        ValueError: the model has another number of classes than the anatomy.
        OSError: the folder cannot be written or the disk is full; the earlier file is still whole.
    """
    if model.num_classes != anatomy.num_classes:
        raise ValueError(
            f"the model of stage 1 has {model.num_classes} classes and the anatomy {anatomy.num_classes}. Fix: pass "
            "the anatomy whose prompts the model was built with"
        )
    content = {
        "format": kind,
        "version": VERSION,
        "anatomy": anatomy.to_dict(),
        "arguments": model.arguments,
        "image_size": list(model.image_size),
        "unannotated": list(model.unannotated),
        "plan": None if plan is None else plan.to_dict(),
        "objective": {"name": model.objective, "substitution": model.substitution},
        "weights": {key: value.detach().cpu() for key, value in model.state_dict().items()},
        **own,
    }
    write_atomically(path, lambda beside: torch.save(content, beside))


def read_stage1_file(
    path: str | Path, kind: str, map_location: str | torch.device = "cpu", own: Sequence[str] = ()
) -> dict[str, Any]:
    """The content of a file between the stages, of tensors and plain types only.

    Args:
        path: the file.
        kind: its ``format``.
        map_location: device of the tensors.
        own: what this kind must hold besides.

    Raises:
        ValueError: no such file, or another kind of file.
    """
    content: dict[str, Any] = _read(path, map_location)
    _check_content(path, content, kind, own)
    return content


def read_any_stage1_file(path: str | Path) -> dict[str, Any]:
    """As :func:`read_stage1_file`, whatever stage 1 it is of.

    Raises:
        ValueError: no such file, or another kind of file.
    """
    content: dict[str, Any] = _read(path, "cpu")
    _check_content(path, content, ASSISTANT if _is_assistants(content) else PROMPTED_VISION)
    return content


def check_run(
    path: str | Path,
    content: Mapping[str, Any],
    anatomy: Anatomy | None,
    unannotated: Sequence[int] | None,
    image_size: Sequence[int] | None,
    plan: Plan | None,
) -> None:
    """Holds a file between the stages against the settings of a run; what is None is not compared.

    Args:
        path: of the file.
        content: what it holds.
        anatomy: classes and prompts of the run.
        unannotated: codes that the run leaves out; must cover those that stage 1 did not train.
        image_size: (H, W) of the run's slices.
        plan: of the run, whose slices must have the pixels of stage 1's; a file without is not compared.

    Raises:
        ValueError: settings that differ from stage 1's; says which and the fix.
    """
    _check_settings(path, content, anatomy, unannotated, image_size)
    _check_pixels(path, content.get("plan"), plan)


ModuleT = TypeVar("ModuleT", bound=nn.Module)


def restored(path: str | Path, content: Mapping[str, Any], build: Callable[[], ModuleT]) -> ModuleT:
    """The model of a file between the stages, with its weights, its path and by which objective they were trained.

    Args:
        path: of the file, for messages.
        content: what it holds.
        build: makes the model of the content's description; its KeyError and TypeError mean that it cannot.

    Raises:
        ValueError: the weights do not fit the description.
    """
    try:
        model = build()
        model.load_state_dict(content["weights"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"stage-1 checkpoint {path}: its weights do not fit its own description "
            f"({' '.join(str(error).split())[:300]}); it is damaged or of another version of cps4_monai. Fix: run "
            "training_stage1 again"
        ) from error
    recorded = content.get("objective", {})
    model.objective, model.substitution = recorded.get("name", ""), recorded.get("substitution")
    model.path = Path(path)  # type: ignore[assignment]  # of an attribute that nn.Module does not foresee
    for name, text in objective_of(path, content).items():
        logger.info("%s of %s: %s", name, path, text)
    return model


def files_of(model: Any) -> dict[str, Path]:
    """Which file a model of stage 1 was read from, by ``NAME``; empty where it was made in memory."""
    path = getattr(model, "path", None)
    return {} if path is None else {NAME: path}


def holds_prompted_vision(path: str | Path) -> bool:
    """Whether a file between the stages has attention maps of class prompts to show; an assistant's has none.

    Raises:
        ValueError: no such file, or one that cannot be read.
    """
    return not _is_assistants(_read(path, "cpu"))


def _is_assistants(content: Any) -> bool:
    return isinstance(content, dict) and content.get("format") == ASSISTANT


def objective_of(path: str | Path, content: Mapping[str, Any] | None = None) -> dict[str, str]:
    """By which objective a stage-1 checkpoint was trained, for a report: name -> text.

    Args:
        path: of the checkpoint.
        content: what it holds; None: it is read.

    Returns:
        "stage 1", the objective, and where there is any "stage 1, stand-in", what stood in place of data that it was
        published with; empty where the file does not say.

    Raises:
        ValueError: no such file, or another kind of file.
    """
    if content is None:
        content = read_any_stage1_file(path)
    recorded = content.get("objective", {})
    told = {"stage 1": recorded.get("name"), "stage 1, stand-in": recorded.get("substitution")}
    return {name: text for name, text in told.items() if text}


_FIX = (
    "give the file that training_stage1 wrote, RUN/stage1/prompted_vision.pt (to stage 2 as stage1_checkpoint), or "
    "run training_stage1 first"
)


def _read(path: str | Path, map_location: str | torch.device) -> Any:
    """Whatever the file holds, of tensors and plain types.

    Raises:
        ValueError: no such file, or one that holds other things.
    """
    if not Path(path).is_file():
        raise ValueError(f"stage-1 checkpoint {path} does not exist; {_FIX}")
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # torch.load answers damage by nearly any of them
        reason = str(error).strip().split("\n")[0][:200]
        raise ValueError(f"stage-1 checkpoint {path} cannot be read ({reason}); {_FIX}") from error


def _check_content(path: str | Path, content: Any, kind: str, keys: Sequence[str] = ()) -> None:
    """Refuses what is no content of a file between the stages of this kind; see :func:`read_stage1_file`."""
    if not isinstance(content, dict) or content.get("format") != kind:
        holds = f"keys {sorted(map(str, content))[:6]}" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise ValueError(f"{path} is no stage-1 checkpoint (it holds {holds}, expected format {kind!r}); {_FIX}")
    missing = [key for key in (*KEYS, *keys) if key not in content]
    if content.get("version") != VERSION or missing:
        raise ValueError(
            f"stage-1 checkpoint {path} is version {content.get('version')} without {missing or 'gaps'}; this "
            f"cps4_monai reads version {VERSION}: run training_stage1 again, or install the version that wrote it"
        )


def _check_pixels(path: str | Path, stored: dict[str, Any] | None, plan: Plan | None) -> None:
    """Refuses slices of another spacing, mode or intensity scale than those that stage 1 saw."""
    if stored is None or plan is None:
        return
    differences = plan.differences(Plan.from_dict(stored, str(path)))
    if differences:
        raise ValueError(
            f"stage-1 checkpoint {path} was trained on other pixels than this run's ({'; '.join(differences)}); set "
            "these to stage 1's, or run training_stage1 again with this run's settings"
        )


def _check_settings(
    path: str | Path,
    content: Mapping[str, Any],
    anatomy: Anatomy | None,
    unannotated: Sequence[int] | None,
    image_size: Sequence[int] | None,
) -> None:
    """Holds stage 1's classes, prompts, unannotated codes and image size against this run's."""
    fix = "or run training_stage1 again with this run's settings"
    stored = load_anatomy(content["anatomy"], stored=True)
    if anatomy is not None:
        if stored.num_classes != anatomy.num_classes or stored.names != anatomy.names:
            raise ValueError(
                f"stage-1 checkpoint {path} has the {stored.num_classes} classes {stored.names}; this run's anatomy "
                f"has {anatomy.num_classes}, {anatomy.names}: set `anatomy_source` to the one that stage 1 used, {fix}"
            )
        for code, (theirs, ours) in enumerate(zip(stored.prompts, anatomy.prompts, strict=True)):
            if theirs != ours:
                raise ValueError(
                    f"stage-1 checkpoint {path} was trained with the prompt {theirs!r} for class {code}; this run has "
                    f"{ours!r}: set `prompt_template` and `anatomy_source` to those of stage 1, {fix}"
                )
    if unannotated is not None:
        untrained = sorted(set(content["unannotated"]) - set(unannotated))
        if untrained:
            names = [stored.names[code] for code in untrained]
            raise ValueError(
                f"stage-1 checkpoint {path} was trained without classes {untrained} ({', '.join(names)}); this run "
                f"treats them as annotated, unannotated being {sorted(unannotated)}: name them under `unannotated` in "
                f"the datalist, {fix}"
            )
    if image_size is not None and list(image_size) != list(content["image_size"]):
        raise ValueError(
            f"stage-1 checkpoint {path} takes slices of {tuple(content['image_size'])} (H, W); this run's `slice_size` "
            f"is {tuple(image_size)}: set it to stage 1's, {fix}"
        )
