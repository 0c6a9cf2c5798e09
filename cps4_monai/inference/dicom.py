"""A folder with one DICOM series as a volume; localizers are passed over, and among several series none is guessed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from cps4_monai.data.nifti_file import InvalidVolumeError
from cps4_monai.data.volume import Volume, volume_from_nifti

_LOCALIZER = re.compile(r"\b(loc|locali[sz]\w*|scout|survey|topogram|(3|three)[ -]?(plane|pl))\b", re.IGNORECASE)
_TAGS = {"type": "0008|0008", "modality": "0008|0060", "description": "0008|103e", "protocol": "0018|1030"}
_POSITION, _ORIENTATION = "0020|0032", "0020|0037"
EXPECTED = "one DICOM series of one MRI volume"


@dataclass(frozen=True)
class Series:
    """One series of a folder.

    Attributes:
        uid: SeriesInstanceUID.
        files: of the series, in the order of the slices.
        description: series description, or the protocol's name.
        passed_over: why it is no scan to segment; empty if it is one.
    """

    uid: str
    files: tuple[str, ...]
    description: str
    passed_over: str = ""

    def __str__(self) -> str:
        return f"{self.description or 'without description'} ({len(self.files)} files, {self.uid})"


def list_series(folder: str | Path) -> list[Series]:
    """All series of a folder, subfolders left out.

    Raises:
        ImportError: SimpleITK is not installed.
        InvalidVolumeError: no DICOM file in the folder, or none that can be read.
    """
    sitk = _sitk()
    found = []
    for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)):
        files = tuple(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid))
        found.append(_describe(sitk, uid, files))
    if not found:
        raise InvalidVolumeError(folder, "no readable DICOM series", EXPECTED, "export the series again")
    return found


def read_dicom(folder: str | Path, assume_spacing: Sequence[float] | None = None) -> Volume:
    """The volume of a folder's only series, with the checks of :func:`cps4_monai.data.volume.read_volume`.

    Args:
        folder: DICOM files, subfolders left out; localizers and what is no MRI are passed over with a warning.
        assume_spacing: spacing in mm for headers without geometry.

    Raises:
        ImportError: SimpleITK is not installed.
        InvalidVolumeError: no series, several, one with several volumes or orientations, or one that cannot be read.
    """
    folder = Path(folder)
    sitk = _sitk()
    series = list_series(folder)
    usable = [one for one in series if not one.passed_over]
    if len(usable) != 1:
        listed = "; ".join(f"{one}{f': {one.passed_over}' if one.passed_over else ''}" for one in series)
        raise InvalidVolumeError(
            folder, f"{len(usable)} series: {listed}", EXPECTED, "move each series into a folder of its own and name it"
        )
    one = usable[0]
    warnings = [f"passed over {other}: {other.passed_over}" for other in series if other.passed_over]
    warnings += _check_positions(sitk, folder, one.files)
    try:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(one.files)
        image = reader.Execute()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InvalidVolumeError(
            folder, f"a series that cannot be read ({reason})", EXPECTED, "export it again"
        ) from error
    volume = volume_from_nifti(
        _to_nifti(sitk, image, folder), path=folder, content_key=content_key(one.files), assume_spacing=assume_spacing
    )
    return Volume(
        volume.array, volume.affine, volume.spacing_mm, volume.header, folder, volume.content_key,
        (*warnings, *volume.warnings),
    )  # fmt: skip


def content_key(files: Sequence[str]) -> str:
    """SHA-256 over the bytes of the series' files, in their order."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()


def folder_key(folder: str | Path) -> str:
    """SHA-256 of the series that :func:`read_dicom` reads; empty where it reads none."""
    usable = [one for one in list_series(folder) if not one.passed_over]
    return content_key(usable[0].files) if len(usable) == 1 else ""


def _describe(sitk: Any, uid: str, files: tuple[str, ...]) -> Series:
    tags = _read_tags(sitk, files[0])
    values = {name: tags.get(tag, "").strip() for name, tag in _TAGS.items()}
    description = values["description"] or values["protocol"]
    reason = ""
    if values["modality"] not in ("", "MR"):
        reason = f"its modality is {values['modality']}, not MR"
    elif "LOCALIZER" in values["type"].upper() or _LOCALIZER.search(description.replace("_", " ")):
        reason = "a localizer"
    return Series(uid, files, description, reason)


def _check_positions(sitk: Any, folder: Path, files: Sequence[str]) -> list[str]:
    """One orientation, one image at each place, even distances (a warning where they are not)."""
    if len(files) < 2:
        return []
    tags = [_read_tags(sitk, file) for file in files]
    if any(_POSITION not in t or _ORIENTATION not in t for t in tags):
        return ["the series does not say where its slices lie"]
    orientations = np.array([[float(v) for v in t[_ORIENTATION].split("\\")] for t in tags])
    if np.abs(orientations - orientations[0]).max() > 1e-2:
        raise InvalidVolumeError(folder, "slices of several orientations in one series", EXPECTED, "split the series")
    normal = np.cross(orientations[0, :3], orientations[0, 3:])
    along = np.sort(np.array([[float(v) for v in t[_POSITION].split("\\")] for t in tags]) @ normal)
    apart = np.diff(along)
    if (apart < 1e-3).any():
        raise InvalidVolumeError(
            folder, "several images at one place (echoes or time points)", EXPECTED, "split the series"
        )
    if apart.max() > 1.05 * apart.min():
        return [f"slices lie {apart.min():.2f} to {apart.max():.2f} mm apart: are slices missing?"]
    return []


def _read_tags(sitk: Any, file: str) -> dict[str, str]:
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    reader.ReadImageInformation()
    return {
        tag: reader.GetMetaData(tag) for tag in (*_TAGS.values(), _POSITION, _ORIENTATION) if reader.HasMetaDataKey(tag)
    }


def _to_nifti(sitk: Any, image: Any, folder: Path) -> nib.Nifti1Image:
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InvalidVolumeError(folder, "colours", "one real number in each voxel", "export grey-scale images")
    array = sitk.GetArrayFromImage(image).T
    if array.ndim != 3:  # several frames in a file: where each lies is in tags that are not read here
        raise InvalidVolumeError(
            folder, "several images in one file (enhanced DICOM)", "a file for each slice",
            "export the series as classic DICOM, or convert it to NIfTI, for instance with dcm2niix",
        )  # fmt: skip
    if array.dtype.itemsize > 4:
        array = array.astype(np.float32)
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    affine[:2] *= -1  # DICOM's axes run to the left and to the back, NIfTI's to the right and to the front
    nifti = nib.Nifti1Image(array, affine)
    nifti.header.set_xyzt_units("mm")
    nifti.set_qform(affine, 1)
    nifti.set_sform(affine, 1)
    return nifti


def _sitk() -> Any:
    try:
        import SimpleITK
    except ImportError as error:
        raise ImportError(
            "DICOM needs SimpleITK, which is not installed; install the extra: pip install 'cps4-monai[dicom]'"
        ) from error
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK
