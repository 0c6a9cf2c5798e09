"""How several processes that train together meet and part."""

from __future__ import annotations

import atexit
import datetime
import gc

import torch.distributed.nn  # before there is a connection, see join_processes


def join_processes(backend: str, wait_minutes: float) -> None:
    """Connects this process with the others that torchrun started; does nothing where they are connected.

    A connection of CPUs has threads that release tensors, and a thread that does so while Python is ending takes the
    process down (SIGABRT, "terminate called without an active exception"). The threads end with the last reference to
    the connection, so that two references that would outlive a run are dealt with here: those in the default arguments
    of ``torch.distributed.nn``, if it is imported while a connection is open, and those of networks in reference
    cycles, which are collected while Python still runs. A program that keeps a network in parallel, or the workflow
    that made it, under a name of its main module keeps the connection as well: make them in a function.

    Args:
        backend: "nccl" for GPUs, "gloo" for CPUs.
        wait_minutes: after how long a process that waits for another gives up.

    Raises:
        ValueError: the environment variables of torchrun are missing (of torch).
    """
    if torch.distributed.is_initialized():
        return
    atexit.register(gc.collect)
    torch.distributed.init_process_group(backend, timeout=datetime.timedelta(minutes=wait_minutes))


def leave_processes() -> None:
    """Waits until all processes have come here, and ends the connection; does nothing where there is none.

    A process that left earlier would take its connections with it.
    """
    if not torch.distributed.is_initialized():
        return
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
