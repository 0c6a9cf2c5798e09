"""Attention maps of a stage-1 checkpoint for the report (paper, figure 5): pictures, and whole scans for the viewer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from cps4_monai.anatomy import Anatomy
from cps4_monai.data.cache import SliceCache
from cps4_monai.data.datalist import Entry
from cps4_monai.report.attention import attention_figure, upsampled
from cps4_monai.report.overlay import mid_slice
from cps4_monai.report.slab import Slab
from cps4_monai.report.viewer import MAX_IN_PAGE, View, view_of_slab
from cps4_monai.vision import PromptedVision, holds_prompted_vision, load_prompted_vision

OUTLINES = "outline of the label"
MAP_MM = 2.5


@dataclass(frozen=True)
class Attention:
    """What the report shows of attention maps.

    Attributes:
        pictures: subject -> PNG: the middle slice with its label, then A of each chosen prompt.
        views: the same scans for the viewer, with A of every prompt.
    """

    pictures: Mapping[str, bytes] = field(default_factory=dict)
    views: Sequence[View] = ()


def attention_pictures(
    checkpoint: str | Path,
    scans: Sequence[Entry],
    cache: SliceCache,
    anatomy: Anatomy,
    names: Sequence[str],
    device: torch.device | str = "cpu",
    limit: int = 4,
    viewed: int = MAX_IN_PAGE,
) -> Attention:
    """A picture and a view per scan, of A as it is made of the logits that stage 1 trained.

    Args:
        checkpoint: result of stage 1.
        scans: scans to show; the label is drawn where there is one.
        cache: gives their slices on the network's grid.
        anatomy: classes and prompts.
        names: short names of the structures whose prompts are shown in the pictures.
        device: where the network runs.
        limit: how many scans are shown at most.
        viewed: how many of them the viewer has at most.

    Returns:
        Nothing where stage 1 left an assistant, which has no attention maps.

    Raises:
        ValueError: the checkpoint is no result of stage 1, or of other classes or prompts.
    """
    if not holds_prompted_vision(checkpoint):
        return Attention()
    model = load_prompted_vision(checkpoint, anatomy=anatomy, map_location=device)
    pictures, views = dict[str, bytes](), list[View]()
    for entry in scans[:limit]:
        image = cache.image(entry.image)
        label = None if entry.label is None else np.array(cache.label(entry.label, entry.image).array)
        slices = np.stack([image.slice(index).astype(np.float32) for index in range(image.shape[0])])
        attention = _attention(model, slices, device)
        index = mid_slice(label, len(slices))
        pictures[entry.subject] = attention_figure(
            slices[index],
            None if label is None else label[index],
            attention[index],
            names,
            anatomy=anatomy,
            spacing_mm=image.spacing_mm[1:],
            title=f"{entry.subject}, slice {index + 1} of {len(slices)}",
        )
        if len(views) == viewed:
            continue
        shown = np.zeros(slices.shape, np.uint8) if label is None else label
        slab = Slab(slices, {OUTLINES: shown}, image.spacing_mm, (0.0, 1.0))
        trained = [s.code for s in anatomy.foreground if s.code not in model.unannotated]
        maps = {code: _smooth(attention[:, code], slices.shape[1] * image.spacing_mm[1]) for code in trained}
        views.append(view_of_slab(entry.subject, slab, maps, outlined=True))
    return Attention(pictures, views)


def _smooth(attention: np.ndarray, height_mm: float) -> np.ndarray:
    """A (D, h, w) on a grid of at most ``MAP_MM``, interpolated as in the pictures; the viewer interpolates nothing."""
    finer = math.ceil(height_mm / attention.shape[1] / MAP_MM)
    return upsampled(attention, (finer * attention.shape[1], finer * attention.shape[2]))


def _attention(model: PromptedVision, slices: np.ndarray, device: torch.device | str) -> np.ndarray:
    """A (D, C, h, w) of slices (D, H, W), a slice at a time."""
    return np.concatenate(
        [model.attention_maps(torch.from_numpy(image)[None, None].to(device)).cpu().numpy() for image in slices]
    )
