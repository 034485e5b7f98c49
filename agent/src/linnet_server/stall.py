"""How long the loop stood still: the longest time in which the server answered nobody.

- Looks only while it is asked to (a swap takes a second or two): ticks cost something.
- The resolution is a tick; what is shorter is no stall.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Final

TICK_S: Final = 0.005


@dataclasses.dataclass(slots=True)
class Stall:
    """What was seen."""

    longest_s: float = 0.0


@contextlib.contextmanager
def watch_loop() -> Iterator[Stall]:
    """Yield what is being seen of the running loop."""
    loop = asyncio.get_running_loop()
    stall = Stall()
    last = loop.time()
    alarm: asyncio.TimerHandle

    def tick() -> None:
        nonlocal alarm, last
        now = loop.time()
        stall.longest_s = max(stall.longest_s, now - last - TICK_S)
        last = now
        alarm = loop.call_later(TICK_S, tick)

    alarm = loop.call_later(TICK_S, tick)
    try:
        yield stall
    finally:
        alarm.cancel()
        stall.longest_s = max(stall.longest_s, loop.time() - last - TICK_S)
