"""The demo's files: those of one seed are not taken for another's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cps4_monai import demo
from cps4_monai.demo import Demo


def test_a_phantom_of_another_seed_is_not_taken_for_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Path, int]] = []

    def write(folder: Path, seed: int, **options: Any) -> None:
        made.append((folder, seed))
        folder.mkdir(parents=True)
        (folder / "datalist.json").write_text("{}")

    monkeypatch.setattr(demo, "write_phantom_dataset", write)
    for seed in (0, 1, 0, 1, 2):
        Demo(tmp_path, seed, settings={"show_progress": False}).make_phantom()
    assert [seed for _, seed in made] == [0, 1, 2] and len({folder for folder, _ in made}) == 3
    assert made[0][0] == tmp_path / "phantom", "what the pages name is of seed 0"


def test_no_path_of_a_run_is_that_of_another_seed(tmp_path: Path) -> None:
    first, second = (
        {
            name: Path(str(workflow.parser[name]))
            for workflow in [Demo(tmp_path, seed).workflow("supervised", "training_stage2")]
            for name in ("datalist", "output_dir", "cache_dir", "stage1_checkpoint")
        }
        for seed in (0, 1)
    )
    for name, path in second.items():
        assert path != first[name] and tmp_path / "seed-1" in path.parents, name
