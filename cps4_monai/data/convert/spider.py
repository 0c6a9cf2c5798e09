"""SPIDER (van der Graaf et al., Scientific Data 2024): `.mha` images and masks with codes of their own."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cps4_monai.data.convert.crop import central_slices, halve_in_plane
from cps4_monai.data.convert.record import Conversion, ConvertedScan, refuse_existing, take_away
from cps4_monai.data.convert.vertebral_bodies import NoCanalError, keep_bodies
from cps4_monai.data.datalist import DatalistError
from cps4_monai.data.nifti_file import write_nifti
from cps4_monai.extras import require

logger = logging.getLogger(__name__)

FILE = re.compile(r"(\d+)_(t1|t2|t2_SPACE)\.mha$", re.IGNORECASE)
SEQUENCES = ("t2", "t2_SPACE", "t1")
CANAL, HIGHEST_VERTEBRA, HIGHEST_DISC = 100, 9, 9


def spider_codes(mask: np.ndarray) -> tuple[np.ndarray, dict[int, int]]:
    """Label map in our codes from a SPIDER mask.

    Vertebra n from L5 up (1, 2, ...; 101, 102, ... where it is not whole) becomes 1 + n, disc n from L5/S up (201,
    202, ...) becomes 10 + n, the canal (100) background. What lies above T9 has no code and becomes background.

    Args:
        mask: whole numbers, any shape.

    Returns:
        uint8 label map of the same shape, and the voxels without a code here: source value -> count.

    Raises:
        ValueError: values that are not whole numbers.
    """
    mask = np.asarray(mask)
    if mask.dtype.kind == "f" and not (np.isfinite(mask).all() and np.all(mask == np.round(mask))):
        raise ValueError(
            "mask values are not whole numbers; expected SPIDER's codes: resample masks with nearest neighbour"
        )
    values, inverse, counts = np.unique(mask, return_inverse=True, return_counts=True)
    codes = np.array([_code(int(v)) for v in values])
    dropped = {int(v): int(n) for v, n, c in zip(values, counts, codes, strict=True) if c < 0}
    return np.maximum(codes, 0).astype(np.uint8)[inverse].reshape(mask.shape), dropped


def _code(value: int) -> int:
    """Our code of a SPIDER value; -1 where there is none."""
    if value in (0, CANAL):
        return 0
    if 1 <= value <= HIGHEST_VERTEBRA or CANAL < value <= CANAL + HIGHEST_VERTEBRA:
        return value % CANAL + 1
    if 2 * CANAL < value <= 2 * CANAL + HIGHEST_DISC:
        return value - 2 * CANAL + HIGHEST_VERTEBRA + 1
    return -1


def convert_spider(
    source: str | Path,
    out: str | Path,
    *,
    sequence: str = "t2",
    bodies_only: bool = False,
    central_mm: float | None = None,
    half: bool = False,
    overwrite: bool = False,
) -> Conversion:
    """Converts a SPIDER tree (``images/1_t2.mha``, ``masks/1_t2.mha``) to ``sub-001_T2w.nii.gz`` and ``_dseg``.

    Args:
        source: folder with ``images`` and ``masks``.
        out: folder for the result; also gets ``conversion.csv``, with the voxels that have no code here.
        sequence: t2, t2_SPACE or t1.
        bodies_only: set the vertebrae's posterior elements to background, see :func:`keep_bodies`.
        central_mm: keep the sagittal slices within this width about the spinal canal, see :func:`central_slices`; 0
            keeps one. None: all.
        half: halve the in-plane resolution, see :func:`halve_in_plane`.
        overwrite: replace files that exist. What a scan had there is gone even if it has no mask any more, or fails.

    Raises:
        DatalistError: no image of that sequence.
        ValueError: an unknown sequence, or a negative width.
        FileExistsError: outputs exist already; or, whatever ``overwrite`` says, scans of the other contrast, whose
            label maps have the same names.
        MissingExtraError: SimpleITK is not installed.
    """
    source, out = Path(source), Path(out)
    if sequence not in SEQUENCES:
        raise ValueError(f"sequence is {sequence!r}; expected one of {list(SEQUENCES)}")
    if central_mm is not None and central_mm < 0:
        raise ValueError(f"central_mm is {central_mm}; expected a width in mm, 0 for a single slice, or None for all")
    images, masks = _by_patient(source / "images", sequence), _by_patient(source / "masks", sequence)
    if not images:
        raise DatalistError(
            f"{source}: no images/<number>_{sequence}.mha found; expected SPIDER's folders images and masks: unpack "
            "images.zip and masks.zip there, or choose another sequence"
        )
    sitk = require("SimpleITK", "reading .mha files")
    digits = max(3, *(len(str(n)) for n in images))
    suffix = "T1w" if sequence == "t1" else "T2w"
    targets = {n: [out / f"sub-{n:0{digits}d}_{s}.nii.gz" for s in (suffix, "dseg")] for n in images}
    refuse_existing([t for pair in targets.values() for t in pair], overwrite)
    _refuse_other_contrast(out, targets, suffix)
    out.mkdir(parents=True, exist_ok=True)
    scans, failed = [], []
    for number, image in sorted(images.items()):
        try:
            take_away(targets[number])
            files = image, masks.get(number), targets[number]
            scans.append(_convert(sitk, f"sub-{number:0{digits}d}", *files, bodies_only, central_mm, half))
        except (RuntimeError, ValueError) as error:
            logger.error("%s: %s", image, error)
            failed.append((image, str(error)))
    failed += [(masks[n], "a mask without its image") for n in sorted(set(masks) - set(images))]
    result = Conversion(tuple(scans), tuple(failed))
    result.write_table(out / "conversion.csv")
    return result


def _refuse_other_contrast(out: Path, targets: Mapping[int, Sequence[Path]], suffix: str) -> None:
    """A folder holds one contrast: SPIDER's masks of T1 and T2 differ, and both are called sub-..._dseg."""
    other = "T2w" if suffix == "T1w" else "T1w"
    theirs = (image.with_name(image.name.replace(f"_{suffix}.", f"_{other}.")) for image, _ in targets.values())
    if there := [path for path in theirs if path.exists()]:
        raise FileExistsError(
            f"{out}: found {len(there)} {other} scans of these patients, e.g. {there[0].name}, whose label maps would "
            f"be replaced by those of {suffix}; expected a folder for each contrast: choose another one with -o"
        )


def _by_patient(folder: Path, sequence: str) -> dict[int, Path]:
    by_number = {}
    for path in sorted(folder.glob("*.mha")):
        match = FILE.match(path.name)
        if match is not None and match[2].lower() == sequence.lower():
            by_number[int(match[1])] = path
    return by_number


def _convert(
    sitk: Any,
    subject: str,
    image: Path,
    mask: Path | None,
    targets: list[Path],
    bodies_only: bool,
    central_mm: float | None,
    half: bool,
) -> ConvertedScan:
    array, affine = _read_mha(sitk, image)
    label: np.ndarray | None = None
    canal: np.ndarray | None = None
    dropped: dict[int, int] = {}
    if mask is not None:
        codes, mask_affine = _read_mha(sitk, mask)
        if codes.shape != array.shape or np.abs(mask_affine - affine).max() > 1e-3:
            raise ValueError(
                f"mask {mask} has {codes.shape} voxels or another position than its image ({array.shape}); expected "
                "one grid: resample the mask (nearest neighbour)"
            )
        label, dropped = spider_codes(codes)
        canal = codes == CANAL
        if bodies_only:
            try:
                label = keep_bodies(label, canal, affine)
            except NoCanalError as error:
                raise ValueError(f"mask {mask}: {error}") from error
        if dropped:
            logger.warning("%s: no code here for %s; set to background", mask, dropped)
    if central_mm is not None:
        kept, affine = central_slices(array.shape, affine, central_mm, canal)
        array, label = array[kept], None if label is None else label[kept]
    if half:
        array, label, affine = halve_in_plane(array, affine, label)
    write_nifti(array, affine, targets[0])
    if label is None:
        return ConvertedScan(subject, image, False)
    write_nifti(label, affine, targets[1])
    classes = tuple(int(c) for c in np.flatnonzero(np.bincount(label.ravel())) if c > 0)
    return ConvertedScan(subject, image, True, classes, dropped)


def _read_mha(sitk: Any, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (X, Y, Z) and the affine to RAS+ mm; ITK's world is LPS."""
    image = sitk.ReadImage(str(path))
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise ValueError(f"{path} has {image.GetDimension()} dimensions; expected a 3-D image with one value per voxel")
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    array = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    if array.dtype == np.int64 or array.dtype == np.uint64:
        array = array.astype(np.int32)
    return np.ascontiguousarray(array), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
