"""The data of release 0.3 in one folder: SPIDER and `lumbar_t1`, 255 where their labels say nothing.

SPIDER has no sacrum labels: 255 beyond the lower edge of the lowest disc, by the slice that shows most of it.
`lumbar_t1` labels S1 to L1: 255 above and below (benchmarks/mark_unannotated.py). Its sub-0192 is left out, which is
mirrored front to back. Validation: SPIDER's three and the first twelve of `lumbar_t1`. No test subject is read.

    python benchmarks/release_datalist.py SPIDER LUMBAR_T1 release_data
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mark_unannotated import beyond, marked

from cps4_monai.anatomy import MRSPINESEG, NOT_ANNOTATED
from cps4_monai.data.volume import Volume, read_volume, write_label_volume

MIRRORED = "sub-0192"
LUMBAR_VALIDATION = 12
DISC, BODY = MRSPINESEG.code_of("L5/S"), MRSPINESEG.code_of("L5")


def without_sacrum(label: Volume) -> np.ndarray:
    """A SPIDER label map (D, W, H) with 255 beyond the lower edge of L5/S."""
    codes = label.array
    shown = (codes == DISC).sum(axis=(1, 2)) * ((codes == BODY).sum(axis=(1, 2)) > 50)
    outside = beyond(codes[int(shown.argmax())], DISC, BODY)
    return np.where((codes == 0) & outside, NOT_ANNOTATED, codes).astype(np.uint8)


def entry(image: Path, subject: str, label: Path | None, folder: Path) -> dict[str, str]:
    """Of a datalist, with paths relative to its folder."""
    paths = {"image": image, **({"label": label} if label else {})}
    return {"subject": subject, **{key: os.path.relpath(path, folder) for key, path in paths.items()}}


def spider(source: Path, folder: Path, subjects: list[str]) -> Iterator[dict[str, str]]:
    """Labeled entries; label maps are written."""
    for subject in subjects:
        label = read_volume(source / "volumes" / f"{subject}_dseg.nii.gz", is_label=True, num_classes=20)
        path = folder / "spider" / f"{subject}_dseg.nii.gz"
        write_label_volume(path, without_sacrum(label), label)
        yield entry(source / "volumes" / f"{subject}_T2w.nii.gz", f"spider-{subject}", path, folder)


def lumbar(source: Path, folder: Path, entries: list[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """Labeled entries; label maps are written."""
    for scan in entries:
        label = read_volume(source / scan["label"], is_label=True, num_classes=20)
        path = folder / "lumbar_t1" / Path(scan["label"]).name
        write_label_volume(path, marked(label), label)
        yield entry(source / scan["image"], f"lumbar-{scan['subject']}", path, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spider", type=Path)
    parser.add_argument("lumbar", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    splits = json.loads((options.spider / "splits.json").read_text(encoding="utf-8"))
    slices = json.loads((options.lumbar / "datalist.json").read_text(encoding="utf-8"))
    upright = [scan for scan in slices["training"] if scan["subject"] != MIRRORED]
    training = [*spider(options.spider, options.output, splits["train"])]
    training += lumbar(options.lumbar, options.output, upright)
    for folder, subjects in (("volumes", splits["unlabeled_only"]), ("slices", splits["unlabeled_slices"])):
        scans = [(options.spider / folder / f"{subject}_T2w.nii.gz", f"spider-{subject}") for subject in subjects]
        training += [entry(image, subject, None, options.output) for image, subject in scans]
    validation = [*spider(options.spider, options.output, splits["val"])]
    validation += lumbar(options.lumbar, options.output, slices["validation"][:LUMBAR_VALIDATION])
    content = {"name": "SPIDER and lumbar_t1", "training": training, "validation": validation, "test": []}
    (options.output / "datalist.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    print(f"{len(training)} training, {len(validation)} validation entries in {options.output / 'datalist.json'}")


if __name__ == "__main__":
    main()
