"""DICOM series as volumes: headers, the choice of a series, its stack of slices, and their pixels."""

from cps4_monai.inference.dicom.choice import SeriesChoice, choose_series, fits
from cps4_monai.inference.dicom.reading import read_dicom, series_key
from cps4_monai.inference.dicom.series import DicomSeries, holds_dicom, list_series
from cps4_monai.inference.dicom.study import FoundSeries, find_series

__all__ = [
    "DicomSeries",
    "FoundSeries",
    "SeriesChoice",
    "choose_series",
    "find_series",
    "fits",
    "holds_dicom",
    "list_series",
    "read_dicom",
    "series_key",
]
