"""Flags of one result, each with its reason: alarms question the result, notes say what is true of most scans."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cps4_monai.anatomy import Anatomy
from cps4_monai.levels.flag_calibration import FlagCalibration
from cps4_monai.levels.margin import LevelMargin
from cps4_monai.levels.settings import LevelThresholds
from cps4_monai.levels.statistics import Confidence, StructureStatistics

ALARM, NOTE = "alarm", "note"
LABELS, NETWORK, PERSON = "labels", "network", "person"


@dataclass(frozen=True)
class FlagMeaning:
    """What a flag says.

    Attributes:
        kind: ``ALARM``: a person should look at the result; ``NOTE``: true of most scans, and no reason to doubt it.
        raised_from: ``LABELS``: what a label map and the confidence in its sidecar show, so that it can be asked again
            of the files; ``NETWORK``: what only the run that made the label map knew (margin, traits); ``PERSON``.
        words: for the reader of a report.
    """

    kind: str
    raised_from: str
    words: str


# The only place that tells alarms from notes, gravest first. How often each is raised on right and on wrong scans:
# docs/results/flags.md.
FLAGS: Mapping[str, FlagMeaning] = {
    "no_spine_found": FlagMeaning(ALARM, LABELS, "too few structures to be a spine"),
    "nothing_found": FlagMeaning(ALARM, LABELS, "none of the structures was found"),
    "unusual_contrast": FlagMeaning(
        ALARM, NETWORK, "a scan unlike those that the network learned from: names mean nothing here"
    ),
    "marked_wrong": FlagMeaning(ALARM, PERSON, "a person marked the outline of a structure as wrong"),
    "level_ambiguous": FlagMeaning(
        ALARM, NETWORK, "the same spine numbered one level higher or lower is nearly as likely"
    ),
    "unanchored": FlagMeaning(
        ALARM, NETWORK, "no sacrum in view, nor what lies on it with room below: nothing to count levels from"
    ),
    "gap": FlagMeaning(ALARM, LABELS, "a structure is missing between two that were found"),
    "unusual_height": FlagMeaning(ALARM, LABELS, "a whole vertebra is much higher or lower than its neighbours"),
    "low_confidence": FlagMeaning(
        NOTE,
        LABELS,
        "the outline of whole structures is more likely bad than good, where that was calibrated for the weights",
    ),
    "partial_width": FlagMeaning(NOTE, LABELS, "the slab ends within the spine, so volumes are those within the slab"),
    "cut_structure": FlagMeaning(NOTE, LABELS, "the border of the view cuts a structure"),
}


def flag_kind(name: str) -> str:
    """``ALARM`` or ``NOTE``; a flag that this version does not know, from a JSON of another one, counts as an alarm."""
    return FLAGS[name].kind if name in FLAGS else ALARM


def of_kind(kind: str, names: Iterable[str]) -> list[str]:
    """Those of the named flags that are of a kind, gravest first; unknown ones before all others."""
    order = list(FLAGS)
    chosen = (name for name in names if flag_kind(name) == kind)
    return sorted(chosen, key=lambda name: order.index(name) if name in FLAGS else -1)


def can_be_asked_again(name: str) -> bool:
    """Whether a label map and its sidecar tell if a flag is raised; a flag of another version cannot be asked."""
    return name in FLAGS and FLAGS[name].raised_from == LABELS


def names_are_trusted(flags: Iterable[str]) -> bool:
    """Whether what people read may name levels: not where `unusual_contrast` says that names mean nothing."""
    return "unusual_contrast" not in flags


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        name: one of ``FLAGS``.
        detail: a sentence for the report.
        structures: short names of the structures concerned.
    """

    name: str
    detail: str
    structures: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """``ALARM`` or ``NOTE``."""
        return flag_kind(self.name)

    def to_dict(self) -> dict[str, Any]:
        """Plain types only."""
        return {"name": self.name, "kind": self.kind, "detail": self.detail, "structures": list(self.structures)}


def level_flags(
    statistics: Sequence[StructureStatistics],
    anatomy: Anatomy,
    margin: LevelMargin | None = None,
    unannotated: Sequence[int] = (),
    thresholds: LevelThresholds | None = None,
    calibration: FlagCalibration | None = None,
    traits: Mapping[str, float] | None = None,
) -> tuple[Flag, ...]:
    """Flags of a result, in the order of ``FLAGS``.

    `no_spine_found`, `nothing_found` and `unusual_contrast` stand alone: of what they are raised on, nothing else is
    worth saying.

    What concerns the chain of levels (`no_spine_found`, `level_ambiguous`, `unanchored`, `gap`, `unusual_height`) is
    asked of structures with an order along the spine; an anatomy without them gets `nothing_found` where nothing is.

    Args:
        statistics: of every structure.
        anatomy: the structures.
        margin: of the decoding; None (a mask made elsewhere, or raw output) leaves `level_ambiguous` and `unanchored`
            out.
        unannotated: codes that the training labels never show.
        thresholds: see :class:`cps4_monai.levels.settings.LevelThresholds`.
        calibration: of the network's weights; None, or an empty one, compares confidence with a threshold and leaves
            `unusual_contrast` out.
        traits: of the result, see :func:`cps4_monai.levels.traits.scan_traits`; None leaves `unusual_contrast` out.
    """
    thresholds, calibration = thresholds or LevelThresholds(), calibration or FlagCalibration()
    by_code = {s.code: s for s in statistics}
    trained = [s for s in anatomy.foreground if s.code not in unannotated and s.code in by_code]
    chain = [by_code[s.code] for s in anatomy.along_spine() if s in trained]
    looked_at = [*chain, *(by_code[s.code] for s in trained if s.order is None)]
    visible = [s for s in looked_at if s.state in ("present", "cut")]
    nothing = _no_spine(chain, thresholds) if chain else None
    if nothing is None and looked_at and not visible:
        nothing = Flag("nothing_found", f"none of {len(looked_at)} structures found")
    alone = nothing or _unusual_contrast(traits, calibration)
    if alone is not None:
        return (alone,)
    flags = [
        _ambiguous(margin, thresholds),
        _unanchored(margin),
        _named("gap", "not found between structures that were found", _missing(chain)),
        _named("unusual_height", "height unlike its neighbours'", _unusual(chain, thresholds)),
        _unsure([s for s in visible if s.state == "present"], thresholds, calibration),
        _partial(visible, thresholds),
        _named("cut_structure", "cut by the border of the view", [s for s in visible if s.state == "cut"]),
    ]
    return tuple(flag for flag in flags if flag is not None)


def _no_spine(chain: Sequence[StructureStatistics], thresholds: LevelThresholds) -> Flag | None:
    """Fewer structures of the chain than any scan of the spine shows; an anatomy with fewer cannot miss more."""
    visible = [s for s in chain if s.state in ("present", "cut")]
    total, vertebrae = ([s.kind == "vertebra" for s in part] for part in (chain, visible))
    few = len(visible) < min(thresholds.min_structures, len(chain))
    if few or sum(vertebrae) < min(thresholds.min_vertebrae, sum(total)):
        return Flag("no_spine_found", f"{len(visible)} structures found, {sum(vertebrae)} of them vertebrae")
    return None


def _named(name: str, what: str, structures: Sequence[StructureStatistics]) -> Flag | None:
    names = tuple(s.name for s in structures)
    return Flag(name, f"{', '.join(names)}: {what}", names) if names else None


def _ambiguous(margin: LevelMargin | None, thresholds: LevelThresholds) -> Flag | None:
    """Asked where the chain is anchored; where it is not, `unanchored` says so whatever the margin."""
    if margin is None or not margin.anchored or not margin.margin < thresholds.ambiguous_margin:
        return None
    return Flag(
        "level_ambiguous",
        f"one level {_direction(margin)} is nearly as likely: margin {margin.margin:.2f} nats per structure, expected "
        f"{thresholds.ambiguous_margin:g}",
    )


def _unanchored(margin: LevelMargin | None) -> Flag | None:
    if margin is None or margin.anchored or not np.isfinite(margin.margin):
        return None
    return Flag(
        "unanchored",
        "no part of the sacrum is in view, nor what lies on it with room below it, so levels are told by their looks; "
        f"next to this numbering comes one level {_direction(margin)}, margin {margin.margin:.2f} nats per structure",
    )


def _direction(margin: LevelMargin) -> str:
    return "up" if margin.score_up >= margin.score_down else "down"


def _unusual_contrast(traits: Mapping[str, float] | None, calibration: FlagCalibration) -> Flag | None:
    if traits is None or calibration.failure is None:
        return None
    chance = calibration.failure(traits)
    if chance <= calibration.failure_limit:
        return None
    return Flag(
        "unusual_contrast",
        f"chance that names and outlines are of no use: {100 * chance:.0f} %, expected at most "
        f"{100 * calibration.failure_limit:.0f} %; do not rely on them",
    )


def _unsure(
    whole: Sequence[StructureStatistics], thresholds: LevelThresholds, calibration: FlagCalibration
) -> Flag | None:
    """`low_confidence`: by the chance of a good outline where that was calibrated, else by the confidence in it."""
    sure = [(s, Confidence(s.confidence, s.outline_confidence)) for s in whole if s.confidence is not None]
    rated = [(s, known.outline_or_label, calibration.outline_chance(s.kind, known)) for s, known in sure]
    by_chance = [(s, chance) for s, _, chance in rated if chance is not None and chance < calibration.outline_limit]
    by_value = [s for s, value, chance in rated if chance is None and value < thresholds.low_confidence]
    parts = [f"{s.name} ({100 * chance:.0f} %)" for s, chance in by_chance]
    words = [f"{', '.join(parts)}: chance of a Dice of {calibration.good_dice:g} or more"] if parts else []
    words += [f"{', '.join(s.name for s in by_value)}: mean probability below {thresholds.low_confidence:g}"] * bool(
        by_value
    )
    named = tuple(s.name for s in (*(s for s, _ in by_chance), *by_value))
    return Flag("low_confidence", "; ".join(words), named) if named else None


def _missing(chain: Sequence[StructureStatistics]) -> list[StructureStatistics]:
    rows = [i for i, s in enumerate(chain) if s.state in ("present", "cut")]
    if not rows:
        return []
    return [s for s in chain[rows[0] : rows[-1] + 1] if s.state not in ("present", "cut")]


def _partial(visible: Sequence[StructureStatistics], thresholds: LevelThresholds) -> Flag | None:
    total = sum(s.volume_ml for s in visible)
    if total == 0:
        return None
    share = sum(s.volume_ml for s in visible if s.lateral) / total
    if share < thresholds.partial_share:
        return None
    return Flag(
        "partial_width",
        f"{100 * share:.0f} % of the volume belongs to structures that reach the first or the "
        "last slice: volumes are those within the slab",
    )


def _unusual(chain: Sequence[StructureStatistics], thresholds: LevelThresholds) -> list[StructureStatistics]:
    """Whole vertebrae against the median of up to four neighbours (whole ones, the nearest two on each side)."""
    whole = [s for s in chain if s.kind == "vertebra" and s.state == "present" and s.height_mm is not None]
    low, high = thresholds.height_ratio
    unusual = []
    for i, structure in enumerate(whole):
        near = [s.height_mm for s in whole[max(0, i - 2) : i] + whole[i + 1 : i + 3] if s.height_mm is not None]
        if len(near) >= 2 and not low <= (structure.height_mm or 0.0) / float(np.median(near)) <= high:
            unusual.append(structure)
    return unusual
