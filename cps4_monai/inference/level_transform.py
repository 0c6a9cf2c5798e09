"""The level decoding of `cps4 segment` as a MONAI dictionary transform, for bundle configs and MONAI Label."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor

from cps4_monai.anatomy import Anatomy, load_anatomy
from cps4_monai.data.scan_labels import scores_of
from cps4_monai.inference.measured import measure
from cps4_monai.inference.restore import restore_labels
from cps4_monai.inference.segmentation import plain
from cps4_monai.levels import LevelThresholds
from cps4_monai.levels.flag_calibration import FlagCalibration
from cps4_monai.transforms.volume_io import RestoreLabelsd, ScanPlace

ANSWER = "result"  # the item that MONAI Label sends back to its client beside the label map


class DecodeLevelsd(RestoreLabelsd):
    """Class scores (C, D, H, W) to a label map (1, X, Y, Z) on the scan's own grid, its levels decoded.

    Flags and margin join the data as the item ``result``, which MONAI Label's clients get with the label map.
    It takes the place of :class:`cps4_monai.transforms.volume_io.RestoreLabelsd`, which gives the plain argmax.

    Args:
        keys: items that are predictions.
        reference: the item that ``ToSagittalSlicesd`` made.
        anatomy: the classes, see :func:`cps4_monai.anatomy.load_anatomy`.
        unannotated: codes that can never win; decoding starts at the lowest other one.
        thresholds: of the level logic that differ from the defaults, by name, as a plan's ``decoding`` has them.
        calibration: of the flags of these weights, as a plan's ``flags`` has it; None leaves `unusual_contrast` out.
        allow_missing_keys: pass over missing items.
        output_keys: where the label maps go; default: in the place of the predictions.

    Raises:
        ValueError: codes instead of scores, scores of another number of classes, or a reference without geometry.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        reference: str = "image",
        anatomy: Anatomy | Mapping[str, Any] | str | Path | None = None,
        unannotated: Sequence[int] = (),
        thresholds: Mapping[str, Any] | None = None,
        calibration: Mapping[str, Any] | None = None,
        allow_missing_keys: bool = False,
        output_keys: KeysCollection | None = None,
    ) -> None:
        super().__init__(keys, reference, unannotated, allow_missing_keys, output_keys)
        self.anatomy = load_anatomy(anatomy)
        self.thresholds = LevelThresholds.from_dict(thresholds or {})
        self.calibration = FlagCalibration.from_dict(calibration or {})

    def _label_slices(self, key: Hashable, item: Any, place: ScanPlace) -> tuple[torch.Tensor, dict[str, Any]]:
        pred = item.as_tensor() if isinstance(item, MetaTensor) else torch.as_tensor(item)
        if pred.ndim != 4 or pred.shape[0] != self.anatomy.num_classes:
            raise ValueError(
                f"{key!r} has shape {tuple(pred.shape)}; expected class scores (C, D, H, W) with C = "
                f"{self.anatomy.num_classes}: put this transform right behind the network"
            )
        scores = scores_of(pred.transpose(0, 1).float().clone(), self.unannotated)
        restored = restore_labels(
            scores, place.in_plane, place.grid, self.anatomy, self.unannotated, thresholds=self.thresholds
        )
        measured = measure(
            restored,
            scores.labels,
            place.slices.cpu().numpy(),
            place.grid,
            place.affine,
            self.anatomy,
            self.unannotated,
            self.thresholds,
            self.calibration,
        )
        assert restored.levels is not None
        # Flags and margin in plain types, as the sidecars of `cps4 segment` have them.
        flags, margin = [flag.to_dict() for flag in measured.flags], restored.levels.to_dict()["margin"]
        return torch.from_numpy(restored.slices), {ANSWER: plain({"flags": flags, "margin": margin})}
