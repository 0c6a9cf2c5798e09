"""What a Python caller may hand over as a scan: a file, a DICOM folder, an image, a volume, or an array with affine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from cps4_monai.data.volume import Volume, volume_from_nifti
from cps4_monai.file_hash import file_sha256

GivenScan = str | Path | nib.Nifti1Image | Volume | np.ndarray | torch.Tensor


def given_volume(
    scan: GivenScan, affine: Any = None, assume_spacing: Sequence[float] | float | None = None
) -> Volume | Path:
    """The scan as a checked volume, or the path that is still to be read.

    Args:
        scan: a path, a nibabel image, a volume, or an array (X, Y, Z) or (1, X, Y, Z): NumPy, torch, or MONAI's
            MetaTensor, which brings its affine.
        affine: 4 x 4, voxel indices of an array to RAS+ mm.
        assume_spacing: for an image whose header has no geometry.

    Raises:
        TypeError: another type, an array without affine, or an affine for what has its own.
        InvalidVolumeError: the scan cannot be used.
    """
    spacing = [float(assume_spacing)] if isinstance(assume_spacing, int | float) else assume_spacing
    if isinstance(scan, np.ndarray | torch.Tensor):
        return volume_from_nifti(_as_image(scan, affine), path="array", assume_spacing=spacing)
    if affine is not None:
        raise TypeError(f"affine was given for a {type(scan).__name__}, which has its own; expected it for arrays only")
    if isinstance(scan, nib.Nifti1Image):
        name, key = scan.get_filename() or "image", _key_of_file(scan)
        return volume_from_nifti(scan, path=name, content_key=key, assume_spacing=spacing)
    if isinstance(scan, Volume):
        return scan
    if isinstance(scan, str | os.PathLike):
        return Path(scan)
    raise TypeError(
        f"scan is a {type(scan).__name__}; expected a path, a nibabel image, a Volume, or an array (X, Y, Z) with "
        "affine= (4 x 4, voxels to RAS+ mm)"
    )


def _key_of_file(image: nib.Nifti1Image) -> str | None:
    """SHA-256 of the file that an image was read from; None where voxels, header or affine are not the file's."""
    name = image.get_filename()
    if name is None or not nib.is_proxy(image.dataobj) or not Path(name).is_file():
        return None
    there = nib.Nifti1Image.from_filename(name)
    same = there.header == image.header and np.array_equal(there.affine, image.affine)
    return file_sha256(name) if same else None


def _as_image(scan: np.ndarray | torch.Tensor, affine: Any) -> nib.Nifti1Image:
    if affine is None:
        affine = getattr(scan, "affine", None)
    if affine is None:
        raise TypeError(
            "scan is an array without affine: where its voxels lie, and which way its axes run, is not known; pass "
            "affine= (4 x 4, voxel indices to RAS+ mm), or the file it came from"
        )
    array = scan.detach().cpu().numpy() if isinstance(scan, torch.Tensor) else scan
    array = array[0] if array.ndim == 4 and array.shape[0] == 1 else array
    matrix = np.asarray(affine.detach().cpu() if isinstance(affine, torch.Tensor) else affine, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise ValueError(f"affine has shape {matrix.shape}; expected (4, 4), voxel indices to RAS+ mm")
    if array.ndim != 3:
        raise ValueError(f"scan has shape {tuple(array.shape)}; expected (X, Y, Z), or (1, X, Y, Z)")
    if array.dtype.kind == "b" or array.dtype == np.float16:
        array = array.astype(np.float32)
    image = nib.Nifti1Image(array, matrix, dtype=array.dtype)
    image.set_sform(matrix, 1)
    image.set_qform(matrix, 0)
    image.header.set_xyzt_units("mm")
    return image
