"""Pictures of a study: the worst case of each method, and what the prompts of each stage 1 attend to."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from monai.bundle import ConfigParser

from cps4_monai.anatomy import Anatomy
from cps4_monai.bench.charts import share_name
from cps4_monai.bench.results import CellResult, StudyResults
from cps4_monai.evaluation.record import ARGMAX
from cps4_monai.failure import cause_of
from cps4_monai.report.attention import attention_figure
from cps4_monai.report.overlay import mid_slice
from cps4_monai.report.page import Figure
from cps4_monai.report.pictures import side_by_side
from cps4_monai.report.predictions import case_slab, find_cases
from cps4_monai.run_folder import STAGE1_WEIGHTS
from cps4_monai.vision import holds_prompted_vision, load_prompted_vision
from cps4_monai.workflow import RUN_CONFIG

logger = logging.getLogger(__name__)
ATTENTION_SUBJECTS = 3
_NOT_DRAWN = (ValueError, OSError, RuntimeError)  # data that were moved, or are damaged; MONAI's parser raises the last


def parsed_config(cell: CellResult) -> ConfigParser:
    """The config that a cell was run with; its objects are built when they are asked for."""
    parser = ConfigParser()
    parser.read_config(str(_config(cell)))
    return parser


def _config(cell: CellResult) -> Path:
    return cell.folder / RUN_CONFIG


def worst_cases(results: StudyResults) -> list[Figure]:
    """For each method its case of the lowest Dice (b), over all shares and seeds: scan, label, prediction."""
    figures = []
    for method, title in results.methods.items():
        cases = results.cases[results.cases["method"] == method].dropna(subset=["dice_b"])
        if cases.empty:
            continue
        worst = cases.loc[cases["dice_b"].idxmin()]
        (cell,) = [c for c in results.cells if c.identity == {k: worst[k] for k in ("method", "share", "seed")}]
        try:
            picture = _picture(cell, str(worst["case"]), results.section)
        except _NOT_DRAWN as error:
            logger.warning("no picture of %s of %s: %s", worst["case"], cell.name, cause_of(error))
            continue
        missed, labeled = int(worst["num_missed"]), int(worst["num_labeled"])
        caption = (
            f"{worst['case']}, {share_name(cell.share)} labeled, seed {cell.seed}: Dice (b) {worst['dice_b']:.3f}, "
            f"{missed} of {labeled} structures missed"
        )
        figures.append(Figure(picture, f"worst case: {title}", caption))
    return figures


def _picture(cell: CellResult, case: str, section: str) -> bytes:
    """Of the plain argmax, of which the scores are."""
    places = cell.task["places"]
    folder, anatomy = cell.folder / section, parsed_config(cell).get_parsed_content("anatomy")
    matching, _ = find_cases(
        (folder if cell.decoded is None else folder / ARGMAX) / "predictions",
        places["datalist"],
        anatomy,
        section=section,
        dataset_dir=places["dataset_dir"],
    )
    (drawn,) = [candidate for candidate in matching.cases if candidate.name == case]
    return side_by_side(case_slab(drawn, anatomy), anatomy)


def attention_gallery(results: StudyResults) -> list[Figure]:
    """For each labeled share some slices with the attention of each stage 1: a row per method that has its own. An
    assistant of templates has no attention to show.

    The slices are the middle ones of the section's first labeled subjects, so that nobody chooses them; the seed is the
    lowest that is there; the prompts are those of the config's ``pictured_structures`` that the data label.
    """
    figures = []
    for share in results.shares:
        cells = [c for c in results.cells if c.share == share and c.stage1 is not None]
        cells = [c for c in cells if c.seed == min(c.seed for c in cells)]
        by_stage1: dict[Path | None, CellResult] = {}
        for cell in cells:
            # A cell out of an archive has no config, though its stage 1 may have been trained again.
            if cell.stage1 is not None and _config(cell).is_file() and _has_attention(cell.stage1 / STAGE1_WEIGHTS):
                by_stage1.setdefault(cell.stage1, cell)
        if by_stage1:
            try:
                figures += _attention(results, list(by_stage1.values()), share)
            except _NOT_DRAWN as error:
                logger.warning("no picture of the attention at %s labeled: %s", share_name(share), cause_of(error))
    return figures


def _has_attention(weights: Path) -> bool:
    """Whether a stage 1 has attention to show; what came out of an archive has no weights."""
    if not weights.is_file():
        logger.info("no picture of the attention of %s: no such file, as after an archive", weights)
        return False
    return holds_prompted_vision(weights)


def _attention(results: StudyResults, cells: Sequence[CellResult], share: str) -> list[Figure]:
    parsed = parsed_config(cells[0]).get_parsed_content
    anatomy, cache, datalist = parsed("anatomy"), parsed("cache"), parsed("data")
    shown = [name for name in parsed("pictured_structures") if anatomy.code_of(name) not in datalist.unannotated]
    prompts = {results.methods[cell.method]: _PromptAttention(cell, anatomy) for cell in cells}
    figures = []
    for entry in [e for e in datalist.sides[results.section] if e.label is not None][:ATTENTION_SUBJECTS]:
        label = np.array(cache.label(entry.label, entry.image).array)
        image = cache.image(entry.image)
        index = mid_slice(label, image.shape[0])
        slice_ = image.slice(index).astype(np.float32)
        picture = attention_figure(
            slice_,
            label[index],
            {title: of(slice_) for title, of in prompts.items()},
            shown,
            anatomy=anatomy,
            spacing_mm=image.spacing_mm[1:],
            title=f"{entry.subject}, slice {index + 1} of {image.shape[0]}",
        )
        caption = f"Seed {cells[0].seed}; the label of each structure is outlined."
        figures.append(Figure(picture, f"attention at {share_name(share)} labeled, {entry.subject}", caption))
    return figures


class _PromptAttention:
    """A cell's stage 1: a slice (H, W) to attention maps (C, h, w), by the activation that it was trained with."""

    def __init__(self, cell: CellResult, anatomy: Anatomy) -> None:
        assert cell.stage1 is not None
        activation = parsed_config(cell).get_parsed_content("prompt_map#activation")
        path = cell.stage1 / STAGE1_WEIGHTS
        self.model = load_prompted_vision(path, anatomy=anatomy, map_location="cpu", activation=activation)

    def __call__(self, slice_: np.ndarray) -> np.ndarray:
        return self.model.attention_maps(torch.from_numpy(slice_)[None, None])[0].numpy()
