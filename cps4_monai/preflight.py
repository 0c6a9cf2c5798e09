"""Checks made before training starts: what would fail hours later fails now, with the fix."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cps4_monai.anatomy import MRSPINESEG, NOT_ANNOTATED, Anatomy
from cps4_monai.atomic_file import write_atomically
from cps4_monai.data.build_datalist import classes_shown, missing_classes
from cps4_monai.data.datalist import Datalist
from cps4_monai.data.datasets import VolumeDataset
from cps4_monai.data.entries import Entry
from cps4_monai.data.label_review import is_unreviewed_prediction
from cps4_monai.data.leaks import DIGEST_VERSION, check_contents, check_patients, voxel_digest
from cps4_monai.data.output_folder import check_output_dir
from cps4_monai.file_hash import file_sha256
from cps4_monai.run_folder import HASH_LENGTH, LABEL_MAPS, LABELED, RECORD, UNLABELED, VALIDATED_ON
from cps4_monai.scan_names import patient_of

__all__ = [
    "check_data",
    "check_images",
    "check_output_dir",
    "check_prompt_map",
    "check_ramp",
    "check_reviewed",
    "check_schedule",
    "check_unlearned",
    "check_unseen",
    "check_validation_labels",
]

logger = logging.getLogger(__name__)
USELESS_MAP = 0.1  # Dice of a prompt map below which stage 2 is warned of it


def check_data(datalist: Datalist, anatomy: Anatomy = MRSPINESEG, memory: str | Path | None = None) -> tuple[str, ...]:
    """Refuses a datalist that leaks, and warns of classes that cannot be learned.

    Args:
        datalist: what the run trains, validates and tests on.
        anatomy: the classes.
        memory: JSON file that keeps the digests of the images, so that a later run reads only what has changed; None:
            all images are read.

    Returns:
        The warnings, which are logged, too: those of the datalist, one of the classes without a labeled subject,
        and one of label maps that no person stands for.

    Raises:
        LeakError: the same patient or the same image content on two sides of training, validation and test.
        InvalidVolumeError: an image or a label map cannot be read.
    """
    check_patients(datalist.sides)
    check_images(datalist.sides, memory)
    name = datalist.name or "datalist"
    warnings = _told(name, (*datalist.warnings, *missing_classes(datalist, anatomy)))
    return (*warnings, *check_reviewed(name, [*datalist.labeled, *datalist.validation]))


def check_images(sides: Mapping[str, Sequence[Entry]], memory: str | Path | None = None) -> None:
    """Refuses images that are on two sides.

    Args:
        sides: name of a side (training, validation, test) -> its entries.
        memory: see :func:`check_data`.

    Raises:
        LeakError: names the files and both sides.
        InvalidVolumeError: an image cannot be read.
    """
    digests = _Digests(memory)
    check_contents(sides, digests)
    digests.save()


def check_schedule(
    stage: str,
    max_epochs: int,
    val_interval: int,
    iterations_per_epoch: int | None = None,
    batch_sizes: Mapping[str, int] | None = None,
    early_stopping_patience: int | None = None,
    accumulation_steps: int = 1,
    decode_first_epoch: int | None = None,
) -> tuple[str, ...]:
    """Refuses settings that leave a training without its product, and names those that leave a part of it unused.

    Args:
        stage: named in messages.
        max_epochs: of the training.
        val_interval: epochs from one validation to the next.
        iterations_per_epoch: None: a pass over the data.
        batch_sizes: by the setting's name.
        early_stopping_patience: validations without improvement until the run stops; None: it never does.
        accumulation_steps: batches for one optimiser step.
        decode_first_epoch: the first epoch with decoded pseudo-labels; None: the method has none.

    Returns:
        The warnings, which are logged, too.

    Raises:
        ValueError: a number below 1, or decoded pseudo-labels that would begin after the last epoch.
    """
    numbers = {
        "max_epochs": max_epochs,
        "val_interval": val_interval,
        "iterations_per_epoch": iterations_per_epoch,
        "early_stopping_patience": early_stopping_patience,
        "accumulation_steps": accumulation_steps,
        "decode_first_epoch": decode_first_epoch,
        **(batch_sizes or {}),
    }
    _require_counts(stage, numbers)
    if decode_first_epoch is not None and decode_first_epoch > max_epochs:
        raise ValueError(
            f"{stage}: decode_first_epoch is {decode_first_epoch}, max_epochs {max_epochs}: no epoch would have "
            "decoded pseudo-labels; lower decode_first_epoch, or choose a method without them"
        )
    warnings = [
        *_of_validation(max_epochs, val_interval),
        *_of_early_stopping(max_epochs, val_interval, early_stopping_patience, decode_first_epoch),
    ]
    return _told(stage, warnings)


def check_ramp(stage: str, setting: int, method: str, of_method: int, updates: int | None = None) -> tuple[str, ...]:
    """Names a ramp that the method does not read, and one that is longer than the run.

    It is no error: overlays that set the size of a run set a ramp for those methods that have one.

    Args:
        stage: named in messages.
        setting: `ramp_up_updates`.
        method: its name.
        of_method: optimiser steps until its losses of unlabeled slices count in full; 0: it has no such ramp.
        updates: optimiser steps of the run; None: unknown, where an epoch is a pass over the data.

    Returns:
        The warnings, which are logged, too.
    """
    warnings = []
    if setting not in (0, of_method):
        taken = f"takes {of_method}" if of_method else "does not read it: it has the ramp of its publication, or none"
        warnings.append(
            f"ramp_up_updates is {setting}, and {method} {taken}. Fix: nothing, if an overlay set it for the methods "
            "that read it; else leave it out, or set the method's own (`cps4 methods` shows its settings)"
        )
    if updates is not None and of_method >= updates:
        warnings.append(
            f"ramp_up_updates is {of_method}, and there are {updates} optimiser steps: the losses of unlabeled slices "
            "never count in full"
        )
    return _told(stage, warnings)


def check_prompt_map(stage: str, path: str | Path, dice: float | None) -> tuple[str, ...]:
    """Names a stage 1 that learned next to nothing: what the teacher knows is lost to its map.

    In docs/results/table1.md stage 2 has a Dice of 0.39 on a stage 1 whose map has 0.02, and of 0.15 on maps that are
    background everywhere; Mean Teacher has 0.85.

    Args:
        stage: named in messages.
        path: of the stage-1 file.
        dice: of its prompt map (b), on the scans that stage 1 was validated by; None: the file does not say.

    Returns:
        The warnings, which are logged, too.
    """
    if dice is None or dice >= USELESS_MAP:
        return ()
    return _told(
        stage,
        [
            f"the prompt map of {path} has a Dice of {dice:.3f} on the scans that stage 1 was validated by, and stage "
            "2 follows it. Fix: look at it with `cps4 attention`, train stage 1 longer or from a pretrained ViT (`cps4 "
            "weights vit-s-focus`), or take a method without class prompts (mean_teacher, mt_decoded)"
        ],
    )


def check_reviewed(stage: str, entries: Sequence[Entry]) -> tuple[str, ...]:
    """Names label maps of `cps4 segment` that no person stands for, or no longer: a datalist may be older.

    Args:
        stage: named in messages.
        entries: the scans that are trained on or validated with their labels.

    Returns:
        The warnings, which are logged, too.
    """
    labels = dict.fromkeys(entry.label for entry in entries if entry.label)  # some validate on scans of training
    ours = [label.name for label in labels if is_unreviewed_prediction(label)]
    if not ours:
        return ()
    one = len(ours) == 1
    return _told(
        stage,
        [
            f"{len(ours)} label map{'' if one else 's'} ({', '.join(ours[:5])}{' ...' * (len(ours) > 5)}) "
            f"{'is' if one else 'are'} of this program, and no person stands for {'it' if one else 'them'}: neither "
            "corrected nor accepted, or marked as wrong since. Fix: make the datalist again (`cps4 datalist`), unless "
            "predictions are meant to be learned"
        ],
    )


def check_unlearned(
    stage: str,
    weights: str | Path,
    labeled: Sequence[Entry],
    anatomy: Anatomy = MRSPINESEG,
    left_out: Sequence[int] = (),
    by_datalist: bool = True,
) -> tuple[str, ...]:
    """Names classes of the weights that training starts from and that the new labels do not show.

    Where such a structure is in view its pixels are background in these labels, which the weights learn.

    Args:
        stage: named in messages.
        weights: that training starts from.
        labeled: the scans with labels.
        anatomy: the classes.
        left_out: codes that the weights do not know, or that are unannotated here.
        by_datalist: whether the run reads ``unannotated`` of its datalist; fine-tuning takes that of the weights.

    Returns:
        The warnings, which are logged, too.

    Raises:
        InvalidVolumeError: a label map cannot be read or has codes outside the anatomy.
    """
    shown = classes_shown(labeled, anatomy.num_classes)
    gone = [f"{s.code} ({s.name})" for s in anatomy.foreground if s.code not in {*shown, *left_out}]
    if not gone:
        return ()
    where = "" if by_datalist else ", in `cps4 train stage2` with finetune_from"
    return _told(
        stage,
        [
            f"training starts from {weights}, and no labeled subject shows its classes {', '.join(gone)}: they are "
            "background in these labels, and the weights unlearn them wherever they are in view. Fix: nothing, if they "
            "never are; else mark them 255 (not annotated) in the label maps, or name them as 'unannotated' in the "
            f"datalist (`cps4 datalist --unannotated`){where}: then no result has them"
        ],
    )


def check_unseen(entries: Sequence[Entry], section: str, folders: Sequence[str | Path]) -> tuple[str, ...]:
    """Refuses test scans whose label maps a run was trained on, or chose its weights by: figures of them are no test.

    Label maps are known by their content, so that a data set that was moved or split anew is found out. Other scans of
    patients of the same name get a warning: they may be other people, of another data set.

    Args:
        entries: scans that are to be scored.
        section: of the datalist; "test" alone is checked.
        folders: of the trainings, with their ``run.json``: a training without one is not known.

    Returns:
        The warnings, which are logged, too.

    Raises:
        ValueError: there are such scans; names the first.
    """
    if section != "test":
        return ()
    records = dict.fromkeys(Path(folder) / RECORD for folder in folders)
    starts = [start for record in records for start in _starts(record)]
    chosen_by = {subject for start in starts for subject in start.get(VALIDATED_ON, ())}
    known = {
        digest: subject for start in starts for subject, maps in start.get(LABEL_MAPS, {}).items() for digest in maps
    }
    found = {
        entry.subject: known[digest]
        for entry in entries
        if entry.label is not None and (digest := file_sha256(entry.label)[:HASH_LENGTH]) in known
    }
    if found:
        trained = sum(subject not in chosen_by for subject in found.values())
        raise ValueError(
            f"{len(found)} of {len(entries)} test scans ({', '.join(list(found)[:3])}{', ...' * (len(found) > 3)}) are "
            f"known to this run: it was trained on the label maps of {trained} and chose its weights by "
            f"{len(found) - trained}; expected patients that it never saw. Fix: name the datalist that it was trained "
            "with (--datalist), or another section of this one"
        )
    lists = [start.get(key, ()) for start in starts for key in (LABELED, UNLABELED, VALIDATED_ON)]
    seen = {patient_of(subject) for subjects in lists for subject in subjects}
    shared = sorted({entry.patient for entry in entries} & seen)
    if not shared:
        return ()
    return _told(
        section,
        [
            f"names of {len(shared)} of the patients ({', '.join(shared[:3])}{', ...' * (len(shared) > 3)}) are those "
            "of patients that the run was trained on or chose its weights by: if they are the same people, figures of "
            "them are no test"
        ],
    )


def _starts(record: Path) -> list[dict[str, Any]]:
    """Settings of all starts that a training's record tells of, as of fine-tunings one after another; none where it
    cannot be read."""
    try:
        return [dict(start["settings"]) for start in json.loads(record.read_text(encoding="utf-8"))["starts"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, LookupError, TypeError) as error:
        logger.warning("%s cannot be read (%s): it is not known which scans the run has seen", record, error)
        return []


def check_validation_labels(dataset: VolumeDataset, unannotated: Sequence[int] = ()) -> None:
    """Refuses validation subjects whose labels leave nothing to measure: no weights could be chosen by them.

    Args:
        dataset: the validation volumes, with labels.
        unannotated: codes that are in view but never labeled.

    Raises:
        ValueError: none of the labels has an annotated structure within the network's slices.
    """
    uncounted = [0, NOT_ANNOTATED, *unannotated]
    if not any(np.isin(labels.array, uncounted, invert=True).any() for labels in dataset.labels or []):
        names = ", ".join(entry.subject for entry in dataset.entries[:5])
        raise ValueError(
            f"no label of the {len(dataset)} validation subjects ({names}) has an annotated structure within the "
            "network's slices: no weights could be chosen; expected labels with structures: correct 'validation' in "
            "the datalist, its 'unannotated', or slice_size"
        )


def _told(stage: str, warnings: Sequence[str]) -> tuple[str, ...]:
    for warning in warnings:
        logger.warning("%s: %s", stage, warning)
    return tuple(warnings)


def _require_counts(stage: str, numbers: Mapping[str, int | None]) -> None:
    """Refuses what is no whole number of 1 or more; None is a setting that is left out."""
    wrong = {name: n for name, n in numbers.items() if n is not None and (type(n) is not int or n < 1)}
    if wrong:
        told = ", ".join(f"{name} is {n!r}" for name, n in wrong.items())
        raise ValueError(f"{stage}: {told}; expected whole numbers of 1 or more: nothing would be trained")


def _of_validation(max_epochs: int, val_interval: int) -> list[str]:
    if val_interval <= max_epochs:
        return []
    return [f"val_interval is {val_interval}, max_epochs {max_epochs}: validated once, after the last epoch"]


def _of_early_stopping(
    max_epochs: int, val_interval: int, patience: int | None, decode_first_epoch: int | None
) -> list[str]:
    if patience is None:
        return []
    warnings, validations, soonest = [], -(-max_epochs // val_interval), (patience + 1) * val_interval
    if patience >= validations:
        warnings.append(
            f"early_stopping_patience is {patience}, and there are {validations} validations: the run cannot be "
            "stopped early"
        )
    if decode_first_epoch is not None and soonest < decode_first_epoch:
        warnings.append(
            f"early stopping may end the run at epoch {soonest}, before decoded pseudo-labels begin at epoch "
            f"{decode_first_epoch}: raise early_stopping_patience"
        )
    return warnings


class _Digests:
    """Voxel digests by path, size, time of change and version of the digest."""

    def __init__(self, memory: str | Path | None) -> None:
        self.path = None if memory is None else Path(memory)
        self.known = self._kept()
        self.made: dict[str, list[Any]] = {}

    def __call__(self, image: Path) -> str:
        key = str(Path(image).absolute())
        stamp = [Path(image).stat().st_size, Path(image).stat().st_mtime_ns, DIGEST_VERSION]
        if key not in self.known or self.known[key][:-1] != stamp:
            self.known[key] = self.made[key] = [*stamp, voxel_digest(image)]
        return str(self.known[key][-1])

    def save(self) -> None:
        """Adds what this run read to what the file holds by now, so that two runs may share it."""
        if self.path is not None and self.made:
            write_atomically(self.path, json.dumps({**self._kept(), **self.made}), shared=True)

    def _kept(self) -> dict[str, list[Any]]:
        if self.path is None or not self.path.is_file():
            return {}
        try:
            kept: dict[str, list[Any]] = json.loads(self.path.read_text(encoding="utf-8"))
            return kept
        except (OSError, ValueError) as error:
            logger.info("%s is not readable (%s); all images are compared again", self.path, error)
            return {}
