"""Thresholds: a measured value against a fixed limit, for what needs no comparison.

Rules:
- No sample, NaN, infinity, or several series where one was asked for: never a Pass.
- More than ``failure_limit`` bad samples of the step, or more than ``consecutive_failure_limit`` in
  a row, are a Fail; without either limit the first bad one is.
- A sample that could not be had is neither good nor bad: it does not end a row, and condemns
  nobody. More than ``consecutive_error_limit`` in a row give up: the policy's onNoData acts.
- Partial data may condemn, but never clear.
- A dry run is judged like any other, and left out of the verdict on the step.
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
    """One threshold of a policy; the limits are decimals as strings, as in the policy.

    Attributes:
        name: Its name.
        maximum: A value above it is bad.
        minimum: A value below it is bad.
        failure_limit: Bad samples of the whole step that are tolerated; None: no such limit.
        consecutive_failure_limit: The same, in a row.
        consecutive_error_limit: Samples in a row that may be missing; None: no such limit.
        dry_run: It is recorded, but decides nothing.
    """

    name: str
    maximum: str | None = None
    minimum: str | None = None
    failure_limit: int | None = None
    consecutive_failure_limit: int | None = None
    consecutive_error_limit: int | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdLook:
    """What the samples of one threshold say, with the last value and the limit beside it.

    Attributes:
        name: Its name in the policy.
        verdict: Of this threshold alone.
        value: The newest value; None where the newest sample has none.
        bad: Bad samples of the step.
        bad_in_a_row: The newest of them, in a row.
        missing_in_a_row: The newest samples that could not be had.
        measured: Samples with a value.
        gave_up: More are missing in a row than the policy tolerates.
        failed_at_s: When the limit was broken, in seconds of the epoch; None where it holds.
        dry_run: It decides nothing.
        message: A sentence with the numbers.
    """

    name: str
    verdict: Verdict
    value: float | None
    bad: int
    bad_in_a_row: int
    missing_in_a_row: int
    measured: int
    gave_up: bool
    failed_at_s: float | None
    dry_run: bool
    message: str


@dataclass(slots=True)
class _Tally:
    """The samples of a step, counted one after the other."""

    bad: int = 0
    bad_in_a_row: int = 0
    missing_in_a_row: int = 0
    measured: int = 0
    failure: str = ""
    failed_at_s: float | None = None

    def count(self, sample: ThresholdSample, spec: ThresholdSpec) -> None:
        value = _value(sample)
        if value is None:
            self.missing_in_a_row += 1
            return
        self.missing_in_a_row = 0
        self.measured += 1
        if not _is_beyond(value, _limits(spec)):
            self.bad_in_a_row = 0
            return
        self.bad += 1
        self.bad_in_a_row += 1
        times = _broken(self.bad, self.bad_in_a_row, spec)
        if times and self.failed_at_s is None:
            self.failed_at_s = sample.at_s
            self.failure = f"{_shown(value)} is beyond the limit ({_bounds(spec)}), {times}"


def judge_threshold(spec: ThresholdSpec, samples: Sequence[ThresholdSample]) -> ThresholdLook:
    """Return what the samples of a step say, oldest first or not: they are sorted by time."""
    tally = _Tally()
    ordered = sorted(samples, key=lambda sample: sample.at_s)
    for sample in ordered:
        tally.count(sample, spec)
    last = ordered[-1] if ordered else None
    verdict, message = _said(spec, tally, last)
    limit = spec.consecutive_error_limit
    return ThresholdLook(
        name=spec.name,
        verdict=verdict,
        value=_value(last) if last else None,
        bad=tally.bad,
        bad_in_a_row=tally.bad_in_a_row,
        missing_in_a_row=tally.missing_in_a_row,
        measured=tally.measured,
        gave_up=limit is not None and tally.missing_in_a_row > limit,
        failed_at_s=tally.failed_at_s,
        dry_run=spec.dry_run,
        message=f"{spec.name}: {message}",
    )


def _said(spec: ThresholdSpec, tally: _Tally, last: ThresholdSample | None) -> tuple[Verdict, str]:
    if tally.failure:
        return Verdict.FAIL, tally.failure
    if last is None:
        return Verdict.NOT_MEASURED, "was not measured in this step yet"
    if last.series > 1:
        text = f"{last.series} series came back where one was expected; make the query return one"
        return Verdict.PARTIAL, text
    value = _value(last)
    if value is None:
        return Verdict.NO_DATA, last.problem or "the query gave no value"
    if last.problem:
        return Verdict.PARTIAL, last.problem
    if tally.bad_in_a_row:
        return Verdict.UNDECIDED, (
            f"{_shown(value)} is beyond the limit ({_bounds(spec)}), "
            f"{tally.bad_in_a_row} in a row, {tally.bad} in this step; {_tolerated(spec)}"
        )
    return Verdict.PASS, f"{_shown(value)} is within the limit ({_bounds(spec)})"


def _broken(bad: int, bad_in_a_row: int, spec: ThresholdSpec) -> str:
    """Return how often it was beyond the limit, once that is too often; empty before."""
    total, in_a_row = spec.failure_limit, spec.consecutive_failure_limit
    if total is None and in_a_row is None:
        total = 0
    if in_a_row is not None and bad_in_a_row > in_a_row:
        return f"{bad_in_a_row} times in a row"
    if total is not None and bad > total:
        return f"{bad} times in this step" if bad > 1 else "once"
    return ""


def _tolerated(spec: ThresholdSpec) -> str:
    limits = {"in a row": spec.consecutive_failure_limit, "in a step": spec.failure_limit}
    words = [f"{limit} {word}" for word, limit in limits.items() if limit is not None]
    return f"tolerated are {' and '.join(words)}"


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
