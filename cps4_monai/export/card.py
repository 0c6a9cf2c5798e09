"""The pages of a bundle in ``docs``: sections about the code stay, those about weights are written from their facts."""

from __future__ import annotations

import re

from cps4_monai.bundle_root import BUNDLE_STAGE1
from cps4_monai.export.facts import NAME, WeightsFacts, in_words
from cps4_monai.plan import Plan

_OF_OTHERS = ("How these weights were made", "Class prompts")
_HEADING = re.compile(r"^#+ .*$")
_NAMED = re.compile(r"(?<=--name )\S+(?= --url)|(?<=load\(')[^']+(?=', )|(?<=--conf models )\S+")
_NOTE = (
    "This page is about the weights of a training run, exported with `cps4 export`. They are not the weights that the "
    "developers of cps4_monai released, and none of the figures of those hold for them."
)


def card_of_weights(text: str, facts: WeightsFacts) -> str:
    """``docs/README.md`` for weights that are not those it was written for.

    Args:
        text: the page of the bundle that the weights are put into, with the sections of the model zoo's template.
        facts: of the weights.

    Raises:
        ValueError: the page lacks a section that would have to be replaced.
    """
    sections = _sections(text)
    bodies = _bodies(facts)
    missing = sorted(bodies.keys() - {title for _, title, _ in sections})
    if missing:
        raise ValueError(
            f"docs/README.md has no sections {missing}, where a bundle says what its weights are; expected those of "
            "the model zoo's template: name what is about other weights by these headings"
        )
    written = [f"# {NAME}\n\n{_NOTE}\n\n"]
    for heading, title, body in sections[1:]:
        if title not in _OF_OTHERS:
            written.append(f"{heading}\n{bodies[title]}\n\n" if title in bodies else f"{heading}\n{body}")
        if title == "Performance" and facts.stage1 is not None:
            written.append(f"#### **Class prompts**\n{_class_prompts(facts.stage1)}\n\n")
    return "".join(written)


def card_of_name(text: str, name: str) -> str:
    """``docs/README.md`` with this name of the bundle in the commands that tell it to MONAI."""
    return _NAMED.sub(lambda _: name, text)


def licence_of_data(facts: WeightsFacts) -> str:
    """``docs/data_license.txt``: that nobody has named it yet."""
    return (
        f"The bundle's weights (models/model.pt) were trained by a run of cps4_monai, on: {facts.training}.\n\n"
        f"{'' if facts.stage1 is None else _licence_of_stage1(facts.stage1)}"
        "The licence of these data is not recorded. Name the data and their licence here before you share the bundle:\n"
        "weights carry what they were trained on.\n"
    )


def _licence_of_stage1(stage1: Plan) -> str:
    return (
        f"Its stage 1 ({BUNDLE_STAGE1.as_posix()}) was trained on: {in_words(stage1.trained_on)}. It holds\n"
        "the weights of the image encoder that it started from; their licence is not recorded either.\n\n"
    )


def _class_prompts(stage1: Plan) -> str:
    return (
        f"`{BUNDLE_STAGE1.as_posix()}` is the image side of stage 1 with the embeddings of the prompts, in half "
        "precision: `cps4 attention scan.nii.gz -o out` shows where each prompt attends to. The segmentation does not "
        f"use it. It was trained on: {in_words(stage1.trained_on)}. How well its prompts find their structures is not "
        "recorded."
    )


def _sections(text: str) -> list[tuple[str, str, str]]:
    """(heading, its title without markup, what follows it) by section; lines of code blocks are no headings."""
    sections: list[tuple[str, str, list[str]]] = [("", "", [])]
    fenced = False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        if not fenced and _HEADING.match(line):
            sections.append((line, line.lstrip("# ").strip("* "), []))
        else:
            sections[-1][2].append(line)
    return [(heading, title, "".join(f"{line}\n" for line in body)) for heading, title, body in sections[1:]]


def _bodies(facts: WeightsFacts) -> dict[str, str]:
    plan = facts.plan
    never = f"\n\nNever labeled, and never predicted: {facts.not_predicted}." if facts.not_predicted else ""
    return {
        "Authors": "Code and configs: the cps4_monai developers. Who trained the weights is not recorded.",
        "Tags": "Segmentation, MR, Spine",
        "Model Description": f"A 2-D network (`{facts.network}`) labels each sagittal slice with one of "
        f"{plan.anatomy.num_classes} classes. What its weights depend on stands in `models/plan.json`; their pixels: "
        f"{facts.geometry}.\n\n**Research use only; not for diagnosis.**",
        "Data": f"The weights were trained on: {facts.training}.\n\nLabels: {facts.classes}.{never}\n\nThe licence of "
        "the data is not recorded; see [data_license.txt](data_license.txt).\n\nA datalist (JSON) names the scans of a "
        "training of your own: `training` (each entry `image`, `subject` and, where it is labeled, `label`), "
        "`validation` and `test`, split by patient, and `unannotated`, the codes that are in view but never labeled.",
        "Output": f"{plan.anatomy.num_classes} channels, one logit per class. The inference config writes one label "
        "map per scan (uint8) on the scan's own grid.",
        "Performance": _performance(facts),
        "Limitations": "- Research software, not a medical device, not approved by any agency.\n"
        "- What these weights do on scans unlike those they were trained on is not known.\n"
        "- Levels are counted from the image: transitional vertebrae, and scans that do not show the lowest "
        "structures, can shift every label by one. Look at each result.",
    }


def _performance(facts: WeightsFacts) -> str:
    if not facts.figures:
        return (
            "Not evaluated: no figure is known for these weights. `cps4 evaluate RUN` before `cps4 export --run RUN` "
            "puts its figures here."
        )
    rows = "".join(f"| {words} | {dice} | {interval} |\n" for words, dice, interval in facts.figure_rows())
    table = f"| | Dice | 95 % interval over subjects |\n|---|---|---|\n{rows}"
    return f"{table}\nBy `cps4 evaluate`: {facts.figures['conditions']}."
