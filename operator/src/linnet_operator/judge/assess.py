"""The verdict on a step: all metrics and thresholds together, in words and numbers.

Rules:
- A step passes only when every comparison and every threshold passes.
- Evidence of several metrics is averaged, so that more metrics never mean more false alarms.
- A threshold condemns by itself; a comparison does not while the whole fleet is in trouble.
- A dry run decides nothing, and says what it would have decided.
- One node does not turn a fleet: what rests on a single one of five and more asks a person.
- Same inputs, same assessment, to the last bit: a record is enough to compute it again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from linnet_operator.judge.compare import (
    Detect,
    MetricLook,
    NodeCount,
    combine,
    decision_line,
    look,
)
from linnet_operator.judge.learned import Learned, learn, readiness
from linnet_operator.judge.model import build_model
from linnet_operator.judge.power import Power, forecast
from linnet_operator.judge.thresholds import (
    ThresholdLook,
    ThresholdSample,
    ThresholdSpec,
    judge_threshold,
)
from linnet_operator.judge.verdicts import Verdict

_LEAVE_ONE_OUT_FROM = 5
# Without the worst node the evidence is against harm, by a nat. Of bad models on 5 to 36 nodes
# that differ, or do not, 2 of 720 looked like that on the way; with "below half of the line" 153.
_OTHERS_SPEAK_FOR_IT = -1.0
# As wide as can be: by it nothing is said but that all requests fail.
_NOTHING_LEARNED = learn((), interval_s=60.0, window_s=60.0)
# What fits a column.
_SHORT = 40
_NOUNS = {
    "Errors": ("requests", "failed"),
    "Slow": ("requests", "were slow"),
    "Wrong": ("labelled answers", "were wrong"),
}
# What stands in the way of a Pass, the most telling first.
_ORDER = (
    Verdict.FLEET_TROUBLE,
    Verdict.PARTIAL,
    Verdict.NO_DATA,
    Verdict.LEARNING,
    Verdict.NOT_MEASURED,
    Verdict.UNDECIDED,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricInputs:
    """One comparison of a step.

    Attributes:
        name: Its name in the policy.
        signal: Errors, Slow or Wrong.
        learned: The parameters frozen at the start of the rollout; None when there are none.
        candidates: Counts of the nodes that serve the candidate.
        stable: Counts of the nodes that serve the stable revision.
        no_data: Why nothing could be measured (source down, ...); empty when it could.
        partial: Why what was measured is not complete (warnings, foreign series); empty when it is.
    """

    name: str
    signal: str
    learned: Learned | None
    candidates: tuple[NodeCount, ...]
    stable: tuple[NodeCount, ...]
    no_data: str = ""
    partial: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdInputs:
    """One threshold of a step: the limit, and all samples since the step began."""

    spec: ThresholdSpec
    samples: tuple[ThresholdSample, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInputs:
    """All that the verdict on a step rests on.

    Attributes:
        metrics: The comparisons of the policy.
        thresholds: Its thresholds.
        alpha: The chance to take a good model back, over the whole rollout (0 to 1).
        steps: How many steps share alpha, the last one (finishing) included.
        detect: The rise that must be excluded.
        required_windows: Windows of own history that a candidate must have.
        proceed_without_history: The policy's onMissing is Proceed: comparisons without history
            are left out, and the sentence says so.
    """

    metrics: tuple[MetricInputs, ...]
    thresholds: tuple[ThresholdInputs, ...] = ()
    alpha: float
    steps: int
    detect: Detect
    required_windows: int
    proceed_without_history: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricAssessment:
    """One comparison: its look, its words, and what it still needs."""

    name: str
    signal: str
    look: MetricLook
    message: str
    power: Power | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepAssessment:
    """The verdict on a step.

    Attributes:
        verdict: All together.
        needs_person: Leaving one node of five and more out leaves too little evidence of harm. With
            Fail: ask now. With Undecided: more requests will tell; if they do not in time, ask.
        log_e: Combined evidence of harm (natural logarithm).
        line: The line at which a rollout is taken back (natural logarithm).
        message: A sentence with the numbers.
        short: A few words for a column.
        power: What the slowest comparison still needs.
        metrics: Each comparison.
        thresholds: Each threshold.
    """

    verdict: Verdict
    needs_person: bool
    log_e: float
    line: float
    message: str
    short: str
    power: Power | None
    metrics: tuple[MetricAssessment, ...]
    thresholds: tuple[ThresholdLook, ...]


def assess(inputs: StepInputs) -> StepAssessment:
    """Return the verdict on a step.

    Pure and picklable on both sides, so it runs in a worker process.
    """
    line = decision_line(alpha=inputs.alpha, steps=inputs.steps)
    metrics = [_assess_metric(metric, inputs, line=line) for metric in inputs.metrics]
    thresholds = tuple(judge_threshold(each.spec, each.samples) for each in inputs.thresholds)
    log_e = combine([metric.look.log_e for metric in metrics])
    metrics = [
        _with_message(_with_combined_evidence(metric, log_e=log_e), each)
        for metric, each in zip(metrics, inputs.metrics, strict=True)
    ]
    gating = [each for each in thresholds if not each.dry_run]
    verdict, needs_person = _combined_verdict(inputs, metrics, gating, log_e=log_e, line=line)
    power = _slowest([metric.power for metric in metrics if metric.power is not None])
    return StepAssessment(
        verdict=verdict,
        needs_person=needs_person,
        log_e=log_e,
        line=line,
        message=_message(verdict, metrics, gating, needs_person=needs_person)
        + _say_dry_runs(thresholds),
        short=_short(verdict, metrics, gating, power, needs_person=needs_person)[:_SHORT],
        power=power,
        metrics=tuple(metrics),
        thresholds=thresholds,
    )


def _assess_metric(metric: MetricInputs, inputs: StepInputs, *, line: float) -> MetricAssessment:
    def without(verdict: Verdict, message: str, power: Power | None = None) -> MetricAssessment:
        return MetricAssessment(
            name=metric.name,
            signal=metric.signal,
            look=MetricLook(verdict=verdict, line=line),
            message=f"{metric.name}: {message}",
            power=power,
        )

    if metric.no_data:
        return without(Verdict.NO_DATA, metric.no_data)
    if not metric.candidates:
        return without(Verdict.NOT_MEASURED, "no node serves the candidate yet")
    lack = _lack_of_history(metric, required=inputs.required_windows)
    learned = metric.learned or _NOTHING_LEARNED
    result = look(
        learned,
        metric.candidates,
        metric.stable,
        alpha=inputs.alpha,
        steps=inputs.steps,
        detect=inputs.detect,
    )
    # Where all requests fail, no history is needed to say so.
    if lack and not result.all_fail:
        if inputs.proceed_without_history:
            return without(Verdict.NOT_MEASURED, f"not compared, {lack}")
        return without(Verdict.LEARNING, lack)
    power = None
    if result.verdict in {Verdict.UNDECIDED, Verdict.NO_DATA}:
        power = forecast(
            learned,
            metric.candidates,
            metric.stable,
            alpha=inputs.alpha,
            steps=inputs.steps,
            detect=inputs.detect,
        )
    if result.verdict is Verdict.NO_DATA:
        return without(Verdict.NO_DATA, _no_requests(metric, power), power)
    if metric.partial and result.verdict is not Verdict.FAIL:
        result = replace(result, verdict=Verdict.PARTIAL)
    return MetricAssessment(
        name=metric.name,
        signal=metric.signal,
        look=result,
        message="",
        power=power,
    )


def _lack_of_history(metric: MetricInputs, *, required: int) -> str:
    """Return why a comparison cannot rest on own history; empty when it can.

    Single late joiners among others are judged by the fleet's rate, and named; a step in which most
    candidates have no history of their own is not compared at all.
    """
    if metric.learned is None:
        return "there is no history to compare with"
    ready = readiness(metric.learned, [row.node for row in metric.candidates], required=required)
    return ready.sentence if 2 * len(ready.lacking) >= len(metric.candidates) else ""


def _with_combined_evidence(metric: MetricAssessment, *, log_e: float) -> MetricAssessment:
    """Return the metric, not condemned by evidence that the average of all does not carry."""
    alone = metric.look.verdict is Verdict.FAIL and not metric.look.all_fail
    if alone and log_e < metric.look.line:
        return replace(metric, look=replace(metric.look, verdict=Verdict.UNDECIDED))
    return metric


def _with_message(metric: MetricAssessment, inputs: MetricInputs) -> MetricAssessment:
    if metric.message:
        return metric
    return replace(metric, message=_metric_message(inputs, metric.look, metric.power))


def _combined_verdict(
    inputs: StepInputs,
    metrics: Sequence[MetricAssessment],
    thresholds: Sequence[ThresholdLook],
    *,
    log_e: float,
    line: float,
) -> tuple[Verdict, bool]:
    if any(threshold.verdict is Verdict.FAIL for threshold in thresholds):
        return Verdict.FAIL, False
    in_trouble = any(metric.look.verdict is Verdict.FLEET_TROUBLE for metric in metrics)
    all_fail = [metric for metric in metrics if metric.look.all_fail]
    if all_fail and any(_is_widespread(metric.look) for metric in all_fail):
        return Verdict.FAIL, False
    if log_e >= line and not in_trouble:
        remaining = _evidence_without_any_one(inputs, metrics)
        if remaining >= line:
            return Verdict.FAIL, False
        # Where the others speak for the model, a person should look at that node now; otherwise
        # more requests will tell. Neither way is it a step that a policy may advance.
        rests_on_one = remaining <= _OTHERS_SPEAK_FOR_IT
        return Verdict.FAIL if rests_on_one else Verdict.UNDECIDED, True
    verdicts = [metric.look.verdict for metric in metrics if not _is_left_out(metric, inputs)]
    verdicts += [threshold.verdict for threshold in thresholds]
    for verdict in _ORDER:
        if verdict in verdicts:
            return verdict, False
    if not verdicts:
        return Verdict.NOT_MEASURED, False
    if any(verdict is not Verdict.PASS for verdict in verdicts):
        return Verdict.UNDECIDED, False
    return Verdict.PASS, False


def _is_left_out(metric: MetricAssessment, inputs: StepInputs) -> bool:
    """Return whether the policy says to go on without this comparison, which has no history."""
    return (
        inputs.proceed_without_history
        and metric.look.verdict is Verdict.NOT_MEASURED
        and any(each.name == metric.name and each.candidates for each in inputs.metrics)
    )


def _is_widespread(result: MetricLook) -> bool:
    """Return whether more than one node fails all its requests, where there are five and more."""
    if len(result.candidates) < _LEAVE_ONE_OUT_FROM:
        return True
    failing = [node for node in result.candidates if 2 * node.failures > node.requests]
    return len(failing) > 1


def _evidence_without_any_one(inputs: StepInputs, metrics: Sequence[MetricAssessment]) -> float:
    """Return the smallest combined evidence when any one candidate is left out of all metrics."""
    nodes = sorted({row.node for metric in metrics for row in metric.look.candidates})
    if len(nodes) < _LEAVE_ONE_OUT_FROM:
        return combine([metric.look.log_e for metric in metrics])
    remaining: list[tuple[float, dict[str, float]]] = []
    for metric, each in zip(metrics, inputs.metrics, strict=True):
        model = None
        if each.learned is not None and metric.look.candidates:
            model = build_model(each.learned, each.candidates, each.stable, detect=inputs.detect)
        remaining.append(
            (metric.look.log_e, model.weigh().log_e_without_each() if model is not None else {})
        )
    return min(
        combine([without.get(node, log_e) for log_e, without in remaining]) for node in nodes
    )


def _slowest(powers: Sequence[Power]) -> Power | None:
    never = [power for power in powers if not power.decidable]
    if never:
        return never[0]
    return max(
        powers, key=lambda power: (power.seconds or 0.0, power.requests or 0.0), default=None
    )


def _metric_message(metric: MetricInputs, result: MetricLook, power: Power | None) -> str:
    noun, verb = _NOUNS.get(metric.signal, ("requests", "failed"))
    nodes = len(result.candidates)
    control = (
        f"their own history and {result.stable_nodes} stable nodes now "
        f"(factor {result.fleet_factor:.2f})"
        if result.stable_nodes
        else "their own history alone, as no stable node is left"
    )
    parts = [
        f"{metric.name}: {result.failures:.0f} of {result.requests:.0f} {noun} {verb} on "
        f"{nodes} candidate{'s' if nodes != 1 else ''}, {_number(result.expected)} expected from "
        f"{control}"
    ]
    rise = f"a rise by {100.0 * result.rise:.2g} points"
    if result.verdict is Verdict.FAIL:
        parts.append(f"evidence of harm {_evidence(result.log_e)}, line {_evidence(result.line)}")
    elif result.verdict is Verdict.PASS:
        parts.append(f"{rise} is excluded")
    elif result.verdict is Verdict.FLEET_TROUBLE:
        parts.append("the stable nodes are in trouble too, so the candidate is not blamed")
    elif result.verdict is Verdict.PARTIAL:
        absent = result.missing or result.absent_stable
        parts.append(metric.partial or f"no data from {_names(absent)}")
    elif result.log_e >= result.line:
        parts.append("evidence of harm, but not yet enough over all metrics")
    elif result.log_excluding >= result.line:
        parts.append(f"{rise} is excluded, but a smaller one is likelier than none")
    else:
        parts.append(f"{rise} is not excluded yet")
    worst = max(result.domains, key=lambda domain: domain.log_e, default=None)
    if worst is not None and worst.log_e >= max(result.log_e, result.line / 2.0):
        parts.append(
            f"mostly on {worst.domain}: {worst.failures:.0f} of {worst.requests:.0f}, "
            f"{_number(worst.expected)} expected"
        )
    if power is not None and power.sentence != "decided":
        parts.append(power.sentence)
    if result.without_history:
        parts.append(f"by the fleet's rate, having no history: {_names(result.without_history)}")
    if result.absent_stable and result.verdict is not Verdict.PARTIAL:
        parts.append(f"without the stable {_names(result.absent_stable)}, which do not report")
    if result.idle:
        parts.append(f"without requests: {_names(result.idle)}")
    return "; ".join(parts)


def _no_requests(metric: MetricInputs, power: Power | None) -> str:
    noun, _ = _NOUNS.get(metric.signal, ("requests", "failed"))
    sentence = f"no {noun} from {len(metric.candidates)} candidates"
    return f"{sentence}; {power.sentence}" if power is not None else sentence


def _message(
    verdict: Verdict,
    metrics: Sequence[MetricAssessment],
    thresholds: Sequence[ThresholdLook],
    *,
    needs_person: bool,
) -> str:
    telling = [each.message for each in thresholds if each.verdict is verdict]
    telling += [each.message for each in metrics if each.look.verdict is verdict]
    if verdict is Verdict.FAIL and not telling:
        telling = [max(metrics, key=lambda each: each.look.log_e).message]
    if needs_person and verdict is Verdict.FAIL:
        telling.insert(0, "the evidence of harm rests on a single node: look at it, then decide")
    elif needs_person:
        telling.insert(0, "harm is seen, but not enough of it without the worst node: waiting")
    if not telling:
        telling = [each.message for each in thresholds] + [each.message for each in metrics]
    return ". ".join(telling) if telling else "nothing is measured in this step"


def _say_dry_runs(thresholds: Sequence[ThresholdLook]) -> str:
    """Return what thresholds that decide nothing would have decided; empty where nothing."""
    failed = [each.message for each in thresholds if each.dry_run and each.verdict is Verdict.FAIL]
    return f". Dry run, would have taken it back: {'; '.join(failed)}" if failed else ""


def _short(
    verdict: Verdict,
    metrics: Sequence[MetricAssessment],
    thresholds: Sequence[ThresholdLook],
    power: Power | None,
    *,
    needs_person: bool,
) -> str:
    if needs_person:
        return "one node looks bad" if verdict is Verdict.FAIL else "harm seen, on too few nodes"
    if verdict is Verdict.UNDECIDED and power is not None and power.requests:
        return power.sentence.removesuffix(" at today's rate")
    named = [each.name for each in metrics if each.look.verdict is verdict]
    named += [each.name for each in thresholds if each.verdict is verdict]
    if verdict is Verdict.FAIL and not named:
        named = [max(metrics, key=lambda each: each.look.log_e).name]
    words = {
        Verdict.PASS: "no harm seen",
        Verdict.FAIL: "harm seen in",
        Verdict.UNDECIDED: "undecided:",
        Verdict.NO_DATA: "no data for",
        Verdict.PARTIAL: "partial data for",
        Verdict.NOT_MEASURED: "not measured:",
        Verdict.FLEET_TROUBLE: "whole fleet in trouble:",
        Verdict.LEARNING: "learning history of",
    }[verdict]
    return words if verdict is Verdict.PASS else f"{words} {', '.join(named)}".strip(" :")


def _names(nodes: Sequence[str]) -> str:
    return ", ".join(nodes[:3]) + (f" and {len(nodes) - 3} more" if len(nodes) > 3 else "")


def _number(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _evidence(log_value: float) -> str:
    """Return an e-value as people read it: 500, or 10^12 where digits say nothing."""
    tenths = log_value / 2.302585092994046
    return f"10^{tenths:.0f}" if tenths >= 5 else f"{10.0**tenths:.3g}"
