"""Where fetched encoders lie, whether they are whole, and how a setting finds them by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cps4_monai.cache_folder import cache_folder
from cps4_monai.file_hash import file_sha256
from cps4_monai.pretrained.catalogue import CATALOGUE, VISION, PretrainedEncoder

RECORD = "weights.json"
HERE, ABSENT, DAMAGED, OTHER = "here", "not here", "damaged", "of another package"


def weights_folder() -> Path:
    """Folder with one folder per encoder: ``weights`` in ``CPS4_CACHE_DIR`` or in the user's cache of cps4_monai."""
    return cache_folder() / "weights"


def find_weights(name_or_path: str | Path, kind: str) -> Path | None:
    """Folder of an encoder of the catalogue; a name of the catalogue is never read as a path.

    Args:
        name_or_path: value of ``stage1#vision_checkpoint`` or ``stage1#text_model``.
        kind: "vision" or "text", what the setting takes.

    Returns:
        The folder, or None where the value is no name of the catalogue.

    Raises:
        ValueError: an encoder of the other kind, or one that was not fetched, is damaged or of an earlier catalogue;
            says the command that fetches it.
    """
    encoder = CATALOGUE.get(str(name_or_path))
    if encoder is None:
        return None
    setting, other = ("stage1#vision_checkpoint", "stage1#text_model")[:: 1 if kind == VISION else -1]
    if encoder.kind != kind:
        raise ValueError(
            f"{encoder.name!r} is a {encoder.kind} encoder; name it as {other}, and as {setting} one of "
            f"{names_of(kind)}, or a path"
        )
    folder = weights_folder() / encoder.name
    if (state := state_of(encoder)) != HERE:
        raise ValueError(
            f"the weights {encoder.name!r} in {folder} are {state}: fetch them once with `cps4 weights {encoder.name}` "
            "(which, without a network, says what to copy), or set CPS4_CACHE_DIR to the folder in which they were put"
        )
    return folder


def names_of(kind: str) -> list[str]:
    """Names of the catalogue's encoders of one kind."""
    return [encoder.name for encoder in CATALOGUE.values() if encoder.kind == kind]


def state_of(encoder: PretrainedEncoder, folder: Path | None = None) -> str:
    """Whether an encoder lies in its place: "here", "not here", "damaged", "of another package".

    Every file is compared with the SHA-256 that was written down when it was fetched.

    Args:
        encoder: one of the catalogue.
        folder: the folder with one folder per encoder; None: :func:`weights_folder`.
    """
    place = (folder or weights_folder()) / encoder.name
    if not place.exists():
        return ABSENT
    try:
        record = json.loads((place / RECORD).read_text(encoding="utf-8"))
        if record["source"]["sha256"] != encoder.sha256:
            return OTHER
        whole = all(file_sha256(place / name) == digest for name, digest in record["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return DAMAGED
    return HERE if whole else DAMAGED


def write_record(folder: Path, content: dict[str, Any]) -> None:
    """Writes ``weights.json`` with the hashes of all files that lie in the folder; the last file to be written."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}
    text = json.dumps({**content, "files": digests}, indent=2, ensure_ascii=False)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")
