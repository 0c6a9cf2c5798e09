"""A study's results as blocks of a page: tables, charts and pictures."""

from __future__ import annotations

from cps4_monai.bench.charts import share_name, validation_curves
from cps4_monai.bench.comparison import best_methods, differences_to, method_rows, on_common_seeds, structure_means
from cps4_monai.bench.dice_section import dice_blocks
from cps4_monai.bench.difference_section import against_blocks, subject_blocks
from cps4_monai.bench.gallery import attention_gallery, worst_cases
from cps4_monai.bench.prompt_map_section import prompt_map_blocks
from cps4_monai.bench.results import StudyResults
from cps4_monai.report.page import Block, Cell, Figure, Gallery, Section, Table, Text, number

SEEDS = "Of the seeds that all methods of a share have."


def study_sections(
    results: StudyResults, baseline: str, chosen_on: StudyResults | None = None, pictures: bool = True
) -> list[Section]:
    """All sections of a study.

    Args:
        results: on the section of the data that is reported.
        baseline: short name of a method.
        chosen_on: the same study on the validation subjects, where another section is reported: what is best is
            chosen there.
        pictures: whether worst cases and attention maps are drawn.

    Raises:
        ValueError: an unknown baseline.
    """
    name, common = results.manifest["study"], on_common_seeds(results)
    differences = differences_to(results, baseline)
    best = best_methods(method_rows(common if chosen_on is None else on_common_seeds(chosen_on)))
    against = f"Difference of the mean Dice (b) of each subject, in points of 0.01, to {results.methods[baseline]}."
    return [
        Section(f"Study {name}", _about(results), results.manifest["description"]),
        Section(f"{name}: Dice", dice_blocks(results, best, chosen_on)),
        Section(
            f"{name}: against {results.methods[baseline]}", against_blocks(results, differences, baseline), against
        ),
        Section(
            f"{name}: every subject",
            subject_blocks(common, differences_to(common, baseline), baseline),
            f"Dice (b), seeds averaged. {SEEDS}",
        ),
        Section(
            f"{name}: by structure",
            _structures(common),
            f"Dice, mean over the subjects whose label has it, seeds averaged; a missed structure counts 0. {SEEDS}",
        ),
        Section(
            f"{name}: learning curves",
            _curves(common),
            f"Validation Dice (b) of the network that is kept; mean over seeds, and their range. {SEEDS}",
        ),
        Section(
            f"{name}: prompt maps of stage 1",
            prompt_map_blocks(results),
            "Dice of the prompt map on the network's slices; ceiling: the true label through that grid and back. "
            "Pointing game: share of pairs (slice, structure) whose map is largest on the structure; right levels: "
            "share of the structures' pixels. An assistant, which has no prompt map, is scored by its label maps.",
        ),
        Section(f"{name}: attention", [Gallery(attention_gallery(results), wide=True)] if pictures else []),
        Section(
            f"{name}: failures",
            [Gallery(worst_cases(results), wide=True)] if pictures else [],
            "The case of the lowest Dice (b) of each method.",
        ),
    ]


def _about(results: StudyResults) -> list[Block]:
    blocks: list[Block] = []
    if results.missing:
        total = len(results.missing) + len(results.cells)
        blocks.append(
            Text(f"{len(results.missing)} of {total} cells are not done: {', '.join(results.missing)}", "warn")
        )
    failures = [
        f"{cell.name}: {row.case} ({row.reason})"
        for cell in results.cells
        for row in cell.evaluation.failures.itertuples()
    ]
    if failures:
        blocks.append(Text(f"Cases that could not be scored and enter nothing: {'; '.join(failures)}", "warn"))
    rows = []
    for setting, title, by_value in results.manifest["budget"]:
        equal = len(by_value) == 1
        text = next(iter(by_value)) if equal else "; ".join(f"{value}: {who}" for value, who in by_value.items())
        rows.append([Cell(title, title), Cell(setting, setting), Cell(text, text, "" if equal else "warn")])
    stated = results.manifest["may_differ"]
    caption = "The budget, the same for every method" + (
        f", but for what the study lets differ: {', '.join(stated)}" if stated else ""
    )
    return [*blocks, Table(("what", "setting", "value"), rows, caption + "."), *_costs(results)]


def _costs(results: StudyResults) -> list[Block]:
    """What equal budgets do not say: several networks or steps, and how long an iteration took."""
    rows = []
    for method, title in results.methods.items():
        own = results.costs[results.costs["method"] == method]
        if not own.empty:
            notes = "; ".join(dict.fromkeys(note for note in own["notes"] if note)) or "–"
            rows.append([Cell(title, title), Cell(notes, notes), number(own["seconds"].mean(), 3)])
    caption = "Cost of a method beside the equal budget; seconds measured, mean over its trainings."
    return [Table(("method", "per batch", "seconds per iteration"), rows, caption)]


def _structures(results: StudyResults) -> list[Block]:
    blocks: list[Block] = []
    for share in results.shares:
        table = structure_means(results, share)
        rows = [
            [Cell(str(index[1]), float(index[0])), *(number(float(v)) for v in values)]
            for index, values in table.iterrows()
        ]
        caption = f"{share_name(share)} labeled."
        blocks.append(Table(("structure", *(results.methods[m] for m in table.columns)), rows, caption))
    return blocks


def _curves(results: StudyResults) -> list[Block]:
    if not results.cells:
        return []
    curves = results.curves
    return [
        Figure(
            validation_curves(curves[curves["share"] == share], results.methods),
            f"{results.manifest['study']}: learning curves, {share_name(share)} labeled",
            alt="validation Dice by iteration",
        )
        for share in results.shares
    ]
