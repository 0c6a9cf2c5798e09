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
    other. The sacrum is the lowest vertebra of that row: it becomes L5 where the chain goes up. Where the chain goes
    down, what comes to lie within the sacrum is part of it: L5 joins it, it stays itself, and the disc below L5
    becomes background, since no class is left for it.

    Args:
        present: codes of the label map, background left out.
        shift: vertebral levels; 1: every structure is one level higher (L5 becomes L4), -1: one lower.
        anatomy: the structures; those with an order form the chain.
        unannotated: codes that the weights' labels never showed.

    Raises:
        ImpossibleShiftError: no chain in the label map, or a level that the anatomy does not have or the weights do not
            know.
    """
    if shift == 0:
        return {}
    chain = [s for s in anatomy.along_spine() if s.code in present]
    if not chain:
        raise ImpossibleShiftError("no structure of the chain is in the label map, so that there is nothing to shift")
    targets = {s.code: _target(s, shift, anatomy) for s in chain}
    table = {old: new for old, new in targets.items() if new != old}
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
    row = _row(anatomy, structure)
    if target not in row or structure not in row:
        raise ImpossibleShiftError(
            f"{structure.name} is of the kind {structure.kind!r} and {name} of {target.kind!r}; expected two vertebrae "
            "(or the sacrum) or two discs of the chain: name the level of another structure"
        )
    return row.index(target) - row.index(structure)


def _row(anatomy: Anatomy, structure: Structure) -> list[Structure]:
    """What a structure moves along, from inferior to superior: discs, or vertebrae with the sacrum below them."""
    bodies = ("sacrum", "vertebra")
    kinds = bodies if structure.kind in bodies else (structure.kind,)
    return [s for s in anatomy.along_spine() if s.kind in kinds]


def _target(structure: Structure, shift: int, anatomy: Anatomy) -> int:
    row = _row(anatomy, structure)
    place = row.index(structure) + shift
    if 0 <= place < len(row):
        return row[place].code
    if place < 0 and structure.kind == "sacrum":
        return row[0].code
    if place == -1 and structure.kind == "disc" and _lies_on_sacrum(row[0], anatomy):
        return 0
    beyond = f"above {row[-1].name}, the highest" if shift > 0 else f"below {row[0].name}, the lowest"
    raise ImpossibleShiftError(
        f"a shift by {shift:+d} takes {structure.name} off the chain: {beyond} {structure.kind} of the anatomy. Fix: "
        "choose another shift, or take the structure out in a viewer first"
    )


def _lies_on_sacrum(disc: Structure, anatomy: Anatomy) -> bool:
    chain = anatomy.along_spine()
    below = {s.kind for s in chain[: chain.index(disc)]}
    return below == {"sacrum"}
