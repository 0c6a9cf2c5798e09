"""Feedback: what a student sees, as prompts; and, for stage 1, a simulation of what a student will say."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cps4_monai.vessa.parts import Feedback

KINDS = ("mask", "box", "point")
# Least probability, somewhere in the picture, of a class that counts as seen.
LEAST = 0.5
SHIFT, SWAP, DILATE, DROP = "shift", "swap", "dilate", "drop"


def check_kinds(kinds: Sequence[str]) -> tuple[str, ...]:
    """The kinds as a tuple.

    Raises:
        ValueError: none, or an unknown one.
    """
    if isinstance(kinds, str) or not kinds or set(kinds) - set(KINDS):
        raise ValueError(f"feedback is {kinds!r}; expected a list of {list(KINDS)}. Fix: name one of them or more")
    return tuple(kinds)


@torch.no_grad()
def feedback_prompts(probabilities: Tensor, kinds: Sequence[str] = KINDS, least: float = LEAST) -> Feedback:
    """Mask, box and point of each class, by comparisons on the device, whatever the number of classes.

    The kinds are cycled along the batch from a random one on: each picture is prompted with one kind, and all are used
    alike, whatever the size of the batch.

    Args:
        probabilities: (B, C, H, W) in [0, 1]; zeros say nothing.
        kinds: any of "mask", "box", "point".
        least: a class is seen where its largest probability reaches this; a box spans the pixels that do.
    """
    masks = probabilities.float()
    batch, _, height, width = masks.shape
    inside = masks >= least
    seen = inside.flatten(2).any(2)  # (B, C)
    top, bottom = _extent(inside.any(3))
    left, right = _extent(inside.any(2))
    boxes = torch.stack((left, top, right, bottom), dim=-1)
    blurred = F.avg_pool2d(F.avg_pool2d(masks, (9, 1), 1, (4, 0)), (1, 9), 1, (0, 4))  # highest well within a structure
    place = torch.where(inside, blurred, -1.0).flatten(2).argmax(2)
    points = torch.stack(((place % width + 0.5) / width, (place // width + 0.5) / height), dim=-1)
    device, places = masks.device, [list(kinds).index(kind) if kind in kinds else -1 for kind in KINDS]
    turn = (torch.arange(batch, device=device) + torch.randint(len(kinds), (1,), device=device)) % len(kinds)
    given = [seen & (turn == place).unsqueeze(1) for place in places]
    return Feedback(masks, boxes, points, *given)


def no_feedback(batch: int, num_classes: int, size: Sequence[int], device: torch.device) -> Feedback:
    """Prompts of nobody: every class gets the "no feedback prompt" embedding."""
    nowhere = torch.zeros(batch, num_classes, dtype=torch.bool, device=device)
    masks = torch.zeros(batch, num_classes, *size, device=device)
    places = torch.zeros(batch, num_classes, 4, device=device)
    return Feedback(masks, places, places[..., :2], nowhere, nowhere, nowhere)


def _extent(where: Tensor) -> tuple[Tensor, Tensor]:
    """First and one past the last True of (B, C, L), as shares of L; (1, 0) where there is none."""
    length = where.shape[-1]
    position = torch.arange(length, device=where.device)
    first = torch.where(where, position, length).amin(-1)
    last = torch.where(where, position + 1, 0).amax(-1)
    return first / length, last / length


class SimulatedFeedback(nn.Module):
    """The label with a student's mistakes: shifted, dilated, two neighbouring levels swapped, or classes dropped.

    Each picture gets one of the four mistakes at random; of three where no kind has two levels, so that nothing can be
    swapped. Without such prompts in stage 1, those of stage 2 would be
    unlike anything that the assistant has seen.

    Args:
        num_classes: C.
        levels: codes along the spine in groups of one kind (vertebrae; discs), within which neighbours are swapped.
        probability: share of pictures that are prompted at all.
        shift: largest shift along each axis, as a share of the picture.
        dilation: pixels by which structures grow.
        dropped: share of the classes that are dropped.

    Raises:
        ValueError: a share outside [0, 1], a negative dilation, or levels that are no classes.
    """

    pairs: Tensor
    swaps: Tensor

    def __init__(
        self,
        num_classes: int,
        levels: Sequence[Sequence[int]],
        probability: float = 0.5,
        shift: float = 0.1,
        dilation: int = 3,
        dropped: float = 0.3,
    ) -> None:
        super().__init__()
        for name, share in (("probability", probability), ("shift", shift), ("dropped", dropped)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}; expected a share from 0 to 1. Fix: choose one")
        pairs = [pair for group in levels for pair in itertools.pairwise(group)]
        if dilation < 0 or not all(0 < code < num_classes for group in levels for code in group):
            raise ValueError(
                f"dilation is {dilation}, levels {levels}; expected pixels of at least 0, and groups of codes between "
                f"1 and {num_classes - 1}. Fix: name the codes along the spine"
            )
        self.num_classes = num_classes
        self.levels = [list(group) for group in levels]
        self.probability, self.shift, self.dilation, self.dropped = probability, shift, dilation, dropped
        swaps = torch.arange(num_classes).repeat(len(pairs), 1)
        for row, (lower, upper) in zip(swaps, pairs, strict=True):
            row[lower], row[upper] = upper, lower
        self.mistakes = (SHIFT, SWAP, DILATE, DROP) if pairs else (SHIFT, DILATE, DROP)
        self.register_buffer("pairs", torch.tensor(pairs), persistent=False)
        self.register_buffer("swaps", swaps, persistent=False)

    @torch.no_grad()
    def forward(self, label: Tensor) -> Tensor:
        """What a student might say, (B, C, H, W) in {0, 1}; zeros where it says nothing.

        Args:
            label: (B, 1, H, W) codes; pixels that nobody annotated are of no class.
        """
        if self.pairs.device != label.device:
            self.to(label.device)
        batch, device = len(label), label.device
        mistake = torch.randint(len(self.mistakes), (batch, 1, 1), device=device)
        codes = label[:, 0].long()
        codes = torch.where(mistake == self._number(SHIFT), self._shifted(codes), codes)
        if SWAP in self.mistakes:
            codes = torch.where(mistake == self._number(SWAP), self._swapped(codes), codes)
        classes = torch.arange(self.num_classes, device=device).view(1, -1, 1, 1)
        masks = codes.unsqueeze(1) == classes
        masks = torch.where((mistake == self._number(DILATE)).unsqueeze(1), self._dilated(masks), masks)
        masks = torch.where((mistake == self._number(DROP)).unsqueeze(1), self._without_some(masks), masks)
        says = torch.rand(batch, 1, 1, 1, device=device) < self.probability
        return (masks & says).float()

    def _number(self, mistake: str) -> int:
        return self.mistakes.index(mistake)

    def _shifted(self, codes: Tensor) -> Tensor:
        for axis in (1, 2):
            length = codes.shape[axis]
            farthest = round(self.shift * length)
            step = torch.randint(-farthest, farthest + 1, (len(codes), 1, 1), device=codes.device)
            position = torch.arange(length, device=codes.device).view((1, -1, 1) if axis == 1 else (1, 1, -1)) - step
            within = (position >= 0) & (position < length)
            moved = codes.gather(axis, position.clamp(0, length - 1).expand_as(codes))
            codes = torch.where(within, moved, 0)
        return codes

    def _swapped(self, codes: Tensor) -> Tensor:
        """Two neighbours, of those that the picture shows if it shows two, change their names."""
        classes = torch.arange(self.num_classes, device=codes.device)
        present = (codes.flatten(1).unsqueeze(1) == classes.view(1, -1, 1)).any(2)  # (B, C)
        both = present[:, self.pairs].all(2)  # (B, pairs)
        chosen = (torch.rand(both.shape, device=codes.device) + both).argmax(1)
        names = self.swaps[chosen]  # (B, C)
        known = codes < self.num_classes
        renamed = names.gather(1, codes.clamp(max=self.num_classes - 1).flatten(1)).view_as(codes)
        return torch.where(known, renamed, codes)

    def _dilated(self, masks: Tensor) -> Tensor:
        width, by = 2 * self.dilation + 1, self.dilation
        grown = F.max_pool2d(F.max_pool2d(masks.float(), (width, 1), 1, (by, 0)), (1, width), 1, (0, by)) > 0
        return _with_background(grown, masks)

    def _without_some(self, masks: Tensor) -> Tensor:
        kept = torch.rand(*masks.shape[:2], 1, 1, device=masks.device) >= self.dropped
        return _with_background(masks & kept, masks)


def _with_background(masks: Tensor, original: Tensor) -> Tensor:
    """Background is what was annotated and no structure holds any more."""
    annotated = original.any(1, keepdim=True)
    background = annotated & ~masks[:, 1:].any(1, keepdim=True)
    return torch.cat((background, masks[:, 1:]), dim=1)
