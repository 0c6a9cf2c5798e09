"""Masked autoencoding of the vision encoder on all training slices, before stage 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from cps4_monai.assembly.context import UNANNOTATED, Context, Stage
from cps4_monai.assembly.running_config import same_experiment
from cps4_monai.assembly.training import in_order
from cps4_monai.data.datasets import SliceDataset
from cps4_monai.data.image_batches import ImageLoader
from cps4_monai.engines import PrecisionTrainer
from cps4_monai.handlers import CosineEnd, ResumeHandler
from cps4_monai.inference.precision_inferer import PrecisionInferer
from cps4_monai.preflight import check_images
from cps4_monai.run_folder import RESUME
from cps4_monai.transforms.augmentation import labeled_augmentation
from cps4_monai.vision import MaskedAutoencoder, save_image_encoder

TRAINER = "pretrain#trainer"


def trainer(
    stage: Stage,
    network: MaskedAutoencoder,
    optimizer: Optimizer,
    lr_scheduler: Any,
    checkpoint: str | Path,
    geometry: Mapping[str, Any] | None = None,
    handlers: Sequence[Any] = (),
) -> PrecisionTrainer:
    """Everything that pretrains the vision encoder.

    Args:
        stage: how long, and how often what.
        network: the encoder with a decoder beside it.
        optimizer: of its parameters.
        lr_scheduler: stepped after each epoch.
        checkpoint: file for the encoder, written when training has ended.
        geometry: of the augmentation; None: that of stage 2.
        handlers: the config's own, last before the checkpoint.

    Raises:
        ValueError: several processes, which would share no gradient.
    """
    context = stage.context
    if context.world_size > 1:
        raise ValueError(
            f"pretraining was started in {context.world_size} processes; expected one, since they would share no "
            "gradient. Fix: start it without torchrun; stages 1 and 2 run in several"
        )
    augmentation = labeled_augmentation(context.geometry if geometry is None else geometry, context.intensity)
    scans = [*context.data.labeled, *context.data.unlabeled]
    slices = SliceDataset(scans, context.cache, augmentation, labeled=False)
    loader = ImageLoader(
        slices,
        stage.batch_size_unlabeled,
        seed=context.seed,
        num_workers=context.num_workers,
        iterations_per_epoch=stage.iterations_per_epoch,
        pin_memory=context.on_gpu,
    )
    of_labels = UNANNOTATED  # no label is opened
    same = same_experiment(TRAINER, {key: value for key, value in context.identity.items() if key != of_labels})
    states = {"network": network, "optimizer": optimizer, "lr_scheduler": lr_scheduler}
    order = in_order(
        stage,
        {**same, **context.settings},
        lr_scheduler=lr_scheduler,
        added=handlers,
        checkpoint=ResumeHandler(stage.folder / RESUME, states, same),
        restored=[CosineEnd(lr_scheduler)],
        last=lambda: save_image_encoder(checkpoint, network.image_encoder),
    )
    return PrecisionTrainer(
        device=context.device,
        non_blocking=context.on_gpu,
        max_epochs=stage.max_epochs,
        train_data_loader=loader,
        network=network,
        optimizer=optimizer,
        loss_function=mean_of,
        decollate=False,
        inferer=PrecisionInferer(context.precision),
        precision=context.precision,
        train_handlers=order,
    )


def check_sides(context: Context) -> None:
    """Refuses images that are in training and elsewhere; labels are not read, and need not be there.

    Raises:
        LeakError: see :func:`cps4_monai.preflight.check_images`.
    """
    if context.writes:
        check_images(context.data.sides, context.image_digests)


def mean_of(losses: Tensor, image: Tensor) -> Tensor:
    """The loss of a batch from the losses (B,) that the network itself gives; the image is what MONAI hands along."""
    return losses.mean()
