"""Scans and patients by file names: every scan gets a name of its own, and no patient two."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import PurePath, PurePosixPath

from cps4_monai.scan_names.channels import further_channels
from cps4_monai.scan_names.file_name import PATIENT, FileName

_SESSION = re.compile(r"_ses-[A-Za-z0-9]+")
_CONTRAST = "t1|t2|t1w|t2w|t2star|pdw|flair|stir|tirm|dixon"
_WITH_CONTRAST = "pd|space|tse|fse|gre|fs|fatsat|gd|sag|sagittal|ax|axial|tra|cor|coronal"  # some are initials, too
_SEQUENCE = re.compile(rf"(?:[_ -](?:{_CONTRAST}|{_WITH_CONTRAST}))+$", re.IGNORECASE)
_SAYS_CONTRAST = re.compile(rf"[_ -](?:{_CONTRAST})(?![a-z0-9])", re.IGNORECASE)
_DAY = r"(?:19|20)\d\d-?(?:0[1-9]|1[0-2])-?(?:0[1-9]|[12]\d|3[01])"
_DATE = re.compile(rf"[_-]{_DAY}$")
_SESSION_FOLDER = re.compile(
    rf"ses[-_ ].+|(?:session|visit|time[-_ ]?point|follow[-_ ]?up)[-_ ]?\d*|(?:tp|fu)[-_ ]?\d+|baseline|{_DAY}",
    re.IGNORECASE,
)
_MAX_SESSIONS = 10  # of one person
_SPLIT_OR_SITE = re.compile(
    r"(?:train|training|val|valid|validation|test|testing|images(?:tr|ts)?|scans|data|raw|nifti)"
    r"|(?:site|cent(?:er|re)|hospital|scanner|batch|part|group|cohort)(?:[-_ ][a-z0-9]+|[a-z]|\d+)?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class ScanIdentity:
    """Who is on a scan.

    Attributes:
        subject: the scan's name, unique in its data set: all BIDS entities, the folder where names repeat.
        patient: the person; all scans of one belong on one side of a split.
    """

    subject: str
    patient: str


def subject_of(image: str | PurePath) -> str:
    """The scan's name by its file name alone: ``sub-001_ses-02_acq-sag_T2w.nii.gz`` -> ``sub-001_ses-02_acq-sag``."""
    name = FileName.of(image)
    return name.scan or name.path.parent.name or name.stem


def patient_of(subject: str) -> str:
    """Patient of a scan's name: ``sub-001_ses-02_run-1`` and ``site/sub-001`` -> ``sub-001``; ``x_ses-02`` -> ``x``."""
    bids = PATIENT.match(subject.rpartition("/")[2])
    return bids[0] if bids else _SESSION.sub("", subject)


def without_date(subject: str) -> str:
    """A scan's name without the date that it ends in: ``pat1_20200131`` and ``pat1_2020-01-31`` -> ``pat1``."""
    return _DATE.sub("", subject)


def without_sequence(subject: str) -> str:
    """A scan's name without words for contrast, sequence and plane, and dates, at its end: ``7_t2_SPACE`` -> ``7``."""
    shorter = without_date(_SEQUENCE.sub("", subject))
    return subject if shorter == subject else without_sequence(shorter)


def identify(images: Sequence[str | PurePath]) -> list[ScanIdentity]:
    """Names of all scans of a data set, in the order given.

    A scan is called by its file name (:func:`subject_of`). Where names repeat, the folder comes before
    (``p1/t2`` and ``p2/t2``), and decides who the patient is, unless the name does (``sub-``, nnU-Net's layout): the
    folder is the patient where there are at least as many folders as different names in them, as with one folder per
    patient; with fewer (``train/case1``, ``test/case1``, ...) every scan is a patient. The same rule decides between a
    folder and the one around it (``p1/first/t2``). Folders that are called after a session or a date are their
    patient's: ``p1/ses-01/t2``, ``p1/20200131/t2``, ``p1_20200131/t2`` are p1's; and where the name is the patient,
    ``visit1/p1`` is.

    Channels of one scan (:func:`further_channels`) are one patient, and so are names that differ in a date
    (:func:`without_date`) or in contrast and sequence (:func:`without_sequence`) at their end, unless all of them would
    be one.

    Args:
        images: paths, absolute or relative to one folder.
    """
    paths = [PurePath(os.path.normpath(image)) for image in images]
    names, channels = [FileName.of(path) for path in paths], further_channels(paths)
    simple = [subject_of(path) for path in paths]
    count = Counter(name.casefold() for name in simple)
    folders = _below_common([path.parent for path in paths])
    beside = Counter((path.parent, name.casefold()) for path, name in zip(paths, simple, strict=True))
    spread = defaultdict(set)
    for path, name in zip(paths, simple, strict=True):
        spread[name.casefold()].add(path.parent)
    subjects = []
    for path, file, own, folder in zip(paths, names, simple, folders, strict=True):
        within = file.stem if beside[path.parent, own.casefold()] > 1 else own
        apart = count[own.casefold()] > 1 and len(spread[own.casefold()]) > 1
        subjects.append(str(PurePosixPath(*folder, within)) if apart else within)
    by_folder = [
        index
        for index, name in enumerate(names)
        if not name.bids_patient and name.channel is None and name.path not in channels
    ]  # the others' names say who the patient is
    owners = dict(zip(by_folder, _owners([(*folders[i], simple[i]) for i in by_folder]), strict=True))
    told = [  # who is told by a name: channels of one scan have one
        subject if index in owners else channels.get(name.path, own)
        for index, (name, own, subject) in enumerate(zip(names, simple, subjects, strict=True))
    ]
    told = _unless_all_are_one(told, [_name_without_sessions(name) for name in told])
    undated = [without_date(subject) for subject in told]
    if len({short for subject, short in zip(told, undated, strict=True) if short != subject}) < 2:
        undated = told
    plain = _without_sequences(undated)
    return [
        ScanIdentity(subject, name.bids_patient or owners.get(index) or patient_of(plain[index]))
        for index, (name, subject) in enumerate(zip(names, subjects, strict=True))
    ]


def _without_sequences(names: Sequence[str]) -> list[str]:
    """Names without their words for the sequence where these make one name of several, and some of them say a contrast;
    as they are where all would be one.
    """
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)  # by name without words: that name, and its words
    for name in names:
        short = without_sequence(name)
        groups[short.casefold()].append((short, name[len(short) :]))
    if len(groups) < 2:
        return list(names)
    spelt = {
        key: group[0][0]  # one spelling for all scans of a patient
        for key, group in groups.items()
        if len(group) > 1 and any(_SAYS_CONTRAST.search(words) for _, words in group)
    }
    return [spelt.get(without_sequence(name).casefold(), name) for name in names]


def _below_common(folders: Sequence[PurePath]) -> list[tuple[str, ...]]:
    """Parts of each folder below the one that holds them all."""
    parts = [folder.parts for folder in folders]
    levels = zip(*parts, strict=False)  # as deep as the shallowest
    shared = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, levels))
    return [part[shared:] for part in parts]


def _owners(places: Sequence[tuple[str, ...]]) -> list[str]:
    """For each place (folders, then the scan's name) the folders that stand for its patient; "" where its name does."""
    left, levels = [tuple(part.casefold() for part in place) for place in places], 0
    while True:
        nested = [place for place in left if len(place) > 1]
        parents: dict[str, set[tuple[str, ...]]] = defaultdict(set)
        for place in nested:
            parents[place[-1]].add(place[:-1])
        repeated = any(len(where) > 1 for where in parents.values())
        if not repeated or len({place[:-1] for place in nested}) < len(parents):
            break
        left = [place[:-1] if len(place) > 1 else place for place in left]
        levels += 1
    if not levels:
        return ["" for _ in places]
    kept = ["/".join(place[: max(1, len(place) - levels)]) for place in places]
    kept = _without_sessions(kept)
    kept = _unless_all_are_one(kept, [_SESSION.sub("", without_date(owner)) for owner in kept])
    return ["" if len(place) == 1 else owner for place, owner in zip(places, kept, strict=True)]


def _without_sessions(owners: list[str]) -> list[str]:
    """Owners, of which ``p1/ses-01`` and ``p1/20200131`` are ``p1``.

    A folder holds the sessions of one patient where all in it are called after sessions or dates, and not more than a
    person has; one that is called after a split or a site does not.
    """
    while True:
        within: dict[str, set[str]] = defaultdict(set)
        for owner in owners:
            folder, _, last = owner.rpartition("/")
            within[folder].add(last)
        of_one = {
            folder
            for folder, parts in within.items()
            if folder and len(parts) <= _MAX_SESSIONS and not _SPLIT_OR_SITE.fullmatch(folder.rpartition("/")[2])
            if all(_SESSION_FOLDER.fullmatch(part) for part in parts)
        }
        shorter = [folder if (folder := owner.rpartition("/")[0]) in of_one else owner for owner in owners]
        if not of_one or len(set(shorter)) < 2:
            return owners
        owners = shorter


def _name_without_sessions(subject: str) -> str:
    """A scan's name, of which ``visit1/p1`` is ``p1``, unless its last part is words for the sequence: nobody's."""
    *folders, name = subject.split("/")
    if _SEQUENCE.fullmatch(f"_{name}"):
        return subject
    return "/".join([*(folder for folder in folders if not _SESSION_FOLDER.fullmatch(folder)), name])


def _unless_all_are_one(names: list[str], shorter: list[str]) -> list[str]:
    return shorter if len(set(shorter)) > 1 else names
