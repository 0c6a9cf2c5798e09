"""Stage 1: a vision-language model on labeled slices, validated by the prompt maps that stage 2 will see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from ignite.metrics import Metric
from monai.handlers import LrScheduleHandler, from_engine
from monai.inferers import Inferer
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import Dataset

from cps4_monai.assembly.chosen_by import check_chosen_by
from cps4_monai.assembly.context import Context, Stage
from cps4_monai.assembly.slices import labeled_slices, loader
from cps4_monai.assembly.training import make_trainer, of_stage
from cps4_monai.assembly.validation import Validator, shown, spine_dice, validator
from cps4_monai.engines import SemiSupervisedTrainer
from cps4_monai.handlers import AttentionLocalisation, BestWeights, CosineEnd, VolumeLoss, WeightsInUse
from cps4_monai.handlers.weights_in_use import files_of_checkpoint
from cps4_monai.methods import AttentionPretraining, SemiSupervisedMethod
from cps4_monai.networks import unwrap
from cps4_monai.run_folder import RESUME, STAGE2
from cps4_monai.vision import save_prompted_vision

METRIC = "prompt_map_dice"
TRAINER = "stage1#train#trainer"


def parameter_groups(
    network: nn.Module, pretrained: float, new: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Groups of an optimiser with a rate for what was pretrained and one for what is new.

    Args:
        network: a :class:`cps4_monai.vlm.VisionLanguageModel`, or another with its ``parameter_groups``.
        pretrained: learning rate of pretrained encoders.
        new: of everything else.
        layer_decay: rate of each pretrained block over the next.
    """
    groups: list[dict[str, Any]] = network.parameter_groups(pretrained, new, layer_decay)  # type: ignore[operator]
    return groups


def best_weights(
    context: Context,
    method: AttentionPretraining,
    path: str,
    metric: str = METRIC,
    save: Callable[[Path], Any] | None = None,
    mode: Literal["max", "min"] | None = None,
) -> BestWeights:
    """Keeps what stage 2 needs of the best epoch: the image side with its prompt embeddings.

    Args:
        context: of the run.
        method: what is trained.
        path: file of stage 1.
        metric: chooses the weights.
        save: writes something else, given the path to write to.
        mode: "max" where more of the metric is better, "min" where less is; None: by its name, "min" for "loss".
    """

    def save_with_score(file: Path) -> None:
        plan = context.plan.of_labeled_scans()
        save_prompted_vision(file, method.freeze(), context.anatomy, plan, {metric: best.written_score})

    best = BestWeights(path, metric=metric, mode=mode, save=save or save_with_score)
    return best


def set_aside(method: SemiSupervisedMethod) -> None:
    """Frees what a stage 1 that has ended holds on its device; the stage 2 of the same process reads its file.

    Args:
        method: trained to its end; afterwards its networks are on the CPU, and its optimisers know nothing.
    """
    for optimizer in method.optimizers.values():
        optimizer.zero_grad(set_to_none=True)
        optimizer.state.clear()
    for network in method.networks.values():
        network.to("cpu")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def evaluator(
    stage: Stage,
    method: AttentionPretraining,
    loss: nn.Module | None,
    dataset: Dataset[Any],
    inferer: Inferer,
    postprocessing: Callable[[Any], Any],
    lr_scheduler: Any,
    best: BestWeights,
    additional_metrics: Mapping[str, Metric | None] | None = None,
    schedule_input: Callable[[Any], Any] | None = None,
    handlers: Sequence[Any] = (),
) -> Validator:
    """Validates the prompt maps, steps the schedule, and keeps the best epoch.

    Args:
        stage: of the training.
        method: what is trained.
        loss: (attention logits, label) -> scalar, the validation loss; None: as ``additional_metrics`` has it.
        dataset: volumes with labels.
        inferer: runs the network over a volume.
        postprocessing: puts ``prompt_map`` beside the prediction.
        lr_scheduler: stepped after each validation.
        best: keeps the weights.
        additional_metrics: name -> metric, beside the pointing game and the mean of ``loss`` over all slices,
            or in the place of either: "pointing_game", "loss".
        schedule_input: engine -> arguments of the schedule's step; None: the validation loss for
            ``ReduceLROnPlateau``, nothing for others.
        handlers: the config's own, after all others.

    Raises:
        ValueError: no metric of the validation has the name by which ``best`` chooses.
    """
    context = stage.context
    pointing = AttentionLocalisation(
        context.anatomy.names,
        context.unannotated,
        context.activation,
        from_engine(["pred", "label"]),
        getattr(getattr(postprocessing, "mapper", None), "unannotated", ()),  # the prompts that its map leaves out
    )
    given = {name: metric for name, metric in (additional_metrics or {}).items() if metric is not None}
    metrics: dict[str, Metric] = {"pointing_game": pointing, **given}
    if loss is not None and "loss" not in metrics:
        metrics["loss"] = VolumeLoss(loss, from_engine(["pred", "label"]))
    key_metric = {METRIC: spine_dice(context, "prompt_map", "prompt_map_")}
    check_chosen_by(best.metric, {**key_metric, **metrics}, handlers, "stage1#validate#best#metric")
    step = step_arguments(lr_scheduler) if schedule_input is None else schedule_input
    schedule = LrScheduleHandler(lr_scheduler, print_lr=False, epoch_level=True, step_transform=step)
    return validator(
        context,
        unwrap(method.networks[method.deployed_name]),
        dataset,
        inferer,
        key_metric,
        [*shown(stage), schedule, best, *handlers],
        best=best,
        postprocessing=postprocessing,
        additional_metrics=metrics,
    )


def step_arguments(lr_scheduler: Any) -> Callable[[Any], Any]:
    """How a schedule is stepped after a validation: by its loss where it asks for one."""
    if isinstance(lr_scheduler, ReduceLROnPlateau):
        return lambda engine: engine.state.metrics["loss"]
    return lambda engine: ()


def trainer(
    stage: Stage,
    method: AttentionPretraining,
    lr_scheduler: Any,
    evaluator: Validator,
    geometry: Mapping[str, Any] | None = None,
    data: Sequence[Any] | None = None,
    max_epochs: int | None = None,
    handlers: Sequence[Any] = (),
    start_from: str | Path | None = None,
) -> SemiSupervisedTrainer:
    """Everything that trains stage 1.

    Args:
        stage: how long, and how often what.
        method: what is trained.
        lr_scheduler: kept in the checkpoint.
        evaluator: of :func:`evaluator`.
        geometry: of the augmentation; None: that of stage 2.
        data: volumes; None: the labeled ones of the datalist.
        max_epochs: in place of the stage's.
        handlers: the config's own, last before the checkpoint.
        start_from: of the image encoder: on resuming, the same file must be there.

    Raises:
        ValueError: the weights would go into another folder than the stage's, that is over those of another run; or,
            when it is run, over those that the stage 2 beside it was begun with.
    """
    _check_own_file(stage, evaluator)
    slices = labeled_slices(stage.context, data, geometry, strong_views=method.labeled_strong_views)
    order = of_stage(
        stage,
        stage.context.plan.of_labeled_scans().of_objective(getattr(method, "objective", "")),
        {"": evaluator},
        {"method": method, "lr_scheduler": lr_scheduler},
        TRAINER,
        added=handlers,
        restored=[CosineEnd(lr_scheduler, stage.val_interval), *_in_use(stage, evaluator)],
        files=None if start_from is None else {"start_from": start_from},
    )
    return make_trainer(stage, method, loader(stage, slices), order, max_epochs)


def _in_use(stage: Stage, evaluator: Validator) -> list[WeightsInUse]:
    """What keeps the file of this stage for the stage 2 in the same folder that was begun with it."""
    if evaluator.best is None:
        return []
    return [WeightsInUse(evaluator.best.path, stage.folder.parent / STAGE2 / RESUME, files_of_checkpoint)]


def _check_own_file(stage: Stage, evaluator: Validator) -> None:
    path = None if evaluator.best is None else evaluator.best.path.resolve()
    if path is not None and path.parent != stage.folder.resolve():
        raise ValueError(
            f"stage1_checkpoint is {path}, which this stage 1 would replace; expected a file in {stage.folder}. Fix: "
            "to share the stage 1 of another run, train stage2 alone with this setting; else leave it out"
        )
