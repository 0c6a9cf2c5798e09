"""Which structures stand in pictures of attention where nobody named any."""

from __future__ import annotations

from cps4_monai.anatomy import Anatomy

PICTURED = ("L5/S", "L5", "L3", "L1")


def pictured_structures(anatomy: Anatomy) -> list[str]:
    """Short names: those of ``PICTURED`` that the anatomy has, else its first four structures."""
    known = [structure.name for structure in anatomy.foreground]
    return [name for name in PICTURED if name in known] or known[: len(PICTURED)]
