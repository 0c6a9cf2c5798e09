"""Label maps saved for the scans they belong to; a file that is not ours is never overwritten."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, SaveImaged

from cps4_monai.data.geometry import has_geometry, spacing_of
from cps4_monai.data.label_file import label_bytes
from cps4_monai.data.label_ownership import (
    ForeignFileError,
    check_may_write,
    is_described,
    is_of_another_scan,
    source_entries,
    weights_sha256,
    write_owned_label,
)
from cps4_monai.data.label_review import review_in_words, reviewed_label
from cps4_monai.data.nifti_file import read_header
from cps4_monai.file_hash import known_sha256
from cps4_monai.scan_names import is_nifti, mirrored_folder, stem_of
from cps4_monai.true_or_false import true_or_false

logger = logging.getLogger(__name__)


class SaveLabelsd(SaveImaged):
    """Writes label maps (1, X, Y, Z) as ``<stem>_dseg.nii.gz`` with the header geometry of their scans.

    Each gets a JSON sidecar that makes it ours; files appear whole or not at all. It is a ``SaveImaged`` by type, so
    that MONAI Label, which sends label maps back itself, leaves it out.

    Args:
        keys: items that are label maps on the scan's grid, with ``filename_or_obj`` in their meta data.
        output_dir: made where it is missing.
        output_postfix: added to the stem of the scan's name.
        data_root_dir: folder of the scans whose subfolders are mirrored (of a scan outside it, the way there without
            the steps up); empty puts all files into ``output_dir``.
        overwrite: replace label maps of ours; otherwise they are kept, as those always are that a person corrected,
            accepted or marked.
        allow_missing_keys: pass over missing items.
        weights: file of the network that made the label maps; its SHA-256 stands in their sidecars, and a label map of
            others that is kept is warned of.
        keep_reviewed: False refuses such a label map of a person, where what is there will be taken for the answer of
            the network, as in an evaluation.

    Raises:
        ForeignFileError: the path holds a file that is not ours, or the label map of another scan that is to be kept,
            or two scans of one run would share it; without ``keep_reviewed``, one that a person corrected, accepted or
            marked.
        ValueError: an item of another form.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        output_dir: str | Path = "./eval",
        output_postfix: str = "_dseg",
        data_root_dir: str | Path = "",
        overwrite: bool = False,
        allow_missing_keys: bool = False,
        keep_reviewed: bool = True,
        weights: str | Path | None = None,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.output_dir, self.output_postfix = Path(str(output_dir)), output_postfix  # MONAI takes "2025" for a number
        self.data_root_dir = Path(str(data_root_dir)).absolute() if str(data_root_dir) else None
        self.overwrite, self.keep_reviewed = true_or_false(overwrite, "overwrite"), keep_reviewed
        self.weights = None if weights is None else Path(str(weights))
        self._sources: dict[Path, str] = {}

    def set_options(self, *args: Any, **kwargs: Any) -> SaveLabelsd:
        """There are no writers to set options of.

        Raises:
            TypeError: always; the arguments of this class are all it takes.
        """
        raise TypeError("SaveLabelsd takes its settings as arguments; expected no call of set_options")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            self._save(key, d[key])
        return d

    def label_path(self, source: str | Path) -> Path:
        """Where the label map of a scan goes."""
        folder = self.output_dir
        if self.data_root_dir is not None:
            folder = folder / mirrored_folder(source, self.data_root_dir)
        return folder / f"{stem_of(source)}{self.output_postfix}.nii.gz"

    def _save(self, key: Hashable, item: Any) -> None:
        named = isinstance(item, MetaTensor) and item.meta.get("filename_or_obj")
        if not named or item.ndim != 4 or item.shape[0] != 1:
            raise ValueError(
                f"{key!r} is no label map on a scan's grid; expected a MetaTensor (1, X, Y, Z) that names its scan: "
                "put RestoreLabelsd before"
            )
        source = str(item.meta["filename_or_obj"])
        path = self.label_path(source)
        other = self._sources.setdefault(path, source)
        if other != source:
            raise ForeignFileError(
                f"{path}: both {other} and {source} would be written there; expected one file for each. Fix: rename "
                "one, or leave one out; of scans in several folders, set data_root_dir to the folder around them"
            )
        if check_may_write(path) and is_described(path):
            record = reviewed_label(path)[1]
            reviewed = review_in_words(record)
            if (reviewed or not self.overwrite) and is_of_another_scan(record, source):
                raise ForeignFileError(
                    f"{path}: holds the label map of another scan than {source} is now. Fix: write to another folder, "
                    f"or {'delete it' if reviewed else 'replace it with overwrite=True'}"
                )
            if reviewed and not self.keep_reviewed:
                raise ForeignFileError(
                    f"{path}: {reviewed}, so that it is never overwritten, and it is no answer of these weights to be "
                    "scored. Fix: evaluate into another folder (-o), or move this one away"
                )
            if reviewed or not self.overwrite:
                self._tell_of_kept(path, record, reviewed or "overwrite=True replaces it")
                return
        codes = item.as_tensor().detach().cpu().numpy()[0]
        affine = np.asarray(item.affine.detach().cpu(), dtype=np.float64)
        header = _scan_header(source, codes.shape, affine)
        record = {**source_entries(source), "Warnings": str(item.meta.get("warnings", "")).splitlines()}
        if self.weights is not None:
            record["Weights"] = {"Name": self.weights.name, "Sha256": known_sha256(self.weights)}
        if not has_geometry(header):  # the label map has none either: the spacing that was assumed is kept beside it
            record["Settings"] = {"AssumeSpacing": list(spacing_of(affine))}
        write_owned_label(path, label_bytes(path.name, codes, header), record)
        logger.info("wrote %s", path)

    def _tell_of_kept(self, path: Path, record: Mapping[str, Any], why: str) -> None:
        if self.weights is None or weights_sha256(record) == known_sha256(self.weights):
            logger.info("%s is there already and kept: %s", path, why)
        else:
            logger.warning("%s is there already and kept, though not made with %s: %s", path, self.weights, why)


def _scan_header(source: str, shape: tuple[int, ...], affine: np.ndarray) -> nib.Nifti1Header:
    """The scan's own header where it is NIfTI, otherwise one made from the affine."""
    if is_nifti(source) and Path(source).is_file():
        return read_header(source)
    header = nib.Nifti1Image(np.zeros(shape, np.uint8), affine).header
    header.set_qform(affine, 1)
    header.set_sform(affine, 1)
    header.set_xyzt_units("mm")
    return header
