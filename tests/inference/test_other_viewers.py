"""The viewer in reports of evaluations, in a real browser: label against prediction, and attention maps by prompt."""

from __future__ import annotations

import shutil

import nibabel as nib
import numpy as np
import pytest
from in_browser import Opened

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.report.page import Section, write_page
from cps4_monai.report.predictions import report_predictions
from cps4_monai.report.slab import Slab
from cps4_monai.report.viewer import view_of_slab, viewer_blocks


@pytest.fixture(scope="module")
def evaluated(browser, make_scan, tmp_path_factory):
    """A prediction that calls the uppermost L4's place nothing and has a block too much beside the spine."""
    folder, scan = tmp_path_factory.mktemp("evaluated"), make_scan()
    prediction = scan.label.copy()
    prediction[prediction == 3] = 0
    prediction[2, 30:34, 40:44] = 2
    for name, array in (("labels/a_T2w", scan.image), ("labels/a_dseg", scan.label), ("pred/a_dseg", prediction)):
        (folder / name).parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(array, scan.affine), folder / f"{name}.nii.gz")
    report = report_predictions(folder / "pred", folder / "labels", folder / "report", unannotated=[1])
    opened = Opened(browser, report.html)
    yield opened
    opened.page.close()


def test_prediction_label_and_their_difference_are_shown(evaluated):
    options = evaluated.page.locator("[data-set=layer] option").all_inner_texts()
    assert options == ["prediction", "label", "where they differ"]
    assert "L4" not in evaluated.chips() and "L5" in evaluated.chips()
    evaluated.page.select_option("[data-set=layer]", label="label")
    assert "L4" in evaluated.chips()
    whole = evaluated.coloured()
    evaluated.page.select_option("[data-set=layer]", label="where they differ")
    assert evaluated.chips() == ["L4", "L5"]  # what was missed, and what was too much
    assert 0 < evaluated.coloured() < whole / 2
    assert evaluated.page.locator("[data-do=download]").count() == 0  # nothing is corrected here
    assert evaluated.text("note").startswith("Dice (b) 0.") and not evaluated.complaints and not evaluated.foreign


@pytest.fixture(scope="module")
def attention_page(browser, tiny_run, tmp_path_factory):
    """The report of `cps4 evaluate` for a run with a stage 1."""
    from click.testing import CliRunner

    from cps4_monai.commands.evaluate import evaluate

    run, output = tmp_path_factory.mktemp("run") / "run", tmp_path_factory.mktemp("evaluation")
    shutil.copytree(tiny_run, run)
    result = CliRunner().invoke(evaluate, [str(run), "-o", str(output), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    opened = Opened(browser, output / "report.html")
    yield opened
    opened.page.close()


def test_a_prompt_is_chosen_from_the_list_and_its_attention_shown(attention_page):
    page, there = attention_page.page, "#attention-maps .viewer"
    page.wait_for_selector(f"{there}.ready")
    page.evaluate(f"document.querySelector('{there}').scrollIntoView({{behavior: 'instant'}})")
    prompts = page.locator(f"{there} [data-set=map] option").all_inner_texts()
    assert prompts[0] == "none" and "L5 · lumbar vertebra 5" in prompts and len(prompts) > 10

    def picture() -> np.ndarray:
        attention_page.drawn()
        return attention_page.picture_of(f"{there} canvas")

    page.select_option(f"{there} [data-set=map]", label="none")
    page.wait_for_selector(f"{there}[data-map='']")
    without = picture()
    page.select_option(f"{there} [data-set=map]", label="L5 · lumbar vertebra 5")
    page.wait_for_selector(f"{there}[data-map='L5']")
    assert np.abs(picture() - without).max() > 20
    box = page.locator(f"{there} canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    shown = page.locator(f"{there} .viewer-name").inner_text()
    assert shown.startswith("A of L5 0.") or shown.startswith("A of L5 1.")
    assert page.content().count("const niivue") <= 1 and not attention_page.complaints and not attention_page.foreign


def test_the_higher_the_attention_the_more_of_its_colour_is_seen(browser, tmp_path):
    """A of 0.6 in the anterior half and of 0.3 in the other, on an even grey."""
    grey, label = np.full((3, 60, 60), 0.4, np.float32), np.zeros((3, 60, 60), np.uint8)
    label[:, 5:8, 29:32] = 2  # the view is cut about it
    attention = np.repeat(np.array([0.6, 0.3], np.float32)[None, None], 3, axis=0)
    slab = Slab(grey, {"label": label}, (4.0, 1.25, 1.25), (0.0, 1.0))
    blocks = viewer_blocks([view_of_slab("a", slab, {2: attention}, outlined=True)], MRSPINESEG, linked=False)
    write_page(tmp_path / "page.html", "Attention", "", [Section("Attention maps", blocks)])
    opened = Opened(browser, tmp_path / "page.html")
    opened.page.select_option("[data-set=map]", label="none")
    opened.page.wait_for_selector(".viewer[data-map='']")
    without = opened.canvas()
    opened.page.select_option("[data-set=map]", label="L5 · lumbar vertebra 5")
    opened.page.wait_for_selector(".viewer[data-map='L5']")
    changed = np.abs(opened.canvas() - without).sum(axis=-1)
    lit = np.flatnonzero(without.mean(axis=(0, 2)) > 60)  # columns of the slice on the screen
    anterior, *_, posterior = np.array_split(changed[changed.shape[0] // 2, lit[0] : lit[-1]], 4)
    assert np.median(anterior) > 60 and 5 < np.median(posterior) < np.median(anterior) / 2
    opened.page.close()
