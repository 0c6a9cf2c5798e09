"""Fine-tuned weights in the place of a bundle's own, with their checksum; the ones before are kept once."""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path

from monai.engines.workflow import Workflow

from cps4_monai.atomic_file import write_atomically
from cps4_monai.handlers.best_weights import BestWeights, metric_of

logger = logging.getLogger(__name__)

RELEASED = "model_released.pt"


class BundleWeights(BestWeights):
    """``BestWeights`` for a bundle's ``models/model.pt``: MONAI Label trains it and infers with it.

    The first validation is that of the weights that training starts from (``ValidationHandler`` with
    ``exec_at_start``): it sets the score to beat and writes nothing. The weights that were in the bundle become
    ``model_released.pt`` beside it, with their checksum; later trainings leave that file alone. Killed at any point,
    the bundle has whole weights, at worst without a checksum to compare with.
    """

    def __call__(self, engine: Workflow) -> None:
        """Compares and, from the second validation on, writes.

        Raises:
            ValueError: see :class:`BestWeights`.
        """
        if self.best_score is not None:
            super().__call__(engine)
            return
        score = metric_of(engine, self.metric, "BundleWeights")
        self.best_score = score if score == score else -float("inf")
        logger.info("score to beat: %.4f, of the weights that training starts from", self.best_score)

    def _write(self) -> None:
        released, checksum = self.path.with_name(RELEASED), _checksum_of(self.path)
        if self.path.is_file() and not released.exists():
            write_atomically(released, lambda beside: shutil.copyfile(self.path, beside))
            _write_checksum(released)
            logger.info("the weights before training are kept as %s", released)
        checksum.unlink(missing_ok=True)
        super()._write()
        _write_checksum(self.path)


def _checksum_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _write_checksum(path: Path) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    text = f"{digest}  {path.name}\n"
    write_atomically(_checksum_of(path), text)
