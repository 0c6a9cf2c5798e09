"""Labeled scans as other sequences would show them, to check networks and flags: inverted; discs bright, fat dark."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from cps4_monai.transforms.contrast import inverted, soften

CANAL_MM = (2.0, 18.0)  # behind the bodies, where the spinal canal is
BODY, DISC, FLUID = 0.22, 0.8, 0.9  # as 3-D gradient-echo scans with fat suppression show them
TEXTURE = 0.6  # share of a tissue's texture that is kept

Rendering = Callable[[np.ndarray, np.ndarray, float, tuple[Sequence[int], Sequence[int]]], np.ndarray]


def invert(
    image: np.ndarray, label: np.ndarray, pixel_mm: float, tissues: tuple[Sequence[int], Sequence[int]]
) -> np.ndarray:
    """The scan inverted, air left dark; needs no label."""
    return inverted(torch.from_numpy(image), 0.1).numpy()


def bright_discs(
    image: np.ndarray, label: np.ndarray, pixel_mm: float, tissues: tuple[Sequence[int], Sequence[int]]
) -> np.ndarray:
    """Bright discs and fluid, dark marrow and fat, grey muscle, as fat-suppressed gradient-echo scans have them.

    Discs and bodies get a mean of their own and keep their texture. In the canal fluid becomes bright, whatever it was:
    it is brighter than marrow on T2w scans and darker on T1w. Elsewhere intensities go through a curve that has marrow
    and whatever is brighter dark, and what is half as bright grey.

    Args:
        image: (D, H, W) float32 in [0, 1], H superior to inferior, W anterior to posterior.
        label: (D, H, W) codes.
        pixel_mm: width of a pixel.
        tissues: codes of bodies and of discs.

    Raises:
        ValueError: no body or no disc in the label.
    """
    bodies, discs = (np.isin(label, list(codes)) for codes in tissues)
    if not bodies.any() or not discs.any():
        raise ValueError(f"label has {bodies.sum()} voxels of bodies and {discs.sum()} of discs; expected both")
    marrow, disc = float(np.median(image[bodies])), float(np.median(image[discs]))
    canal = behind(bodies | discs, *(mm / pixel_mm for mm in CANAL_MM))
    fluid = image if np.median(image[canal]) > marrow else 1.0 - image
    surroundings = np.interp(image, [0.0, 0.5 * marrow, marrow, 1.0], [0.0, 0.4, BODY, 0.08]).astype(np.float32)
    shares = soften(np.stack([bodies, discs, canal]).astype(np.float32))
    parts = [BODY + TEXTURE * (image - marrow), DISC + TEXTURE * (image - disc), FLUID * fluid]
    rendered = sum(share * part for share, part in zip(shares, parts, strict=True))
    return np.clip(rendered + (1.0 - shares.sum(axis=0)) * surroundings, 0.0, 1.0).astype(np.float32)


def behind(mask: np.ndarray, first: float, last: float) -> np.ndarray:
    """The strip from ``first`` to ``last`` pixels behind the mask's last column, row by row.

    Args:
        mask: (D, H, W) bool, W anterior to posterior.
        first: pixels left free.
        last: pixels at which it ends.
    """
    width = mask.shape[2]
    end = np.where(mask.any(axis=2), width - 1 - mask[:, :, ::-1].argmax(axis=2), width + last)[..., None]
    distance = np.arange(width) - end
    return (distance > first) & (distance <= last)


RENDERINGS: Mapping[str, Rendering] = {"inverted": invert, "bright discs": bright_discs}
