"""The way of requests into one session: how many run at once, how many wait, and where they run.

- At most `instances` runs at once and `max_queue` waiting; the next one is refused at once (503),
  so that a burst costs no memory and no stale answers.
- A run that is known to be short happens on the loop itself: the hop to a thread and back costs
  more than it does. Known means: a request of this many elements, or more, has been seen to take
  less than `INLINE_S`. Two in a row that took longer lower the bar below themselves (one alone may
  have lost its core for a moment), one that was short in a thread raises it. How long a run takes
  may hang on values as well (a loop that counts to its input): a watchdog stops what holds up the
  loop, and it runs again in a thread.
- A run that misses its deadline is told to stop (between two nodes of its graph); its place is free
  when it has.
- A lane whose drain takes too long is stopped: what runs or waits in it ends with a 503.

Each revision has a lane, and threads, of its own: however many requests one deployment gets, the
places of the others stay free. `batching.py` has the other lane, for models that gain by batches.
"""

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from linnet_server import ort
from linnet_server.errors import (
    DeadlineExceededError,
    ModelFailedError,
    NotReadyError,
    OverloadedError,
)
from linnet_server.sessions import Session, WarmUp
from linnet_server.tensors import Array

INLINE_S: Final = 0.0003
INLINE_MAX_S: Final = 0.02
"""A run on the loop that takes longer is stopped, at the latest after twice this time."""


class _Watchdog:
    """Stops the run that holds up the loop; a thread that sleeps where no run is on the loop."""

    def __init__(self) -> None:
        self.running: Any = None
        """The options of the run that is on the loop now."""
        self._awake = threading.Event()
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """Look, from now on until no run is on the loop."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="linnet-watch", daemon=True)
            self._thread.start()
        if not self._awake.is_set():
            self._awake.set()

    def _watch(self) -> None:
        while True:
            self._awake.wait()
            self._awake.clear()  # before the look: a run that begins now sets it again
            seen = self.running
            time.sleep(INLINE_MAX_S)
            if seen is not None and self.running is seen:
                seen.terminate = True
            if self.running is not None:
                self._awake.set()


_WATCHDOG: Final = _Watchdog()
"""One for the process: there is one loop."""


class Lane(Protocol):
    """The only caller of a session's runs; called by the loop's thread alone."""

    @property
    def waiting(self) -> int:
        """How many requests wait for a run."""

    def run_now(
        self, feeds: Mapping[str, Array], names: Sequence[str], *, elements: int
    ) -> list[Array] | None:
        """Return the outputs ``names`` for ``feeds``; None where that would hold up the loop.

        Raises:
            ModelFailedError: The runtime raised.
        """

    async def run(
        self,
        feeds: Mapping[str, Array],
        names: Sequence[str],
        *,
        elements: int,
        deadline_s: float,
    ) -> list[Array]:
        """Return the outputs ``names`` for ``feeds``, out of a thread.

        Args:
            feeds: One array for each input.
            names: The wanted outputs.
            elements: How many elements ``feeds`` hold: the measure of the work.
            deadline_s: Seconds from now until the answer is of no use.

        Raises:
            ModelFailedError: The runtime raised.
            OverloadedError: The queue is full.
            DeadlineExceededError: It took too long.
            NotReadyError: The lane was stopped.
        """

    def stop(self) -> None:
        """End what runs or waits: the revision must go."""

    async def wait_idle(self) -> None:
        """Return when no thread uses the session: not each run can be stopped at once."""

    def close(self) -> None:
        """Start no more threads; what runs ends by itself."""


def stopped_error() -> NotReadyError:
    """Return what the requests get that a swap could not wait for."""
    return NotReadyError("the revision was taken out, and its requests took longer than the drain")


class SingleLane:
    """The lane that runs each request by itself."""

    def __init__(
        self, session: Session, *, instances: int, max_queue: int, warm_up: WarmUp | None
    ) -> None:
        self._session = session
        self._instances = instances
        self._places = instances + max_queue
        self._taken = 0
        self._stopped = False
        self._under_way: set[Any] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        # Threads start when they are first needed: a tiny model never gets any.
        self._threads = concurrent.futures.ThreadPoolExecutor(instances, "linnet-run")
        self._inline_elements = -1
        self._was_long = False
        if warm_up is not None:
            self._learn(warm_up.elements, warm_up.best_s)

    @property
    def waiting(self) -> int:
        """How many requests wait for a thread."""
        return max(0, self._taken - self._instances)

    def run_now(
        self, feeds: Mapping[str, Array], names: Sequence[str], *, elements: int
    ) -> list[Array] | None:
        """Keep the contract of `Lane.run_now`: done where it is known to be short."""
        if elements > self._inline_elements:
            return None
        options = ort.RunOptions()
        started_at = time.perf_counter()
        _WATCHDOG.running = options
        _WATCHDOG.wake()
        try:
            outputs = self._session.run(feeds, names, options)
        except ModelFailedError:
            if not options.terminate:
                raise
            self._inline_elements = min(self._inline_elements, elements - 1)
            return None
        finally:
            _WATCHDOG.running = None
            self._learn(elements, time.perf_counter() - started_at)
        return outputs

    async def run(
        self,
        feeds: Mapping[str, Array],
        names: Sequence[str],
        *,
        elements: int,
        deadline_s: float,
    ) -> list[Array]:
        """Keep the contract of `Lane.run`."""
        if self._taken >= self._places:
            raise OverloadedError(f"{self._taken} requests run or wait already")
        options = ort.RunOptions()

        def run() -> tuple[list[Array], float]:
            started_at = time.perf_counter()
            outputs = self._session.run(feeds, names, options)
            return outputs, time.perf_counter() - started_at

        try:
            job = self._threads.submit(run)
        except RuntimeError as exc:
            raise OverloadedError("no thread can be started for it") from exc
        self._taken += 1
        self._idle.clear()
        self._under_way.add(options)
        try:
            async with asyncio.timeout(deadline_s):
                outputs, took_s = await asyncio.wrap_future(job)
        except TimeoutError as exc:
            raise DeadlineExceededError(f"no answer within {deadline_s:.3g} s") from exc
        except ModelFailedError:
            if self._stopped:
                raise stopped_error() from None
            raise
        finally:
            self._under_way.discard(options)
            self._leave(job, options)
        self._learn(elements, took_s)
        return outputs

    def stop(self) -> None:
        """Tell every run to stop; one that waits stops as soon as it starts."""
        self._stopped = True
        for options in self._under_way:
            options.terminate = True

    async def wait_idle(self) -> None:
        """Keep the contract of `Lane.wait_idle`."""
        await self._idle.wait()

    def close(self) -> None:
        """Start no more threads; what runs ends by itself."""
        self._threads.shutdown(wait=False)

    def _leave(
        self, job: concurrent.futures.Future[tuple[list[Array], float]], options: object
    ) -> None:
        """Free the place of ``job``, at once or when its thread has let go of it."""
        if job.done():
            self._free()
            return
        options.terminate = True  # type: ignore[attr-defined]  # onnxruntime has no types
        loop = asyncio.get_running_loop()
        job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._free))

    def _free(self) -> None:
        self._taken -= 1
        if not self._taken:
            self._idle.set()

    def _learn(self, elements: int, took_s: float) -> None:
        if took_s <= INLINE_S:
            self._inline_elements = max(self._inline_elements, elements)
            self._was_long = False
        elif self._was_long:
            self._inline_elements = min(self._inline_elements, elements - 1)
        else:
            self._was_long = True
