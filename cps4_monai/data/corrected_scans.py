"""Scans of a folder of results: label maps that a person corrected or accepted are labels, the rest has none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cps4_monai.data.entries import DatalistError
from cps4_monai.data.label_ownership import is_of_another_scan, is_ours
from cps4_monai.data.label_review import (
    ACCEPTED,
    CORRECTED,
    CORRECTIONS,
    NAMELESS,
    STATES,
    TRUSTED,
    WRONG,
    is_doubtful,
    reviewed_label,
)
from cps4_monai.data.scan_folder import FoundScans, Scan
from cps4_monai.data.scans_of_labels import scans_of
from cps4_monai.scan_names import find_nifti, identify, is_nifti


def corrected_scans(folder: str | Path, images: str | Path | None = None) -> FoundScans:
    """Scans that a folder of `cps4 segment` is about, with the label maps that people stand for.

    A label map counts as a label where a person accepted it, or shifted it and marked nothing in it as wrong, and it is
    still what it was then. All other scans of the folder are unlabeled, and so is one that was shifted while
    `unusual_contrast` stands on it, until a person accepts it, and one whose scan is another than it was made of.

    Args:
        folder: with label maps and their sidecars, searched.
        images: folder of the scans, where they no longer lie where they were segmented; they are found by their names.

    Raises:
        DatalistError: no folder, no result in it, or none that a person stands for and whose scan is there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatalistError(f"{folder}: no such folder; expected the one of 'cps4 segment -o'")
    results = _results(folder)
    found = {} if images is None else scans_of([path for path, _, _ in results], folder, images)
    image_of = {path: found.get(path, Path(record["Sources"][0])) for path, _, record in results}
    with_scan = [one for one in results if _is_scan(image_of[one[0]])]
    usable = _one_a_scan(with_scan, image_of)
    lost = [str(image_of[path]) for path, _, _ in results if not _is_scan(image_of[path])]
    doubtful = [path for path, state, record in usable if state and is_doubtful(record)]
    sure = [(path, record) for path, state, record in usable if state in TRUSTED and path not in doubtful]
    exchanged = [path for path, record in sure if is_of_another_scan(record, image_of[path])]
    aside = [*_told(doubtful, _DOUBTFUL), *_told(exchanged, _EXCHANGED), *_told(_edited(results), _EDITED)]
    labels = {path for path, _ in sure}.difference(exchanged)
    if not labels:
        told = "".join(f" ({warning})" for warning in (*aside, *_of_lost(lost)))
        if not exchanged and any(state in TRUSTED and not is_doubtful(record) for _, state, record in results):
            raise DatalistError(
                f"{folder}: no scan is there whose label map a person corrected or accepted{told}; expected one or "
                "more. Fix: name the folder in which the scans lie now with --images"
            )
        raise DatalistError(
            f"{folder}: {len(results)} results, none corrected or accepted by a person{told}; expected one or "
            f"more. Fix: 'cps4 relabel {folder} --corrections corrections.json', or 'cps4 relabel "
            "<scan>_dseg.nii.gz --accept'"
        )
    scan_files = [image_of[path] for path, _, _ in usable]
    names = identify(scan_files)
    scans = [
        Scan(image, path if path in labels else None, name.subject, name.patient)
        for image, name, (path, _, _) in zip(scan_files, names, usable, strict=True)
    ]
    marked = sum(state == WRONG for _, state, _ in usable)
    raised = [path for path, _, record in usable if path in labels and is_without_its_sacrum(record)]
    warnings = (
        *_of_lost(lost),
        *_of_further(len(with_scan) - len(usable)),
        *_of_marked(marked),
        *aside,
        *_told(raised, _RAISED),
    )
    return FoundScans(tuple(sorted(scans, key=lambda s: s.subject)), warnings)


def codes_without_label(folder: str | Path) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Codes that no label map of the folder shows, because the weights that made it never saw them labeled.

    Returns:
        The codes, without those that a person drew in a label map that counts as a label; and a warning that names
        these where other such label maps lack them, and would teach that they are background.
    """
    results = _results(Path(folder))
    found: dict[int, str] = {}
    drawn: Counter[int] = Counter()
    trusted = [record for _, state, record in results if state in TRUSTED and not is_doubtful(record)]
    for _, _, record in results:
        found |= {s["code"]: s["name"] for s in record.get("Structures", []) if s.get("state") == "not_trained"}
    for record in trusted:  # until 0.4 what was drawn stayed "not_trained", with its volume
        drawn.update(s["code"] for s in record.get("Structures", []) if s["code"] in found and s.get("volume_ml"))
    partly = [f"{found[c]} (code {c}, in {n} of {len(trusted)})" for c, n in drawn.items() if n < len(trusted)]
    told = (
        f"structures that the weights never had are drawn in some label maps, not in all: {', '.join(partly)}; where "
        "they are in view in the others, they would be learned as background. Fix: draw them there, too, or mark them "
        "255 (not annotated), or name their codes by --unannotated"
    )
    return tuple(sorted(found.keys() - drawn.keys())), (told,) if partly else ()


def labels_in_words(labels: Sequence[str | Path | None]) -> str:
    """How many label maps, and how many of them people corrected or accepted.

    Args:
        labels: paths of label maps; None is left out.
    """
    states = Counter(reviewed_label(path)[0] for path in labels if path is not None)
    told = ", ".join(f"{states[s]} {_WORDS[s]}" for s in STATES if states[s])
    total = sum(states.values())
    return f"{total} labeled {'scan' if total == 1 else 'scans'}" + (f": {told}" if told else "")


_WORDS = {ACCEPTED: "accepted by a person", CORRECTED: "numbered anew by a person", WRONG: "with wrong structures"}


_Result = tuple[Path, str, dict[str, Any]]  # label map, what a person said of it as it is now, its sidecar


def _results(folder: Path) -> list[_Result]:
    results = [(path, *reviewed_label(path)) for path in find_nifti(folder)]
    return [(path, state, record) for path, state, record in results if record.get("Sources")]


def _one_a_scan(results: Sequence[_Result], image_of: Mapping[Path, Path]) -> list[_Result]:
    """One result of each scan: the one that a person stands for, where there are several.

    Raises:
        DatalistError: a person stands for several.
    """
    of_scan: dict[Path, list[_Result]] = {}
    for one in results:
        of_scan.setdefault(image_of[one[0]].resolve(), []).append(one)
    for scan, found in of_scan.items():
        sure = [path for path, state, _ in found if state in TRUSTED]
        if len(sure) > 1:
            raise DatalistError(
                f"{scan}: {len(sure)} label maps of this scan are corrected or accepted "
                f"({', '.join(map(str, sure[:3]))}); expected one. Fix: take all others out of this folder"
            )
        found.sort(key=lambda one: one[1] not in TRUSTED)
    return [found[0] for found in of_scan.values()]


def _edited(results: Sequence[_Result]) -> list[Path]:
    """Label maps that people changed and did not accept since: nobody has said that they are right."""
    return [path for path, state, _ in results if not state and not is_ours(path)]


def _is_scan(source: Path) -> bool:
    return is_nifti(source) and source.is_file()


def is_without_its_sacrum(record: Mapping[str, Any]) -> bool:
    """Whether a person made a vertebra of what was called sacrum: the true one, below it, has no label."""
    absent = {
        s["name"] for s in record.get("Structures", []) if s.get("kind") == "sacrum" and s.get("state") == "absent"
    }
    return any(absent & one.get("Renamed", {}).keys() for one in record.get(CORRECTIONS, []))


_DOUBTFUL = (
    f"label maps were numbered anew, but not accepted, while {NAMELESS} stands on them ({{}}), so that they are "
    "unlabeled. Fix: look at their outlines and, if they are right, 'cps4 relabel <scan>_dseg.nii.gz --accept'"
)
_EXCHANGED = (
    "label maps were made of another scan than lies there now ({}), so that they are unlabeled. Fix: put the scan back "
    "as it was; if it is the same picture, and was only written anew, look at it and 'cps4 relabel "
    "<scan>_dseg.nii.gz --accept' (with --images, where it lies elsewhere by now)"
)
_EDITED = (
    "label maps were changed in a viewer, and nobody accepted them since ({}), so that they are unlabeled. Fix: 'cps4 "
    "relabel <scan>_dseg.nii.gz --accept' where they are right"
)
_RAISED = (
    "label maps whose sacrum a person made a vertebra ({}): the true one below it would be learned as background. Fix: "
    "draw it in a viewer and accept them, or mark a structure as wrong, which leaves them unlabeled"
)


def _told(label_maps: Sequence[Path], words: str) -> list[str]:
    """A warning about label maps, with the name of the first of them; none where there are none."""
    return [f"{len(label_maps)} {words.format(_first([path.name for path in label_maps]))}"] if label_maps else []


def _of_lost(lost: Sequence[str]) -> list[str]:
    told = f"whose scan is gone or no NIfTI file (DICOM is not trained on): {_first(lost)}"
    return [f"{len(lost)} results left out, {told}"] if lost else []


def _of_further(count: int) -> list[str]:
    return [f"{count} results left out, of scans of which another one counts: nobody stands for them"] if count else []


def _first(names: Sequence[str]) -> str:
    """The first, and whether there are more."""
    return f"{names[0]}{' ...' if len(names) > 1 else ''}" if names else ""


def _of_marked(count: int) -> list[str]:
    told = "a structure marked as wrong, so that they are unlabeled: edit them in a viewer and accept them"
    return [f"{count} results have {told}"] if count else []
