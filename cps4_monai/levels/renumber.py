"""A chain moved up or down by vertebral levels, as a person says it; what cannot be is refused with the reason."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from cps4_monai.anatomy import Anatomy, Structure


class ImpossibleShiftError(ValueError):
    """A numbering that the anatomy or the label map does not allow; the message says why."""


def shifted_codes(
    present: Collection[int], shift: int, anatomy: Anatomy, unannotated: Sequence[int] = ()
) -> dict[int, int]:
    """New code of each structure that changes its level.

    Vertebrae move along the vertebrae of the chain and discs along its discs, so that both keep their places to each
    other. The sacrum is never moved: a chain that stands on it cannot go up, since that would leave a gap.

    Args:
        present: codes of the label map, background left out.
        shift: vertebral levels; 1: every structure is one level higher (L5 becomes L4), -1: one lower.
        anatomy: the structures; those with an order form the chain.
        unannotated: codes that the weights' labels never showed.

    Raises:
        ImpossibleShiftError: no chain in the label map, a level that the anatomy does not have or the weights do not
            know, or a chain that would leave the sacrum.
    """
    chain = [s for s in anatomy.along_spine() if s.code in present]
    moving = [s for s in chain if s.kind != "sacrum"]
    if shift == 0:
        return {}
    if not moving:
        raise ImpossibleShiftError(
            "no vertebra or disc of the chain is in the label map, so that there is nothing to shift"
        )
    if shift > 0 and len(moving) < len(chain):
        raise ImpossibleShiftError(
            f"the sacrum is in the label map and {moving[0].name} above it, so that a shift by {shift:+d} leaves a gap "
            "between them. Fix: if the sacrum is no sacrum, take it out in a viewer first"
        )
    rows = {s.code: row for kind in {s.kind for s in moving} for row, s in enumerate(_of_kind(anatomy, kind))}
    table = {s.code: _target(s, rows[s.code] + shift, shift, anatomy) for s in moving}
    unknown = [anatomy[code].name for code in table.values() if code in unannotated]
    if unknown:
        raise ImpossibleShiftError(
            f"a shift by {shift:+d} makes {', '.join(unknown)}, which the labels of the weights' training never "
            "showed. Fix: look whether the shift is right; edit the label map in a viewer if it is"
        )
    return table


def shift_to(present: Collection[int], code: int, name: str, anatomy: Anatomy) -> int:
    """Vertebral levels by which the chain moves if the structure with a code is to be called ``name``.

    Args:
        present: codes of the label map.
        code: of the structure, in the label map.
        name: short name that it is to get.
        anatomy: the structures.

    Raises:
        ImpossibleShiftError: the structure is not in the label map, is no part of the chain or of another kind.
        ValueError: the anatomy has no such name.
    """
    target = anatomy[anatomy.code_of(name)]
    if not 0 < code < anatomy.num_classes:
        raise ImpossibleShiftError(f"code {code} is none of the anatomy; expected 1 to {anatomy.num_classes - 1}")
    structure = anatomy[code]
    if code not in present:
        there = ", ".join(f"{c} ({anatomy[c].name})" for c in sorted(present) if c < anatomy.num_classes) or "none"
        raise ImpossibleShiftError(f"{structure.name} (code {code}) is not in the label map; there are {there}")
    if structure.order is None or structure.kind == "sacrum" or structure.kind != target.kind:
        raise ImpossibleShiftError(
            f"{structure.name} is of the kind {structure.kind!r} and {name} of {target.kind!r}; expected two vertebrae "
            "or two discs of the chain: name the level of another structure"
        )
    row = _of_kind(anatomy, structure.kind)
    return row.index(target) - row.index(structure)


def _of_kind(anatomy: Anatomy, kind: str) -> list[Structure]:
    return [s for s in anatomy.along_spine() if s.kind == kind]


def _target(structure: Structure, row: int, shift: int, anatomy: Anatomy) -> int:
    levels = _of_kind(anatomy, structure.kind)
    if 0 <= row < len(levels):
        return levels[row].code
    beyond = f"above {levels[-1].name}, the highest" if shift > 0 else f"below {levels[0].name}, the lowest"
    raise ImpossibleShiftError(
        f"a shift by {shift:+d} takes {structure.name} off the chain: {beyond} {structure.kind} of the anatomy. Fix: "
        "choose another shift, or take the structure out in a viewer first"
    )
