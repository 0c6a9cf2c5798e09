"""Workers as jobs of Slurm, by dask-jobqueue, as a YAML file describes them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cps4_monai.cluster.address import HOW_TO, ClusterError
from cps4_monai.extras import require

JOBS = "jobs"  # a number, or {minimum: ..., maximum: ...} jobs as the work needs them


def slurm_cluster(file: Path) -> Any:
    """A ``dask_jobqueue.SLURMCluster`` that has asked for its jobs.

    Args:
        file: ``jobs`` and arguments of ``SLURMCluster`` by name.

    Raises:
        ClusterError: the file cannot be used.
        MissingExtraError: dask-jobqueue is not installed.
    """
    require("dask_jobqueue", "--scheduler slurm:FILE.yaml")
    from dask_jobqueue import SLURMCluster

    arguments, least, most = read_slurm_file(file)
    arguments = {"scheduler_options": {"dashboard_address": ":0"}, **arguments}  # several commands on a login node
    try:
        cluster = SLURMCluster(**arguments)
    except (TypeError, ValueError) as error:
        raise ClusterError(f"{file}: dask-jobqueue refuses it: {error}. Fix: see {HOW_TO}") from error
    cluster.adapt(minimum_jobs=least, maximum_jobs=most)  # a plain number, too: jobs whose time is over are replaced
    return cluster


def read_slurm_file(file: Path) -> tuple[dict[str, Any], int, int]:
    """Arguments of ``SLURMCluster``, and the least and the greatest number of jobs.

    Raises:
        ClusterError: not readable, an unknown key, or no number of jobs.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ClusterError(f"{file}: cannot be read as YAML ({error}). Fix: see {HOW_TO}") from error
    if not isinstance(content, Mapping):
        raise ClusterError(f"{file}: found {type(content).__name__}; expected keys and values. Fix: see {HOW_TO}")
    unknown = sorted(set(map(str, content)) - {JOBS} - known_arguments())
    if unknown:
        raise ClusterError(
            f"{file}: found {', '.join(unknown)}; expected {JOBS!r} and arguments of dask_jobqueue.SLURMCluster. "
            f"Fix: see {HOW_TO}"
        )
    least, most = _jobs(content.get(JOBS), file)
    return {str(key): value for key, value in content.items() if key != JOBS}, least, most


def known_arguments() -> set[str]:
    """Names of all arguments that ``SLURMCluster`` and its jobs take."""
    from dask_jobqueue.core import Job, JobQueueCluster
    from dask_jobqueue.slurm import SLURMJob

    signatures = [inspect.signature(kind.__init__) for kind in (JobQueueCluster, Job, SLURMJob)]
    return {name for signature in signatures for name in signature.parameters} - {
        "self",
        "job_kwargs",
        "base_class_kwargs",
    }


def _jobs(value: Any, file: Path) -> tuple[int, int]:
    least, most = (value.get("minimum"), value.get("maximum")) if isinstance(value, Mapping) else (value, value)
    if not (isinstance(least, int) and isinstance(most, int) and 1 <= least <= most):
        raise ClusterError(
            f"{file}: {JOBS!r} is {value!r}; expected a number from 1 on, or 'minimum' and 'maximum' from 1 on. "
            f"Fix: {JOBS}: 4"
        )
    return least, most
