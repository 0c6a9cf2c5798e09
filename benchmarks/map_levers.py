"""Ways to make the prompt map out of a trained stage 1's attention, and networks of stage 2 beside it; validation only.

    python benchmarks/map_levers.py RUNS/stage1/cps4-5pct-seed0 --networks RUNS/cells/mean_teacher-5pct-seed0

Nothing is trained. All are scored on the network's own slices: Dice (b); of the structures' pixels the share that get
their own label, where a wrong outline counts like a wrong level, and, where there are scores for each class, the share
in which the label's score is the largest of all structures', whatever the background's (`level_share` of stage 1); and
scans with all levels right (every labeled structure mostly under its own name).
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def maps_of(logits: Tensor, size: tuple[int, int], mapper: Callable[..., Any]) -> Iterator[tuple[str, Tensor]]:
    """Name, (D, H, W) codes of attention logits (D, C, h, w), as trained first.

    Args:
        logits: of the slices of a scan in their order.
        size: (H, W).
        mapper: makes a mapper with other options than the run's.
    """
    yield "as trained", mapper()(logits, size)
    yield "no gate", mapper(presence_threshold=None)(logits, size)
    yield "Otsu of the similarity, no gate", mapper(of="similarity", presence_threshold=None)(logits, size)
    yield "plain argmax, no gate", mapper(stacking="argmax", presence_threshold=None)(logits, size)
    if len(logits) > 1:
        yield "logits averaged over three neighbouring slices", mapper()(fused(logits), size)


def fused(logits: Tensor) -> Tensor:
    """Each slice's logits (D, C, h, w) averaged with those of the slices beside it; the outer ones with one."""
    padded = torch.cat([logits[:1], logits, logits[-1:]])
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


@torch.no_grad()
def shifted_views(model: Any, slices: Tensor, patch: int) -> Tensor:
    """Logits (D, C, 2h, 2w): those of four views, half a patch apart, each put back where it belongs and averaged."""
    half = patch // 2
    total = torch.zeros(())
    for down in (0, half):
        for right in (0, half):
            moved = F.pad(slices, (0, right, 0, down), mode="replicate")[..., down:, right:]
            fine = model(moved).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            back = F.pad(fine, (right // half, 0, down // half, 0), mode="replicate")
            total = total + back[..., : fine.shape[2], : fine.shape[3]] / 4
    return total


def targets(
    teacher_logits: Tensor, prompt_map: Tensor, attention_logits: Tensor, anatomy: Any, activation: str, codes: Any
) -> Iterator[tuple[str, Tensor]]:
    """Name, (D, C, H, W) class weights: what stage 2 makes of a teacher and the prompts together.

    Args:
        teacher_logits: (D, C, H, W).
        prompt_map: (D, 1, H, W), -1 where it says nothing.
        attention_logits: (D, C, h, w).
        anatomy: its vertebrae and its discs are the groups of ``cps4_plus``.
        activation: how A is made of the logits.
        codes: unannotated ones.
    """
    from cps4_monai.losses.attention_prior import AttentionPrior
    from cps4_monai.losses.semi_supervised import enhanced_target

    yield "and map, half each (L_enhance)", enhanced_target(teacher_logits, prompt_map, "soft", codes)
    groups = [[s.code for s in anatomy.structures if s.kind == kind] for kind in ("vertebra", "disc")]
    for exponent in (0.25, 0.5, 1.0):
        prior = AttentionPrior(activation, exponent, floor=0.02, groups=groups)
        yield f"x attention ^ {exponent}, as in cps4_plus", prior(teacher_logits, attention_logits, codes)


def scores(
    prediction: np.ndarray,
    label: np.ndarray,
    num_classes: int,
    unannotated: tuple[int, ...],
    by_class: np.ndarray | None = None,
    nameless: tuple[int, ...] = (),
) -> list[float]:
    """Of a scan, the columns of the table: Dice (b), own label, largest of all structures, all levels right.

    Args:
        prediction: (D, H, W) codes.
        label: likewise.
        num_classes: C.
        unannotated: codes that take no part.
        by_class: (D, C, H, W), what the prediction was made of; None: not known, the third score is no number.
        nameless: further codes that take no part in the third: those that no labeled scan shows.
    """
    from cps4_monai.metrics.conventions import subject_scores

    pair = [torch.from_numpy(np.ascontiguousarray(codes).astype(np.int64)) for codes in (prediction, label)]
    dice = subject_scores(*pair, num_classes, unannotated).dice_by["b"]
    structures = (label > 0) & (label != 255)
    right = all(
        np.bincount(prediction[label == code], minlength=num_classes)[1:].argmax() + 1 == code
        and (prediction[label == code] > 0).any()
        for code in np.unique(label[structures])
    )
    largest = np.nan
    if by_class is not None:
        kept = [code for code in range(1, num_classes) if code not in {*unannotated, *nameless}]
        named = np.array(kept)[by_class[:, kept].argmax(axis=1)]
        largest = float((named == label)[structures].mean())
    return [dice, float((prediction == label)[structures].mean()), largest, float(right)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage1", type=Path, help="folder of a study's stage 1")
    parser.add_argument("--networks", type=Path, nargs="*", default=[], help="folders of cells of the same slices")
    parser.add_argument("--cache", help="folder of slices; default: the run's own")
    parser.add_argument("--min-slices", type=int, default=1, help="leave out scans of fewer, that have no neighbours")
    arguments = parser.parse_args()
    from monai.bundle import ConfigParser

    from cps4_monai.attention_maps import activate
    from cps4_monai.levels import decode_levels
    from cps4_monai.losses.semi_supervised import mask_unannotated
    from cps4_monai.networks import build_network, load_weights
    from cps4_monai.plan import plan_of
    from cps4_monai.prompt_map import PromptMapper
    from cps4_monai.vision import load_prompted_vision

    run = ConfigParser()
    run.read_config(str(arguments.stage1 / "config.json"))
    if arguments.cache:
        run["cache_dir"] = arguments.cache
    parsed = run.get_parsed_content
    anatomy, cache, data, trained = parsed("anatomy"), parsed("cache"), parsed("data"), parsed("prompt_map")
    model = load_prompted_vision(arguments.stage1 / "stage1" / "prompted_vision.pt", anatomy=anatomy)
    options = {name: getattr(trained, name) for name in inspect.signature(PromptMapper).parameters}
    networks = {}
    for cell in arguments.networks:
        weights = cell / "stage2" / "model.pt"
        networks[cell.name] = load_weights(build_network(plan_of(weights).network), weights).eval()
    codes, rows = tuple(data.unannotated), {}

    def mapper(**changed: Any) -> PromptMapper:
        return PromptMapper(**(options | changed))

    def decoded(labels: np.ndarray, by_class: np.ndarray, image: Any) -> np.ndarray:
        given = {"unannotated": codes, "view": image.view}
        return decode_levels(labels, by_class, image.spacing_mm, anatomy, **given).labels

    entries = [entry for entry in data.validation if cache.image(entry.image).shape[0] >= arguments.min_slices]
    for entry in entries:
        image = cache.image(entry.image)
        slices = torch.from_numpy(np.array(image.array)).float()[:, None]
        label = np.array(cache.label(entry.label, entry.image).array)
        size = label.shape[-2:]
        with torch.no_grad():
            logits = torch.cat([model(part[None]) for part in slices])
        codes_of = dict(maps_of(logits, size, mapper))
        made = {name: codes_[:, 0].numpy() for name, codes_ in codes_of.items()}
        finer = shifted_views(model, slices, slices.shape[2] // logits.shape[2])
        made["four views, half a patch apart"] = mapper()(finer, size)[:, 0].numpy()
        attention = F.interpolate(activate(logits, model.activation), size=size, mode="bilinear").numpy()
        by_class = {"as trained": attention}
        for name in ("as trained", "four views, half a patch apart"):
            made[f"{name}, levels decoded"] = decoded(made[name], attention, image)
        for name, network in networks.items():
            with torch.no_grad():
                teacher = network(slices).float()
            probabilities = mask_unannotated(teacher, codes).softmax(1)
            made[f"network of {name}"] = probabilities.argmax(1).numpy()
            by_class[f"network of {name}"] = probabilities.numpy()
            own = made[f"network of {name}"]
            made[f"network of {name}, levels decoded"] = decoded(own, probabilities.numpy(), image)
            for how, target in targets(teacher, codes_of["as trained"], logits, anatomy, model.activation, codes):
                made[f"{name} {how}"] = target.argmax(1).numpy()
                by_class[f"{name} {how}"] = target.numpy()
                made[f"{name} {how}, levels decoded"] = decoded(made[f"{name} {how}"], target.numpy(), image)
        for name, prediction in made.items():
            row = scores(prediction, label, anatomy.num_classes, codes, by_class.get(name), trained.unannotated)
            rows.setdefault(name, []).append(row)
    print(f"{len(entries)} validation scans")
    print("| map | Dice (b) | own label | largest of all structures | all levels right |")
    print("|---|---|---|---|---|")
    for name, values in rows.items():
        dice, share, largest, right = np.array(values).mean(axis=0)
        level = "" if np.isnan(largest) else f"{largest:.3f}"
        print(f"| {name} | {dice:.3f} | {share:.3f} | {level} | {right * len(values):.0f} of {len(values)} |")


if __name__ == "__main__":
    main()
