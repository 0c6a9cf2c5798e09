"""A datalist that leaks, classes that cannot be learned."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cps4_monai.anatomy import MRSPINESEG, Anatomy
from cps4_monai.atomic_file import write_atomically
from cps4_monai.data.build_datalist import missing_classes
from cps4_monai.data.datalist import Datalist
from cps4_monai.data.entries import Entry
from cps4_monai.data.leaks import DIGEST_VERSION, check_contents, check_patients, voxel_digest
from cps4_monai.preflight.labels import check_reviewed
from cps4_monai.preflight.tell import tell

logger = logging.getLogger(__name__)


def check_data(datalist: Datalist, anatomy: Anatomy = MRSPINESEG, memory: str | Path | None = None) -> tuple[str, ...]:
    """Refuses a datalist that leaks, and warns of classes that cannot be learned.

    Args:
        datalist: what the run trains, validates and tests on.
        anatomy: the classes.
        memory: JSON file that keeps the digests of the images, so that a later run reads only what has changed; None:
            all images are read.

    Returns:
        The warnings, which are logged, too: those of the datalist, one of the classes without a labeled subject,
        and one of label maps that no person stands for.

    Raises:
        LeakError: the same patient or the same image content on two sides of training, validation and test.
        InvalidVolumeError: an image or a label map cannot be read.
    """
    check_patients(datalist.sides)
    check_images(datalist.sides, memory)
    name = datalist.name or "datalist"
    warnings = tell(name, (*datalist.warnings, *missing_classes(datalist, anatomy)))
    return (*warnings, *check_reviewed(name, [*datalist.labeled, *datalist.validation]))


def check_images(sides: Mapping[str, Sequence[Entry]], memory: str | Path | None = None) -> None:
    """Refuses images that are on two sides.

    Args:
        sides: name of a side (training, validation, test) -> its entries.
        memory: see :func:`check_data`.

    Raises:
        LeakError: names the files and both sides.
        InvalidVolumeError: an image cannot be read.
    """
    digests = _Digests(memory)
    check_contents(sides, digests)
    digests.save()


class _Digests:
    """Voxel digests by path, size, time of change and version of the digest."""

    def __init__(self, memory: str | Path | None) -> None:
        self.path = None if memory is None else Path(memory)
        self.known = self._kept()
        self.made: dict[str, list[Any]] = {}

    def __call__(self, image: Path) -> str:
        key = str(Path(image).absolute())
        stamp = [Path(image).stat().st_size, Path(image).stat().st_mtime_ns, DIGEST_VERSION]
        if key not in self.known or self.known[key][:-1] != stamp:
            self.known[key] = self.made[key] = [*stamp, voxel_digest(image)]
        return str(self.known[key][-1])

    def save(self) -> None:
        """Adds what this run read to what the file holds by now, so that two runs may share it."""
        if self.path is not None and self.made:
            write_atomically(self.path, json.dumps({**self._kept(), **self.made}), shared=True)

    def _kept(self) -> dict[str, list[Any]]:
        if self.path is None or not self.path.is_file():
            return {}
        try:
            kept: dict[str, list[Any]] = json.loads(self.path.read_text(encoding="utf-8"))
            return kept
        except (OSError, ValueError) as error:
            logger.info("%s is not readable (%s); all images are compared again", self.path, error)
            return {}
