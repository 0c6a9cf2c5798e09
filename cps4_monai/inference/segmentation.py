"""The result of one scan: labels on its own grid, what they show, how sure that is, and the files made of it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from cps4_monai.anatomy import Anatomy
from cps4_monai.data.output_folder import check_output_dir
from cps4_monai.encoding import readable
from cps4_monai.levels import Flag, StructureStatistics
from cps4_monai.levels.flags import ALARM, names_are_trusted
from cps4_monai.scan_names import stem_of


@dataclass(frozen=True)
class Segmentation:
    """One segmented scan.

    Attributes:
        path: the scan.
        labels: (X, Y, Z) uint8 codes on the scan's own grid.
        affine: 4 x 4, voxel indices to RAS+ mm, the scan's.
        header: the scan's.
        anatomy: names of the codes.
        structures: state, volume, centroid, height and confidence of each structure.
        flags: alarms, which question the result, and notes; each says which it is by its ``kind``.
        levels: how the levels were numbered: ``margin``, ``anchored``, ``renamed``, ...; None for the plain argmax.
        warnings: about the scan.
        record: what the sidecar says: sources, weights, settings, versions, and all of the above.
        grey: (X, Y, Z) uint8 grey values for pictures, where they were kept.
    """

    path: Path
    labels: np.ndarray
    affine: np.ndarray
    header: nib.Nifti1Header
    anatomy: Anatomy
    structures: tuple[StructureStatistics, ...]
    flags: tuple[Flag, ...]
    levels: Mapping[str, Any] | None
    warnings: tuple[str, ...]
    record: dict[str, Any] = field(repr=False)
    grey: np.ndarray | None = field(default=None, repr=False)

    @property
    def volumes_ml(self) -> dict[str, float]:
        """Volume within the slab in ml, by name, of the structures that were found.

        Empty under `unusual_contrast`, where names mean nothing; ``structures`` and ``labels`` keep what was found.
        """
        if not names_are_trusted(flag.name for flag in self.flags):
            return {}
        return {s.name: s.volume_ml for s in self.structures if s.volume_ml > 0}

    @property
    def alarms(self) -> tuple[Flag, ...]:
        """Flags that question the result: where there are any, a person should look at it."""
        return tuple(flag for flag in self.flags if flag.kind == ALARM)

    def qc_picture(self) -> bytes:
        """PNG: sagittal mosaic with the labels named at their level and the alarms above; without names where the
        contrast is unusual.

        Raises:
            ValueError: the grey values were not kept.
        """
        from cps4_monai.report.pictures import sagittal_mosaic

        if self.grey is None:
            raise ValueError("this segmentation was made without grey values; segment with qc=True")
        alarms = [flag.name for flag in self.alarms]
        title = readable(stem_of(self.path))
        return sagittal_mosaic(self.grey, self.labels, self.affine, self.anatomy, title=title, alarms=alarms)

    def save(self, output: str | Path, name: str | None = None, *, overwrite: bool = False, qc: bool = True) -> Path:
        """Writes ``<name>_dseg.nii.gz``, its JSON and its picture; each appears whole or not at all.

        Args:
            output: folder, made where it is missing.
            name: default: the scan's file name without ending.
            overwrite: replace files of ours, but no label map that a person corrected, accepted or marked. Copies for
                other programs that are there follow; one that cannot be made again is taken away, with a warning.
            qc: write the picture.

        Returns:
            Path of the label map.

        Raises:
            ForeignFileError: a file that is not ours, or without ``overwrite`` one of ours, is there; or a label map
                that a person corrected, accepted or marked.
            ValueError: the folder cannot be made or written to.
        """
        from cps4_monai.inference.hand_on import copies_follow
        from cps4_monai.inference.scan_files import ScanFiles, check_replaceable, write_segmentation

        check_output_dir(output, min_free_gib=0.0)
        files = ScanFiles.at(output, name or stem_of(os.path.abspath(self.path)))
        check_replaceable(files, overwrite)
        copies_follow(files, self.labels, self.affine, self.anatomy, self.record)
        write_segmentation(self, files, overwrite=overwrite, qc=qc)
        return files.label


def plain(record: Mapping[str, Any]) -> dict[str, Any]:
    """JSON-ready: numbers that are not finite become None, tuples lists."""
    return {str(key): _plain(value) for key, value in record.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return plain(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
