"""Label maps of `lumbar_t1` with 255 where its source labeled nothing: above L1 and below S1.

The set labels S1 to L1; T12 and what is above, S2 and what is below are in view and of class 0. Mixed with data that
label them, these pixels must be left out. A pixel becomes 255 where it is of class 0 and beyond the upper edge of L1 or
beyond the lower edge of S1. An edge is a straight line over the whole width of the picture: its slope is that of the
body's end plate (a least-squares line through the middle three fifths, at most 20 degrees away from the end plate that
faces the labeled disc), its place such that the body's last pixel lies on it; what a hollow end plate leaves between
line and body is marked, too.

    python benchmarks/mark_unannotated.py lumbar_t1/slices lumbar_ignore --images lumbar_t1/slices

writes `<scan>_dseg.nii.gz` of every label map and, of all of them, contact sheets `sheet-N.png`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import binary_dilation

from cps4_monai.anatomy import MRSPINESEG, NOT_ANNOTATED
from cps4_monai.data.volume import Volume, read_volume, write_label_volume
from cps4_monai.palette import structure_colours
from cps4_monai.report.overlay import blend_labels
from cps4_monai.report.slab import grey_window, in_window

MIDDLE = 0.6  # share of an end plate's width that its line is fitted to
STEEPEST = np.tan(np.deg2rad(20))  # between both end plates of a body
SHEET = 10  # pictures along each side


def beyond(codes: np.ndarray, body: int, disc: int) -> np.ndarray:
    """Pixels beyond the end plate of ``body`` that faces away from ``disc``.

    Args:
        codes: (W, H) of one slice, any orientation.
        body: code of the last labeled body.
        disc: code of the labeled disc at its other end plate.

    Returns:
        (W, H) bool.

    Raises:
        ValueError: body and disc are not beside each other.
    """
    pixels = np.argwhere(codes == body)
    facing = end_plate(codes == body, codes == disc)
    outward = normal_of(facing)
    outward *= np.sign((pixels.mean(axis=0) - facing.mean(axis=0)) @ outward)
    centre, along = pixels.mean(axis=0), np.array([-outward[1], outward[0]])
    side, out = (pixels - centre) @ along, (pixels - centre) @ outward
    column = np.floor(side - side.min() + 0.5).astype(int)
    edge = np.full(column.max() + 1, -np.inf)
    np.maximum.at(edge, column, out)
    at = np.arange(len(edge)) + side.min()
    edge = np.interp(at, at[np.isfinite(edge)], edge[np.isfinite(edge)])
    middle = np.abs(at - at.mean()) <= MIDDLE * len(at) / 2
    slope = float(np.clip(np.polyfit(at[middle], edge[middle], 1)[0], -STEEPEST, STEEPEST))
    every = np.indices(codes.shape).reshape(2, -1).T - centre
    side_of, out_of = every @ along, every @ outward
    column = np.floor(side_of - side.min() + 0.5).astype(int)
    hollow = (column >= 0) & (column < len(edge))
    hollow[hollow] = middle[column[hollow]] & (out_of[hollow] > edge[column[hollow]] + 0.5)
    line = slope * side_of + (out - slope * side).max() + 1e-6  # the last pixel lies on it, however it is rounded
    return ((out_of > line) | hollow).reshape(codes.shape)


def end_plate(body: np.ndarray, disc: np.ndarray) -> np.ndarray:
    """Pixels (N, 2) of a body's end plate that faces a disc: those nearest to it, over at least half of its width.

    Raises:
        ValueError: body and disc are not beside each other.
    """
    for reach in range(1, 16):
        facing = np.argwhere(body & binary_dilation(disc, iterations=reach))
        if len(facing) > np.sqrt(body.sum()) / 2:
            return facing
    raise ValueError("no labeled disc beside the last body; expected S1 to L1 with discs in every label map")


def normal_of(pixels: np.ndarray) -> np.ndarray:
    """Unit normal of the line through pixels (N, 2), by total least squares."""
    return np.linalg.svd(pixels - pixels.mean(axis=0), full_matrices=False)[2][1]


def marked(label: Volume) -> np.ndarray:
    """The label map (1, W, H) with 255 above L1 and below S1."""
    codes = label.array[0]
    code = MRSPINESEG.code_of
    outside = beyond(codes, code("L1"), code("L1/L2")) | beyond(codes, code("S"), code("L5/S"))
    return np.where((codes == 0) & outside, NOT_ANNOTATED, codes).astype(np.uint8)[None]


def tile(image: np.ndarray, codes: np.ndarray, side: int = 200) -> Image.Image:
    """A slice (H, W) with its label map, ``side`` pixels high and wide."""
    grey = in_window(image, grey_window(image))
    return Image.fromarray(blend_labels(grey, codes, structure_colours(MRSPINESEG))).resize((side, side))


def write_sheets(tiles: list[Image.Image], folder: Path) -> None:
    """``sheet-1.png`` and on, with 100 pictures each."""
    side = tiles[0].width
    for start in range(0, len(tiles), SHEET**2):
        sheet = Image.new("RGB", (SHEET * side, SHEET * side))
        for place, picture in enumerate(tiles[start : start + SHEET**2]):
            sheet.paste(picture, (place % SHEET * side, place // SHEET * side))
        sheet.save(folder / f"sheet-{start // SHEET**2 + 1}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", type=Path, help="folder of *_dseg.nii.gz")
    parser.add_argument("output", type=Path, help="folder for the marked copies and the contact sheets")
    parser.add_argument("--images", type=Path, help="folder of the *_T1w.nii.gz, for the sheets; default: no sheets")
    options = parser.parse_args()
    tiles, shares = [], []
    for path in sorted(options.labels.glob("*_dseg.nii.gz")):
        label = read_volume(path, is_label=True, num_classes=MRSPINESEG.num_classes)
        codes = marked(label)
        write_label_volume(options.output / path.name, codes, label)
        shares.append((codes == NOT_ANNOTATED).mean())
        if options.images is not None:
            scan = read_volume(options.images / path.name.replace("_dseg", "_T1w"))
            tiles.append(tile(scan.array[0].T, codes[0].T))
    print(
        f"{len(shares)} label maps; not annotated: {min(shares):.0%} to {max(shares):.0%}, mean {np.mean(shares):.0%}"
    )
    if tiles:
        write_sheets(tiles, options.output)


if __name__ == "__main__":
    main()
