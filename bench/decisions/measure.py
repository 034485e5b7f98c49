"""Runs scenarios: every judge on the same counts, batch by batch, in worker processes.

A repetition has dice of its own, made of the scenario's name and its number; so a figure does not
depend on how the work is cut up, and a run that was cut off goes on where it was.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from multiprocessing import get_context
from types import MappingProxyType
from zlib import crc32

import numpy as np

from bench.decisions import ours
from bench.decisions.generator import make
from bench.decisions.rivals import RIVALS
from bench.decisions.scenarios import STEPS, Scenario

OURS = "Linnet"
CLEARED = (5.0, 3.0, 2.0)
_BATCH = 20


@dataclass(kw_only=True)
class Outcome:
    """What came of a scenario; a list has one entry for each repetition.

    Attributes:
        repetitions: How many.
        alarms: Judge -> minute of the alarm, None where there was none. In a whole rollout: the
            share of the nodes that had the candidate by then.
        asked: How often ours asked a person, and had not failed the candidate by itself in the end.
        cleared: Factor -> minute at which ours excludes that rise.
    """

    repetitions: int = 0
    alarms: dict[str, list[float | None]] = field(default_factory=dict)
    asked: int = 0
    cleared: dict[str, list[float | None]] = field(default_factory=dict)

    def add(self, more: "Outcome") -> None:
        self.repetitions += more.repetitions
        self.asked += more.asked
        for own, others in ((self.alarms, more.alarms), (self.cleared, more.cleared)):
            for name, values in others.items():
                own.setdefault(name, []).extend(values)


def run(
    scenarios: Sequence[Scenario],
    repetitions: int,
    *,
    workers: int,
    kept: Mapping[str, Outcome] = MappingProxyType({}),
    looks: str = "every",
) -> Iterator[tuple[Scenario, Outcome]]:
    """Yield the outcome of each scenario, as they are done.

    Args:
        scenarios: Which.
        repetitions: Of a scenario with share 1.
        workers: Processes.
        kept: Key -> what came of its first repetitions before; they are not repeated.
        looks: "every" minute with all rivals; "ours" alone every minute; ours at "few" of them; or
            "rivals" alone.
    """
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for scenario in scenarios:
            count = scenario.count(repetitions)
            outcome = deepcopy(kept.get(scenario.key, Outcome()))
            jobs = [
                pool.submit(run_batch, scenario, start, min(start + _BATCH, count), looks)
                for start in range(outcome.repetitions, count, _BATCH)
            ]
            for job in jobs:
                outcome.add(job.result())
            yield scenario, outcome


def run_batch(scenario: Scenario, start: int, stop: int, looks: str) -> Outcome:
    """Return the outcome of some repetitions of a scenario."""
    outcome = Outcome()
    for repetition in range(start, stop):
        seed = [crc32(scenario.key.encode()), repetition]
        outcome.add(_repeat(scenario, np.random.default_rng(seed), looks))
    return outcome


def look_minutes(minutes: int, every: int, looks: str) -> list[int]:
    """Return at which minutes there is a look."""
    if looks == "few":
        return [t for t in range(1, minutes + 1) if t <= 10 or t % 10 == 0]
    return list(range(every, minutes + 1, every))


def _repeat(scenario: Scenario, dice: np.random.Generator, looks: str) -> Outcome:
    fleet = scenario.fleet
    steps = STEPS if scenario.table == "rollout" else (fleet.candidates,)
    made = make(fleet, dice, steps=steps)
    learned = ours.learn_from(made[0], fleet, withheld=scenario.withheld)
    at = look_minutes(fleet.minutes, scenario.every, looks)
    outcome = Outcome(repetitions=1)
    if scenario.table == "clear":
        minutes = ours.cleared_at(learned, made[0], CLEARED, at)
        outcome.cleared = {f"{f:g}": [m] for f, m in zip(CLEARED, minutes, strict=True)}
        return outcome
    whole = scenario.table == "rollout"
    alarm = None
    asked = False
    for counts in made if looks != "rivals" else []:
        said = ours.judge(learned, counts, steps=len(steps), looks=at)
        asked = asked or (said.asked_at is not None and said.failed_at is None)
        if said.failed_at is not None:
            alarm = counts.candidates / fleet.nodes if whole else said.failed_at
            break
    outcome.alarms[OURS] = [alarm]
    outcome.asked = int(asked and alarm is None)
    if looks in {"ours", "few"} or scenario.withheld:
        return outcome
    for name, rival in RIVALS.items():
        alarm = None
        for counts in made:
            minute = rival(counts, len(steps))
            if minute is not None:
                alarm = counts.candidates / fleet.nodes if whole else minute
                break
        outcome.alarms[name] = [alarm]
    return outcome
