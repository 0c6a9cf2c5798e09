"""Whether the attention maps of stage 1 lie where the structures are: pointing game, patch AUC, right levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from ignite.metrics import Metric
from ignite.metrics.metric import reinit__is_reduced, sync_all_reduce
from torch import Tensor

from cps4_monai.losses.attention import masks_and_known_cells
from cps4_monai.losses.captions import annotated_classes
from cps4_monai.losses.semi_supervised import attention_maps


class AttentionLocalisation(Metric):
    """Localisation by the attention maps, of volumes whose labels are known; a score of stage 1 beside the prompt map.

    Under the name it is attached by stands the pointing game (Zhang et al., "Top-down neural attention by excitation
    backprop", IJCV 2018): of the pairs (slice, structure that the slice shows), the share in which the map is largest
    in a cell of the grid that holds a pixel of the structure; per structure, then the mean over structures. The size of
    a cell is the tolerance, and a map that is the same everywhere counts as pointing at the first cell. Where that cell
    has pixels that nobody annotated (255) and none of the structure, the pair is not counted. Beside it are
    ``pointing_game_L5`` and so on, for structures that some slice shows; ``patch_auc``, which needs no threshold: of a
    slice, the share of pairs (cell that holds the structure, cell that does not) in which the map is larger in the
    first, half of one where it is equal; 0.5 is chance; mean over slices, then over structures, each as
    ``patch_auc_L5``; and ``level_share``: the share of the pixels of structures in which the largest A of all
    structures, upsampled bilinearly, is that of the label. Background takes part in none.

    Args:
        class_names: short names by code, C of them.
        unannotated: codes in view but never labeled.
        activation: how A is made of the logits, "sigmoid" or "softmax".
        output_transform: engine output -> (pred, label), lists of (C, D, h, w) and (1, D, H, W), or batches of them.
        not_labeled: codes that no labeled scan shows: where objectives contrast only what is in view, their maps lie
            anywhere, and would be the largest. As in the prompt map they say nothing; in the labels they count.
    """

    patch_auc: ClassVar[str] = "patch_auc"
    level_share: ClassVar[str] = "level_share"
    beside: ClassVar[tuple[str, ...]] = (patch_auc, level_share)

    def __init__(
        self,
        class_names: Sequence[str],
        unannotated: Sequence[int] = (),
        activation: str = "sigmoid",
        output_transform: Callable[[Any], Any] = lambda output: output,
        not_labeled: Sequence[int] = (),
    ) -> None:
        self.class_names = list(class_names)
        self.unannotated = tuple(unannotated)
        self.not_labeled = tuple(not_labeled)
        self.activation = activation
        super().__init__(output_transform=output_transform)

    @reinit__is_reduced
    def reset(self) -> None:
        """Forgets all slices."""
        self._hits = torch.zeros(len(self.class_names))
        self._pairs = torch.zeros(len(self.class_names))
        self._areas = torch.zeros(len(self.class_names))
        self._ranked = torch.zeros(len(self.class_names))
        self._right = torch.zeros(())
        self._pixels = torch.zeros(())

    @reinit__is_reduced
    def update(self, output: Sequence[Any]) -> None:
        """Adds the slices of the given volumes."""
        with torch.no_grad():
            for pred, label in zip(*output, strict=True):
                self._add(torch.as_tensor(pred).transpose(0, 1).float(), torch.as_tensor(label).transpose(0, 1))

    def _add(self, logits: Tensor, label: Tensor) -> None:
        """Slices with logits (D, C, h, w) and label (D, 1, H, W)."""
        codes = torch.arange(logits.shape[1], device=label.device)
        kept = annotated_classes(len(codes), self.unannotated, label.device)
        masks, known = (cells.flatten(2) for cells in masks_and_known_cells(label, codes, logits.shape[2:]))
        shown = masks.any(2) & kept
        # A sigmoid keeps the order of a class's cells, and its logits have no ties where A is 1; a softmax over classes
        # does not: there A itself is asked.
        plain = self.activation == "sigmoid"
        scores = logits if plain else attention_maps(logits, self.activation, self.unannotated)
        largest = scores.flatten(2).argmax(2, keepdim=True)
        inside, judged = (cells.gather(2, largest)[:, :, 0] for cells in (masks, known))
        self._hits += (shown & inside).sum(0).cpu()
        self._pairs += (shown & judged).sum(0).cpu()
        areas = area_under_roc(scores.flatten(2), masks, known)
        ranked = kept & ~areas.isnan()
        self._areas += areas.where(ranked, 0.0).sum(0).cpu()
        self._ranked += ranked.sum(0).cpu()
        silent = sorted({*self.unannotated, *self.not_labeled})
        maps = attention_maps(logits, self.activation, silent)[:, 1:]
        upsampled = F.interpolate(maps, size=label.shape[2:], mode="bilinear", align_corners=False)
        level = upsampled.argmax(1, keepdim=True) + 1
        structure = torch.isin(label, codes[1:][kept[1:]])
        self._right += (structure & (level == label)).sum().cpu()
        self._pixels += structure.sum().cpu()

    @sync_all_reduce("_hits", "_pairs", "_areas", "_ranked", "_right", "_pixels")
    def compute(self) -> float:
        """Mean of the pointing game over the structures that some slice shows.

        Raises:
            NotComputableError: no slice shows any structure.
        """
        if not self._pixels > 0:
            raise NotComputableError(
                "AttentionLocalisation saw no structure; is the validation set empty or unlabeled?"
            )
        self._shares = (self._hits / self._pairs)[1:]  # 0 / 0, NaN: no slice shows it
        self._auc = (self._areas / self._ranked)[1:]
        self._level_share = float(self._right / self._pixels)
        return float(self._shares.nanmean())

    def completed(self, engine: Engine, name: str) -> None:
        """Writes the means, the values by structure and the share of right levels into ``engine.state.metrics``."""
        super().completed(engine, name)
        for key, values in ((name, self._shares), (self.patch_auc, self._auc)):
            named = zip(self.class_names[1:], values.tolist(), strict=True)
            engine.state.metrics |= {f"{key}_{structure}": value for structure, value in named if value == value}
        means = (float(self._auc.nanmean()), self._level_share)
        engine.state.metrics |= dict(zip(self.beside, means, strict=True))


def area_under_roc(values: Tensor, positive: Tensor, known: Tensor) -> Tensor:
    """Area under the ROC curve along the last axis, by ranks (Mann and Whitney): (R+ - n+ (n+ + 1) / 2) / (n+ n-).

    Args:
        values: (..., N) float; equal ones share their mean rank.
        positive: (..., N) bool.
        known: (..., N) bool, what takes part, positive or not.

    Returns:
        (...) in [0, 1], NaN where there are no positive or no negative ones.
    """
    values = values.masked_fill(~known, torch.inf)  # last, so that nothing that takes part ranks behind them
    order = values.sort(dim=-1).values
    below, upto = (torch.searchsorted(order, values, right=right) for right in (False, True))
    rank = (below + upto + 1) / 2
    positive = positive & known
    ones = positive.sum(-1)
    others = known.sum(-1) - ones
    return ((rank * positive).sum(-1) - ones * (ones + 1) / 2) / (ones * others)
