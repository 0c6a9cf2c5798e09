"""Which scans of a datalist an inference run segments."""

from __future__ import annotations

from pathlib import Path

from cps4_monai.data.datalist import load_datalist, refuse_repeated, require_files


def inference_items(path: str | Path, dataset_dir: str | Path | None = None) -> list[dict[str, str]]:
    """Items ``{"image": path}`` for inference: the test scans of a datalist, or all of its scans if it names none.

    Args:
        path: datalist JSON, or the ``splits.json`` of the derived SPIDER data.
        dataset_dir: folder that its paths are relative to; None: its own folder.

    Raises:
        DatalistError: it cannot be used, or holds no scan.
    """
    datalist = load_datalist(path, dataset_dir, check_files=False)  # labels and other sides are not read
    entries = datalist.test or (*datalist.training, *datalist.validation)
    if not entries:
        datalist.require("test")
    require_files([entry.image for entry in entries], path, Path(path).parent if dataset_dir is None else dataset_dir)
    refuse_repeated([entry for side in datalist.sides.values() for entry in side], path)
    return [{"image": str(entry.image)} for entry in entries]
