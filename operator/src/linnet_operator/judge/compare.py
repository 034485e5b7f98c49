"""The comparison: one look at one metric, and what it says by itself.

Rules:
- The same inputs give the same look, in whatever order the nodes come, not even a bit apart.
- What is no measurement (None, NaN, negative, more failures than requests) never leads to a Pass.
- A Pass excludes the rise that ``detect`` names: the absence of evidence is not enough. Nor is
  that enough while there is half of the evidence that condemns (in nats), in any domain.
- All figures are rounded, and the verdict rests on the rounded ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import fsum, log

from linnet_operator.judge.kernel import log_mean, rounded
from linnet_operator.judge.learned import Learned
from linnet_operator.judge.model import Detect, Model, NodeCount, Row, build_model, is_measured
from linnet_operator.judge.verdicts import Verdict

__all__ = [
    "EXCLUDABLE",
    "FLEET_TROUBLE_FACTOR",
    "Detect",
    "DomainLook",
    "MetricLook",
    "NodeCount",
    "NodeLook",
    "combine",
    "decision_line",
    "look",
]

# What `excluded` can say; a closed list, so that a figure does not flicker from look to look.
EXCLUDABLE = (1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0)
# The stable nodes fail so much more than usual, and by more of their requests than `detect.floor`:
# ten times next to nothing is next to nothing, and must neither hold a rollout nor hide harm.
FLEET_TROUBLE_FACTOR = 2.0
# All requests fail: no statistics are needed.
_ALL_FAIL_SHARE = 0.9
_ALL_FAIL_REQUESTS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLook:
    """One candidate's counts beside what was expected of it."""

    node: str
    failures: float
    requests: float
    expected: float
    history_windows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainLook:
    """The candidates of one domain, and the evidence that harm is there alone."""

    domain: str
    log_e: float
    failures: float
    requests: float
    expected: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricLook:
    """What one look at one metric says. All figures are rounded, and the verdict rests on them.

    Attributes:
        verdict: This metric alone, at the line of the whole step.
        log_e: Natural logarithm of the evidence of harm; 0 is none either way.
        line: Natural logarithm of the line at which a rollout is taken back: steps / alpha.
        log_excluding: Evidence against the rise that ``detect`` names; excluded from ``line`` on.
        rise: That rise, in failures per request on top of what is expected.
        excluded: The smallest factor from which on every rise is excluded, beyond the rise that is
            seen; None where not even the largest is.
        fleet_factor: What the stable nodes do now, by their own history.
        in_trouble: So much more, that the candidate cannot be told from the trouble.
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
        domains: Per domain of two and more candidates, where there are others.
    """

    verdict: Verdict
    log_e: float = 0.0
    line: float
    log_excluding: float = 0.0
    rise: float = 0.0
    excluded: float | None = None
    fleet_factor: float = 1.0
    in_trouble: bool = False
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
    domains: tuple[DomainLook, ...] = ()


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
        missing = tuple(sorted(row.node for row in candidates if not is_measured(row)))
        verdict = Verdict.PARTIAL if missing and len(missing) < len(candidates) else Verdict.NO_DATA
        return MetricLook(verdict=verdict, line=line, missing=missing)
    weighed = model.weigh()
    log_null = weighed.log_null
    log_e, log_e_by_domain = weighed.log_e_and_by_domain()
    log_excluding = model.log_excluding(detect, log_e=log_e, log_null=log_null)
    failures = fsum(row.failures for row in model.rows)
    requests = fsum(row.requests for row in model.rows)
    expected = fsum(row.expected for row in model.rows)
    result = MetricLook(
        verdict=Verdict.UNDECIDED,
        log_e=log_e,
        line=line,
        log_excluding=log_excluding,
        rise=rounded(model.named_rise_ratio(detect)),
        excluded=_excluded(model, log_e=log_e, log_null=log_null, line=line),
        fleet_factor=rounded(model.fleet_factor),
        in_trouble=_in_trouble(
            rounded(model.fleet_factor),
            expected_ratio=rounded(expected / requests) if requests > 0.0 else 0.0,
            detect=detect,
        ),
        failures=failures,
        requests=requests,
        expected=rounded(expected),
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
                expected=rounded(row.expected),
                history_windows=row.history_windows,
            )
            for row in model.rows
        ),
        domains=tuple(_domain_look(model.rows, *each) for each in log_e_by_domain),
    )
    return replace(result, verdict=_verdict(result, candidates=len(candidates)))


def decision_line(*, alpha: float, steps: int) -> float:
    """Return the logarithm of the evidence at which one of ``steps`` is decided."""
    assert 0.0 < alpha < 1.0, alpha
    assert steps >= 1, steps
    return rounded(log(steps / alpha))


def combine(log_es: Sequence[float]) -> float:
    """Return the logarithm of the average of e-values: valid whatever their dependence."""
    if not log_es:
        return 0.0
    return rounded(log_mean(sorted(log_es)))


def _verdict(result: MetricLook, *, candidates: int) -> Verdict:
    if result.log_e >= result.line or result.all_fail:
        blamed = result.all_fail or not result.in_trouble
        return Verdict.FAIL if blamed else Verdict.FLEET_TROUBLE
    if result.in_trouble:
        return Verdict.FLEET_TROUBLE
    if result.missing:
        return Verdict.PARTIAL
    if 2 * len(result.absent_stable) > result.stable_nodes + len(result.absent_stable):
        return Verdict.PARTIAL
    if 2 * len(result.idle) > candidates:
        return Verdict.UNDECIDED
    # What half of the line speaks against, everywhere or in one domain, is not waved through.
    worst = max(result.log_e, *(domain.log_e for domain in result.domains), 0.0)
    if worst >= result.line / 2.0:
        return Verdict.UNDECIDED
    return Verdict.PASS if result.log_excluding >= result.line else Verdict.UNDECIDED


def _in_trouble(fleet_factor: float, *, expected_ratio: float, detect: Detect) -> bool:
    """Return True where the stable nodes do so badly now that nobody can be blamed.

    Args:
        fleet_factor: What they do now, by their own history.
        expected_ratio: Failures per request that are expected of the candidates for that.
        detect: Its floor is the rise that matters.
    """
    usual_ratio = expected_ratio / max(fleet_factor, 1.0)
    return fleet_factor > FLEET_TROUBLE_FACTOR and expected_ratio - usual_ratio > detect.floor


def _excluded(model: Model, *, log_e: float, log_null: float, line: float) -> float | None:
    """Return the smallest factor of the closed list from which on every rise is excluded.

    Looked for from the top, and never as far down as the rise that is seen: where the candidate is
    worse, what is far below that is as unlikely as what is far above it.
    """
    smallest: float | None = None
    for factor in reversed(EXCLUDABLE):
        rise = Detect(factor=factor, floor=0.0)
        if model.named_rise_ratio(rise) <= model.seen_rise_ratio:
            break
        if model.log_excluding(rise, log_e=log_e, log_null=log_null) < line:
            break
        smallest = factor
    return smallest


def _domain_look(rows: Sequence[Row], domain: str, log_e: float) -> DomainLook:
    members = [row for row in rows if row.domain == domain]
    return DomainLook(
        domain=domain,
        log_e=log_e,
        failures=fsum(row.failures for row in members),
        requests=fsum(row.requests for row in members),
        expected=rounded(fsum(row.expected for row in members)),
    )
