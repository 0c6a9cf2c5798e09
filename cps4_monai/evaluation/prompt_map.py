"""How good the prompt map is, and how good any map on its grid could be at best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from cps4_monai.atomic_file import write_atomically
from cps4_monai.data.cache import SliceCache
from cps4_monai.data.entries import Entry
from cps4_monai.metrics.spine_dice import SpineDice

COLUMNS = ("subject", "map", "convention", "dice")


def through_grid(label: Tensor, grid_size: Sequence[int], num_classes: int) -> Tensor:
    """The true label map put through the attention's grid and back: the ceiling of every prompt map on it.

    Each class's mask is averaged down to the grid and upsampled bilinearly; the largest class wins. Pixels that nobody
    annotated (255) are of no class.

    Args:
        label: (B, 1, H, W), codes.
        grid_size: (h, w) of the attention maps.
        num_classes: C, background included.

    Returns:
        (B, 1, H, W), int64.
    """
    masks = (label.long() == torch.arange(num_classes, device=label.device).view(1, -1, 1, 1)).float()  # (B, C, H, W)
    coarse = F.adaptive_avg_pool2d(masks, (int(grid_size[0]), int(grid_size[1])))
    return F.interpolate(coarse, size=label.shape[-2:], mode="bilinear", align_corners=False).argmax(1, keepdim=True)


@torch.no_grad()
def score_prompt_maps(
    model: torch.nn.Module,
    mapper: Callable[[Tensor, Sequence[int]], Tensor],
    entries: Sequence[Entry],
    cache: SliceCache,
    num_classes: int,
    unannotated: Sequence[int] = (),
    output: str | Path | None = None,
    batch_size: int = 16,
) -> pd.DataFrame:
    """Dice of y_text against the label on the network's slices, with the ceiling of its grid beside it.

    Args:
        model: the frozen image side of stage 1, with ``grid_size``.
        mapper: attention logits and (H, W) to y_text.
        entries: labeled scans; those without a label are passed over.
        cache: gives their slices.
        num_classes: C, background included.
        unannotated: codes that are not scored.
        output: CSV file to write.
        batch_size: slices at a time.

    Returns:
        A row per subject, map ("prompt_map", "ceiling") and convention ("a", "b", "c"), and rows of subject "mean".

    Raises:
        ValueError: no entry has a label.
    """
    scored = [(entry, entry.label) for entry in entries if entry.label is not None]
    if not scored:
        raise ValueError("no labeled scan to score prompt maps on; choose another section of the datalist")
    device = next(model.parameters()).device
    rows: list[tuple[str, str, str, float]] = []
    totals = {name: SpineDice(num_classes, unannotated=unannotated) for name in ("prompt_map", "ceiling")}
    for entry, label_path in scored:
        image = torch.from_numpy(np.array(cache.image(entry.image).array)).float()[:, None]
        label = torch.from_numpy(np.array(cache.label(label_path, entry.image).array))[:, None]
        size = tuple(label.shape[-2:])
        logits = torch.cat([model(part.to(device)) for part in image.split(batch_size)])
        maps = {
            "prompt_map": mapper(logits, size).clamp(min=0).cpu(),
            "ceiling": through_grid(label, model.grid_size, num_classes),  # type: ignore[arg-type]
        }
        for name, prediction in maps.items():
            volumes = {"y_pred": prediction.transpose(0, 1)[None], "y": label.transpose(0, 1)[None]}
            dice = SpineDice(num_classes, unannotated=unannotated)
            dice(**volumes)
            totals[name](**volumes)
            rows += [(entry.subject, name, c, dice.summary()[f"dice_{c}"]) for c in "abc"]
    rows += [("mean", name, c, total.summary()[f"dice_{c}"]) for name, total in totals.items() for c in "abc"]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    if output is not None:
        write_atomically(output, table.to_csv(index=False, float_format="%.4f"))
    return table
