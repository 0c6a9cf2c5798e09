"""Label maps written on a scan's own grid, the geometry of the header copied bit for bit, whole or not at all."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np

from cps4_monai.anatomy import NOT_ANNOTATED
from cps4_monai.atomic_file import write_atomically
from cps4_monai.scan_names import is_nifti

if TYPE_CHECKING:
    from cps4_monai.data.volume import Volume

GEOMETRY_FIELDS = (
    *("pixdim", "qform_code", "sform_code", "xyzt_units", "dim_info"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)


def structures_alone(labels: np.ndarray) -> np.ndarray:
    """A label map with 0 where nobody annotated (255)."""
    return np.where(labels == NOT_ANNOTATED, 0, labels).astype(labels.dtype)


def write_label_volume(path: str | Path, array: np.ndarray, like: Volume | nib.Nifti1Header) -> Path:
    """Writes a label map as 3-D uint8 NIfTI with the geometry of a scan.

    Sform, qform, both codes, pixdim and units are copied bit for bit. The file is written beside its place and renamed,
    so it appears whole or not at all.

    Args:
        path: ends in ``.nii`` or ``.nii.gz``; missing folders are made.
        array: (X, Y, Z) codes, 0 to 255, in the axis order of ``like``.
        like: the scan, or its header.

    Raises:
        ValueError: another shape than the scan's, codes that do not fit uint8, or another file ending.
        OSError: the folder cannot be written to.
    """
    path = Path(path)
    return write_atomically(path, label_bytes(path.name, array, like))


def label_bytes(name: str, array: np.ndarray, like: Volume | nib.Nifti1Header) -> bytes:
    """Bytes of the file that :func:`write_label_volume` writes, compressed where ``name`` ends in ``.gz``.

    Raises:
        ValueError: see :func:`write_label_volume`.
    """
    if not is_nifti(name):
        raise ValueError(f"label map name is {name!r}; expected one that ends in .nii or .nii.gz")
    header = like if isinstance(like, nib.Nifti1Header) else like.header
    array = np.asarray(array)
    shape = tuple(int(n) if axis < header["dim"][0] else 1 for axis, n in enumerate(header["dim"][1:4]))
    if array.shape != shape:
        raise ValueError(f"{name}: label map has shape {array.shape}; expected {shape}, the shape of the scan")
    codes = array.astype(np.uint8)
    if not np.array_equal(codes, array):
        raise ValueError(
            f"{name}: label map has values that are no whole numbers from 0 to 255; pass codes, not logits"
        )
    content = label_header(header, shape).binaryblock + b"\0" * 4 + codes.tobytes(order="F")
    return gzip.compress(content, 4, mtime=0) if name.lower().endswith(".gz") else content


def label_header(header: nib.Nifti1Header, shape: tuple[int, ...]) -> nib.Nifti1Header:
    """A uint8 header of the same NIfTI version and byte order, with the geometry fields of ``header``."""
    new = type(header)(endianness=header.endianness)
    new["dim"][:4] = (3, *shape)
    new["dim"][4:] = 1
    new.set_data_dtype(np.uint8)
    for field in GEOMETRY_FIELDS:
        new[field] = header[field]
    new["scl_slope"], new["scl_inter"] = 1, 0
    new["magic"] = b"n+2" if isinstance(header, nib.Nifti2Header) else b"n+1"
    new["vox_offset"] = new.template_dtype.itemsize + 4
    new["descrip"] = b"cps4_monai label map"
    return new
