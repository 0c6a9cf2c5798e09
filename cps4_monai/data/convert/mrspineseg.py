"""MRSpineSeg (Pang et al.): `Case1.nii.gz` with `mask_case1.nii.gz`; its codes are ours."""

from __future__ import annotations

import functools
import logging
import re
import shutil
from pathlib import Path

import numpy as np

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.atomic_file import write_atomically
from cps4_monai.data.convert.record import Conversion, ConvertedScan, refuse_existing, take_away
from cps4_monai.data.datalist import DatalistError
from cps4_monai.data.volume import InvalidVolumeError, check_pair, read_volume
from cps4_monai.scan_names import find_nifti

logger = logging.getLogger(__name__)

IMAGE = re.compile(r"case_?(\d+)\.nii(\.gz)?$", re.IGNORECASE)
ENDINGS = (".nii", ".nii.gz")
MASK = re.compile(r"mask_case_?(\d+)\.nii(\.gz)?$", re.IGNORECASE)


def convert_mrspineseg(source: str | Path, out: str | Path, overwrite: bool = False) -> Conversion:
    """Copies the scans of a MRSpineSeg tree to ``sub-<number>_T2w.nii[.gz]`` and ``_dseg``.

    Images and masks may lie in one folder or in several (``train/MR``, ``train/Mask``, ``test``). Files are copied
    as they are once they have been checked; scans without a mask are copied too, for use as unlabeled ones.

    Args:
        source: folder of the download.
        out: folder for the result; also gets ``conversion.csv``.
        overwrite: replace files that exist. What a scan had there is gone even if it has no mask any more, or fails.

    Raises:
        DatalistError: no folder, no image, or two files of one case.
        FileExistsError: outputs exist already.
    """
    source, out = Path(source), Path(out)
    images, masks = _by_case(source, IMAGE), _by_case(source, MASK)
    if not images:
        raise DatalistError(f"{source}: no file Case<number>.nii.gz found; expected MRSpineSeg's images and masks")
    digits = max(3, *(len(str(n)) for n in images))
    targets = {
        n: (_target(out, n, digits, "T2w", images[n]), _target(out, n, digits, "dseg", masks.get(n))) for n in images
    }
    places = {n: [out / f"sub-{n:0{digits}d}_{s}{end}" for s in ("T2w", "dseg") for end in ENDINGS] for n in images}
    refuse_existing([place for own in places.values() for place in own], overwrite)
    out.mkdir(parents=True, exist_ok=True)
    scans, failed = [], []
    for number, image in sorted(images.items()):
        to_image, to_mask = targets[number]
        take_away(places[number])
        try:
            scans.append(_copy_checked(f"sub-{number:0{digits}d}", image, masks.get(number), to_image, to_mask))
        except InvalidVolumeError as error:
            logger.error("%s", error)
            failed.append((image, str(error)))
    for number in sorted(set(masks) - set(images)):
        failed.append((masks[number], "a mask without its image"))
    result = Conversion(tuple(scans), tuple(failed))
    result.write_table(out / "conversion.csv")
    return result


def _by_case(source: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    by_case: dict[int, Path] = {}
    for path in find_nifti(source) if source.is_dir() else []:
        match = pattern.match(path.name)
        if match is None:
            continue
        number = int(match[1])
        if number in by_case:
            raise DatalistError(f"{path}: a second file of case {number}, after {by_case[number]}; expected one each")
        by_case[number] = path
    return by_case


def _target(out: Path, number: int, digits: int, suffix: str, source: Path | None) -> Path | None:
    if source is None:
        return None
    return out / f"sub-{number:0{digits}d}_{suffix}{ENDINGS[source.name.lower().endswith('.gz')]}"


def _copy_checked(
    subject: str, image: Path, mask: Path | None, to_image: Path | None, to_mask: Path | None
) -> ConvertedScan:
    volume = read_volume(image)
    classes: tuple[int, ...] = ()
    if mask is not None:
        label = read_volume(mask, is_label=True, num_classes=MRSPINESEG.num_classes)
        check_pair(volume, label)
        classes = tuple(int(c) for c in np.flatnonzero(np.bincount(label.array.ravel())) if c > 0)
    for origin, target in ((image, to_image), (mask, to_mask)):
        if origin is not None and target is not None:
            write_atomically(target, functools.partial(shutil.copyfile, origin))
    return ConvertedScan(subject, image, mask is not None, classes)
