"""From a datalist to slices, volumes and batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from cps4_monai.anatomy import NOT_ANNOTATED, Anatomy
from cps4_monai.assembly.context import Context, Stage
from cps4_monai.data.batches import SemiSupervisedLoader
from cps4_monai.data.cache import SliceCache
from cps4_monai.data.datasets import SliceDataset, VolumeDataset
from cps4_monai.data.entries import DatalistError
from cps4_monai.data.in_plane import InPlane
from cps4_monai.methods.base import SemiSupervisedMethod
from cps4_monai.networks import finetune_from, place
from cps4_monai.plan import plan_of, plan_path, weights_file
from cps4_monai.preflight import check_data as check_datalist
from cps4_monai.preflight import check_unlearned, check_validation_labels
from cps4_monai.transforms.augmentation import labeled_augmentation, unlabeled_augmentation


def slice_cache(
    directory: str,
    anatomy: Anatomy,
    size: Sequence[int] | None,
    spacing_mm: float | None,
    mode: str = "spacing",
    percentiles: Sequence[float] = (0.5, 99.5),
    assume_spacing: Sequence[float] | None = None,
) -> SliceCache:
    """The folder of network-ready slices, see :class:`SliceCache` and :class:`InPlane`."""
    in_plane = InPlane.from_dict({"size": size, "spacing_mm": spacing_mm, "mode": mode})
    low, high = percentiles
    return SliceCache(
        str(directory),  # MONAI takes "2025" for a number
        in_plane,
        lower=low,
        upper=high,
        num_classes=anatomy.num_classes,
        assume_spacing=assume_spacing,
    )


def labeled_slices(
    context: Context,
    data: Sequence[Any] | None = None,
    geometry: Mapping[str, Any] | None = None,
    intensity: Mapping[str, Any] | None = None,
    strong_views: int = 0,
    transform: Callable[[Any], Any] | None = None,
) -> SliceDataset:
    """Labeled slices with their augmentation.

    Args:
        context: of the run.
        data: volumes, or dicts with the paths ``image`` and ``label`` (MONAI Label's); None: the datalist's.
        geometry: of the augmentation; None: the run's.
        intensity: of the augmentation; None: the run's.
        strong_views: further views of each slice.
        transform: in place of the augmentation.
    """
    if transform is None:
        geometry = context.geometry if geometry is None else geometry
        intensity = context.intensity if intensity is None else intensity
        transform = labeled_augmentation(geometry, intensity, strong_views)
    return SliceDataset(context.data.labeled if data is None else data, context.cache, transform, labeled=True)


def unlabeled_slices(
    context: Context,
    method: SemiSupervisedMethod,
    views: str = "weak_strong",
    with_grid: bool = False,
    data: Sequence[Any] | None = None,
    transform: Callable[[Any], Any] | None = None,
) -> SliceDataset | None:
    """Unlabeled slices with the views that the method reads; None where it reads none.

    Args:
        context: of the run.
        method: says whether it needs them, and how many strong views.
        views: see :func:`cps4_monai.transforms.augmentation.unlabeled_augmentation`.
        with_grid: give the grid by which each slice was moved, too.
        data: volumes; None: the datalist's.
        transform: in place of the augmentation.

    Raises:
        DatalistError: the datalist has none.
    """
    if not method.needs_unlabeled:
        return None
    if data is None:
        context.data.require("unlabeled")
        data = context.data.unlabeled
    if transform is None:
        transform = unlabeled_augmentation(views, context.geometry, context.intensity, method.strong_views)
    return SliceDataset(data, context.cache, transform, labeled=False, with_grid=with_grid)


def volumes(context: Context, data: Sequence[Any] | None = None) -> VolumeDataset:
    """Whole volumes to validate on; without ``data`` those of the datalist."""
    return VolumeDataset(context.data.validation if data is None else data, context.cache)


def loader(stage: Stage, labeled: SliceDataset, unlabeled: SliceDataset | None = None) -> SemiSupervisedLoader:
    """Batches of one stage."""
    context = stage.context
    return SemiSupervisedLoader(
        labeled,
        unlabeled,
        stage.batch_size_labeled,
        stage.batch_size_unlabeled,
        seed=context.seed,
        num_workers=context.num_workers,
        iterations_per_epoch=stage.iterations_per_epoch,
        pin_memory=context.on_gpu,
        rank=context.rank,
        world_size=context.world_size,
    )


def starting_network(network: nn.Module, weights: str | None, device: Any) -> nn.Module:
    """A network on its device, with the weights of a file or of a bundle folder where there are any to start from."""
    return place(finetune_from(network, weights), device)


def on_device(module: nn.Module, device: Any) -> nn.Module:
    """A module on its device, in the usual memory format."""
    return module.to(device)


def check_data(context: Context, volumes: VolumeDataset, weights: str | None = None) -> None:
    """Refuses a datalist that leaks, and validation labels that leave nothing to measure.

    With several processes, the first one compares the images, and all look at the labels of all validation subjects.

    Args:
        context: of the run.
        volumes: to validate on.
        weights: file or bundle folder that stage 2 starts from, of whose classes the labels may lack some; None: from
            scratch.

    Raises:
        PlanError: these weights are not there.
        LeakError: see :func:`cps4_monai.preflight.check_data`.
        DatalistError: see :func:`check_recorded_classes`.
        ValueError: see :func:`cps4_monai.preflight.check_validation_labels`.
    """
    if context.writes:
        check_datalist(context.data, context.anatomy, context.image_digests)
        check_recorded_classes(context)
        if weights:
            file = weights_file(weights)
            unknown = plan_of(file).unannotated if plan_path(file).is_file() else ()
            left_out = (*unknown, *context.unannotated)
            check_unlearned("stage 2", weights, context.data.labeled, context.anatomy, left_out)
    check_validation_labels(volumes, context.unannotated)


def check_recorded_classes(context: Context) -> None:
    """Refuses a datalist whose record of classes is older than a label map: what it leaves out would get no prompt map.

    Raises:
        DatalistError: names the first such subject and the structures that were added to its label map.
        InvalidVolumeError: a label map cannot be used.
    """
    context.cache.prepare(context.data.labeled)
    for entry in context.data.labeled:
        if entry.label is None or entry.classes is None:
            continue
        shown = np.unique(context.cache.label(entry.label, entry.image).array)
        added = [int(code) for code in np.setdiff1d(shown, [0, NOT_ANNOTATED, *context.unannotated, *entry.classes])]
        if added:
            names = ", ".join(f"{code} ({context.anatomy.names[code]})" for code in added)
            raise DatalistError(
                f"{entry.label}: shows {names}, and the 'classes' of {entry.subject} in the datalist do not have it; "
                "expected those of the label map as it is now. Fix: make the datalist again (`cps4 datalist`), or "
                "leave 'classes' out of that entry"
            )
