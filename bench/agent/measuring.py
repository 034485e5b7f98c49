"""Commands that are measured, and the lines of the table."""

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

FILES = 8
_CHUNK = 1 << 20


class SkippedError(Exception):
    """This machine cannot measure it, and why."""


@dataclass(frozen=True)
class Line:
    """A row of the table; a row without a budget informs."""

    what: str
    value: float | None = None
    unit: str = ""
    budget: float | None = None
    note: str = ""

    @property
    def missed(self):
        return None not in (self.value, self.budget) and self.value > self.budget

    def __str__(self):
        value = "" if self.value is None else f"{self.value:,.3g} {self.unit}".strip()
        if self.unit == "bytes":
            value = f"{self.value:,.0f}"
        budget = (
            ""
            if self.budget is None
            else f"<= {self.budget:,.4g}"
            if self.unit != "bytes"
            else f"<= {self.budget:,.0f}"
        )
        verdict = "" if self.budget is None else "MISSED" if self.missed else "ok"
        return f"{self.what:<46}{value:>14}{budget:>12}  {verdict:<7}{self.note}".rstrip()


@dataclass(frozen=True)
class Cost:
    """What a run has cost; the median of several is taken field by field."""

    seconds: float
    cpu_s: float
    peak_mib: float


def measure_process(argv, *, ok=(0,)):
    """Run a command to its end and return its cost.

    A process of its own starts it: the peak of a child is never below that of its parent.
    """
    launcher = [sys.executable, "-I", "-S", Path(__file__).with_name("launch.py"), *argv]
    done = subprocess.run(launcher, capture_output=True, text=True, check=False)
    told, _, said = done.stdout.rpartition("\n")[0].rpartition("\n")
    if done.returncode or not said:
        raise RuntimeError(f"{argv}: {done.stderr or done.stdout}")
    found = json.loads(said)
    if found["code"] not in ok:
        raise RuntimeError(f"{argv} ended with {found['code']}: {done.stderr or told}")
    return Cost(found["seconds"], found["cpu_s"], found["peak_kib"] / 1024)


def in_turns(commands, *, runs):
    """Run each command once in turns, so often; return the median cost of each.

    Args:
        commands: Name to something that runs once and returns a Cost.
        runs: How many of each are counted; one more goes before, to warm caches.
    """
    costs = {name: [] for name in commands}
    for turn in range(runs + 1):
        for name, run in commands.items():
            cost = run()
            if turn:
                costs[name].append(cost)
        print(f"  turn {turn} of {runs}", end="\r", file=sys.stderr, flush=True)
    return {
        name: Cost(
            *(
                statistics.median(getattr(one, field) for one in found)
                for field in Cost.__match_args__
            )
        )
        for name, found in costs.items()
    }


def write_model(directory, *, size):
    """Write a model of so many bytes in eight files that no compression makes smaller."""
    directory.mkdir()
    block = os.urandom(_CHUNK)
    for number in range(FILES):
        left = size // FILES
        with (directory / f"weights-{number}.bin").open("wb") as file:
            while left > 0:
                left -= file.write(os.urandom(16) + block[16 : max(16, min(left, _CHUNK))])
    os.sync()
    return directory
