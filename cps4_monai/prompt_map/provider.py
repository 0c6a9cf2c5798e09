"""Where pseudo-labels for unlabeled images come from: the seam, and the frozen vision-language model behind it."""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F

from cps4_monai.prompt_map.cuda_graph import CudaGraphs
from cps4_monai.prompt_map.mapper import PromptMapper
from cps4_monai.vision.prompted import PromptedVision
from cps4_monai.vision.stage1_file import files_of

logger = logging.getLogger(__name__)


@runtime_checkable
class PseudoLabelProvider(Protocol):
    """Images to pseudo-labels.

    Attributes:
        batch_keys: entries of the unlabeled batch, beside the image, that the call takes as keyword arguments;
            ``student_probabilities`` asks for the student's (B, C, H, W) of these images, made when it is named, and
            left out while the method has nothing to say.

    A provider that was read from files may name them in ``files``, name -> path: a run goes on only with the same ones;
    and in ``objective`` by what it was trained: the plan of stage 2 says it.
    """

    batch_keys: tuple[str, ...]

    def __call__(self, images: torch.Tensor, **extra: torch.Tensor) -> dict[str, torch.Tensor]:
        """Pseudo-labels of images (B, 1, H, W) in [0, 1].

        Returns:
            ``prompt_map`` (B, 1, H, W) int64 class codes, -1 to ignore, and what else methods may read:
            ``attention_logits`` (B, C, h, w), ``pseudo_probabilities`` (B, C, H, W).
        """
        ...


class VLMProvider:
    """The frozen image side of stage 1, asked for each batch. No module: its weights enter no checkpoint of stage 2.

    On a GPU the model and the mapper are one CUDA graph for each shape of batch (:class:`CudaGraphs`).

    Args:
        model: the frozen image side.
        mapper: attention logits to the prompt map.
    """

    batch_keys: tuple[str, ...] = ()

    def __init__(self, model: PromptedVision, mapper: PromptMapper) -> None:
        self.model = model.eval().requires_grad_(False)
        self.files = files_of(model)
        self.objective = model.objective
        self.mapper = mapper
        self._graphs = CudaGraphs(self._answer)

    def to(self, device: str | torch.device) -> VLMProvider:
        """Moves the model; it also follows the device of the images by itself."""
        self.model.to(device)
        self._graphs.clear()
        return self

    def _follow(self, images: torch.Tensor) -> None:
        if self.model.embeddings.device != images.device:
            self.to(images.device)

    @torch.no_grad()
    def attention_logits(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) float32 of images (B, 1, H, W), under the caller's autocast."""
        self._follow(images)
        logits: torch.Tensor = self.model(images)
        return logits

    def _answer(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.model(images)
        return {"prompt_map": self.mapper(logits, images.shape[2:]), "attention_logits": logits}

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, **extra: torch.Tensor) -> dict[str, torch.Tensor]:
        """As :class:`PseudoLabelProvider`.

        Raises:
            TypeError: arguments that are not in ``batch_keys``.
        """
        if extra:
            raise TypeError(f"{type(self).__name__} got {sorted(extra)}; it takes the images only")
        self._follow(images)
        return self._graphs(images)


class CachedVLMProvider(VLMProvider):
    """Attention logits of each unaugmented slice once, then warped with the image's own spatial transform.

    It ignores what intensity augmentation would do to the attention maps; where no augmentation is applied it equals
    :class:`VLMProvider`. All slices are asked for at the first call, so that later calls only index on the device.

    Args:
        model: the frozen image side.
        mapper: attention logits to the prompt map.
        load_slices: positions 0..N-1 in the unlabeled data set to the unaugmented slices (n, 1, H, W) in [0, 1].
        num_slices: N.
        batch_size: slices per forward pass while the cache is filled.
        dtype: of the cache; (N, C, h, w) in float32 are 41 kB a slice at 20 classes and a grid of 32 x 16.

    Raises:
        ValueError: num_slices or batch_size below 1.
    """

    batch_keys: tuple[str, ...] = ("slice_id", "grid")

    def __init__(
        self,
        model: PromptedVision,
        mapper: PromptMapper,
        load_slices: Callable[[Sequence[int]], torch.Tensor],
        num_slices: int,
        batch_size: int = 16,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(model, mapper)
        if num_slices < 1 or batch_size < 1:
            raise ValueError(f"num_slices is {num_slices} and batch_size {batch_size}; expected 1 or more of each")
        self.load_slices = load_slices
        self.num_slices = num_slices
        self.batch_size = batch_size
        self.dtype = dtype
        self._cache: torch.Tensor | None = None

    @torch.no_grad()
    def fill(self, device: str | torch.device = "cpu") -> torch.Tensor:
        """Computes the logits (N, C, h, w) of all slices on the device, once."""
        if self._cache is None or self._cache.device != torch.device(device):
            shape = (self.num_slices, self.model.num_classes, *self.model.grid_size)
            cache = torch.empty(shape, dtype=self.dtype, device=device)
            for start in range(0, self.num_slices, self.batch_size):
                ids = range(start, min(start + self.batch_size, self.num_slices))
                cache[start : ids.stop] = self.attention_logits(self.load_slices(ids).to(device)).to(self.dtype)
            self._cache = cache
            logger.info("attention logits of %d slices cached, %.0f MB", self.num_slices, cache.nbytes / 1e6)
        return self._cache

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, **extra: torch.Tensor) -> dict[str, torch.Tensor]:
        """As :class:`PseudoLabelProvider`, with the keyword arguments ``slice_id`` and ``grid``.

        Args:
            images: (B, 1, H, W), the augmented images; only their size and device are used.
            extra: ``slice_id`` (B,) int64, position of each slice in the data set; ``grid`` (B, H, W, 2), for
                each pixel of the augmented image its place in the unaugmented slice, x before y in [-1, 1]
                (align_corners false), also for transforms that are not affine. Places outside become background.

        Raises:
            ValueError: one of the two is missing.
        """
        missing = [key for key in self.batch_keys if key not in extra]
        if missing:
            raise ValueError(
                f"the unlabeled batch has no {missing}, which the cached prompt map needs; use a loader that delivers "
                "them, or set cache_prompt_logits to false"
            )
        ids = extra["slice_id"].to(images.device, non_blocking=True)
        grid = extra["grid"].to(images.device, torch.float32, non_blocking=True)
        logits = self.fill(images.device).index_select(0, ids).float()
        prompt_map = self.mapper(logits, images.shape[2:], grid)
        outside = (grid.abs() > 1).any(-1).unsqueeze(1)  # (B, 1, H, W)
        coarse = _coarse_grid(grid, outside, self.model.grid_size)
        warped = F.grid_sample(logits, coarse, mode="bilinear", padding_mode="border", align_corners=False)
        return {"prompt_map": prompt_map.masked_fill(outside, 0), "attention_logits": warped}


def _coarse_grid(grid: torch.Tensor, outside: torch.Tensor, cells: Sequence[int]) -> torch.Tensor:
    """(B, h, w, 2): mean place of each cell's pixels in the slice, of all its pixels where none lies in it."""
    pool = functools.partial(F.adaptive_avg_pool2d, output_size=(cells[0], cells[1]))
    places, within = grid.movedim(-1, 1), (~outside).to(grid.dtype)
    share = pool(within)  # (B, 1, h, w)
    mean = pool(places * within) / share.clamp(min=torch.finfo(grid.dtype).tiny)
    return torch.where(share > 0, mean, pool(places)).movedim(1, -1)


def make_provider(
    model: PromptedVision, mapper: PromptMapper, cached_slices: Any | None = None, cached: bool = True
) -> VLMProvider:
    """The provider that a config asks for.

    Args:
        model: the frozen image side.
        mapper: attention logits to the prompt map.
        cached_slices: the unlabeled data set, for :class:`CachedVLMProvider`, which reads its slices without their
            transform; None: every augmented batch goes through the model.
        cached: False: the same.
    """
    if cached_slices is None or not cached:
        return VLMProvider(model, mapper)
    plain = copy.copy(cached_slices)
    plain.transform, plain.with_grid = None, False

    def load_slices(ids: Sequence[int]) -> torch.Tensor:
        return torch.stack([plain[index]["image"] for index in ids])

    return CachedVLMProvider(model, mapper, load_slices, num_slices=len(plain))
