"""Checks made before training starts: what would fail hours later fails now, with the mend."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from cps4_monai.anatomy import MRSPINESEG, Anatomy
from cps4_monai.atomic_file import write_atomically
from cps4_monai.data.build_datalist import missing_classes
from cps4_monai.data.datalist import Datalist
from cps4_monai.data.leaks import check_contents, check_patients, voxel_digest
from cps4_monai.data.output_folder import check_output_dir

__all__ = ["check_data", "check_output_dir"]

logger = logging.getLogger(__name__)


def check_data(datalist: Datalist, anatomy: Anatomy = MRSPINESEG, memory: str | Path | None = None) -> tuple[str, ...]:
    """Refuses a datalist that leaks, and warns of classes that cannot be learned.

    Args:
        datalist: what the run trains, validates and tests on.
        anatomy: the classes.
        memory: JSON file that keeps the digests of the images, so that a later run reads only what has changed; None:
            all images are read.

    Returns:
        The warnings, which are logged, too: those of the datalist, and one for each class without a labeled subject.

    Raises:
        LeakError: the same patient or the same image content on two sides of training, validation and test.
        InvalidVolumeError: an image or a label map cannot be read.
    """
    check_patients(datalist.sides)
    digests = _Digests(memory)
    check_contents(datalist.sides, digests)
    digests.save()
    warnings = (*datalist.warnings, *missing_classes(datalist, anatomy))
    for warning in warnings:
        logger.warning("%s: %s", datalist.name or "datalist", warning)
    return warnings


class _Digests:
    """Voxel digests by path, size and time of change."""

    def __init__(self, memory: str | Path | None) -> None:
        self.path = None if memory is None else Path(memory)
        self.known: dict[str, list] = {}
        self.changed = False
        if self.path is not None and self.path.is_file():
            try:
                self.known = json.loads(self.path.read_text(encoding="utf-8"))
            except (OSError, json.JSONDecodeError) as error:
                logger.info("%s is not readable (%s); all images are compared anew", self.path, error)

    def __call__(self, image: Path) -> str:
        key = str(Path(image).absolute())
        stamp = [Path(image).stat().st_size, Path(image).stat().st_mtime_ns]
        if key not in self.known or self.known[key][:2] != stamp:
            self.known[key] = [*stamp, voxel_digest(image)]
            self.changed = True
        return self.known[key][2]

    def save(self) -> None:
        """Writes beside and renames, so that two runs may share the file."""
        if self.path is None:
            return
        write_atomically(self.path, json.dumps(self.known), shared=True)
