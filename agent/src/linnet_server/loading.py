"""From a revision's files to a session that is warm, in a lane: one at a time, and not for ever.

- One model loads at a time: two at once would double the peak of memory.
- A model that does not fit into memory beside what is there is refused before it is loaded.
- A load that takes longer than `timeout_s` is a verdict. The runtime cannot be made to stop at
  once: the thread is left to itself, what it still loads is freed, and the server's end does not
  wait for it.
- A load steps back behind the requests where the runtime starts no threads of its own, which would
  keep its priority: a node's cores are few, and who waits for an answer comes first.
"""

import asyncio
import concurrent.futures
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from linnet_server.batching import BatchingLane, BatchLimits, can_batch
from linnet_server.errors import LoadTimeoutError, NoMemoryError
from linnet_server.lane import Lane, SingleLane
from linnet_server.memory import available_bytes, needed_bytes, resident_bytes
from linnet_server.records import RevisionFiles
from linnet_server.runtimes.targets import Target, read_variant
from linnet_server.sessions import DEFAULT_CACHE, Session, WarmUp, load_session

_STEP_BACK: Final = 5
"""Nice levels. Open loop at half of the saturated rate, two cores, a load of a second: p99 rose
from 22 to 96 ms without, and stayed at 6 ms with it. More gained nothing, and the thread holds the
interpreter's lock for a moment before and after the load."""


class Loaded(NamedTuple):
    """What has come of a revision's files.

    Attributes:
        session: The model.
        lane: The only way into it.
        took_s: Seconds of loading and warming up.
        memory_bytes: How much the process grew by it; other work in the same moment counts as well.
    """

    session: Session
    lane: Lane
    took_s: float
    memory_bytes: int


class Loader:
    """Loads revisions."""

    def __init__(
        self,
        *,
        max_threads: int,
        max_queue: int,
        timeout_s: float,
        engine_cache: Path = DEFAULT_CACHE,
        batch: BatchLimits | None = None,
        available: Callable[[], int | None] = available_bytes,
    ) -> None:
        self._max_threads = max_threads
        self._max_queue = max_queue
        self._timeout_s = timeout_s
        self._engine_cache = engine_cache
        self._batch = batch
        self._available = available
        self._one_load = asyncio.Lock()

    def check_room(self, files: RevisionFiles) -> None:
        """Return where the model fits into memory beside what is there.

        Raises:
            NoMemoryError: It does not.
        """
        available, needed = self._available(), needed_bytes(files.model_path)
        if available is not None and needed > available:
            raise NoMemoryError(
                f"loading it takes up to {needed >> 20} MiB; {available >> 20} MiB can be had"
            )

    async def load(self, files: RevisionFiles, *, observe_rows: Callable[[int], object]) -> Loaded:
        """Return the model in ``files``, warm.

        Args:
            files: A revision.
            observe_rows: Gets the rows of each batch that runs, once the revision serves.

        Raises:
            ControlError: It cannot be loaded, or not in time.
        """
        record = files.record
        async with self._one_load:
            started_at, before = time.perf_counter(), resident_bytes()
            job = _start_load(
                files, threads=min(record.threads, self._max_threads), cache=self._engine_cache
            )
            try:
                async with asyncio.timeout(self._timeout_s):
                    session, warm_up = await asyncio.wrap_future(job)
            except TimeoutError as exc:
                raise LoadTimeoutError(f"not loaded after {self._timeout_s:.3g} s") from exc
            took_s = round(time.perf_counter() - started_at, 4)
            grown_bytes = max(0, resident_bytes() - before)
        lane: Lane
        if self._batch is not None and can_batch(session.signature):
            lane = BatchingLane(
                session,
                self._batch,
                instances=record.instances,
                max_queue=self._max_queue,
                observe_rows=observe_rows,
            )
        else:
            lane = SingleLane(
                session, instances=record.instances, max_queue=self._max_queue, warm_up=warm_up
            )
        return Loaded(session, lane, took_s, grown_bytes)


_Job = concurrent.futures.Future[tuple[Session, WarmUp | None]]


def _start_load(files: RevisionFiles, *, threads: int, cache: Path) -> _Job:
    """Start to load in a thread of its own; where the job is cancelled, its session is freed."""
    job: _Job = concurrent.futures.Future()
    record = files.record

    def load() -> None:
        try:
            if threads == 1 and read_variant(record.variant) is Target.CPU:
                _step_back()
            session = load_session(
                files.model_path,
                variant=record.variant,
                threads=threads,
                digest=record.model_digest if record.model_digest.startswith("sha256:") else None,
                cache=cache,
            )
            warm_up = session.warm_up()
        except BaseException as error:  # noqa: BLE001 - carried over to who waits
            if job.set_running_or_notify_cancel():
                job.set_exception(error)
            return
        if job.set_running_or_notify_cancel():
            job.set_result((session, warm_up))
        else:
            session.close()

    try:
        threading.Thread(target=load, name="linnet-load", daemon=True).start()
    except RuntimeError as exc:
        raise NoMemoryError("not even a thread can be started to load it") from exc
    return job


def _step_back() -> None:
    """Lower the priority of this thread; on Linux each thread has its own."""
    here = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, here, os.getpriority(os.PRIO_PROCESS, here) + _STEP_BACK)
