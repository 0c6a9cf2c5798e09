"""A label map as a DICOM Segmentation object (SEG) that refers to the images of its series; written by highdicom."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from cps4_monai import __version__
from cps4_monai.anatomy import Anatomy, Structure
from cps4_monai.data.label_ownership import GENERATOR
from cps4_monai.data.nifti_file import InvalidVolumeError
from cps4_monai.extras import require
from cps4_monai.inference.dicom.headers import pydicom_module
from cps4_monai.inference.dicom.images import DicomImage
from cps4_monai.inference.dicom.series import DicomSeries
from cps4_monai.inference.dicom.stack import Stack, build_stack, missing_geometry
from cps4_monai.palette import structure_colours

# Of PS3.16, CID 7150 and CID 7162. Older objects, and 3D Slicer, have 123037004 ("Body structure") as the category.
_CATEGORY = "91723000", "SCT", "Anatomical Structure"
_UTF_8 = "ISO_IR 192"
_FAMILY = "123110", "DCM", "Artificial Intelligence"
_NUMBERED_AFTER = 1000  # SeriesNumber of a SEG: that of its series and this
# Of type 2: a file must have them, and they may be empty. Series that were made anonymous often lack some.
_MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
_NEEDED = ("FrameOfReferenceUID", "StudyInstanceUID", "SOPInstanceUID")


def segmentation_object(
    labels: np.ndarray,
    series: DicomSeries,
    anatomy: Anatomy,
    weights: Mapping[str, str],
    *,
    by_a_person: bool = False,
) -> bytes | None:
    """Bytes of a binary SEG with a segment for each structure that the label map holds.

    Segments are numbered from 1 in the order of the codes; label and standard code name them (DICOM PS3.3, A.51).
    Patient, study and frame of reference are those of the series, to whose images each frame refers.

    Args:
        labels: (X, Y, Z) uint8 codes on the grid that :func:`read_dicom` gives the series.
        series: the source, its headers read.
        anatomy: the classes.
        weights: ``Name``, ``Version`` and ``Sha256`` of the bundle, for the identification of the algorithm.
        by_a_person: whether a person changed what the network made, so that segments are SEMIAUTOMATIC (PS3.3,
            C.8.20.2) and not AUTOMATIC.

    Returns:
        None where the label map is empty: a SEG has a segment at least.

    Raises:
        InvalidVolumeError: the series lacks what a SEG has to refer to, the places of its images among it, or lies in
            several multi-frame files.
        MissingExtraError: highdicom is not installed.
    """
    highdicom = require("highdicom", "A DICOM SEG")
    codes = [int(code) for code in np.unique(labels) if code]
    if not codes:
        return None
    _check_places(series)
    stack = build_stack(series)
    images = stack.images
    sources = _source_headers(series.folder, images, float(np.linalg.norm(stack.affine[:3, 0])))
    pixels = _frames(_in_stack(labels, stack), images, codes)
    colours = structure_colours(anatomy)
    made = highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=pixels,
        segmentation_type="BINARY",
        segment_descriptions=[
            _segment(highdicom, number, anatomy[code], weights, colours[code], by_a_person)
            for number, code in enumerate(codes, 1)
        ],
        series_instance_uid=highdicom.UID(),
        series_number=_NUMBERED_AFTER + (series.number or 0),
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=GENERATOR,
        manufacturer_model_name=weights["Name"],
        software_versions=__version__,
        device_serial_number=weights["Sha256"][:16],
        content_label="SPINE",
        content_description="Vertebrae and discs; research use only",
        series_description="Spine segmentation, research use only",
        specific_character_set=_UTF_8,  # the series' own may be one that highdicom refuses, as ISO_IR 6
    )
    file = io.BytesIO()
    made.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _check_places(series: DicomSeries) -> None:
    """A SEG puts its frames where the images of the series are: what was assumed is in no header."""
    missing = missing_geometry(series.images)
    if missing:
        raise InvalidVolumeError(
            series.folder,
            "; ".join(missing),
            "a place for every image of the series, as a DICOM SEG refers to it; an assumed spacing is none",
            "export the series again with its geometry, or leave --dicom-seg (dicom_seg) out: the label map has the "
            "assumed geometry",
        )


def _segment(
    highdicom: Any,
    number: int,
    structure: Structure,
    weights: Mapping[str, str],
    colour: np.ndarray,
    by_a_person: bool,
) -> Any:
    """What a segment says of itself: name, standard code, colour, and by what it was made.

    Raises:
        ValueError: the structure has no standard code.
    """
    if structure.standard_code is None:
        raise ValueError(
            f"structure {structure.name!r} has no SNOMED CT code; expected one for each segment of a DICOM SEG. Fix: "
            "give it the field 'snomed' in the anatomy, or leave --dicom-seg (dicom_seg) out"
        )
    value, meaning = structure.standard_code
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=structure.name,
        segmented_property_category=highdicom.sr.CodedConcept(*_CATEGORY),
        segmented_property_type=highdicom.sr.CodedConcept(value, "SCT", meaning),
        algorithm_type="SEMIAUTOMATIC" if by_a_person else "AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=f"{GENERATOR} {weights['Name']}",
            family=highdicom.sr.CodedConcept(*_FAMILY),
            version=weights["Version"],
            source=GENERATOR,
            parameters={"weights_sha256": weights["Sha256"]},
        ),
        display_color=highdicom.color.CIELabColor.from_rgb(*colour.tolist()),
    )


def _source_headers(folder: Path, images: Sequence[DicomImage], step_mm: float) -> list[Any]:
    """Headers of the files, in the order of the slices, with empty values where the standard wants the tag only.

    A slice that gives no thickness is as thick as the slices lie apart, which a voxel of the label map is, too.
    """
    pydicom = pydicom_module()
    files = list(dict.fromkeys(image.file for image in images))
    if len(files) > 1 and len(files) < len(images):
        raise InvalidVolumeError(
            folder,
            f"{len(images)} images in {len(files)} multi-frame files",
            "for a DICOM SEG one multi-frame file, or one file for each image",
            "leave --dicom-seg (dicom_seg) out",
        )
    headers = [pydicom.dcmread(file, stop_before_pixels=True, force=True) for file in files]
    missing = [name for name in _NEEDED if any(not header.get(name) for header in headers)]
    if missing:
        raise InvalidVolumeError(
            folder,
            f"no {', '.join(missing)}",
            "a series that a DICOM SEG can refer to",
            "export the series again, or leave --dicom-seg (dicom_seg) out",
        )
    for header in headers:
        for name in _MAY_BE_EMPTY:
            if name not in header:
                setattr(header, name, "")
        if not header.get("SliceThickness"):
            header.SliceThickness = step_mm
    return headers


def _in_stack(labels: np.ndarray, stack: Stack) -> np.ndarray:
    """Codes (slice, row, column): back from the axis order that :func:`volume_from_array` gave them."""
    order = np.argsort(nib.orientations.io_orientation(stack.affine)[:, 0])
    codes: np.ndarray = labels.transpose(np.argsort(order)).transpose(0, 2, 1)
    return codes


def _frames(stack: np.ndarray, images: Sequence[DicomImage], codes: Sequence[int]) -> np.ndarray:
    """(frame, row, column) segment numbers, a frame for each source frame in the order of the source's."""
    numbers = np.zeros(256, np.uint8)
    numbers[list(codes)] = np.arange(1, len(codes) + 1)
    if len({image.file for image in images}) == len(images):
        segments: np.ndarray = numbers[stack]
        return segments
    frames = np.zeros((1 + max(image.frame for image in images), *stack.shape[1:]), np.uint8)
    frames[[image.frame for image in images]] = numbers[stack]
    return frames
