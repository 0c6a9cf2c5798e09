"""Which scans of a datalist an inference run segments."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path, PurePath

from cps4_monai.data.datalist import load_datalist, refuse_repeated, require_files
from cps4_monai.data.entries import DatalistError
from cps4_monai.scan_names import mirrored_folder, stem_of


def inference_items(path: str | Path, dataset_dir: str | Path | None = None) -> list[dict[str, str]]:
    """Items ``{"image": path}`` for inference: the test scans of a datalist, or all of its scans if it names none.

    Args:
        path: datalist JSON, or the ``splits.json`` of the derived SPIDER data.
        dataset_dir: folder that its paths are relative to; None: its own folder.

    Raises:
        DatalistError: it cannot be used, holds no scan, or two scans whose label maps would have one name.
    """
    # MONAI takes "2025" for a number.
    folder = Path(str(path)).parent if dataset_dir is None else Path(str(dataset_dir))
    datalist = load_datalist(path, dataset_dir, check_files=False)  # labels and other sides are not read
    entries = datalist.to_segment()
    if not entries:
        datalist.require("test")
    require_files([entry.image for entry in entries], path, folder)
    refuse_repeated([entry for side in datalist.sides.values() for entry in side], path)
    by_name: dict[PurePath, list[str]] = defaultdict(list)
    for entry in entries:
        by_name[mirrored_folder(entry.image, folder) / stem_of(entry.image)].append(str(entry.image))
    for name, images in by_name.items():
        if len(images) > 1:
            raise DatalistError(
                f"{path}: the label maps of {' and '.join(images)} would both be called {name}; expected one file for "
                "each. Fix: rename one, or leave one out"
            )
    return [{"image": str(entry.image)} for entry in entries]
