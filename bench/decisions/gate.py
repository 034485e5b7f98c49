"""The small size with fixed seeds: the limits that the judge keeps, checked in every build.

- No scenario's false rollback may be surely above its limit: the lower 99 % bound is compared.
- No bad model may be found later than 1.25 times the median of the research report.
"""

import time
from math import comb, inf
from statistics import median
from typing import Literal

from bench.decisions.measure import OURS, Outcome, run
from bench.decisions.scenarios import Scenario, all_scenarios

Part = Literal["good", "robust", "rollout", "bad"]
PARTS: tuple[Part, ...] = ("good", "robust", "rollout", "bad")
REPETITIONS = 40
BAD_REPETITIONS = 60
SLOWER = 1.25


def main(*, workers: int) -> int:
    started = time.monotonic()
    broken: list[str] = []
    for part in PARTS:
        for scenario, outcome in measure(part, workers=workers):
            broken += problems(scenario, outcome)
    for problem in broken:
        print(problem)
    print(f"{time.monotonic() - started:.0f} s, {len(broken)} limits broken")
    return int(bool(broken))


def measure(part: Part, *, workers: int) -> list[tuple[Scenario, Outcome]]:
    """Return the outcome of every scenario of a table that has a limit, in the small size."""
    chosen = [each for each in all_scenarios() if each.table == part]
    if part == "bad":
        limited = [each for each in chosen if each.median is not None]
        return list(run(limited, 2 * BAD_REPETITIONS, workers=workers, looks="ours"))
    good = [each for each in chosen if each.good]
    return list(run(good, REPETITIONS, workers=workers, looks="few"))


def problems(scenario: Scenario, outcome: Outcome) -> list[str]:
    """Return which limits an outcome breaks."""
    alarms = outcome.alarms[OURS]
    if scenario.good:
        wrong = sum(alarm is not None for alarm in alarms)
        bound = lower_bound(wrong, outcome.repetitions)
        if bound <= scenario.largest_false:
            return []
        return [
            f"{scenario.key}: {wrong} of {outcome.repetitions} good models were taken back, surely "
            f"more than {100 * bound:.1f} %; the limit is {100 * scenario.largest_false:.1f} %"
        ]
    assert scenario.median is not None, scenario
    found = median(inf if alarm is None else alarm for alarm in alarms)
    if found <= SLOWER * scenario.median:
        return []
    return [
        f"{scenario.key}: a bad model is found after {found:g} minutes (median of "
        f"{outcome.repetitions}); the limit is {SLOWER * scenario.median:g}"
    ]


def lower_bound(successes: int, trials: int, *, error: float = 0.01) -> float:
    """Return the one-sided lower bound of Clopper and Pearson on a probability."""
    low, high = 0.0, successes / trials
    for _ in range(50):
        middle = (low + high) / 2.0
        if _at_least(successes, trials, middle) > error:
            high = middle
        else:
            low = middle
    return low


def _at_least(successes: int, trials: int, chance: float) -> float:
    """Return the probability of so many successes or more."""
    return 1.0 - sum(
        comb(trials, k) * chance**k * (1.0 - chance) ** (trials - k) for k in range(successes)
    )
