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

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from linnet_api.buckets import BUCKETS_S
from linnet_server.records import ServingRecord

CONTENT_TYPE: Final = prometheus_client.CONTENT_TYPE_PLAIN_0_0_4

_LABELS: Final = ("namespace", "deployment", "revision", "variant")
_BATCH_ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_SWAP_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_STALL_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)

# `_created` samples double the series, and nothing of ours reads them.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # has no annotations


class Outcome(StrEnum):
    """How a request ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    REJECTED = "rejected"


class Verdict(StrEnum):
    """What feedback says about an answer."""

    CORRECT = "correct"
    WRONG = "wrong"


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
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "linnet_inference_requests",
            "Inference requests, by how they ended.",
            (*_LABELS, "outcome"),
            registry=self._registry,
        )
        self._durations = Histogram(
            "linnet_inference_duration_seconds",
            "From the last byte of a request to its rendered answer.",
            (*_LABELS, "outcome"),
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._feedback = Counter(
            "linnet_inference_feedback",
            "Answers that somebody has judged, under the revision that gave them.",
            (*_LABELS, "verdict"),
            registry=self._registry,
        )
        self._info = Gauge(
            "linnet_model_info",
            "1 for each active revision.",
            (*_LABELS, "digest"),
            registry=self._registry,
        )

        self._batch_rows = Histogram(
            "linnet_batch_rows",
            "Rows of each batch that ran, where batching is on.",
            _LABELS,
            buckets=_BATCH_ROWS,
            registry=self._registry,
        )
        self._queue_depth = Gauge(
            "linnet_queue_depth",
            "Requests that wait for a run of an active revision.",
            _LABELS,
            registry=self._registry,
        )
        self._memory = Gauge(
            "linnet_model_memory_bytes",
            "How much the process grew when it loaded an active revision.",
            _LABELS,
            registry=self._registry,
        )
        self._swaps = Histogram(
            "linnet_swap_duration_seconds",
            "Loading a revision beside the active one; draining and freeing one that is out.",
            ("namespace", "deployment", "phase"),
            buckets=_SWAP_S,
            registry=self._registry,
        )
        self._stalls = Histogram(
            "linnet_swap_stall_seconds",
            "The longest time in one phase of a swap in which the server answered nobody.",
            ("namespace", "deployment", "phase"),
            buckets=_STALL_S,
            registry=self._registry,
        )

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
        return prometheus_client.generate_latest(self._registry)
