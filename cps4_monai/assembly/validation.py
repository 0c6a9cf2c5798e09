"""What validates: an evaluator over whole volumes that keeps the best weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from monai.handlers import StatsHandler, TensorBoardStatsHandler, from_engine
from monai.inferers import Inferer
from torch import nn
from torch.utils.data import Dataset

from cps4_monai.anatomy import Anatomy
from cps4_monai.assembly.context import Context, Stage
from cps4_monai.handlers import BestWeights
from cps4_monai.inference.precision_inferer import PrecisionInferer
from cps4_monai.inference.slice_inferer import SliceBatchInferer
from cps4_monai.metrics.spine_dice import SpineDiceHandler
from cps4_monai.precision import Precision


class Validator(SupervisedEvaluator):
    """``SupervisedEvaluator`` that knows which weights it keeps.

    Args:
        best: keeps the weights of the best validation; None keeps none.
        idle: predict nothing and only take part in the metrics: of a process for which there is no volume.
        **evaluator: as ``SupervisedEvaluator``.
    """

    def __init__(self, *, best: BestWeights | None = None, idle: bool = False, **evaluator: Any) -> None:
        self.best = best
        super().__init__(**evaluator)
        if idle:
            self.add_event_handler(Events.GET_BATCH_STARTED, lambda: self.terminate_epoch())
            self.add_event_handler(Events.EPOCH_COMPLETED, self._end_as_others)

    def _end_as_others(self) -> None:
        """Ends a pass in which nothing was predicted: ignite ends that of epoch 0 by the count of its batches."""
        self.state.iteration = self.state.epoch_length * self.state.max_epochs


def slice_inferer(precision: Precision, batch_size: int = 16) -> PrecisionInferer:
    """Runs a 2-D network over the slices of a volume, several at once, in the run's precision."""
    return PrecisionInferer(precision, SliceBatchInferer(batch_size))


def dice_of(
    anatomy: Anatomy, unannotated: Sequence[int] = (), source: str = "pred", prefix: str = ""
) -> SpineDiceHandler:
    """Dice of an item of the evaluator's output against its label: the mean over the structures of a subject, (b).

    Args:
        anatomy: the classes.
        unannotated: codes that are in view but never labeled.
        source: the item, e.g. "pred" or "decoded".
        prefix: put before each name.
    """
    return SpineDiceHandler(
        anatomy.num_classes,
        convention="b",
        unannotated=unannotated,
        class_names=anatomy.names,
        prefix=prefix,
        output_transform=from_engine([source, "label"]),
    )


def spine_dice(context: Context, source: str = "pred", prefix: str = "") -> SpineDiceHandler:
    """:func:`dice_of` with the classes of a run."""
    return dice_of(context.anatomy, context.unannotated, source, prefix)


def validator(
    context: Context,
    network: nn.Module,
    dataset: Dataset[Any],
    inferer: Inferer,
    key_metric: Mapping[str, Metric],
    handlers: Sequence[Any] = (),
    **evaluator: Any,
) -> Validator:
    """An evaluator over the volumes of a data set, one at a time, of which each process takes its share.

    Args:
        context: of the run.
        network: what is validated.
        dataset: volumes with labels.
        inferer: runs the network over a volume.
        key_metric: name -> metric.
        handlers: attached in order.
        **evaluator: further arguments of :class:`Validator`.
    """
    share = range(context.rank, len(dataset), context.world_size)  # type: ignore[arg-type]
    return Validator(
        idle=not share,
        device=context.device,
        val_data_loader=DataLoader(dataset, batch_size=1, sampler=share or range(1)),
        network=network,
        inferer=inferer,
        key_val_metric=dict(key_metric),
        val_handlers=list(handlers),
        decollate=True,
        **evaluator,
    )


class _Stats(StatsHandler):
    """MONAI's, which logs a stop by hand as an error, with its traceback."""

    def exception_raised(self, engine: Engine, e: Exception) -> None:
        """Logs and raises it again, as the other does; one that a person raised goes on as it is."""
        if isinstance(e, KeyboardInterrupt):
            raise e
        super().exception_raised(engine, e)


def shown(stage: Stage) -> list[Any]:
    """Handlers that put a validation's metrics into log and TensorBoard, in the process that writes."""
    if not stage.context.writes:
        return []
    return [_Stats(iteration_log=False), TensorBoardStatsHandler(log_dir=stage.output_dir, iteration_log=False)]
