"""An output folder, proven before any work begins."""

from __future__ import annotations

import errno
import shutil
import tempfile
from pathlib import Path

GIBIBYTE = 1024**3
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


def check_output_dir(output_dir: str | Path, min_free_gib: float = 1.0) -> Path:
    """Make the output folder and prove that it can be written and has room.

    Args:
        output_dir: folder for checkpoints, logs and results; made where it is not there.
        min_free_gib: free space asked for, in GiB.

    Returns:
        The folder.

    Raises:
        ValueError: the folder cannot be made or written, or its disk has less free space than asked for.
    """
    folder = Path(str(output_dir))  # MONAI takes "2025" for a number
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".write-test-"):
            pass
    except OSError as error:
        raise ValueError(
            f"output_dir {str(folder)!r} cannot be written ({error}). Fix: choose another output folder (-o; in "
            "configs output_dir)"
        ) from error
    free_gib = shutil.disk_usage(folder).free / GIBIBYTE
    if free_gib < min_free_gib:
        raise ValueError(
            f"output_dir {str(folder)!r} has {free_gib:.2f} GiB free, {min_free_gib:g} GiB are needed for checkpoints; "
            "free some space, set output_dir to another disk, or lower min_free_gib"
        )
    return folder
