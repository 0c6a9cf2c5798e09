"""DICOM series for the tests: a sagittal volume as one file a slice, or as one enhanced file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

MR, ENHANCED_MR, CT = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.2"
SECONDARY_CAPTURE, PRESENTATION_STATE = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.11.1"
SAGITTAL, AXIAL, CORONAL = (0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 1, 0), (1, 0, 0, 0, 0, -1)
ORIGIN = np.array([-8.0, -30.0, 100.0])  # LPS mm: that of a coded scan


def dataset(uid: str, series: str = "1", sop_class: str = MR, **tags: Any) -> Dataset:
    """A data set without pixels; the SOPInstanceUID is made of the series' number and ``uid``."""
    one, meta = Dataset(), FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, sop_class
    meta.MediaStorageSOPInstanceUID = f"1.2.3.{series}.{uid}"
    one.file_meta = meta
    one.SOPClassUID, one.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    one.StudyInstanceUID, one.SeriesInstanceUID = "1.2.3", f"1.2.3.{series}"
    one.SeriesNumber, one.SeriesDescription, one.Modality = series, "t2_tse_sag", "MR"
    one.PatientID, one.PatientName, one.ImageType = "77", "Meier^Anna", ["ORIGINAL", "PRIMARY", "M"]
    for name, value in tags.items():
        setattr(one, name, value)
    return one


def set_pixels(one: Dataset, array: np.ndarray) -> Dataset:
    """Grey values (rows, columns) or (frames, rows, columns), 16 bits."""
    one.Rows, one.Columns = array.shape[-2:]
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, int(array.dtype.kind == "i")
    one.PixelData = array.astype("<i2" if array.dtype.kind == "i" else "<u2").tobytes()
    return one


def series_of(
    array: np.ndarray,
    spacing: Sequence[float] = (2.0, 2.0, 4.0),
    series: str = "1",
    orientation: Sequence[float] = SAGITTAL,
    step: Sequence[float] | None = None,
    positions: Sequence[float] | None = None,
    **tags: Any,
) -> list[Dataset]:
    """Slices (rows, columns) along the first axis of ``array``.

    ``spacing`` is between rows, columns and slices; ``step`` (LPS mm) from one slice to the next replaces the normal;
    ``positions`` are places along the step, in steps.
    """
    normal = np.cross(orientation[:3], orientation[3:])
    step = normal * spacing[2] if step is None else np.array(step)
    places = range(len(array)) if positions is None else positions
    slices = []
    for index, place in enumerate(places):
        one = dataset(str(index + 1), series, InstanceNumber=index + 1)
        one.ImagePositionPatient = [float(f"{v:.6f}") for v in ORIGIN + place * np.asarray(step)]
        one.ImageOrientationPatient, one.PixelSpacing = list(orientation), list(spacing[:2])
        one.SliceThickness = spacing[2] * 0.9  # slices lie apart: the thickness is not the distance
        for name, value in tags.items():
            setattr(one, name, value)
        slices.append(set_pixels(one, array[index]))
    return slices


def enhanced_of(slices: Sequence[Dataset]) -> Dataset:
    """One enhanced file with the images of a classic series; spacing and orientation stand in the shared groups."""
    first = slices[0]
    frames = np.stack([one.pixel_array for one in slices])
    one = set_pixels(dataset("9", "1", ENHANCED_MR, NumberOfFrames=len(slices)), frames)
    measures, plane, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = first.PixelSpacing, first.SliceThickness
    plane.ImageOrientationPatient = first.ImageOrientationPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    one.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for classic in slices:
        place, scale, group = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = classic.ImagePositionPatient
        scale.RescaleSlope, scale.RescaleIntercept = classic.get("RescaleSlope", 1), classic.get("RescaleIntercept", 0)
        group.PlanePositionSequence, group.PixelValueTransformationSequence = [place], [scale]
        groups.append(group)
    one.PerFrameFunctionalGroupsSequence = groups
    return one


def save_all(folder: Path, slices: Sequence[Dataset], name: str = "IM{:04d}.dcm") -> Path:
    """Writes data sets after those that are there."""
    folder.mkdir(parents=True, exist_ok=True)
    start = len(list(folder.iterdir()))
    for index, one in enumerate(slices):
        one.save_as(folder / name.format(start + index), enforce_file_format=True)
    return folder


def recompress(folder: Path, syntax: str) -> Path:
    """Writes the files of a folder again in a transfer syntax of GDCM, by its name there."""
    import gdcm

    for path in folder.iterdir():
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(path))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
    return folder


def twin_of(scan: Any, **changes: Any) -> list[Dataset]:
    """The series of a coded scan, with other tags or places."""
    return series_of(sagittal(scan), **{"step": (4, 0, 0), **changes})


def sagittal(scan: Any) -> np.ndarray:
    """(slices, rows down, columns back) of a coded scan, whose axes run left, back and up."""
    return scan.image.transpose(0, 2, 1)[:, ::-1]
