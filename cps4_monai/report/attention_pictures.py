"""Attention maps of a stage-1 checkpoint on the middle slices of some scans, for the report (paper, figure 5)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from cps4_monai.anatomy import Anatomy
from cps4_monai.data.cache import SliceCache
from cps4_monai.data.datalist import Entry
from cps4_monai.report.attention import attention_figure
from cps4_monai.report.overlay import mid_slice
from cps4_monai.vision import holds_prompted_vision, load_prompted_vision


def attention_pictures(
    checkpoint: str | Path,
    scans: Sequence[Entry],
    cache: SliceCache,
    anatomy: Anatomy,
    names: Sequence[str],
    device: torch.device | str = "cpu",
    limit: int = 4,
) -> dict[str, bytes]:
    """One picture per scan: the slice with its label, then A of each chosen prompt, made of the
    logits as stage 1 trained it.

    Args:
        checkpoint: result of stage 1.
        scans: scans to show; the label is drawn where there is one.
        cache: gives their slices on the network's grid.
        anatomy: classes and prompts.
        names: short names of the structures whose prompts are shown.
        device: where the network runs.
        limit: how many scans are shown at most.

    Returns:
        Subject -> PNG; nothing where stage 1 left an assistant, which has no attention maps.

    Raises:
        ValueError: the checkpoint is no result of stage 1, or of other classes or prompts.
    """
    if not holds_prompted_vision(checkpoint):
        return {}
    model = load_prompted_vision(checkpoint, anatomy=anatomy, map_location=device)
    pictures = {}
    for entry in scans[:limit]:
        image = cache.image(entry.image)
        label = None if entry.label is None else np.array(cache.label(entry.label, entry.image).array)
        index = mid_slice(label, image.shape[0])
        slice_ = image.slice(index).astype(np.float32)
        attention = model.attention_maps(torch.from_numpy(slice_)[None, None].to(device))[0].cpu().numpy()
        pictures[entry.subject] = attention_figure(
            slice_,
            None if label is None else label[index],
            attention,
            names,
            anatomy=anatomy,
            spacing_mm=image.spacing_mm[1:],
            title=f"{entry.subject}, slice {index + 1} of {image.shape[0]}",
        )
    return pictures
