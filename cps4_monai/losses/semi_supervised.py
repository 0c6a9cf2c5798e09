"""Losses of stage 2: eqs. 5 to 7 of the paper, consistency for Mean Teacher, and the ramp-up of their weights.

Throughout, logits are (B, C, H, W) of any float type and are computed with in float32; code maps are (B, 1, H, W) of an
integer type. `unannotated` lists classes that are in view but never labeled: their channels enter no softmax and no
argmax, and pixels that carry their code, `IGNORE` or `NOT_ANNOTATED`, are left out of a mean. No function
waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from cps4_monai.anatomy import NOT_ANNOTATED
from cps4_monai.attention_maps import activate
from cps4_monai.logits import NEVER
from cps4_monai.losses.whole_batch import whole_sum

# Code of a pixel without a target: in a prompt map, one that no class claims. `NOT_ANNOTATED` of a label map, an
# unsigned byte, means the same.
IGNORE = -1

TARGET_MODES = ("soft", "hard", "sum", "teacher")


@lru_cache(maxsize=64)
def _unannotated_mask(num_classes: int, unannotated: tuple[int, ...], device: torch.device) -> Tensor:
    wrong = [code for code in unannotated if not 0 < code < num_classes]
    if wrong:
        raise ValueError(
            f"unannotated classes {wrong} are outside 1 to {num_classes - 1}; list foreground codes of the anatomy"
        )
    # Kept between calls, because copying it to the device again at each step would wait for the device.
    with torch.inference_mode(False):
        mask = torch.zeros(num_classes, dtype=torch.bool)
        mask[list(unannotated)] = True
        return mask.to(device)


def mask_unannotated(logits: Tensor, unannotated: Sequence[int] = ()) -> Tensor:
    """Float32 logits (B, C, H, W) whose unannotated channels can neither win an argmax nor take probability.

    Raises:
        ValueError: logits that are not 4-D, or codes outside 1 to C-1.
    """
    if logits.ndim != 4:
        raise ValueError(f"logits have shape {tuple(logits.shape)}; expected (B, C, H, W)")
    logits = logits.float()
    if not unannotated:
        return logits
    mask = _unannotated_mask(logits.shape[1], tuple(unannotated), logits.device)
    return logits.masked_fill(mask.view(1, -1, 1, 1), NEVER)


def attention_maps(attention_logits: Tensor, activation: str, unannotated: Sequence[int] = ()) -> Tensor:
    """A of stage 1, (B, C, h, w) float32 in [0, 1], 0 in unannotated classes.

    Args:
        attention_logits: (B, C, h, w).
        activation: "sigmoid" or "softmax" over the annotated classes, as in stage 1.
        unannotated: see the module.
    """
    logits = mask_unannotated(attention_logits, unannotated)
    return activate(logits, activation)


def check_same_slices(attention_logits: Tensor, logits: Tensor, name: str) -> None:
    """Refuses attention logits (B, C, h, w) that are not of the slices and classes of ``logits`` (B, C, H, W).

    Raises:
        ValueError: shapes that do not belong together; `name` is what ``logits`` is called.
    """
    if attention_logits.ndim != 4 or attention_logits.shape[:2] != logits.shape[:2]:
        raise ValueError(
            f"attention_logits is {tuple(attention_logits.shape)}, {name} {tuple(logits.shape)}; expected "
            "(B, C, h, w) and (B, C, H, W) of the same slices and classes"
        )


def target_codes(code_map: Tensor, logits: Tensor, unannotated: Sequence[int] = ()) -> Tensor:
    """(B, 1, H, W) integer codes -> (B, H, W) int64; unannotated codes and `NOT_ANNOTATED` become `IGNORE`.

    Raises:
        ValueError: a code map that is not of the size of the logits (B, C, H, W).
        TypeError: codes of a float type.
    """
    expected = (logits.shape[0], 1, *logits.shape[2:])
    if tuple(code_map.shape) != expected:
        raise ValueError(
            f"code map has shape {tuple(code_map.shape)}, logits {tuple(logits.shape)}; expected {expected}"
        )
    if code_map.is_floating_point():
        raise TypeError(f"code map is of type {code_map.dtype}; expected integer class codes")
    return annotated_codes(code_map, logits.shape[1], unannotated)


def annotated_codes(code_map: Tensor, num_classes: int, unannotated: Sequence[int] = ()) -> Tensor:
    """(B, 1, H, W) integer codes of any size -> (B, H, W) int64; see :func:`target_codes`."""
    codes = code_map[:, 0].long()
    codes = codes.masked_fill(codes == NOT_ANNOTATED, IGNORE)
    if not unannotated:
        return codes
    mask = _unannotated_mask(num_classes, tuple(unannotated), codes.device)
    return codes.masked_fill(mask[codes.clamp(min=0)] & (codes >= 0), IGNORE)


def _hard_cross_entropy(
    logits: Tensor, code_map: Tensor, unannotated: Sequence[int], where: Tensor | None = None
) -> Tensor:
    codes = target_codes(code_map, logits, unannotated)
    if where is not None:
        codes = codes.masked_fill(~where[:, 0], IGNORE)
    total = F.cross_entropy(mask_unannotated(logits, unannotated), codes, ignore_index=IGNORE, reduction="sum")
    # A batch without any target gives 0 rather than 0 / 0.
    return whole_sum(total) / whole_sum((codes != IGNORE).sum()).clamp(min=1)


def supervised_cross_entropy(
    logits: Tensor, label: Tensor, unannotated: Sequence[int] = (), where: Tensor | None = None
) -> Tensor:
    """Eq. 5: cross-entropy of the student's prediction on labeled slices, mean over pixels.

    The minus sign printed in eqs. 5 to 7 is spurious if CE is a loss, as the paper calls it.

    Args:
        logits: student, (B, C, H, W).
        label: class codes, (B, 1, H, W).
        unannotated: see the module.
        where: (B, 1, H, W) bool, or broadcastable to it: the pixels that count; None: all.

    Returns:
        Scalar, float32; 0 where no pixel counts.

    Raises:
        ValueError: shapes that do not fit, unannotated codes that do not exist.
        TypeError: a label of a float type.
    """
    return _hard_cross_entropy(logits, label, unannotated, where)


def text_cross_entropy(
    logits: Tensor, prompt_map: Tensor, unannotated: Sequence[int] = (), confidence: Tensor | None = None
) -> Tensor:
    """Eq. 6: cross-entropy of the student's prediction on unlabeled slices against y_text.

    Args:
        logits: student, (B, C, H, W).
        prompt_map: y_text of eq. 3, (B, 1, H, W); pixels of code -1 (`IGNORE`) are left out of the mean.
        unannotated: see the module.
        confidence: (B, 1, H, W) in [0, 1], by which each pixel's cross-entropy is multiplied; None: 1 everywhere. The
            mean still runs over all pixels that have a code, so that doubtful maps also count less as a whole.

    Returns:
        Scalar, float32; 0 where every pixel is left out.

    Raises:
        As :func:`supervised_cross_entropy`; a confidence of another shape.
    """
    if confidence is None:
        return _hard_cross_entropy(logits, prompt_map, unannotated)
    if confidence.shape != prompt_map.shape:
        raise ValueError(
            f"confidence has shape {tuple(confidence.shape)}, prompt map {tuple(prompt_map.shape)}; expected one shape"
        )
    codes = target_codes(prompt_map, logits, unannotated)
    pixels = F.cross_entropy(mask_unannotated(logits, unannotated), codes, ignore_index=IGNORE, reduction="none")
    total = (pixels * confidence[:, 0].float()).sum()
    return whole_sum(total) / whole_sum((codes != IGNORE).sum()).clamp(min=1)


@torch.no_grad()
def map_confidence(
    prompt_map: Tensor, attention_logits: Tensor, activation: str = "sigmoid", unannotated: Sequence[int] = ()
) -> Tensor:
    """A of the class that y_text names in each pixel, upsampled bilinearly: how sure the attention maps are of it.

    Args:
        prompt_map: y_text, (B, 1, H, W); -1 gives 0.
        attention_logits: (B, C, h, w) of the same slices.
        activation: "sigmoid" or "softmax" over the annotated classes, as in stage 1.
        unannotated: codes in view but never labeled; stage 1 did not train their maps.

    Returns:
        (B, 1, H, W) float32 in [0, 1].
    """
    attention = attention_maps(attention_logits, activation, unannotated)
    maps = F.interpolate(attention, size=prompt_map.shape[2:], mode="bilinear", align_corners=False)
    return maps.gather(1, prompt_map.clamp(min=0)) * (prompt_map != IGNORE)


@torch.no_grad()
def enhanced_target(
    teacher_logits: Tensor, prompt_map: Tensor | None, mode: str = "soft", unannotated: Sequence[int] = ()
) -> Tensor:
    """The target of eq. 7, "teacher pseudo-label + y_text", as class weights per pixel (paper page, row 9).

    Args:
        teacher_logits: (B, C, H, W).
        prompt_map: y_text, (B, 1, H, W); where it is -1 the teacher alone is the target, in every mode. May be None in
            mode "teacher".
        mode: "soft" is (p_t + onehot(y_text)) / 2. "sum" is the literal p_t + onehot(y_text): weights that add up to 2,
            thus twice the loss of "soft". "hard" is the one-hot argmax of that sum; as p_t never exceeds 1, it equals
            y_text wherever y_text is given, and the option is there to show just that. "teacher" is p_t.
        unannotated: see the module.

    Returns:
        (B, C, H, W) float32 without gradient.

    Raises:
        ValueError: an unknown mode, no prompt map where the mode needs one, shapes that do not fit.
    """
    if mode not in TARGET_MODES:
        raise ValueError(f"mode of the enhanced target is {mode!r}; expected one of {list(TARGET_MODES)}")
    probs = mask_unannotated(teacher_logits, unannotated).softmax(dim=1)
    if mode == "teacher":
        return probs
    if prompt_map is None:
        raise ValueError(f"mode {mode!r} of the enhanced target needs a prompt map; pass one, or use mode 'teacher'")
    codes = target_codes(prompt_map, teacher_logits, unannotated).unsqueeze(1)  # (B, 1, H, W)
    given = codes != IGNORE
    summed = probs.scatter_add(1, codes.clamp(min=0), given.to(probs.dtype))
    if mode == "hard":
        winner = summed.argmax(dim=1, keepdim=True)
        return torch.zeros_like(probs).scatter_(1, winner, 1.0)
    if mode == "sum":
        return summed
    return torch.where(given, summed / 2, summed)


def enhance_cross_entropy(logits: Tensor, target: Tensor, unannotated: Sequence[int] = ()) -> Tensor:
    """Eq. 7: soft cross-entropy of the student against the enhanced target, mean over pixels.

    Args:
        logits: student, (B, C, H, W).
        target: class weights, (B, C, H, W), from :func:`enhanced_target`; no gradient flows into it.
        unannotated: see the module.

    Returns:
        Scalar, float32.

    Raises:
        ValueError: shapes that differ.
    """
    if logits.shape != target.shape:
        raise ValueError(f"logits have shape {tuple(logits.shape)}, target {tuple(target.shape)}; expected equal ones")
    log_probs = mask_unannotated(logits, unannotated).log_softmax(dim=1)
    return -(target.detach() * log_probs).sum(dim=1).mean()


def consistency_mse(student_logits: Tensor, teacher_logits: Tensor, unannotated: Sequence[int] = ()) -> Tensor:
    """Mean Teacher's consistency: squared difference of both softmaxes, mean over pixels and annotated classes.

    Source: Tarvainen and Valpola, NeurIPS 2017. No gradient flows into the teacher.

    Args:
        student_logits: (B, C, H, W).
        teacher_logits: (B, C, H, W).
        unannotated: see the module.

    Returns:
        Scalar, float32.

    Raises:
        ValueError: shapes that differ.
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student logits have shape {tuple(student_logits.shape)}, teacher logits {tuple(teacher_logits.shape)}; "
            "expected equal ones"
        )
    student = mask_unannotated(student_logits, unannotated).softmax(dim=1)
    teacher = mask_unannotated(teacher_logits.detach(), unannotated).softmax(dim=1)
    annotated = student.shape[1] - len(set(unannotated))
    return F.mse_loss(student, teacher, reduction="sum") * (1.0 / (annotated * (student.numel() // student.shape[1])))


def ramp_up(updates: int, length: int) -> float:
    """Weight in (0, 1] that grows as exp(-5 (1 - t / length)^2) and stays at 1 from t = length on.

    Source: Laine and Aila, ICLR 2017.

    Args:
        updates: optimiser steps made so far.
        length: steps of the ramp; 0 means no ramp.

    Raises:
        ValueError: a negative length.
    """
    if length < 0:
        raise ValueError(f"ramp-up length is {length}; expected a number of optimiser steps, 0 for none")
    if updates >= length:
        return 1.0
    return math.exp(-5.0 * (1.0 - updates / length) ** 2)
