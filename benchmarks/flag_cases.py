"""Scans of patients that no training saw, whole, cropped, spoiled, in other contrasts, and what flags go by."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from contrast_check import rendered
from level_calibration import CUTS, SPOILS
from scored_scans import LabeledScan, score, segment_scan

FIXED = (
    "no_spine_found",
    "nothing_found",
    "unanchored",
    "gap",
    "unusual_height",
)  # alarms without a threshold to calibrate
MIN_VOXELS = 200  # of labels left in a crop


def variants(scan: LabeledScan, anatomy: Any, index: int, thorough: bool) -> Iterator[tuple[str, str, LabeledScan]]:
    """Group, name and scan of each variant: whole; crops; contrasts, two rendered and one drawn; spoiled.

    Args:
        scan: the scan as it is.
        anatomy: the classes.
        index: of the patient; decides which variants, so that each occurs equally often.
        thorough: all variants, for data sets of few patients.
    """
    yield "whole", "whole", scan
    cuts = list(CUTS.items())[1:]
    for name, steps in cuts if thorough else [cuts[index % len(cuts)], cuts[(index + 5) % len(cuts)]]:
        image, label = scan.image, scan.label
        for cut in steps:
            image, label = cut(image, scan.spacing_mm[1]), cut(label, scan.spacing_mm[1])
        if np.count_nonzero(np.isin(label, [s.code for s in anatomy.foreground])) >= MIN_VOXELS:
            yield "crop", name, scan.changed(*map(np.ascontiguousarray, (image, label)))
    contrasts = list(rendered(scan, anatomy).items())[1:]
    for name, changed in contrasts if thorough else [contrasts[index % len(contrasts)]]:
        yield "contrast", name, changed
    yield "contrast", "drawn", scan.changed(drawn(scan, anatomy))
    spoils = list(SPOILS.items())
    for name, change in spoils if thorough else [spoils[index % len(spoils)]]:
        image = change(scan.image, np.random.default_rng(_seed(scan.subject)), scan.spacing_mm[1])
        yield "spoiled", name, scan.changed(image.astype(np.float32))


def drawn(scan: LabeledScan, anatomy: Any) -> np.ndarray:
    """The scan in a contrast drawn by tissue, one for all its slices; seeded by the patient's name."""
    from cps4_monai.transforms.contrast import RandTissueContrastd

    kinds = ("vertebra", "sacrum"), ("disc",)
    tissues = [[s.code for s in anatomy.foreground if s.kind in kind] for kind in kinds]
    draw = RandTissueContrastd("image", tissues, 1.0, mix=(1.0, 1.0))
    slices = [
        {"image": torch.from_numpy(i[None]), "label": torch.from_numpy(k[None])}
        for i, k in zip(scan.image, scan.label, strict=True)
    ]
    return np.stack([draw.set_random_state(_seed(scan.subject))(one)["image"][0].numpy() for one in slices])


def measured(segmenter: Any, scan: LabeledScan) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One row of what flags of the scan go by, and one for each labeled structure that was found whole."""
    _, result, pred = next(segment_scan(segmenter, scan, ["decoded"]))
    scores = score(segmenter, scan, pred)
    by_code = {s.code: s for s in result.structures}
    structures = [
        {
            **{name: getattr(by_code[code], name) for name in ("kind", "name", "confidence", "outline_confidence")},
            "dice": dice,
        }
        for code, dice in scores.pop("dice").items()
        if by_code[code].state == "present" and by_code[code].confidence is not None
    ]
    margin = result.levels["margin"]
    row = {
        **scores,
        **result.record["Traits"],
        "margin": np.inf if margin is None else margin,
        "anchored": bool(result.levels["anchored"]),
        "fixed": any(flag.name in FIXED for flag in result.flags),
        "flags": " ".join(flag.name for flag in result.flags),
    }
    return row, structures


def _seed(name: str) -> int:
    return zlib.crc32(name.encode())
