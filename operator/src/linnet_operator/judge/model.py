"""The predictive model of one look: what each candidate is expected to do, and how surely.

Every node is its own control (its rate before the change), corrected by what the stable nodes do
now. The e-value is a ratio of two predictive distributions of all data so far.

Rules:
- Everything uncertain makes the judge slower, never faster.
- Harm in one domain alone (a site, a kind of node) is looked for beside harm on every candidate;
  both are averaged, so that more domains never mean more false alarms.

Source: ``research/progressive-delivery.md``, section 5c. Departures: the linear burst term divides
by the intervals once (the prototype did it twice), an assumed rise never exceeds all requests,
without stable nodes the fleet factor is 1 with the spread that two pseudo-failures give it, and
the rest of ADR 0006.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import fsum, log, log1p, sqrt

from linnet_operator.judge.kernel import (
    SharedErrors,
    integrate,
    log_kernel,
    log_kernel_at,
    log_sum,
    rounded,
    shared_errors,
    totals,
)
from linnet_operator.judge.learned import Learned, is_count, is_usable
from linnet_operator.judge.weighed import Weighed

# The rises that the e-value looks for, as factors.
RISES = (1.5, 2.0, 3.0, 6.0, 12.0)
# Constants tuned on the benchmark family of the research report, 5d.
SPREAD_FLOOR = 0.05
ROWS_CARE = 2.0
FACTOR_CARE = 0.25
PLACEBO_WEIGHT = 4.0
FACTOR_PRIOR = 2.0
# A named rise is taken to differ between nodes by no more than a third (square of it): a bad model
# fails on anyone, and the drift of rare failures says nothing about how it would.
LARGEST_HARM_SPREAD = 0.1
# No rise is assumed beyond this part of all requests.
_NEARLY_ALL = 0.98
_TINY = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCount:
    """What one node counted in this step: None where nothing was measured.

    Attributes:
        node: The node's name.
        failures: Failures (or slow, or wrong answers) since the step began for this node.
        requests: Requests (or labelled answers) in the same time.
        seconds: How long that time is.
        domain: The site, the kind of node, or what else ``spreadBy`` names; empty: not known.
    """

    node: str
    failures: float | None
    requests: float | None
    seconds: float
    domain: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detect:
    """The rise to be excluded: the larger of ``factor`` x expected and ``floor`` of requests."""

    factor: float
    floor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One candidate, ready to be weighed.

    Attributes:
        node: Its name.
        failures: Counted.
        requests: Counted.
        expected: Failures expected of it.
        past: How much its past tells about its own rate (shape of a Gamma).
        spread: Relative variance of drift, burst and fleet.
        burst: The part of it that is bursts.
        history_windows: How many windows its past has.
        domain: Where it stands; empty: not known.
    """

    node: str
    failures: float
    requests: float
    expected: float
    past: float
    spread: float
    burst: float
    history_windows: int
    domain: str = ""

    @property
    def shape(self) -> float:
        """Return the NB shape when all that is uncertain scales with the mean."""
        return 1.0 / (1.0 / self.past + self.spread)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The predictive model of one look: rows of candidates, and the error that they share."""

    rate: float
    detect: Detect
    fleet_factor: float
    factor_spread: float
    rows: tuple[Row, ...]
    stable_nodes: int
    missing: tuple[str, ...] = ()
    absent_stable: tuple[str, ...] = ()

    def weigh(self) -> Weighed:
        """Return every candidate under every assumption."""
        null, steady = self.no_rise(), self.steady_no_rise()
        return Weighed(
            nodes=tuple(row.node for row in self.rows),
            domains=tuple(row.domain for row in self.rows),
            null=[null(row) for row in self.rows],
            steady=[steady(row) for row in self.rows],
            harms=[[assumption(row) for row in self.rows] for assumption in self.harms()],
        )

    def log_marginal(self, assumption: "Assumption") -> float:
        """Return the log probability of all counts (up to a constant) under an assumption."""
        return integrate(totals([assumption(row) for row in self.rows]))

    def log_null(self) -> float:
        """Return the log probability of all counts if the candidate is as good as the past."""
        return self.log_marginal(self.no_rise())

    def log_evidence(self) -> float:
        """Return the logarithm of the e-value of harm."""
        return self.weigh().log_e

    def log_excluding(
        self, detect: Detect, *, log_e: float, log_null: float | None = None
    ) -> float:
        """Return the log evidence against the rise that ``detect`` names.

        The other side is half "no rise" and half the mixture that the e-value is made of.
        """
        null = self.log_null() if log_null is None else log_null
        against = self.log_marginal(self.named_rise(detect, in_bursts=True))
        return rounded(log_sum((0.0, log_e)) - log(2.0) + null - against)

    def named_rise_ratio(self, detect: Detect) -> float:
        """Return the rise that ``detect`` names, in failures per request beyond the expected."""
        return min(max((detect.factor - 1.0) * self.expected_ratio, detect.floor), self.halfway)

    @property
    def expected_ratio(self) -> float:
        """Return the failures per request that are expected of all candidates together."""
        requests = fsum(row.requests for row in self.rows)
        return min(1.0, fsum(row.expected for row in self.rows) / requests)

    @property
    def seen_rise_ratio(self) -> float:
        """Return the failures per request of all candidates together beyond the expected."""
        requests = fsum(row.requests for row in self.rows)
        return fsum(row.failures for row in self.rows) / requests - self.expected_ratio

    @property
    def halfway(self) -> float:
        """Return the largest rise that is ever named: halfway from the expected to all requests."""
        return (1.0 - self.expected_ratio) / 2.0

    def no_rise(self) -> "Assumption":
        """Assume that the candidate is as good as the past."""
        errors = shared_errors(self.factor_spread)
        return lambda row: _log_kernel(row, row.expected, errors)

    def steady_no_rise(self) -> "Assumption":
        """Assume the same of nodes that are no more unsteady than a named rise is taken to be.

        Without it nodes that only are steadier than feared, as when a few stable ones happen to
        differ today, would speak for the named rise, which is assumed to be steady.
        """
        errors = shared_errors(self.factor_spread)

        def terms(row: Row) -> list[float]:
            if row.spread <= LARGEST_HARM_SPREAD:
                return _log_kernel(row, row.expected, errors)
            shape = 1.0 / (1.0 / row.past + LARGEST_HARM_SPREAD)
            return log_kernel(
                row.failures, mean=row.expected, shape=shape, errors=errors, usual_shape=row.shape
            )

        return terms

    def harms(self) -> list["Assumption"]:
        """Return what harm may look like, the named rise last.

        Every node worse by a factor, worse by a multiple of the fleet's mean, and the named rise.
        """
        errors = shared_errors(self.factor_spread)
        mean = self.rate * self.fleet_factor

        def times(more: float) -> Assumption:
            return lambda row: _log_kernel(row, _risen(row, more * row.expected), errors)

        def plus(more: float) -> Assumption:
            return lambda row: _log_kernel(row, _risen(row, more * mean * row.requests), errors)

        harms = [make(factor - 1.0) for factor in RISES for make in (times, plus)]
        return [*harms, self.named_rise(self.detect)]

    def named_rise(self, detect: Detect, *, in_bursts: bool = False) -> "Assumption":
        """Assume the named rise on every node, on top of what it does by itself.

        A factor scales with what is expected, and so with the shared error; a floor does not.

        Args:
            detect: The rise.
            in_bursts: It comes in bursts as large as those of the node's own failures: a stretch
                without failures then says less against it. What looks for harm does without:
                it only has to be likelier than no harm.
        """
        errors = shared_errors(self.factor_spread)
        by_factor = (detect.factor - 1.0) * self.expected_ratio
        halfway = self.halfway
        nominal = self.named_rise_ratio(detect)
        scaled = [by_factor / inverse for _, inverse in errors]
        scales = detect.floor <= min(scaled) and max(scaled) <= halfway
        rises = [
            (inverse, min(max(rise, detect.floor), halfway))
            for (_, inverse), rise in zip(errors, scaled, strict=True)
        ]

        def terms(row: Row) -> list[float]:
            # Past and drift belong to the node's own failures; the rise has a spread of its own.
            risen = row.expected + nominal * row.requests
            own = row.expected / risen
            harm_spread = min(row.spread, LARGEST_HARM_SPREAD)
            bursts = own * (1.0 - own) * row.burst if in_bursts else 0.0
            shape = 1.0 / (own * own / row.shape + (1.0 - own) ** 2 * harm_spread + bursts)
            if scales:
                # The same as below, for half of the time.
                return log_kernel(
                    row.failures, mean=risen, shape=shape, errors=errors, usual_shape=row.shape
                )
            means = [row.expected / inverse + rise * row.requests for inverse, rise in rises]
            return log_kernel_at(row.failures, means=means, shape=shape, usual_shape=row.shape)

        return terms


# The log probability of one row's count at every point of the shared error, up to a constant of
# the row.
Assumption = Callable[[Row], list[float]]


def build_model(
    learned: Learned,
    candidates: Sequence[NodeCount],
    stable: Sequence[NodeCount],
    *,
    detect: Detect,
) -> Model | None:
    """Return the model of one look, or None when no candidate has measured a request."""
    own = {node.node: node for node in learned.nodes}
    prior_requests = learned.shape / learned.rate

    def past(node: str) -> tuple[float, float, int]:
        history = own.get(node)
        if history is None:
            return learned.shape, prior_requests, 0
        return (
            learned.shape + history.failures,
            prior_requests + history.requests,
            history.windows,
        )

    domains = {row.node: row.domain for row in candidates}
    measured = _measured(candidates)
    steady = _measured(stable)
    if not any(requests > 0.0 for _, _, requests, _ in measured):
        return None
    absent_stable = {row.node for row in stable if row.failures is None and row.requests is None}
    missing = (
        {row.node for row in (*candidates, *stable)}
        - {row[0] for row in measured}
        - {row[0] for row in steady}
        - absent_stable
    )

    stable_failures = fsum(failures for _, failures, _, _ in steady)
    stable_expected = fsum(
        requests * past(node)[0] / past(node)[1] for node, _, requests, _ in steady
    )
    factor = (stable_failures + FACTOR_PRIOR) / (stable_expected + FACTOR_PRIOR)
    care_burst = 1.0 + ROWS_CARE / sqrt(learned.burst_rows)
    care_drift = 1.0 + ROWS_CARE / sqrt(learned.drift_rows)

    def predict(
        node: str, requests: float, seconds: float
    ) -> tuple[float, float, float, float, int]:
        """Return (prior shape, expected failures, spread, bursts, windows) of one node."""
        shape, past_requests, windows = past(node)
        expected = max(_TINY, requests * shape / past_requests * factor)
        intervals = max(1.0, seconds / learned.interval_s)
        per_failure = requests / expected
        burst = max(learned.burst_quadratic, learned.burst_linear * per_failure) / intervals
        burst *= care_burst
        drift = max(learned.drift_quadratic, learned.drift_linear * per_failure)
        spread = (
            burst
            + drift * (1.0 + 1.0 / max(1, windows)) * care_drift
            + SPREAD_FLOOR**2
            + FACTOR_CARE * log(factor) ** 2
        )
        return shape, expected, spread, burst, windows

    # The placebo: how far the stable nodes themselves are off what their history says.
    placebo = [
        (failures, *predict(node, requests, seconds)[:3])
        for node, failures, requests, seconds in steady
        if requests > 0.0
    ]
    excess = fsum((x - e) ** 2 - e - e * e / shape for x, shape, e, _ in placebo)
    squares = fsum(e * e for _, _, e, _ in placebo)
    fourth = fsum(e**4 for _, _, e, _ in placebo)
    carried = squares * squares / fourth if fourth > 0.0 else 0.0
    seen = 0.0
    if placebo:
        seen = max(0.0, excess / max(squares, _TINY))
        seen *= 1.0 + ROWS_CARE / sqrt(max(1.0, carried))

    def widened(spread: float) -> float:
        pooled = (carried * seen + PLACEBO_WEIGHT * spread) / (carried + PLACEBO_WEIGHT)
        return max(spread, pooled)

    total = fsum(e for _, _, e, _ in placebo)
    own_error = fsum((widened(spread) + 1.0 / shape) * e * e for _, shape, e, spread in placebo)
    variance = 1.0 / (stable_failures + FACTOR_PRIOR) + own_error / max(_TINY, total) ** 2
    rows: list[Row] = []
    for node, failures, requests, seconds in measured:
        shape, expected, spread, burst, windows = predict(node, requests, seconds)
        rows.append(
            Row(
                node=node,
                failures=failures,
                requests=requests,
                expected=expected,
                past=shape,
                spread=widened(spread),
                burst=burst,
                history_windows=windows,
                domain=domains[node],
            )
        )
    return Model(
        rate=learned.rate,
        detect=detect,
        fleet_factor=factor,
        factor_spread=sqrt(log1p(min(variance, 4.0))),
        rows=tuple(rows),
        stable_nodes=len(placebo),
        missing=tuple(sorted(missing)),
        absent_stable=tuple(sorted(absent_stable)),
    )


def is_measured(row: NodeCount) -> bool:
    """Return whether a row can be used: counts that fit each other, and a time."""
    return is_usable(row.failures, row.requests) and is_count(row.seconds)


def _measured(rows: Sequence[NodeCount]) -> list[tuple[str, float, float, float]]:
    """Return (node, failures, requests, seconds) of the rows that are measurements, by name."""
    usable = [
        (row.node, float(row.failures), float(row.requests), float(row.seconds))
        for row in rows
        if is_measured(row) and row.failures is not None and row.requests is not None
    ]
    return sorted(usable)


def _risen(row: Row, rise: float) -> float:
    return row.expected + max(0.0, min(rise, _NEARLY_ALL * row.requests - row.expected))


def _log_kernel(row: Row, mean: float, errors: SharedErrors) -> list[float]:
    return log_kernel(row.failures, mean=mean, shape=row.shape, errors=errors)
