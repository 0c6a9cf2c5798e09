"""A run on a cluster: items go out as workers are free, and answers come back; faults of the cluster in words."""

from __future__ import annotations

import itertools
import logging
import math
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from distributed import KilledWorker, as_completed
from distributed.comm import CommClosedError

from cps4_monai.cluster.address import ClusterError, SchedulerAddress
from cps4_monai.cluster.opening import TIMEOUTS, open_client
from cps4_monai.cluster.worker import GivenUp, MachineError, RunInWorker, on_worker, packed
from cps4_monai.sigterm import sigterm_as_interrupt

logger = logging.getLogger(__name__)
RETURN_SECONDS = 30.0  # in which a worker that died is started again
LOOK_SECONDS = 1.0  # between two looks at how many workers there are
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Answer(Generic[T, R]):
    """What came of an item.

    Attributes:
        item: as it was given.
        result: of the function; None where there is a fault.
        fault: that each worker which took it up died, in words; "" where there is a result.
    """

    item: T
    result: R | None
    fault: str = ""


class Session:
    """The workers of a run; to be used as a context.

    No more items are out than the workers have threads: Dask counts the death of a worker against all items that lie
    with it (``distributed.scheduler.allowed-failures``), and those that only wait there are not to blame. So the
    command and the scheduler never hold more than that either, however many items there are.

    Args:
        address: of the scheduler.
        tenant: the run's part in each worker.
        label: what tasks are called on Dask's dashboard.
    """

    def __init__(self, address: SchedulerAddress, tenant: RunInWorker, label: str) -> None:
        self.address, self.tenant = address, tenant
        self.name = f"{label}-{uuid.uuid4().hex[:12]}"
        self._numbers, self._out = itertools.count(), dict[str, Any]()
        self._threads, self._looked = 0, 0.0
        self._stack = ExitStack()

    def __enter__(self) -> Session:
        with ExitStack() as stack:
            stack.enter_context(sigterm_as_interrupt())
            self.client = stack.enter_context(open_client(self.address))
            stack.callback(self._end)
            self.client.register_plugin(self.tenant, name=self.name)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def submit(self, function: Callable[[Any, T], R], item: T) -> Any:
        """A future of ``function(tenant, item)`` in some worker."""
        key = f"{self.name}-{next(self._numbers)}"
        future = self.client.submit(on_worker, self.name, packed(function, item), key=key, pure=False)
        self._out[key] = future
        return future

    def complete(self, function: Callable[[Any, T], R], items: Iterable[T]) -> Iterator[Answer[T, R]]:
        """Answers as they come, in any order.

        Items whose workers died may only have lain with the one that killed them: they are tried again at the end, each
        alone, and what then comes of it counts. An item whose worker's machine is at fault (:class:`MachineError`) goes
        to another worker, and that one is retired.

        Args:
            function: of the tenant and an item; importable by name, as are the items' types.
            items: taken one by one as workers are free.

        Raises:
            ClusterError: the scheduler is gone, or no worker is left.
        """
        waiting = iter(items)
        done = as_completed(loop=self.client.loop, with_results=True, raise_errors=False)
        out: dict[str, T] = {}
        suspects, alone = deque[T](), set[str]()

        def send(item: T) -> str:
            future = self.submit(function, item)
            out[future.key] = item
            done.add(future)
            return str(future.key)

        with self.lost_is_told():
            while True:
                for item in itertools.islice(waiting, max(0, self.threads - len(out))):
                    send(item)
                if not out and suspects:
                    alone.add(send(suspects.popleft()))
                if not out:
                    return
                future, result = next(done)
                self._out.pop(future.key, None)
                item, error = out.pop(future.key), self.error_of(future)
                if isinstance(error, MachineError):
                    self._retire(error)
                if isinstance(error, MachineError | GivenUp):  # of a worker that closes
                    waiting = itertools.chain([item], waiting)
                elif error and future.key not in alone:
                    suspects.append(item)
                else:
                    yield Answer(item, None, str(error)) if error else Answer(item, result)

    def spread(self, function: Callable[[Any, T], R], items: Iterable[T]) -> Iterator[R]:
        """Answers in the order of the items, as :func:`map` gives them.

        Raises:
            ClusterError: the scheduler is gone, or each worker that took an item up died.
        """
        waiting, ahead = iter(items), deque[tuple[T, Any]]()
        with self.lost_is_told():
            while True:
                for item in itertools.islice(waiting, max(0, self.threads - len(ahead))):
                    ahead.append((item, self.submit(function, item)))
                if not ahead:
                    return
                yield self._answer(function, *ahead.popleft())

    @property
    def threads(self) -> int:
        """Tasks that may be out: as many as the workers can work on at a time now, and as an adaptive cluster may get.

        At least 1, so that something waits for a first worker. An adaptive cluster grows only while more is out than
        its workers can take up.
        """
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._threads, self._looked = sum(self.client.nthreads().values()), time.monotonic()
        adaptive = getattr(self.client.cluster, "_adaptive", None)  # of Dask's, which has no other name for it
        most = getattr(adaptive, "maximum", 0)
        return max(1, self._threads, int(most) if math.isfinite(most) else 0)

    def error_of(self, future: Any) -> Exception | None:
        """What a future that came to its end was ended by, of the kinds that a run goes on after.

        Raises:
            CommClosedError: the scheduler is gone.
            Exception: any other error of its task.
        """
        if future.status == "finished":
            return None
        if future.status != "error":
            raise CommClosedError(f"{future.key} is {future.status}")
        error = future.exception()
        if isinstance(error, KilledWorker):
            return ClusterError(_told(error))
        if isinstance(error, MachineError | GivenUp):
            return error
        raise error

    def _answer(self, function: Callable[[Any, T], R], item: T, future: Any) -> R:
        """Waits for the answer of an item that is out; asks another worker where the first one closes."""
        while True:
            future.exception()  # which waits for its end
            self._out.pop(future.key, None)
            error = self.error_of(future)
            if error is None:
                answer: R = future.result()
                return answer
            if not isinstance(error, GivenUp):
                raise error
            future = self.submit(function, item)

    def _retire(self, fault: MachineError) -> None:
        logger.warning("worker %s is retired: %s; its work goes to another", fault.worker, fault.reason)
        self.client.retire_workers([fault.worker])
        self._looked = 0.0
        try:  # one that died before may be on its way back
            self.client.wait_for_workers(1, timeout=RETURN_SECONDS)
        except TIMEOUTS as error:
            raise ClusterError(
                f"no worker is left, the last one had: {fault.reason}. Fix: mend it (make room on the disk), then give "
                "the same command again: it does what is missing"
            ) from error

    @contextmanager
    def lost_is_told(self) -> Iterator[None]:
        """Errors of a lost connection in words; others as they are."""
        try:
            yield
        except (CommClosedError, CancelledError, *TIMEOUTS) as error:
            raise ClusterError(
                f"the scheduler {self.client.scheduler.address if self.client.scheduler else self.address.text} is "
                f"gone ({type(error).__name__}). What is done is on the disk. Fix: start it and its workers again, "
                "then give the same command: it does what is missing"
            ) from error

    def _end(self) -> None:
        """Takes back what is out, and has the workers give up what they are at."""
        if self.client.status != "running":
            return
        with suppress(CommClosedError, OSError, *TIMEOUTS):
            self.client.cancel(list(self._out.values()), force=True)
            self.client.unregister_worker_plugin(self.name)


def _told(error: KilledWorker) -> str:
    return (
        f"each of the {error.allowed_failures + 1} workers that took it up, alone at last, died; expected one that "
        "survives it. Fix: look into the workers' logs (no memory left is the usual reason), give them more memory, "
        "then give the same command"
    )
