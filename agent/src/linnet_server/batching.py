"""The lane that runs several requests as one: for models that gain by it, and only where asked for.

- Only a model whose inputs and outputs all have a dynamic first dimension: `can_batch`.
- A batch holds requests for the same outputs with rows of the same shape, up to `max_rows` rows.
  It starts when it is full or when its oldest request has waited `delay_s`; with `delay_s` 0 only
  what has piled up while all instances were busy is put together.
- A request that fails alone never fails its neighbours: a batch that the runtime refuses runs
  again, one request at a time.
- A model that does not answer a row for a row (its first dimension is no batch) is found out by the
  count, and from then on each request runs alone.
- A request that is too late leaves its batch; one that has begun is stopped when nobody waits any
  more.
"""

import asyncio
import collections
import concurrent.futures
import dataclasses
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from linnet_server import ort
from linnet_server.errors import DeadlineExceededError, OverloadedError, ServerError
from linnet_server.lane import stopped_error
from linnet_server.protocol import Signature
from linnet_server.sessions import Session
from linnet_server.tensors import Array

log = logging.getLogger(__name__)

Answer = list[Array] | ServerError | MemoryError


@dataclasses.dataclass(frozen=True, slots=True)
class BatchLimits:
    """How requests are put together.

    Attributes:
        max_rows: Rows of one batch; 2 or more.
        delay_s: Seconds that a request waits for others.
    """

    max_rows: int
    delay_s: float


@dataclasses.dataclass(eq=False, slots=True)
class _Ask:
    """One request that waits for its answer."""

    feeds: Mapping[str, Array]
    names: Sequence[str]
    rows: int
    kind: tuple[object, ...]
    due_at: float
    answer: asyncio.Future[list[Array]]
    batch: "_Batch | None" = None

    @property
    def wanted(self) -> bool:
        return not self.answer.done()


def can_batch(signature: Signature) -> bool:
    """Tell whether rows of several requests may be put one after the other."""
    specs = [*signature.inputs.values(), *signature.outputs.values()]
    dynamic = all(spec.shape and isinstance(spec.shape[0], str) for spec in specs)
    return dynamic and bool(signature.inputs)


class BatchingLane:
    """Keeps the contract of `linnet_server.lane.Lane`."""

    def __init__(
        self,
        session: Session,
        limits: BatchLimits,
        *,
        instances: int,
        max_queue: int,
        observe_rows: Callable[[int], object],
    ) -> None:
        self._session = session
        self._limits = limits
        self._together = True
        self._instances = instances
        self._max_queue = max_queue
        self._observe_rows = observe_rows
        self._queue: collections.deque[_Ask] = collections.deque()
        self._under_way: set[_Batch] = set()
        self._stopped = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._alarm: asyncio.TimerHandle | None = None
        self._threads: Final = concurrent.futures.ThreadPoolExecutor(instances, "linnet-run")

    @property
    def waiting(self) -> int:
        """How many requests wait for a batch or a thread."""
        return len(self._queue)

    def run_now(
        self,
        feeds: Mapping[str, Array],  # noqa: ARG002 - the contract's
        names: Sequence[str],  # noqa: ARG002
        *,
        elements: int,  # noqa: ARG002
    ) -> list[Array] | None:
        """Return None: a request that runs at once meets no others."""
        return None

    async def run(
        self,
        feeds: Mapping[str, Array],
        names: Sequence[str],
        *,
        elements: int,  # noqa: ARG002 - the contract's
        deadline_s: float,
    ) -> list[Array]:
        """Keep the contract of `Lane.run`, in company."""
        busy = len(self._under_way) >= self._instances
        if len(self._queue) >= (self._max_queue if busy else self._most_that_gather()):
            raise OverloadedError(f"{len(self._queue)} requests wait already")
        loop = asyncio.get_running_loop()
        rows = {array.shape[0] for array in feeds.values()}
        # Inputs that disagree about the rows are the model's to refuse, or to understand: alone.
        kind: tuple[object, ...] = (tuple(names), *_rows_of(feeds)) if len(rows) == 1 else ()
        due_at = loop.time() + (self._limits.delay_s if self._together and kind else 0.0)
        ask = _Ask(feeds, names, max(rows), kind, due_at, loop.create_future())
        self._queue.append(ask)
        self._start_what_is_due()
        try:
            async with asyncio.timeout(deadline_s):
                return await ask.answer
        except TimeoutError as exc:
            raise DeadlineExceededError(f"no answer within {deadline_s:.3g} s") from exc
        finally:
            if ask.answer.cancelled():
                self._forget(ask)

    def stop(self) -> None:
        """Refuse what waits, and tell every run to stop."""
        self._stopped = True
        for ask in self._queue:
            if ask.wanted:
                ask.answer.set_exception(stopped_error())
        self._queue.clear()
        for batch in self._under_way:
            batch.options.terminate = True

    async def wait_idle(self) -> None:
        """Keep the contract of `Lane.wait_idle`."""
        await self._idle.wait()

    def close(self) -> None:
        """Start no more threads; what runs ends by itself."""
        self._threads.shutdown(wait=False)

    def _most_that_gather(self) -> int:
        return max(self._max_queue, self._limits.max_rows)

    def _start_what_is_due(self) -> None:
        """Start as many batches as there are instances free and batches full or old enough."""
        loop = asyncio.get_running_loop()
        while self._queue and len(self._under_way) < self._instances:
            asks = self._collect()
            due_at = asks[0].due_at
            if (
                self._together
                and _count_rows(asks) < self._limits.max_rows
                and due_at > loop.time()
            ):
                if self._alarm is None:
                    self._alarm = loop.call_at(due_at, self._wake)
                return
            self._start(asks)

    def _collect(self) -> list[_Ask]:
        """Return the oldest request, and those that may go with it."""
        first = self._queue[0]
        if not (self._together and first.kind):
            return [first]
        asks, rows = [first], first.rows
        for ask in list(self._queue)[1:]:
            if ask.kind == first.kind and rows + ask.rows <= self._limits.max_rows:
                asks.append(ask)
                rows += ask.rows
        return asks

    def _start(self, asks: list[_Ask]) -> None:
        loop = asyncio.get_running_loop()
        batch = _Batch(self._session, asks)
        for ask in asks:
            self._queue.remove(ask)
            ask.batch = batch
        try:
            job = self._threads.submit(batch.run)
        except RuntimeError:
            for ask in asks:
                ask.answer.set_exception(OverloadedError("no thread can be started for it"))
            return
        self._under_way.add(batch)
        self._idle.clear()
        self._observe_rows(_count_rows(asks))
        job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._finish, batch, job))

    def _finish(
        self, batch: "_Batch", job: concurrent.futures.Future[tuple[list[Answer], bool]]
    ) -> None:
        self._under_way.discard(batch)
        if not self._under_way:
            self._idle.set()
        answers, by_rows = job.result()
        if not by_rows and self._together:
            log.warning("server.batch.refused", extra={"reason": "not a row for a row"})
            self._together = False
        for ask, answer in zip(batch.asks, answers, strict=True):
            if not ask.wanted:
                continue
            if not isinstance(answer, Exception):
                ask.answer.set_result(answer)
            elif self._stopped:
                ask.answer.set_exception(stopped_error())
            else:
                ask.answer.set_exception(answer)
        self._start_what_is_due()

    def _wake(self) -> None:
        self._alarm = None
        self._start_what_is_due()

    def _forget(self, ask: _Ask) -> None:
        """Take back what nobody waits for any more."""
        if ask.batch is None:
            self._queue.remove(ask)
        elif not any(other.wanted for other in ask.batch.asks):
            ask.batch.options.terminate = True


class _Batch:
    """Requests that run as one."""

    def __init__(self, session: Session, asks: list[_Ask]) -> None:
        self.asks: Final = asks
        self.options: Final = ort.RunOptions()
        self._session = session

    def run(self) -> tuple[list[Answer], bool]:
        """Return an answer for each request, and whether a row was answered for each row.

        Blocks; in a thread.
        """
        asks = self.asks
        if len(asks) == 1:
            return [self._run_one(asks[0])], True
        try:
            feeds = {
                name: np.concatenate([ask.feeds[name] for ask in asks]) for name in asks[0].feeds
            }
            outputs = self._session.run(feeds, asks[0].names, self.options)
        except (ServerError, MemoryError):
            return self._run_each(), True
        ends = list(itertools.accumulate(ask.rows for ask in asks))
        if any(not array.ndim or array.shape[0] != ends[-1] for array in outputs):
            return self._run_each(), False
        starts = [0, *ends[:-1]]
        return [
            [array[start:end] for array in outputs] for start, end in zip(starts, ends, strict=True)
        ], True

    def _run_each(self) -> list[Answer]:
        return [self._run_one(ask) for ask in self.asks]

    def _run_one(self, ask: _Ask) -> Answer:
        try:
            return self._session.run(ask.feeds, ask.names, self.options)
        except (ServerError, MemoryError) as error:
            return error


def _count_rows(asks: Sequence[_Ask]) -> int:
    return sum(ask.rows for ask in asks)


def _rows_of(feeds: Mapping[str, Array]) -> list[object]:
    """Return what the rows of two requests must have in common."""
    return [(name, array.dtype, array.shape[1:]) for name, array in feeds.items()]
