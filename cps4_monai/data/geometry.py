"""Where a NIfTI header puts its voxels: sform, qform, spacing, and whether the axes can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from cps4_monai.data.nifti_file import InvalidVolumeError

FORM_TOLERANCE = 1e-3
MAX_SHEAR_DEG = 5.0
MAX_FIELD_MM = 2000.0
UNITS = {1: ("metres", 1000.0), 3: ("micrometres", 0.001)}  # codes of xyzt_units
ASSUME = "give the spacing with --assume-spacing (assume_spacing), or correct the header"
ASSUMED_AXES = "run to right, anterior, superior: check that the picture is upright"
CORRECT_QFORM = "correct quatern_b, quatern_c and quatern_d in the header, or export the scan again from its source"


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Distance between voxel centres along the three axes, in mm."""
    x, y, z = np.sqrt((np.asarray(affine, dtype=np.float64)[:3, :3] ** 2).sum(axis=0)).tolist()
    return x, y, z


def header_affine(
    header: nib.Nifti1Header,
    path: str | Path,
    assume_spacing: Sequence[float] | float | None = None,
    fix: str = ASSUME,
) -> tuple[np.ndarray, list[str]]:
    """The affine (4 x 4, RAS+ mm) that a header means, and warnings.

    The sform wins over the qform; a form counts where its code is above 0 and its spacing is usable. Metres and
    micrometres (``xyzt_units``) become millimetres. ``assume_spacing`` is used only where no form is left; axes are
    then taken along those of a form, or as R, A, S, with a warning that says so. ``fix`` is what to do without it.

    Raises:
        InvalidVolumeError: no form, or spacing 0, negative or not finite, and no ``assume_spacing``; a unit in which
            the field of view is more than two metres.
        ValueError: ``assume_spacing`` is not one or three positive numbers.
    """
    assumed = assumed_spacing(assume_spacing)
    zooms = header["pixdim"][1:4].astype(np.float64)
    zooms_usable = bool(np.isfinite(zooms).all() and (zooms > 0).all())
    forms = _forms(header)
    usable = _usable(forms, zooms_usable)
    if usable:
        affine = next(iter(usable.values()))  # the sform stands first
        scale, warnings = _to_millimetres(header)
        _check_unit(header, scale @ affine, path)
        return scale @ affine, [*_disagreement(header, forms, usable, zooms), *warnings]
    if int(header["sform_code"]) <= 0 and int(header["qform_code"]) <= 0:
        problem = "neither sform nor qform is set (both codes are 0)"
    elif not zooms_usable:
        problem = f"spacing {_numbers(zooms)} mm in the header"
    elif "sform" in forms:
        alone = " and no qform (its code is 0)" if int(header["qform_code"]) <= 0 else ""
        problem = f"a singular sform, with spacing {_numbers(spacing_of(forms['sform']))} mm{alone}"
    else:
        problem = "a qform that is no rotation"
        if assumed is None:
            raise InvalidVolumeError(path, problem, "a unit quaternion, or a set sform", CORRECT_QFORM)
    if assumed is None:
        raise InvalidVolumeError(path, problem, "positive, finite spacing and a set sform or qform", fix)
    directions = _directions(forms)
    axes = f", and axes that {ASSUMED_AXES}" if directions is None else ""
    return _with_spacing(directions, assumed), [f"{problem}; spacing {_numbers(assumed)} mm was assumed{axes}"]


def has_geometry(header: nib.Nifti1Header) -> bool:
    """Whether a header says where its voxels lie, so that no spacing needs to be assumed."""
    zooms = header["pixdim"][1:4].astype(np.float64)
    return bool(_usable(_forms(header), bool(np.isfinite(zooms).all() and (zooms > 0).all())))


def _forms(header: nib.Nifti1Header) -> dict[str, np.ndarray]:
    forms = {}
    if int(header["sform_code"]) > 0:
        forms["sform"] = np.asarray(header.get_sform(), dtype=np.float64)
    qform = _qform(header) if int(header["qform_code"]) > 0 else None
    if qform is not None:
        forms["qform"] = qform
    return forms


def _qform(header: nib.Nifti1Header) -> np.ndarray | None:
    """The qform, 4 x 4, with 1 mm in place of a spacing that is unusable; None where its quaternion is no rotation.

    ``pixdim[0]`` (qfac) is -1 below 0 and 1 otherwise, 0 included, as NIfTI's own library takes it.
    """
    header = header.copy()
    pixdim = header["pixdim"]
    header["pixdim"][0] = -1.0 if pixdim[0] < 0 else 1.0
    header["pixdim"][1:4] = np.where(np.isfinite(pixdim[1:4]) & (pixdim[1:4] > 0), pixdim[1:4], 1.0)
    try:
        with np.errstate(all="ignore"):
            qform = np.asarray(header.get_qform(), dtype=np.float64)
    except (HeaderDataError, ValueError):
        return None
    return qform if np.isfinite(qform).all() else None


def _has_spacing(form: np.ndarray) -> bool:
    return bool(np.isfinite(form).all() and min(spacing_of(form)) > 0)


def _usable(forms: dict[str, np.ndarray], zooms_usable: bool) -> dict[str, np.ndarray]:
    """The forms that place voxels, the sform first. A qform stands in for an sform of zeros, not for a damaged one."""
    usable = {name: form for name, form in forms.items() if _has_spacing(form) and (name == "sform" or zooms_usable)}
    damaged = "sform" in forms and "sform" not in usable and forms["sform"][:3, :3].any()
    return {} if damaged else usable


def _to_millimetres(header: nib.Nifti1Header) -> tuple[np.ndarray, list[str]]:
    """Scaling of an affine by the header's spatial unit, and a warning where that is not millimetres (or unset)."""
    name, factor = UNITS.get(int(header["xyzt_units"]) & 7, ("millimetres", 1.0))
    warnings = [] if factor == 1.0 else [f"the header is in {name}; converted to millimetres"]
    return np.diag([factor, factor, factor, 1.0]), warnings


def _check_unit(header: nib.Nifti1Header, affine: np.ndarray, path: str | Path) -> None:
    """Refuses metres or micrometres in which a scan is too large to be one: the unit is wrong, not its numbers."""
    code = int(header["xyzt_units"]) & 7
    field_mm = float((np.array(spacing_of(affine)) * header["dim"][1:4]).max())
    if code in UNITS and field_mm > MAX_FIELD_MM:
        name, factor = UNITS[code]
        spacing = _numbers(np.array(spacing_of(affine)) / factor)
        raise InvalidVolumeError(
            path,
            f"a field of view of {field_mm:.0f} mm: spacing {spacing} in {name}, the header's unit (xyzt_units {code})",
            f"at most {MAX_FIELD_MM:.0f} mm",
            "set the unit in the header to millimetres (xyzt_units 2), if the spacing is in these",
        )


def _disagreement(
    header: nib.Nifti1Header, forms: dict[str, np.ndarray], usable: dict[str, np.ndarray], zooms: np.ndarray
) -> list[str]:
    """Warnings about a form or a spacing that was not used."""
    if "sform" not in usable:
        return ["the sform has no usable spacing; the qform was used"] if "sform" in forms else []
    if not (np.isfinite(zooms).all() and (zooms > 0).all()):
        return [f"spacing {_numbers(zooms)} mm in the header; that of the sform was used"]
    if int(header["qform_code"]) <= 0:
        return []
    if "qform" not in usable:
        return ["the qform is no rotation; the sform was used"]
    apart = float(np.abs(_to_millimetres(header)[0] @ (forms["sform"] - forms["qform"])).max())
    return [f"sform and qform disagree by {apart:.3g} mm; the sform was used"] if apart > FORM_TOLERANCE else []


def assumed_spacing(spacing: Sequence[float] | float | None) -> np.ndarray | None:
    """The spacing that a user gave for headers without one, as three numbers of mm; None where none was given.

    Raises:
        ValueError: not one or three positive numbers.
    """
    if spacing is None:
        return None
    values = np.atleast_1d(np.asarray(spacing, dtype=np.float64))
    if values.shape not in ((1,), (3,)) or not np.isfinite(values).all() or (values <= 0).any():
        raise ValueError(f"assume_spacing is {spacing}; expected one or three positive numbers of mm")
    along_axes: np.ndarray = np.broadcast_to(values, 3).copy()
    return along_axes


def _directions(forms: dict[str, np.ndarray]) -> np.ndarray | None:
    """The first form that says where the axes run, its spacing being of no use; None where none does."""
    return next((form for form in forms.values() if _has_spacing(form)), None)


def _with_spacing(directions: np.ndarray | None, spacing_mm: np.ndarray) -> np.ndarray:
    affine = np.diag([*spacing_mm, 1.0])
    if directions is not None:
        affine[:3, :3] = directions[:3, :3] / np.array(spacing_of(directions)) * spacing_mm
        affine[:3, 3] = directions[:3, 3]
    return affine


def check_axes(affine: np.ndarray, path: str | Path) -> None:
    """Checks that the three axes span space, nearly at right angles.

    Raises:
        InvalidVolumeError: a singular affine, or axes sheared by more than 5 degrees.
    """
    lengths = np.array(spacing_of(affine))
    fix = "correct the header, or resample the scan to a rectangular grid"
    if not np.isfinite(affine).all() or (lengths <= 0).any():
        raise InvalidVolumeError(path, "an affine that is singular or not finite", "three independent axes", fix)
    axes = affine[:3, :3] / lengths
    if abs(np.linalg.det(axes)) < 1e-3:
        raise InvalidVolumeError(path, "a singular affine (axes that lie in one plane)", "three independent axes", fix)
    cosines = np.abs((axes.T @ axes)[np.triu_indices(3, 1)])
    shear = float(np.degrees(np.arcsin(np.clip(cosines.max(), 0.0, 1.0))))
    if shear > MAX_SHEAR_DEG:
        raise InvalidVolumeError(
            path, f"axes sheared by {shear:.1f} degrees", f"right angles to within {MAX_SHEAR_DEG:g} degrees", fix
        )


def _numbers(values: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{float(v):g}" for v in values)
