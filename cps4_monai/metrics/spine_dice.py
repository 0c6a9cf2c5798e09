"""The three Dice conventions as a MONAI metric and as a handler for validation during training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine
from monai.handlers.ignite_metric import IgniteMetricHandler
from monai.metrics.metric import CumulativeIterationMetric

from cps4_monai.anatomy import NOT_ANNOTATED
from cps4_monai.metrics.conventions import CONVENTIONS, class_masks, masked_mean, slice_means
from cps4_monai.metrics.overlap import OverlapCounts, check_unannotated, dice_score, iou_score, overlap_counts


class SpineDice(CumulativeIterationMetric):
    """Dice and IoU of whole volumes by conventions (a), (b) and (c), gathered over iterations and processes.

    Call it with predictions (B, C, D, H, W) (logits or probabilities; argmax over the annotated classes) or label
    maps (B, 1, D, H, W), and labels (B, 1, D, H, W); or with lists of these without the batch axis. Two-dimensional
    input (B, ..., H, W) is taken as B subjects of one slice. Voxels of 255 in a label, which nobody annotated, count
    nowhere. Only voxel counts are kept, so memory does not grow with
    the volumes, and MONAI's own gathering makes the result the same on one process and on several.

    >>> metric = SpineDice(num_classes=3)
    >>> label = torch.tensor([[[[[0, 1, 1, 2]]]]])  # (B, 1, D, H, W)
    >>> _ = metric(torch.tensor([[[[[0, 1, 0, 2]]]]]), label)
    >>> round(metric.summary()["dice_b"], 4)  # (2/3 + 1) / 2
    0.8333

    Args:
        num_classes: C, background included.
        convention: which of "a", "b" and "c" :meth:`aggregate` returns.
        unannotated: codes of classes that are in view but never labeled.

    Raises:
        ValueError: unknown convention, or wrong codes in ``unannotated``.
    """

    def __init__(self, num_classes: int, convention: str = "b", unannotated: Sequence[int] = ()) -> None:
        super().__init__()
        if convention not in CONVENTIONS:
            raise ValueError(f"convention is {convention!r}; expected one of {list(CONVENTIONS)}")
        self.num_classes = num_classes
        self.convention = convention
        self.unannotated = check_unannotated(unannotated, num_classes)

    def label_map(self, y_pred: torch.Tensor) -> torch.Tensor:
        """(B, C or 1, ...) -> (B, ...), integers.

        Raises:
            ValueError: the channel axis is neither 1 nor ``num_classes``.
        """
        channels = y_pred.shape[1]
        if channels == 1:
            labels = y_pred[:, 0]
            return labels.long() if labels.is_floating_point() else labels
        if channels != self.num_classes:
            raise ValueError(f"y_pred has {channels} channels; expected {self.num_classes} logits or 1 label map")
        if self.unannotated:
            y_pred = y_pred.clone()
            y_pred[:, list(self.unannotated)] = -torch.inf
        return y_pred.argmax(dim=1)

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **_: Any) -> list[torch.Tensor]:
        """Counts (B, 3, C), and sums over the slices of Dice and IoU by (a) with the number of slices (B, 3)."""
        if y is None:
            raise ValueError("SpineDice needs a label for each prediction, got none")
        if y.ndim != y_pred.ndim or y.ndim not in (4, 5) or y.shape[1] != 1:
            raise ValueError(
                f"y_pred has the shape {tuple(y_pred.shape)} and y {tuple(y.shape)}; expected (B, C or 1, D, H, W) "
                "and (B, 1, D, H, W), or the same without D"
            )
        pred, label = self.label_map(y_pred), (y.long() if y.is_floating_point() else y)[:, 0]
        if pred.ndim == 3:  # (B, H, W): one slice each
            pred, label = pred[:, None], label[:, None]
        batch, depth = pred.shape[:2]
        flat = overlap_counts(pred.flatten(0, 1), label.flatten(0, 1), self.num_classes, self.unannotated)
        means = [values.view(batch, depth) for values in slice_means(flat)]
        slices = means[0].isfinite().sum(dim=1).to(means[0].dtype)  # those of which something is annotated
        dice, iou = (values.nansum(dim=1) for values in means)
        counts = torch.stack([field.view(batch, depth, -1).sum(dim=1) for field in flat], dim=1)
        return [counts, torch.stack([dice, iou, slices], dim=1)]

    def _gathered(self) -> tuple[OverlapCounts, torch.Tensor]:
        if self._buffers is None and idist.get_world_size() > 1:
            self._take_part()
        buffers = self.get_buffer()
        if buffers is None:
            raise ValueError("nothing to aggregate: SpineDice was not called since its last reset")
        counts, slice_sums = buffers
        return OverlapCounts(*counts.unbind(dim=1)), slice_sums

    def _take_part(self) -> None:
        """A process without volumes adds one voxel that nobody annotated, which counts nowhere; all must gather."""
        voxel = torch.zeros(1, 1, 1, 1, 1, dtype=torch.uint8, device=idist.device())
        self(voxel, torch.full_like(voxel, NOT_ANNOTATED))

    def per_class(self) -> torch.Tensor:
        """Dice by subject and class, (N, C); NaN where neither label nor prediction has the class."""
        return dice_score(self._gathered()[0])

    def summary(self) -> dict[str, float]:
        """``dice_a`` ... ``iou_c``, ``missed`` and ``false`` (classes, over all subjects); NaN: nothing to average."""
        counts, slice_sums = self._gathered()
        total = slice_sums.sum(dim=0)
        result = {"dice_a": float(total[0] / total[2]), "iou_a": float(total[1] / total[2])}
        for convention, mask in class_masks(counts).items():
            for name, values in (("dice", dice_score(counts)), ("iou", iou_score(counts))):
                result[f"{name}_{convention}"] = float(masked_mean(values, mask).nanmean())
        foreground = slice(1, None)
        result["missed"] = float(((counts.label > 0) & (counts.pred == 0))[:, foreground].sum())
        result["false"] = float(((counts.label == 0) & (counts.pred > 0))[:, foreground].sum())
        return result

    def class_means(self) -> torch.Tensor:
        """Dice by foreground class, mean over the subjects whose label has it, (C,); NaN: none (and background)."""
        counts = self._gathered()[0]
        mask = class_masks(counts)["b"]
        return masked_mean(dice_score(counts).T, mask.T)

    def aggregate(self) -> torch.Tensor:
        """Mean Dice by the chosen convention, a scalar.

        Raises:
            ValueError: the metric was not called since its last reset.
        """
        return torch.tensor(self.summary()[f"dice_{self.convention}"])


class SpineDiceHandler(IgniteMetricHandler):
    """Key metric of an evaluator: Dice by the chosen convention, and all others beside it in ``engine.state.metrics``.

    Under the name it is attached by stands the mean Dice of ``convention``. Beside it are ``dice_a``, ``dice_b``,
    ``dice_c``, ``iou_a``, ``iou_b``, ``iou_c``, ``missed``, ``false`` and, by class, ``dice_b_L5`` and so on (only
    classes that some label holds), each with ``prefix`` before it. ``engine.state.metric_details`` gets Dice by
    subject and class.

    Args:
        num_classes: C, background included.
        convention: which of "a", "b" and "c" is the key metric.
        unannotated: codes of classes that are in view but never labeled.
        class_names: short names by code, C of them, for the values by class; None: the codes.
        output_transform: engine output -> (y_pred, y), e.g. ``monai.handlers.from_engine(["pred", "label"])``.
        prefix: put before each name, e.g. "prompt_map_".
        save_details: whether ``metric_details`` is filled.

    Raises:
        ValueError: unknown convention, wrong codes, or another number of names than classes.
    """

    def __init__(
        self,
        num_classes: int,
        convention: str = "b",
        unannotated: Sequence[int] = (),
        class_names: Sequence[str] | None = None,
        output_transform: Callable[[Any], Any] = lambda output: output,
        prefix: str = "",
        save_details: bool = True,
    ) -> None:
        self.spine_dice = SpineDice(num_classes, convention, unannotated)
        if class_names is not None and len(class_names) != num_classes:
            raise ValueError(f"class_names has {len(class_names)} entries; expected {num_classes}, one per class")
        self.class_names = list(class_names) if class_names is not None else [str(i) for i in range(num_classes)]
        self.prefix = prefix
        super().__init__(metric_fn=self.spine_dice, output_transform=output_transform, save_details=save_details)

    def compute(self) -> float:
        """Mean Dice by the chosen convention."""
        value = float(self.spine_dice.aggregate())
        self._is_reduced = True
        if self.save_details and self._engine is not None and self._name is not None:
            self._engine.state.metric_details[self._name] = self.spine_dice.per_class()
        return value

    def completed(self, engine: Engine, name: str) -> None:
        """Write the key metric, the other conventions and the values by class into ``engine.state.metrics``."""
        super().completed(engine, name)
        engine.state.metrics.update({self.prefix + key: value for key, value in self.spine_dice.summary().items()})
        for class_name, value in zip(self.class_names, self.spine_dice.class_means().tolist(), strict=True):
            if value == value:  # NaN: no label holds the class
                engine.state.metrics[f"{self.prefix}dice_b_{class_name}"] = value
