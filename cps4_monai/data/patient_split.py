"""Splits by patient, and the order in which patients are labeled so that rare classes come early."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from cps4_monai.data.datalist import DatalistError
from cps4_monai.data.scan_folder import Scan


def split_patients(
    scans: Sequence[Scan],
    classes: Mapping[str, Sequence[int]],
    *,
    val: float,
    test: float,
    rng: np.random.Generator,
) -> dict[str, str]:
    """Side (training, validation or test) of each patient.

    A share above 0 means one patient at least, validation before test, as long as one is left for training. A patient
    with a scan that is held out is tested on with all scans.

    Args:
        scans: all scans.
        classes: subject -> class codes of its label map; subjects without label map are left out.
        val: see :func:`build_datalist`.
        test: see :func:`build_datalist`.
        rng: random generator.

    Raises:
        DatalistError: a negative share or number, or fewer patients with labels than asked for.
    """
    held_out = {s.patient for s in scans if s.held_out}
    sides = {s.patient: "test" if s.patient in held_out else "training" for s in scans}
    shown = classes_by_patient([s for s in scans if sides[s.patient] == "training"], classes)
    names = sorted(shown)
    shares = {"test": 0.0 if held_out else test, "validation": val}
    wanted = {side: _number(value, len(names), side.removesuffix("idation")) for side, value in shares.items()}
    for side in ("validation", "test"):
        if shares[side] > 0 and wanted[side] == 0 and sum(wanted.values()) + 1 < len(names):
            wanted[side] = 1
    if not names:
        raise DatalistError(
            "no scan for training has a label map; expected *_dseg.nii.gz beside *_T2w.nii.gz, "
            "or nnU-Net's labelsTr: add label maps of the same names"
        )
    if sum(wanted.values()) >= len(names):
        raise DatalistError(
            f"{wanted['test']} test and {wanted['validation']} validation patients asked for, but only {len(names)} "
            "patients have labels; expected at least one left for training: lower --test or --val, or add scans"
        )
    holders: dict[int, int] = {}
    for codes in shown.values():
        for code in codes:
            holders[code] = holders.get(code, 0) + 1
    drawn = [names[i] for i in rng.permutation(len(names))]
    # Patients that alone show a class go last, so that they stay in training wherever enough others are there.
    for side, number in wanted.items():
        for _ in range(number):
            spare = next((p for p in drawn if all(holders[c] > 1 for c in shown[p])), drawn[0])
            drawn.remove(spare)
            sides[spare] = side
            for code in shown[spare]:
                holders[code] -= 1
    return sides


def order_for_cover(shown: Mapping[str, set[int]], rng: np.random.Generator) -> list[str]:
    """Patients in an order whose every prefix covers the classes well (greedy cover).

    The next patient is the one whose classes weigh most, a class weighing 1 over the number of patients that show it
    and over how often it has been covered, to the second power; ties are drawn.

    Args:
        shown: patient -> class codes.
        rng: random generator.
    """
    names = sorted(shown)
    codes = sorted(set().union(*shown.values())) if shown else []
    table = np.array([[c in shown[p] for c in codes] for p in names], float).reshape(len(names), len(codes))
    rarity = 1 / np.maximum(table.sum(0), 1)
    tie = rng.permutation(len(names)) * 1e-9
    covered, left, order = np.zeros(len(codes)), list(range(len(names))), []
    while left:
        gain = table[left] @ (rarity / (1 + covered) ** 2) + tie[left]
        chosen = left.pop(int(np.argmax(gain)))
        covered += table[chosen]
        order.append(names[chosen])
    return order


def subset_size(count: int, share: float) -> int:
    """Patients in a labeled subset: the share of ``count``, rounded, at least one."""
    return max(1, round(count * share / 100))


def classes_by_patient(scans: Sequence[Scan], classes: Mapping[str, Sequence[int]]) -> dict[str, set[int]]:
    shown: dict[str, set[int]] = {}
    for scan in scans:
        if scan.subject in classes:
            shown.setdefault(scan.patient, set()).update(classes[scan.subject])
    return shown


def _number(value: float, count: int, name: str) -> int:
    if not math.isfinite(value) or value < 0 or (value >= 1 and value != int(value)):
        raise DatalistError(f"{name} is {value:g}; expected a share below 1, or a whole number of patients")
    return int(value) if value >= 1 else round(value * count)
