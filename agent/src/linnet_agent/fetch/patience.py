"""How long a node goes on asking: what is tried again, after which pause, and when it gives up.

- 5xx, 408, 425, 429, resets and silence may pass; any other no is final.
- Pauses double up to a cap and are jittered, so that a fleet does not come back as one.
- What a server asks for by ``Retry-After`` is waited for, up to a cap; a date is read against the
  server's own ``Date``, for a node's clock may be wrong.
"""

import email.utils
from dataclasses import dataclass
from http.client import HTTPMessage
from typing import Final

AGAIN: Final = frozenset({408, 425, 429})
"""What 4xx may pass."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How patient a client is; ``attempts`` counts from the last progress."""

    attempts: int = 6
    first_s: float = 0.25
    cap_s: float = 15.0
    connect_s: float = 5.0
    read_s: float = 20.0
    asked_cap_s: float = 120.0
    """So long at most is waited because a server asks for it."""

    def pause_s(self, attempt: int, jitter: float, *, asked_s: float | None = None) -> float:
        """Return the pause after the ``attempt``-th failure (from 1).

        Args:
            attempt: How many failures there were.
            jitter: 0 to 1.
            asked_s: What the server asked for; a jittered pause is added, so that not all of
                those who were sent away come back in the same moment.
        """
        whole = min(self.cap_s, self.first_s * 2.0 ** (min(attempt, 64) - 1))
        pause = whole * (0.5 + 0.5 * jitter)
        return pause if asked_s is None else pause + min(self.asked_cap_s, max(0.0, asked_s))


def read_retry_after(headers: HTTPMessage) -> float | None:
    """Return the seconds that a server asks to be left alone, or None where it does not say."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        until = email.utils.parsedate_to_datetime(text)
        now = email.utils.parsedate_to_datetime(headers.get("Date", ""))
        return max(0.0, (until - now).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
