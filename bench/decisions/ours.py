"""The project's own judge on simulated counts, as the operator runs it: a look each minute."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.decisions.generator import Counts, Fleet
from linnet_operator.judge.assess import MetricInputs, StepAssessment, StepInputs, assess
from linnet_operator.judge.compare import decision_line
from linnet_operator.judge.learned import CountPair, Learned, NodeHistory, learn
from linnet_operator.judge.model import Detect, NodeCount, build_model
from linnet_operator.judge.verdicts import Verdict

DETECT = Detect(factor=3.0, floor=0.01)
ALPHA = 0.01
_MINUTE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Said:
    """What the judge said of one step: the minute of a Fail, and of asking a person first."""

    failed_at: int | None
    asked_at: int | None = None


def learn_from(counts: Counts, fleet: Fleet, *, withheld: bool = False) -> Learned:
    """Return what the history shows; ``withheld`` hides whose it was."""
    history = [
        NodeHistory(
            node=_name(index),
            windows=_pairs(counts.history_failures[index], counts.history_requests[index]),
            recent=_pairs(counts.recent_failures[index], counts.recent_requests[index]),
        )
        for index in range(fleet.nodes)
    ]
    learned = learn(history, interval_s=_MINUTE_S, window_s=_MINUTE_S * fleet.window_minutes)
    return replace(learned, nodes=()) if withheld else learned


def judge(learned: Learned, counts: Counts, *, steps: int, looks: Sequence[int]) -> Said:
    """Return what the judge says of one step, looking at those minutes until it fails."""
    line = decision_line(alpha=ALPHA, steps=steps)
    asked_at = None
    for minute in looks:
        candidates, stable = _rows(counts, minute)
        model = build_model(learned, candidates, stable, detect=DETECT)
        # Below the line there is nothing to say: the rest of the assessment is left out.
        if model is None or model.log_evidence() < line:
            continue
        said = _assess(learned, candidates, stable, steps=steps)
        if said.needs_person and said.verdict is Verdict.FAIL:
            asked_at = asked_at or minute
        elif said.verdict is Verdict.FAIL and not said.needs_person:
            return Said(failed_at=minute, asked_at=asked_at)
    return Said(failed_at=None, asked_at=asked_at)


def cleared_at(
    learned: Learned, counts: Counts, factors: Sequence[float], looks: Sequence[int]
) -> list[int | None]:
    """Return the first minute at which a rise by each factor is excluded, at the line of 1 %."""
    line = decision_line(alpha=ALPHA, steps=1)
    first: list[int | None] = [None] * len(factors)
    for minute in looks:
        model = build_model(learned, *_rows(counts, minute), detect=DETECT)
        if model is None:
            continue
        log_e = model.log_evidence()
        for index, factor in enumerate(factors):
            rise = Detect(factor=factor, floor=0.0)
            if first[index] is None and model.log_excluding(rise, log_e=log_e) >= line:
                first[index] = minute
        if None not in first:
            break
    return first


def _assess(
    learned: Learned, candidates: list[NodeCount], stable: list[NodeCount], *, steps: int
) -> StepAssessment:
    metric = MetricInputs(
        name="errors",
        signal="Errors",
        learned=learned,
        candidates=tuple(candidates),
        stable=tuple(stable),
    )
    return assess(
        StepInputs(metrics=(metric,), alpha=ALPHA, steps=steps, detect=DETECT, required_windows=0)
    )


def _rows(counts: Counts, minute: int) -> tuple[list[NodeCount], list[NodeCount]]:
    failures = counts.failures[:, :minute].sum(axis=1).tolist()
    requests = counts.requests[:, :minute].sum(axis=1).tolist()
    kinds = counts.kinds_of_node
    rows = [
        NodeCount(
            node=_name(i),
            failures=float(x),
            requests=float(n),
            seconds=_MINUTE_S * minute,
            domain=f"kind-{i % kinds}" if kinds else "",
        )
        for i, (x, n) in enumerate(zip(failures, requests, strict=True))
    ]
    return rows[: counts.candidates], rows[counts.candidates :]


def _pairs(failures: np.ndarray, requests: np.ndarray) -> tuple[CountPair, ...]:
    return tuple(
        (float(x), float(n)) for x, n in zip(failures.tolist(), requests.tolist(), strict=True)
    )


def _name(index: int) -> str:
    return f"node-{index:04d}"
