"""Pictures of what the networks see and say, in TensorBoard, at each validation.

Scalars need no handler of ours: MONAI's `TensorBoardStatsHandler` reads the trainer's output every N iterations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from torch import Tensor
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from cps4_monai.anatomy import MRSPINESEG, NOT_ANNOTATED, Anatomy
from cps4_monai.attention_maps import check_activation
from cps4_monai.engines.trainer import SemiSupervisedTrainer
from cps4_monai.losses.semi_supervised import attention_maps, mask_unannotated
from cps4_monai.palette import structure_colours


def _grey(image: Tensor) -> Tensor:
    return image[:1].float().clamp(0, 1).cpu().expand(3, -1, -1)


def _overlay(image: Tensor, codes: Tensor, colours: Tensor) -> Tensor:
    """(1, H, W) image under (H, W) codes -> (3, H, W)."""
    codes = codes.cpu().long()
    codes = codes.masked_fill((codes < 0) | (codes == NOT_ANNOTATED), 0)
    painted = colours[codes].permute(2, 0, 1)
    return torch.where(codes[None] > 0, 0.5 * _grey(image) + 0.5 * painted, _grey(image))


class PictureHandler:
    """Writes one row of pictures for the labeled and one for the unlabeled half of the last batch of an epoch.

    Labeled: image, label, each network's prediction. Unlabeled: image, y_text, each network's prediction (the
    teacher's is the pseudo-label), and the attention maps of chosen prompts. Networks are run again on
    these two images; the training step keeps nothing for it. Structures have the colours that they have in reports.

    Args:
        log_dir: TensorBoard folder; or give a `summary_writer`.
        prompts: names of the structures whose attention maps are shown.
        interval: epochs between pictures: that of the validation.
        summary_writer: used instead of a new one.
        anatomy: the classes.
        activation: how A is made of the attention logits, as in stage 1.

    Raises:
        ValueError: an interval below 1, a prompt that the anatomy does not have, or an unknown activation.
    """

    def __init__(
        self,
        log_dir: str | Path = "./runs",
        prompts: Sequence[str] = (),
        interval: int = 1,
        summary_writer: Any | None = None,
        anatomy: Anatomy = MRSPINESEG,
        activation: str = "sigmoid",
    ) -> None:
        check_activation(activation)
        if interval < 1:
            raise ValueError(f"interval is {interval}; expected 1 or more epochs")
        self.prompts = {anatomy.code_of(name): name for name in prompts}
        self.colours = torch.from_numpy(structure_colours(anatomy)).float() / 255  # (C, 3)
        self.interval = interval
        self.activation = activation
        self.writer = SummaryWriter(log_dir=str(log_dir)) if summary_writer is None else summary_writer

    def attach(self, engine: SemiSupervisedTrainer) -> None:
        """Registers with a :class:`cps4_monai.engines.SemiSupervisedTrainer`."""
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self)
        engine.add_event_handler(Events.COMPLETED, self.close)

    def close(self, engine: SemiSupervisedTrainer) -> None:
        """Puts what is written on the disk and ends the writer's thread; a run that goes on opens it again."""
        self.writer.close()

    def __call__(self, engine: SemiSupervisedTrainer) -> None:
        """Draws the first labeled and the first unlabeled slice of the batch."""
        for part in ("labeled", "unlabeled"):
            content = engine.state.batch.get(part)
            if content is not None:
                row = torch.cat(list(self.pictures(engine, content).values()), dim=2)
                self.writer.add_image(f"slices/{part}", row, engine.state.epoch)
                self._attention(content, part, engine.state.epoch, engine.method.unannotated)

    def pictures(self, engine: SemiSupervisedTrainer, content: Mapping[str, Any]) -> dict[str, Tensor]:
        """Pictures by name, each (3, H, W) in [0, 1], of the first slice of one half of a batch."""
        method, image = engine.method, content["image"][:1]
        with engine.autocast():
            logits = method.predict(image)
        drawn = {"image": _grey(image[0])}
        for name in ("label", "prompt_map"):
            if name in content:
                drawn[name] = _overlay(image[0], content[name][0, 0], self.colours)
        for name, scores in logits.items():
            winner = mask_unannotated(scores, method.unannotated).argmax(dim=1)[0]
            drawn[name] = _overlay(image[0], winner, self.colours)
        return drawn

    def _attention(self, content: Mapping[str, Any], part: str, epoch: int, unannotated: Sequence[int]) -> None:
        if "attention_logits" not in content:
            return
        size = content["image"].shape[-2:]
        maps = attention_maps(content["attention_logits"][:1], self.activation, unannotated)
        for code, name in self.prompts.items():
            upsampled = F.interpolate(maps[:, code : code + 1], size=size, mode="bilinear", align_corners=False)
            picture = torch.cat((content["image"][:1].float().clamp(0, 1), upsampled), dim=3)[0].cpu()
            self.writer.add_image(f"attention/{part}/{name}", picture, epoch)
