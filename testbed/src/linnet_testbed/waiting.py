"""Waiting for a condition, for tests and for ourselves."""

import time
import urllib.request
from collections.abc import Callable

from linnet_testbed.errors import TestbedError


def until(condition: Callable[[], object], timeout: float = 15, what: str = "") -> None:
    """Return as soon as `condition` holds.

    Raises:
        TestbedError: The condition does not hold after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TestbedError(f"Still not so after {timeout:.0f} s: {what or condition}.")
        time.sleep(0.05)


def answers(url: str) -> bool:
    """Tell whether a GET of `url` is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - loopback
            return int(answer.status) == 200
    except OSError:
        return False
