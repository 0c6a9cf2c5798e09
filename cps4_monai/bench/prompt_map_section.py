"""The section of a study about the prompt maps of stage 1."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from cps4_monai.bench.results import LOCALISATION, StudyResults
from cps4_monai.bench.table_cells import share_cell
from cps4_monai.report.page import Block, Cell, Table, number

PROMPT_MAP_COLUMNS = (
    "stage 1 of",
    "labeled",
    "seeds",
    "Dice (b)",
    "SD over seeds",
    "Dice (a)",
    "Dice (c)",
    "ceiling (b)",
    "pointing game, validation",
    "patch AUC, validation",
    "right levels, validation",
)


def prompt_map_blocks(results: StudyResults) -> list[Block]:
    """A row per labeled share and stage 1, whatever methods share it."""
    scores = results.prompt_maps
    means = scores[scores["subject"] == "mean"]
    rows = [
        _prompt_map_row(results, means, share, folders, methods)
        for share in results.shares
        for folders, methods in users_of_stage1(results, means, share).items()
    ]
    return [Table(PROMPT_MAP_COLUMNS, rows), *_pointing_game(results, means)] if rows else []


def _pointing_game(results: StudyResults, means: pd.DataFrame) -> list[Block]:
    """Structure by structure: the share of validation slices in which the map is largest on it, mean over seeds."""
    scores = results.pointing_game
    names = list(scores)
    rows = [
        [_title(results, methods), share_cell(share), *(number(x, 2) for x in scores.reindex(list(folders)).mean())]
        for share in results.shares
        for folders, methods in users_of_stage1(results, means, share).items()
    ]
    return [Table(("pointing game of", "labeled", *names), rows)] if names else []


def _title(results: StudyResults, methods: Sequence[str]) -> Cell:
    title = ", ".join(results.methods[method] for method in methods)
    return Cell(title, title)


def users_of_stage1(results: StudyResults, means: pd.DataFrame, share: str) -> dict[tuple[str, ...], list[str]]:
    """Folders of a stage 1, one per seed, and the methods that used it."""
    users: dict[tuple[str, ...], list[str]] = {}
    for method in results.methods:
        own = means[(means["share"] == share) & (means["method"] == method)]
        if not own.empty:
            users.setdefault(tuple(sorted(own["folder"].unique())), []).append(method)
    return users


def _prompt_map_row(
    results: StudyResults, means: pd.DataFrame, share: str, folders: Sequence[str], methods: Sequence[str]
) -> list[Cell]:
    own = means[(means["share"] == share) & means["folder"].isin(folders)]
    by = own.drop_duplicates(["folder", "map", "convention"]).groupby(["map", "convention"])["dice"]
    mean, spread = by.mean(), by.std(ddof=1)
    where = results.localisation.drop_duplicates("folder").set_index("folder").reindex(folders)
    return [
        _title(results, methods),
        share_cell(share),
        Cell(str(len(folders)), len(folders)),
        number(mean["prompt_map", "b"]),
        number(spread["prompt_map", "b"]),
        number(mean["prompt_map", "a"]),
        number(mean["prompt_map", "c"]),
        number(mean.get(("ceiling", "b"))),
        *(number(where[name].mean()) for name in LOCALISATION),
    ]
