"""``corrections.json``: what a person said of the results of a run, scan by scan; written by the page, read here."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT, VERSION = "cps4_monai.corrections", 1
_TOP = {"format", "version", "weights_sha256", "by", "made", "scans"}
_ENTRY = {"scan", "label_sha256", "shift", "level", "wrong", "accepted", "comment"}


class CorrectionsError(ValueError):
    """A file of corrections that cannot be used; the message names the file and the entry."""


@dataclass(frozen=True)
class Correction:
    """What a person said of one label map.

    Attributes:
        scan: its name in ``scans.csv``; empty where the label map was named itself.
        shift: vertebral levels that the chain goes up; None: not asked for.
        level: (code in the label map, short name that is right); None: not asked for.
        wrong: codes, in the label map as it was looked at, of structures whose outline is wrong.
        accepted: a person looked, and the result is fine.
        label_sha256: of the label map that was looked at; None: whichever is there.
        weights_sha256: of the weights that made it; None: not known.
        by: who.
        made: when, as ISO 8601; empty: now.
        comment: for people.
    """

    scan: str = ""
    shift: int | None = None
    level: tuple[int, str] | None = None
    wrong: tuple[int, ...] = ()
    accepted: bool = False
    label_sha256: str | None = None
    weights_sha256: str | None = None
    by: str = ""
    made: str = ""
    comment: str = ""

    def __post_init__(self) -> None:
        if self.shift is not None and self.level is not None:
            raise ValueError("both a shift and a level; expected one of them, since a level says the shift")
        if self.accepted and self.wrong:
            raise ValueError("accepted, and structures marked as wrong; expected one of the two")
        if self.shift is None and self.level is None and not self.wrong and not self.accepted:
            raise ValueError("nothing said; expected a shift, a level, wrong structures or accepted")

    @property
    def said(self) -> dict[str, Any]:
        """What is said, as a sidecar keeps it."""
        said = {
            "Shift": self.shift,
            "Level": None if self.level is None else list(self.level),
            "Wrong": list(self.wrong),
            "Accepted": self.accepted,
            "Comment": self.comment,
        }
        return {key: value for key, value in said.items() if value}


def read_corrections(path: str | Path) -> list[Correction]:
    """The corrections of a file, in its order.

    Raises:
        CorrectionsError: not readable, another format or version, unknown keys, values that cannot be used, or a scan
            named twice.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_bytes())  # with a byte-order mark, too, as editors add
    except (OSError, ValueError) as error:
        raise CorrectionsError(f"{path}: cannot be read as JSON ({error}). Fix: save it from the page again") from error
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        raise CorrectionsError(f"{path}: no 'format' {FORMAT!r}; expected the file that the page of a run saves")
    if content.get("version") != VERSION:
        raise CorrectionsError(
            f"{path}: version {content.get('version')!r}, expected {VERSION}. Fix: use the version of cps4_monai that "
            "made the page, or make the page again with 'cps4 report'"
        )
    _check_keys(content, _TOP, str(path))
    scans = content.get("scans")
    if not isinstance(scans, list):
        raise CorrectionsError(f"{path}: 'scans' is {scans!r}; expected a list of objects")
    corrections = [_entry(raw, content, f"{path}: scans[{row}]") for row, raw in enumerate(scans)]
    names = Counter(correction.scan for correction in corrections)
    twice = sorted(name for name, count in names.items() if count > 1)
    if twice:
        raise CorrectionsError(f"{path}: {', '.join(twice)} named twice; expected each scan once: leave one entry")
    return corrections


def _entry(raw: Any, content: Mapping[str, Any], where: str) -> Correction:
    if not isinstance(raw, Mapping) or not isinstance(raw.get("scan"), str) or not raw["scan"]:
        raise CorrectionsError(f"{where} is {raw!r}; expected an object with the scan's name as 'scan'")
    where = f"{where} ({raw['scan']})"
    _check_keys(raw, _ENTRY, where)
    _check_types(raw, content, where)
    try:
        return Correction(
            scan=raw["scan"],
            shift=raw.get("shift"),
            level=None if raw.get("level") is None else (raw["level"]["code"], raw["level"]["is"]),
            wrong=tuple(sorted(set(raw.get("wrong", ())))),
            accepted=raw.get("accepted", False),
            label_sha256=raw.get("label_sha256"),
            weights_sha256=content.get("weights_sha256"),
            by=content.get("by", ""),
            made=content.get("made", ""),
            comment=raw.get("comment", ""),
        )
    except ValueError as error:
        raise CorrectionsError(f"{where}: {error}") from error


def _check_keys(content: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(content.keys() - known)
    if unknown:
        raise CorrectionsError(f"{where}: unknown keys {unknown}; expected some of {sorted(known)}")


def _check_types(raw: Mapping[str, Any], content: Mapping[str, Any], where: str) -> None:
    level = raw.get("level")
    whole = level is None or (isinstance(level, Mapping) and level.keys() == {"code", "is"})
    wrong = raw.get("wrong", [])
    kinds = {
        "shift": raw.get("shift") is None or type(raw["shift"]) is int,
        "level": whole and (level is None or (type(level["code"]) is int and isinstance(level["is"], str))),
        "wrong": isinstance(wrong, list) and all(type(code) is int for code in wrong),
        "accepted": isinstance(raw.get("accepted", False), bool),
        "label_sha256": isinstance(raw.get("label_sha256"), str | None),
        "weights_sha256": isinstance(content.get("weights_sha256"), str | None),
        **{key: isinstance(content.get(key, ""), str) for key in ("by", "made")},
        "comment": isinstance(raw.get("comment", ""), str),
    }
    forms = {"shift": "a whole number", "level": '{"code": 4, "is": "L5"}', "wrong": "a list of codes"}
    for key, right in kinds.items():
        if not right:
            value = {**content, **raw}[key]
            expected = forms.get(key, "true or false" if key == "accepted" else "text")
            raise CorrectionsError(f"{where}: {key!r} is {value!r}; expected {expected}")
