"""How much longer: the requests and the time until the named rise can be excluded.

Rules:
- The forecast is for a healthy candidate: what comes from now on is what was expected.
- The stable nodes go on as expected as well, and as far off that as their counts by now can tell:
  chance in a few of today's failures is not taken for what a node will always do.
- It is arithmetic on the model of the look, not a simulation, so it is the same each time.
- Where even a thousand times the traffic does not decide, it says that the gate never can.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import fsum

from linnet_operator.judge.compare import decision_line
from linnet_operator.judge.learned import Learned, is_count
from linnet_operator.judge.model import (
    SPREAD_FLOOR,
    Detect,
    Model,
    NodeCount,
    Row,
    build_model,
    is_measured,
)

_LARGEST_MULTIPLE = 1000.0
_REFINEMENTS = 5
_FEW_REQUESTS = 10.0
# The fleet's factor of the rest of the step, in failures that speak for 1: days differ by a third.
_FACTOR_PULL = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """What is still needed to exclude the named rise, if the candidate is healthy.

    Attributes:
        decidable: Whether it can be decided at all.
        requests: More requests on all candidates together; 0 when it is decided, None when never.
        seconds: How long that takes at today's rate; None when unknown or never.
    """

    decidable: bool
    requests: float | None
    seconds: float | None

    @property
    def sentence(self) -> str:
        """Say what is needed, in words and numbers."""
        if not self.decidable or self.requests is None:
            return "can never be decided at the present spread of the nodes, whatever the traffic"
        if self.requests <= 0:
            return "decided"
        need = f"needs about {_rough(self.requests)} more requests"
        if self.seconds is None:
            return f"{need}; there is no traffic to say how long that takes"
        return f"{need}, {say_duration(self.seconds)} at today's rate"


def forecast(
    learned: Learned,
    candidates: Sequence[NodeCount],
    stable: Sequence[NodeCount],
    *,
    alpha: float,
    steps: int,
    detect: Detect,
) -> Power:
    """Return what a healthy candidate still needs to have the named rise excluded.

    Before a rollout, call it with zero counts: then the rate of the history is today's rate.

    Args:
        learned: The frozen parameters.
        candidates: Counts until now; unusable rows count as zero requests.
        stable: The same for the stable nodes.
        alpha: See ``look``.
        steps: See ``look``.
        detect: The rise to be excluded.
    """
    line = decision_line(alpha=alpha, steps=steps)
    rates = _rates(candidates, learned)
    stable_rates = _rates(stable, learned)
    total = fsum(rates)
    known = total > 0.0
    if not known:
        rates = [1.0 for _ in candidates]
        stable_rates = [1.0 for _ in stable]
        total = float(len(candidates))
    if not candidates:
        return Power(decidable=False, requests=None, seconds=None)
    failure_rates = _failure_rates(stable, learned)

    def is_decided(seconds: float) -> bool:
        # What a healthy candidate fails follows from the model; see `_healthy_exclusion`.
        future = [
            _advanced(row, rate, seconds, failure_rate=0.0)
            for row, rate in zip(candidates, rates, strict=True)
        ]
        steady = [
            _advanced(row, rate, seconds, failure_rate=failing)
            for row, rate, failing in zip(stable, stable_rates, failure_rates, strict=True)
        ]
        model = build_model(learned, future, steady, detect=detect)
        return model is not None and _healthy_exclusion(model, candidates, detect) >= line

    if is_decided(0.0):
        return Power(decidable=True, requests=0.0, seconds=0.0)
    counted = fsum(row.requests or 0.0 for row in candidates if is_measured(row))
    high = max(counted, _FEW_REQUESTS * len(candidates)) / total
    limit = high * _LARGEST_MULTIPLE
    low = 0.0
    while not is_decided(high):
        low, high = high, high * 2.0
        if high > limit:
            return Power(decidable=False, requests=None, seconds=None)
    for _ in range(_REFINEMENTS):
        middle = (low + high) / 2.0
        if is_decided(middle):
            high = middle
        else:
            low = middle
    return Power(
        decidable=True, requests=round(high * total), seconds=round(high) if known else None
    )


def say_duration(seconds: float) -> str:
    """Return a duration as people say it: seconds, minutes, or hours."""
    if seconds < 90:
        return f"{max(1, round(seconds))}s"
    if seconds < 5400:
        return f"{round(seconds / 60)}m"
    if seconds < 172800:
        return f"{round(seconds / 3600)}h"
    return f"{round(seconds / 86400)}d"


def _healthy_exclusion(model: Model, candidates: Sequence[NodeCount], detect: Detect) -> float:
    """Return the evidence against the named rise if all further requests go as expected."""
    counted = {row.node: row for row in candidates if is_measured(row)}
    rows: list[Row] = []
    for row in model.rows:
        before = counted.get(row.node)
        failures = (before.failures or 0.0) if before else 0.0
        requests = (before.requests or 0.0) if before else 0.0
        share = 1.0 - requests / row.requests if row.requests > 0.0 else 0.0
        # A healthy node fails as expected without today's fleet factor's own noise.
        rows.append(replace(row, failures=failures + share * row.expected))
    healthy = replace(model, rows=tuple(rows))
    return healthy.log_excluding(detect, log_e=_NO_HARM)


# A healthy candidate's evidence of harm falls below any bound, so the mixture is half "no rise".
_NO_HARM = -700.0


def _advanced(row: NodeCount, rate: float, seconds: float, *, failure_rate: float) -> NodeCount:
    """Return the row after ``seconds`` more at ``rate``, of which that part fails."""
    usable = is_measured(row)
    failures = (row.failures or 0.0) if usable else 0.0
    requests = (row.requests or 0.0) if usable else 0.0
    passed = row.seconds if is_count(row.seconds) else 0.0
    more = rate * seconds
    return NodeCount(
        node=row.node,
        failures=failures + failure_rate * more,
        requests=requests + more,
        seconds=passed + seconds,
    )


def _failure_rates(stable: Sequence[NodeCount], learned: Learned) -> list[float]:
    """Return the failures per request that each stable node goes on with.

    Its own rate times the fleet's factor by now, pulled towards what it does now: the mean of a
    Gamma as narrow as its past and its drift, after today's counts.
    """
    own = {node.node: node for node in learned.nodes}
    counted: list[tuple[float, float, float, float]] = []
    for row in stable:
        past = own.get(row.node)
        known = learned.shape + (past.failures if past else 0.0)
        rate = known / (learned.shape / learned.rate + (past.requests if past else 0.0))
        usable = is_measured(row)
        failures = (row.failures or 0.0) if usable else 0.0
        requests = (row.requests or 0.0) if usable else 0.0
        counted.append((known, rate, failures, requests))
    factor = (fsum(failures for _, _, failures, _ in counted) + _FACTOR_PULL) / (
        fsum(rate * requests for _, rate, _, requests in counted) + _FACTOR_PULL
    )
    rates: list[float] = []
    for known, rate, failures, requests in counted:
        today = rate * factor
        drift = max(learned.drift_quadratic, learned.drift_linear / today)
        shape = 1.0 / (1.0 / known + SPREAD_FLOOR**2 + drift)
        rates.append(min(1.0, today * (shape + failures) / (shape + requests * today)))
    return rates


def _rates(rows: Sequence[NodeCount], learned: Learned) -> list[float]:
    """Return requests per second of each row: as counted, or as its history has it."""
    rates: list[float] = []
    for row in rows:
        usable = is_measured(row) and row.seconds > 0.0
        counted = (row.requests or 0.0) / row.seconds if usable else 0.0
        few = (row.requests or 0.0) < _FEW_REQUESTS if usable else True
        rates.append(max(counted, learned.requests_per_s) if few else counted)
    return rates


def _rough(value: float) -> str:
    """Return a forecast with two figures that count, digits grouped by a space."""
    digits = max(0, len(str(int(value))) - 2)
    return f"{round(value, -digits):,.0f}".replace(",", " ")
