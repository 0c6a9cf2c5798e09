"""What a study's cells left behind, as tables: scores by subject, curves, prompt maps, and how they were made."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from cps4_monai.anatomy import load_anatomy
from cps4_monai.bench.folders import DONE, SETTINGS, read_json_or_empty
from cps4_monai.bench.plan import TRAINING
from cps4_monai.evaluation.folder import Evaluation
from cps4_monai.evaluation.record import ARGMAX
from cps4_monai.fingerprint import same_result
from cps4_monai.handlers.best_weights import better_when
from cps4_monai.handlers.metrics_log import SECONDS
from cps4_monai.report.curves import read_metrics
from cps4_monai.run_folder import LOG, RECORD, STAGE1, STAGE2

logger = logging.getLogger(__name__)

IDENTITY = ("method", "share", "seed")
MAP_DICE = "prompt_map_dice"
LOCALISATION = ("pointing_game", "patch_auc", "level_share")
_ALONG_SPINE = {structure.name: place for place, structure in enumerate(load_anatomy(None).along_spine())}


@dataclass(frozen=True)
class CellResult:
    """A cell that was trained and scored on the section.

    Attributes:
        name: of the cell.
        method: short name.
        share: labeled share, or "all".
        seed: of the training.
        folder: of the cell.
        stage1: folder of its stage 1; None where it has none.
        evaluation: tables of the plain argmax on the section.
        decoded: the same of the decoded levels; None for cells of versions that did not score them.
        done: times, machine and versions.
        run: the record of its stage 2: settings, device, iterations.
        task: what was run, and on which data.
    """

    name: str
    method: str
    share: str
    seed: int
    folder: Path
    stage1: Path | None
    evaluation: Evaluation
    decoded: Evaluation | None
    done: Mapping[str, Any]
    run: Mapping[str, Any]
    task: Mapping[str, Any]

    @property
    def identity(self) -> dict[str, Any]:
        """Columns that every table has."""
        return {"method": self.method, "share": self.share, "seed": self.seed}

    @property
    def cases(self) -> pd.DataFrame:
        """A row per case: the argmax's scores, and as ``decoded_b`` and ``decoded_right`` what decoding makes of it."""
        cases = self.evaluation.cases.assign(**self.identity)
        if self.decoded is None:
            return cases.assign(decoded_b=float("nan"), decoded_right=float("nan"))
        own = self.decoded.cases.set_index("case")
        return cases.assign(
            decoded_b=cases["case"].map(own["dice_b"]), decoded_right=cases["case"].map(own["all_levels_right"])
        )


@dataclass(frozen=True)
class StudyResults:
    """A study on one section of its data.

    Attributes:
        manifest: what the study compares, see :meth:`cps4_monai.bench.plan.StudyPlan.write`.
        runs: folder of the runs.
        section: "validation" or "test".
        cells: those that are there, in the study's order.
        missing: names of the others.
    """

    manifest: Mapping[str, Any]
    runs: Path
    section: str
    cells: tuple[CellResult, ...]
    missing: tuple[str, ...]

    @property
    def methods(self) -> dict[str, str]:
        """Method -> title, in the study's order."""
        return {entry["method"]: entry["title"] for entry in self.manifest["cells"]}

    @property
    def shares(self) -> list[str]:
        """Labeled shares, small before large."""
        shares = dict.fromkeys(cell.share for cell in self.cells)
        return sorted(shares, key=lambda share: float(share) if share[0].isdigit() else 1000.0)

    @cached_property
    def cases(self) -> pd.DataFrame:
        """A row per cell and case: ``IDENTITY`` and the columns of :attr:`CellResult.cases`."""
        return pd.concat([cell.cases for cell in self.cells], ignore_index=True)

    @cached_property
    def structures(self) -> pd.DataFrame:
        """A row per cell, case and structure."""
        return pd.concat([cell.evaluation.structures.assign(**cell.identity) for cell in self.cells], ignore_index=True)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """Validation Dice during training: ``IDENTITY``, ``iteration``, ``value``."""
        parts = []
        for cell in self.cells:
            log = read_metrics(cell.folder / STAGE2 / LOG)
            parts.append(log[log["name"] == "val_dice"][["iteration", "value"]].assign(**cell.identity))
        return pd.concat(parts, ignore_index=True)

    @cached_property
    def costs(self) -> pd.DataFrame:
        """What a training costs: ``IDENTITY``, ``seconds`` per iteration (median over epochs), ``notes``."""
        rows = []
        for cell in self.cells:
            log = read_metrics(cell.folder / STAGE2 / LOG)
            seconds = log[log["name"] == SECONDS]["value"].median()
            rows.append({**cell.identity, "seconds": seconds, "notes": "; ".join(cell.run.get("budget_notes", []))})
        return pd.DataFrame(rows)

    @cached_property
    def prompt_maps(self) -> pd.DataFrame:
        """Scores of stage 1: ``IDENTITY``, ``folder``, ``subject``, ``map``, ``convention``, ``dice``.

        An assistant has no prompt map and no grid: on validation its label maps' mean stands there, without a ceiling;
        on test NaN, since nothing scores them there.
        """
        parts = []
        for cell in self.cells:
            if cell.stage1 is None:
                continue
            path = cell.stage1 / self.section / "prompt_map.csv"
            if path.is_file():
                scores = pd.read_csv(path)
            elif self.section in read_json_or_empty(cell.stage1 / DONE).get("seconds", {}):
                scores = _label_maps(cell.stage1)  # scored, and there was no map: an assistant's
                scores = scores if self.section == "validation" else scores.assign(dice=float("nan"))
            else:
                continue
            parts.append(scores.assign(**cell.identity, folder=cell.stage1.name))
        columns = [*IDENTITY, "folder", "subject", "map", "convention", "dice"]
        return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)

    @cached_property
    def localisation(self) -> pd.DataFrame:
        """Where the maps of stage 1 lie, on validation, at the weights that were kept.

        ``IDENTITY``, ``folder`` and ``LOCALISATION``; NaN where a score is of a later version than the run, and runs
        without any are left out.
        """
        rows = []
        for cell in self.cells:
            kept = None if cell.stage1 is None else _kept(cell.stage1)
            if kept is not None and not kept.index.intersection(LOCALISATION).empty:
                scores = kept.reindex(LOCALISATION).to_dict()
                rows.append({**cell.identity, "folder": cell.stage1.name, **scores})  # type: ignore[union-attr]
        return pd.DataFrame(rows, columns=[*IDENTITY, "folder", *LOCALISATION])

    @cached_property
    def pointing_game(self) -> pd.DataFrame:
        """Structure by structure: a row for each folder of a stage 1, on validation, at the weights that were kept.

        The columns go up the spine; structures of another anatomy than the package's own come last.
        """
        folders = {cell.stage1.name: cell.stage1 for cell in self.cells if cell.stage1 is not None}
        kept = {name: _kept(folder) for name, folder in folders.items()}
        table = pd.DataFrame({name: scores for name, scores in kept.items() if scores is not None}).T
        own = [column for column in table if column.startswith(f"{LOCALISATION[0]}_")]
        scores = table[own].rename(columns=lambda column: column.removeprefix(f"{LOCALISATION[0]}_"))
        return scores[sorted(scores, key=lambda name: _ALONG_SPINE.get(name, len(_ALONG_SPINE)))]


def _kept(stage1: Path) -> pd.Series | None:
    """Scores of stage 1 in the epoch whose weights were kept, the last of those with the best score; None without.

    Best by the metric that chose them, as the run's record tells, the prompt map's Dice by default.
    """
    log = stage1 / STAGE1 / LOG
    if not log.is_file():
        return None
    starts = read_json_or_empty(stage1 / STAGE1 / RECORD).get("starts") or [{}]
    settings = starts[-1].get("settings", {})
    metric = settings.get("stage1#validate#best#metric", MAP_DICE)
    table = read_metrics(log).pivot_table(index="epoch", columns="name", values="value", aggfunc="last")
    if metric not in table or table[metric].isna().all():
        return None
    scores = table[metric][::-1]
    mode = settings.get("stage1#validate#best#mode") or better_when(metric)
    return table.loc[scores.idxmin() if mode == "min" else scores.idxmax()]


def _label_maps(stage1: Path) -> pd.DataFrame:
    """Mean scores of an assistant's label maps, in the form of prompt_map.csv."""
    kept = _kept(stage1)
    names = {} if kept is None else {c: kept.get(f"{MAP_DICE}_{c}") for c in "abc"}
    return pd.DataFrame(
        [("mean", "prompt_map", convention, dice) for convention, dice in names.items() if dice is not None],
        columns=["subject", "map", "convention", "dice"],
    )


def find_studies(runs: Path, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Manifests of the studies in a folder of runs.

    Args:
        runs: folder.
        names: of the studies; none: all.

    Raises:
        ValueError: no study there, or none of a given name.
    """
    manifests = {path.name.removesuffix(".study.json"): path for path in sorted(runs.glob("*.study.json"))}
    unknown = [name for name in names if name not in manifests]
    if not manifests or unknown:
        raise ValueError(
            f"{runs}: holds the studies {sorted(manifests)}, asked for {unknown or 'any'}; expected the output folder "
            "of `cps4 bench STUDY.yaml -o RUNS`"
        )
    return [json.loads(manifests[name].read_text(encoding="utf-8")) for name in (names or manifests)]


def load_results(manifest: Mapping[str, Any], runs: Path, section: str) -> StudyResults:
    """Tables of a study; cells that are not done are named, and enter nothing.

    Args:
        manifest: from :func:`find_studies`.
        runs: folder of the runs.
        section: "validation" or "test".

    Raises:
        ValueError: the study does not evaluate that section, no cell is done, or a cell that is done has no record of
            its training.
    """
    if section not in manifest["evaluate"]:
        raise ValueError(
            f"study {manifest['study']} evaluates {manifest['evaluate']}, not {section!r}; add it to 'evaluate' in the "
            "study and run the study again: only the evaluation is left then"
        )
    cells, missing = [], []
    for entry in manifest["cells"]:
        folder = runs / entry["folder"]
        done = read_json_or_empty(folder / DONE)
        if not {TRAINING, section} <= set(done.get("seconds", {})) or _is_anothers(entry, manifest, runs):
            missing.append(entry["name"])
            continue
        argmax, decoded = _evaluations(folder / section)
        cells.append(
            CellResult(
                name=entry["name"],
                method=entry["method"],
                share=entry["share"],
                seed=entry["seed"],
                folder=folder,
                stage1=None if entry["stage1"] is None else runs / entry["stage1"],
                evaluation=argmax,
                decoded=decoded,
                done=done,
                run=starts_of(folder / STAGE2 / RECORD)[-1],
                task=read_json_or_empty(folder / "task.json"),
            )
        )
    if not cells:
        raise ValueError(f"study {manifest['study']}: no cell is done in {runs}; run `cps4 bench` first")
    return StudyResults(manifest, runs, section, tuple(cells), tuple(missing))


def _is_anothers(entry: Mapping[str, Any], manifest: Mapping[str, Any], runs: Path) -> bool:
    """Whether a folder holds another training than the archive had in it that the manifest came out of; says so."""
    for folder in filter(None, (entry["folder"], entry["stage1"])):
        expected = manifest.get("settings", {}).get(folder)
        if expected is not None and not same_result(read_json_or_empty(runs / folder / SETTINGS), expected):
            logger.warning(
                "%s: left out, since %s holds a training of other settings than this study's archive had, as after a "
                "second archive with the same names. Fix: unpack each archive into a folder of its own, or start "
                "`cps4 bench` with this study again, which finds each training its folder",
                *(entry["name"], runs / folder),
            )
            return True
    return False


def starts_of(record: Path) -> list[dict[str, Any]]:
    """Starts of a training that is done, the last one last.

    Raises:
        ValueError: no record, or one that was cut off.
    """
    starts: list[dict[str, Any]] = read_json_or_empty(record).get("starts") or []
    if not starts:
        raise ValueError(
            f"{record}: not there, or cut off; expected the record of a training that is done. Fix: copy the whole "
            f"folder of the cell again, or delete {record.parent.parent} and run the study again"
        )
    return starts


def _evaluations(folder: Path) -> tuple[Evaluation, Evaluation | None]:
    """Tables of the plain argmax, and of the decoded levels where they were scored."""
    if (folder / ARGMAX).is_dir():
        return Evaluation.load(folder / ARGMAX), Evaluation.load(folder)
    return Evaluation.load(folder), None
