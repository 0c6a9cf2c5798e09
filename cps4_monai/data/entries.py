"""What a datalist holds: entries on three sides, and the settings that every form of it shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cps4_monai.anatomy import Anatomy
from cps4_monai.scan_names import patient_of

SIDES = ("training", "validation", "test")


class DatalistError(ValueError):
    """A datalist that cannot be used; the message names the file, what was found and how to fix it."""


@dataclass(frozen=True)
class Entry:
    """One scan of a datalist.

    >>> entry = Entry(Path("sub-003_T2w.nii.gz"), None, "sub-003")
    >>> entry.label is None, entry.patient
    (True, 'sub-003')

    Attributes:
        image: the scan's file.
        label: its label map; None where it has none or must not use it.
        subject: name of the scan: the patient with session, acquisition and run where there are such.
        classes: codes that the label map shows, where the datalist records them.
        patient: the person, who may be on several scans; by default what ``subject`` says.
    """

    image: Path
    label: Path | None
    subject: str
    classes: tuple[int, ...] | None = None
    patient: str = ""

    def __post_init__(self) -> None:
        if not self.patient:
            object.__setattr__(self, "patient", patient_of(self.subject))


@dataclass(frozen=True)
class Datalist:
    """Scans by side of the split.

    Attributes:
        training: labeled entries and, with ``label`` None, unlabeled ones.
        validation: labeled entries that choose the best weights.
        test: labeled entries kept out of every choice.
        unannotated: class codes that are in view but never labeled.
        structures: short names of the label maps' codes, where the datalist records them.
        warnings: one sentence for each thing worth knowing.
        name: the datalist's name.
        path: file that it was read from; None: of none.
        passed_over: scans in a list that is not read, which has Auto3DSeg's name for the test, ``testing``.
    """

    training: tuple[Entry, ...] = ()
    validation: tuple[Entry, ...] = ()
    test: tuple[Entry, ...] = ()
    unannotated: tuple[int, ...] = ()
    structures: Mapping[int, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = field(default=(), compare=False)
    name: str = ""
    path: Path | None = field(default=None, compare=False)
    passed_over: int = field(default=0, compare=False)

    @property
    def labeled(self) -> tuple[Entry, ...]:
        """Training entries that are used with their label."""
        return tuple(e for e in self.training if e.label is not None)

    @property
    def unlabeled(self) -> tuple[Entry, ...]:
        """Training entries that are used without a label."""
        return tuple(e for e in self.training if e.label is None)

    @property
    def sides(self) -> dict[str, tuple[Entry, ...]]:
        """Entries by the name of their side."""
        return {side: getattr(self, side) for side in SIDES}

    @property
    def told(self) -> str:
        """How messages name it."""
        return str(self.path or f"datalist {self.name or '(unnamed)'}")

    def check_anatomy(self, anatomy: Anatomy) -> None:
        """Checks that its codes mean what they mean in an anatomy.

        Raises:
            DatalistError: an unannotated code is no structure of the anatomy, or a recorded name is that of another.
        """
        check_unannotated(self.unannotated, anatomy, f"{self.told}: 'unannotated'")
        names = dict(enumerate(anatomy.names))
        wrong = anatomy.named_otherwise(self.structures)
        other = [f"{code} {name!r}, not {names.get(code)!r}" for code, name in wrong.items()]
        if other:
            raise DatalistError(
                f"{self.told}: its label maps have other structures than the anatomy: code {', '.join(other)}; "
                "expected the same names. Fix: give the anatomy that the datalist was made with (`cps4 train` by --set "
                "anatomy_source=FILE, `cps4 report` by --anatomy FILE; fine-tuning and evaluation have that of the "
                "weights), or a datalist of this one"
            )

    def to_segment(self) -> tuple[Entry, ...]:
        """Scans that inference segments: those of the test, or all where there is none.

        Raises:
            DatalistError: those of the test stand in a list that is not read.
        """
        if self.passed_over and not self.test:
            raise DatalistError(
                f"{self.told}: has {self.passed_over} scans under 'testing', which is not read, and none under 'test'. "
                "Fix: call that list 'test', each entry an object with the file name as 'image'"
            )
        return self.test or (*self.training, *self.validation)

    def require(self, *parts: str) -> None:
        """Checks that each of the named parts has an entry.

        Args:
            parts: any of labeled, unlabeled, training, validation, test.

        Raises:
            DatalistError: a part is empty, or there is none of that name.
        """
        fixes = {
            "labeled": "give training entries a 'label', or choose a larger labeled share",
            "unlabeled": "add training entries without 'label', choose a smaller labeled share, or train with the "
            "method 'supervised', which uses none",
        }
        for part in parts:
            if part not in (known := ("labeled", "unlabeled", *SIDES)):
                raise DatalistError(f"{self.told}: has no part {part!r}; expected one of {', '.join(known)}")
            if not getattr(self, part):
                fix = fixes.get(part, f"add entries to {part!r}")
                raise DatalistError(f"{self.told}: no {part} subject; expected at least one: {fix}")


def share_size(share: str) -> float:
    """A recorded share as a number, by which they are put in order; a subset with another name comes last."""
    try:
        return float(share)
    except ValueError:
        return float("inf")


def chosen_subset(subsets: Mapping[str, Sequence[str]], share: str, path: Path) -> set[str]:
    """Subjects of a recorded subset.

    Raises:
        DatalistError: the file does not record that share.
    """
    if share not in subsets:
        raise DatalistError(
            f"{path}: no labeled share {share!r}; the file records {sorted(subsets, key=share_size)}: choose one of "
            "them, or rebuild the datalist with 'cps4 datalist --labeled-share'"
        )
    return set(subsets[share])


def check_unannotated(unannotated: Sequence[int], anatomy: Anatomy, what: str) -> None:
    """Checks codes that are in view but never labeled.

    Args:
        unannotated: the codes.
        anatomy: the classes.
        what: begins the message.

    Raises:
        DatalistError: one of them is no structure of the anatomy.
    """
    wrong = sorted(set(unannotated) - {s.code for s in anatomy.foreground})
    if wrong:
        known = ", ".join(f"{s.code} ({s.name})" for s in anatomy.foreground)
        raise DatalistError(
            f"{what} has {wrong}; expected codes of the anatomy's structures: {known}. Fix: take the others out"
        )


def structures(content: Mapping[str, Any], path: Path) -> dict[int, str]:
    """The names of codes that a datalist records; none where it does not.

    Raises:
        DatalistError: not an object of a name for each code.
    """
    named = content.get("structures", {})
    if not isinstance(named, dict) or not all(
        code.isdecimal() and isinstance(name, str) for code, name in named.items()
    ):
        raise DatalistError(
            f"{path}: 'structures' is {named!r}; expected the short name for each code of the label maps, e.g. "
            '{"1": "S", "2": "L5"}'
        )
    return {int(code): name for code, name in named.items()}


def codes(content: Mapping[str, Any], path: Path) -> tuple[int, ...]:
    """The ``unannotated`` class codes of a datalist.

    Raises:
        DatalistError: not a list of whole numbers above 0.
    """
    values = content.get("unannotated", [])
    if not isinstance(values, list) or not all(type(v) is int and v > 0 for v in values):
        raise DatalistError(f"{path}: 'unannotated' is {values!r}; expected a list of class codes, e.g. [1]")
    return tuple(sorted(set(values)))
