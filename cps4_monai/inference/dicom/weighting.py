"""What a DICOM series shows, by its description and its parameters: a localizer, its weighting, its plane."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

T2, T2_IN_PHASE = "T2-weighted", "T2-weighted, in phase of a Dixon scan"
T2_FAT_SUPPRESSED, UNKNOWN = "T2-weighted, fat suppressed", "of unknown weighting"
_OTHER_KIND = "of another kind by its description"
PLANES = ("sagittal", "coronal", "axial")

_LOCALIZER = re.compile(r"locali[sz]|scout|survey|topogram|\b(3|three) ?(plane|pl)s?\b")
# "LOC" alone says localizer, also beside a plane or a region; in "T2 sag LOC. HWS" it does not.
_ONLY_LOC = re.compile(
    r"^(?=.*\blocs?\b)(\b(locs?|sag|sagittal|cor|coronal|ax|axial|tra|transversal|quick|fast|[clt]|[clt] ?spine|spine|"
    r"[hbl]ws|mr|\d+|pl|planes?)\b ?)+$"
)
_START = r"(?:^|(?<=[^a-z])|(?<=sag)|(?<=tra)|(?<=cor)|(?<=[^a-z]s)|(?<=^s))"
_T2_STAR = re.compile(rf"{_START}t2 ?(\*|star|fl[23]d)|\b(medic|merge|swi|swan)\b|\bme2d")
_GRADIENT_ECHO = re.compile(r"\b(gre|gradient)\b")
_T2 = re.compile(rf"{_START}t2(?![0-9*])")
_T1 = re.compile(rf"{_START}t1(?![0-9])")
_PD = re.compile(r"\b(pd|pdw|proton|flair)\b")
# The fat image of a Dixon pair shows no discs; a map is no image.
_OTHER = re.compile(
    r"\b(dwi|dti|diff|ep2d|adc|myelo\w*|mip|angio|tof|map|mapping)\b|^fat\b(?! ?(sat|sup))|"
    r"\bfat\b(?! ?(sat|sup)).*\b(flex|ideal|dixon)\b|\b(flex|ideal|dixon)\b.*\bfat\b(?! ?(sat|sup))"
)
# The images of a Dixon scan, by a letter behind its name or at the end, or by a word: that of fat shows no discs, and
# those in and out of phase are the same picture as that of water.
_DIXON = re.compile(r"dixon|\b(flex|ideal)\b")
_END = r"(?: (?:nd|dis[23]d|norm))*$"
_OF_DIXON = {
    "fat": re.compile(rf"dixon(?: tse)? f\b(?! u\b)|dixon.*(?<![wh] )\bf{_END}"),
    "out of phase": re.compile(rf"\b(?:out|opp|opposed) ?phase\b|dixon.*\b(?:opp|oop|(?<!post )op|out){_END}"),
    "in phase": re.compile(rf"\bin ?phase\b|dixon.*\b(?:in|ip){_END}"),
}
_DIXON_TYPES = {
    "F": "fat",
    "FAT": "fat",
    "OP": "out of phase",
    "OPP_PHASE": "out of phase",
    "OUT_PHASE": "out of phase",
}
_FAT = re.compile(r"stir|tirm|\btir\b|\bfs\b|fat ?sat|spair|\bspir\b|dixon|water|fatsup")
_CONTRASTS = {
    "T2": T2,
    "STIR": T2_FAT_SUPPRESSED,
    "T1": "T1-weighted",
    "PROTON_DENSITY": "proton-density-weighted",
    "T2_STAR": "T2*-weighted",
    "DIFFUSION": "diffusion-weighted",
}


def is_localizer(description: str, image_type: Sequence[str]) -> bool:
    """Whether a series is a localizer, by its image type or a description that says so and little else."""
    text = plain_words(description)
    return (
        any("LOCALIZER" in value for value in image_type)
        or bool(_LOCALIZER.search(text))
        or bool(_ONLY_LOC.match(text))
    )


def weighting(description: str, contrast: Mapping[str, str], image_type: Sequence[str] = ()) -> str:
    """Weighting of a series in words: :data:`T2`, :data:`T2_IN_PHASE`, :data:`T2_FAT_SUPPRESSED`, another one or
    :data:`UNKNOWN`.

    What the description or the protocol's name says comes first, then enhanced MR's AcquisitionContrast, then the times
    of echo, repetition and inversion.

    Args:
        description: of the series.
        contrast: see :attr:`DicomHeader.contrast`.
        image_type: of the series, which may say that it is the fat image or that out of phase of a Dixon scan.
    """
    of_dixon = next((_DIXON_TYPES[value] for value in image_type[2:] if value in _DIXON_TYPES), "")
    if of_dixon:
        return f"of another kind by its image type ({of_dixon})"
    for text in (plain_words(description), plain_words(contrast.get("protocol", ""))):
        named = _named(text)
        if named:
            return named
    return _CONTRASTS.get(contrast.get("contrast", ""), "") or _timed(contrast)


def plane_of(orientation: Sequence[float] | None) -> str:
    """ "sagittal", "coronal" or "axial" by the normal of a slice's directions; empty where they are unknown."""
    if orientation is None:
        return ""
    normal = np.cross(orientation[:3], orientation[3:])
    return PLANES[int(np.abs(normal).argmax())]


def plain_words(text: str) -> str:
    """Small letters, with one space for anything that is no letter, digit or asterisk."""
    return re.sub(r"[^\w*]+|_+", " ", text.casefold()).strip()


def _named(text: str) -> str:
    if _OTHER.search(text) or (_PD.search(text) and not _T2.search(text)):
        return _OTHER_KIND
    if _DIXON.search(text):
        part = next((part for part, words in _OF_DIXON.items() if words.search(text)), "")
        if part in ("fat", "out of phase"):
            return _OTHER_KIND
        if part and _T2.search(text):
            return T2_IN_PHASE
    if _T2_STAR.search(text) or (_GRADIENT_ECHO.search(text) and _T2.search(text)):
        return "T2*-weighted"
    if _FAT.search(text) and not _T1.search(text):
        return T2_FAT_SUPPRESSED if _T2.search(text) or re.search(r"stir|tirm|\btir\b", text) else ""
    if _T2.search(text):
        return T2
    return "T1-weighted" if _T1.search(text) else ""


def _timed(contrast: Mapping[str, str]) -> str:
    def number(name: str) -> float:
        try:
            return float(contrast.get(name, "nan"))
        except ValueError:
            return float("nan")

    echo, repetition, inversion = number("echo"), number("repetition"), number("inversion")
    if "GR" in contrast.get("sequence", "").split():
        return UNKNOWN
    if 80 <= inversion <= 300:  # ms; the null of fat lies near 150 ms at 1.5 T and 220 ms at 3 T
        return T2_FAT_SUPPRESSED
    if repetition >= 1500 and echo >= 60:
        return T2
    if repetition >= 1500 and echo < 50:
        return "proton-density-weighted"
    return "T1-weighted" if repetition < 1300 and echo < 40 else UNKNOWN
