"""Progress on stderr, with the time that has passed."""

import sys
import time
from collections.abc import Callable

Say = Callable[[str], None]


def clock(seconds: float) -> str:
    """Write seconds as a person would: 4.2s, 80s as 1m20s.

    >>> clock(80), clock(4.24)
    ('1m20s', '4.2s')
    """
    if seconds < 60:
        return f"{seconds:.1f}s"
    return f"{int(seconds) // 60}m{int(seconds) % 60:02d}s"


class Progress:
    """Lines on stderr, each with the seconds since the start."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._start = time.monotonic()
        self._quiet = quiet

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def __call__(self, message: str) -> None:
        """Print one line, unless quiet."""
        if not self._quiet:
            print(f"[{clock(self.elapsed):>6}] {message}", file=sys.stderr, flush=True)
