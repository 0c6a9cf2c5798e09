"""The anatomy table in the forms that viewers open directly: 3D Slicer, ITK-SNAP and BIDS."""

from __future__ import annotations

import csv
import io

from cps4_monai.anatomy import Anatomy
from cps4_monai.palette import hex_colours, structure_colours


def slicer_colour_table(anatomy: Anatomy) -> str:
    """3D Slicer colour table (.ctbl): ``code name red green blue alpha``; spaces become underscores, as in Slicer."""
    lines = ["# Color table file written by cps4_monai", f"# {anatomy.num_classes} values"]
    for structure, (red, green, blue) in zip(anatomy.structures, structure_colours(anatomy).tolist(), strict=True):
        name = structure.name.replace(" ", "_")
        lines.append(f"{structure.code} {name} {red} {green} {blue} {255 if structure.code else 0}")
    return "\n".join(lines) + "\n"


_CSV_COLUMNS = (
    "LabelValue",
    "Name",
    "Color_R",
    "Color_G",
    "Color_B",
    "Color_A",
    "Category_CodingScheme",
    "Category_CodeValue",
    "Category_CodeMeaning",
    "Type_CodingScheme",
    "Type_CodeValue",
    "Type_CodeMeaning",
)
_CATEGORY = ("SCT", "123037004", "Anatomical Structure")  # as in Slicer's vocabularies


def slicer_colour_csv(anatomy: Anatomy) -> str:
    """3D Slicer colour table (.csv, from 5.8 on): names as they are, and standard codes; the background is left out."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    colours = structure_colours(anatomy).tolist()
    for structure in anatomy.foreground:
        code = structure.standard_code
        terms = ("",) * 6 if code is None else (*_CATEGORY, "SCT", *code)
        writer.writerow((structure.code, structure.name, *colours[structure.code], 255, *terms))
    return text.getvalue()


def itksnap_label_descriptions(anatomy: Anatomy) -> str:
    """ITK-SNAP label descriptions (.txt): ``IDX -R- -G- -B- -A-- VIS MSH LABEL``."""
    lines = [
        "################################################",
        "# ITK-SnAP Label Description File",
        "# File format:",
        "# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL",
        "################################################",
        '    0     0    0    0        0  0  0    "Clear Label"',
    ]
    colours = structure_colours(anatomy).tolist()
    for structure in anatomy.foreground:
        red, green, blue = colours[structure.code]
        name = '"' + structure.name + '"'
        lines.append(f"{structure.code:5d} {red:5d} {green:4d} {blue:4d}        1  1  1    {name}")
    return "\n".join(lines) + "\n"


def bids_dseg_table(anatomy: Anatomy) -> str:
    """BIDS look-up table of a discrete segmentation (dseg.tsv): ``index name abbreviation color``."""
    lines = ["index\tname\tabbreviation\tcolor"]
    for structure, colour in zip(anatomy.structures, hex_colours(anatomy), strict=True):
        lines.append(f"{structure.code}\t{structure.long_name}\t{structure.name}\t{colour}")
    return "\n".join(lines) + "\n"


def label_tables(anatomy: Anatomy) -> dict[str, str]:
    """The label tables of Slicer (``.ctbl``, ``.csv``), ITK-SNAP and BIDS by file name."""
    return {
        "labels.ctbl": slicer_colour_table(anatomy),
        "labels.csv": slicer_colour_csv(anatomy),
        "labels_itksnap.txt": itksnap_label_descriptions(anatomy),
        "dseg.tsv": bids_dseg_table(anatomy),
    }
