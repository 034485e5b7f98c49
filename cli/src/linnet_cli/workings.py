"""The workings of one decision: inputs, formulas and numbers, from its record alone.

Pure: a record that was judged again in, lines out.

Rules:
- Every figure is computed again from the record's inputs by the judge itself, never copied.
- A formula stands beside its numbers, so that a person with a calculator can follow it.
- What one node adds is told apart from what the fleet does.
- What the judge leaves out, since it is no measurement, is in no sum.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import exp, log
from typing import Any

from linnet_cli.allowance import Allowance, Deviation, allowance, stable_deviation
from linnet_operator.evidence import Recomputed
from linnet_operator.judge.assess import (
    MetricAssessment,
    MetricInputs,
    StepAssessment,
    StepInputs,
    assess,
)
from linnet_operator.judge.compare import FLEET_TROUBLE_FACTOR, combine
from linnet_operator.judge.kernel import log_mean
from linnet_operator.judge.learned import Learned
from linnet_operator.judge.model import (
    FACTOR_PRIOR,
    RISES,
    Model,
    NodeCount,
    Row,
    build_model,
    is_measured,
)
from linnet_operator.judge.thresholds import ThresholdLook

_LABEL = 12
_NODES_SHOWN = 20
_SAMPLES_SHOWN = 5


def show_workings(again: Recomputed, *, metric: str | None, node: str | None) -> list[str]:
    """Return the workings of one decision.

    Args:
        again: The record, judged again.
        metric: Only this comparison or threshold; None: all of them.
        node: Only what this node adds; None: all nodes.

    Raises:
        LookupError: The record has no such metric or node; the message lists what it has.
    """
    assessment = assess(again.inputs)
    known = [each.name for each in assessment.metrics]
    known += [each.name for each in assessment.thresholds]
    if metric is not None and metric not in known:
        raise LookupError(
            f"nothing named {metric} was judged; there are: {', '.join(known) or 'none'}"
        )
    pairs = list(zip(again.inputs.metrics, assessment.metrics, strict=True))
    if node is not None:
        _require_node(node, again.inputs)
    lines = _about(again.about)
    for inputs, said in pairs:
        if metric in (None, said.name):
            lines += ["", *_comparison(inputs, said, again.inputs, node=node)]
    for each, look in zip(again.inputs.thresholds, assessment.thresholds, strict=True):
        if metric in (None, look.name) and node is None:
            values = [sample.value for sample in each.samples]
            lines += ["", *_threshold(look, values)]
    lines += ["", _row("together", assessment.message)]
    if len(pairs) > 1:
        lines.append(
            _row(
                "",
                f"E is the average over {len(pairs)} comparisons: "
                f"log E = {assessment.log_e:.3f}, line {assessment.line:.3f}",
            )
        )
    if assessment.needs_person:
        lines.append(_row("", _without_one(again.inputs, assessment)))
    verdict = f"{assessment.verdict}{', a person is asked' if assessment.needs_person else ''}"
    agrees = "computed again, it agrees with the record"
    if again.differences:
        agrees = f"DIFFERS from the record in {', '.join(again.differences[:5])}"
    return [*lines, _row("verdict", f"{verdict}; {agrees}")]


def _about(about: Mapping[str, Any]) -> list[str]:
    lines = []
    words = {"until": "judged up to", "start": "counts since", "at": "looked at"}
    times = [f"{said} {about[key]}" for key, said in words.items() if about.get(key)]
    if times:
        lines.append(_row("when", ", ".join(times)))
    queries = about.get("queries")
    asked = queries.values() if isinstance(queries, dict) else queries or ()
    lines += [_row("asked" if not index else "", str(text)) for index, text in enumerate(asked)]
    return lines


def _comparison(
    inputs: MetricInputs, said: MetricAssessment, step: StepInputs, *, node: str | None
) -> list[str]:
    lines = [f"{said.name} ({said.signal})"]
    learned = inputs.learned
    if learned is None:
        return [*lines, _row("verdict", f"{said.look.verdict}: {said.message}")]
    model = build_model(learned, inputs.candidates, inputs.stable, detect=step.detect)
    lines += _fleet(learned, inputs, model, node=node)
    if model is None:
        return [*lines, _row("verdict", f"{said.look.verdict}: {said.message}")]
    lines += _candidates(learned, inputs, model, node=node)
    if node is None:
        lines += _evidence(inputs, model, said, step)
    return [*lines, _row("verdict", f"{said.look.verdict}: {said.message}")]


def _fleet(
    learned: Learned, inputs: MetricInputs, model: Model | None, *, node: str | None
) -> list[str]:
    lines = [
        _row(
            "the past",
            f"mu = {learned.rate:.6g} of requests, a = {learned.shape:.4g} (how alike the nodes "
            f"are; large: hardly different), {learned.windows} windows of {len(learned.nodes)} "
            "nodes",
        ),
        _row(
            "",
            f"extra variance within a node {_pair(learned.burst_quadratic, learned.burst_linear)}, "
            f"from window to window {_pair(learned.drift_quadratic, learned.drift_linear)}",
        ),
    ]
    if model is not None:
        steady = [row for row in inputs.stable if is_measured(row)]
        counted = sum(row.failures or 0.0 for row in steady)
        expected = sum((row.requests or 0.0) * _own_rate(learned, row.node) for row in steady)
        lines.append(
            _row(
                "stable now",
                f"f = (sum x + {FACTOR_PRIOR:g}) / (sum n r + {FACTOR_PRIOR:g}) = "
                f"({counted:g} + {FACTOR_PRIOR:g}) / ({expected:.4g} + {FACTOR_PRIOR:g}) = "
                f"{model.fleet_factor:.4g}, from {model.stable_nodes} nodes",
            )
        )
        if steady:
            off = stable_deviation(learned, inputs.stable, model.fleet_factor)
            lines.append(_row("", off.sentence))
    lines += [
        _row(f"stable {row.node}", f"counted {_counted(row)}; own rate {_rate(learned, row.node)}")
        for row in inputs.stable
        if row.node == node
    ]
    return lines


def _candidates(
    learned: Learned, inputs: MetricInputs, model: Model, *, node: str | None
) -> list[str]:
    off = stable_deviation(learned, inputs.stable, model.fleet_factor)
    rows = [row for row in model.rows if node in (None, row.node)]
    without = model.weigh().log_e_without_each() if len(model.rows) > 1 else {}
    worst = sorted(rows, key=lambda row: (row.expected - row.failures, row.node))
    lines = []
    for row in worst[:_NODES_SHOWN]:
        lines += [
            _row(
                row.node,
                f"counted x = {row.failures:g} of n = {row.requests:g}; own rate "
                f"{_rate(learned, row.node)}",
            ),
            _row(
                "",
                f"expected e = n r f = {row.requests:g} x {_own_rate(learned, row.node):.6g} x "
                f"{model.fleet_factor:.4g} = {row.expected:.4g} ({row.history_windows} windows of "
                "its own)"
                + (f"; log E without it {without[row.node]:.3f}" if row.node in without else ""),
            ),
            _row(
                "",
                _shape(row, allowance(learned, model, row), off),
            ),
        ]
    if len(rows) > _NODES_SHOWN:
        lines.append(_row("", f"and {len(rows) - _NODES_SHOWN} more; --node NAME shows one"))
    return lines


def _evidence(
    inputs: MetricInputs, model: Model, said: MetricAssessment, step: StepInputs
) -> list[str]:
    null = model.log_null()
    harms = [model.log_marginal(harm) - null for harm in model.harms()]
    steady = model.log_marginal(model.steady_no_rise()) - null
    # What the named rise is compared with; see the judge.
    harms[-1] -= max(0.0, steady)
    against = model.log_marginal(model.named_rise(step.detect, in_bursts=True)) - null
    by_factor, by_mean = harms[:-1:2], harms[1:-1:2]
    look = said.look
    factors = zip(RISES, by_factor, strict=True)
    means = zip(RISES, by_mean, strict=True)
    reached = "reached" if look.log_e >= look.line else "not reached"
    excluded = "excluded" if look.log_excluding >= look.line else "not excluded"
    if excluded == "excluded" and model.seen_rise_ratio >= look.rise:
        excluded = "less likely than what is seen, which is more"
    return [
        _row(
            "evidence",
            f"E = average over {len(harms)} kinds of harm of P(counts if harm) / P(counts if "
            f"none), over 41 values of f around it: {_factor_spread(inputs, model)}",
        ),
        _row(
            "",
            "P(counts) = product over the nodes of m^x / (m + s)^(x + s); m = e if none is harmed, "
            "g e where it is worse by x g, e + k n mu f where k fleet means are added, e + n times "
            "the rise that detect names (with a narrower s)",
        ),
        _row("", "log, a node worse by x: " + ", ".join(f"x{g:g} {v:.2f}" for g, v in factors)),
        _row("", "log, plus fleet means: " + ", ".join(f"+{g - 1:g} {v:.2f}" for g, v in means)),
        _row(
            "",
            f"log, the rise that detect names: {harms[-1]:.2f}"
            + (f" (beside steady nodes without it, {steady:.2f})" if steady > 0.0 else ""),
        ),
        *([_row("", f"harm everywhere: log E = {log_mean(harms):.3f}")] if look.domains else []),
        *(
            _row(
                "",
                f"harm on {domain.domain} alone: {domain.failures:g} of {domain.requests:g}, "
                f"expected {domain.expected:.4g}; log E = {domain.log_e:.3f} (half of the weight "
                "is on harm everywhere, half on such domains)",
            )
            for domain in look.domains
        ),
        _row(
            "",
            f"log E = {look.log_e:.3f}; line = log(steps / alpha) = "
            f"log({step.steps} / {step.alpha:g}) = {log(step.steps / step.alpha):.3f}: {reached}",
        ),
        _row(
            "detect",
            f"the larger of (x{step.detect.factor:g} - 1) x expected and {step.detect.floor:.2%}: "
            f"a rise by {look.rise:.4%} of requests; log evidence against it = log((1 + E) / 2) - "
            f"({against:.3f}) = {look.log_excluding:.3f}, line {look.line:.3f}: {excluded}",
        ),
        _row(
            "",
            "against it: the rise h comes in bursts as large as a node's own failures, "
            "1/s is larger by e h phi_b^2 / (e + h)^2; phi_b^2 stands above as bursts",
        ),
        *_trouble(said, step),
    ]


def _factor_spread(inputs: MetricInputs, model: Model) -> str:
    """Say how uncertain f is, with its numbers."""
    failures = sum(row.failures or 0.0 for row in inputs.stable if is_measured(row))
    by_count = 1.0 / (failures + FACTOR_PRIOR)
    squared = exp(model.factor_spread**2) - 1.0
    return (
        f"log f is off by sqrt(log(1 + {squared:.4g})) = {model.factor_spread:.4g} (one standard "
        f"deviation), {min(by_count, squared):.4g} of it being 1 / (sum x + {FACTOR_PRIOR:g})"
    )


def _trouble(said: MetricAssessment, step: StepInputs) -> list[str]:
    """Return why nobody is blamed, where the fleet itself is in trouble."""
    look = said.look
    if not look.in_trouble:
        return []
    ratio = look.expected / look.requests
    usual = ratio / max(look.fleet_factor, 1.0)
    return [
        _row(
            "trouble",
            f"f = {look.fleet_factor:.4g} is above {FLEET_TROUBLE_FACTOR:g}, and by that "
            f"{ratio - usual:.4%} more of the requests are expected to fail, above detect.floor "
            f"({step.detect.floor:.2%}): the candidate cannot be told from the trouble",
        )
    ]


def _without_one(inputs: StepInputs, assessment: StepAssessment) -> str:
    """Say what is left of the evidence without the one node that carries most of it."""
    nodes: set[str] = set()
    metrics: list[tuple[float, dict[str, float]]] = []
    for metric, said in zip(inputs.metrics, assessment.metrics, strict=True):
        model = None
        if metric.learned is not None and said.look.candidates:
            model = build_model(
                metric.learned, metric.candidates, metric.stable, detect=inputs.detect
            )
        without = model.weigh().log_e_without_each() if model is not None else {}
        nodes.update(without)
        metrics.append((said.look.log_e, without))
    left = {
        node: combine([without.get(node, log_e) for log_e, without in metrics])
        for node in sorted(nodes)
    }
    worst = min(left, key=lambda node: left[node])
    return (
        f"five and more candidates: it must hold without any one of them; without {worst} "
        f"log E = {left[worst]:.3f}, line {assessment.line:.3f}"
    )


def _threshold(look: ThresholdLook, values: Sequence[float | None]) -> list[str]:
    newest = ", ".join("none" if v is None else f"{v:g}" for v in values[-_SAMPLES_SHOWN:])
    dry = " (dry run: decides nothing)" if look.dry_run else ""
    lines = [
        f"{look.name} (threshold){dry}",
        _row(
            "samples",
            f"{len(values)}, {look.measured} with a value, {look.bad} beyond the limit "
            f"({look.bad_in_a_row} in a row now), {look.missing_in_a_row} missing in a row now; "
            f"the newest: {newest or 'none'}",
        ),
    ]
    if look.failed_at_s is not None:
        at = datetime.fromtimestamp(look.failed_at_s, tz=UTC)
        lines.append(_row("broken", f"at {at:%Y-%m-%dT%H:%M:%SZ}"))
    return [*lines, _row("verdict", f"{look.verdict}: {look.message}")]


def _require_node(node: str, inputs: StepInputs) -> None:
    known = sorted(
        {row.node for each in inputs.metrics for row in (*each.candidates, *each.stable)}
    )
    if node not in known:
        shown = ", ".join(known[:_NODES_SHOWN]) or "none"
        raise LookupError(f"no node {node} was judged; there are: {shown}")


def _history(learned: Learned, node: str) -> tuple[float, float]:
    own = next((each for each in learned.nodes if each.node == node), None)
    return (own.failures, own.requests) if own is not None else (0.0, 0.0)


def _own_rate(learned: Learned, node: str) -> float:
    failures, requests = _history(learned, node)
    return (learned.shape + failures) / (learned.shape / learned.rate + requests)


def _rate(learned: Learned, node: str) -> str:
    failures, requests = _history(learned, node)
    prior = learned.shape / learned.rate
    return (
        f"r = (a + x0) / (a/mu + n0) = ({learned.shape:.4g} + {failures:g}) / "
        f"({prior:.4g} + {requests:g}) = {_own_rate(learned, node):.6g}"
    )


def _shape(row: Row, allowed: Allowance, off: Deviation) -> str:
    return (
        f"{allowed.sentence(off)}; shape s = 1 / (1 / (a + x0) + phi^2) = 1 / (1 / {row.past:.4g} "
        f"+ {row.spread:.4g}) = {row.shape:.4g} (large: narrow)"
    )


def _counted(row: NodeCount) -> str:
    if row.failures is None or row.requests is None:
        return "nothing: it does not report"
    if not is_measured(row):
        return f"{row.failures} of {row.requests}, which is no measurement"
    return f"x = {row.failures:g} of n = {row.requests:g}"


def _pair(quadratic: float, linear: float) -> str:
    if not quadratic and not linear:
        return "none"
    return f"the larger of {quadratic:.3g} e^2 and {linear:.3g} n e"


def _row(label: str, text: str) -> str:
    return f"  {label.ljust(_LABEL)} {text}".rstrip()
