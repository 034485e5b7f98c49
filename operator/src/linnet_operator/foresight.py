"""What the judge will be able to see: per step, before anything has moved.

Rules:
- It is arithmetic on the judge's own formulas with the fleet's own past: no simulation, no chance.
- The forecast is for what happens on average: a healthy node fails as its past says, a bad one as
  the named harm says. Half of all rollouts see it sooner, half later.
- Who is a candidate is decided by lot, so the nodes of a step are those spread evenly over the
  traffic.
- What cannot be seen in the time that there is, is None: never a guess.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from math import fsum, log
from typing import Final

from linnet_api.durations import parse_duration
from linnet_api.rollout_policy import RolloutPolicySpec
from linnet_operator.judge.assess import StepInputs
from linnet_operator.judge.compare import EXCLUDABLE, Detect, MetricLook, NodeCount, look
from linnet_operator.judge.learned import Learned, OwnHistory
from linnet_operator.judge.verdicts import Verdict
from linnet_operator.planner import quotas
from linnet_operator.planner.turn import BAKES_TO_DECIDE, NO_BAKE_DECIDES_WITHIN

_SHORTEST_S: Final = 1.0
_LATEST_MULTIPLE: Final = 10.0
_REFINEMENTS: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class StepAhead:
    """One step, in integers for a fleet of a size.

    Attributes:
        first: Its number.
        last: The number of the last step that is one with it.
        nodes: How many nodes hold the candidate.
        stable: How many still hold the stable revision.
        bake: How long it bakes.
        decide_within: When onUndecided acts.
    """

    first: int
    last: int
    nodes: int
    stable: int
    bake: timedelta
    decide_within: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What one comparison can see in one step, at the traffic of the past.

    Attributes:
        requests_per_s: Of all nodes of the step together.
        clears_s: When a healthy candidate is cleared; None: not within ten times decideWithin.
        harms: (its name, when it is seen); None: not within decideWithin.
        smallest: The smallest factor that is seen within decideWithin; None: not even a hundred.
        window_failures: How often a node fails in one window of the past, on average.
        beside_failures: How often the nodes beside the step fail within decideWithin, all together:
            what a bad day for the whole fleet is known by.
    """

    requests_per_s: float
    clears_s: float | None
    harms: tuple[tuple[str, float | None], ...]
    smallest: float | None
    window_failures: float
    beside_failures: float


def steps_ahead(policy: RolloutPolicySpec, *, eligible_count: int) -> tuple[StepAhead, ...]:
    """Return the steps of a rollout over so many nodes; steps of equal quota are one."""
    found: list[StepAhead] = []
    number = 1
    while number <= len(policy.steps):
        together = quotas.merged(policy, number, eligible_count=eligible_count, first_rollout=False)
        nodes = quotas.quota(policy, number, eligible_count=eligible_count, first_rollout=False)
        bake = quotas.longest_bake(together)
        within = policy.judge.decide_within
        found.append(
            StepAhead(
                first=number,
                last=number + len(together) - 1,
                nodes=nodes,
                stable=eligible_count - nodes,
                bake=bake,
                decide_within=parse_duration(within)
                if within is not None
                else BAKES_TO_DECIDE * bake or NO_BAKE_DECIDES_WITHIN,
            )
        )
        number += len(together)
    return tuple(found)


def foresee(
    learned: Learned, step: StepAhead, template: StepInputs, *, comparisons: int = 1
) -> Sight:
    """Return what a comparison can see in a step, beside others that see nothing."""
    fleet = _Fleet(learned, step, template, comparisons=comparisons)
    within_s = step.decide_within.total_seconds()
    detect = template.detect
    named = f"x{detect.factor:g} or +{detect.floor:.3g} of requests"
    harms = (("x2", Detect(factor=2.0, floor=0.0)), ("x5", Detect(factor=5.0, floor=0.0)))
    return Sight(
        requests_per_s=fleet.requests_per_s,
        clears_s=_earliest(fleet.clears, within_s=_LATEST_MULTIPLE * within_s),
        harms=tuple(
            (name, _earliest(partial(fleet.sees, harm=harm), within_s=within_s))
            for name, harm in (*harms, (named, detect))
        ),
        smallest=_smallest(
            lambda factor: fleet.sees(within_s, harm=Detect(factor=factor, floor=0.0))
        ),
        window_failures=fleet.window_failures,
        beside_failures=fleet.failures_per_s_beside * within_s,
    )


class _Fleet:
    """The nodes of a step and those beside them, each at its own rate and its own traffic."""

    def __init__(
        self, learned: Learned, step: StepAhead, template: StepInputs, *, comparisons: int
    ) -> None:
        nodes = [node for node in learned.nodes if node.requests > 0.0]
        windows = fsum(node.windows for node in nodes)
        requests = fsum(node.requests for node in nodes)
        measured_s = requests / learned.requests_per_s if learned.requests_per_s > 0.0 else 0.0
        window_s = measured_s / windows if windows else 0.0
        self._learned, self._template = learned, template
        self._traffic = {n.node: n.requests / n.windows / window_s for n in nodes if window_s}
        self._rate = {node.node: _own_rate(learned, node) for node in nodes}
        chosen = _spread(nodes, step.nodes)
        self._candidates = [node.node for node in chosen if node.node in self._traffic]
        self._stable = sorted(self._traffic.keys() - set(self._candidates))
        # The average with comparisons that see nothing: their e-values are as good as none.
        self._dilution = log(comparisons)
        self.requests_per_s = fsum(self._traffic[node] for node in self._candidates)
        self.failures_per_s_beside = fsum(
            self._traffic[node] * self._rate[node] for node in self._stable
        )
        failures = fsum(node.failures for node in nodes)
        self.window_failures = failures / windows if windows else 0.0

    def clears(self, at_s: float) -> bool:
        """Return whether a healthy candidate is cleared after so many seconds."""
        return self._look(at_s, Detect(factor=1.0, floor=0.0)).verdict is Verdict.PASS

    def sees(self, at_s: float, harm: Detect) -> bool:
        """Return whether a candidate with this harm is taken back after so many seconds."""
        found = self._look(at_s, harm)
        return found.all_fail or found.log_e >= found.line + self._dilution

    def _look(self, at_s: float, harm: Detect) -> MetricLook:
        template = self._template
        return look(
            self._learned,
            [self._count(node, at_s, harm) for node in self._candidates],
            [self._count(node, at_s, Detect(factor=1.0, floor=0.0)) for node in self._stable],
            alpha=template.alpha,
            steps=template.steps,
            detect=template.detect,
        )

    def _count(self, node: str, at_s: float, harm: Detect) -> NodeCount:
        requests, own = self._traffic[node] * at_s, self._rate[node]
        rate = min(1.0, own + max((harm.factor - 1.0) * own, harm.floor))
        return NodeCount(node=node, failures=requests * rate, requests=requests, seconds=at_s)


def _own_rate(learned: Learned, node: OwnHistory) -> float:
    return (learned.shape + node.failures) / (learned.shape / learned.rate + node.requests)


def _spread(nodes: Sequence[OwnHistory], count: int) -> list[OwnHistory]:
    """Return ``count`` nodes, evenly over the traffic."""
    ordered = sorted(nodes, key=lambda node: (node.requests, node.node))
    if count >= len(ordered):
        return ordered
    return [ordered[int((index + 0.5) * len(ordered) / count)] for index in range(count)]


def _smallest(holds: Callable[[float], bool]) -> float | None:
    """Return the smallest factor of the closed list from which on it holds."""
    index = bisect_left(EXCLUDABLE, True, key=holds)
    return EXCLUDABLE[index] if index < len(EXCLUDABLE) else None


def _earliest(holds: Callable[[float], bool], *, within_s: float) -> float | None:
    """Return from when on it holds, to two per cent; None where it does not in time."""
    if not holds(within_s):
        return None
    low, high = 0.0, min(_SHORTEST_S, within_s)
    while not holds(high):
        low, high = high, min(within_s, high * 2.0)
    for _ in range(_REFINEMENTS):
        middle = (low + high) / 2.0
        if holds(middle):
            high = middle
        else:
            low = middle
    return high
