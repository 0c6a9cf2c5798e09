"""DICOM series as volumes: headers, the choice of a series, its stack of slices, and their pixels."""

from cps4_monai.inference.dicom.choice import SeriesChoice, choose_series, fits
from cps4_monai.inference.dicom.reading import read_dicom, series_key
from cps4_monai.inference.dicom.series import DicomSeries, holds_dicom, is_dicom_file, list_series
from cps4_monai.inference.dicom.study import FoundSeries, find_series, find_series_of_files

__all__ = [
    "DicomSeries",
    "FoundSeries",
    "SeriesChoice",
    "choose_series",
    "find_series",
    "find_series_of_files",
    "fits",
    "holds_dicom",
    "is_dicom_file",
    "list_series",
    "read_dicom",
    "series_key",
]
