"""Headers of the DICOM files of a folder, one at a time: the images in each file and what each says of its place."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cps4_monai.extras import require
from cps4_monai.inference.dicom.images import DicomImage, images_of
from cps4_monai.inference.dicom.tags import functional_group, text, values, whole_number

logger = logging.getLogger(__name__)

_MR_IMAGES = {"1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4"}
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_SPECTROSCOPY = "1.2.840.10008.5.1.4.1.1.4.2"
_DIRECTORY = "1.2.840.10008.1.3.10"

# No tag with a name of the patient is read. The patient's ID only tells patients apart, and is kept nowhere.
_TAGS = [
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription"),
    *("ProtocolName", "SpecificCharacterSet", "Modality", "PatientID", "ImageType", "InstanceNumber", "NumberOfFrames"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SpacingBetweenSlices", "SliceThickness"),
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored"),
    *("PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept"),
    *("RepetitionTime", "EchoTime", "InversionTime", "EchoNumbers", "ScanningSequence", "AcquisitionContrast"),
    "TemporalPositionIdentifier",
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]

_WARNERS = r"(pydicom|highdicom)(\.|$)"


@dataclass(frozen=True)
class DicomHeader:
    """What a file says of its series, its images, and why it holds none, or why it cannot be used.

    Attributes:
        path: the file.
        study: patient and study, to tell them apart; compared only, never shown.
        series: SeriesInstanceUID.
        number: SeriesNumber, if it has one.
        description: SeriesDescription, or the protocol's name.
        image_type: values of ImageType.
        contrast: tags that tell the weighting, by name.
        images: none where ``no_image`` or ``unreadable`` says why.
        no_image: it holds no MR image: a screenshot, a presentation state, a CT, ...
        unreadable: it is damaged.
    """

    path: Path
    study: tuple[str, str] = ("", "")
    series: str = ""
    number: int | None = None
    description: str = ""
    image_type: tuple[str, ...] = ()
    contrast: dict[str, str] = field(default_factory=dict)
    images: tuple[DicomImage, ...] = ()
    no_image: str = ""
    unreadable: str = ""


def pydicom_module() -> Any:
    """The package pydicom; its warnings of values that break the standard are not shown from now on, nor highdicom's.

    Python has one list of filters for all threads: one that is put in and taken out again for each file (as by
    ``warnings.catch_warnings``) would take those of other threads with it.

    Raises:
        MissingExtraError: it is not installed.
    """
    if not any(getattr(entry[3], "pattern", None) == _WARNERS for entry in tuple(warnings.filters)):
        warnings.filterwarnings("ignore", module=_WARNERS)
    return require("pydicom", "DICOM")


def read_header(path: Path, *, force: bool = False) -> DicomHeader:
    """Header of one file, without its pixels.

    Args:
        path: a file with DICOM's mark.
        force: the mark is missing, the file begins with its first tag.

    Returns:
        With ``unreadable`` or ``no_image`` set where it gives no image.
    """
    pydicom = pydicom_module()
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS, force=force)
        return _header(path, dataset)
    except Exception as error:  # damaged bytes make the parser fail in any way
        logger.debug("%s cannot be parsed", path, exc_info=error)
        return DicomHeader(path, unreadable=f"no DICOM file that can be parsed ({_first_line(error)})")


def _header(path: Path, dataset: Any) -> DicomHeader:
    kind = str(dataset.get("SOPClassUID") or "")
    if not kind and dataset.file_meta.get("MediaStorageSOPClassUID") == _DIRECTORY:
        return DicomHeader(path, no_image="a table of contents (DICOMDIR)")
    series = str(dataset.get("SeriesInstanceUID") or "")
    if not kind or not series:
        return DicomHeader(path, unreadable="no SOPClassUID or SeriesInstanceUID: its header is cut off or damaged")
    known = DicomHeader(
        path,
        study=(text(dataset, "PatientID"), text(dataset, "StudyInstanceUID")),
        series=series,
        number=whole_number(dataset.get("SeriesNumber")),
        description=text(dataset, "SeriesDescription") or text(dataset, "ProtocolName"),
        image_type=tuple(str(v).upper() for v in values(dataset.get("ImageType"))),
        contrast=_contrast(dataset),
    )
    reason = _no_image(dataset, kind)
    if reason:
        return replace(known, no_image=reason)
    if not whole_number(dataset.get("Rows")) or not whole_number(dataset.get("Columns")):
        return replace(known, unreadable="no Rows or Columns: its header is cut off or damaged")
    return replace(known, images=tuple(images_of(path, dataset)))


def _no_image(dataset: Any, kind: str) -> str:
    """Why a file holds no grey-scale MR image; empty if it holds one."""
    name = dataset["SOPClassUID"].value.name
    modality = text(dataset, "Modality")
    if modality not in ("", "MR") and not kind.startswith(_SECONDARY_CAPTURE):
        return f"its modality is {modality}, not MR"
    if "MOSAIC" in (str(value).upper() for value in values(dataset.get("ImageType"))):
        return "a mosaic, all slices side by side in one image"
    if kind in _MR_IMAGES:
        return _colours(dataset)
    if kind == _SPECTROSCOPY or not dataset.get("Rows"):
        return f"no image ({name})"
    if kind.startswith(_SECONDARY_CAPTURE):
        placed = dataset.get("ImagePositionPatient") and modality in ("", "MR")
        return _colours(dataset) if placed else "a screenshot (secondary capture)"
    return _colours(dataset)


def _colours(dataset: Any) -> str:
    grey = str(dataset.get("PhotometricInterpretation") or "MONOCHROME2").startswith("MONOCHROME")
    return "" if grey and whole_number(dataset.get("SamplesPerPixel")) in (None, 1) else "a picture in colours"


def _contrast(dataset: Any) -> dict[str, str]:
    """Tags that tell the weighting: echo, repetition and inversion time, kind of sequence, contrast of enhanced MR."""
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]
    frames = dataset.get("PerFrameFunctionalGroupsSequence") or [None]
    groups = [g for g in (frames[0], shared) if g is not None]
    timing = functional_group(groups, "MRTimingAndRelatedParametersSequence", {})
    frame_type = functional_group(groups, "MRImageFrameTypeSequence", {})
    contrast = {
        "echo": functional_group(groups, "MREchoSequence", {}).get("EffectiveEchoTime") or dataset.get("EchoTime"),
        "repetition": timing.get("RepetitionTime") or dataset.get("RepetitionTime"),
        "inversion": dataset.get("InversionTime"),
        "sequence": " ".join(map(str, values(dataset.get("ScanningSequence")))),
        "contrast": frame_type.get("AcquisitionContrast") or dataset.get("AcquisitionContrast"),
        "protocol": text(dataset, "ProtocolName"),
    }
    return {name: str(value) for name, value in contrast.items() if value not in (None, "")}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]
