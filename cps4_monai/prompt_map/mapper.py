"""From attention logits to the prompt map y_text (eq. 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from cps4_monai.attention_maps import ACTIVATIONS, activate
from cps4_monai.prompt_map.otsu import otsu_threshold
from cps4_monai.prompt_map.stacking import STACKINGS, stack_prompt_maps

OTSU_OF = ("sigmoid", "similarity")
UPSAMPLINGS = ("bilinear", "nearest", "bicubic")


class PromptMapper(nn.Module):
    """Upsample each class's map, threshold it by Otsu, stack the classes (paper, section 2.2; rows 6 to 8).

    The logits are w * cos + b with w > 0: Otsu splits them where it splits the similarity, so ``of="similarity"`` works
    on the logits. Nothing leaves the device, and nothing waits for the host.

    >>> logits = torch.full((1, 3, 8, 4), -4.0)
    >>> logits[0, 0], logits[0, 0, 2:4, 1:3], logits[0, 2, 2:4, 1:3] = 4.0, -4.0, 6.0
    >>> prompt_map = PromptMapper()(logits, (64, 32))
    >>> prompt_map.shape, prompt_map.unique().tolist()
    (torch.Size([1, 1, 64, 32]), [0, 2])

    Args:
        activation: "sigmoid" or "softmax" over the annotated classes, as in stage 1; what makes A of the logits.
        stacking: "masked_argmax", "argmax" or "ignore_empty", see :func:`stack_prompt_maps`.
        presence_threshold: drop a structure whose maximum of A over the slice (with a grid: over the cells that some
            pixel is taken from) is below this, in [0, 1]; None: no gate.
            The background is never dropped.
        upsampling: "bilinear" (align_corners false), "nearest" or "bicubic".
        of: what is upsampled, thresholded and compared between classes: "sigmoid", A; "similarity".
        unannotated: codes that never appear in the map: those in view but never labeled, and in a run of the bundle
            all that no labeled training subject shows (:func:`cps4_monai.data.build_datalist.not_labeled`).
        bins: of Otsu's histogram, 2 to 256.

    Raises:
        ValueError: an unknown option or a value out of range.
    """

    def __init__(
        self,
        activation: str = "sigmoid",
        stacking: str = "masked_argmax",
        presence_threshold: float | None = None,
        upsampling: str = "bilinear",
        of: str = "sigmoid",
        unannotated: Sequence[int] = (),
        bins: int = 256,
    ) -> None:
        super().__init__()
        for name, value, allowed in (
            ("activation", activation, ACTIVATIONS),
            ("stacking", stacking, STACKINGS),
            ("upsampling", upsampling, UPSAMPLINGS),
            ("of", of, OTSU_OF),
        ):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; expected one of {list(allowed)}")
        if presence_threshold is not None and not 0 <= presence_threshold <= 1:
            raise ValueError(f"presence_threshold is {presence_threshold}; expected a value of A, 0 to 1, or None")
        if any(code < 1 for code in unannotated):
            raise ValueError(f"unannotated is {tuple(unannotated)}; expected codes of structures, 1 or more")
        if not 2 <= bins <= 256:
            raise ValueError(f"bins is {bins}; expected 2 to 256")
        self.activation = activation
        self.stacking = stacking
        self.presence_threshold = presence_threshold
        self.upsampling = upsampling
        self.of = of
        self.unannotated = tuple(sorted(set(unannotated)))
        self.bins = bins

    @torch.no_grad()
    def forward(
        self, attention_logits: torch.Tensor, image_size: Sequence[int], grid: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The prompt map of a batch.

        Args:
            attention_logits: (B, C, h, w), any float type.
            image_size: (H, W) of the map.
            grid: (B, H, W, 2), where to sample the attention maps for each pixel, x before y in [-1, 1] as in
                ``torch.nn.functional.grid_sample`` (align_corners false, edges extended); None: upsampled as they lie.

        Returns:
            (B, 1, H, W) int64 class codes; -1 where ``stacking="ignore_empty"`` finds no class.

        Raises:
            ValueError: shapes that do not fit.
        """
        if attention_logits.ndim != 4:
            raise ValueError(f"attention_logits is {tuple(attention_logits.shape)}; expected (B, C, h, w)")
        size = (int(image_size[0]), int(image_size[1]))
        if grid is not None and grid.shape != (len(attention_logits), *size, 2):
            raise ValueError(
                f"grid is {tuple(grid.shape)}; expected {(len(attention_logits), *size, 2)}, (B, H, W, 2) of image_size"
            )
        # A GPU wants the whole batch; on the CPU one slice's maps stay near its cache, which halves the time.
        step = 1 if attention_logits.device.type == "cpu" else max(1, len(attention_logits))
        grids = [None] * len(attention_logits) if grid is None else grid.split(step)
        parts = [self._map(*pair, size) for pair in zip(attention_logits.split(step), grids, strict=False)]
        return torch.cat(parts)

    def _map(self, attention_logits: torch.Tensor, grid: torch.Tensor | None, size: tuple[int, int]) -> torch.Tensor:
        """Eq. 3 for checked inputs."""
        with torch.autocast(attention_logits.device.type, enabled=False):
            logits, left_out = self._annotated(attention_logits)
            attention = activate(logits, self.activation)
            scores = self._upsample(attention if self.of == "sigmoid" else logits, size, grid)
            thresholds = otsu_threshold(scores, self.bins)
            if self.presence_threshold is not None:
                shown = attention if grid is None else attention * _cells_in_view(grid, attention.shape[2:])
                absent = shown.amax((2, 3)) < self.presence_threshold
                absent[:, 0] = False
                thresholds = thresholds.masked_fill(absent, torch.inf)
            index = stack_prompt_maps(scores, thresholds, self.stacking)
            for code in left_out:  # channel index -> class code: every left-out code moves what follows it up by one
                index = index + (index >= code)
            return index

    def _annotated(self, logits: torch.Tensor) -> tuple[torch.Tensor, tuple[int, ...]]:
        """Logits of the annotated classes in float32 or float64, and the codes that were left out."""
        count = logits.shape[1]
        left_out = tuple(code for code in self.unannotated if code < count)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if not left_out:
            return logits, ()
        kept = [code for code in range(count) if code not in left_out]
        return torch.cat([logits[:, code : code + 1] for code in kept], dim=1), left_out

    def _upsample(self, maps: torch.Tensor, size: tuple[int, int], grid: torch.Tensor | None) -> torch.Tensor:
        """Maps (B, K, h, w) at the size of the image."""
        if grid is not None:
            return F.grid_sample(
                maps, grid.to(maps.dtype), mode=self.upsampling, padding_mode="border", align_corners=False
            )
        if self.upsampling == "nearest":
            return F.interpolate(maps, size=size, mode="nearest")
        return F.interpolate(maps, size=size, mode=self.upsampling, align_corners=False)


def _cells_in_view(grid: torch.Tensor, cells: Sequence[int]) -> torch.Tensor:
    """(B, 1, h, w) bool: cells that a place of a grid (B, H, W, 2) lies in; places outside [-1, 1] are nowhere."""
    x, y = ((grid[..., axis].flatten(1) + 1) * (size / 2) for axis, size in ((0, cells[1]), (1, cells[0])))
    column, row = x.long().clamp(0, cells[1] - 1), y.long().clamp(0, cells[0] - 1)
    inside = (grid.abs() <= 1).all(-1).flatten(1)
    seen = torch.zeros(len(grid), cells[0] * cells[1], device=grid.device)
    return seen.scatter_add_(1, row * cells[1] + column, inside.float()).view(-1, 1, *cells) > 0
