"""The comparison: an own-history negative-binomial e-process over the nodes of a step.

Every node is its own control (its rate before the change), corrected by what the stable nodes do
now. The e-value is a ratio of two predictive distributions of all data so far, so a look may be
taken after every scrape.

Rules:
- Everything uncertain makes the judge slower, never faster.
- The order of the nodes does not matter, not even in the last bit.
- What is no measurement (None, NaN, negative, more failures than requests) never leads to a Pass.
- One node does not turn a fleet: with five and more candidates a Fail survives leaving any one out.
- Nothing overflows: all products are sums of logarithms, good for a billion requests.

Source: ``research/progressive-delivery.md``, section 5c. Departures: the linear burst term divides
by the intervals once (the prototype did it twice), an assumed rise never exceeds all requests, and
without stable nodes the fleet factor is 1 with the spread that two pseudo-failures give it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import exp, fsum, inf, lgamma, log, log1p, sqrt

from linnet_operator.judge.learned import Learned, is_count, is_usable
from linnet_operator.judge.verdicts import Verdict

# The rises that the e-value looks for, as factors.
RISES = (1.5, 2.0, 3.0, 6.0, 12.0)
# What `excluded` can say; a closed list, so that a figure does not flicker from look to look.
EXCLUDABLE = (1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0)
FLEET_TROUBLE_FACTOR = 2.0
# Constants tuned on the benchmark family of the research report, 5d.
SPREAD_FLOOR = 0.05
ROWS_CARE = 2.0
FACTOR_CARE = 0.25
PLACEBO_WEIGHT = 4.0
FACTOR_PRIOR = 2.0
# A named rise is taken to differ between nodes by no more than a third (square of it): a bad model
# fails on anyone, and the drift of rare failures says nothing about how it would.
LARGEST_HARM_SPREAD = 0.1
# 41 points over plus and minus four standard deviations.
_POINTS = tuple(-4.0 + 0.2 * index for index in range(41))
_POINT_WEIGHTS = tuple(-z * z / 2.0 for z in _POINTS)
# No rise is assumed beyond this part of all requests.
_NEARLY_ALL = 0.98
# All requests fail: no statistics are needed.
_ALL_FAIL_SHARE = 0.9
_ALL_FAIL_REQUESTS = 20.0
_TINY = 1e-9
_MANY_FAILURES = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCount:
    """What one node counted in this step: None where nothing was measured.

    Attributes:
        node: The node's name.
        failures: Failures (or slow, or wrong answers) since the step began for this node.
        requests: Requests (or labelled answers) in the same time.
        seconds: How long that time is.
    """

    node: str
    failures: float | None
    requests: float | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Detect:
    """The rise to be excluded: the larger of ``factor`` x expected and ``floor`` of requests."""

    factor: float
    floor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLook:
    """One candidate's counts beside what was expected of it."""

    node: str
    failures: float
    requests: float
    expected: float
    history_windows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricLook:
    """What one look at one metric says. All figures are rounded, and the verdict rests on them.

    Attributes:
        verdict: This metric alone, at the line of the whole step.
        log_e: Natural logarithm of the evidence of harm; 0 is none either way.
        line: Natural logarithm of the line at which a rollout is taken back: steps / alpha.
        log_excluding: Evidence against the rise that ``detect`` names; excluded from ``line`` on.
        rise: That rise, in failures per request on top of what is expected.
        excluded: The smallest factor from which on a rise is excluded; None when none is.
        fleet_factor: What the stable nodes do now, by their own history.
        failures: Of all candidates.
        requests: Of all candidates.
        expected: Failures expected of all candidates.
        all_fail: Nearly all requests fail where few were expected to: needs no statistics.
        stable_nodes: How many stable nodes the factor rests on.
        missing: Candidates that do not report, and any node that reports what is no count.
        absent_stable: Stable nodes that do not report: the control is thinner without them; with
            more than half of them absent the look is partial.
        idle: Candidates that report no request.
        without_history: Candidates judged by the fleet's rate, as they have no history.
        candidates: Per node.
    """

    verdict: Verdict
    log_e: float = 0.0
    line: float
    log_excluding: float = 0.0
    rise: float = 0.0
    excluded: float | None = None
    fleet_factor: float = 1.0
    failures: float = 0.0
    requests: float = 0.0
    expected: float = 0.0
    all_fail: bool = False
    stable_nodes: int = 0
    missing: tuple[str, ...] = ()
    absent_stable: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()
    without_history: tuple[str, ...] = ()
    candidates: tuple[NodeLook, ...] = ()


def look(
    learned: Learned,
    candidates: Sequence[NodeCount],
    stable: Sequence[NodeCount],
    *,
    alpha: float,
    steps: int,
    detect: Detect,
) -> MetricLook:
    """Compare the candidates with their own past and with the stable nodes now.

    Args:
        learned: The frozen parameters of this metric.
        candidates: The nodes that serve the candidate, counts since the step began for each.
        stable: The nodes that serve the stable revision, counts since the step began.
        alpha: The chance to take a good model back, over the whole rollout.
        steps: How many steps share ``alpha``.
        detect: The rise that must be excluded before a Pass.

    Returns:
        The look. Only Pass lets a step advance.
    """
    line = decision_line(alpha=alpha, steps=steps)
    model = build_model(learned, candidates, stable, detect=detect)
    if model is None:
        missing = tuple(sorted(row.node for row in candidates if not _is_measured(row)))
        verdict = Verdict.PARTIAL if missing and len(missing) < len(candidates) else Verdict.NO_DATA
        return MetricLook(verdict=verdict, line=line, missing=missing)
    log_null = model.log_null()
    log_e = model.log_evidence(log_null=log_null)
    log_excluding = model.log_excluding(detect, log_e=log_e, log_null=log_null)
    failures = fsum(row.failures for row in model.rows)
    requests = fsum(row.requests for row in model.rows)
    expected = fsum(row.expected for row in model.rows)
    result = MetricLook(
        verdict=Verdict.UNDECIDED,
        log_e=log_e,
        line=line,
        log_excluding=log_excluding,
        rise=_rounded(model.named_rise_ratio(detect)),
        excluded=_excluded(model, log_e=log_e, log_null=log_null, line=line),
        fleet_factor=_rounded(model.fleet_factor),
        failures=failures,
        requests=requests,
        expected=_rounded(expected),
        all_fail=(
            requests >= _ALL_FAIL_REQUESTS
            and failures >= _ALL_FAIL_SHARE * requests
            and expected <= _ALL_FAIL_SHARE / 2.0 * requests
        ),
        stable_nodes=model.stable_nodes,
        missing=model.missing,
        absent_stable=model.absent_stable,
        idle=tuple(row.node for row in model.rows if row.requests <= 0.0),
        without_history=tuple(row.node for row in model.rows if not row.history_windows),
        candidates=tuple(
            NodeLook(
                node=row.node,
                failures=row.failures,
                requests=row.requests,
                expected=_rounded(row.expected),
                history_windows=row.history_windows,
            )
            for row in model.rows
        ),
    )
    return replace(result, verdict=_verdict(result, candidates=len(candidates)))


def decision_line(*, alpha: float, steps: int) -> float:
    """Return the logarithm of the evidence at which one of ``steps`` is decided."""
    assert 0.0 < alpha < 1.0, alpha
    assert steps >= 1, steps
    return _rounded(log(steps / alpha))


def combine(log_es: Sequence[float]) -> float:
    """Return the logarithm of the average of e-values: valid whatever their dependence."""
    if not log_es:
        return 0.0
    return _rounded(log_sum(sorted(log_es)) - log(len(log_es)))


def log_sum(values: Sequence[float]) -> float:
    """Return the logarithm of the sum of exponentials."""
    top = max(values)
    if top == -inf:
        return -inf
    return top + log(fsum(exp(value - top) for value in values))


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
        history_windows: How many windows its past has.
    """

    node: str
    failures: float
    requests: float
    expected: float
    past: float
    spread: float
    history_windows: int

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

    def log_marginal(self, assumption: "Assumption") -> float:
        """Return the log probability of all counts (up to a constant) under an assumption."""
        return _integrate(_totals([assumption(row) for row in self.rows]))

    def log_null(self) -> float:
        """Return the log probability of all counts if the candidate is as good as the past."""
        return self.log_marginal(self.no_rise())

    def log_evidence(self, *, log_null: float | None = None) -> float:
        """Return the logarithm of the e-value of harm; ``log_null`` saves computing it again."""
        null = self.log_null() if log_null is None else log_null
        terms = [self.log_marginal(assumption) - null for assumption in self.harms()]
        return _rounded(log_sum(terms) - log(len(terms)))

    def log_evidence_without_each(self) -> dict[str, float]:
        """Return the log e-value that is left when that candidate is left out, by node."""
        null = [self.no_rise()(row) for row in self.rows]
        columns = [[assumption(row) for row in self.rows] for assumption in self.harms()]
        null_total = _totals(null)
        totals = [_totals(column) for column in columns]
        remaining: dict[str, float] = {}
        for index, row in enumerate(self.rows):
            base = _integrate(_less(null_total, null[index]))
            terms = [
                _integrate(_less(total, column[index])) - base
                for total, column in zip(totals, columns, strict=True)
            ]
            remaining[row.node] = _rounded(log_sum(terms) - log(len(terms)))
        return remaining

    def log_excluding(
        self, detect: Detect, *, log_e: float, log_null: float | None = None
    ) -> float:
        """Return the log evidence against the rise that ``detect`` names.

        The other side is half "no rise" and half the mixture that the e-value is made of.
        """
        null = self.log_null() if log_null is None else log_null
        against = self.log_marginal(self.named_rise(detect))
        return _rounded(log_sum((0.0, log_e)) - log(2.0) + null - against)

    def named_rise_ratio(self, detect: Detect) -> float:
        """Return the rise that ``detect`` names, in failures per request beyond the expected."""
        return min(max((detect.factor - 1.0) * self.expected_ratio, detect.floor), self.halfway)

    @property
    def expected_ratio(self) -> float:
        """Return the failures per request that are expected of all candidates together."""
        requests = fsum(row.requests for row in self.rows)
        return min(1.0, fsum(row.expected for row in self.rows) / requests)

    @property
    def halfway(self) -> float:
        """Return the largest rise that is ever named: halfway from the expected to all requests."""
        return (1.0 - self.expected_ratio) / 2.0

    def no_rise(self) -> "Assumption":
        """Assume that the candidate is as good as the past."""
        errors = self._shared_errors()
        return lambda row: _terms(row, row.expected, errors)

    def harms(self) -> list["Assumption"]:
        """Return what harm may look like.

        Every node worse by a factor, worse by a multiple of the fleet's mean, and the named rise.
        """
        errors = self._shared_errors()
        mean = self.rate * self.fleet_factor

        def times(more: float) -> Assumption:
            return lambda row: _terms(row, _risen(row, more * row.expected), errors)

        def plus(more: float) -> Assumption:
            return lambda row: _terms(row, _risen(row, more * mean * row.requests), errors)

        harms = [make(factor - 1.0) for factor in RISES for make in (times, plus)]
        return [*harms, self.named_rise(self.detect)]

    def named_rise(self, detect: Detect) -> "Assumption":
        """Assume the named rise on every node, on top of what it does by itself.

        A factor scales with what is expected, and so with the shared error; a floor does not.
        """
        errors = self._shared_errors()
        by_factor = (detect.factor - 1.0) * self.expected_ratio
        halfway = self.halfway
        ratios = [min(max(by_factor / inverse, detect.floor), halfway) for _, inverse in errors]

        nominal = self.named_rise_ratio(detect)

        def terms(row: Row) -> list[float]:
            # Past and drift belong to the node's own failures; the rise has a spread of its own.
            own = row.expected / (row.expected + nominal * row.requests)
            harm_spread = min(row.spread, LARGEST_HARM_SPREAD)
            shape = 1.0 / (own * own / row.shape + (1.0 - own) ** 2 * harm_spread)
            constant = _log_weight(row.failures, shape) - _log_weight(row.failures, row.shape)
            both = row.failures + shape
            values: list[float] = []
            for (_, inverse), ratio in zip(errors, ratios, strict=True):
                mean = row.expected / inverse + ratio * row.requests
                values.append(constant - both * log1p(shape / mean) - shape * log(mean))
            return values

        return terms

    def _shared_errors(self) -> list[tuple[float, float]]:
        """Return the error of the factor at every point: (its logarithm, its inverse)."""
        return [(self.factor_spread * z, exp(-self.factor_spread * z)) for z in _POINTS]


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

    def predict(node: str, requests: float, seconds: float) -> tuple[float, float, float, int]:
        """Return (prior shape, expected failures, relative spread, windows) of one node."""
        shape, past_requests, windows = past(node)
        expected = max(_TINY, requests * shape / past_requests * factor)
        intervals = max(1.0, seconds / learned.interval_s)
        per_failure = requests / expected
        burst = max(learned.burst_quadratic, learned.burst_linear * per_failure) / intervals
        drift = max(learned.drift_quadratic, learned.drift_linear * per_failure)
        spread = (
            burst * care_burst
            + drift * (1.0 + 1.0 / max(1, windows)) * care_drift
            + SPREAD_FLOOR**2
            + FACTOR_CARE * log(factor) ** 2
        )
        return shape, expected, spread, windows

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
        shape, expected, spread, windows = predict(node, requests, seconds)
        rows.append(
            Row(
                node=node,
                failures=failures,
                requests=requests,
                expected=expected,
                past=shape,
                spread=widened(spread),
                history_windows=windows,
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


def _verdict(result: MetricLook, *, candidates: int) -> Verdict:
    if result.log_e >= result.line or result.all_fail:
        in_trouble = result.fleet_factor > FLEET_TROUBLE_FACTOR and not result.all_fail
        return Verdict.FLEET_TROUBLE if in_trouble else Verdict.FAIL
    if result.fleet_factor > FLEET_TROUBLE_FACTOR:
        return Verdict.FLEET_TROUBLE
    if result.missing:
        return Verdict.PARTIAL
    if 2 * len(result.absent_stable) > result.stable_nodes + len(result.absent_stable):
        return Verdict.PARTIAL
    if 2 * len(result.idle) > candidates:
        return Verdict.UNDECIDED
    return Verdict.PASS if result.log_excluding >= result.line else Verdict.UNDECIDED


def _excluded(model: Model, *, log_e: float, log_null: float, line: float) -> float | None:
    """Return the smallest factor of the closed list from which on a rise is excluded."""

    def is_excluded(factor: float) -> bool:
        rise = Detect(factor=factor, floor=0.0)
        return model.log_excluding(rise, log_e=log_e, log_null=log_null) >= line

    low, high = 0, len(EXCLUDABLE)
    while low < high:
        middle = (low + high) // 2
        if is_excluded(EXCLUDABLE[middle]):
            high = middle
        else:
            low = middle + 1
    return EXCLUDABLE[low] if low < len(EXCLUDABLE) else None


def _is_measured(row: NodeCount) -> bool:
    return is_usable(row.failures, row.requests) and is_count(row.seconds)


def _measured(rows: Sequence[NodeCount]) -> list[tuple[str, float, float, float]]:
    """Return (node, failures, requests, seconds) of the rows that are measurements, by name."""
    usable = [
        (row.node, float(row.failures), float(row.requests), float(row.seconds))
        for row in rows
        if _is_measured(row) and row.failures is not None and row.requests is not None
    ]
    return sorted(usable)


def _risen(row: Row, rise: float) -> float:
    return row.expected + max(0.0, min(rise, _NEARLY_ALL * row.requests - row.expected))


def _terms(row: Row, mean: float, errors: Sequence[tuple[float, float]]) -> list[float]:
    """Return the log NB kernel of one row at every point of the shared error.

    The kernel mean^x / (shape + mean)^(x + shape) is written with log1p, so that a billion
    failures lose no digits.
    """
    shape = row.shape
    both = row.failures + shape
    ratio = shape / mean
    log_mean = log(mean)
    return [-both * log1p(ratio * inverse) - shape * (log_mean + by) for by, inverse in errors]


def _log_weight(failures: float, shape: float) -> float:
    """Return what the NB probability has beside the kernel, up to a constant of the count."""
    if failures < _MANY_FAILURES:
        rising = lgamma(failures + shape) - lgamma(max(failures, 1.0)) - lgamma(shape)
    else:
        # Gamma(x + s) / Gamma(x), without the difference of two huge numbers.
        rising = shape * log(failures) + shape * (shape - 1.0) / (2.0 * failures) - lgamma(shape)
    return rising + shape * log(shape)


def _totals(terms: Sequence[Sequence[float]]) -> list[float]:
    return [fsum(column) for column in zip(*terms, strict=True)]


def _less(total: Sequence[float], one: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(total, one, strict=True)]


def _integrate(terms: Sequence[float]) -> float:
    weighted = [weight + term for weight, term in zip(_POINT_WEIGHTS, terms, strict=True)]
    return log_sum(weighted) - _LOG_NORM


def _rounded(value: float) -> float:
    """Round to what a record shows, so that the last bit of a math library decides nothing."""
    return round(value, 6)


_LOG_NORM = log_sum(_POINT_WEIGHTS)
