"""A trainer of nnU-Net v2 for machines that are lent for minutes: the same training, checkpoints more often.

nnU-Net writes one every 50 epochs and starts over where a training ends before; this one writes one every second epoch,
whole or not at all. `nnUNet_extTrainer` names this folder (nnunetv2 2.8); both variables are read at training only:
NNUNET_EPOCHS, 1000 by default, which is nnU-Net's own; NNUNET_ITERATIONS of an epoch, for rehearsals.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainerInPieces(nnUNetTrainer):  # noqa: N801 - trainers are found by such names
    """nnU-Net's default trainer with a checkpoint every second epoch."""

    def __init__(self, plans: dict, configuration: str, fold: int, dataset_json: dict, device: torch.device) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.save_every = 2
        self.num_epochs = int(os.environ.get("NNUNET_EPOCHS", self.num_epochs))
        if "NNUNET_ITERATIONS" in os.environ:
            self.num_iterations_per_epoch = self.num_val_iterations_per_epoch = int(os.environ["NNUNET_ITERATIONS"])

    def save_checkpoint(self, filename: str) -> None:
        """Written beside its place and renamed: a training that is stopped meanwhile keeps the last one."""
        beside = Path(f"{filename}.part")
        super().save_checkpoint(str(beside))
        if beside.exists():
            beside.replace(filename)
