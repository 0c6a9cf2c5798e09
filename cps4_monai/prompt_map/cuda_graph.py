"""Replays what a frozen model does for a batch as one CUDA graph: one launch in place of hundreds."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

logger = logging.getLogger(__name__)

Answer = dict[str, torch.Tensor]
WARM_UP_CALLS = 3
MAX_SHAPES = 4


@dataclass(frozen=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    image: torch.Tensor
    answer: Answer

    def replay(self, image: torch.Tensor) -> Answer:
        self.image.copy_(image)
        self.graph.replay()
        return {key: tensor.clone() for key, tensor in self.answer.items()}


class CudaGraphs:
    """A function of images whose kernels are recorded once for each shape, and replayed from then on.

    A frozen ViT and the prompt map are hundreds of small kernels, and a training step at the paper's sizes waits for
    their launches, not for the GPU. A recording launches them all at once (torch.cuda.CUDAGraph). On other devices,
    where gradients are recorded, beyond four shapes, and where a recording fails (said once in the log), the function
    is called as it is. Both ways give the same numbers.

    Args:
        function: images (B, 1, H, W) to a dict of tensors, without a wait for the host and without random numbers; its
            parameters stay where they are in memory.
    """

    def __init__(self, function: Callable[[torch.Tensor], Answer]) -> None:
        self.function = function
        self._recordings: dict[tuple[Any, ...], _Recording] = {}
        self._plain = False

    def clear(self) -> None:
        """Forgets the recordings: after parameters moved."""
        self._recordings.clear()

    def __call__(self, image: torch.Tensor) -> Answer:
        """The function's answer; tensors of its own, which the next call does not overwrite."""
        if self._plain or image.device.type != "cuda" or torch.is_grad_enabled():
            return self.function(image)
        half = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
        key = (image.shape, image.dtype, image.device, half)
        if key not in self._recordings:
            if len(self._recordings) >= MAX_SHAPES:
                return self.function(image)
            try:
                self._recordings[key] = self._record(image)
            except RuntimeError as error:
                self._plain = True
                logger.warning("no CUDA graph of the prompt map, its kernels are launched one by one: %s", error)
                return self.function(image)
        return self._recordings[key].replay(image)

    def _record(self, image: torch.Tensor) -> _Recording:
        held = image.clone()
        stream = torch.cuda.Stream(image.device)
        stream.wait_stream(torch.cuda.current_stream(image.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_CALLS):
                self.function(held)
        torch.cuda.current_stream(image.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # thread_local: the loader's thread may pin memory meanwhile.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            answer = self.function(held)
        return _Recording(graph, held, answer)
