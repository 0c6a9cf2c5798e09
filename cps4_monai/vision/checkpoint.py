"""What CPS4 leaves between the stages: the trained image side and its prompt embeddings."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cps4_monai.anatomy import Anatomy
from cps4_monai.plan import Plan
from cps4_monai.vision.projection import PROJECTIONS
from cps4_monai.vision.prompted import PromptedVision
from cps4_monai.vision.stage1_file import (
    PROMPTED_VISION,
    check_run,
    objective_of,
    read_stage1_file,
    restored,
    write_stage1_file,
)

logger = logging.getLogger(__name__)


def save_prompted_vision(
    path: str | Path,
    model: PromptedVision,
    anatomy: Anatomy,
    plan: Plan | None = None,
    validated: Mapping[str, float] | None = None,
) -> None:
    """Writes the frozen image side, from ``VisionLanguageModel.freeze()``; see :func:`write_stage1_file`.

    Args:
        path, model, anatomy, plan: as there.
        validated: what the weights were chosen by, name -> score; None: nothing is known.
    """
    own = {"activation": model.activation, "validated": dict(validated or {})}
    write_stage1_file(path, PROMPTED_VISION, model, anatomy, plan, **own)


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
    content = read_prompted_vision(path, map_location)
    check_run(path, content, anatomy, unannotated, image_size, plan)
    trained = content.get("activation")
    _check_kind(path, content["arguments"], trained, activation)
    _check_objective(path, objective_of(path, content), objective)
    if trained is None:
        logger.warning(
            "stage-1 checkpoint %s does not say how A is made; taken for the %s", path, activation or "sigmoid"
        )
    model = restored(path, content, lambda: _build(content, trained or activation or "sigmoid")).to(map_location)
    model.validated = content.get("validated", {})
    return model


def _build(content: Mapping[str, Any], activation: str) -> PromptedVision:
    from cps4_monai.vision.encoder import VisionEncoder

    arguments = content["arguments"]
    return PromptedVision(
        VisionEncoder(**arguments["image_encoder"]),
        torch.zeros_like(content["weights"]["embeddings"]),
        background=arguments["background"],
        unannotated=content["unannotated"],
        activation=activation,
        projection=arguments.get("projection", "linear"),
    )


def read_prompted_vision(path: str | Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """The content of a stage-1 checkpoint: ``anatomy``, ``arguments``, ``image_size``, ``unannotated``, ``weights``.

    Raises:
        ValueError: no such file, or another kind of file.
    """
    return read_stage1_file(path, PROMPTED_VISION, map_location)


def _check_objective(path: str | Path, told: Mapping[str, str], objective: str | None) -> None:
    """Refuses a stage 1 of another objective than the one that this run's results would be named after."""
    if objective is not None and told.get("stage 1") != objective:
        raise ValueError(
            f"stage-1 checkpoint {path} was trained by {told.get('stage 1', 'an objective that it does not name')!r}; "
            f"this run's results would be named {objective!r}. Fix: pass as stage1_checkpoint a file of that "
            "objective, or the overlay of the objective that the file names"
        )


def _check_kind(path: str | Path, arguments: dict[str, Any], trained: str | None, activation: str | None) -> None:
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
