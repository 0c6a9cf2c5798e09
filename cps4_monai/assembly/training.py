"""A trainer with its handlers, in the order in which every stage attaches them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.handlers import LrScheduleHandler, TensorBoardStatsHandler, from_engine

from cps4_monai.assembly.context import UNANNOTATED, Stage
from cps4_monai.assembly.running_config import same_experiment
from cps4_monai.assembly.validation import Validator
from cps4_monai.data.batches import SemiSupervisedLoader
from cps4_monai.engines import SemiSupervisedTrainer
from cps4_monai.handlers import (
    AtTheEnd,
    EarlyStop,
    EpochSeed,
    EpochValidation,
    LoaderEnd,
    MetricsLog,
    ProgressHandler,
    ResumeHandler,
    RunRecord,
    StopOnNonFinite,
)
from cps4_monai.methods.base import SemiSupervisedMethod
from cps4_monai.plan import Plan
from cps4_monai.run_folder import LABEL_MAPS, LOG, RESUME

_BATCHES_HELD = 5  # at most, until the finiteness of their losses is looked at; of 24 + 24 slices half a gigabyte


def make_trainer(
    stage: Stage,
    method: SemiSupervisedMethod,
    loader: SemiSupervisedLoader,
    handlers: Sequence[Any],
    max_epochs: int | None = None,
) -> SemiSupervisedTrainer:
    """The trainer of a stage.

    Args:
        stage: how long, and with which steps.
        method: what is trained.
        loader: gives the batches.
        handlers: attached in order.
        max_epochs: in place of the stage's.
    """
    context = stage.context
    return SemiSupervisedTrainer(
        device=context.device,
        non_blocking=context.on_gpu,
        max_epochs=stage.max_epochs if max_epochs is None else max_epochs,
        train_data_loader=loader,
        method=method,
        precision=context.precision,
        gradient_clip_norm=stage.gradient_clip_norm,
        accumulation_steps=stage.accumulation_steps,
        train_handlers=handlers,
    )


def of_stage(
    stage: Stage,
    plan: Plan,
    validators: Mapping[str, Validator],
    states: Mapping[str, Any],
    trainer_id: str,
    on_batch: Sequence[Any] = (),
    lr_scheduler: Any = None,
    pictures: Sequence[Any] = (),
    added: Sequence[Any] = (),
    files: Mapping[str, str | Path] | None = None,
    restored: Sequence[Any] = (),
) -> list[Any]:
    """The handlers of a stage that is validated, stopped early, resumed, and must leave weights.

    Args:
        stage: how often, and where to.
        plan: what the weights of this stage will depend on.
        validators: by the prefix of their metrics; the first one chooses the weights and stops the run.
        states: what a resumed run needs beside what is made here.
        trainer_id: of the trainer in the config: what it depends on must be the same for a run to be resumed.
        on_batch: what completes a batch before its step.
        lr_scheduler: stepped after each epoch; None: the validator steps it.
        pictures: what draws.
        added: the config's own.
        files: what the stage is trained with beside its data; a run is resumed with the same ones only.
        restored: what looks at the state that the checkpoint has brought back.
    """
    chooser, *others = validators.values()
    best = chooser.best
    assert best is not None  # the first validator keeps the weights
    early_stop = EarlyStop(chooser, stage.early_stopping_patience, best.metric, best.mode)
    same = {**same_experiment(trainer_id, stage.context.identity), LABEL_MAPS: stage.context.label_maps}
    return in_order(
        stage,
        {**same, **stage.context.settings},
        plan=plan,
        on_batch=on_batch,
        lr_scheduler=lr_scheduler,
        validation=EpochValidation(stage.val_interval, chooser, others),
        early_stop=early_stop,
        validators=validators,
        shown=[*losses_shown(stage), *pictures],
        added=added,
        checkpoint=ResumeHandler(
            stage.folder / RESUME,
            {**states, "best": best, "early_stop": early_stop},
            same,
            files,
            since=(UNANNOTATED, LABEL_MAPS),
        ),
        restored=restored,
        last=best.require,
    )


def in_order(
    stage: Stage,
    record: Mapping[str, Any],
    *,
    plan: Plan | None = None,
    on_batch: Sequence[Any] = (),
    lr_scheduler: Any = None,
    validation: EpochValidation | None = None,
    early_stop: EarlyStop | None = None,
    validators: Mapping[str, Validator] | None = None,
    shown: Sequence[Any] = (),
    added: Sequence[Any] = (),
    checkpoint: ResumeHandler | None = None,
    restored: Sequence[Any] = (),
    last: Callable[[], Any] | None = None,
    progress: bool = True,
) -> list[Any]:
    """The handlers of every trainer. At one event they act in this order.

    Args:
        stage: how often, and where to.
        record: settings for ``run.json``.
        plan: for ``plan.json``, before there are weights.
        on_batch: what completes a batch before its step.
        lr_scheduler: stepped after each epoch.
        validation: before what reads its metrics.
        early_stop: reads them first.
        validators: whose metrics are logged, by their prefix.
        shown: losses and pictures in TensorBoard.
        added: the config's own.
        checkpoint: keeps what all before it have left.
        restored: what looks at the state that it has brought back.
        last: what is done once training is completed.
        progress: whether there may be a bar.
    """
    context = stage.context
    bar = progress and context.show_progress and context.writes
    handlers = [
        RunRecord(stage.output_dir, record, plan=plan),
        EpochSeed(context.seed),
        *on_batch,
        None if lr_scheduler is None else LrScheduleHandler(lr_scheduler, print_lr=False, epoch_level=True),
        # Before weights of NaN could be the best so far; whole batches wait on the device for it.
        StopOnNonFinite(stage.output_dir, min(context.log_every, _BATCHES_HELD)),
        validation,
        early_stop,
        ProgressHandler(context.log_every, stage.name, disable=not bar),
        MetricsLog(stage.folder / LOG, stage.key, validators or {}, context.log_every),
        *shown,
        *added,
        checkpoint,
        *restored,
        LoaderEnd(),
        None if last is None else AtTheEnd(last),
    ]
    return [handler for handler in handlers if handler is not None]


def losses_shown(stage: Stage) -> list[Any]:
    """The handler that puts losses into TensorBoard, in the process that writes."""
    if not stage.context.writes:
        return []
    return [
        TensorBoardStatsHandler(
            log_dir=stage.output_dir,
            iteration_log=stage.context.log_every,
            tag_name="train_loss",
            output_transform=from_engine(["loss"], first=True),
        )
    ]
