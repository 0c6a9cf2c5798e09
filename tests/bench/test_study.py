"""Study files: what is read, and what is refused with the fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cps4_monai.bench.study import ALL, StudyError, load_study, parse_study

STUDIES = Path(__file__).resolve().parents[2] / "studies"


def content(**more: Any) -> dict[str, Any]:
    return {"name": "small", "matrix": [{"methods": ["a", "b"], "shares": [5, "10%", 25.0, "all"]}], **more}


def test_a_bare_matrix_gets_defaults_that_choose_on_validation() -> None:
    study = parse_study(content(), "x.yaml")
    assert study.evaluate == ("validation",) and study.baseline == "a" and study.gap == ""
    assert study.matrix[0].shares == ("5", "10", "25", ALL) and study.matrix[0].seeds == (0,)
    assert study.methods["b"].method == "b" and study.methods["b"].title == "b"


def test_variants_name_their_method_overlays_and_settings() -> None:
    methods = {"b": {"method": "cps4", "overlays": ["x"], "settings": {"stage1#loss#pixel_weight": 0}, "title": "B"}}
    study = parse_study(content(methods=methods, seeds=[0, 3], rotate_labeled={5: True, 10: False}), "x.yaml")
    spec = study.methods["b"]
    assert (spec.method, spec.overlays, spec.title) == ("cps4", ("x",), "B")
    assert dict(spec.settings) == {"stage1#loss#pixel_weight": 0}
    assert study.rotate_labeled == {"5"} and study.matrix[0].seeds == (0, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metods": {}}, "did you mean 'methods'"),
        ({"matrix": []}, "'matrix' is missing"),
        ({"matrix": [{"methods": ["a"]}]}, r"matrix\[0\]: shares"),
        ({"matrix": [{"methods": ["a"], "shares": [0]}]}, "expected a percentage"),
        ({"matrix": [{"methods": ["a"], "shares": [5], "seed": [1]}]}, "did you mean 'seeds'"),
        ({"methods": {"c": {}}}, r"methods \['c'\] are in no block"),
        ({"methods": {"a": {"overlay": []}}}, "did you mean 'overlays'"),
        ({"evaluate": ["train"]}, r"expected one or both of \['validation', 'test'\]"),
        ({"baseline": "z"}, "'baseline' is 'z'"),
        ({"gap": "z"}, "'gap' is 'z'"),
        ({"seeds": [1, 1]}, "different whole numbers"),
        ({"rotate_labeled": {50: True}}, r"'rotate_labeled' has \['50'\]; expected some of .*\['5', '10', '25'\]"),
        ({"rotate_labeled": {"all": True}}, "'rotate_labeled' has"),
        ({"name": "a/b"}, "part of folder names"),
        ({"overlays": "study"}, "expected a list of names"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        parse_study(content(**change), "x.yaml")


def test_the_baseline_is_one_of_the_names_that_the_report_compares() -> None:
    """A block that crosses with overlays alone has no method of the plain name."""
    crossed = {"matrix": [{"methods": ["a", "b"], "shares": [5], "overlays": {"small": [], "large": ["large"]}}]}
    assert parse_study(content(**crossed), "x.yaml").baseline == "a+small"
    assert parse_study(content(**crossed, baseline="b+large"), "x.yaml").baseline == "b+large"
    with pytest.raises(
        StudyError, match=r"'baseline' is 'a'; expected one of the methods \['a\+small', 'a\+large', 'b"
    ):
        parse_study(content(**crossed, baseline="a"), "x.yaml")


def test_a_file_that_is_no_study_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: [")
    with pytest.raises(StudyError, match=r"x\.yaml: cannot be read"):
        load_study(path)
    path.write_text("- a")
    with pytest.raises(StudyError, match="the study is a list"):
        load_study(path)


def test_the_shipped_studies_hold_what_the_issue_asks_for() -> None:
    ratios, ablation = (load_study(STUDIES / f"{name}.yaml") for name in ("ratios", "ablation"))
    by_share: dict[str, set[str]] = {}
    for block in ratios.matrix:
        for share in block.shares:
            by_share.setdefault(share, set()).update(block.methods)
    compared = {"supervised", "mean_teacher", "cps4", "cps4_plus"}
    assert by_share.keys() == {"5", "10", "25", "100"} and all(compared <= by_share[s] for s in ("5", "10", "25"))
    assert by_share["10"] - compared == {"cps4_paper", "clip", "untrained", "mt_decoded"}
    assert by_share["100"] == {"supervised"}
    assert ratios.rotate_labeled == {"5", "10"} and ratios.baseline == "mean_teacher"
    longer = load_study(STUDIES / "ratios_longer.yaml")
    assert longer.settings == {"max_epochs": 12, "stage1#max_epochs": 20} and longer.rotate_labeled == {"5", "10"}
    assert all(block.seeds == (0, 1, 2) for block in longer.matrix)
    assert load_study(STUDIES / "levers.yaml").evaluate == ("validation",), "what is chosen is never chosen on test"
    assert len(ablation.methods) == 10 and ablation.baseline == "mt_ce" and ablation.matrix[0].shares == ("5",)
    assert all(block.seeds == (0, 1, 2) for study in (ratios, ablation) for block in study.matrix)


def test_table_1_holds_every_system_and_shares_its_cells_with_lumbar_t1() -> None:
    table, lumbar = (load_study(STUDIES / f"{name}.yaml") for name in ("table1", "lumbar_t1"))
    systems = {"bcp", "mc_net", "ss_net", "ucmt", "graphcl", "unimatch_v2", "clip", "medclip", "mgca", "egma_mask_gaze"}
    systems |= {"egma_no_gaze", "dusss_provider", "dusss", "vessa", "supervised", "mean_teacher"}
    systems |= {"cps4_paper", "cps4", "cps4_plus"}
    shares = {share for block in table.matrix for share in block.shares}
    of_share = {s: {name for block in table.matrix if s in block.shares for name in block.methods} for s in shares}
    assert of_share.keys() == {"5", "1", "2", "10", "100"}
    assert all(systems <= of_share[share] for share in ("5", "1", "2", "10"))
    assert table.matrix[0].shares == ("5",), "5 % is run first"
    assert all(block.seeds == (0, 1, 2) for block in table.matrix)
    assert (table.settings, table.overlays) == (lumbar.settings, lumbar.overlays)
    assert all(table.methods[name] == spec for name, spec in lumbar.methods.items())


def test_ablation_and_spider_take_size_budget_and_stage_1_of_table_1() -> None:
    names = ("table1", "ablation_lumbar_t1", "spider_pretrained", "ablation_spider_pretrained")
    table, lumbar, spider, spider_parts = (load_study(STUDIES / f"{name}.yaml") for name in names)
    assert (lumbar.settings, lumbar.overlays) == (table.settings, table.overlays), "cells are shared"
    assert lumbar.methods["mean_teacher"] == table.methods["mean_teacher"]
    assert spider.settings == {"unlabeled_slices": True} and spider.overlays == table.overlays == ("study_pretrained",)
    assert (spider_parts.settings, spider_parts.overlays) == (spider.settings, spider.overlays)
    assert all(spider.methods[name] == load_study(STUDIES / "lumbar_t1.yaml").methods[name] for name in spider.methods)
    assert spider.rotate_labeled == {"5", "10"}, "25 % are five subjects: three seeds share some, as in ratios.yaml"
    old, parts = load_study(STUDIES / "ablation.yaml"), ["mt_ce", "mean_teacher", "cps4_token_only", "cps4_pixel_only"]
    for study in (lumbar, spider_parts):
        assert study.baseline == "mt_ce" and list(study.methods) == [*parts, "cps4"]
        assert all(study.methods[name] == old.methods[name] for name in study.methods if name != "mean_teacher")
        assert all(block.shares == ("5",) and block.seeds == (0, 1, 2) for block in study.matrix)


def test_the_study_at_the_paper_s_size_differs_from_lumbar_t1_in_size_and_length_alone() -> None:
    small, large = (load_study(STUDIES / f"{name}.yaml") for name in ("lumbar_t1", "lumbar_t1_paper_size"))
    assert (large.methods, large.matrix, large.overlays) == (small.methods, small.matrix, small.overlays)
    assert large.settings["slice_size"] == [512, 256] and large.settings["features"][-1] == 512
    overlay = json.loads((STUDIES.parent / "bundle" / "configs" / "study_pretrained.json").read_text("utf-8"))
    millimetres = [float(settings["spacing_mm"]) for settings in (overlay, large.settings)]
    shifts = [settings["geometry"]["translate_pixels"] for settings in (overlay, large.settings)]
    assert [x * millimetres[0] for x in shifts[0]] == [x * millimetres[1] for x in shifts[1]], "the same in mm"
