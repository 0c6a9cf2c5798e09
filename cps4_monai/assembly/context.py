"""What all stages of a run share: device, seed and what is shown; classes and data; how long a stage trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from cps4_monai.anatomy import Anatomy
from cps4_monai.data.cache import CACHE_FORMAT, SliceCache
from cps4_monai.data.datalist import Datalist
from cps4_monai.handlers.decoded_labels import check_order
from cps4_monai.levels import LevelThresholds
from cps4_monai.plan import Plan
from cps4_monai.precision import Precision
from cps4_monai.preflight import check_schedule
from cps4_monai.run_folder import HASH_LENGTH, LABELED, UNLABELED, VALIDATED_ON

# What a checkpoint of 0.4.0 and before does not tell of its run; "unannotated" by itself is the setting.
UNANNOTATED = "unannotated codes"
_BATCH_SIZES = {"stage1": "stage1#batch_size"}  # where a setting has another name than the argument


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Where and how a run computes, and what it shows: the settings that need no data.

    Attributes:
        device: where to compute.
        precision: in which networks and losses are computed.
        seed: of every random draw.
        num_workers: processes that make batches.
        rank: of this process.
        world_size: number of processes.
        log_every: iterations from one line of losses to the next.
        show_progress: whether there is a progress bar.
        pictured: whose attention maps TensorBoard shows.
        geometry: of the augmentation, see :func:`cps4_monai.transforms.slice_geometry.RandSliceGeometryd`.
        intensity: of the augmentation, see :func:`cps4_monai.transforms.augmentation.intensity_augmentation`.
    """

    device: torch.device
    precision: Precision
    seed: int = 0
    num_workers: int = 0
    rank: int = 0
    world_size: int = 1
    log_every: int = 20
    show_progress: bool = True
    pictured: Sequence[str] = ()
    geometry: Mapping[str, Any] = field(default_factory=dict)
    intensity: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", torch.device(self.device))  # MONAI Label gives its name

    @property
    def on_gpu(self) -> bool:
        """Whether copies to the device may be asynchronous."""
        return self.device.type == "cuda"

    @property
    def writes(self) -> bool:
        """Whether this process is the one that shows and writes things."""
        return self.rank == 0


@dataclass(frozen=True, kw_only=True)
class Context(Setup):
    """What every stage of a run reads: the setup, the classes and the data.

    Attributes:
        anatomy: the classes.
        data: the scans by side of the split.
        cache: gives the network's slices.
        activation: how attention logits become maps, "sigmoid" or "softmax".
        decoding: thresholds of the level decoding that differ from the defaults, by name.
        trained_on: facts for people about what the weights see, beside those that the datalist tells.
    """

    anatomy: Anatomy
    data: Datalist
    cache: SliceCache
    activation: str = "sigmoid"
    decoding: Mapping[str, Any] = field(default_factory=dict)
    trained_on: Mapping[str, Any] = field(default_factory=dict)

    @property
    def image_digests(self) -> Path:
        """File that keeps which image has which voxels, for the comparison of images."""
        return self.cache.directory / "voxel_digests.json"

    @property
    def unannotated(self) -> tuple[int, ...]:
        """Codes that are in view but never labeled."""
        return tuple(self.data.unannotated)

    @cached_property
    def plan(self) -> Plan:
        """What the weights of this run depend on, but for their network."""
        data, in_plane = self.data, self.cache.in_plane
        facts = {
            "data_set": data.name,
            "labeled_subjects": len({entry.patient for entry in data.labeled}),
            "unlabeled_scans": len(data.unlabeled),
            "validation_subjects": len({entry.patient for entry in data.validation}),
        }
        return Plan(
            self.anatomy,
            self.unannotated,
            in_plane.spacing_mm,
            in_plane.size,
            in_plane.mode,
            percentiles=(self.cache.lower, self.cache.upper),
            activation=self.activation,
            decoding=self.decoding,
            trained_on={**facts, **self.trained_on},
        )

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Plain values for the record of a run, its report and its tracking."""
        plan = self.plan.to_dict()
        kept = ("anatomy", "unannotated", "spacing_mm", "slice_size", "in_plane_mode")
        return {
            **{key: plan[key] for key in kept},
            "seed": self.seed,
            "labeled_subjects": [entry.subject for entry in self.data.labeled],
            "precision": self.precision.name,
        }

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What decides a result and stands in files or in the environment, not in the config."""
        return {
            "classes": self.anatomy.to_dict(),
            UNANNOTATED: list(self.unannotated),
            LABELED: [entry.subject for entry in self.data.labeled],
            UNLABELED: [entry.subject for entry in self.data.unlabeled],
            VALIDATED_ON: [entry.subject for entry in self.data.validation],
            "processes": self.world_size,
            "format of slices and labels": CACHE_FORMAT,  # a run does not go on with labels of another rule
        }

    @cached_property
    def label_maps(self) -> dict[str, list[str]]:
        """Content of the label maps that a stage goes by, as SHA-256 of their files, by subject."""
        maps: dict[str, list[str]] = {}
        for entry in (*self.data.labeled, *self.data.validation):
            if entry.label is not None:
                key = self.cache.label(entry.label, entry.image).content_key
                maps.setdefault(entry.subject, []).append(key[:HASH_LENGTH])
        return maps


def run_context(
    setup: Setup,
    anatomy: Anatomy,
    data: Datalist,
    cache: SliceCache,
    activation: str = "sigmoid",
    decoding: Mapping[str, Any] | None = None,
    trained_on: Mapping[str, Any] | None = None,
) -> Context:
    """A setup with classes and data; see :class:`Context`.

    Raises:
        ValueError: a threshold in ``decoding`` that there is none of, or that has another form; a structure to be
            pictured that the anatomy does not know.
        DatalistError: a datalist of another anatomy.
    """
    data.check_anatomy(anatomy)
    try:
        LevelThresholds.from_dict(decoding or {})
    except ValueError as error:
        raise ValueError(f"level_thresholds: {error}") from error
    if unknown := [name for name in setup.pictured if name not in anatomy.names]:
        raise ValueError(
            f"pictured_structures has {unknown}, which the anatomy does not know; expected of {anatomy.names[1:]}. "
            "Fix: name those whose attention maps you want to see, or leave it out"
        )
    return Context(
        **{setting.name: getattr(setup, setting.name) for setting in fields(Setup)},
        anatomy=anatomy,
        data=data,
        cache=cache,
        activation=activation,
        decoding=dict(decoding or {}),
        trained_on=dict(trained_on or {}),
    )


@dataclass(frozen=True)
class Stage:
    """How long and how often one stage trains, and where its files go; it is checked when it is made.

    Attributes:
        context: of the run.
        name: "stage 1", "stage 2": for messages and the log.
        output_dir: folder of the stage.
        max_epochs: of the training.
        val_interval: epochs from one validation to the next.
        iterations_per_epoch: None: a pass over the data.
        batch_size_labeled: labeled slices of a batch.
        batch_size_unlabeled: unlabeled slices of a batch.
        early_stopping_patience: validations without improvement until the run stops; None: it never does.
        accumulation_steps: batches for one optimiser step.
        gradient_clip_norm: largest norm of all gradients together; None does not clip.
        ramp_up_updates: optimiser steps until the losses of unlabeled slices count in full, of methods that read it.
        decode_first_epoch: the first epoch with decoded pseudo-labels; None: the method has none.

    Raises:
        ValueError: see :func:`cps4_monai.preflight.check_schedule`; a norm that is not above 0; decoded pseudo-labels
            of an anatomy without levels.
    """

    context: Context
    name: str
    output_dir: str
    max_epochs: int
    val_interval: int = 1
    iterations_per_epoch: int | None = None
    batch_size_labeled: int = 4
    batch_size_unlabeled: int = 4
    early_stopping_patience: int | None = None
    accumulation_steps: int = 1
    gradient_clip_norm: float | None = None
    ramp_up_updates: int = 0
    decode_first_epoch: int | None = None

    def __post_init__(self) -> None:
        check_schedule(
            stage=self.name,
            max_epochs=self.max_epochs,
            val_interval=self.val_interval,
            iterations_per_epoch=self.iterations_per_epoch,
            batch_sizes={
                _BATCH_SIZES.get(self.key, "batch_size_labeled"): self.batch_size_labeled,
                "batch_size_unlabeled": self.batch_size_unlabeled,
            },
            early_stopping_patience=self.early_stopping_patience,
            accumulation_steps=self.accumulation_steps,
            decode_first_epoch=self.decode_first_epoch,
        )
        norm = self.gradient_clip_norm
        if norm is not None and not (isinstance(norm, int | float) and not isinstance(norm, bool) and norm > 0):
            raise ValueError(
                f"{self.name}: gradient_clip_norm is {norm!r}; expected a positive number, or null, which does not clip"
            )
        if self.decode_first_epoch is not None:
            check_order(self.context.anatomy, self.context.unannotated)

    @property
    def updates(self) -> int | None:
        """Optimiser steps of the run; None where an epoch is a pass over the data."""
        if self.iterations_per_epoch is None:
            return None
        return self.max_epochs * -(-self.iterations_per_epoch // self.accumulation_steps)

    @property
    def folder(self) -> Path:
        """Folder of the stage."""
        return Path(self.output_dir)

    @property
    def key(self) -> str:
        """The name as tables have it, "stage1"."""
        return self.name.replace(" ", "")
