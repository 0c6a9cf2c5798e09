"""What a training starts from: a stage 1 that learned next to nothing, weights that are to unlearn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cps4_monai.anatomy import MRSPINESEG, Anatomy
from cps4_monai.data.build_datalist import classes_shown
from cps4_monai.data.entries import Entry
from cps4_monai.preflight.tell import tell

USELESS_MAP = 0.1  # Dice of a prompt map below which stage 2 is warned of it


def check_prompt_map(stage: str, path: str | Path, dice: float | None) -> tuple[str, ...]:
    """Names a stage 1 that learned next to nothing: what the teacher knows is lost to its map.

    In docs/results/table1.md stage 2 has a Dice of 0.39 on a stage 1 whose map has 0.02, and of 0.15 on maps that are
    background everywhere; Mean Teacher has 0.85.

    Args:
        stage: named in messages.
        path: of the stage-1 file.
        dice: of its prompt map (b), on the scans that stage 1 was validated by; None: the file does not say.

    Returns:
        The warnings, which are logged, too.
    """
    if dice is None or dice >= USELESS_MAP:
        return ()
    return tell(
        stage,
        [
            f"the prompt map of {path} has a Dice of {dice:.3f} on the scans that stage 1 was validated by, and stage "
            "2 follows it. Fix: look at it with `cps4 attention`, train stage 1 longer or from a pretrained ViT (`cps4 "
            "weights vit-s-focus`), or take a method without class prompts (mean_teacher, mt_decoded)"
        ],
    )


def check_unlearned(
    stage: str,
    weights: str | Path,
    labeled: Sequence[Entry],
    anatomy: Anatomy = MRSPINESEG,
    left_out: Sequence[int] = (),
    by_datalist: bool = True,
) -> tuple[str, ...]:
    """Names classes of the weights that training starts from and that the new labels do not show.

    Where such a structure is in view its pixels are background in these labels, which the weights learn.

    Args:
        stage: named in messages.
        weights: that training starts from.
        labeled: the scans with labels.
        anatomy: the classes.
        left_out: codes that the weights do not know, or that are unannotated here.
        by_datalist: whether the run reads ``unannotated`` of its datalist; fine-tuning takes that of the weights.

    Returns:
        The warnings, which are logged, too.

    Raises:
        InvalidVolumeError: a label map cannot be read or has codes outside the anatomy.
    """
    shown = classes_shown(labeled, anatomy.num_classes)
    gone = [f"{s.code} ({s.name})" for s in anatomy.foreground if s.code not in {*shown, *left_out}]
    if not gone:
        return ()
    or_named = (
        ", or name them as 'unannotated' in the datalist (`cps4 datalist --unannotated`): then no result has them"
    )
    return tell(
        stage,
        [
            f"training starts from {weights}, and no labeled subject shows its classes {', '.join(gone)}: they are "
            "background in these labels, and the weights unlearn them wherever they are in view. Fix: nothing, if they "
            f"never are; else mark them 255 (not annotated) in the label maps{or_named if by_datalist else ''}"
        ],
    )
