"""A DICOM series as a volume, with the checks that every scan gets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cps4_monai.data.nifti_file import InvalidVolumeError
from cps4_monai.data.volume import Volume, volume_from_array
from cps4_monai.inference.dicom.choice import check_fits, choose_series
from cps4_monai.inference.dicom.order import order_images
from cps4_monai.inference.dicom.pixels import files_key, read_pixels
from cps4_monai.inference.dicom.series import EXPECTED, DicomSeries, list_series, series_of_file, unreadable_files
from cps4_monai.inference.dicom.stack import build_stack


def read_dicom(
    path: str | Path,
    assume_spacing: Sequence[float] | float | None = None,
    series: str | int | DicomSeries | None = None,
) -> Volume:
    """The volume of a folder's series, classic or enhanced, checked as :func:`cps4_monai.data.volume.read_volume` does.

    The affine comes from the slices' positions, so that a sheared stack is seen as one. The voxels' axes are ordered
    left-right, front-back, up-down, as near as they come; they are not flipped. Pixels of other series are not read.

    Args:
        path: a folder of DICOM files, subfolders left out; or one file of the series.
        assume_spacing: mm along left-right, front-back and up-down, for what the headers lack.
        series: which one, see :func:`choose_series`, or one that was listed before; None: the best of the folder.
            The series of a file has to fit.

    Raises:
        ImportError: pydicom is not installed.
        InvalidVolumeError: no series, several that are equally good, or one that cannot be read as one volume.
    """
    chosen = series if isinstance(series, DicomSeries) else _only(Path(path), series)
    if chosen.unreadable:
        raise unreadable_files(chosen.folder, chosen.unreadable)
    stack = build_stack(chosen, assume_spacing)
    pixels = read_pixels(stack.images, chosen.folder)
    return volume_from_array(
        pixels.voxels,
        stack.affine,
        path=chosen.folder,
        content_key=pixels.content_key,
        warnings=(*chosen.notes, *stack.warnings, *pixels.warnings),
        provenance={"Series": chosen.identity},
    )


def series_key(path: str | Path, series: str | int | DicomSeries | None = None) -> str:
    """SHA-256 of the series that :func:`read_dicom` reads, without decoding it.

    Raises:
        ImportError: see :func:`read_dicom`.
        InvalidVolumeError: see :func:`read_dicom`.
    """
    chosen = series if isinstance(series, DicomSeries) else _only(Path(path), series)
    return files_key(dict.fromkeys(image.file for image in order_images(chosen)[0]))


def _only(path: Path, wanted: str | int | None) -> DicomSeries:
    if path.is_file():
        chosen = series_of_file(path)
        check_fits(chosen, wanted, path)
        if chosen.no_image:
            raise InvalidVolumeError(path, f"{chosen}: {chosen.no_image}", EXPECTED, "name a file of the series")
        return chosen
    series = list_series(path)
    choice = choose_series(series, wanted)
    if len(choice.taken) == 1:
        return choice.taken[0]
    if choice.taken:
        found = f"{len(choice.taken)} series that fit equally well: {'; '.join(map(str, choice.taken))}"
    else:
        found = f"no series to segment: {'; '.join(f'{chosen}: {reason}' for chosen, reason in choice.passed_over)}"
    raise InvalidVolumeError(
        path, found, EXPECTED, "choose one by its number or a part of its description with --series (series)"
    )
