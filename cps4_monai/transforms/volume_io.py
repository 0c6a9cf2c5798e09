"""Scans in and label maps out, as MONAI dictionary transforms for the bundle's configs and for MONAI Label."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ensure_tuple_rep

from cps4_monai.data.geometry import check_axes
from cps4_monai.data.in_plane import InPlane
from cps4_monai.data.sagittal import SagittalGrid
from cps4_monai.data.scan_labels import labels_on_scan, scores_of
from cps4_monai.data.scan_slices import scan_to_slices
from cps4_monai.data.volume import finite_intensities, read_volume
from cps4_monai.transforms.label_saving import SaveLabelsd

__all__ = ["LoadVolumed", "RestoreLabelsd", "SaveLabelsd", "ScanPlace", "ToSagittalSlicesd"]

IN_PLANE_KEY = "cps4_in_plane"
SOURCE_SHAPE_KEY = "cps4_source_shape"
SOURCE_AFFINE_KEY = "cps4_source_affine"


class LoadVolumed(MapTransform):
    """Reads NIfTI paths with the checks of :func:`read_volume` into channel-first MetaTensors (1, X, Y, Z).

    Items that are MetaTensors already are left as they are (MONAI Label hands over loaded scans).
    The meta data hold ``affine``, ``original_affine``, ``filename_or_obj`` and ``warnings`` (one text, a line each).

    Args:
        keys: items that are paths.
        label_keys: those among ``keys`` that are label maps: whole numbers, uint8, 255 where nobody annotated.
        num_classes: label codes must be below this number.
        assume_spacing: spacing in mm for headers without geometry.
        allow_missing_keys: pass over missing items.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        assume_spacing: Sequence[float] | None = None,
        label_keys: Sequence[str] = ("label",),
        num_classes: int | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.assume_spacing, self.label_keys, self.num_classes = assume_spacing, set(label_keys), num_classes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            if isinstance(d[key], MetaTensor):
                continue
            is_label = key in self.label_keys
            volume = read_volume(
                d[key],
                is_label=is_label,
                num_classes=self.num_classes if is_label else None,
                assume_spacing=self.assume_spacing,
                partly_annotated=is_label,
            )
            affine = torch.from_numpy(volume.affine)
            meta = {
                "filename_or_obj": str(volume.path),
                "original_affine": affine.clone(),
                "spatial_shape": np.asarray(volume.shape),
                "original_channel_dim": float("nan"),
                "warnings": "\n".join(volume.warnings),
            }
            d[key] = MetaTensor(torch.from_numpy(volume.array)[None], affine=affine, meta=meta)
        return d


class ToSagittalSlicesd(MapTransform):
    """Scans (1, X, Y, Z) to the network's slices (1, D, H, W), float32 in [0, 1].

    Takes what :class:`LoadVolumed` gives, or the MetaTensor of MONAI's own ``LoadImaged`` with channel first. What
    :class:`RestoreLabelsd` needs for the way back travels in the meta data.

    >>> scan = MetaTensor(torch.rand(1, 4, 80, 100), affine=torch.diag(torch.tensor([4.0, 1.0, 1.0, 1.0])))
    >>> data = ToSagittalSlicesd("image", spacing_mm=2.0, size=(48, 40))({"image": scan})
    >>> data["image"].shape
    torch.Size([1, 4, 48, 40])
    >>> pred = torch.zeros(20, 4, 48, 40)
    >>> RestoreLabelsd()({**data, "pred": pred})["pred"].shape
    torch.Size([1, 4, 80, 100])

    Args:
        keys: items that are images.
        spacing_mm: see :class:`InPlane`.
        size: see :class:`InPlane`.
        mode: see :class:`InPlane`.
        lower: percentile of the volume that becomes 0.
        upper: percentile of the volume that becomes 1.
        allow_missing_keys: pass over missing items.

    Raises:
        ValueError: a geometry that :class:`InPlane` refuses, an item without affine or of another form, or an affine
            that is singular or sheared (InvalidVolumeError).
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        spacing_mm: float | None = None,
        size: Sequence[int] | None = None,
        mode: str = "spacing",
        lower: float = 0.5,
        upper: float = 99.5,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.in_plane = InPlane.from_dict({"size": size, "spacing_mm": spacing_mm, "mode": mode})
        self.lower, self.upper = lower, upper

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self._slices(key, d[key])
        return d

    def _slices(self, key: Hashable, item: Any) -> MetaTensor:
        if not isinstance(item, MetaTensor) or item.ndim != 4 or item.shape[0] != 1:
            shape = tuple(item.shape) if hasattr(item, "shape") else type(item).__name__
            raise ValueError(
                f"{key!r} is {shape}; expected a MetaTensor (1, X, Y, Z) with its affine: load it with LoadVolumed, or "
                "with LoadImaged and ensure_channel_first=True"
            )
        affine = np.asarray(item.affine.detach().cpu(), dtype=np.float64)
        name = str(item.meta.get("filename_or_obj", key))
        array, warnings = finite_intensities(item.as_tensor().detach().cpu().numpy()[0], name)
        check_axes(affine, name)
        scan = scan_to_slices(array, affine, self.in_plane, (self.lower, self.upper), path=name)
        meta = {
            **item.meta,
            "warnings": "\n".join(filter(None, [item.meta.get("warnings", ""), *warnings, *scan.warnings])),
            IN_PLANE_KEY: json.dumps(self.in_plane.to_dict()),
            SOURCE_SHAPE_KEY: torch.tensor(array.shape),
            SOURCE_AFFINE_KEY: torch.from_numpy(affine),
        }
        network_affine = torch.from_numpy(_network_affine(scan.grid, affine, self.in_plane))
        meta.pop("affine", None)
        return MetaTensor(scan.slices[None], affine=network_affine, meta=meta)


class ScanPlace(NamedTuple):
    """Where a prediction lies, and what the network saw.

    Attributes:
        affine: 4 x 4, the scan's voxels to RAS+ mm.
        grid: the scan's slices.
        in_plane: the network's slice geometry.
        slices: (D, H, W) in [0, 1], the network's input.
    """

    affine: np.ndarray
    grid: SagittalGrid
    in_plane: InPlane
    slices: torch.Tensor


class RestoreLabelsd(MapTransform):
    """Class scores (C, D, H, W), or codes (1, D, H, W), to a label map (1, X, Y, Z) on the scan's own grid.

    Scores are interpolated slice by slice before the argmax; of codes each pixel takes that of the largest share.

    Args:
        keys: items that are predictions.
        reference: the item that :class:`ToSagittalSlicesd` made.
        unannotated: codes that can never win.
        allow_missing_keys: pass over missing items.
        output_keys: where the label maps go; default: in the place of the predictions.

    Raises:
        ValueError: the reference did not come through :class:`ToSagittalSlicesd`, or the grid is another.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        reference: str = "image",
        unannotated: Sequence[int] = (),
        allow_missing_keys: bool = False,
        output_keys: KeysCollection | None = None,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.reference, self.unannotated = reference, tuple(unannotated)
        self.output_keys = ensure_tuple_rep(self.keys if output_keys is None else output_keys, len(self.keys))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        meta = getattr(d.get(self.reference), "meta", {})
        if IN_PLANE_KEY not in meta:
            raise ValueError(
                f"{self.reference!r} holds no slice geometry; expected an item made by ToSagittalSlicesd: put that "
                "transform before the network, and name its key as reference"
            )
        affine = np.asarray(meta[SOURCE_AFFINE_KEY], dtype=np.float64)
        x, y, z = (int(n) for n in meta[SOURCE_SHAPE_KEY])
        grid = SagittalGrid.from_affine((x, y, z), affine)
        in_plane = InPlane.from_dict(json.loads(meta[IN_PLANE_KEY]))
        place = ScanPlace(affine, grid, in_plane, d[self.reference].as_tensor()[0])
        for key, output_key in self.key_iterator(d, self.output_keys):
            slices, told = self._label_slices(key, d[key], place)
            d.update(told)
            volume = np.ascontiguousarray(grid.from_slices(slices.cpu().numpy()))
            kept = {k: meta[k] for k in ("filename_or_obj", "warnings") if k in meta}
            kept["spatial_shape"] = np.asarray(volume.shape)
            kept["original_affine"] = torch.from_numpy(affine)
            d[output_key] = MetaTensor(torch.from_numpy(volume)[None], affine=torch.from_numpy(affine), meta=kept)
        return d

    def _label_slices(self, key: Hashable, item: Any, place: ScanPlace) -> tuple[torch.Tensor, dict[str, Any]]:
        """Codes (D, H, W) on the scan's pixels, and items that join the data."""
        pred = item.as_tensor() if isinstance(item, MetaTensor) else torch.as_tensor(item)
        if pred.ndim != 4:
            raise ValueError(f"{key!r} has shape {tuple(pred.shape)}; expected (C, D, H, W), without a batch axis")
        grid, in_plane = place.grid, place.in_plane
        if pred.shape[0] == 1:
            return in_plane.restore_label(pred[0].to(torch.uint8), grid.slices_shape[1:], grid.spacing_mm[1:]), {}
        scores = scores_of(pred.transpose(0, 1).float().clone(), self.unannotated)
        return torch.from_numpy(labels_on_scan(scores, scores.labels, grid, in_plane)), {}


def _network_affine(grid: SagittalGrid, affine: np.ndarray, in_plane: InPlane) -> np.ndarray:
    """Affine of the network's voxels (D, H, W): the scan's, through the flips and the in-plane resampling."""
    height, width = in_plane.axis_maps(grid.slices_shape[1:], grid.spacing_mm[1:])
    to_source = np.diag([1.0, height.step, width.step, 1.0])
    to_source[1, 3], to_source[2, 3] = height.start, width.start
    return grid.slices_affine(affine) @ to_source
