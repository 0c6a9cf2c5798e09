"""One colour per structure, derived from the anatomy table, the same in every picture, chart and label table."""

from __future__ import annotations

import numpy as np

from cps4_monai.anatomy import Anatomy

# Hue steps of 100 degrees keep neighbours along the spine far apart (an error by one level is seen at once) and meet
# again only after 18 structures; discs are pale, vertebrae saturated, so that the kind shows too.
HUE_STEP = 100.0
FIRST_HUE = 250.0
VERTEBRA = (0.70, 0.145)
DISC = (0.90, 0.085)
SACRUM = (0.66, 0.045, 70.0)


def oklch_to_rgb(lightness: float, chroma: float, hue_degrees: float) -> np.ndarray:
    """OKLCH (lightness 0 to 1, chroma, hue in degrees) to sRGB (3,), uint8, clipped to the gamut (Ottosson 2020)."""
    hue = np.deg2rad(hue_degrees)
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    lms = np.array(
        [
            lightness + 0.3963377774 * a + 0.2158037573 * b,
            lightness - 0.1055613458 * a - 0.0638541728 * b,
            lightness - 0.0894841775 * a - 1.2914855480 * b,
        ]
    )
    to_linear = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip(to_linear @ lms**3, 0, 1)
    srgb: np.ndarray = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    colours: np.ndarray = np.round(srgb * 255).astype(np.uint8)
    return colours


def structure_colours(anatomy: Anatomy) -> np.ndarray:
    """Colours by code, (C, 3) uint8 sRGB; the background is black.

    Vertebrae walk round the hue circle in large steps from the most inferior one up, discs have a pale tone of the
    hue between their neighbours', a sacrum is sand-coloured, and other structures go on with the vertebrae's steps.
    """
    colours = np.zeros((anatomy.num_classes, 3), dtype=np.uint8)
    along = anatomy.along_spine()
    rest = [s for s in anatomy.foreground if s.order is None]
    solid = discs = 0
    for structure in (*along, *rest):
        if structure.kind == "sacrum":
            colours[structure.code] = oklch_to_rgb(*SACRUM)
        elif structure.kind == "disc":
            colours[structure.code] = oklch_to_rgb(*DISC, FIRST_HUE + HUE_STEP * (discs - 0.5))
            discs += 1
        elif structure.kind != "background":
            colours[structure.code] = oklch_to_rgb(*VERTEBRA, FIRST_HUE + HUE_STEP * solid)
            solid += 1
    return colours


def hex_colours(anatomy: Anatomy) -> list[str]:
    """Colours by code as "#rrggbb"."""
    return ["#" + bytes(colour).hex() for colour in structure_colours(anatomy)]
