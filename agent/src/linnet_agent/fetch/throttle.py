"""How a fleet's fetches are spread: a byte rate for each node, and a start of its own.

- All fetches of a process share one rate; what one leaves, the others have.
- A node's start is a function of its UID and the artifact: the same at every try, and evenly
  spread over the window when many nodes are told at once.
"""

import hashlib
import threading
import time
from collections.abc import Callable
from typing import Final

_BURST_S: Final = 0.25
_SMALLEST_SLICE_BYTES: Final = 4 << 10


class Throttle:
    """A token bucket, for many threads.

    Args:
        bytes_per_second: The rate; 0 is no limit.
        clock: Monotonic seconds.
    """

    def __init__(
        self, bytes_per_second: int = 0, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        assert bytes_per_second >= 0, bytes_per_second
        self._rate = bytes_per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._paid_until = clock()

    @property
    def slice_bytes(self) -> int | None:
        """Return how much to read at a time, so that the rate is smooth; None where it is free."""
        return max(_SMALLEST_SLICE_BYTES, int(self._rate * _BURST_S)) if self._rate else None

    def take(self, count_bytes: int) -> float:
        """Note bytes that were read; return the seconds to wait before reading more."""
        if not self._rate:
            return 0.0
        with self._lock:
            now = self._clock()
            start = max(self._paid_until, now - _BURST_S)
            self._paid_until = start + count_bytes / self._rate
            return max(0.0, self._paid_until - now)


def start_delay(node_uid: str, artifact: str, window_s: float) -> float:
    """Return when in a window of ``window_s`` seconds a node begins to fetch: 0 to ``window_s``."""
    place = hashlib.sha256(f"{node_uid}\0{artifact}".encode()).digest()[:8]
    return window_s * int.from_bytes(place, "big") / (1 << 64)
