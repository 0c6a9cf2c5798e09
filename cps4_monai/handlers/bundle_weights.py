"""Fine-tuned weights beside a bundle's own; which take their place only on the word of several subjects."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from monai.engines.workflow import Workflow
from torch import nn

from cps4_monai.atomic_file import write_atomically
from cps4_monai.file_hash import file_sha256, record_sha256, sha256_file
from cps4_monai.handlers.best_weights import BestWeights, metric_of
from cps4_monai.plan import plan_of, plan_path
from cps4_monai.plan.plan import DIGEST_LENGTH, FINE_TUNED
from cps4_monai.run_folder import DECISION, FINETUNED_WEIGHTS

logger = logging.getLogger(__name__)

_NAMED, _CALIBRATED_WITH = "SHA-256 ", "with the weights"
FINETUNED, RELEASED = FINETUNED_WEIGHTS.name, "model_released.pt"


class BundleWeights(BestWeights):
    """``BestWeights`` for fine-tuning a bundle's ``models/model.pt``: MONAI Label trains it and infers with it.

    The first validation (:class:`cps4_monai.handlers.FirstValidation`) is that of the bundle's weights, from which
    training starts: the score to beat. The best epoch after it is kept as ``model_finetuned.pt`` beside them, worse or
    better: MONAI Label offers it as a model, `cps4 segment --weights` takes it. When training has ended, :meth:`deploy`
    lets it take the place of ``model.pt`` where the validation says enough for that; the weights that were there first
    stay as ``model_released.pt``. Killed at any point, the bundle has whole weights, at worst without a checksum.

    Args:
        path: the bundle's ``models/model.pt``.
        network: what is trained.
        metric: name of the metric that chooses, that of decoded predictions.
        validation: patients that are validated; several entries may be of one.
        held_out: whether no scan of any of them is trained on.
        min_subjects: fewer patients than this never replace weights; one scan says next to nothing about others.
        output_dir: where ``deployment.json`` goes: the decision, both scores and the SHA-256 of all weights.
        trained_on: what the fine-tuned weights see, in words; the plan beside them says it.

    Raises:
        ValueError: ``min_subjects`` below 1.
    """

    def __init__(
        self,
        path: str | Path,
        network: nn.Module,
        metric: str | None = None,
        validation: Sequence[str] = (),
        held_out: bool = True,
        min_subjects: int = 5,
        output_dir: str | Path | None = None,
        trained_on: str = "",
    ) -> None:
        if min_subjects < 1:
            raise ValueError(f"min_subjects is {min_subjects}; expected 1 or more subjects")
        super().__init__(Path(path).with_name(FINETUNED), network, metric)
        self.deployed = Path(path)
        self.subjects, self.held_out, self.min_subjects = sorted(set(validation)), held_out, min_subjects
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.trained_on = trained_on
        self.start_score: float | None = None

    def __call__(self, engine: Workflow) -> None:
        """Notes the first score; from the second validation on, keeps the best weights.

        Raises:
            ValueError: see :class:`BestWeights`.
        """
        if self.start_score is None:
            self.start_score = metric_of(engine, self.metric, "BundleWeights")
            logger.info(
                "score to beat: %.4f, of %s (SHA-256 %s)", self.start_score, self.deployed, _digest(self.deployed)
            )
            return
        super().__call__(engine)

    def deploy(self) -> bool:
        """Puts the fine-tuned weights in the place of the bundle's, or says why not; returns which.

        Raises:
            NoWeightsError: training left none.
        """
        self.require()
        if idist.get_rank() != 0:
            return False
        against = self._against()
        before, tuned = _digest(self.deployed), _digest(self.path)
        logger.info("fine-tuned weights: %s (SHA-256 %s), score %.4f", self.path, tuned, self.best_score)
        if against:
            logger.warning("%s stays as it is (SHA-256 %s): %s", self.deployed, before, against)
        else:
            self._replace()
            logger.info("%s is replaced by them; SHA-256 was %s, is %s", self.deployed, before, tuned)
        self._tell_plan(before, tuned, deployed=not against)
        if self.output_dir is not None:
            decision = {
                "trained_on": self.trained_on,
                "deployed": not against,
                "why": against or "higher on enough held-out subjects",
                "metric": self.metric,
                "score_before": self.start_score,
                "score_fine_tuned": self.best_score,
                "epoch": self.best_epoch,
                "validation_subjects": len(self.subjects),
                "held_out": self.held_out,
                "sha256_before": before,
                "sha256_fine_tuned": tuned,
            }
            write_atomically(self.output_dir / DECISION, json.dumps(decision, indent=2) + "\n")
        return not against

    def _against(self) -> str:
        """What speaks against replacing the weights; empty where nothing does."""
        against = []
        if self.start_score is None or self.best_score is None or not self.best_score > self.start_score:
            against.append(f"the fine-tuned score {self.best_score:.4f} is not above {self.start_score:.4f}")
        if not self.held_out:
            against.append(
                "validated on patients of training, for want of others; label scans of others for validation"
            )
        elif len(self.subjects) < self.min_subjects:
            against.append(
                f"validated on {len(self.subjects)} subjects, {self.min_subjects} are needed "
                "(finetune#best#min_subjects); look at both on further scans"
            )
        return "; ".join(against)

    def _replace(self) -> None:
        released = self.deployed.with_name(RELEASED)
        if self.deployed.is_file() and not released.exists():
            write_atomically(released, lambda beside: shutil.copyfile(self.deployed, beside))
            record_sha256(released)
            logger.info("the weights before are kept as %s (SHA-256 %s)", released, _digest(released))
        sha256_file(self.deployed).unlink(missing_ok=True)
        write_atomically(self.deployed, lambda beside: shutil.copyfile(self.path, beside))
        record_sha256(self.deployed)

    def _tell_plan(self, before: str, tuned: str, deployed: bool) -> None:
        """Adds to the plan, which lies beside all of these weights, what the fine-tuned ones were trained on."""
        if not plan_path(self.deployed).is_file():
            return
        plan = plan_of(self.deployed)
        names = f"{FINETUNED} and {self.deployed.name}" if deployed else FINETUNED
        seen = f"on {self.trained_on or 'scans that are not recorded'}, validated on {len(self.subjects)}"
        told = f"{names} ({_NAMED}{tuned[:DIGEST_LENGTH]}) from {before[:DIGEST_LENGTH]}, {seen}"
        ancestors = _ancestors(_listed(plan.trained_on.get(FINE_TUNED)), before[:DIGEST_LENGTH])
        plan = plan.with_training(**{FINE_TUNED: [*ancestors, told]})
        calibrated = str(plan.flags.get("calibrated_on", ""))
        if calibrated and _CALIBRATED_WITH not in calibrated:
            told_of = f"{calibrated}; {_CALIBRATED_WITH} {before[:DIGEST_LENGTH]}, before they were fine-tuned"
            plan = replace(plan, flags={**plan.flags, "calibrated_on": told_of})
        write_atomically(plan_path(self.deployed), json.dumps(plan.to_dict(), indent=2) + "\n")

    def _write(self) -> None:
        sha256_file(self.path).unlink(missing_ok=True)
        super()._write()
        record_sha256(self.path)

    def state_dict(self) -> dict[str, Any]:
        """As :class:`BestWeights`, with the score to beat."""
        return {**super().state_dict(), "start_score": self.start_score}

    def load_state_dict(self, state: Any) -> None:
        """Restores what :meth:`state_dict` gave."""
        super().load_state_dict(state)
        self.start_score = state["start_score"]


def _ancestors(told: Sequence[str], digest: str) -> list[str]:
    """Of earlier fine-tunings those whose weights went into the ones of a digest, the first first.

    Others left weights that are gone, as the last fine-tuning takes the place of one before that was not deployed.
    """
    found: list[str] = []
    for one in reversed(told):
        if f"{_NAMED}{digest})" in one:
            found.insert(0, one)
            digest = one.partition(") from ")[2][: len(digest)]
        elif _NAMED not in one:  # of a version that did not name them
            found.insert(0, one)
    return found


def _listed(told: Any) -> list[str]:
    """Earlier trainings; plans of earlier versions have a plain true here."""
    return list(told) if isinstance(told, list) else ["weights that were fine-tuned before"] if told else []


def _digest(path: Path) -> str:
    return file_sha256(path) if path.is_file() else "none"
