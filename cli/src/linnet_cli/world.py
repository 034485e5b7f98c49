"""What a command may touch: streams, clock, environment, and the way to a cluster.

Everything is an argument, so that a test needs neither a terminal nor a cluster nor a clock.
"""

import argparse
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple, TextIO

from linnet_cli.kube import Kube


class World(NamedTuple):
    """The surroundings of one command.

    Attributes:
        prog: How people call us: ``linnet`` or ``kubectl linnet``.
        out: Where data goes.
        err: Where talk goes.
        now: The clock, with time zone.
        monotonic: Seconds that never go back.
        sleep: Waits that many seconds.
        token: Returns a short random word of hex digits.
        connect: Opens the cluster that the arguments name.
        color: True where colours are wanted.
        terminal: True where ``out`` is a terminal that can be redrawn.
        size: Returns columns and lines of that terminal.
    """

    prog: str
    out: TextIO
    err: TextIO
    now: Callable[[], datetime]
    monotonic: Callable[[], float]
    sleep: Callable[[float], None]
    token: Callable[[], str]
    connect: Callable[[argparse.Namespace], Kube]
    color: bool = False
    terminal: bool = False
    size: Callable[[], tuple[int, int]] = lambda: (100, 40)

    def say(self, text: str) -> None:
        """Write one line of talk."""
        self.err.write(f"{text}\n")
        self.err.flush()

    def show(self, text: str) -> None:
        """Write data, with a newline at the end."""
        self.out.write(f"{text}\n")
        self.out.flush()
