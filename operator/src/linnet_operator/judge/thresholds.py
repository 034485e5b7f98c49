"""Thresholds: a measured value against a fixed limit, for what needs no comparison.

Rules:
- No sample, NaN, infinity, or several series where one was asked for: never a Pass.
- More than ``failure_limit`` bad samples in a row are a Fail; a good one starts the count again.
  (A cumulative count turns a long bake into a coin flip.)
- A sample that could not be had is neither good nor bad: it does not end a row.
- Partial data may condemn, but never clear.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from linnet_operator.judge.verdicts import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdSample:
    """What one query gave at one time.

    Attributes:
        at_s: When, in seconds of the epoch.
        value: The value; None when there is none.
        series: How many series came back.
        problem: Why there is no value, or why it is not complete; empty when all is well.
    """

    at_s: float
    value: float | None
    series: int
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdSpec:
    """One threshold of a policy; the limits are decimals as strings, as in the policy."""

    name: str
    maximum: str | None = None
    minimum: str | None = None
    failure_limit: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdLook:
    """What the samples of one threshold say, with the last value and the limit beside it."""

    name: str
    verdict: Verdict
    value: float | None
    bad_in_a_row: int
    measured: int
    message: str


def judge_threshold(spec: ThresholdSpec, samples: Sequence[ThresholdSample]) -> ThresholdLook:
    """Return what the samples of a step say, oldest first or not: they are sorted by time."""
    limits = _limits(spec)
    bad_in_a_row = 0
    worst_row = 0
    measured = 0
    ordered = sorted(samples, key=lambda sample: sample.at_s)
    for sample in ordered:
        value = _value(sample)
        if value is None:
            continue
        measured += 1
        bad_in_a_row = bad_in_a_row + 1 if _is_beyond(value, limits) else 0
        worst_row = max(worst_row, bad_in_a_row)
    last = ordered[-1] if ordered else None
    value = _value(last) if last else None

    def result(verdict: Verdict, message: str) -> ThresholdLook:
        return ThresholdLook(
            name=spec.name,
            verdict=verdict,
            value=value,
            bad_in_a_row=bad_in_a_row,
            measured=measured,
            message=f"{spec.name}: {message}",
        )

    if worst_row > spec.failure_limit:
        return result(
            Verdict.FAIL,
            f"{_shown(value)} is beyond the limit ({_bounds(spec)}), {worst_row} times in a row",
        )
    if last is None:
        return result(Verdict.NOT_MEASURED, "was not measured in this step")
    if last.series > 1:
        return result(
            Verdict.PARTIAL,
            f"{last.series} series came back where one was expected; make the query return one",
        )
    if value is None:
        return result(Verdict.NO_DATA, last.problem or "the query gave no value")
    if last.problem:
        return result(Verdict.PARTIAL, last.problem)
    if bad_in_a_row:
        return result(
            Verdict.UNDECIDED,
            f"{_shown(value)} is beyond the limit ({_bounds(spec)}), "
            f"{bad_in_a_row} of {spec.failure_limit + 1} in a row",
        )
    return result(Verdict.PASS, f"{_shown(value)} is within the limit ({_bounds(spec)})")


def _value(sample: ThresholdSample) -> float | None:
    if sample.series != 1 or sample.value is None or not isfinite(sample.value):
        return None
    return sample.value


def _limits(spec: ThresholdSpec) -> tuple[float | None, float | None]:
    minimum = None if spec.minimum is None else float(spec.minimum)
    maximum = None if spec.maximum is None else float(spec.maximum)
    assert minimum is not None or maximum is not None, spec
    return minimum, maximum


def _is_beyond(value: float, limits: tuple[float | None, float | None]) -> bool:
    minimum, maximum = limits
    # Written as "not within", so that a limit of NaN lets nothing pass.
    return (minimum is not None and not value >= minimum) or (
        maximum is not None and not value <= maximum
    )


def _bounds(spec: ThresholdSpec) -> str:
    parts: list[str] = []
    if spec.minimum is not None:
        parts.append(f"at least {spec.minimum}")
    if spec.maximum is not None:
        parts.append(f"at most {spec.maximum}")
    return ", ".join(parts)


def _shown(value: float | None) -> str:
    return "no value" if value is None else f"{value:g}"
