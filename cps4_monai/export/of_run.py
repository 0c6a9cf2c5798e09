"""What a training run has to export: its best weights, how far it came, its evaluation."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from cps4_monai.export.facts import figures_of
from cps4_monai.file_hash import file_sha256
from cps4_monai.run_folder import FINETUNED_WEIGHTS, RECORD, RESUME, STAGE2_WEIGHTS

logger = logging.getLogger(__name__)


def weights_of_run(run_dir: str | Path) -> Path:
    """Best weights of a training run so far; their plan lies beside them. Of one that has not ended a warning says so.

    Raises:
        ValueError: the folder holds no weights of stage 2.
    """
    weights = _validated(run_dir)
    _warn_of_unfinished(weights)
    return weights


def _validated(run_dir: str | Path) -> Path:
    weights = Path(run_dir) / STAGE2_WEIGHTS
    if not weights.is_file():
        finetuned = Path(run_dir) / FINETUNED_WEIGHTS
        if finetuned.is_file():
            raise ValueError(
                f"{weights} is not there: the run holds fine-tuned weights, {finetuned}; expected those of a stage 2. "
                "Fix: 'cps4 segment' takes that file by --weights, 'cps4 evaluate' by --set checkpoint=FILE; it is not "
                "exported by itself"
            )
        raise ValueError(
            f"{weights} is not there; pass the output folder of a run whose stage 2 was validated. Fix, where it is "
            "that of a training that was stopped: call the same 'cps4 train' again, which goes on where it stopped"
        )
    return weights


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
    folder = Path(run_dir) / "evaluation"
    if not folder.is_dir():
        return None
    try:
        figures_of(folder, file_sha256(_validated(run_dir)))
    except ValueError as error:
        logger.warning("the bundle states no figures: %s", error)
        return None
    return folder
