"""The order of the levels as a prior: structures must follow one another along the spine, none left out, none twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cps4_monai.anatomy import Anatomy
from cps4_monai.prompt_map.spine_chain import chain_marginals
from cps4_monai.prompt_map.spine_coordinate import along_spine, from_rows, to_rows

SHORTEST_MM = {"sacrum": 15.0, "vertebra": 15.0, "disc": 4.0}


class LevelOrder:
    """Renames what is seen, slice by slice, so that the names follow the spine.

    Class probabilities are summed over the lines across the spine. Each such line then belongs to one structure of the
    chain (sacrum, lowest disc, lowest vertebra, ...), in this order and without a gap, or lies beyond its ends. All
    chains are weighed at once, by what they explain of each line: its names and, `kind_weight` times as much, its kinds
    (bone where the chain says vertebra, disc where it says disc). The probability that a line belongs to a structure,
    blurred along the spine, is the prior by which the class probabilities are multiplied *within each kind*: what is
    bone, disc or background in a pixel stays, only the level changes. So a body that is half called L3 and half L4
    gets one name, and the names of all bodies of a slice decide together where the chain lies.

    Args:
        anatomy: structures, their order along the spine and their kinds.
        height_mm: height of the field of view of the maps, from the first row to the last.
        anchored: the chain starts with its lowest annotated structure, as where the field of view of every scan holds
            the lumbosacral junction; False: with any.
        unannotated: codes in view but never labeled; they are no part of the chain.
        kind_weight: what a line's kind counts, its name counting 1.
        threshold: what a line must explain for it to be better part of the chain than beyond its ends, in units of the
            spine's width; a line that shows the chain's structure alone explains ``1 + kind_weight``.
        sharpness: how much the best chain outweighs the others; log weight of a line explained in full is this times
            ``1 + kind_weight``.
        smoothing: added to each probability before it is multiplied, so that a name that the maps are sure of can give
            way to the chain.
        blur_mm: standard deviation of the blur along the spine.
        shortest_mm: least extent along the spine by kind, "vertebra", "disc" and "sacrum".

    Raises:
        ValueError: a number out of range, a kind without a least extent, fewer than two structures in the chain.
    """

    options = (
        "chain", "height_mm", "anchored", "kind_weight", "threshold", "sharpness", "smoothing", "blur_mm", "shortest_mm"
    )  # fmt: skip

    def __init__(
        self,
        anatomy: Anatomy,
        height_mm: float,
        anchored: bool = True,
        unannotated: Sequence[int] = (),
        kind_weight: float = 2.0,
        threshold: float = 1.2,
        sharpness: float = 5.0,
        smoothing: float = 0.02,
        blur_mm: float = 6.0,
        shortest_mm: Mapping[str, float] | None = None,
    ) -> None:
        for name, value in (("height_mm", height_mm), ("sharpness", sharpness), ("smoothing", smoothing),
                            ("blur_mm", blur_mm)):  # fmt: skip
            if not value > 0:
                raise ValueError(f"{name} is {value}; expected a positive number")
        for name, value in (("kind_weight", kind_weight), ("threshold", threshold)):
            if value < 0:
                raise ValueError(f"{name} is {value}; expected 0 or more")
        self.chain = tuple(s.code for s in anatomy.along_spine() if s.code not in set(unannotated))
        if len(self.chain) < 2:
            raise ValueError(f"the chain holds the codes {self.chain}; expected two structures or more with an order")
        self.kinds = tuple(anatomy[code].kind for code in self.chain)
        shortest = dict(SHORTEST_MM if shortest_mm is None else shortest_mm)
        lacking = sorted(set(self.kinds) - set(shortest))
        if lacking:
            raise ValueError(f"shortest_mm has no {lacking}; expected a number of mm for each kind of the chain")
        self.num_classes = anatomy.num_classes
        self.height_mm, self.anchored = float(height_mm), anchored
        self.kind_weight, self.threshold, self.sharpness = kind_weight, threshold, sharpness
        self.smoothing, self.blur_mm = smoothing, float(blur_mm)
        self.shortest_mm = tuple(float(shortest[kind]) for kind in self.kinds)
        self._constants: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def __call__(self, probs: Tensor) -> Tensor:
        """Probabilities whose names follow the spine.

        Args:
            probs: (B, C, H, W), 0 or more; class probabilities, or attention maps.

        Returns:
            (B, C, H, W) float32 without gradient. In each pixel the sum over the structures of a kind stays, and
            so is every class that is no part of the chain.

        Raises:
            ValueError: another number of classes than the anatomy has.
        """
        if probs.ndim != 4 or probs.shape[1] != self.num_classes:
            raise ValueError(f"probs is {tuple(probs.shape)}; expected (B, {self.num_classes}, H, W)")
        codes, same_kind = self._on(probs.device)
        with torch.autocast(probs.device.type, enabled=False):
            probs = probs.float()
            named = probs.index_select(1, codes)  # (B, K, H, W), from inferior to superior
            place = along_spine(named.sum(dim=1))  # (B, H, W), rows
            prior = from_rows(self.prior_of_rows(to_rows(named, place), same_kind), place)
            weighed = (named + self.smoothing) * prior
            kind = torch.einsum("ij,bjhw->bihw", same_kind, named)
            share = torch.einsum("ij,bjhw->bihw", same_kind, weighed)
            return probs.index_copy(1, codes, kind * weighed / share.clamp(min=torch.finfo(share.dtype).tiny))

    def prior_of_rows(self, mass: Tensor, same_kind: Tensor) -> Tensor:
        """(B, K, H) in (0, 1]: how far each line belongs to each structure of the chain, blurred along the spine.

        Args:
            mass: (B, K, H), sum over each line of the probability of each structure.
            same_kind: (K, K), 1 where two structures are of one kind.
        """
        rows = mass.shape[2]
        row_mm = self.height_mm / rows
        spine = mass.sum(dim=1, keepdim=True)  # (B, 1, H)
        width = spine.square().sum(2, keepdim=True) / spine.sum(2, keepdim=True).clamp(min=1e-6)
        kind = torch.einsum("ij,bjh->bih", same_kind, mass)
        explained = (mass + self.kind_weight * (2 * kind - spine)) / width.clamp(min=1.0) - self.threshold
        shortest = [max(1, min(rows, round(mm / row_mm))) for mm in self.shortest_mm]
        # Rows run from superior to inferior, the chain from inferior to superior. A line of 5 mm counts once.
        weight = explained.flip(2) * (self.sharpness * row_mm / 5.0)
        marginals = chain_marginals(weight, shortest, self.anchored).flip(2)
        return _blur(marginals, self.blur_mm / row_mm) + 1e-6

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Codes of the chain, and which are of one kind; kept, because copying them would wait for the device."""
        if device not in self._constants:
            with torch.inference_mode(False):
                same = [[float(a == b) for b in self.kinds] for a in self.kinds]
                self._constants[device] = (torch.tensor(self.chain, device=device), torch.tensor(same, device=device))
        return self._constants[device]


def _blur(rows: Tensor, sigma: float) -> Tensor:
    """Gaussian along the last dimension of (B, K, H); beyond the ends is 0."""
    reach = max(1, min(rows.shape[2] - 1, round(3 * sigma)))
    offsets = torch.arange(-reach, reach + 1, device=rows.device, dtype=rows.dtype)
    kernel = torch.exp(-offsets.square() / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    return F.conv1d(rows.flatten(0, 1).unsqueeze(1), kernel.view(1, 1, -1), padding=reach).view_as(rows)
