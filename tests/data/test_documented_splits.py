"""The splits in docs/, by which others can rebuild our data, are those of the data that our results are of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SPLIT = Path(__file__).resolve().parents[2] / "docs" / "lumbar_t1_split.json"


def test_no_patient_of_lumbar_t1_stands_on_two_sides_and_its_shares_are_nested():
    split = json.loads(SPLIT.read_text("utf-8"))
    sides = [set(split[side]) for side in ("training", "validation", "test")]
    assert [len(side) for side in sides] == [260, 40, 100]
    assert set.union(*sides) == set(split["pictures"]) and len(set(split["pictures"].values())) == 400
    shares = [split["subsets"][share] for share in ("1", "2", "5", "10", "25", "50", "100")]
    assert [len(share) for share in shares] == [3, 5, 13, 26, 65, 130, 260]
    assert all(set(small) <= set(large) for small, large in zip(shares, [*shares[1:], sides[0]], strict=True))


def test_the_split_of_lumbar_t1_is_that_of_the_data(spider_dir: Path):
    datalist = spider_dir.parent / "lumbar_t1" / "datalist.json"
    if not datalist.is_file():
        pytest.skip("lumbar_t1 is not here, beside the folder of CPS4_SPIDER_DIR")
    split, data = json.loads(SPLIT.read_text("utf-8")), json.loads(datalist.read_text("utf-8"))
    for side in ("training", "validation", "test"):
        assert split[side] == [entry["subject"] for entry in data[side]]
    assert split["subsets"] == data["subsets"]
