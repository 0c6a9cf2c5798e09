"""Which scans of a datalist an inference run segments."""

from __future__ import annotations

from pathlib import Path

from cps4_monai.data.datalist import DatalistError, load_datalist


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
    missing = [str(entry.image) for entry in entries if not entry.image.is_file()]
    if missing:
        raise DatalistError(
            f"{path}: {len(missing)} of {len(entries)} scans are missing, e.g. {missing[0]}; correct the paths, or "
            "name their folder with dataset_dir"
        )
    return [{"image": str(entry.image)} for entry in entries]
