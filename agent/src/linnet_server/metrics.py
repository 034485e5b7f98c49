"""The server's metrics: names and labels are documented and stable.

- The label children of a revision are bound once: `labels()` costs more than the count itself.
- Every outcome and verdict of a revision exists, at 0, from its activation on: a judge that
  compares counters needs to see where they start.
- Counters live as long as the process; a revision that comes back counts on. Only what is true of
  an active revision alone (`linnet_model_info`, its queue, its memory) comes and goes.
- A queue's depth is asked for when somebody scrapes: it costs a request nothing.
"""

import dataclasses
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from linnet_api.buckets import BUCKETS_S
from linnet_server.exposition import Counter, Histogram, Registry
from linnet_server.records import ServingRecord

_LABELS: Final = ("namespace", "deployment", "revision", "variant")
_BATCH_ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_SWAP_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_STALL_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Outcome(StrEnum):
    """How a request ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    REJECTED = "rejected"


class Verdict(StrEnum):
    """What feedback says about an answer."""

    CORRECT = "correct"
    WRONG = "wrong"


class SpanFate(StrEnum):
    """What became of a span that was to be exported."""

    EXPORTED = "exported"
    DROPPED = "dropped"
    FAILED = "failed"


class SwapPhase(StrEnum):
    """What a swap is made of."""

    LOAD = "load"
    DRAIN = "drain"


@dataclasses.dataclass(frozen=True, slots=True)
class RevisionMetrics:
    """The bound series of one revision."""

    labels: tuple[str, str, str, str]
    digest: str
    requests: dict[Outcome, Counter]
    durations: dict[Outcome, Histogram]
    feedback: dict[Verdict, Counter]
    batch_rows: Histogram


class Metrics:
    """The process's registry and the revisions bound to it."""

    def __init__(self) -> None:
        self._registry = Registry()
        self._requests = self._registry.counter(
            "linnet_inference_requests_total",
            "Inference requests, by how they ended.",
            (*_LABELS, "outcome"),
        )
        self._durations = self._registry.histogram(
            "linnet_inference_duration_seconds",
            "From the last byte of a request to its rendered answer.",
            (*_LABELS, "outcome"),
            edges=BUCKETS_S,
        )
        self._feedback = self._registry.counter(
            "linnet_inference_feedback_total",
            "Answers that somebody has judged, under the revision that gave them.",
            (*_LABELS, "verdict"),
        )
        self._info = self._registry.gauge(
            "linnet_model_info",
            "1 for each active revision.",
            (*_LABELS, "digest"),
        )

        self._batch_rows = self._registry.histogram(
            "linnet_batch_rows",
            "Rows of each batch that ran, where batching is on.",
            _LABELS,
            edges=_BATCH_ROWS,
        )
        self._queue_depth = self._registry.gauge(
            "linnet_queue_depth",
            "Requests that wait for a run of an active revision.",
            _LABELS,
        )
        self._memory = self._registry.gauge(
            "linnet_model_memory_bytes",
            "How much the process grew when it loaded an active revision.",
            _LABELS,
        )
        self._swaps = self._registry.histogram(
            "linnet_swap_duration_seconds",
            "Loading a revision beside the active one; draining and freeing one that is out.",
            ("namespace", "deployment", "phase"),
            edges=_SWAP_S,
        )
        self._stalls = self._registry.histogram(
            "linnet_swap_stall_seconds",
            "The longest time in one phase of a swap in which the server answered nobody.",
            ("namespace", "deployment", "phase"),
            edges=_STALL_S,
        )

        self._spans = self._registry.counter(
            "linnet_trace_spans_total",
            "Spans of requests, by what became of them: exported, dropped because too many were "
            "waiting, failed because the collector did not take them.",
            ("outcome",),
        )

    def bind_spans(self) -> dict[SpanFate, Counter]:
        """Return the series of spans; from now on they exist."""
        return {fate: self._spans.labels(fate) for fate in SpanFate}

    def bind(self, record: ServingRecord) -> RevisionMetrics:
        """Return the series of ``record``'s revision; from now on they exist."""
        labels = (record.namespace, record.deployment, record.revision, record.variant)
        return RevisionMetrics(
            labels=labels,
            digest=record.model_digest,
            requests={outcome: self._requests.labels(*labels, outcome) for outcome in Outcome},
            durations={outcome: self._durations.labels(*labels, outcome) for outcome in Outcome},
            feedback={verdict: self._feedback.labels(*labels, verdict) for verdict in Verdict},
            batch_rows=self._batch_rows.labels(*labels),
        )

    def mark_active(
        self, revision: RevisionMetrics, *, memory_bytes: int, queue_depth: Callable[[], int]
    ) -> None:
        """Say that ``revision`` is active."""
        self._info.labels(*revision.labels, revision.digest).set(1)
        self._memory.labels(*revision.labels).set(memory_bytes)
        self._queue_depth.labels(*revision.labels).set_function(queue_depth)

    def mark_inactive(self, revision: RevisionMetrics) -> None:
        """Take back that ``revision`` is active; its counters stay."""
        self._info.remove(*revision.labels, revision.digest)
        self._memory.remove(*revision.labels)
        self._queue_depth.remove(*revision.labels)

    def observe_swap(
        self, record: ServingRecord, phase: SwapPhase, *, took_s: float, stall_s: float
    ) -> None:
        """Count one phase of a swap."""
        labels = (record.namespace, record.deployment, phase)
        self._swaps.labels(*labels).observe(took_s)
        self._stalls.labels(*labels).observe(stall_s)

    def render(self) -> bytes:
        """Return all series in Prometheus' text format."""
        return self._registry.render()
