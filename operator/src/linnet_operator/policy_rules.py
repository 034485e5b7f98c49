"""What a schema cannot say about policies: pure, the same in the operator and in `linnet lint`.

Rules:
- Every problem is a sentence that names the field; none means that the policy can be used.
- Nothing is asked of anyone: what only a Prometheus can say is left to `linnet lint`.
"""

import zoneinfo
from datetime import timedelta
from typing import Final

from linnet_api.buckets import BUCKETS_S, is_bucket_edge
from linnet_api.durations import format_duration, parse_duration
from linnet_api.patterns import compile_regexp
from linnet_api.rollout_policy import RolloutPolicySpec, Threshold
from linnet_api.trust_policy import Authority, TrustPolicySpec
from linnet_operator.planner.windows import parse_cron
from linnet_operator.presets import changes_meaning, not_counted
from linnet_operator.templates import query_problem

_NOTHING: Final = timedelta()
_EDGES_TEXT: Final = ", ".join(
    f"{edge * 1000:g}ms" for edge in BUCKETS_S if (edge * 1000).is_integer()
)


def policy_problems(spec: RolloutPolicySpec) -> list[str]:
    """Return what is wrong with a RolloutPolicy, as sentences; empty where it can be used."""
    problems = []
    bakes = [parse_duration(step.bake) for step in spec.steps]
    shortest = min((bake for bake in bakes if bake > _NOTHING), default=None)
    window = parse_duration(spec.judge.history.window)
    history = spec.judge.history
    if window <= _NOTHING:
        problems.append("spec.judge.history.window must be longer than 0s")
    if spec.judge.compare and shortest is not None and window > shortest:
        problems.append(
            f"spec.judge.history.window is {history.window}, longer than the shortest bake "
            f"({format_duration(shortest)}): a candidate has no window of that length to compare"
        )
    if history.required > history.windows:
        problems.append(
            f"spec.judge.history.required is {history.required}, but only {history.windows} "
            "windows are read"
        )
    if parse_duration(spec.judge.interval) <= _NOTHING:
        problems.append("spec.judge.interval must be longer than 0s")
    problems += [
        f"spec.judge.compare {each.name}: over is {each.over}, which is no edge of a bucket; "
        f"there are {_EDGES_TEXT}"
        for each in spec.judge.compare
        if each.over is not None and not is_bucket_edge(each.over)
    ]
    for compare in spec.judge.compare:
        if (compare.signal == "Slow") != (compare.over is not None):
            problems.append(
                f"spec.judge.compare {compare.name}: over goes with the signal Slow, which needs it"
            )
        refused = not_counted(spec.judge.preset, compare.signal)
        if refused:
            problems.append(f"spec.judge.compare {compare.name}: {refused}")
    for threshold in spec.judge.thresholds:
        problems += [
            f"spec.judge.thresholds {threshold.name}: {text}"
            for text in _threshold_problems(threshold, preset=spec.judge.preset)
        ]
    for number, each in enumerate(spec.windows):
        try:
            parse_cron(each.cron)
            zoneinfo.ZoneInfo(each.time_zone)
        except zoneinfo.ZoneInfoNotFoundError:
            problems.append(f"spec.windows[{number}]: {each.time_zone!r} is no IANA time zone")
        except ValueError as error:
            problems.append(f"spec.windows[{number}]: {error}")
    return problems


def trust_problems(spec: TrustPolicySpec) -> list[str]:
    """Return what is wrong with a TrustPolicy, as sentences; empty where it can be used."""
    problems = []
    names = {authority.name for authority in spec.authorities}
    unknown = sorted(set(spec.require.of) - names)
    if unknown:
        problems.append(f"spec.require.of names no authority: {', '.join(unknown)}")
    counted = len(set(spec.require.of) & names) if spec.require.of else len(names)
    if spec.require.threshold > counted:
        problems.append(
            f"spec.require.threshold is {spec.require.threshold}, but only {counted} authorities "
            "count: nothing could ever be allowed"
        )
    if not spec.signature.formats:
        problems.append("spec.signature.formats is empty: nothing could ever be allowed")
    for authority in spec.authorities:
        problems += [
            f"spec.authorities {authority.name}: {text}" for text in _authority_problems(authority)
        ]
    return problems


def _threshold_problems(threshold: Threshold, *, preset: str) -> list[str]:
    problems = []
    low, high = threshold.min, threshold.max
    if low is None and high is None:
        problems.append("it needs max, min, or both")
    if low is not None and high is not None and float(low) > float(high):
        problems.append(f"min {low} is above max {high}")
    if threshold.interval is not None and parse_duration(threshold.interval) <= _NOTHING:
        problems.append("interval must be longer than 0s")
    problems += filter(
        None, (query_problem(threshold.query), changes_meaning(preset, threshold.query))
    )
    return problems


def _authority_problems(authority: Authority) -> list[str]:
    key, keyless = authority.key, authority.keyless
    if (key is None) == (keyless is None):
        return ["it needs either key or keyless"]
    if key is not None and key.valid_for is not None:
        start, end = key.valid_for.start, key.valid_for.end
        return ["validFor ends before it starts"] if start and end and end < start else []
    if keyless is None:
        return []
    if (keyless.identity is None) == (keyless.identity_regexp is None):
        return ["it needs either identity or identityRegexp"]
    try:
        compile_regexp(keyless.identity_regexp or "")
    except ValueError as error:
        return [f"identityRegexp is none that is known here: {error}"]
    return []
