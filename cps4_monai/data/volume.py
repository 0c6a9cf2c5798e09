"""One NIfTI file in, one checked volume out; and label maps written on a volume's own grid."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from cps4_monai.anatomy import NOT_ANNOTATED
from cps4_monai.data.geometry import ASSUME, FORM_TOLERANCE, check_axes, has_geometry, header_affine, spacing_of
from cps4_monai.data.label_file import write_label_volume
from cps4_monai.data.nifti_file import InvalidVolumeError, decode_voxels, open_nifti, read_header, shape_of

__all__ = [
    "InvalidVolumeError",
    "Volume",
    "check_pair",
    "check_same_grid",
    "grid_in_file",
    "looks_like_label_map",
    "read_volume",
    "volume_from_array",
    "volume_from_nifti",
    "write_label_volume",
]

AFFINE_TOLERANCE = 1e-3
GRID_TOLERANCE = 0.25  # of the smallest edge of a voxel
COPY_HEADER = "copy the header of its image to it"
OF_LABEL = f"{COPY_HEADER}; where that image has no geometry either, {ASSUME}"
MAX_LABEL_VALUES = 50


@dataclass(frozen=True)
class Volume:
    """A scan or a label map, checked.

    Attributes:
        array: voxels, (X, Y, Z) in the file's own axis order; float32 for images (float64 where float32 cannot hold
            the values), uint8 for label maps; finite.
        affine: 4 x 4, voxel indices to RAS+ millimetres, float64.
        spacing_mm: distance between voxel centres along the three axes.
        header: the file's header as read, for writing label maps with the same geometry.
        path: where the volume came from.
        content_key: SHA-256 of the file's bytes, hexadecimal.
        warnings: one sentence for each thing that was fixed or looks unusual.
        provenance: what else a record of a result should say of the source (the series of a DICOM folder).
    """

    array: np.ndarray
    affine: np.ndarray
    spacing_mm: tuple[float, float, float]
    header: nib.Nifti1Header
    path: Path
    content_key: str
    warnings: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along X, Y and Z."""
        x, y, z = self.array.shape
        return x, y, z


def read_volume(
    path: str | Path,
    *,
    is_label: bool = False,
    num_classes: int | None = None,
    assume_spacing: Sequence[float] | None = None,
    partly_annotated: bool = False,
) -> Volume:
    """Reads and checks a single-file NIfTI-1 or NIfTI-2 volume; the file is read once.

    Args:
        path: a ``.nii`` or ``.nii.gz`` file.
        is_label: the file is a label map: whole numbers, returned as uint8.
        num_classes: for label maps, codes must be below this number; None allows 0 to 255.
        assume_spacing: spacing in mm along X, Y and Z (one number for all three, too), used only where the header has
            no usable geometry.
        partly_annotated: for label maps that people made: 255 (``NOT_ANNOTATED``) may stand where nobody annotated.

    Raises:
        InvalidVolumeError: the file cannot be used; the message names the file, what was found, what was expected and
            the fix.
    """
    path = Path(path)
    content, content_key = open_nifti(path)
    return volume_from_nifti(
        content,
        path=path,
        content_key=content_key,
        is_label=is_label,
        num_classes=num_classes,
        assume_spacing=assume_spacing,
        partly_annotated=partly_annotated,
    )


def volume_from_nifti(
    content: bytes | nib.Nifti1Image,
    *,
    path: str | Path,
    content_key: str | None = None,
    is_label: bool = False,
    num_classes: int | None = None,
    assume_spacing: Sequence[float] | None = None,
    partly_annotated: bool = False,
) -> Volume:
    """The same checks for an uncompressed NIfTI file in memory, or for an image that another reader made.

    Args:
        content: bytes of a ``.nii`` file, or a nibabel image (for example made from a DICOM series).
        path: name used in messages and kept in the result.
        content_key: SHA-256 of the original file; None takes that of ``content``.
        is_label: see :func:`read_volume`.
        num_classes: see :func:`read_volume`.
        assume_spacing: see :func:`read_volume`.
        partly_annotated: see :func:`read_volume`.

    Raises:
        InvalidVolumeError: see :func:`read_volume`.
    """
    path = Path(path)
    if not isinstance(content, (bytes, bytearray, memoryview)):
        content = content.to_bytes()
    if content_key is None:
        content_key = hashlib.sha256(content).hexdigest()
    header, raw = decode_voxels(content, path)
    affine, warnings = header_affine(header, path, assume_spacing, OF_LABEL if is_label else ASSUME)
    check_axes(affine, path)
    if is_label:
        array = _label_codes(raw, path, num_classes, partly_annotated)
    else:
        array, more = finite_intensities(raw, path)
        warnings += more
    return Volume(array, affine, spacing_of(affine), header, path, content_key, tuple(warnings))


def volume_from_array(
    array: np.ndarray,
    affine: np.ndarray,
    *,
    path: str | Path,
    content_key: str,
    warnings: Sequence[str] = (),
    provenance: Mapping[str, Any] | None = None,
) -> Volume:
    """The same checks for voxels of another format than NIfTI (a DICOM series), with a header for its label map.

    Args:
        array: (A, B, C) voxels of any real type.
        affine: 4 x 4, their indices to RAS+ mm. Axes are permuted, never flipped, so that X, Y and Z of the volume lie
            nearest to left-right, front-back and up-down.
        path: name used in messages and kept in the result.
        content_key: SHA-256 of the source.
        warnings: of the reader.
        provenance: see :class:`Volume`.

    Raises:
        InvalidVolumeError: see :func:`read_volume`.
    """
    path = Path(path)
    check_axes(affine, path)
    order = np.argsort(nib.orientations.io_orientation(affine)[:, 0])
    affine, raw = affine[:, [*order, 3]], array.transpose(order)
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(raw.shape)
    header.set_xyzt_units("mm")
    header.set_sform(affine, 1)
    header["pixdim"][1:4] = spacing_of(affine)
    header.set_qform(affine, 1)
    if np.abs(header.get_qform() - affine).max() > FORM_TOLERANCE:
        header["qform_code"] = 0  # a qform cannot hold a shear
    stored = np.asarray(header.get_sform(), dtype=np.float64)
    finite, more = finite_intensities(raw, path)
    return Volume(
        finite, stored, spacing_of(stored), header, path, content_key, (*warnings, *more), dict(provenance or {})
    )


def finite_intensities(raw: np.ndarray, path: str | Path) -> tuple[np.ndarray, list[str]]:
    """Intensities without NaN and infinity (the minimum in their place), and warnings.

    Args:
        raw: voxels of any real type.
        path: the scan, for messages.

    Returns:
        float32, or float64 where float32 cannot hold the values or their differences.

    Raises:
        InvalidVolumeError: no finite voxel, or a constant volume.
    """
    array = raw.astype(np.float32) if raw.dtype.itemsize <= 2 else _narrowed(raw)
    if array.dtype.kind == "f":
        finite = np.isfinite(array)
        bad = int(array.size - np.count_nonzero(finite))
    else:
        bad = 0
    if bad == array.size:
        raise InvalidVolumeError(
            path, "no finite voxel", "an image with finite intensities", "export the scan again from its source"
        )
    warnings = []
    if bad:
        array = np.where(finite, array, array[finite].min())
        warnings.append(f"{bad} voxels are NaN or infinite; replaced by the volume's minimum")
    low, high = array.min(), array.max()
    if low == high:
        raise InvalidVolumeError(
            path, f"the constant intensity {low:g}", "an image with contrast", "export the scan again from its source"
        )
    return array, warnings


def _narrowed(raw: np.ndarray) -> np.ndarray:
    """float32 where that keeps the values apart and finite, float64 otherwise."""
    with np.errstate(over="ignore"):
        narrow = raw.astype(np.float32)
    if raw.dtype == np.float32:
        return narrow
    wide = raw.astype(np.float64)
    finite = np.isfinite(wide)
    if not finite.any():
        return narrow
    low, high = wide.min(where=finite, initial=np.inf), wide.max(where=finite, initial=-np.inf)
    largest = max(abs(low), abs(high))
    keeps = largest < 1e30 and (high - low) > 1e-3 * largest and (high - low) > 1e-30
    return narrow if keeps or low == high else wide


def _label_codes(raw: np.ndarray, path: Path, num_classes: int | None, partly_annotated: bool) -> np.ndarray:
    highest = (num_classes or 256) - 1
    expected = f"whole numbers from 0 to {highest}"
    if partly_annotated:
        expected += f", or {NOT_ANNOTATED} where nobody annotated"
    if raw.dtype.kind == "f":
        whole = np.isfinite(raw) & (raw == np.round(raw))
        if not whole.all():
            values = np.unique(raw[~whole])
            raise InvalidVolumeError(
                path,
                f"label values that are not whole numbers: {_some(values)}",
                expected,
                "resample label maps with nearest neighbour, and save them as integers",
            )
    if raw.min() < 0 or raw.max() > highest:
        values = np.unique(raw)
        outside = values[(values < 0) | (values > highest)]
        if partly_annotated:
            outside = outside[outside != NOT_ANNOTATED]
        if len(outside):
            found = f"label values outside the table: {_some(outside)}"
            raise InvalidVolumeError(path, found, expected, _fix_of_values(outside))
    if partly_annotated and raw.min() == NOT_ANNOTATED:
        found = f"the value {NOT_ANNOTATED} everywhere, that of voxels that nobody annotated"
        raise InvalidVolumeError(path, found, "an annotated voxel", "take the label out of the datalist")
    return raw.astype(np.uint8)


def _fix_of_values(outside: np.ndarray) -> str:
    """What to do about label values that are no codes."""
    if (outside < 0).any():
        return f"give voxels that nobody annotated the value {NOT_ANNOTATED}, saved as uint8, and others their code"
    if (outside == NOT_ANNOTATED).all():
        return f"give each voxel a code; {NOT_ANNOTATED} (not annotated) is for label maps that people made"
    return (
        "convert the label map to the codes of the anatomy table ('cps4 convert'), or name another anatomy; in place "
        "of a scan, name its label map"
    )


def _some(values: np.ndarray, limit: int = 8) -> str:
    shown = ", ".join(f"{v:g}" for v in values[:limit].tolist())
    return shown if len(values) <= limit else f"{shown} and {len(values) - limit} more"


def check_pair(image: Volume, label: Volume) -> None:
    """Checks that a label map lies on its image's grid.

    Raises:
        InvalidVolumeError: another shape, affines apart by more than 1e-3 in any element, or voxels of one index by
            more than a quarter of the smallest edge of a voxel: another voxel size adds up over a scan.
    """
    check_same_grid(image.shape, image.affine, image.path, label)


def check_same_grid(shape: Sequence[int], affine: np.ndarray, image_path: str | Path, label: Volume) -> None:
    """As :func:`check_pair`, with only the image's shape and affine at hand.

    Raises:
        InvalidVolumeError: see :func:`check_pair`.
    """
    if tuple(label.shape) != tuple(shape):
        raise InvalidVolumeError(
            label.path,
            f"a label map of {label.shape} voxels",
            f"{tuple(shape)}, the shape of its image {image_path}",
            "resample the label map to the image's grid (nearest neighbour), or correct the datalist",
        )
    difference = np.asarray(label.affine) - np.asarray(affine)
    corners = np.array([[*index, 1.0] for index in itertools.product(*((0, size - 1) for size in shape))])
    apart_mm = float(np.linalg.norm((corners @ difference.T)[:, :3], axis=1).max())
    most_mm = GRID_TOLERANCE * float(np.linalg.norm(np.asarray(affine)[:3, :3], axis=0).min())
    apart = float(np.abs(difference).max())
    if apart > AFFINE_TOLERANCE or apart_mm > most_mm:
        raise InvalidVolumeError(
            label.path,
            f"an affine that is {apart:g} apart from that of its image {image_path}: its voxels lie up to "
            f"{apart_mm:.3g} mm from those of the image",
            f"at most {AFFINE_TOLERANCE:g}, and a quarter of a voxel ({most_mm:.3g} mm) everywhere",
            _same_grid_by(label.affine, affine),
        )


def grid_in_file(path: str | Path) -> tuple[tuple[int, int, int], np.ndarray] | None:
    """Shape and affine that the header of a NIfTI file says, without reading its voxels; None where it has no geometry.

    Raises:
        InvalidVolumeError: the header cannot be read, or is wrong.
    """
    header = read_header(path)
    if not has_geometry(header):
        return None
    x, y, z = (*shape_of(header), 1, 1)[:3]
    return (x, y, z), header_affine(header, path)[0]


def _same_grid_by(of_label: np.ndarray, of_image: np.ndarray) -> str:
    """How a label map gets onto its image's grid; a header of other axes put on it would turn it upside down."""
    axes = ["".join(nib.orientations.aff2axcodes(affine)) for affine in (of_label, of_image)]
    if axes[0] != axes[1]:
        return f"its axes run {axes[0]}, those of the image {axes[1]}: reorient the label map, not its header alone"
    return f"resample the label map to the image's grid, or {COPY_HEADER} if the header alone is wrong"


def looks_like_label_map(array: np.ndarray) -> bool:
    """Whether a volume holds whole numbers, and only a few different ones."""
    sample = array.reshape(-1)[:: max(1, array.size // 20000)]
    if len(np.unique(sample)) > MAX_LABEL_VALUES:
        return False
    values = np.unique(array)
    return len(values) <= MAX_LABEL_VALUES and bool((values == np.round(values)).all()) and float(values[0]) >= 0
