"""The template bank: labeled slices as gold exemplars, matched by visual features."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cps4_monai.anatomy import NOT_ANNOTATED

CHUNK = 8


class TemplateBank:
    """Labeled slices with, per slice, its patient and the share of each class in each patch.

    No module: none of it is in a state dict, and ``DistributedDataParallel`` sends none of it round. A file between the
    stages keeps the slices' ids and a digest of their pixels, never the pixels.

    Args:
        images: (N, 1, H, W) in [0, 1]; kept in half precision.
        labels: (N, 1, H, W) codes; what is no code below C belongs to no class.
        patients: whose slice each is, (N,) whole numbers.
        num_classes: C.
        grid_size: (h, w) of the patches.
        slice_ids: position of each slice in the data set that it comes from; by default 0 to N-1.
        patient_of_slice: whose slice is at each position of that data set, which may be larger than the bank; by
            default `patients`.

    Attributes:
        digest: SHA-256 of ids, pictures and labels.
        num_patients: how many people are in it.

    Raises:
        ValueError: no slice, or parts that do not belong together.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        patients: Sequence[int],
        num_classes: int,
        grid_size: Sequence[int],
        slice_ids: Sequence[int] | None = None,
        patient_of_slice: Sequence[int] | None = None,
    ) -> None:
        if not len(images) or images.shape != labels.shape or len(patients) != len(images):
            raise ValueError(
                f"images is {tuple(images.shape)}, labels {tuple(labels.shape)}, patients {len(patients)}; expected "
                "(N, 1, H, W) twice and N patients, N at least 1. Fix: pass one label and one patient per slice"
            )
        self.num_classes = num_classes
        self.slice_ids = tuple(range(len(images)) if slice_ids is None else slice_ids)
        self.num_patients = len(set(patients))
        self.images, self.labels = images.half(), labels.to(torch.uint8)
        self.cells = torch.cat([class_shares(part, num_classes, grid_size) for part in self.labels.split(CHUNK)])
        self.patients = torch.tensor(list(patients))
        self.patient_of_slice = torch.tensor(list(patients if patient_of_slice is None else patient_of_slice))
        self.digest = _digest(self.slice_ids, self.images, self.labels)

    def to(self, device: str | torch.device) -> TemplateBank:
        """Moves it, where it is elsewhere."""
        if self.images.device != torch.device(device):
            for name in ("images", "labels", "cells", "patients", "patient_of_slice"):
                setattr(self, name, getattr(self, name).to(device))
        return self

    @classmethod
    def from_slices(
        cls, dataset: Any, num_classes: int, grid_size: Sequence[int], max_templates: int = 512
    ) -> TemplateBank:
        """The bank of a labeled data set, read without its augmentation.

        Slices that nobody annotated (255 alone) show nothing, and are no templates.

        Args:
            dataset: :class:`cps4_monai.data.datasets.SliceDataset` with labels.
            num_classes: C.
            grid_size: (h, w) of the patches.
            max_templates: of a larger data set, this many evenly spaced slices.

        Raises:
            ValueError: fewer than one template asked for, or not one annotated slice.
        """
        if max_templates < 1:
            raise ValueError(f"max_templates is {max_templates}; expected 1 or more. Fix: raise it")
        plain = copy.copy(dataset)
        plain.transform, plain.with_grid = None, False
        annotated = [index for index in range(len(plain)) if (plain[index]["label"] != NOT_ANNOTATED).any()]
        if not annotated:
            raise ValueError("no labeled slice has an annotated pixel; expected some. Fix: check the label maps")
        count = min(len(annotated), max_templates)
        ids = [annotated[position * len(annotated) // count] for position in range(count)]
        items = [plain[index] for index in ids]
        people = [plain.entries[plain.place(index)[0]].patient for index in range(len(plain))]
        codes = {patient: code for code, patient in enumerate(dict.fromkeys(people))}
        of_slice = [codes[patient] for patient in people]
        images, labels = (torch.stack([item[key] for item in items]) for key in ("image", "label"))
        return cls(images, labels, [of_slice[i] for i in ids], num_classes, grid_size, ids, of_slice)

    def __len__(self) -> int:
        return len(self.images)

    def match(
        self, queries: Tensor, features: Tensor, count: int, excluded: Tensor | None = None, pool: int | None = None
    ) -> Tensor:
        """Which templates are nearest to each query, by cosine.

        Args:
            queries: features (B, D) of length one.
            features: those of the templates, (N, D), of length one.
            count: n, templates of each query; of a smaller bank, or where exclusion leaves fewer, some come twice.
            excluded: (B,) a patient of each query, whose templates are left out; None: nobody.
            pool: draw the n at random among this many nearest ones; None: the n nearest.

        Returns:
            (B, n) int64 positions in the bank, nearest first unless drawn.

        Raises:
            ValueError: exclusion in a bank of one patient.
        """
        if excluded is not None and self.num_patients < 2:
            raise ValueError(
                "the labeled slices are of one patient, and a template must be of another one. Fix: train with labels "
                "of two patients or more (labeled_share, labeled_subjects)"
            )
        similarity = queries.float() @ features.float().T
        if excluded is not None:
            similarity = similarity.masked_fill(excluded[:, None] == self.patients[None], -torch.inf)
        wanted = max(count, pool or 0)
        best, index = similarity.topk(min(wanted, len(self)), dim=1)
        index = torch.where(best > -torch.inf, index, index[:, :1])
        index = index.repeat(1, -(-wanted // index.shape[1]))[:, :wanted]
        if pool is not None:
            index = index.gather(1, torch.rand(index.shape, device=index.device).argsort(dim=1))
        return index[:, :count]


def class_shares(labels: Tensor, num_classes: int, grid_size: Sequence[int]) -> Tensor:
    """Share of each class in each patch, (N, C, h, w) in half precision, of labels (N, 1, H, W)."""
    classes = torch.arange(num_classes, device=labels.device).view(1, -1, 1, 1)
    return F.adaptive_avg_pool2d((labels == classes).float(), (grid_size[0], grid_size[1])).half()


def pooled_feature(tokens: Tensor) -> Tensor:
    """Mean of patch tokens (B, D, h, w) over the picture, of length one: (B, D) float32."""
    return F.normalize(tokens.float().mean((2, 3)), dim=1)


def _digest(slice_ids: Sequence[int], images: Tensor, labels: Tensor) -> str:
    digest = hashlib.sha256(repr((list(slice_ids), tuple(images.shape))).encode())
    for tensor in (images, labels):
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
