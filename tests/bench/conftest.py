"""A study on the tiny phantom, with networks and budgets of a second or two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.fixture(scope="session")
def tiny_settings(tiny_overlay: Path) -> dict[str, Any]:
    settings = json.loads(tiny_overlay.read_text())
    return {k: v for k, v in settings.items() if k not in ("device_name", "min_free_gib", "show_progress", "log_every")}


@pytest.fixture
def write_study(tmp_path: Path, tiny_settings: dict[str, Any]):
    """Writes a study of tiny size: ``write_study([names], [shares], settings={...}, **keys)`` -> its path."""

    def write(names: list[str], shares: list[Any], settings: dict[str, Any] | None = None, **keys: Any) -> Path:
        content = {
            "name": "tiny",
            "settings": {**tiny_settings, **(settings or {})},
            "matrix": [{"methods": names, "shares": shares}],
            **keys,
        }
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


def _write_evaluation(folder: Path, scores: dict[str, float]) -> None:
    """Tables of an evaluation with one scan per subject and two structures, Dice (a) and (c) a little off (b)."""
    import pandas as pd

    from cps4_monai.evaluation.folder import FAILURE_COLUMNS, Evaluation
    from cps4_monai.metrics.tables import CASE_COLUMNS, STRUCTURE_COLUMNS, SUMMARY_COLUMNS

    cases, structures = [], []
    for number, (subject, dice) in enumerate(scores.items()):
        row = dict.fromkeys(CASE_COLUMNS, 0) | {"case": subject, "subject": subject, "warnings": ""}
        row |= {
            "dice_a": dice + 0.01,
            "dice_b": dice,
            "dice_c": dice - 0.01,
            "iou_b": dice / 2,
            "num_slices": 10 * (number + 1),
        }
        cases.append(row | {"num_labeled": 2, "num_missed": 1, "num_identified": 1})
        for code, name, value in ((2, "L5", 2 * dice), (11, "L5/S", 0.0)):
            state = "ok" if value else "missed"
            row = dict.fromkeys(STRUCTURE_COLUMNS, 0) | {"case": subject, "subject": subject, "code": code}
            structures.append(row | {"name": name, "kind": "vertebra", "state": state, "dice": value})
    long_form = pd.DataFrame(structures, columns=list(STRUCTURE_COLUMNS))
    table = pd.DataFrame(cases, columns=list(CASE_COLUMNS))
    failures = pd.DataFrame(columns=list(FAILURE_COLUMNS))
    Evaluation(long_form, table, pd.DataFrame(columns=list(SUMMARY_COLUMNS)), failures).save(folder)


@pytest.fixture
def write_runs(tmp_path: Path):
    """Writes a folder of runs as studies leave it: ``write_runs({(method, share, seed): {subject: Dice (b)}})``."""
    from cps4_monai.bench.folders import write_json
    from cps4_monai.metrics.run_log import RunLog

    def write(scores: dict[tuple[str, str, int], dict[str, float]], **manifest: Any) -> Path:
        runs = tmp_path / "runs"
        (runs / "data").mkdir(parents=True)
        write_json(runs / "data" / "list.json", {"dataset": "Made up", "license": "CC0", "training": []})
        entries = []
        for (method, share, seed), by_subject in scores.items():
            name = f"{method}-{share}pct-seed{seed}"
            folder, stage1 = runs / "cells" / name, runs / "stage1" / f"own-{seed}" if method == "ours" else None
            entry = {"name": name, "method": method, "title": method.title(), "share": share, "seed": seed}
            entries.append(entry | {"folder": f"cells/{name}", "stage1": stage1 and f"stage1/own-{seed}"})
            if not by_subject:
                continue
            for section, shift in (("validation", 0.1), ("test", 0.0)):
                _write_evaluation(folder / section, {subject: dice + shift for subject, dice in by_subject.items()})
            log = RunLog(folder / "stage2" / "metrics.csv")
            for epoch in (1, 2):
                log.write("stage2", epoch, 50 * epoch, {"val_dice": 0.1 * epoch + 0.05 * seed})
            versions = {"cps4-monai": "0.1.0", "torch": "2.0", "commit": "0123456789abcdef"}
            start = {"device": "cpu", "threads": 1, "iterations": 100, "versions": versions}
            start["settings"] = {"labeled_subjects": ["sub-001"]}
            write_json(folder / "stage2" / "run.json", {"starts": [start]})
            seconds = {"training": 60.0, "validation": 1.0, "test": 1.0}
            days = dict.fromkeys(seconds, "2026-01-02T03:04:05+00:00")
            write_json(folder / "done.json", {"seconds": seconds, "finished": days, "machine": "abacus", "threads": 1})
            places = {"datalist": str(runs / "data" / "list.json"), "dataset_dir": str(runs)}
            write_json(folder / "task.json", {"overlays": [method, "study"], "places": places})
            if stage1 is not None:
                write_json(stage1 / "stage1" / "run.json", {"starts": [{"iterations": 70}]})
                write_json(stage1 / "done.json", {"seconds": {"training": 150.0}})
                scores_by_epoch = {
                    "prompt_map_dice": (0.2, 0.1),
                    "pointing_game": (0.5, 0.9),
                    "patch_auc": (0.6, 0.7),
                    "level_share": (0.4, 0.8),
                }
                lines = [f"stage1,{e},{e},{name},{v[e - 1]}" for name, v in scores_by_epoch.items() for e in (1, 2)]
                text = "\n".join(["stage,epoch,iteration,name,value", *lines])
                (stage1 / "stage1" / "metrics.csv").write_text(text)
                for section in ("validation", "test"):
                    rows = [
                        f"mean,{m},{c},{0.2 + 0.2 * seed + 0.5 * (m == 'ceiling')}"
                        for m in ("prompt_map", "ceiling")
                        for c in "abc"
                    ]
                    (stage1 / section).mkdir(exist_ok=True)
                    text = "\n".join(["subject,map,convention,dice", *rows])
                    (stage1 / section / "prompt_map.csv").write_text(text)
        content = {
            "study": "made_up",
            "description": "Made up.",
            "baseline": "base",
            "gap": "",
            "may_differ": [],
            "rotate_labeled": [],
            "evaluate": ["validation", "test"],
            "command": "cps4 bench x.yaml -o RUNS",
            "budget": [["max_epochs", "epochs", {"2": "base, ours"}]],
            "cells": entries,
        }
        write_json(runs / "made_up.study.json", {**content, **manifest})
        return runs

    return write
