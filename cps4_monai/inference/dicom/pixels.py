"""Pixels of a stack: each file read once, hashed, decoded, and scaled by its own slope and intercept."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cps4_monai.extras import missing
from cps4_monai.inference.dicom.headers import pydicom_module
from cps4_monai.inference.dicom.images import DicomImage
from cps4_monai.inference.dicom.series import unreadable_files

logger = logging.getLogger(__name__)


class StackPixels(NamedTuple):
    """What the files of a stack hold.

    Attributes:
        voxels: (slice, column, row).
        content_key: SHA-256 over the bytes of the files in the slices' order.
        warnings: what was made of the pixels.
    """

    voxels: np.ndarray
    content_key: str
    warnings: tuple[str, ...]


def read_pixels(images: Sequence[DicomImage], folder: Path) -> StackPixels:
    """Voxels of a stack.

    Stored values are scaled by each image's RescaleSlope and RescaleIntercept; where low values are bright
    (MONOCHROME1) the volume is turned round. Padding around the picture becomes the darkest value of the picture.

    Args:
        images: of one shape, in order.
        folder: that holds them, for messages.

    Raises:
        InvalidVolumeError: files that are cut off or cannot be decoded; the message names each.
    """
    scaled = any(image.slope != 1.0 or image.intercept != 0.0 for image in images) or images[0].inverted
    stored = np.result_type(*{image.dtype for image in images})
    kind = np.result_type(stored, np.float32) if scaled else stored
    rows, columns = images[0].shape
    volume = np.empty((len(images), rows, columns), dtype=kind)
    places: dict[Path, list[int]] = {}
    for index, image in enumerate(images):
        places.setdefault(image.file, []).append(index)
    padded = np.zeros(volume.shape, dtype=bool) if any(image.padding for image in images) else None
    digest = hashlib.sha256()
    damaged = []
    for file, indices in places.items():
        try:
            content = file.read_bytes()
            digest.update(content)
            frames = _decode(content, (rows, columns))
        except Exception as error:  # damaged data make decoders fail in any way
            logger.debug("%s cannot be decoded", file, exc_info=error)
            damaged.append((file, _reason(error)))
            continue
        for index in indices:
            image = images[index]
            frame = frames[image.frame]
            if padded is not None and image.padding is not None:
                padded[index] = (frame >= image.padding[0]) & (frame <= image.padding[1])
            volume[index] = frame * kind.type(image.slope) + kind.type(image.intercept) if scaled else frame
    if damaged:
        raise unreadable_files(folder, damaged)
    warnings = () if padded is None else _darken_padding(volume, padded, images[0].inverted)
    if images[0].inverted:
        volume = volume.max() - volume + volume.min()
    return StackPixels(volume.transpose(0, 2, 1), digest.hexdigest(), warnings)


def _darken_padding(volume: np.ndarray, padded: np.ndarray, inverted: bool) -> tuple[str, ...]:
    """Gives padding, in place, the darkest value of the picture, and says so where it lay far from all of it."""
    if not padded.any() or padded.all():
        return ()
    picture = volume[~padded]
    low, high = picture.min(), picture.max()
    far = float(volume[padded].max()) > high or float(low) - float(volume[padded].min()) > 0.01 * (float(high) - low)
    volume[padded] = high if inverted else low
    told = f"{padded.sum()} voxels ({padded.mean():.1%}) are padding around the picture (PixelPaddingValue): made dark"
    return (told,) if far else ()


def files_key(files: Iterable[Path]) -> str:
    """SHA-256 over the bytes of files, in their order."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _decode(content: bytes, shape: tuple[int, int]) -> np.ndarray:
    """Frames (frame, rows, columns) of a file.

    Raises:
        ValueError: there are none, or fewer values than rows and columns need.
    """
    pydicom = pydicom_module()
    dataset: Any = pydicom.dcmread(io.BytesIO(content), force=True)
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise ValueError("cut off: no pixels")
    _check_length(pydicom, dataset, syntax)
    try:
        pixels = dataset.pixel_array
    except Exception as error:
        name = f"{syntax.name}, {syntax}" if syntax else "no TransferSyntaxUID"
        raise ValueError(f"pixels that cannot be decoded ({name}): {error}") from error
    frames: np.ndarray = pixels if pixels.ndim == 3 else pixels[None]
    if frames.ndim != 3 or frames.shape[1:] != shape:
        raise ValueError(f"pixels of shape {pixels.shape}, in a header {shape}")
    return frames


def _check_length(pydicom: Any, dataset: Any, syntax: Any) -> None:
    if syntax is None or syntax.is_compressed or "PixelData" not in dataset:
        return
    expected, present = pydicom.pixels.utils.get_expected_length(dataset), len(dataset.PixelData)
    if present < expected:
        raise ValueError(f"cut off: {present} of {expected} bytes of pixels")


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "gdcm" in text and "missing" in text:
        text += f" (it needs {missing('gdcm')})"
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
