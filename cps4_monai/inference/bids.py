"""Results as a BIDS derivative: names of label maps, the description of the data set, and what a validator passes over.

BIDS 1.10, "Derivatives", "Imaging data types": ``<entities>_seg-<label>_dseg.nii.gz``, its JSON, and ``dseg.tsv``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from cps4_monai import __version__
from cps4_monai.data.label_ownership import GENERATOR
from cps4_monai.encoding import json_bytes

BIDS_VERSION = "1.10.0"
DESCRIPTION = "dataset_description.json"
FILES = (DESCRIPTION, ".bidsignore")
_SEGMENTED = "seg-spine"
_AFTER = ("res-", "den-", "label-", "desc-")  # entities that stand behind seg- in BIDS's order
# Tables, page and pictures have no place in BIDS; nor have copies for other programs.
_IGNORED = (
    "*.csv",
    "report.html",
    "cps4_files.json",
    "labels.ctbl",
    "labels_itksnap.txt",
    "**/*_qc.png",
    "**/*_seg.dcm",
    "**/*.seg.nrrd",
    "**/*_view.html",
    "niivue.umd.js",
    "**/.original-*",
    "**/.partial-*",
)


def label_stem(stem: str) -> str:
    """Name of a scan's label map without ``_dseg``: the scan's entities without its suffix, and ``seg-spine``.

    >>> label_stem("sub-1_ses-2_acq-hr_T2w")
    'sub-1_ses-2_acq-hr_seg-spine'
    """
    entities = [part for part in stem.split("_") if "-" in part]
    place = next((i for i, part in enumerate(entities) if part.startswith(_AFTER)), len(entities))
    return "_".join([*entities[:place], _SEGMENTED, *entities[place:]])


def derivative_files(output: Path, data_sets: list[Path]) -> dict[str, bytes]:
    """Contents of the files at the top of a derivative, by name (``FILES``).

    Args:
        output: folder of the derivative.
        data_sets: the raw data sets; their names are taken from their descriptions.
    """
    description = {
        "Name": f"Vertebrae and discs of {', '.join(map(_name_of, data_sets))}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": GENERATOR, "Version": __version__}],
        "SourceDatasets": [{"URL": _address(root, output)} for root in data_sets],
    }
    return dict(zip(FILES, (json_bytes(description, indent=1), "\n".join([*_IGNORED, ""]).encode()), strict=True))


def _name_of(data_set: Path) -> str:
    try:
        name = json.loads((data_set / DESCRIPTION).read_text(encoding="utf-8"))["Name"]
    except (OSError, ValueError, KeyError, TypeError):
        name = None
    return str(name or data_set.resolve().name)


def _address(data_set: Path, output: Path) -> str:
    """A way from the derivative to its data set that moves along with both, in the form of an address."""
    try:
        return Path(os.path.relpath(data_set, output)).as_posix() + "/"
    except ValueError:  # on another drive
        return data_set.resolve().as_uri()
