from __future__ import annotations

import csv
import io
import re
from itertools import pairwise

import numpy as np

from cps4_monai.anatomy import MRSPINESEG, Anatomy, Structure
from cps4_monai.inference.run_tables import TABLES
from cps4_monai.palette import hex_colours, oklch_to_rgb, structure_colours
from cps4_monai.report.label_tables import (
    bids_dseg_table,
    itksnap_label_descriptions,
    label_tables,
    slicer_colour_csv,
    slicer_colour_table,
)


def test_each_structure_has_a_colour_of_its_own():
    colours = hex_colours(MRSPINESEG)
    assert colours[0] == "#000000" and len(set(colours)) == 20


def test_neighbours_along_the_spine_are_far_apart():
    colours = structure_colours(MRSPINESEG).astype(float)
    along = [s for s in MRSPINESEG.along_spine() if s.kind == "vertebra"]
    for lower, upper in pairwise(along):
        assert np.linalg.norm(colours[lower.code] - colours[upper.code]) > 60


def test_discs_are_lighter_than_vertebrae():
    luminance = structure_colours(MRSPINESEG) @ np.array([0.2126, 0.7152, 0.0722])
    by_kind = {k: [luminance[s.code] for s in MRSPINESEG.foreground if s.kind == k] for k in ("vertebra", "disc")}
    assert min(by_kind["disc"]) > max(by_kind["vertebra"])


def test_grey_has_no_hue():
    red, green, blue = oklch_to_rgb(0.5, 0.0, 123.0)
    assert red == green == blue


def test_other_anatomy_has_its_colours():
    other = Anatomy(
        [
            Structure(0, "background", "background", "background"),
            Structure(1, "canal", "canal", "other"),
            Structure(2, "C2", "axis", "vertebra", 0),
        ]
    )
    assert len(set(hex_colours(other))) == 3


def as_slicer_reads(table):
    """Name and (red, green, blue, alpha) by code, by the rules of ``vtkMRMLColorTableStorageNode::ReadCtblFile``."""
    rows = {}
    for line in filter(lambda line: line and not line.startswith("#"), table.split("\n")):
        code, name, *colour = line.split()
        rows[int(code)] = "" if name == "_" else name.replace("_", " "), [float(value) for value in colour]
    return rows


def as_itksnap_reads(table):
    """Name and (red, green, blue, alpha, visible, mesh) by code, by the rules of ``ColorLabelTable::LoadFromFile``.

    Seven numbers, then what stands between two quotation marks; the clear label 0 is never replaced.
    """
    rows = {}
    for line in filter(lambda line: line and not line.startswith("#"), table.split("\n")):
        numbers, name = line.split('"')[:2]
        code, *colour = (float(value) for value in numbers.split())
        assert len(colour) == 6
        rows[int(code)] = name, colour
    return {code: row for code, row in rows.items() if code}


def test_label_tables_are_read_by_the_rules_of_the_viewers_own_readers():
    colours = structure_colours(MRSPINESEG).tolist()
    slicer, snap = (
        as_slicer_reads(slicer_colour_table(MRSPINESEG)),
        as_itksnap_reads(itksnap_label_descriptions(MRSPINESEG)),
    )
    for structure in MRSPINESEG.foreground:
        colour = colours[structure.code]
        assert slicer[structure.code] == (structure.name, [*colour, 255])
        assert snap[structure.code] == (structure.name, [*colour, 1, 1, 1])
    assert slicer[0] == ("background", [*colours[0], 0]) and 0 not in snap
    table = list(csv.DictReader(io.StringIO(slicer_colour_csv(MRSPINESEG))))  # ReadCsvFile: whole numbers, not below 0
    assert all(int(row["LabelValue"]) > 0 and 0 <= int(row[f"Color_{c}"]) <= 255 for row in table for c in "RGBA")


def test_label_tables_hold_every_structure_and_agree_on_colours():
    colours = structure_colours(MRSPINESEG)
    slicer = [line.split() for line in slicer_colour_table(MRSPINESEG).splitlines() if not line.startswith("#")]
    assert len(slicer) == 20 and slicer[12][1] == "L4/L5" and slicer[0][-1] == "0"
    assert all([int(v) for v in row[2:5]] == colours[int(row[0])].tolist() for row in slicer)
    snap = re.findall(
        r'^\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+1\s+1\s+1\s+"(.+)"$', itksnap_label_descriptions(MRSPINESEG), re.M
    )
    assert [row[-1] for row in snap] == MRSPINESEG.names[1:]
    table = list(csv.DictReader(io.StringIO(slicer_colour_csv(MRSPINESEG))))
    assert [row["Name"] for row in table] == MRSPINESEG.names[1:] and table[0]["LabelValue"] == "1"
    assert (table[1]["Type_CodingScheme"], table[1]["Type_CodeValue"]) == ("SCT", "49668003")
    assert all([int(row[f"Color_{c}"]) for c in "RGB"] == colours[int(row["LabelValue"])].tolist() for row in table)
    bids = [line.split("\t") for line in bids_dseg_table(MRSPINESEG).splitlines()]
    assert bids[0] == ["index", "name", "abbreviation", "color"] and bids[3][2] == "L5"
    assert [row[3] for row in bids[1:]] == hex_colours(MRSPINESEG)
    assert set(label_tables(MRSPINESEG)) < set(TABLES)
