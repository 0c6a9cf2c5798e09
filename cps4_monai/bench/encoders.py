"""The trained encoders that jobs start from: looked for before the first job, not by each of them."""

from __future__ import annotations

from collections.abc import Sequence

from cps4_monai.bench.matrix import STAGE1
from cps4_monai.bench.plan import TRAINING, Job
from cps4_monai.bench.study import StudyError
from cps4_monai.pretrained import CATALOGUE, PretrainedEncoder, find_weights


def check_encoders(jobs: Sequence[Job]) -> None:
    """Refuses jobs whose training starts from encoders of ``cps4 weights`` that were not fetched to this machine.

    Args:
        jobs: with something left; one that is trained needs no encoder any more.

    Raises:
        StudyError: names the encoders, how many jobs need each, and the command that fetches it.
    """
    missing = []
    for encoder in CATALOGUE.values():
        users = [job for job in jobs if TRAINING in job.left and _starts_from(job, encoder)]
        try:
            if users:
                find_weights(encoder.name, encoder.kind)
        except ValueError as error:
            missing.append(f"{len(users)} of the {len(jobs)} jobs to run ({users[0].name}, ...) would fail: {error}")
    if missing:
        raise StudyError("; ".join(missing))


def _starts_from(job: Job, encoder: PretrainedEncoder) -> bool:
    """Whether a setting that decides the job's own result names it; a cell has those of its stage 1 beside them."""
    return any(value == encoder.name for key, value in job.settings.items() if not key.startswith(f"{STAGE1}: "))
