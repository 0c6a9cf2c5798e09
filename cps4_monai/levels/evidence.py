"""Class probabilities summed over components, slice by slice: the evidence for every level."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import sparse

from cps4_monai.levels.components import Components


def mean_probabilities(
    components: Components, scores: Iterable[Any], num_classes: int, from_logits: bool = False
) -> np.ndarray:
    """Mean class probability vector of each component.

    Only voxels inside components are read; one slice is held at a time, so ``scores`` may be an array, a tensor on any
    device, or a generator of slices.

    Args:
        components: N regions of a (D, H, W) label map.
        scores: D slices, each (C, H, W): an array or tensor (D, C, H, W), or an iterable. Probabilities in [0, 1], or
            logits.
        num_classes: C.
        from_logits: apply the softmax over the classes.

    Returns:
        (N, C) float64, rows summing to 1 where the input's probabilities do; zeros for an empty component.

    Raises:
        ValueError: another number of slices, another slice shape, or values that are not finite.
    """
    depth, height, width = components.shape
    d_box, h_box, w_box = components.box
    sums = np.zeros((len(components), num_classes))
    seen = 0
    for index, scores_slice in enumerate(scores):
        seen += 1
        if tuple(scores_slice.shape) != (num_classes, height, width):
            raise ValueError(
                f"slice {index} of the scores has shape {tuple(scores_slice.shape)}; expected "
                f"{(num_classes, height, width)} (C, H, W), the grid of the labels: resample one of them"
            )
        if not d_box.start <= index < d_box.stop:
            continue
        flat = np.flatnonzero(components.ids[index - d_box.start])
        if len(flat) == 0:
            continue
        rows, columns = np.divmod(flat, w_box.stop - w_box.start)
        inside = _gather(scores_slice, rows + h_box.start, columns + w_box.start, from_logits)  # (C, n)
        region = components.ids[index - d_box.start].reshape(-1)[flat] - 1
        select = sparse.csr_matrix((np.ones(len(flat)), (region, np.arange(len(flat)))), (len(components), len(flat)))
        sums += select @ inside.T
    if seen != depth:
        raise ValueError(f"scores have {seen} slices; expected {depth}, one per slice of the labels")
    if not np.isfinite(sums).all():
        raise ValueError("scores hold values that are not finite inside the labeled structures; expected numbers")
    return sums / np.maximum(components.moments.voxels, 1)[:, None]


def _gather(scores_slice: Any, rows: np.ndarray, columns: np.ndarray, from_logits: bool) -> np.ndarray:
    if isinstance(scores_slice, np.ndarray):
        inside = scores_slice[:, rows, columns].astype(np.float64)
    else:  # a tensor: pick the voxels on its device, bring only those over
        import torch

        at = (torch.as_tensor(rows, device=scores_slice.device), torch.as_tensor(columns, device=scores_slice.device))
        inside = scores_slice.detach()[:, at[0], at[1]].float().cpu().numpy().astype(np.float64)
    if from_logits:
        inside -= inside.max(axis=0, keepdims=True)
        np.exp(inside, out=inside)
        inside /= inside.sum(axis=0, keepdims=True)
    return inside
