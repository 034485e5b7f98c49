"""What the past says about every node: the frozen parameters of a comparison.

Rules:
- Learned once per rollout and metric, from windows in which the node served the stable revision.
- A missing window is ``None``, never zero requests; a window without requests is not history.
- The order of the nodes does not matter: they are sorted by name, and sums are exactly rounded.

Source: ``research/progressive-delivery.md``, section 5c. One departure: the between-node variance
is raised by its own standard error, since a few short windows cannot tell whether nodes differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, sqrt

CountPair = tuple[float, float]

# A fleet is never taken for more alike than this (shape of the Gamma prior), nor more different.
LARGEST_SHAPE = 1e4
SMALLEST_SHAPE = 0.02
# A node's recent rate is pulled towards its long one with at most this many requests.
RECENT_PULL_REQUESTS = 200.0
# Above it a float does not tell neighbouring counts apart.
LARGEST_COUNT = 2.0**53
# The between-node variance is raised by one standard error, but by care alone never beyond this
# square of the coefficient of variation: nodes that differ by half.
LARGEST_CARE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeHistory:
    """The past of one node under the stable revision.

    Attributes:
        node: The node's name.
        windows: (failures, requests) per window, aligned over all nodes; None where missing.
        recent: (failures, requests) per scrape interval of a recent stretch; may be empty.
    """

    node: str
    windows: tuple[CountPair | None, ...]
    recent: tuple[CountPair, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnHistory:
    """The sum of one node's past: what a comparison needs of it."""

    node: str
    failures: float
    requests: float
    windows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """The frozen parameters of one metric.

    Attributes:
        rate: Failures per request over the fleet (mu).
        shape: How alike the nodes are (a): large when they hardly differ.
        burst_quadratic: Extra variance within a node from interval to interval, as k x e^2 (b2).
        burst_linear: The same as k x n x e (b1).
        burst_rows: How many rows carry the burst.
        drift_quadratic: Extra variance of a node from window to window, as k x e^2 (d2).
        drift_linear: The same as k x n x e (d1).
        drift_rows: How many rows carry the drift.
        windows: The largest number of windows that a node has.
        interval_s: Seconds of one row of ``recent``; the unit in which a burst averages out.
        requests_per_s: Requests of one node in a second, on average, for forecasts; 0 when unknown.
        nodes: The own history of each node, sorted by name.
    """

    rate: float
    shape: float
    burst_quadratic: float
    burst_linear: float
    burst_rows: float
    drift_quadratic: float
    drift_linear: float
    drift_rows: float
    windows: int
    interval_s: float
    requests_per_s: float
    nodes: tuple[OwnHistory, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether the nodes have the history that the policy asks for."""

    required: int
    fewest: int
    lacking: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """Say how much history there is, and who lacks it."""
        if not self.lacking:
            return f"all nodes have the {self.required} windows of history that are required"
        names = ", ".join(self.lacking[:3]) + (", ..." if len(self.lacking) > 3 else "")
        return (
            f"has {self.fewest} of {self.required} windows of history "
            f"({len(self.lacking)} nodes lack some: {names})"
        )


def is_count(value: object) -> bool:
    """Return whether ``value`` can be a count: not negative, and exact as a float."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and 0 <= value <= LARGEST_COUNT
    )


def is_usable(failures: object, requests: object) -> bool:
    """Return whether a pair is a measurement: counts, and no more failures than requests."""
    if not (is_count(failures) and is_count(requests)):
        return False
    assert isinstance(failures, int | float)
    assert isinstance(requests, int | float)
    return failures <= requests


def learn(history: Sequence[NodeHistory], *, interval_s: float, window_s: float) -> Learned:
    """Return the parameters that one metric's history shows.

    Args:
        history: All nodes that serve the stable revision, each once; order does not matter.
        interval_s: Seconds of one row of ``recent``.
        window_s: Seconds of one window.

    Returns:
        The parameters. Without any history they are as wide as can be; ``readiness`` says so.
    """
    assert interval_s > 0, interval_s
    assert window_s > 0, window_s
    nodes = sorted((_clean(node) for node in history), key=lambda node: node.node)
    assert len({node.node for node in nodes}) == len(nodes), "a node is named twice"
    own = tuple(_sum_up(node) for node in nodes)
    failures = fsum(node.failures for node in own)
    requests = fsum(node.requests for node in own)
    rate = (failures + 0.5) / (requests + 1.0)
    own_rates = [node.failures / node.requests if node.requests else rate for node in own]

    burst_quadratic, burst_linear, burst_rows = _excess(_burst_rows(nodes, own, own_rates))
    drift_quadratic, drift_linear, drift_rows = _excess(_drift_rows(nodes, own, own_rates))
    measured = fsum(node.windows for node in own) * window_s
    return Learned(
        rate=rate,
        shape=_shape(rate, own, own_rates, drift_quadratic),
        burst_quadratic=burst_quadratic,
        burst_linear=burst_linear,
        burst_rows=burst_rows,
        drift_quadratic=drift_quadratic,
        drift_linear=drift_linear,
        drift_rows=drift_rows,
        windows=max((node.windows for node in own), default=0),
        interval_s=interval_s,
        requests_per_s=requests / measured if measured else 0.0,
        nodes=own,
    )


def readiness(learned: Learned, nodes: Sequence[str], *, required: int) -> Readiness:
    """Return which of ``nodes`` have fewer than ``required`` windows with requests."""
    windows = {node.node: node.windows for node in learned.nodes}
    counts = {node: windows.get(node, 0) for node in nodes}
    lacking = tuple(sorted(node for node, count in counts.items() if count < required))
    return Readiness(required=required, fewest=min(counts.values(), default=0), lacking=lacking)


def _clean(node: NodeHistory) -> NodeHistory:
    windows = tuple(
        window if window is not None and is_usable(*window) and window[1] > 0 else None
        for window in node.windows
    )
    recent = tuple(row for row in node.recent if is_usable(*row))
    return NodeHistory(node=node.node, windows=windows, recent=recent)


def _sum_up(node: NodeHistory) -> OwnHistory:
    present = [window for window in node.windows if window is not None]
    return OwnHistory(
        node=node.node,
        failures=fsum(failures for failures, _ in present),
        requests=fsum(requests for _, requests in present),
        windows=len(present),
    )


# One row of a variance fit: failures, requests, expected failures, and the correction for the
# degree of freedom that the node's own mean has used up.
_Row = tuple[float, float, float, float]


def _burst_rows(
    nodes: Sequence[NodeHistory], own: Sequence[OwnHistory], own_rates: Sequence[float]
) -> list[_Row]:
    rows: list[_Row] = []
    for node, past, own_rate in zip(nodes, own, own_rates, strict=True):
        count = len(node.recent)
        if count < 2 or not past.requests:
            continue
        pull = min(RECENT_PULL_REQUESTS, past.requests)
        failures = fsum(row[0] for row in node.recent)
        requests = fsum(row[1] for row in node.recent)
        rate = (failures + pull * own_rate) / (requests + pull)
        freedom = count / (count - 1)
        rows += [(x, n, n * rate, freedom) for x, n in node.recent]
    return rows


def _drift_rows(
    nodes: Sequence[NodeHistory], own: Sequence[OwnHistory], own_rates: Sequence[float]
) -> list[_Row]:
    width = max((len(node.windows) for node in nodes), default=0)
    rows: list[_Row] = []
    for index in range(width):
        present = [
            (window, rate, past.windows)
            for node, past, rate in zip(nodes, own, own_rates, strict=True)
            if index < len(node.windows) and (window := node.windows[index]) is not None
        ]
        failures = fsum(window[0] for window, _, _ in present)
        expected = fsum(window[1] * rate for window, rate, _ in present)
        fleet = (failures + 2.0) / (expected + 2.0)
        rows += [
            (window[0], window[1], window[1] * rate * fleet, count / (count - 1))
            for window, rate, count in present
            if count >= 2
        ]
    return rows


def _excess(rows: Sequence[_Row]) -> tuple[float, float, float]:
    """Return the extra variance as k x e^2 and as k x n x e, and how many rows carry it."""
    residual = fsum(freedom * (x - e) ** 2 - e for x, _, e, freedom in rows)
    residual = max(0.0, residual)
    quadratic = fsum(e * e for _, _, e, _ in rows)
    linear = fsum(n * e for _, n, e, _ in rows)
    fourth = fsum(e**4 for _, _, e, _ in rows)
    carried = quadratic * quadratic / fourth if fourth > 0.0 else 1.0
    return (
        residual / quadratic if quadratic > 1e-9 else 0.0,
        residual / linear if linear > 1e-9 else 0.0,
        max(1.0, carried),
    )


def _shape(
    rate: float, own: Sequence[OwnHistory], own_rates: Sequence[float], drift: float
) -> float:
    known = [
        (own_rate, past) for own_rate, past in zip(own_rates, own, strict=True) if past.requests > 0
    ]
    count = len(known)
    if count < 2:
        return SMALLEST_SHAPE
    mean = fsum(own_rate for own_rate, _ in known) / count
    requests = fsum(past.requests for _, past in known) / count
    windows = fsum(past.windows for _, past in known) / count
    squares = fsum(own_rate**2 for own_rate, _ in known) / count
    total = fsum((own_rate - mean) ** 2 for own_rate, _ in known) / (count - 1)
    sampling = rate / requests + drift / windows * squares
    between = max(0.0, total - sampling)
    # The standard error of a variance of `count` values.
    careful = between + (between + sampling) * sqrt(2.0 / (count - 1))
    between = max(between, min(careful, LARGEST_CARE * rate * rate))
    between = max(between, rate * rate / LARGEST_SHAPE)
    return min(LARGEST_SHAPE, max(SMALLEST_SHAPE, rate * rate / between))
