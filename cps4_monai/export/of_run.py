"""What a training run has to export: its best weights, how far it came, its evaluation."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from cps4_monai.export.facts import figures_of
from cps4_monai.file_hash import file_sha256
from cps4_monai.plan import plan_of
from cps4_monai.plan.plan import DIGEST_LENGTH, FINE_TUNED
from cps4_monai.run_folder import (
    DECISION,
    FINETUNE,
    FINETUNED_WEIGHTS,
    RECORD,
    RESUME,
    STAGE2_WEIGHTS,
    evaluation_folder,
)

logger = logging.getLogger(__name__)


def weights_of_run(run_dir: str | Path) -> Path:
    """Best weights of a training run so far, of stage 2 or fine-tuned ones; their plan lies beside them.

    A warning says where a stage 2 has not ended, or where a fine-tuning decided for the weights that it started from.

    Raises:
        ValueError: the folder holds no weights of either, or of a fine-tuning that has not ended.
    """
    weights = _validated(run_dir)
    if weights.name == FINETUNED_WEIGHTS.name:
        _warn_of_not_deployed(Path(run_dir), weights)
    else:
        _warn_of_unfinished(weights)
    return weights


def _validated(run_dir: str | Path) -> Path:
    weights, finetuned = Path(run_dir) / STAGE2_WEIGHTS, Path(run_dir) / FINETUNED_WEIGHTS
    if weights.is_file():
        return weights
    if not finetuned.is_file():
        raise ValueError(
            f"{weights} is not there; pass the output folder of a run whose stage 2 was validated. Fix, where it is "
            "that of a training that was stopped: call the same 'cps4 train' again, which goes on where it stopped"
        )
    told = plan_of(finetuned).trained_on.get(FINE_TUNED)
    digest = file_sha256(finetuned)[:DIGEST_LENGTH]
    if not any(digest in str(one) for one in (told if isinstance(told, list) else [])):
        raise ValueError(
            f"{finetuned}: its plan.json does not say what these weights (SHA-256 {digest}) were fine-tuned on; "
            "expected those of a fine-tuning that has ended. Fix: call the same 'cps4 train finetune' again, which "
            "goes on where it stopped"
        )
    return finetuned


def _warn_of_not_deployed(run_dir: Path, weights: Path) -> None:
    """Says why a fine-tuning would rather keep the weights that it started from; nothing where its decision is gone."""
    try:
        decision = json.loads((run_dir / FINETUNE / DECISION).read_text(encoding="utf-8"))
        why = "" if decision["deployed"] else str(decision["why"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    if why:
        logger.warning("%s: fine-tuned weights, which did not take the place of those before them: %s", weights, why)


def _warn_of_unfinished(weights: Path) -> None:
    """Says how far the training is that these weights are of, if it has not ended; nothing where its files are gone."""
    import torch

    checkpoint, record = weights.with_name(RESUME), weights.with_name(RECORD)
    if not (checkpoint.is_file() and record.is_file()):
        return
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["trainer"]
        epochs = json.loads(record.read_text(encoding="utf-8"))["starts"][-1]["epochs"]
    except Exception:  # torch.load answers damage by nearly any of them; the weights are whole
        return
    if state["epoch"] < epochs and not state["stopped"]:
        logger.warning("%s: the training has done %d of %d epochs", weights, state["epoch"], epochs)


def evaluation_of_run(run_dir: str | Path) -> Path | None:
    """Folder of a run's evaluation, where there is one of its weights as they are now; a warning where it is not."""
    folder = evaluation_folder(run_dir)
    if not folder.is_dir():
        return None
    try:
        figures_of(folder, file_sha256(_validated(run_dir)))
    except ValueError as error:
        logger.warning("the bundle states no figures: %s", error)
        return None
    return folder
