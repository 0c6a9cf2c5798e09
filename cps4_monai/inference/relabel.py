"""Label maps numbered anew, accepted or marked as wrong by a person: mask, sidecar and picture follow, and a way back.

The first label map and its sidecar stay beside it as hidden files (``.original-<name>``).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cps4_monai.anatomy import MRSPINESEG, Anatomy
from cps4_monai.atomic_file import write_atomically
from cps4_monai.data.label_file import label_bytes
from cps4_monai.data.label_ownership import (
    GENERATOR,
    assumed_spacing_of,
    check_anatomy_of,
    is_described,
    is_of_another_scan,
    json_beside,
    record_beside,
    sidecar_of,
    source_entries,
    weights_sha256,
    write_owned_label,
)
from cps4_monai.data.label_review import CORRECTIONS, ORIGINAL
from cps4_monai.data.scans_of_labels import scans_of
from cps4_monai.data.volume import InvalidVolumeError, Volume, check_pair, read_volume
from cps4_monai.file_hash import file_sha256
from cps4_monai.inference.corrected_record import corrected
from cps4_monai.inference.corrections import Correction
from cps4_monai.inference.hand_on import copies_again, write_copies
from cps4_monai.inference.masks import draw_mask
from cps4_monai.inference.prepared import load_scan
from cps4_monai.inference.scan_files import ScanFiles, original_of, series_uid
from cps4_monai.inference.segmentation import plain

logger = logging.getLogger(__name__)


class RelabelError(ValueError):
    """A correction that cannot be applied to a label map; the message names it, and says why and what to do."""


def relabel(
    label_path: str | Path,
    correction: Correction,
    anatomy: Anatomy = MRSPINESEG,
    images: str | Path | None = None,
) -> dict[str, Any]:
    """Applies what a person said to a label map of ours: to it, to its sidecar, and to the picture and copies of it.

    Args:
        label_path: the label map, with its sidecar beside it. One that was edited by hand since is taken as it is,
            unless the correction says which label map was looked at.
        correction: what is said of it.
        anatomy: the classes.
        images: folder of the scans; None: where the sidecar says, or beside the label map.

    Returns:
        What the sidecar says now. A correction that was applied before changes nothing.

    Raises:
        RelabelError: no label map of ours, another one than was looked at, other weights, another scan than it was
            made of, a shift that cannot be, a structure that is not there, what an interrupted command left, or a
            picture that is there and cannot be drawn again. Nothing is written then.
        ValueError: a copy that is there cannot be made again, see :func:`copies_again`. Nothing is written then.
        OSError: the folder cannot be written to.
    """
    path = Path(label_path)
    content, record = _read(path)
    digest = hashlib.sha256(content).hexdigest()
    if _was_applied(correction, record, digest):
        return record
    record = _of_these_labels(path, record, digest)
    _check_same(path, correction, record, digest)
    scan = scans_of([path], path.parent, images).get(path)
    record = _of_the_scan_there(path, scan, correction, record)
    label = _volume(path, anatomy)
    if correction.accepted and scan is not None and not ScanFiles.beside(path).picture.exists():  # drawing looks, too
        _check_grid(path, scan, label, record)
    try:
        made = corrected(correction, label, record, digest, anatomy)
    except ValueError as error:
        raise RelabelError(f"{path}: {error}") from error
    copies = {}
    if made.renumbered or made.edited:
        copies = copies_again(ScanFiles.beside(path), made.labels, label.affine, anatomy, made.record)
    # The label map is written last: where it is, the others are, and a correction that was applied needs nothing more.
    changed = made.renumbered or made.edited
    _draw_again(path, scan, replace(label, array=made.labels), made.record, anatomy, changed=changed)
    told = {**made.record, ORIGINAL: _keep_original(path, content).name}
    write_copies(copies)
    labels = label_bytes(path.name, made.labels, label.header) if made.renumbered else content
    write_owned_label(path, labels, plain(told), over=digest if made.edited else None)
    return record_beside(path)


def restore_original(label_path: str | Path, anatomy: Anatomy = MRSPINESEG) -> dict[str, Any]:
    """Takes all corrections of a label map back, byte for byte: label map, sidecar and picture; copies are made anew.

    Returns:
        What the sidecar says now.

    Raises:
        RelabelError: it was never corrected, its original is gone, it holds edits by hand, which would be lost, or a
            picture that is there cannot be drawn again. Nothing is written then.
        ValueError: a copy that is there cannot be made again, see :func:`copies_again`. Nothing is written then.
        OSError: the folder cannot be written to.
    """
    path = Path(label_path)
    kept, kept_sidecar = original_of(path), original_of(sidecar_of(path))
    if not kept.is_file() or not kept_sidecar.is_file():
        raise RelabelError(f"{path}: no {kept.name} beside it; expected the label map from before its first correction")
    record = json_beside(path)
    if record and not _is_original(kept, record, path):
        raise RelabelError(
            f"{path}: {kept.name} beside it was not corrected to this label map; expected the one from before its "
            "first correction. Fix: delete it, the next correction keeps another"
        )
    if path.is_file() and _holds_edits(path, kept, record):
        raise RelabelError(
            f"{path}: was edited by hand, which --undo would lose. Fix: move it to another folder to keep it, or "
            "delete it, and call --undo again, which brings the original back"
        )
    record = json.loads(kept_sidecar.read_text(encoding="utf-8"))
    label = _volume(kept, anatomy)
    copies = copies_again(ScanFiles.beside(path), label.array, label.affine, anatomy, record)
    _draw_again(path, scans_of([path], path.parent).get(path), label, record, anatomy, changed=True)
    write_copies(copies)
    # A kill between any two of these leaves a label map that one of the sidecars knows, and the originals.
    write_atomically(path, kept.read_bytes())
    write_atomically(sidecar_of(path), kept_sidecar.read_bytes())
    kept.unlink()
    kept_sidecar.unlink()
    return record_beside(path)


def _holds_edits(path: Path, kept: Path, record: Mapping[str, Any]) -> bool:
    """Whether a label map is more than its original and corrections: somebody changed its pixels in between or since.

    Edits before the first correction are in the original.
    """
    if any(entry["Before"]["EditedByHand"] for entry in record.get(CORRECTIONS, [])[1:]):
        return True
    known = {record.get("Sha256"), record.get("Replaces"), file_sha256(kept)}
    return file_sha256(path) not in known


def _read(path: Path) -> tuple[bytes, dict[str, Any]]:
    """Bytes and sidecar of a label map."""
    if not path.is_file():
        raise RelabelError(f"{path}: no such label map; expected one that 'cps4 segment' wrote")
    record = record_beside(path)
    if not record:
        raise RelabelError(
            f"{path}: has no JSON of {GENERATOR} beside it, so that nothing is known of its weights and its scan; "
            "expected a label map that 'cps4 segment' wrote, with its JSON"
        )
    return path.read_bytes(), record


def _was_applied(correction: Correction, record: Mapping[str, Any], digest: str) -> bool:
    """Whether the last correction is this one: a file of corrections may be applied again after a kill."""
    entries = record.get(CORRECTIONS, [])
    if not entries or record.get("Sha256") != digest or entries[-1]["Said"] != correction.said:
        return False
    last = entries[-1]
    if correction.label_sha256 is not None:
        return bool(last["Before"]["Sha256"] == correction.label_sha256)
    # Of no label map that is named: the same words of the same person at the same time.
    return bool(correction.made) and (last["Date"], last["By"]) == (correction.made, correction.by or last["By"])


def _of_these_labels(path: Path, record: dict[str, Any], digest: str) -> dict[str, Any]:
    """The record of the label map that is there, also where a kill left it with the record of its first correction.

    Raises:
        RelabelError: another command was interrupted: the record is of other labels.
    """
    if record.get("Sha256") == digest or record.get("Replaces") != digest:
        return record  # its own, or the label map was edited by hand since
    kept = original_of(path)
    if is_described(kept) and hashlib.sha256(kept.read_bytes()).hexdigest() == digest:
        return record_beside(kept)
    raise RelabelError(
        f"{path}: found a JSON of labels that are not there, because a command was interrupted; expected one that "
        "describes the label map. Fix: take its corrections back with --undo and say them again; without any, run the "
        "same 'cps4 segment' again"
    )


def _check_same(path: Path, correction: Correction, record: Mapping[str, Any], digest: str) -> None:
    if correction.label_sha256 is not None and correction.label_sha256 != digest:
        raise RelabelError(
            f"{path}: is not the label map that was looked at (its SHA-256 is {digest[:12]}..., expected "
            f"{correction.label_sha256[:12]}...). Fix: make the page again with 'cps4 report' and look at it there"
        )
    weights = weights_sha256(record)
    if correction.weights_sha256 is not None and correction.weights_sha256 != weights:
        raise RelabelError(
            f"{path}: was made with weights {str(weights)[:12]}..., the corrections are of "
            f"{correction.weights_sha256[:12]}.... Fix: apply them to the results that the page shows"
        )


def _of_the_scan_there(path: Path, scan: Path | None, correction: Correction, record: dict[str, Any]) -> dict[str, Any]:
    """The record; of the scan as it is now where it was exchanged since, and a person who names its label map accepts.

    Raises:
        RelabelError: it was exchanged, and a file of corrections speaks of the scan before.
    """
    if scan is None or not is_of_another_scan(record, scan):
        return record
    if correction.label_sha256 is not None:
        raise RelabelError(
            f"{path}: was made of another scan than {scan} is now; expected the scan that was looked at. Fix: put it "
            f"back as it was; if it is the same picture, and was only written anew, 'cps4 relabel {path} --accept' "
            "comes first"
        )
    if not correction.accepted:
        logger.warning("%s: was made of another scan than %s is now, of which it is no label map", path, scan)
        return record
    logger.warning("%s: was made of another scan than %s is now; it counts as a label map of this one", path, scan)
    return {**record, **source_entries(scan)}


def _volume(path: Path, anatomy: Anatomy) -> Volume:
    try:
        check_anatomy_of(path, anatomy)
    except ValueError as error:
        raise RelabelError(str(error)) from error
    spacing = assumed_spacing_of(path)
    return read_volume(
        path, is_label=True, num_classes=anatomy.num_classes, assume_spacing=spacing, partly_annotated=True
    )


def _keep_original(path: Path, content: bytes) -> Path:
    """Copies label map and sidecar aside before the first correction; takes the place of another label map's."""
    kept, record = original_of(path), record_beside(path)
    if not record.get(CORRECTIONS) or not _is_original(kept, record, path):
        sidecar = sidecar_of(path)
        write_atomically(original_of(sidecar), sidecar.read_bytes())
        write_atomically(kept, content)
    return kept


def _is_original(kept: Path, record: Mapping[str, Any], path: Path) -> bool:
    """Whether the hidden label map is what a correction of this one began with, or this one itself."""
    if not kept.is_file():
        return False
    begun = [entry["Before"]["Sha256"] for entry in record.get(CORRECTIONS) or []]
    return file_sha256(kept) in (begun or [file_sha256(path)])


def _draw_again(
    path: Path, scan: Path | None, label: Volume, record: Mapping[str, Any], anatomy: Anatomy, *, changed: bool
) -> None:
    """The picture of a label map that had one; without its scan it stays as it is, on black where labels changed."""
    picture = ScanFiles.beside(path).picture
    if not picture.exists():
        return
    name = picture.name.removesuffix("_qc.png")
    if scan is None:
        if not changed:
            return
        logger.warning("%s: the scan of %s is not there any more, so that it is drawn on black", picture, path.name)
    try:
        draw_mask(picture, label, scan, record, anatomy, name)
    except InvalidVolumeError as error:
        raise RelabelError(
            f"{picture}: has to follow the label map, but {error}. Fix: put the scan back as it was, or take this "
            "picture away and make it again later with 'cps4 report'"
        ) from error


def _check_grid(path: Path, scan: Path, label: Volume, record: Mapping[str, Any]) -> None:
    """Checks that a label map lies on its scan; one that cannot be read any more says nothing.

    Raises:
        RelabelError: it lies elsewhere: what a person accepted is no label map of this scan.
    """
    try:
        image = load_scan(scan, label.spacing_mm, series_uid(record))
    except (ValueError, OSError) as error:
        logger.warning("%s cannot be read, so that nothing says whether %s lies on it: %s", scan, path.name, error)
        return
    try:
        check_pair(image, label)
    except InvalidVolumeError as error:
        raise RelabelError(str(error)) from error
