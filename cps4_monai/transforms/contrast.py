"""Other contrasts for a slice: inverted intensities, and tissues that get intensities of their own from the labels."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_tensor

from cps4_monai.anatomy import NOT_ANNOTATED
from cps4_monai.transforms.ranges import check_numbers

CODES = NOT_ANNOTATED + 1  # label maps are uint8; what nobody annotated counts as background
AIR = 0.1  # normalised intensity up to which a pixel may be air, which is dark by any sequence
STRIDE = 5  # quantiles are those of every fifth pixel


def inverted(image: torch.Tensor, air: float) -> torch.Tensor:
    """1 - image, with air left dark: below ``air`` the result falls to 0 in proportion.

    Args:
        image: any shape, in [0, 1].
        air: intensity up to which a pixel counts as air, in [0, 1]; at 0 only pixels that are exactly 0 stay dark.
    """
    dark = (image / air).clamp(max=1.0) if air > 0 else (image > 0).to(image.dtype)
    return (1.0 - image) * dark


class RandInvertd(RandomizableTransform, MapTransform):
    """Inverts intensities; air stays dark, up to a level drawn from 0 to ``air``.

    Args:
        keys: items in [0, 1]; missing ones are passed over.
        prob: share of slices that are inverted.
        air: see :func:`inverted`.

    Raises:
        ValueError: a number outside [0, 1].
    """

    def __init__(self, keys: KeysCollection, prob: float, air: float = AIR) -> None:
        check_numbers("prob", prob, 0, 1, count=1)
        check_numbers("air", air, 0, 1, count=1)
        RandomizableTransform.__init__(self, prob)
        MapTransform.__init__(self, keys, allow_missing_keys=True)
        self.air = air

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        self.randomize(None)
        air = float(self.R.uniform(0.0, self.air))
        if self._do_transform:
            for key in self.key_iterator(d):
                d[key] = inverted(convert_to_tensor(d[key], track_meta=False), air)
        return d


class RandTissueContrastd(RandomizableTransform, MapTransform):
    """Draws a contrast: each tissue gets a new mean and keeps its texture; the rest gets a curve of intensities.

    As in SynthSeg (Billot et al., 2023) intensities are drawn by label, so that no contrast is taken for granted;
    unlike there, the slice itself gives the texture, and is mixed in. With I the slice, m_t the median of tissue t, and
    m'_t and g_t drawn, a pixel of t becomes m'_t + g_t (I - m_t). Elsewhere it becomes f(I), f piecewise linear and not
    monotone: its knots are 0 and quantiles of the background, its values 0 and drawn ones, so that what had one
    intensity (fat, fluid, muscle) has one again. A tissue's own (m_t, m'_t) is among the knots with probability
    ``coherence``: what is of that tissue and not labeled (the sacrum, arches, levels beyond those annotated) then looks
    like it.

    Slices without label, or without any tissue in view, are left as they are, and draw the same random numbers.

    Args:
        keys: images (1, H, W) in [0, 1]; missing ones are passed over.
        tissues: codes of each tissue, e.g. all vertebrae and all discs; one without codes is passed over, as of an
            anatomy without discs. Other codes are background.
        prob: share of slices that get another contrast.
        gain: range of the size of g_t; its sign is drawn, too: half of the textures are inverted.
        mix: range of the weight of the new contrast against the slice as it is.
        coherence: see above.
        min_difference: between the new means of the first two tissues, in [0, 0.5].
        knots: of f, besides those of 0 and of tissues.
        jitter: standard deviation of single structures' means about their tissue's.
        label_key: (1, H, W) uint8 codes.

    Raises:
        ValueError: no tissue, a code that is no foreground code or in two tissues, a difference that cannot be, or a
            number that means nothing.
    """

    def __init__(
        self,
        keys: KeysCollection,
        tissues: Sequence[Sequence[int]],
        prob: float,
        gain: tuple[float, float] = (0.3, 1.2),
        mix: tuple[float, float] = (0.4, 1.0),
        coherence: float = 0.7,
        min_difference: float = 0.15,
        knots: int = 5,
        jitter: float = 0.03,
        label_key: str = "label",
    ) -> None:
        check_numbers("prob", prob, 0, 1, count=1)
        check_numbers("gain", gain, 0)
        check_numbers("mix", mix, 0, 1)
        check_numbers("coherence", coherence, 0, 1, count=1)
        check_numbers("knots", knots, 1, count=1, whole=True)
        check_numbers("jitter", jitter, 0, count=1)
        RandomizableTransform.__init__(self, prob)
        MapTransform.__init__(self, keys, allow_missing_keys=True)
        present = [tissue for tissue in tissues if tissue] or tissues
        self.tissue_of = tissue_table(present)
        if not 0 <= min_difference <= 0.5:
            raise ValueError(f"min_difference is {min_difference}; expected 0 to 0.5. Fix: half the range or less")
        self.gain, self.mix, self.knots, self.jitter = gain, mix, knots, jitter
        self.coherence, self.min_difference = coherence, min_difference
        self.label_key, self.num_tissues = label_key, len(present)

    def randomize(self, data: Any = None) -> None:
        super().randomize(None)
        n = self.num_tissues
        self._means = apart(self.R.uniform(0.05, 0.95, n), self.min_difference)
        self._gains = self.R.uniform(*self.gain, n) * self.R.choice([-1.0, 1.0], n)
        self._shifts = self.R.normal(0.0, self.jitter, CODES)
        self._values = self.R.uniform(0.0, 1.0, self.knots)
        self._weight, self._coherent = self.R.uniform(*self.mix), self.R.uniform(size=n) < self.coherence

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        self.randomize()
        if not self._do_transform or self.label_key not in d:
            return d
        label = convert_to_tensor(d[self.label_key], track_meta=False).numpy()
        tissue = self.tissue_of[label]
        if (tissue >= 0).any():
            for key in self.key_iterator(d):
                image = convert_to_tensor(d[key], dtype=torch.float32, track_meta=False).numpy()
                d[key] = torch.from_numpy(self._render(image, label, tissue))
        return d

    def _render(self, image: np.ndarray, label: np.ndarray, tissue: np.ndarray) -> np.ndarray:
        """The drawn contrast of one slice; all are (1, H, W)."""
        medians = [_median(image[tissue == t]) for t in range(self.num_tissues)]
        new = np.interp(image, *self._curve(image[tissue < 0][::STRIDE], medians)).astype(np.float32)
        box = _box(tissue >= 0)
        share, gain, offset = soften(self._tables(medians)[:, label[box]])
        new[box] = gain * image[box] + offset + (1.0 - share) * new[box]
        return np.clip(image + np.float32(self._weight) * (new - image), 0.0, 1.0)

    def _tables(self, medians: Sequence[float | None]) -> np.ndarray:
        """(3, 256) by code: 1 for tissue, its gain, and m' - g m; 0 for the background."""
        table = np.zeros((3, CODES), dtype=np.float32)
        for t, median in enumerate(medians):
            if median is not None:
                codes = np.flatnonzero(self.tissue_of == t)
                table[0, codes], table[1, codes] = 1.0, self._gains[t]
                table[2, codes] = self._means[t] + self._shifts[codes] - self._gains[t] * median
        return table

    def _curve(self, background: np.ndarray, medians: Sequence[float | None]) -> tuple[np.ndarray, np.ndarray]:
        """Knots of f and its values there, in the order of the knots."""
        bright = background[background > AIR]
        at = np.quantile(bright, np.linspace(0.1, 0.95, self.knots)) if len(bright) else np.linspace(AIR, 1, self.knots)
        own = [t for t, median in enumerate(medians) if median is not None and self._coherent[t]]
        x = np.array([0.0, *at, *(medians[t] for t in own)])
        y = np.array([0.0, *self._values, *self._means[own]])
        order = np.argsort(x, kind="stable")
        return x[order], y[order]


def soften(tables: np.ndarray) -> np.ndarray:
    """Averages (..., H, W) with weights 1, 2, 1 along both axes: label maps have no partial volume, slices do."""
    padded = np.pad(tables, [(0, 0)] * (tables.ndim - 2) + [(1, 1), (1, 1)], mode="edge")
    rows = padded[..., :-2, :] + padded[..., 2:, :] + 2 * padded[..., 1:-1, :]
    return (rows[..., :-2] + rows[..., 2:] + 2 * rows[..., 1:-1]) * np.float32(1 / 16)


def tissue_table(tissues: Sequence[Sequence[int]]) -> np.ndarray:
    """(256,) index of the tissue of each code, -1 for none.

    Raises:
        ValueError: no tissue, or a code that is no foreground code or in two tissues.
    """
    codes = [code for tissue in tissues for code in tissue]
    if not tissues or not all(tissues) or len(set(codes)) < len(codes) or not all(0 < c < CODES - 1 for c in codes):
        raise ValueError(
            f"tissues are {[list(t) for t in tissues]}; expected one list of codes (1 to {CODES - 2}) for each tissue, "
            "no code twice. Fix: any_contrast.json takes the anatomy's structures of kind vertebra and sacrum, and "
            "those of kind disc; where it has none of these kinds, set intensity#tissue_prob to 0"
        )
    table = np.full(CODES, -1, dtype=np.int8)
    for index, tissue in enumerate(tissues):
        table[list(tissue)] = index
    return table


def apart(means: np.ndarray, difference: float) -> np.ndarray:
    """Means in [0, 1] with the second one moved, if need be, to at least that distance from the first one.

    It moves away from the first one, or to the other side where there is no room.
    """
    if len(means) < 2 or abs(means[1] - means[0]) >= difference:
        return means
    away = np.sign(means[1] - means[0]) or 1.0
    if not 0 <= means[0] + away * difference <= 1:
        away = -away
    return _with(means, 1, means[0] + away * difference)


def _box(where: np.ndarray) -> tuple[slice, ...]:
    """What holds all that is true in (1, H, W), and a pixel more at each side."""
    rows, columns = (np.flatnonzero(where.any(axis=(0, other))) for other in (2, 1))
    return (slice(None), *(slice(max(0, at[0] - 1), at[-1] + 2) for at in (rows, columns)))


def _with(values: np.ndarray, index: int, value: float) -> np.ndarray:
    changed = values.copy()
    changed[index] = value
    return changed


def _median(values: np.ndarray) -> float | None:
    return float(np.median(values)) if values.size else None
