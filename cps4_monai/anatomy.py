"""The structures of the spine in one table: codes, names, kinds, order along the spine, and their class prompts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

DEFAULT_PROMPT_TEMPLATE = "A magnetic resonance image of a {name}"
KINDS = ("background", "sacrum", "vertebra", "disc", "other")
# Value of a label map's voxels that nobody annotated: no loss, no metric and no pseudo-label come from them.
NOT_ANNOTATED = 255
# SNOMED CT by (kind, name): DICOM PS3.16, CID 7603 and 7604 (vertebrae, discs); each checked against its own meaning.
_SNOMED_CT = {
    ("sacrum", "S"): ("54735007", "Sacrum"),
    ("vertebra", "L5"): ("49668003", "L5 vertebra"),
    ("vertebra", "L4"): ("11994002", "L4 vertebra"),
    ("vertebra", "L3"): ("36470004", "L3 vertebra"),
    ("vertebra", "L2"): ("14293000", "L2 vertebra"),
    ("vertebra", "L1"): ("66794005", "L1 vertebra"),
    ("vertebra", "T12"): ("23215003", "T12 vertebra"),
    ("vertebra", "T11"): ("12989004", "T11 vertebra"),
    ("vertebra", "T10"): ("7610001", "T10 vertebra"),
    ("vertebra", "T9"): ("82687006", "T9 vertebra"),
    ("disc", "L5/S"): ("715056000", "L5/S1 disc"),
    ("disc", "L4/L5"): ("84020006", "L4/L5 disc"),
    ("disc", "L3/L4"): ("62551000", "L3/L4 disc"),
    ("disc", "L2/L3"): ("67459009", "L2/L3 disc"),
    ("disc", "L1/L2"): ("80064006", "L1/L2 disc"),
    ("disc", "T12/L1"): ("76206002", "T12/L1 disc"),
    ("disc", "T11/T12"): ("1537001", "T11/T12 disc"),
    ("disc", "T10/T11"): ("34959001", "T10/T11 disc"),
    ("disc", "T9/T10"): ("113209001", "T9/T10 disc"),
}


@dataclass(frozen=True)
class Structure:
    """One class of a label map.

    Attributes:
        code: value in the label map and channel of the network's output; 0 is background.
        name: short name, e.g. "L5" or "L4/L5".
        long_name: the name that goes into the class prompt, e.g. "lumbar vertebra 5".
        kind: one of ``KINDS``.
        order: place along the spine, counted from the most inferior structure (0) upwards; None where there is none.
        snomed: code in SNOMED CT; None: that of the structure of MRSpineSeg with this kind and name, if there is one.
        snomed_meaning: what that code means, in SNOMED's words.
    """

    code: int
    name: str
    long_name: str
    kind: str
    order: int | None = None
    snomed: str | None = None
    snomed_meaning: str | None = None

    @property
    def plain_name(self) -> str:
        """A name that says what it is where it stands alone: "vertebra L5", "disc L4/L5", "sacrum"."""
        return f"{self.kind} {self.name}" if self.kind in ("vertebra", "disc") else self.long_name

    @property
    def standard_code(self) -> tuple[str, str] | None:
        """Code and meaning in SNOMED CT, its own or that of its kind and name; None where there is none."""
        if self.snomed is not None:
            return str(self.snomed), self.snomed_meaning or self.long_name
        return _SNOMED_CT.get((self.kind, self.name))

    def to_dict(self) -> dict[str, Any]:
        """Its fields; the optional codes only where it has some of its own, so that older plans compare equal."""
        return {k: v for k, v in vars(self).items() if v is not None or not k.startswith("snomed")}


class Anatomy:
    """An ordered set of structures and the prompt template that names them to the text encoder.

    >>> from cps4_monai.anatomy import MRSPINESEG
    >>> MRSPINESEG.num_classes, MRSPINESEG.code_of("L5"), MRSPINESEG[11].name
    (20, 2, 'L5/S')
    >>> MRSPINESEG.prompts[2]
    'A magnetic resonance image of a lumbar vertebra 5'

    Args:
        structures: one entry per class, codes 0 to C-1 without gaps, 0 being the background.
        prompt_template: text with the field ``{name}``, filled with each structure's long name.

    Raises:
        ValueError: a field of another type; codes with gaps or repeated or above 254, names or orders repeated, an
            unknown kind; a template that has no ``{name}`` or cannot be filled.
    """

    def __init__(self, structures: Sequence[Structure], prompt_template: str = DEFAULT_PROMPT_TEMPLATE) -> None:
        for place, structure in enumerate(structures):
            _check_fields(structure, place, _types(structure))
        self.structures = tuple(sorted(structures, key=lambda s: s.code))
        self.prompt_template = prompt_template
        codes = [s.code for s in self.structures]
        if len(codes) < 2 or codes != list(range(len(codes))):
            raise ValueError(f"structure codes are {codes}; expected 0 (background) to C-1 without gaps: renumber them")
        if len(codes) > NOT_ANNOTATED:
            raise ValueError(
                f"{len(codes)} structures; expected at most {NOT_ANNOTATED}, because label maps are uint8 and "
                f"{NOT_ANNOTATED} is the value of voxels that nobody annotated"
            )
        names = [s.name for s in self.structures]
        repeated = sorted({n for n in names if names.count(n) > 1})
        if repeated:
            raise ValueError(f"structure names {repeated} occur twice; give each structure a name of its own")
        unknown = sorted({s.kind for s in self.structures} - set(KINDS))
        if unknown:
            raise ValueError(f"structure kinds {unknown} are unknown; expected one of {list(KINDS)}")
        _check_orders(self.structures)
        _check_template(prompt_template)

    def __len__(self) -> int:
        return len(self.structures)

    def __getitem__(self, code: int) -> Structure:
        return self.structures[code]

    def __repr__(self) -> str:
        return f"Anatomy({', '.join(self.names)})"

    @property
    def num_classes(self) -> int:
        """Number of classes, background included: the C of every (B, C, H, W)."""
        return len(self.structures)

    @property
    def names(self) -> list[str]:
        """Short names, by code."""
        return [s.name for s in self.structures]

    @property
    def foreground(self) -> tuple[Structure, ...]:
        """All structures but the background, by code."""
        return self.structures[1:]

    @cached_property
    def prompts(self) -> list[str]:
        """Class prompts, by code (paper, section 2.1)."""
        return [self.prompt_template.format(name=s.long_name) for s in self.structures]

    def along_spine(self) -> tuple[Structure, ...]:
        """Structures that have an order, from inferior to superior."""
        return tuple(sorted((s for s in self.structures if s.order is not None), key=lambda s: s.order or 0))

    def channel_def(self) -> dict[str, str]:
        """The ``channel_def`` of a bundle's metadata.json: channel -> plain name, which MONAI Label shows."""
        return {str(s.code): s.plain_name for s in self.structures}

    def code_of(self, name: str) -> int:
        """Code of a short name.

        Raises:
            ValueError: no structure has that name.
        """
        for structure in self.structures:
            if structure.name == name:
                return structure.code
        raise ValueError(f"no structure is called {name!r}; expected one of {self.names}")

    def named_otherwise(self, names: Mapping[int, str]) -> dict[int, str]:
        """Of short names by code those that this anatomy does not give to that code."""
        own = dict(enumerate(self.names))
        return {code: name for code, name in names.items() if own.get(code) != name}

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, the form that :func:`load_anatomy` reads and checkpoints keep."""
        return {"prompt_template": self.prompt_template, "structures": [s.to_dict() for s in self.structures]}


_Checks = tuple[tuple[str, bool, str], ...]  # field, whether it is right, what is expected


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _types(structure: Structure) -> _Checks:
    """Those without which nothing can sort and compare structures, or fill a prompt."""
    return (
        ("code", _whole(structure.code), "a whole number"),
        ("name", _text(structure.name), "text"),
        ("long_name", isinstance(structure.long_name, str), "text, which goes into the class prompt"),
        ("kind", _text(structure.kind), f"one of {list(KINDS)}"),
        ("order", structure.order is None or _whole(structure.order), "a whole number, or null where it has no place"),
    )


def _words(structure: Structure) -> _Checks:
    """What a person writes with a meaning; weights whose plan has it otherwise work all the same."""
    return (
        ("long_name", _text(structure.long_name), "text, which goes into the class prompt"),
        ("snomed", structure.snomed is None or _text(structure.snomed), "text in quotes, or null"),
        ("snomed_meaning", structure.snomed_meaning is None or _text(structure.snomed_meaning), "text, or null"),
    )


def _check_fields(structure: Structure, place: int, checks: _Checks) -> None:
    for field, right, expected in checks:
        if not right:
            raise ValueError(
                f"structure {place} (counted from 0; name {structure.name!r}): {field} is "
                f"{getattr(structure, field)!r}; expected {expected}. Fix: correct it"
            )


def _check_background(structures: Sequence[Structure]) -> None:
    first = structures[0]
    if first.kind != "background":
        raise ValueError(
            f"structure {first.name!r}: code 0 has kind {first.kind!r}; expected 'background', what no structure "
            "covers. Fix: give the structure another code, and code 0 to the background"
        )
    others = [s.name for s in structures[1:] if s.kind == "background"]
    if others:
        raise ValueError(
            f"structures {others} have kind 'background'; expected it of code 0 alone. Fix: call them 'other'"
        )
    if first.order is not None:
        raise ValueError(
            f"the background {first.name!r} has order {first.order}; expected none: it has no place along the spine. "
            "Fix: leave its order out"
        )


def _check_orders(structures: Sequence[Structure]) -> None:
    at: dict[int, list[str]] = {}
    for structure in structures:
        if structure.order is not None:
            at.setdefault(structure.order, []).append(structure.name)
    for order, names in at.items():
        if len(names) > 1:
            raise ValueError(
                f"structures {names} all have order {order}; expected each place along the spine once, as levels are "
                "numbered by it. Fix: count from the most inferior structure (0) upwards"
            )


def _check_template(template: str) -> None:
    expected = "it must contain the field {name}"
    if not isinstance(template, str):
        raise ValueError(f"prompt_template is {template!r}; expected text: {expected}")
    mark = "\0"
    try:
        filled = template.format(name=mark)
    except (LookupError, ValueError, AttributeError) as error:
        raise ValueError(
            f"prompt_template is {template!r}, which cannot be filled ({type(error).__name__}: {error}); {expected}, "
            "and no other. Fix: write {{ and }} for braces that are meant"
        ) from error
    if "{name}" not in template or mark not in filled:
        raise ValueError(f"prompt_template is {template!r}; {expected}")


def _vertebra(code: int, region: str, number: int, order: int) -> Structure:
    word = {"L": "lumbar", "T": "thoracic"}[region]
    return Structure(code, f"{region}{number}", f"{word} vertebra {number}", "vertebra", order)


def _disc(code: int, upper: str, lower: str, order: int) -> Structure:
    words = {"L": "lumbar vertebra", "T": "thoracic vertebra"}
    low = "the sacrum" if lower == "S" else f"{lower[1:]}" if lower[0] == upper[0] else f"{words[lower[0]]} {lower[1:]}"
    return Structure(
        code, f"{upper}/{lower}", f"intervertebral disc between {words[upper[0]]} {upper[1:]} and {low}", "disc", order
    )


def _mrspineseg() -> list[Structure]:
    """The 20 classes of MRSpineSeg (Pang et al.): S, then vertebrae L5 to T9, then discs L5/S to T9/T10."""
    levels = ["L5", "L4", "L3", "L2", "L1", "T12", "T11", "T10", "T9"]
    table = [Structure(0, "background", "background", "background"), Structure(1, "S", "sacrum", "sacrum", 0)]
    table += [_vertebra(2 + i, v[0], int(v[1:]), 2 * (i + 1)) for i, v in enumerate(levels)]
    lowers = ["S", *levels[:-1]]
    table += [
        _disc(11 + i, upper, lower, 2 * i + 1) for i, (upper, lower) in enumerate(zip(levels, lowers, strict=True))
    ]
    return table


MRSPINESEG = Anatomy(_mrspineseg())


def load_anatomy(
    source: str | Path | Mapping[str, Any] | Anatomy | None = None,
    prompt_template: str | None = None,
    *,
    stored: bool = False,
) -> Anatomy:
    """Anatomy from a JSON file or a mapping; without a source the 20 structures of MRSpineSeg.

    Args:
        source: path of a JSON file, or a mapping, with ``structures`` (a list of objects with the fields of
            :class:`Structure`) and, optionally, ``prompt_template``; or of the ``plan.json`` beside weights.
        prompt_template: overrides the source's.
        stored: the source is kept with finished weights, which open with what a person's file may not have: a code 0
            that is not the background, a background elsewhere or with an order, an empty long name, a number as code
            of SNOMED CT.

    Raises:
        ValueError: the file or mapping does not have that form, or is no anatomy (see :class:`Anatomy`); names it.
    """
    if isinstance(source, Anatomy):
        return source if prompt_template is None else Anatomy(source.structures, prompt_template)
    if source is None:
        return Anatomy(MRSPINESEG.structures, prompt_template or DEFAULT_PROMPT_TEMPLATE)
    if not isinstance(source, Mapping | str | Path):
        raise ValueError(
            f"anatomy is {source!r}; expected the path of a JSON file. Fix: give it, or null for the usual"
        )
    where = "anatomy" if isinstance(source, Mapping) else str(source)
    if not isinstance(source, Mapping):
        try:
            source = json.loads(Path(source).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{where}: cannot be read as an anatomy file ({error}); expected JSON with 'structures'"
            ) from error
    if isinstance(source, Mapping) and "structures" not in source and isinstance(source.get("anatomy"), Mapping):
        source, stored = source["anatomy"], True  # the plan beside weights
    if not isinstance(source, Mapping) or not isinstance(source.get("structures"), Sequence):
        raise ValueError(f"{where}: no list 'structures'; expected objects with code, name, long_name, kind and order")
    try:
        structures = [Structure(**entry) for entry in source["structures"]]
    except TypeError as error:
        raise ValueError(
            f"{where}: a structure has wrong fields ({error}); expected code, name, long_name, kind, order, and "
            "snomed and snomed_meaning where it has a code of its own"
        ) from error
    try:
        anatomy = Anatomy(structures, prompt_template or source.get("prompt_template", DEFAULT_PROMPT_TEMPLATE))
        if not stored:
            for place, structure in enumerate(structures):
                _check_fields(structure, place, _words(structure))
            _check_background(anatomy.structures)
        return anatomy
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
