"""PNG pictures with a mark of ours inside, so that one of somebody else is never overwritten."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from cps4_monai.atomic_file import write_atomically
from cps4_monai.data.label_ownership import GENERATOR, ForeignFileError

_PNG_START = 33  # signature and IHDR, the chunk that comes first
_MARK = b"tEXtSource\0" + GENERATOR.encode()


def write_picture(path: Path, png: bytes) -> None:
    """Writes a picture with a mark that makes it ours.

    Raises:
        ForeignFileError: another picture has that name.
    """
    check_picture(path)
    chunk = struct.pack(">I", len(_MARK) - 4) + _MARK + struct.pack(">I", zlib.crc32(_MARK))
    write_atomically(path, png[:_PNG_START] + chunk + png[_PNG_START:], shared=True)


def check_picture(path: Path) -> None:
    """Checks that a picture may be written to a path.

    Raises:
        ForeignFileError: a file without our mark is there.
    """
    if not path.exists():
        return
    with open(path, "rb") as file:
        start = file.read(_PNG_START + 8 + len(_MARK))
    if _MARK not in start:
        raise ForeignFileError.at(path)
