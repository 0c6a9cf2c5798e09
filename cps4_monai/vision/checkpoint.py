"""The file between the stages: the trained image side and its prompt embeddings, as tensors and plain types."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cps4_monai.anatomy import Anatomy, load_anatomy
from cps4_monai.atomic_file import write_atomically
from cps4_monai.plan import Plan
from cps4_monai.vision.projection import PROJECTIONS
from cps4_monai.vision.prompted import PromptedVision

logger = logging.getLogger(__name__)
FORMAT = "cps4_monai.prompted_vision"
ASSISTANT_FORMAT = "cps4_monai.assistant"
VERSION = 1
KEYS = ("anatomy", "arguments", "image_size", "unannotated", "weights")


def save_prompted_vision(path: str | Path, model: PromptedVision, anatomy: Anatomy, plan: Plan | None = None) -> None:
    """Writes the result of stage 1; a file that is there already is replaced only by a complete one.

    Args:
        path: the file; its folder is made where it does not exist.
        model: the frozen image side, from ``VisionLanguageModel.freeze()``.
        anatomy: the classes and prompts that it was trained with.
        plan: of the run: spacing, in-plane mode and percentiles of the slices that it saw, and what they were.

    Raises:
        ValueError: the model has another number of classes than the anatomy.
        OSError: the folder cannot be written or the disk is full; the earlier file is still whole.
    """
    if model.num_classes != anatomy.num_classes:
        raise ValueError(
            f"the model has {model.num_classes} prompt embeddings and the anatomy {anatomy.num_classes} classes; pass "
            "the anatomy whose prompts the model was built with"
        )
    content = {
        "format": FORMAT,
        "version": VERSION,
        "anatomy": anatomy.to_dict(),
        "arguments": model.arguments,
        "image_size": list(model.image_size),
        "unannotated": list(model.unannotated),
        "activation": model.activation,
        "plan": None if plan is None else plan.to_dict(),
        "objective": {"name": model.objective, "substitution": model.substitution},
        "weights": {key: value.detach().cpu() for key, value in model.state_dict().items()},
    }
    write_atomically(path, lambda beside: torch.save(content, beside))


def load_prompted_vision(
    path: str | Path,
    anatomy: Anatomy | None = None,
    unannotated: Sequence[int] | None = None,
    image_size: Sequence[int] | None = None,
    map_location: str | torch.device = "cpu",
    activation: str | None = None,
    plan: Plan | None = None,
    objective: str | None = None,
) -> PromptedVision:
    """The frozen image side of stage 1, held against the settings of this run.

    Args:
        path: a file of :func:`save_prompted_vision`.
        anatomy: classes and prompts of this run; None: not compared.
        unannotated: codes that this run leaves out; must cover those that stage 1 did not train. None: not compared.
        image_size: (H, W) of this run's slices; None: not compared.
        map_location: device of the tensors.
        activation: how this run makes A of the logits; None: not compared. Where the file is too old to say, this one
            is taken, and the sigmoid if there is none.
        plan: of this run, whose slices must have the pixels of stage 1's; None, or a file without: not compared.
        objective: by which this run says that stage 1 was trained; None: not compared.

    Raises:
        ValueError: no such file, another kind of file, or settings that differ from stage 1's; says which and the fix.
    """
    from cps4_monai.vision.encoder import VisionEncoder

    content = read_prompted_vision(path, map_location)
    check_settings(Path(path), content, anatomy, unannotated, image_size)
    check_pixels(Path(path), content.get("plan"), plan)
    arguments, trained = content["arguments"], content.get("activation")
    _check_kind(Path(path), arguments, trained, activation)
    _check_objective(Path(path), objective_of(path, content), objective)
    if trained is None:
        logger.warning(
            "stage-1 checkpoint %s does not say how A is made; taken for the %s", path, activation or "sigmoid"
        )
    try:
        encoder = VisionEncoder(**arguments["image_encoder"])
        embeddings = torch.zeros_like(content["weights"]["embeddings"])
        model = PromptedVision(
            encoder,
            embeddings,
            background=arguments["background"],
            unannotated=content["unannotated"],
            activation=trained or activation or "sigmoid",
            projection=arguments.get("projection", "linear"),
        )
        model.load_state_dict(content["weights"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"stage-1 checkpoint {path}: its weights do not fit its own description "
            f"({' '.join(str(error).split())[:300]}); it is damaged or of another version of "
            "cps4_monai: run training_stage1 again"
        ) from error
    recorded = content.get("objective", {})
    model.objective, model.substitution = recorded.get("name", ""), recorded.get("substitution")
    for name, value in objective_of(path, content).items():
        logger.info("%s of %s: %s", name, path, value)
    return model.to(map_location)


def read_prompted_vision(path: str | Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """The content of a stage-1 checkpoint: ``anatomy``, ``arguments``, ``image_size``, ``unannotated``, ``weights``.

    Raises:
        ValueError: no such file, or another kind of file.
    """
    return read_stage1_file(path, FORMAT, VERSION, KEYS, map_location)


def holds_prompted_vision(path: str | Path) -> bool:
    """Whether a file between the stages has attention maps of class prompts to show; an assistant's has none.

    Raises:
        ValueError: no such file, or one that cannot be read.
    """
    return not _is_assistants(_read(path, "cpu"))


def _is_assistants(content: Any) -> bool:
    return isinstance(content, dict) and content.get("format") == ASSISTANT_FORMAT


def read_stage1_file(
    path: str | Path, kind: str, version: int, keys: Sequence[str], map_location: str | torch.device = "cpu"
) -> dict[str, Any]:
    """The content of a file between the stages, of tensors and plain types only.

    Args:
        path: the file.
        kind: its ``format``.
        version: its ``version``.
        keys: what it must hold.
        map_location: device of the tensors.

    Raises:
        ValueError: no such file, or another kind of file.
    """
    content = _read(path, map_location)
    _check_content(path, content, kind, version, keys)
    return content


def _check_content(path: str | Path, content: Any, kind: str, version: int, keys: Sequence[str]) -> None:
    """Refuses what is no content of a file between the stages of this kind; see :func:`read_stage1_file`."""
    if not isinstance(content, dict) or content.get("format") != kind:
        holds = f"keys {sorted(map(str, content))[:6]}" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise ValueError(f"{path} is no stage-1 checkpoint (it holds {holds}, expected format {kind!r}); {_FIX}")
    missing = [key for key in keys if key not in content]
    if content.get("version") != version or missing:
        raise ValueError(
            f"stage-1 checkpoint {path} is version {content.get('version')} without {missing or 'gaps'}; this "
            f"cps4_monai reads version {version}: run training_stage1 again, or install the version that wrote it"
        )


def objective_of(path: str | Path, content: Mapping[str, Any] | None = None) -> dict[str, str]:
    """By which objective a stage-1 checkpoint was trained, for a report: name -> text.

    Args:
        path: of the checkpoint.
        content: what it holds; None: it is read.

    Returns:
        "stage 1", the objective, and where there is any "stage 1, stand-in", what stood in place of data that it was
        published with; empty where the file does not say.

    Raises:
        ValueError: as :func:`read_prompted_vision`.
    """
    if content is None:
        content = _read(path, "cpu")
        if not _is_assistants(content):
            _check_content(path, content, FORMAT, VERSION, KEYS)
    recorded = content.get("objective", {})
    told = {"stage 1": recorded.get("name"), "stage 1, stand-in": recorded.get("substitution")}
    return {name: text for name, text in told.items() if text}


def _check_objective(path: Path, told: Mapping[str, str], objective: str | None) -> None:
    """Refuses a stage 1 of another objective than the one that this run's results would be named after."""
    if objective is not None and told.get("stage 1") != objective:
        raise ValueError(
            f"stage-1 checkpoint {path} was trained by {told.get('stage 1', 'an objective that it does not name')!r}; "
            f"this run's results would be named {objective!r}. Fix: pass as stage1_checkpoint a file of that "
            "objective, or the overlay of the objective that the file names"
        )


_FIX = "pass as stage1_checkpoint the file that training_stage1 wrote, or run training_stage1 first"


def _read(path: str | Path, map_location: str | torch.device) -> Any:
    """Whatever the file holds, of tensors and plain types.

    Raises:
        ValueError: no such file, or one that holds other things.
    """
    if not Path(path).is_file():
        raise ValueError(f"stage-1 checkpoint {path} does not exist; {_FIX}")
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise ValueError(f"stage-1 checkpoint {path} cannot be read ({reason}); {_FIX}") from error


def _check_kind(path: Path, arguments: dict[str, Any], trained: str | None, activation: str | None) -> None:
    """Refuses another activation than this run's, and projections that this version cannot build."""
    if None not in (trained, activation) and trained != activation:
        raise ValueError(
            f"stage-1 checkpoint {path} was trained with A as the {trained} of the logits; this run takes the "
            f"{activation}: set `stage1#loss#activation` (or `prompt_map#activation`) to stage 1's, or run "
            "training_stage1 again with this run's settings"
        )
    projection = arguments.get("projection", "linear")
    if projection not in PROJECTIONS:
        raise ValueError(
            f"stage-1 checkpoint {path} has a projection of kind {projection!r}; this cps4_monai builds "
            f"{list(PROJECTIONS)}: install the version that wrote it"
        )


def check_pixels(path: Path, stored: dict[str, Any] | None, plan: Plan | None) -> None:
    """Refuses slices of another spacing, mode or intensity scale than those that stage 1 saw."""
    if stored is None or plan is None:
        return
    found = plan.differences(Plan.from_dict(stored, str(path)))
    if found:
        raise ValueError(
            f"stage-1 checkpoint {path} was trained on other pixels than this run's ({'; '.join(found)}); set these to "
            "stage 1's, or run training_stage1 again with this run's settings"
        )


def check_settings(
    path: Path,
    content: dict[str, Any],
    anatomy: Anatomy | None,
    unannotated: Sequence[int] | None,
    image_size: Sequence[int] | None,
) -> None:
    """Holds stage 1's classes, prompts, unannotated codes and image size against this run's."""
    fix = "or run training_stage1 again with this run's settings"
    stored = load_anatomy(content["anatomy"])
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
