"""What a label map that people made only in part leaves to be measured."""

from __future__ import annotations

import numpy as np

from cps4_monai.anatomy import NOT_ANNOTATED


def within_annotated(pred: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both maps without structures where nobody annotated, for what is measured on masks.

    A structure that goes on there is cut along the same border on both sides, so that the cut adds no distance.

    Args:
        pred: codes, any shape.
        label: the same shape; 255 where nobody annotated.

    Returns:
        Prediction and label, 0 in these places; the maps themselves where there are none.
    """
    unknown = label == NOT_ANNOTATED
    if not unknown.any():
        return pred, label
    return np.where(unknown, 0, pred).astype(pred.dtype), np.where(unknown, 0, label).astype(label.dtype)
