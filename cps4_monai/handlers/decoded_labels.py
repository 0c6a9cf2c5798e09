"""Pseudo-labels whose levels are decoded: every few epochs, for all unlabeled volumes, outside the training step."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from torch import Tensor
from torch.nn import functional as F

from cps4_monai.anatomy import Anatomy
from cps4_monai.engines.trainer import SemiSupervisedTrainer
from cps4_monai.levels import LevelThresholds, decode_levels
from cps4_monai.losses.semi_supervised import IGNORE, mask_unannotated

logger = logging.getLogger(__name__)
_MOST_IN_INT8 = 128  # classes whose codes int8 holds


def check_order(anatomy: Anatomy, unannotated: Sequence[int] = ()) -> None:
    """Refuses decoded pseudo-labels where there are no levels to decode: no volume would ever get targets.

    Raises:
        ValueError: no structure that is labeled has an order.
    """
    if not any(s.code not in unannotated for s in anatomy.along_spine()):
        raise ValueError(
            f"decoded pseudo-labels: no labeled structure of the anatomy ({', '.join(anatomy.names[1:])}) has an "
            "order; expected two or more along the spine, whose levels are decoded. Fix: give the structures their "
            "'order' in the anatomy file, or choose a method without decoded labels (cps4, mean_teacher)"
        )


class DecodedLabels:
    """The teacher's answer on each unlabeled volume, levels decoded, as hard targets of the epochs that follow.

    A network that has seen few subjects outlines bodies and discs, but loses count. What decides is the whole spine:
    the levels of a volume are unique, contiguous and ordered (:func:`cps4_monai.levels.decode_levels`). So at the start
    of some epochs the teacher segments all unaugmented unlabeled volumes, the attention maps of the class prompts weigh
    its probabilities, the chain is decoded, and the result is kept, one code per pixel. In each batch it is warped with
    the geometry of the augmented slice: the training step itself never waits for the device.

    Voxels of a component that fits nowhere in the chain have no target, nor has a volume in which the numbering is less
    sure than `min_margin`, nor any before the first decoding.

    Args:
        dataset: the unlabeled :class:`cps4_monai.data.datasets.SliceDataset`, with ``with_grid``.
        anatomy: the classes.
        unannotated: codes in view but never labeled.
        provider: gives ``attention_logits(images)``; None leaves the class prompts out.
        prior: an :class:`cps4_monai.losses.AttentionPrior` that joins teacher and maps; needed with a provider.
        first_epoch: the first one that starts with a decoding.
        every: epochs from one decoding to the next.
        min_margin: least margin of the numbering, in nats per structure, of a volume that gets targets.
        anchored_only: ask for the lowest trained structure in view, too.
        batch_size: slices per forward pass.
        thresholds: of the decoding that differ from the defaults, by name, as ``level_thresholds`` has them.

    Raises:
        ValueError: numbers below 1, a data set without grids, a provider without a prior, or an anatomy without order.
    """

    def __init__(
        self,
        dataset: Any,
        anatomy: Anatomy,
        unannotated: Sequence[int] = (),
        provider: Any | None = None,
        prior: Callable[[Tensor, Tensor, Sequence[int]], Tensor] | None = None,
        first_epoch: int = 4,
        every: int = 2,
        min_margin: float = 0.0,
        anchored_only: bool = False,
        batch_size: int = 16,
        thresholds: LevelThresholds | Mapping[str, Any] | None = None,
    ) -> None:
        if min(first_epoch, every, batch_size) < 1:
            raise ValueError(
                f"first_epoch is {first_epoch}, every {every}, batch_size {batch_size}; expected numbers of at least 1"
            )
        if (provider is None) != (prior is None):
            raise ValueError("give both a provider and a prior, which joins its maps with the teacher, or neither")
        if not dataset.with_grid:
            raise ValueError("the unlabeled data set gives no grids; set with_grid: true, targets are warped with them")
        check_order(anatomy, unannotated)
        self.dataset, self.anatomy, self.unannotated = dataset, anatomy, tuple(unannotated)
        self.provider, self.prior = provider, prior
        self.first_epoch, self.every, self.batch_size = first_epoch, every, batch_size
        self.min_margin, self.anchored_only = min_margin, anchored_only
        if not isinstance(thresholds, LevelThresholds):
            thresholds = LevelThresholds.from_dict(thresholds or {})
        self.thresholds = thresholds
        self.codes: Tensor | None = None  # (N, H, W) of self.dtype, N slices of the data set
        self.dtype = torch.int8 if anatomy.num_classes <= _MOST_IN_INT8 else torch.int16
        self._packed: dict[str, Any] | None = None  # the codes as a checkpoint holds them, once asked for
        self._attention: dict[int, Tensor] = {}  # of each volume, once asked for

    def attach(self, engine: SemiSupervisedTrainer) -> None:
        """Registers with a :class:`cps4_monai.engines.SemiSupervisedTrainer`."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.refresh)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self.add_to_batch)

    def refresh(self, engine: SemiSupervisedTrainer) -> None:
        """Decodes all volumes again, if this epoch begins with that."""
        since = engine.state.epoch - self.first_epoch
        if since >= 0 and since % self.every == 0:
            self.decode(engine.method.networks["teacher"], engine.state.device, engine.autocast)

    @torch.no_grad()
    def decode(self, teacher: torch.nn.Module, device: torch.device, autocast: Callable[[], Any]) -> None:
        """Targets of every slice of the data set from the teacher as it is now."""
        teacher.eval()
        maps, used = [], 0
        for volume, image in enumerate(self.dataset.images):
            slices = torch.from_numpy(np.array(image.array)).float()[:, None].to(device)
            with autocast():
                logits = torch.cat([teacher(part) for part in slices.split(self.batch_size)])
            probabilities = self._joined(logits, slices, volume, autocast).cpu()
            labels = probabilities.argmax(dim=1).numpy()
            result = decode_levels(
                labels,
                probabilities.numpy(),
                image.spacing_mm,
                self.anatomy,
                unannotated=self.unannotated,
                view=image.view,
                thresholds=self.thresholds,
            )
            target = torch.from_numpy(result.labels).to(self.dtype)
            sure = result.margin.margin >= self.min_margin and (result.margin.anchored or not self.anchored_only)
            used += bool(sure)
            target[torch.from_numpy((labels > 0) & (result.labels == 0))] = IGNORE
            maps.append(target if sure else torch.full_like(target, IGNORE))
        self.codes, self._packed = torch.cat(maps).to(device), None
        if used:
            logger.info("decoded pseudo-labels of %d volumes; the levels of %d are sure enough", len(maps), used)
        else:
            logger.warning(
                "decoded pseudo-labels of %d volumes: the levels of none are sure enough, so that until the next "
                "decoding only labeled slices are learned from. Fix: nothing, if later decodings have some; else begin "
                "later (decode_first_epoch), or ask for less (decode_min_margin)",
                len(maps),
            )

    def _joined(self, logits: Tensor, slices: Tensor, volume: int, autocast: Callable[[], Any]) -> Tensor:
        """(D, C, H, W) float32 class weights of the teacher and, where there is a provider, the attention maps."""
        if self.provider is None or self.prior is None:
            return mask_unannotated(logits, self.unannotated).softmax(dim=1)
        if volume not in self._attention:
            with autocast():
                self._attention[volume] = torch.cat(
                    [self.provider.attention_logits(part).float() for part in slices.split(self.batch_size)]
                )
        return self.prior(logits, self._attention[volume], self.unannotated)

    @torch.no_grad()
    def add_to_batch(self, engine: SemiSupervisedTrainer) -> None:
        """Puts ``decoded_map`` (B, 1, H, W) int64 beside the unlabeled images; all `IGNORE` before the first decoding.

        Raises:
            ValueError: a batch without grids or slice ids.
        """
        unlabeled = engine.state.batch["unlabeled"]
        missing = [key for key in ("grid", "slice_id") if key not in unlabeled]
        if missing:
            raise ValueError(f"the unlabeled batch has no {missing}; decoded pseudo-labels are warped with them")
        device = engine.state.device
        grid = unlabeled["grid"].to(device, torch.float32, non_blocking=True)
        if self.codes is None:
            decoded = torch.full((len(grid), 1, *grid.shape[1:3]), IGNORE, dtype=torch.int64, device=device)
        else:
            self.codes = self.codes.to(device)
            of_batch = self.codes[unlabeled["slice_id"].to(device, non_blocking=True)].float().unsqueeze(1)
            decoded = F.grid_sample(of_batch, grid, mode="nearest", padding_mode="zeros", align_corners=False).long()
            without_target = (of_batch == IGNORE).flatten(1).all(1)  # outside of its picture, too, there is none
            decoded = decoded.masked_fill(without_target.view(-1, 1, 1, 1), IGNORE)
        engine.state.batch = {**engine.state.batch, "unlabeled": {**unlabeled, "decoded_map": decoded}}

    def state_dict(self) -> dict[str, Any]:
        """The present targets, which between two decodings are part of a run's state, and when the first ones came.

        Compressed, once for each decoding: label maps of thousands of slices are a gigabyte, and go into a checkpoint
        after each epoch.
        """
        if self._packed is None and self.codes is not None:
            self._packed = _packed(self.codes)
        return {"codes": self._packed, "first_epoch": self.first_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores them, from a tensor as well, as earlier versions kept them; codes above 127 of the first ones, all
        in int8, had become negative.

        Decoding that has begun goes on where a run is made longer, whose `first_epoch` may be a later one.
        """
        codes = state["codes"]
        if codes is not None:
            self.first_epoch = state.get("first_epoch", self.first_epoch)
            codes = codes if isinstance(codes, Tensor) else _unpacked(codes)
        if codes is not None and codes.dtype != self.dtype:
            codes = codes.to(self.dtype)
            codes = torch.where(codes < IGNORE, codes + 256, codes)
        self.codes, self._packed = codes, None


def _packed(codes: Tensor) -> dict[str, Any]:
    """Label maps as a zlib stream, their shape and type: tensors and plain types."""
    content = zlib.compress(codes.cpu().contiguous().numpy().data, level=1)
    return {
        "zlib": torch.frombuffer(bytearray(content), dtype=torch.uint8),
        "shape": list(codes.shape),
        "dtype": codes.dtype,
    }


def _unpacked(packed: Mapping[str, Any]) -> Tensor:
    """The label maps again."""
    content = bytearray(zlib.decompress(packed["zlib"].numpy()))
    return torch.frombuffer(content, dtype=packed["dtype"]).reshape(packed["shape"])
