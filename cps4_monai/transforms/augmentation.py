"""Augmentation of slices, built from MONAI's dictionary transforms, and the two views of an unlabeled slice."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import (
    Compose,
    MapTransform,
    RandAdjustContrastd,
    RandBiasFieldd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandHistogramShiftd,
    Randomizable,
    RandScaleIntensityFixedMeand,
    RandSimulateLowResolutiond,
)
from monai.utils import convert_to_tensor

from cps4_monai.transforms.contrast import RandInvertd, RandTissueContrastd
from cps4_monai.transforms.ranges import check_numbers
from cps4_monai.transforms.slice_geometry import RandSliceGeometryd

VIEWS = ("weak_strong", "same")


class ClipIntensityd(MapTransform):
    """Clips to the range of normalised images, [0, 1], and gives plain tensors.

    >>> ClipIntensityd("image")({"image": torch.tensor([-0.2, 0.4, 1.3])})["image"].tolist()
    [0.0, 0.4000000059604645, 1.0]

    Args:
        keys: items to clip; missing ones are passed over.
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys, allow_missing_keys=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = convert_to_tensor(d[key], dtype=torch.float32, track_meta=False).clamp(0.0, 1.0)
        return d


def intensity_augmentation(
    keys: KeysCollection = "image",
    *,
    gamma: tuple[float, float] = (0.6, 1.6),
    contrast_prob: float = 0.5,
    scale: float = 0.2,
    scale_prob: float = 0.3,
    bias_coefficients: tuple[float, float] = (-0.2, 0.2),
    bias_degree: int = 3,
    bias_prob: float = 0.3,
    noise_std: float = 0.05,
    noise_prob: float = 0.5,
    low_resolution_zoom: tuple[float, float] = (0.5, 1.0),
    low_resolution_prob: float = 0.0,
    tissues: Sequence[Sequence[int]] = (),
    tissue_prob: float = 0.0,
    tissue_gain: tuple[float, float] = (0.3, 1.2),
    tissue_mix: tuple[float, float] = (0.4, 1.0),
    curve_points: tuple[int, int] = (3, 6),
    curve_prob: float = 0.0,
    invert_prob: float = 0.0,
    blur_sigma: tuple[float, float] = (0.25, 1.0),
    blur_prob: float = 0.0,
) -> Compose:
    """Gamma, contrast about the mean, bias field, low resolution and noise; clipped to [0, 1] at the end.

    What makes other contrasts is off unless asked for: a contrast drawn by tissue (labeled slices only), a monotone
    curve of intensities, inverted intensities; they come first. Blur comes before low resolution.

    Args:
        keys: items of (1, H, W); missing ones are passed over.
        gamma: range of the exponent.
        contrast_prob: share of slices with another gamma.
        scale: relative change of contrast about the mean is drawn from plus or minus this, 0 to 1; or between two
            numbers of -1 or more.
        scale_prob: share of slices with another contrast.
        bias_coefficients: range of the coefficients of the polynomial bias field.
        bias_degree: degree of that polynomial.
        bias_prob: share of slices with a bias field.
        noise_std: standard deviation of Gaussian noise is drawn from 0 to this, on the scale of [0, 1].
        noise_prob: share of slices with noise.
        low_resolution_zoom: range of the factor by which the slice is shrunk, and enlarged again.
        low_resolution_prob: share of slices with low resolution.
        tissues: codes of each tissue, see :class:`RandTissueContrastd`.
        tissue_prob: share of labeled slices whose tissues get new intensities.
        tissue_gain: range of the factor on a tissue's texture, in size; its sign is drawn.
        tissue_mix: range of the weight of the new contrast against the slice as it is.
        curve_points: range of the number of points of a monotone, piecewise linear curve; few bend it far.
        curve_prob: share of slices whose intensities go through such a curve.
        invert_prob: share of slices that are inverted, air left dark.
        blur_sigma: range of the standard deviation of a Gaussian blur, in pixels, drawn for each axis.
        blur_prob: share of slices that are blurred.

    Raises:
        ValueError: ``tissue_prob`` without usable tissues; a probability outside 0 to 1; a number that means nothing,
            as a gamma or a zoom of 0, negative noise or blur. What has a probability of 0 is checked, too.
    """
    for name, prob in {
        "contrast_prob": contrast_prob,
        "scale_prob": scale_prob,
        "bias_prob": bias_prob,
        "noise_prob": noise_prob,
        "low_resolution_prob": low_resolution_prob,
        "tissue_prob": tissue_prob,
        "curve_prob": curve_prob,
        "invert_prob": invert_prob,
        "blur_prob": blur_prob,
    }.items():
        check_numbers(f"intensity's {name}", prob, 0, 1, count=1)
    if isinstance(gamma, list | tuple):
        check_numbers("intensity's gamma", gamma, 0, above=True)
    else:  # the upper end of MONAI's range, which begins at 0.5
        check_numbers("intensity's gamma", gamma, 0.5, count=1, above=True)
    if isinstance(scale, list | tuple):
        check_numbers("intensity's scale", scale, -1)
    else:
        check_numbers("intensity's scale", scale, 0, 1, count=1)
    check_numbers("intensity's bias_coefficients", bias_coefficients)
    check_numbers("intensity's bias_degree", bias_degree, 1, count=1, whole=True)
    check_numbers("intensity's noise_std", noise_std, 0, count=1)
    check_numbers("intensity's low_resolution_zoom", low_resolution_zoom, 0, above=True)
    check_numbers("intensity's tissue_gain", tissue_gain, 0)
    check_numbers("intensity's tissue_mix", tissue_mix, 0, 1)
    check_numbers("intensity's curve_points", curve_points, 3, count=(1, 2), whole=True)
    check_numbers("intensity's blur_sigma", blur_sigma, 0)
    sigma, area = tuple(blur_sigma), {"downsample_mode": "area", "upsample_mode": "bilinear"}
    passing = {"allow_missing_keys": True}  # of MONAI's; ours always pass over what is missing
    parts: list[tuple[float, Callable[..., Any], dict[str, Any]]] = [  # share of slices, transform, its own arguments
        (tissue_prob, RandTissueContrastd, {"tissues": tissues, "gain": tissue_gain, "mix": tissue_mix}),
        (curve_prob, RandHistogramShiftd, {"num_control_points": curve_points, **passing}),
        (invert_prob, RandInvertd, {}),
        (contrast_prob, RandAdjustContrastd, {"gamma": gamma, **passing}),
        (scale_prob, RandScaleIntensityFixedMeand, {"factors": scale, "preserve_range": True, **passing}),
        (bias_prob, RandBiasFieldd, {"degree": bias_degree, "coeff_range": bias_coefficients, **passing}),
        (blur_prob, RandGaussianSmoothd, {"sigma_x": sigma, "sigma_y": sigma, **passing}),
        (low_resolution_prob, RandSimulateLowResolutiond, {"zoom_range": low_resolution_zoom, **area, **passing}),
        (noise_prob, RandGaussianNoised, {"std": noise_std, **passing}),
    ]
    drawn = [part(keys, prob=prob, **own) for prob, part, own in parts if prob > 0]
    return Compose([*drawn, ClipIntensityd(keys)])


def check_views(views: str) -> None:
    """Refuses names of views that there are none of.

    Raises:
        ValueError: names it, and those that there are.
    """
    if views not in VIEWS:
        raise ValueError(f"views is {views!r}; expected one of {VIEWS}")


class StrongViewd(Randomizable, MapTransform):
    """Adds the student's views of a slice: the same geometry, other intensities (paper page, row 16).

    The first strong view goes to ``strong_key``, further ones to ``strong_key`` with ``_2``, ``_3`` and so on. Each is
    drawn from a stream of its own, after those before it: how many there are does not change the first ones.

    >>> item = StrongViewd(strong_views=2)({"image": torch.rand(1, 64, 32)})
    >>> sorted(item)
    ['image', 'image_strong', 'image_strong_2']

    Args:
        keys: the view of teacher and vision-language model.
        strong_key: where the student's view goes.
        views: "weak_strong" applies ``transform`` to the student's views; "same" gives all networks one view.
        transform: what changes the intensities of ``strong_key``; None takes :func:`intensity_augmentation`.
        strong_views: how many strong views are made.

    Raises:
        ValueError: unknown views, several keys, or fewer than one strong view.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        strong_key: str = "image_strong",
        views: str = "weak_strong",
        transform: Callable[[Any], Any] | None = None,
        strong_views: int = 1,
    ) -> None:
        MapTransform.__init__(self, keys)
        check_views(views)
        if len(self.keys) != 1:
            raise ValueError(f"keys are {self.keys}; expected one key, that of the weak view")
        if strong_views < 1:
            raise ValueError(f"strong_views is {strong_views}; expected 1 or more")
        self.strong_key, self.views = strong_key, views
        self.transform = intensity_augmentation(strong_key) if transform is None else transform
        self.further = [copy.deepcopy(self.transform) for _ in range(strong_views - 1)]

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> StrongViewd:
        super().set_random_state(seed, state)
        for transform in (self.transform, *self.further):
            if isinstance(transform, Randomizable):
                transform.set_random_state(seed=int(self.R.randint(2**32, dtype=np.uint64)))
        return self

    def randomize(self, data: Any = None) -> None:
        """All randomness is that of ``transform``."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        weak = d[self.keys[0]]
        further = {f"{self.strong_key}_{number}": transform for number, transform in enumerate(self.further, start=2)}
        if self.views == "same":
            return {**d, self.strong_key: weak, **dict.fromkeys(further, weak)}
        strong = dict(self.transform({**d, self.strong_key: weak.clone()}))
        for key, transform in further.items():
            strong[key] = transform({**d, self.strong_key: weak.clone()})[self.strong_key]
        return strong


def labeled_augmentation(
    geometry: Mapping[str, Any] | None = None, intensity: Mapping[str, Any] | None = None, strong_views: int = 0
) -> Compose:
    """Geometry of image and label, then intensities of the image.

    Args:
        geometry: arguments of :class:`RandSliceGeometryd`.
        intensity: arguments of :func:`intensity_augmentation`.
        strong_views: further views of the slice, ``image_strong``, ``image_strong_2``, ...: of the same geometry, with
            intensities drawn by themselves; for methods that compare two views of a labeled slice.

    Raises:
        ValueError: a setting out of its range.
    """
    settings = dict(intensity or {})
    further: Sequence[Callable[[Any], Any]] = ()
    if strong_views > 0:
        strong = intensity_augmentation("image_strong", **settings)
        further = [StrongViewd("image", transform=strong, strong_views=strong_views)]
    return Compose(
        [
            RandSliceGeometryd(("image", "label"), **dict(geometry or {})),
            *further,
            *intensity_augmentation("image", **settings).transforms,
        ]
    )


def unlabeled_augmentation(
    views: str = "weak_strong",
    geometry: Mapping[str, Any] | None = None,
    intensity: Mapping[str, Any] | None = None,
    strong_views: int = 1,
) -> Compose:
    """The views of an unlabeled slice: ``image``, ``image_strong`` and, where asked for, ``image_strong_2``, ...

    Args:
        views: "weak_strong": geometry for both, intensities for the student's; "same": geometry and intensities for
            both.
        geometry: arguments of :class:`RandSliceGeometryd`.
        intensity: arguments of :func:`intensity_augmentation`.
        strong_views: how many strong views are made, 1 or more.

    Raises:
        ValueError: unknown views, fewer than one strong view, or a setting out of its range.
    """
    settings = dict(intensity or {})
    shared: Sequence[Callable[[Any], Any]] = (
        intensity_augmentation("image", **settings).transforms if views == "same" else ()
    )
    strong = intensity_augmentation("image_strong", **settings)
    return Compose(
        [
            RandSliceGeometryd("image", **dict(geometry or {})),
            *shared,
            StrongViewd("image", views=views, transform=strong, strong_views=strong_views),
        ]
    )
