"""Label maps that nobody stands for, or that leave nothing to learn or to measure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cps4_monai.anatomy import NOT_ANNOTATED
from cps4_monai.data.datasets import VolumeDataset
from cps4_monai.data.entries import Entry
from cps4_monai.data.label_review import is_unreviewed_prediction
from cps4_monai.preflight.tell import tell


def check_reviewed(stage: str, entries: Sequence[Entry]) -> tuple[str, ...]:
    """Names label maps of `cps4 segment` that no person stands for, or no longer: a datalist may be older.

    Args:
        stage: named in messages.
        entries: the scans that are trained on or validated with their labels.

    Returns:
        The warnings, which are logged, too.
    """
    labels = dict.fromkeys(entry.label for entry in entries if entry.label)  # some validate on scans of training
    ours = [label.name for label in labels if is_unreviewed_prediction(label)]
    if not ours:
        return ()
    one = len(ours) == 1
    return tell(
        stage,
        [
            f"{len(ours)} label map{'' if one else 's'} ({', '.join(ours[:5])}{' ...' * (len(ours) > 5)}) "
            f"{'is' if one else 'are'} of this program, and no person stands for {'it' if one else 'them'}: neither "
            "corrected nor accepted, or marked as wrong since. Fix: make the datalist again (`cps4 datalist`), unless "
            "predictions are meant to be learned"
        ],
    )


def check_validation_labels(dataset: VolumeDataset, unannotated: Sequence[int] = ()) -> None:
    """Refuses validation subjects whose labels leave nothing to measure: no weights could be chosen by them.

    Args:
        dataset: the validation volumes, with labels.
        unannotated: codes that are in view but never labeled.

    Raises:
        ValueError: none of the labels has an annotated structure within the network's slices.
    """
    uncounted = [0, NOT_ANNOTATED, *unannotated]
    if not any(np.isin(labels.array, uncounted, invert=True).any() for labels in dataset.labels or []):
        names = ", ".join(entry.subject for entry in dataset.entries[:5])
        raise ValueError(
            f"no label of the {len(dataset)} validation subjects ({names}) has an annotated structure within the "
            "network's slices: no weights could be chosen; expected labels with structures: correct 'validation' in "
            "the datalist, its 'unannotated', or slice_size"
        )
