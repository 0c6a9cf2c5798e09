"""Settings of a training that leave it without its product, or a part of it unused."""

from __future__ import annotations

from collections.abc import Mapping

from cps4_monai.preflight.tell import tell


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
    return tell(stage, warnings)


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
    return tell(stage, warnings)


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
