"""What a conversion did, file by file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cps4_monai.atomic_file import write_atomically


@dataclass(frozen=True)
class ConvertedScan:
    """One scan written.

    Attributes:
        subject: its new name.
        source: the image it came from.
        labeled: a label map was written, too.
        classes: codes in the label map.
        dropped: source value -> voxels that have no code here and became background.
    """

    subject: str
    source: Path
    labeled: bool
    classes: tuple[int, ...] = ()
    dropped: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Conversion:
    """All scans of a conversion, and the scans that failed: (file, reason)."""

    scans: tuple[ConvertedScan, ...]
    failed: tuple[tuple[Path, str], ...] = ()

    def write_table(self, path: str | Path) -> None:
        """Writes ``conversion.csv``: one row per scan with its source, classes, and dropped voxels by value."""
        table = io.StringIO(newline="")
        writer = csv.writer(table)
        writer.writerow(["subject", "source", "labeled", "classes", "dropped", "error"])
        for scan in self.scans:
            dropped = " ".join(f"{value}:{count}" for value, count in sorted(scan.dropped.items()))
            classes = " ".join(map(str, scan.classes))
            writer.writerow([scan.subject, scan.source.name, "yes" if scan.labeled else "no", classes, dropped, ""])
        for source, reason in self.failed:
            writer.writerow(["", source.name, "no", "", "", reason])
        write_atomically(path, table.getvalue())


def refuse_existing(files: list[Path], overwrite: bool) -> None:
    """Checks that no output is there already.

    Raises:
        FileExistsError: a file exists and may not be overwritten.
    """
    there = [f for f in files if f.exists()]
    if there and not overwrite:
        raise FileExistsError(
            f"{there[0]} exists, one of {len(there)} files that would be replaced; expected an empty folder: choose "
            "another one, or pass --overwrite"
        )


def take_away(files: Iterable[Path]) -> None:
    """Deletes what an earlier conversion left in the place of a scan, before the scan is converted.

    Otherwise a label map whose mask is gone from the source would go on as that of the new image.
    """
    for file in files:
        file.unlink(missing_ok=True)
