"""The words of ``linnet lint``: what a policy would see of a fleet, and what it never could.

Pure: what was read in, lines out.

Rules:
- A warning is something that a person would regret after the rollout has begun.
- Every figure is at the traffic of the fleet's own past; how long that past is stands beside it.
- What is not known is said, not guessed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from linnet_api.durations import format_duration, parse_duration
from linnet_api.rollout_policy import Judge, RolloutPolicySpec, Threshold
from linnet_operator.foresight import Sight, StepAhead, foresee, steps_ahead
from linnet_operator.judge.learned import Learned, readiness
from linnet_operator.judge.power import say_duration
from linnet_operator.judge.thresholds import ThresholdSample, judge_threshold
from linnet_operator.judge.verdicts import Verdict
from linnet_operator.terms import step_template, threshold_spec

_INDENT = "  "
# Fewer failures of the nodes beside a step hardly tell a bad day from a bad model: three of them
# are uncertain by half, ten by a third.
_FEW_BESIDE = 10.0
# Fewer in a window of a node hardly tell drift from chance.
_FEW_IN_A_WINDOW = 3.0


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What is known of one deployment's fleet.

    Attributes:
        deployment: ``namespace/name``.
        eligible: Nodes that count.
        stable: Revision that they serve; empty before the first rollout.
        nodes: Names of the nodes that serve it.
        since: Where the past comes from, in words.
        learned: Comparison -> what its past shows.
        samples: Threshold -> its value now.
        problem: Why there is no past; empty where there is.
        asked: A Prometheus was asked for it.
    """

    deployment: str
    eligible: int
    stable: str = ""
    nodes: tuple[str, ...] = ()
    since: str = ""
    learned: Mapping[str, Learned] = field(default_factory=dict[str, Learned])
    samples: Mapping[str, ThresholdSample] = field(default_factory=dict[str, ThresholdSample])
    problem: str = ""
    asked: bool = False


def lint_fleet(policy: RolloutPolicySpec, traffic: Traffic) -> tuple[list[str], list[str]]:
    """Return what the policy means for one fleet: (lines, warnings)."""
    lines, warnings = [_headline(traffic)], []
    if not traffic.eligible:
        return lines, ["no node is eligible: no step can begin"]
    steps = steps_ahead(policy, eligible_count=traffic.eligible)
    sights = {} if traffic.problem else _sights(policy, traffic, steps)
    if traffic.problem:
        warnings.append(f"what the comparisons can see is not known: {traffic.problem}")
    for step in steps:
        lines.append(_INDENT + _step(step, traffic))
        for name, sight in sights.get(step.first, {}).items():
            lines += [_INDENT * 2 + text for text in _sight(name, sight, step)]
            warnings += _sight_warnings(name, sight, step, policy)
    warnings += _history_warnings(policy, traffic)
    warnings += [
        text
        for each in policy.judge.thresholds
        for step in steps
        for text in _late(each, step, policy.judge)
    ]
    for threshold in policy.judge.thresholds:
        line, warning = _threshold(
            threshold, traffic.samples.get(threshold.name), asked=traffic.asked
        )
        lines.append(_INDENT + line)
        warnings += [warning] if warning else []
    return lines, list(dict.fromkeys(warnings))


def _headline(traffic: Traffic) -> str:
    stable = f"stable {traffic.stable}" if traffic.stable else "nothing served yet"
    since = f"; {traffic.since}" if traffic.since else ""
    return f"{traffic.deployment}: {traffic.eligible} nodes, {stable}{since}"


def _sights(
    policy: RolloutPolicySpec, traffic: Traffic, steps: tuple[StepAhead, ...]
) -> dict[int, dict[str, Sight]]:
    template = step_template(policy)
    return {
        step.first: {
            compare.name: foresee(
                traffic.learned[compare.name],
                step,
                template,
                comparisons=len(policy.judge.compare),
            )
            for compare in policy.judge.compare
            if compare.name in traffic.learned
        }
        for step in steps
        if step.nodes
    }


def _step(step: StepAhead, traffic: Traffic) -> str:
    number = f"step {step.first}" + (f" to {step.last}" if step.last > step.first else "")
    bake = format_duration(step.bake)
    beside = f"{step.stable} beside them" if step.stable else "none beside them"
    return f"{number}: {step.nodes} of {traffic.eligible} nodes, {beside}; bake {bake}"


def _sight(name: str, sight: Sight, step: StepAhead) -> list[str]:
    if not sight.requests_per_s:
        return [f"{name}: no traffic"]
    clears = "never"
    if sight.clears_s is not None:
        count = sight.requests_per_s * sight.clears_s
        clears = f"after about {say_duration(sight.clears_s)} ({count:,.0f} counted)"
    within = format_duration(step.decide_within)
    seen = [
        f"{harm} {f'after {say_duration(at_s)}' if at_s is not None else f'not within {within}'}"
        for harm, at_s in sight.harms
    ]
    return [f"{name}: clears a healthy model {clears}", f"{name}: sees {', '.join(seen)}"]


def _sight_warnings(
    name: str, sight: Sight, step: StepAhead, policy: RolloutPolicySpec
) -> list[str]:
    where = f"step {step.first}, {name}"
    within = format_duration(step.decide_within)
    then = f"onUndecided ({policy.judge.on_undecided}) acts first, after {within}"
    found = []
    if not sight.requests_per_s:
        return [f"{where}: nothing is counted, so it can decide nothing; {then}"]
    if sight.clears_s is None:
        found.append(f"{where}: can never clear a healthy model at this traffic; {then}")
    elif sight.clears_s > step.decide_within.total_seconds():
        late = say_duration(sight.clears_s)
        found.append(f"{where}: needs about {late} to clear a healthy model; {then}")
    harm, seen_s = sight.harms[-1]
    if seen_s is None:
        seen = "nor even x100" if sight.smallest is None else f"only from x{sight.smallest:g} on"
        found.append(
            f"{where}: does not see the harm that detect names ({harm}) within {within}, {seen}"
        )
    return found + _thin(name, sight, step, policy) if found else []


def _thin(name: str, sight: Sight, step: StepAhead, policy: RolloutPolicySpec) -> list[str]:
    """Return what the counts of a slow comparison lack, and what would help."""
    if step.stable and sight.beside_failures < _FEW_BESIDE:
        nodes = "node beside it fails" if step.stable == 1 else "nodes beside it fail"
        return [
            f"step {step.first}, {name}: the {step.stable} {nodes} about "
            f"{sight.beside_failures:.1f} times within {format_duration(step.decide_within)}, too "
            "few to tell a bad day from a bad model: keep more of them (control), or wait longer "
            "(decideWithin)"
        ]
    if 0.0 < sight.window_failures < _FEW_IN_A_WINDOW:
        window = parse_duration(policy.judge.history.window)
        enough = say_duration(window.total_seconds() * _FEW_IN_A_WINDOW / sight.window_failures)
        return [
            f"{name}: a window of history ({format_duration(window)}) holds about "
            f"{sight.window_failures:.1f} failures of a node, too few to tell drift from chance: "
            f"use windows of {enough}"
        ]
    return []


def _history_warnings(policy: RolloutPolicySpec, traffic: Traffic) -> list[str]:
    found = []
    required = policy.judge.history.required
    for name, learned in traffic.learned.items():
        ready = readiness(learned, traffic.nodes, required=required)
        if ready.lacking:
            then = {"Wait": "it would wait in Learning", "Proceed": "it would go on uncompared"}
            found.append(f"{name} {ready.sentence}; {then[policy.judge.history.on_missing]}")
    return found


def _late(threshold: Threshold, step: StepAhead, judge: Judge) -> list[str]:
    delay = parse_duration(threshold.initial_delay)
    where = f"threshold {threshold.name}: step {step.first} bakes {format_duration(step.bake)}"
    if delay >= step.decide_within:
        return [
            f"{where}, and is decided before initialDelay ({threshold.initial_delay}) is over: "
            f"onNoData ({judge.on_no_data}) acts before anything was measured"
        ]
    interval = threshold.interval or judge.interval
    if parse_duration(interval) >= step.decide_within:
        return [
            f"{where}, and is decided after {format_duration(step.decide_within)}, but sampled "
            f"every {interval}: where no node serves yet at the first sample, onNoData "
            f"({judge.on_no_data}) acts before anything was measured"
        ]
    if delay > step.bake:
        return [f"{where}, but cannot end before initialDelay ({threshold.initial_delay}) is over"]
    return []


def _threshold(
    threshold: Threshold, sample: ThresholdSample | None, *, asked: bool
) -> tuple[str, str]:
    dry = " (dry run)" if threshold.dry_run else ""
    name = f"threshold {threshold.name}{dry}"
    if sample is None:
        why = (
            "as the past could not be read" if asked else "--prometheus URL asks for its value now"
        )
        return f"{name}: not asked; {why}", ""
    spec = threshold_spec(threshold)
    look = judge_threshold(spec, [sample])
    if look.measured and look.bad:
        value = f"{sample.value:g}" if sample.value is not None else "none"
        return f"{name}: {value} now, beyond the limit", (
            f"{name} is beyond its limit on the stable revision already: every candidate would "
            "be taken back"
        )
    said = look.message.removeprefix(f"{threshold.name}: ")
    if look.verdict is not Verdict.PASS:
        return f"{name}: {said}", f"{name} has no usable value now: as it is, no step would pass"
    interval = threshold.interval or "judge.interval"
    return f"{name}: {said}; sampled every {interval}", ""
