"""Stage 2: a segmentation network on labeled and unlabeled slices, validated on whole volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pydoc import locate
from typing import Any

from ignite.metrics import Metric
from monai.inferers import Inferer
from torch.utils.data import Dataset

from cps4_monai.assembly.chosen_by import check_chosen_by
from cps4_monai.assembly.context import Context, Stage
from cps4_monai.assembly.running_config import running_config
from cps4_monai.assembly.slices import loader
from cps4_monai.assembly.stage1 import METRIC
from cps4_monai.assembly.training import make_trainer, of_stage
from cps4_monai.assembly.validation import Validator, shown, spine_dice, validator
from cps4_monai.data.datalist import Datalist
from cps4_monai.data.datasets import SliceDataset
from cps4_monai.engines import SemiSupervisedTrainer
from cps4_monai.fingerprint import node_of
from cps4_monai.handlers import (
    BestWeights,
    CosineEnd,
    DecodedPredictiond,
    PictureHandler,
    PromptMapHandler,
    WeightsInUse,
)
from cps4_monai.handlers.weights_in_use import weights_of_pseudo_labels
from cps4_monai.methods.base import SemiSupervisedMethod
from cps4_monai.networks import describe
from cps4_monai.plan import Plan
from cps4_monai.preflight import check_prompt_map, check_ramp
from cps4_monai.run_folder import PSEUDO_LABELS, STAGE2_WEIGHTS
from cps4_monai.transforms.augmentation import check_views
from cps4_monai.vision import PromptedVision, load_prompted_vision

DECODED = "decoded_val_dice"
TRAINER = "train#trainer"
EVALUATOR = "cps4_monai.assembly.stage2.evaluator"
UNLABELED = "cps4_monai.assembly.unlabeled_slices"


def deployed_plan(context: Context, method: SemiSupervisedMethod, provider: Any | None = None) -> Plan:
    """What the weights of stage 2 depend on: the run's plan, with the deployed network and the method.

    Args:
        context: of the run.
        method: that trains.
        provider: that is asked for the prompt map; one from a stage-1 file says by which objective that was trained.
    """
    plan = context.plan.of_stage2(describe(method.deployed), method).of_objective(getattr(provider, "objective", ""))
    return plan if method.needs_unlabeled else plan.of_labeled_scans()


def stage1_model(context: Context, path: str, **compared: Any) -> PromptedVision:
    """The frozen image side of stage 1, held against the settings of this run.

    Args:
        context: of the run.
        path: file of stage 1.
        **compared: further arguments of :func:`cps4_monai.vision.load_prompted_vision`.

    Raises:
        ValueError: the file is not there, or of a stage 1 with other settings.
    """
    settings = {
        "anatomy": context.anatomy,
        "unannotated": context.unannotated,
        "image_size": context.cache.in_plane.size,
        "activation": context.activation,
        "plan": context.plan,
        "map_location": context.device,
    }
    model = load_prompted_vision(path, **{**settings, **compared})
    check_prompt_map("stage 2", path, model.validated.get(METRIC))
    return model


def check_best(best: str, key_metric: Mapping[str, Metric]) -> None:
    """Refuses, before stage 1 trains for hours, a metric that :func:`evaluator` would refuse when stage 2 begins.

    Nothing is built for it but the metrics, since networks draw random numbers. Where the config has handlers or an
    evaluator of its own for stage 2, this is left to them.

    Args:
        best: name of the metric that chooses the weights.
        key_metric: name -> metric of the plain argmax.

    Raises:
        ValueError: see :func:`cps4_monai.assembly.chosen_by.check_chosen_by`.
    """
    config = running_config() or {}
    own = node_of(config, "validate#evaluator#_target_") not in (None, EVALUATOR)
    if not (own or node_of(config, "validate#handlers")):
        check_chosen_by(best, key_metric, offered=(DECODED,))


def check_unlabeled(data: Datalist, views: str) -> None:
    """Refuses, before stage 1 trains for hours, unlabeled slices that stage 2 would refuse: none, or in unknown views.

    Of the method its class is asked, since networks draw random numbers. Where that cannot be told, or the config has
    unlabeled slices of its own, this is left to stage 2.

    Args:
        data: the scans by side of the split.
        views: how student and teacher see an unlabeled slice.

    Raises:
        DatalistError: it has no unlabeled scans, and the method reads them.
        ValueError: there are no such views.
    """
    config = running_config() or {}
    slices = node_of(config, "train#unlabeled_dataset")
    if not isinstance(slices, Mapping) or slices.get("_target_") != UNLABELED or slices.get("data") is not None:
        return
    method = locate(str(node_of(config, "train#method#_target_")))
    if getattr(method, "needs_unlabeled", False) is True:
        data.require("unlabeled")
        check_views(views)


def evaluator(
    stage: Stage,
    method: SemiSupervisedMethod,
    dataset: Dataset[Any],
    inferer: Inferer,
    key_metric: Mapping[str, Metric],
    best: str = DECODED,
    handlers: Sequence[Any] = (),
) -> Validator:
    """Validates the deployed network and keeps its best weights.

    Args:
        stage: of the training.
        method: what is trained.
        dataset: volumes with labels.
        inferer: runs the network over a volume.
        key_metric: name -> metric of the plain argmax.
        best: name of the metric that chooses the weights; with "decoded_val_dice" levels are decoded as
            `cps4 segment` does.
        handlers: the config's own, after all others.

    Raises:
        ValueError: no metric of the validation has the name that chooses the weights.
    """
    context, decoding = stage.context, dict[str, Any]()
    if best == DECODED:
        decoding = {
            "postprocessing": DecodedPredictiond("pred", context.anatomy, context.unannotated, context.decoding),
            "additional_metrics": {DECODED: spine_dice(context, "decoded", "decoded_")},
        }
    metrics = {**key_metric, **decoding.get("additional_metrics", {})}
    check_chosen_by(best, metrics, handlers, offered=(DECODED,))
    keeps = BestWeights(stage.folder / STAGE2_WEIGHTS.name, method.deployed, best)
    return validator(
        context,
        method.deployed,
        dataset,
        inferer,
        key_metric,
        [*shown(stage), keeps, *handlers],
        best=keeps,
        **decoding,
    )


def student_validator(chooser: Validator, stage: Stage, method: SemiSupervisedMethod) -> Validator:
    """Scores the student on the volumes of the validator of the deployed teacher; chooses nothing."""
    return validator(
        stage.context,
        method.student,  # type: ignore[attr-defined]  # asked where there is one
        chooser.data_loader.dataset,
        chooser.inferer,
        {"val_dice": spine_dice(stage.context)},
    )


def trainer(
    stage: Stage,
    method: SemiSupervisedMethod,
    labeled: SliceDataset,
    evaluator: Validator,
    lr_scheduler: Any,
    unlabeled: SliceDataset | None = None,
    provider: Any | None = None,
    decoded_labels: Any | None = None,
    student: bool | None = True,
    max_epochs: int | None = None,
    handlers: Sequence[Any] = (),
) -> SemiSupervisedTrainer:
    """Everything that trains stage 2.

    Args:
        stage: how long, and how often what.
        method: what is trained.
        labeled: labeled slices.
        evaluator: of :func:`evaluator`.
        lr_scheduler: stepped after each epoch.
        unlabeled: unlabeled slices; None: the method reads none.
        provider: gives the prompt map of each batch; None: the method needs none.
        decoded_labels: gives decoded pseudo-labels; None: the method needs none.
        student: whether the student is validated, too, where it is not what is deployed.
        max_epochs: in place of the stage's.
        handlers: the config's own, last before the checkpoint.
    """
    context = stage.context
    own_ramp = getattr(method, "ramp_up_updates", 0)
    check_ramp(stage.name, stage.ramp_up_updates, type(method).__name__, own_ramp, stage.updates)
    validators = {"": evaluator}
    if student and getattr(method, "student", method.deployed) is not method.deployed:
        validators["student_"] = student_validator(evaluator, stage, method)
    asked = [] if provider is None else [PromptMapHandler(provider)]
    decoded = [] if decoded_labels is None else [decoded_labels]
    pictures = []
    if context.writes:
        pictures = [
            PictureHandler(
                stage.output_dir,
                context.pictured,
                stage.val_interval,
                anatomy=context.anatomy,
                activation=context.activation,
            )
        ]
    order = of_stage(
        stage,
        deployed_plan(context, method, provider),
        validators,
        {"method": method, "lr_scheduler": lr_scheduler, "decoded_labels": decoded_labels},
        TRAINER,
        on_batch=[*asked, *decoded],
        lr_scheduler=lr_scheduler,
        pictures=pictures,
        added=handlers,
        files=getattr(provider, "files", None),
        restored=[
            CosineEnd(lr_scheduler),
            WeightsInUse(
                stage.folder / STAGE2_WEIGHTS.name, stage.folder.parent / PSEUDO_LABELS, weights_of_pseudo_labels
            ),
        ],
    )
    return make_trainer(stage, method, loader(stage, labeled, unlabeled), order, max_epochs)
