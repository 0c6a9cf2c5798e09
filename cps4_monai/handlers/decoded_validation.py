"""Validation of what is delivered: predictions with their levels decoded, as `cps4 segment` gives them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from cps4_monai.anatomy import Anatomy
from cps4_monai.levels import LevelThresholds, decode_levels
from cps4_monai.logits import NEVER


class DecodedPredictiond(MapTransform):
    """Postprocessing of a validator: class scores (C, D, H, W) to ``decoded`` (1, D, H, W) on the network's own grid.

    An item's ``spacing_mm`` (3,) along D, H and W and its ``view`` (4,), the part of the grid that shows the scan, are
    what :class:`cps4_monai.data.datasets.VolumeDataset` gives; without a ``view`` all of the grid counts.
    The decoding is that of `cps4 segment`, which goes on from there to the scan's pixels. It takes 0.05 s a volume at
    1.5 mm and 0.6 s at 0.6 mm on a CPU core once the network can tell structures apart, some 2 % of the network's own
    time there, and ten times that before (docs/how-to/train-on-your-own-data.md).

    Args:
        keys: items that are predictions.
        anatomy: the classes.
        unannotated: codes that can never win.
        thresholds: of the level logic that differ from the defaults, by name.

    Raises:
        ValueError: an item without spacing, or of another form.
    """

    def __init__(
        self,
        keys: KeysCollection,
        anatomy: Anatomy,
        unannotated: Sequence[int] = (),
        thresholds: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(keys)
        self.anatomy, self.unannotated = anatomy, tuple(unannotated)
        self.thresholds = LevelThresholds.from_dict(thresholds or {})

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        if "spacing_mm" not in d:
            raise ValueError("a validation item has no 'spacing_mm'; expected items of VolumeDataset")
        spacing = [float(mm) for mm in d["spacing_mm"]]
        view = None if d.get("view") is None else tuple(int(end) for end in d["view"])
        for key in self.key_iterator(d):
            d["decoded"] = self._decode(d[key], spacing, view)
        return d

    def _decode(self, pred: torch.Tensor, spacing_mm: Sequence[float], view: Any = None) -> torch.Tensor:
        if pred.ndim != 4 or pred.shape[0] != self.anatomy.num_classes:
            raise ValueError(
                f"a prediction of shape {tuple(pred.shape)}; expected class scores (C, D, H, W) with C = "
                f"{self.anatomy.num_classes}"
            )
        logits = pred.detach().as_subclass(torch.Tensor).float().transpose(0, 1).cpu()
        if self.unannotated:
            logits = logits.clone()
            logits[:, list(self.unannotated)] = NEVER
        labels = logits.argmax(dim=1).to(torch.uint8).numpy()
        result = decode_levels(
            labels,
            logits,
            spacing_mm,
            self.anatomy,
            from_logits=True,
            unannotated=self.unannotated,
            view=view,
            thresholds=self.thresholds,
        )
        return torch.from_numpy(result.labels)[None].to(pred.device)
