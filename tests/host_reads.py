"""Notes every operation whose result the host would have to wait for on a GPU; for the tests that no step waits."""

from __future__ import annotations

from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Their result's size, or the value itself, has to come to the host.
WAITED_FOR = (
    "_local_scalar_dense",
    "_unique",
    "_unique2",
    "bincount",
    "equal",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
)
BY_PLACE = ("index", "index_put", "index_put_", "_index_put_impl_")  # where a mask says which, and how many
COPIES = ("cpu", "numpy", "tolist")  # of a tensor that lies on the CPU, torch has nothing to do


class HostReads(TorchDispatchMode):
    """Within it, ``reads`` collects the names of these operations."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []
        self._patches = [patch.object(torch.Tensor, name, self._noted(name)) for name in COPIES]

    def _noted(self, name):
        plain = getattr(torch.Tensor, name)

        def noted(tensor, *args, **kwargs):
            self.reads.append(name)
            return plain(tensor, *args, **kwargs)

        return noted

    def __enter__(self):
        for each in self._patches:
            each.start()
        return super().__enter__()

    def __exit__(self, *raised):
        for each in self._patches:
            each.stop()
        return super().__exit__(*raised)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        by_mask = name in BY_PLACE and any(part is not None and part.dtype == torch.bool for part in args[1])
        counted = (
            name == "repeat_interleave" and function._overloadname == "Tensor" and not (kwargs or {}).get("output_size")
        )
        if name in WAITED_FOR or by_mask or counted:
            self.reads.append(name)
        return function(*args, **(kwargs or {}))
