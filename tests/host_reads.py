"""Notes every operation whose result the host would have to wait for on a GPU; for the tests that no step waits."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode

WAITED_FOR = ("_local_scalar_dense", "nonzero", "masked_select", "equal")


class HostReads(TorchDispatchMode):
    """Within it, ``reads`` collects the names of these operations."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in WAITED_FOR:
            self.reads.append(name)
        return function(*args, **(kwargs or {}))
