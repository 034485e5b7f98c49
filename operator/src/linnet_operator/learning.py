"""What runs in the judge's worker process, and the pool that runs it.

Rules:
- The functions are pure, and take and return plain values: a worker can be lost at any time.
- A worker that dies is replaced; the work is done again once, and then it is an error.
- A worker does not outlive the operator, however that ends.
"""

import asyncio
import ctypes
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Final, ParamSpec, TypeVar

from linnet_operator.evidence import (
    EvidenceRecord,
    EvidenceRecordError,
    make_record,
    recompute,
)
from linnet_operator.judge.assess import MetricInputs, StepAssessment, StepInputs, assess
from linnet_operator.judge.counters import Counts, node_histories
from linnet_operator.judge.learned import Learned, Readiness, learn, readiness

P = ParamSpec("P")
R = TypeVar("R")

_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The raw past of one comparison: counters at the edges of windows, and finer ones of late."""

    name: str
    signal: str
    windows: Counts
    recent: Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What was learned for all comparisons of a rollout, and the record that freezes it."""

    ready: Mapping[str, Readiness]
    record: EvidenceRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The verdict on a step, and its record."""

    assessment: StepAssessment
    record: EvidenceRecord


def learn_all(
    histories: Sequence[History],
    *,
    baseline: str,
    nodes: Sequence[str],
    interval_s: float,
    window_s: float,
    template: StepInputs,
    about: Mapping[str, Any],
) -> Lesson:
    """Return what the nodes' own past under ``baseline`` shows, for every comparison.

    Args:
        histories: The raw counters.
        baseline: The stable revision.
        nodes: The nodes that serve it.
        interval_s: Seconds between two of the finer counters.
        window_s: Seconds of one window.
        template: The inputs of the judge without metrics: the record is one of a step with no
            candidates yet.
        about: Facts for people.
    """
    metrics = []
    ready = {}
    for history in histories:
        rows = node_histories(history.windows, history.recent, revision=baseline, nodes=nodes)
        learned = learn(rows, interval_s=interval_s, window_s=window_s)
        ready[history.name] = readiness(learned, nodes, required=template.required_windows)
        metrics.append(
            MetricInputs(
                name=history.name,
                signal=history.signal,
                learned=learned,
                candidates=(),
                stable=(),
            )
        )
    inputs = StepInputs(
        metrics=tuple(metrics),
        alpha=template.alpha,
        steps=template.steps,
        detect=template.detect,
        required_windows=template.required_windows,
        proceed_without_history=template.proceed_without_history,
    )
    return Lesson(ready=ready, record=make_record(inputs, assess(inputs), about=about))


def read_learned(record: bytes, sha256: str) -> dict[str, Learned]:
    """Return the frozen parameters of a record, by the name of the comparison.

    Raises:
        EvidenceRecordError: It is damaged, or not the one with the sum ``sha256``.
    """
    found = recompute(record)
    if found.sha256 != sha256:
        raise EvidenceRecordError(
            f"the frozen history has the sum {found.sha256}, the rollout names {sha256}: "
            "somebody put another one in its place"
        )
    metrics = found.inputs.metrics
    return {metric.name: metric.learned for metric in metrics if metric.learned is not None}


def judge_step(inputs: StepInputs, about: Mapping[str, Any]) -> Judged:
    """Return the verdict on a step, with its record."""
    assessment = assess(inputs)
    return Judged(assessment=assessment, record=make_record(inputs, assessment, about=about))


class Workers:
    """The judge's worker processes."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool = self._start()

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return what ``function`` returns in a worker.

        Raises:
            BrokenProcessPool: Two workers in a row died over it.
        """
        pool = self._pool
        try:
            return await _submit(pool, function, *args, **kwargs)
        except BrokenProcessPool:
            if self._pool is pool:
                pool.shutdown(wait=False)
                self._pool = self._start()
        return await _submit(self._pool, function, *args, **kwargs)

    def close(self) -> None:
        """End the workers, without waiting for what they are at."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            self._count, mp_context=get_context("spawn"), initializer=_end_with_parent
        )


async def _submit(
    pool: ProcessPoolExecutor, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
) -> R:
    return await asyncio.wrap_future(pool.submit(function, *args, **kwargs))


def _end_with_parent() -> None:
    """Let the kernel end this worker with the operator; ctrl-C is for the operator to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
