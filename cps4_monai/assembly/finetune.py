"""Fine-tuning the weights of a bundle on labeled scans, as MONAI Label does it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from monai.inferers import Inferer
from torch import nn
from torch.optim import Optimizer

from cps4_monai.assembly.context import Context, Setup, Stage, run_context
from cps4_monai.assembly.running_config import same_experiment
from cps4_monai.assembly.slices import labeled_slices, loader, slice_cache, volumes
from cps4_monai.assembly.training import in_order, make_trainer
from cps4_monai.assembly.validation import Validator, dice_of, shown, validator
from cps4_monai.data.corrected_scans import labels_in_words
from cps4_monai.data.datalist import Datalist
from cps4_monai.data.datasets import SliceDataset, VolumeDataset
from cps4_monai.data.entries import Entry
from cps4_monai.data.leaks import patients_of
from cps4_monai.engines import SemiSupervisedTrainer
from cps4_monai.file_hash import known_sha256
from cps4_monai.handlers import DecodedPredictiond, EpochValidation, FirstValidation, ResumeHandler
from cps4_monai.handlers.bundle_weights import BundleWeights
from cps4_monai.methods import Supervised
from cps4_monai.networks import build_network, load_weights, place
from cps4_monai.plan import plan_of
from cps4_monai.preflight import check_images, check_reviewed, check_unlearned, check_validation_labels
from cps4_monai.run_folder import FINETUNED_WEIGHTS, HASH_LENGTH, LABEL_MAPS, LABELED, RESUME, VALIDATED_ON

logger = logging.getLogger(__name__)

DECODED = "decoded_val_dice"
TRAINER = "finetune#trainer"


def start(weights: str | Path, device: Any) -> nn.Module:
    """The network of a weights file, built from its plan, with these weights.

    Raises:
        ValueError: no such file, or one without a plan.
    """
    network = build_network(plan_of(weights).network, str(weights))
    return place(load_weights(network, weights), device)


def method(
    weights: str | Path,
    student: nn.Module,
    learning_rate: float,
    weight_decay: float,
    optimizer: Optimizer | None = None,
) -> Supervised:
    """Plain supervised training, with the classes of the weights.

    Args:
        weights: file that the student starts from.
        student: what is trained.
        learning_rate: of Adam.
        weight_decay: of Adam.
        optimizer: in place of Adam.
    """
    if optimizer is None:
        optimizer = torch.optim.Adam(student.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True)
    return Supervised(student, optimizer, plan_of(weights).unannotated)


def own_context(setup: Setup, weights: str | Path, cache_dir: str) -> Context:
    """The context of a run with classes, geometry and normalisation of the weights, whatever the config says."""
    plan = plan_of(weights)
    told = (weights, plan.spacing_mm, plan.slice_size)
    logger.info("fine-tuning by the plan of %s, not by the config's geometry: spacing %s mm, slices %s", *told)
    cache = slice_cache(cache_dir, plan.anatomy, plan.slice_size, plan.spacing_mm, plan.in_plane_mode, plan.percentiles)
    setup = replace(setup, pictured=())  # names of the config's anatomy; no attention is drawn here
    return run_context(setup, plan.anatomy, Datalist(unannotated=plan.unannotated), cache, decoding=plan.decoding)


def evaluator(
    stage: Stage, method: Supervised, volume_set: VolumeDataset, inferer: Inferer, best: BundleWeights
) -> Validator:
    """Validates by decoded levels, as `cps4 segment` gives them, and keeps the best weights."""
    context = stage.context
    return validator(
        context,
        method.deployed,
        volume_set,
        inferer,
        {DECODED: dice_of(context.anatomy, context.unannotated, "decoded", "decoded_")},
        [*shown(stage)[:1], best],
        best=best,
        postprocessing=DecodedPredictiond("pred", context.anatomy, context.unannotated, context.decoding),
        additional_metrics={"val_dice": dice_of(context.anatomy, context.unannotated)},
    )


def settings_of(weights: str | Path, method: Supervised, seed: int) -> dict[str, Any]:
    """What the record of a fine-tuning says of it: which weights it started from, their plan, rate and seed."""
    optimizer = next(iter(method.optimizers.values()))
    return {
        "weights": str(weights),
        "plan": plan_of(weights).to_dict(),
        "learning_rate": optimizer.param_groups[0]["lr"],
        "seed": seed,
    }


def seen_by(training: Sequence[Entry], validation: Sequence[Entry]) -> dict[str, Any]:
    """What the record of a training says of the scans that it saw: an evaluation asks whether some are its own."""
    maps: dict[str, list[str]] = {}
    for entry in (*training, *validation):
        if entry.label is not None:
            maps.setdefault(entry.subject, []).append(known_sha256(entry.label)[:HASH_LENGTH])
    return {
        LABELED: [entry.subject for entry in training],
        VALIDATED_ON: [entry.subject for entry in validation],
        LABEL_MAPS: maps,
    }


def identity(context: Context, training: SliceDataset, validation: VolumeDataset) -> dict[str, Any]:
    """What decides the result and stands in no config: classes, and the scans with their label maps as they are now.

    Label maps count by their content: MONAI Label hands over the same files, corrected meanwhile.
    """
    sides = {"trained on": training.entries, "validated on": validation.entries}
    return {
        "classes": context.anatomy.to_dict(),
        "processes": context.world_size,
        **{
            side: [[entry.subject, None if entry.label is None else known_sha256(entry.label)] for entry in entries]
            for side, entries in sides.items()
        },
    }


def tell_replaced(weights: str | Path, checkpoint: Path) -> None:
    """Says that the weights of an earlier fine-tuning in the same folder are about to go, and how to go on from them.

    Args:
        weights: that this one starts from.
        checkpoint: of a fine-tuning that has not ended, which goes on.
    """
    earlier = Path(weights).with_name(FINETUNED_WEIGHTS.name)
    if earlier.is_file() and not checkpoint.is_file() and known_sha256(earlier) != known_sha256(weights):
        logger.warning(
            "%s: fine-tuned weights of before, which this training replaces: it starts from %s again. Fix, to go on "
            "from them: 'cps4 train finetune --weights %s' with another output folder",
            earlier,
            Path(weights).name,
            earlier,
        )


def validated_patients(training: Sequence[Any], validation: Sequence[Any]) -> tuple[list[str], bool]:
    """Patients that are validated, those of training without any, and whether training sees no scan of theirs."""
    trained, validated = patients_of(training, validation)
    shared = sorted(trained & validated)
    if shared:
        logger.warning(
            "among training and validation: %s (patients on both sides: %d), so the weights of the bundle will not be "
            "replaced. Fix: keep all scans of a patient on one side",
            ", ".join(shared[:5]),
            len(shared),
        )
    return sorted(validated or trained), bool(validated) and not shared


def trainer(
    setup: Setup,
    method: Supervised,
    weights: str | Path,
    inferer: Inferer,
    output_dir: str,
    cache_dir: str,
    training: Sequence[Any],
    validation: Sequence[Any],
    max_epochs: int,
    batch_size: int = 4,
    iterations_per_epoch: int | None = None,
    gradient_clip_norm: float | None = None,
    min_subjects: int = 5,
    handlers: Sequence[Any] = (),
) -> SemiSupervisedTrainer:
    """Everything that fine-tunes a bundle's weights: at their own geometry, from their own score.

    One that was stopped goes on where it was. With other weights, scans, labels or settings it begins anew, as one does
    in the folder of a fine-tuning that has ended: people label, train, and label more.

    Args:
        setup: of the run.
        method: of :func:`method`.
        weights: the bundle's ``models/model.pt``.
        inferer: runs the network over a volume.
        output_dir: folder of the fine-tuning.
        cache_dir: folder of the network's slices.
        training: labeled volumes, as MONAI Label hands them over.
        validation: volumes to validate on; empty: those of training.
        max_epochs: of the training.
        batch_size: slices of a batch.
        iterations_per_epoch: None: a pass over the data.
        gradient_clip_norm: largest norm of all gradients together; None does not clip.
        min_subjects: fewer validated patients than this never replace weights, nor do patients of training.
        handlers: the config's own, before the weights are decided on.

    Raises:
        LeakError: the same image content among training and validation.
        ValueError: no structure in the labels of validation.
    """
    context = own_context(setup, weights, cache_dir)
    given: dict[str, Any] = {"iterations_per_epoch": iterations_per_epoch, "gradient_clip_norm": gradient_clip_norm}
    stage = Stage(context, "finetune", output_dir, max_epochs, batch_size_labeled=batch_size, **given)
    held_out, slices = bool(validation), labeled_slices(context, training)
    volume_set = volumes(context, validation if held_out else training)
    if held_out and context.writes:
        check_images({"training": slices.entries, "validation": volume_set.entries}, context.image_digests)
    check_validation_labels(volume_set, context.unannotated)
    if context.writes:
        check_reviewed(stage.name, [*slices.entries, *volume_set.entries])
        check_unlearned(stage.name, weights, slices.entries, context.anatomy, context.unannotated, by_datalist=False)
    judged, unseen = validated_patients(training, validation)
    if context.writes:
        tell_replaced(weights, stage.folder / RESUME)
    seen = labels_in_words([entry.label for entry in slices.entries])
    best = BundleWeights(weights, method.deployed, DECODED, judged, unseen, min_subjects, output_dir, seen)
    chooser = evaluator(stage, method, volume_set, inferer, best)
    same = same_experiment(TRAINER, identity(context, slices, volume_set))
    states: dict[str, Any] = {"method": method, "best": best}
    checkpoint = ResumeHandler(stage.folder / RESUME, states, same, {"weights file": weights}, or_anew=True)

    def deploy() -> None:
        best.deploy()
        checkpoint.forget()

    order = in_order(
        stage,
        {**settings_of(weights, method, context.seed), **seen_by(slices.entries, volume_set.entries)},
        validation=EpochValidation(1, chooser),
        validators={"": chooser},
        added=handlers,
        checkpoint=checkpoint,
        restored=[FirstValidation(chooser)],
        last=deploy,
        progress=False,
    )
    return make_trainer(stage, method, loader(stage, slices), order)
