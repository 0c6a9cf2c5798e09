"""A NIfTI file: read once, hashed, decompressed, and decoded into voxels; and written whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from cps4_monai.atomic_file import write_atomically

GZIP_MAGIC = b"\x1f\x8b"
REEXPORT = "copy or export the file again from its source"


class InvalidVolumeError(ValueError):
    """A file that cannot be used as a volume.

    Args:
        path: the file.
        found: what was found.
        expected: what was expected instead.
        fix: what the user can do.
    """

    def __init__(self, path: str | Path, found: str, expected: str, fix: str) -> None:
        super().__init__(path, found, expected, fix)
        self.path, self.found, self.expected, self.fix = Path(path), found, expected, fix

    def __str__(self) -> str:
        return f"{self.path}: found {self.found}; expected {self.expected}. Fix: {self.fix}."


def open_nifti(path: str | Path) -> tuple[bytes, str]:
    """Bytes of the uncompressed file, and the SHA-256 of the file as it lies on disk.

    Raises:
        InvalidVolumeError: missing, a folder, no permission, empty, or damaged gzip.
    """
    path = Path(path)
    expected = "a NIfTI file (.nii or .nii.gz)"
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise InvalidVolumeError(path, "no such file", expected, "correct the path or the datalist") from error
    except PermissionError as error:
        raise InvalidVolumeError(path, "no permission to read", expected, "change the file's permissions") from error
    except OSError as error:
        raise InvalidVolumeError(path, f"not readable ({error})", expected, "correct the path or the disk") from error
    if not content:
        raise InvalidVolumeError(path, "an empty file", expected, REEXPORT)
    key = hashlib.sha256(content).hexdigest()
    if content[:2] == GZIP_MAGIC:
        try:
            content = gzip.decompress(content)
        except (EOFError, zlib.error, OSError) as error:
            raise InvalidVolumeError(path, f"damaged gzip data ({error})", expected, REEXPORT) from error
    return content, key


def read_header(path: str | Path) -> nib.Nifti1Header:
    """Header of a NIfTI file on disk, as stored, without reading its voxels.

    Raises:
        InvalidVolumeError: not readable, or no single-file NIfTI.
    """
    try:
        with open(path, "rb") as file:
            compressed = file.read(2) == GZIP_MAGIC
        with gzip.open(path) if compressed else open(path, "rb") as file:
            start = file.read(nib.Nifti2Header.template_dtype.itemsize)
    except (EOFError, zlib.error, OSError) as error:
        raise InvalidVolumeError(path, f"not readable ({error})", "a NIfTI file (.nii or .nii.gz)", REEXPORT) from error
    return parse_header(start, path)


def parse_header(content: bytes, path: str | Path) -> nib.Nifti1Header:
    """Header of an uncompressed single-file NIfTI, as stored: nothing in it is corrected.

    Raises:
        InvalidVolumeError: not a single-file NIfTI-1 or NIfTI-2, or dimensions that make no sense.
    """
    expected = "a single-file NIfTI-1 or NIfTI-2 image"
    kind: Any = nib.Nifti1Header
    if content[4:8] == b"n+2\0":
        kind = nib.Nifti2Header
    elif content[344:348] == b"ni1\0":
        raise InvalidVolumeError(path, "the header of a .hdr/.img pair", expected, "convert the pair to one .nii file")
    elif content[344:348] != b"n+1\0":
        raise InvalidVolumeError(path, "no NIfTI magic number (another kind of file)", expected, REEXPORT)
    try:
        header: nib.Nifti1Header = kind(binaryblock=content[: kind.template_dtype.itemsize], check=False)
        header.get_data_dtype()
    except (HeaderDataError, WrapStructError, ValueError, KeyError) as error:
        raise InvalidVolumeError(path, f"a damaged header ({error})", expected, REEXPORT) from error
    dims = header["dim"]
    # Some writers leave 0 in axes beyond the third that hold nothing.
    if not 1 <= dims[0] <= 7 or (dims[1 : min(dims[0], 3) + 1] < 1).any() or (dims[4 : dims[0] + 1] < 0).any():
        raise InvalidVolumeError(
            path, f"dimensions {dims.tolist()} in the header", "3-D with at least one voxel", REEXPORT
        )
    return header


def shape_of(header: nib.Nifti1Header) -> tuple[int, ...]:
    """Voxels along each axis that a header has; 0, as some writers leave it, is 1."""
    return tuple(max(int(n), 1) for n in header["dim"][1 : header["dim"][0] + 1])


def decode_voxels(content: bytes, path: str | Path) -> tuple[nib.Nifti1Header, np.ndarray]:
    """Header and voxels, scaled by slope and intercept, as (X, Y, Z) in native byte order.

    A trailing time axis of length one is dropped; a single 2-D slice gets a third axis.

    Raises:
        InvalidVolumeError: not NIfTI, truncated, several time points, colours or complex numbers.
    """
    header = parse_header(content, path)
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        what = "complex numbers" if dtype.kind == "c" else f"colours or records ({dtype})"
        raise InvalidVolumeError(path, what, "one real number in each voxel", "export magnitudes as a grey-scale image")
    shape = shape_of(header)
    if len(shape) > 3 and any(n > 1 for n in shape[3:]):
        raise InvalidVolumeError(
            path,
            f"{len(shape)}-D data {shape}",
            "3-D, or 4-D with one time point",
            "extract one volume into a file of its own",
        )
    count = int(np.prod(shape, dtype=np.int64))
    offset = float(header["vox_offset"])
    start = int(offset) if np.isfinite(offset) and offset > 0 else -1
    needed = start + count * dtype.itemsize
    if start < header.template_dtype.itemsize or len(content) < needed:
        raise InvalidVolumeError(
            path,
            f"{len(content)} bytes with the voxels from byte {offset:g} on",
            f"{needed} bytes: the file is truncated or its header damaged",
            REEXPORT,
        )
    raw = np.frombuffer(content, dtype, count, start).reshape(shape, order="F")
    volume = raw.reshape((*shape, 1, 1)[:3], order="F")
    return header, _scaled(volume.astype(dtype.newbyteorder("="), copy=False), header)


def _scaled(volume: np.ndarray, header: nib.Nifti1Header) -> np.ndarray:
    # Read by hand: nibabel refuses an infinite slope and an infinite intercept, which the standard calls "unused".
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not np.isfinite(slope) or slope == 0:
        return volume
    intercept = intercept if np.isfinite(intercept) else 0.0
    if slope == 1 and intercept == 0:
        return volume
    scaled: np.ndarray = volume * np.float64(slope) + np.float64(intercept)
    return scaled


def write_nifti(array: np.ndarray, affine: np.ndarray, path: Path) -> None:
    """Writes a NIfTI-1 file with sform and qform, beside and renamed, so that no half-written file stays."""
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    write_atomically(path, lambda beside: nib.save(image, beside))
