"""A whole set of predictions: every case that can be scored is, and the others are named with their reason."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cps4_monai.anatomy import MRSPINESEG, Anatomy
from cps4_monai.atomic_file import write_atomically
from cps4_monai.evaluation.case import CaseResult, evaluate_case
from cps4_monai.evaluation.matching import Case, Matching
from cps4_monai.metrics.bootstrap import RESAMPLES
from cps4_monai.metrics.tables import CASE_COLUMNS, STRUCTURE_COLUMNS, summarise

logger = logging.getLogger(__name__)

_UNASKED = "it is of no scan whose labels are scored here: of another section, of none, or without a label"
FAILURE_COLUMNS = ("case", "file", "reason")
FILES = {"structures": "structures.csv", "cases": "cases.csv", "summary": "summary.csv", "failures": "failures.csv"}


@dataclass(frozen=True)
class Evaluation:
    """Tables of a set of cases.

    Attributes:
        structures: long form, a row per case and structure.
        cases: a row per case.
        summary: means with intervals, overall and by structure.
        failures: cases that could not be scored, with the reason; they enter no mean.
        scored: the cases behind the rows, for pictures.
    """

    structures: pd.DataFrame
    cases: pd.DataFrame
    summary: pd.DataFrame
    failures: pd.DataFrame
    scored: tuple[Case, ...] = ()

    def overall(self, metric: str) -> pd.Series:
        """Summary row of ``metric`` ("dice_b", ...) over all subjects."""
        rows = self.summary[(self.summary["structure"] == "overall") & (self.summary["metric"] == metric)]
        if rows.empty:
            raise ValueError(f"the summary has no metric {metric!r}")
        return rows.iloc[0]

    def save(self, folder: str | Path) -> dict[str, Path]:
        """Write the four tables as CSV; returns name -> path."""
        texts = self.csv_texts()
        return {name: write_atomically(Path(folder) / file, texts[file]) for name, file in FILES.items()}

    def csv_texts(self) -> dict[str, str]:
        """The four tables as CSV by file name (``FILES``). Empty cells are values that cannot be measured."""
        return {file: getattr(self, name).to_csv(index=False, float_format="%.6g") for name, file in FILES.items()}

    @classmethod
    def load(cls, folder: str | Path) -> Evaluation:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: a table is missing.
        """
        folder = Path(folder)
        missing = [file_name for file_name in FILES.values() if not (folder / file_name).is_file()]
        if missing:
            raise ValueError(f"{folder}: {missing} not found; expected the tables that `cps4 report` writes")
        text = dict.fromkeys(("case", "subject", "warnings", "kind", "name", "structure", "metric", "state"), str)
        # A subject may be called "NA": an empty cell alone is a missing value.
        only_empty: dict[str, Any] = {"dtype": text, "keep_default_na": False, "na_values": [""]}
        tables = {name: pd.read_csv(folder / file_name, **only_empty) for name, file_name in FILES.items()}
        for table in tables.values():
            for column in set(text) & set(table.columns):
                table[column] = table[column].fillna("")
        return cls(**tables)


def _score(case: Case, anatomy: Anatomy, unannotated: Sequence[int]) -> CaseResult | str:
    """Tables of the case, or the reason why there are none."""
    if case.pred is None:
        return "no prediction found for this scan"
    try:
        return evaluate_case(case.pred, case.label, anatomy, unannotated, case=case.name, subject=case.subject)
    except (ValueError, TypeError, OSError, RuntimeError, MemoryError) as error:
        logger.warning("%s could not be scored: %s", case.name, error)
        return f"{type(error).__name__}: {error}"


def evaluate_cases(
    matching: Matching,
    anatomy: Anatomy = MRSPINESEG,
    unannotated: Sequence[int] = (),
    *,
    jobs: int = 2,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Evaluation:
    """Score all cases; one that cannot be scored is recorded and the rest goes on.

    Args:
        matching: from :func:`cps4_monai.evaluation.matching.match_folder` or ``match_entries``.
        anatomy: the classes.
        unannotated: codes of classes that are in view but never labeled.
        jobs: cases at a time (threads: reading, counting and the distance queries release the interpreter lock).
        resamples: draws of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: no case at all.
    """
    if not matching.cases:
        raise ValueError("no case to evaluate: no label was found")
    structures, rows, failures, scored = [], [], [], []
    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        results = pool.map(lambda case: _score(case, anatomy, unannotated), matching.cases)
        for case, result in zip(matching.cases, results, strict=True):
            if isinstance(result, str):
                failures.append({"case": case.name, "file": str(case.pred or case.label), "reason": result})
                continue
            structures += result.structures
            rows.append(result.case)
            scored.append(case)
    for path in matching.unmatched_predictions:
        failures.append({"case": "", "file": str(path), "reason": _UNASKED})
    long_form = pd.DataFrame(structures, columns=list(STRUCTURE_COLUMNS))
    cases = pd.DataFrame(rows, columns=list(CASE_COLUMNS))
    return Evaluation(
        structures=long_form,
        cases=cases,
        summary=summarise(long_form, cases, resamples=resamples, seed=seed),
        failures=pd.DataFrame(failures, columns=list(FAILURE_COLUMNS)),
        scored=tuple(scored),
    )
