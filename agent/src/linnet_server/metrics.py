"""The server's metrics: names and labels are documented and stable.

- The label children of a revision are bound once: `labels()` costs more than the count itself.
- Every outcome and verdict of a revision exists, at 0, from its activation on: a judge that
  compares counters needs to see where they start.
- Counters live as long as the process; a revision that comes back counts on. Only
  `linnet_model_info` comes and goes: it is 1 for what is active.
"""

import dataclasses
from enum import StrEnum
from typing import Final

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from linnet_api.buckets import BUCKETS_S
from linnet_server.records import ServingRecord

CONTENT_TYPE: Final = prometheus_client.CONTENT_TYPE_PLAIN_0_0_4

_LABELS: Final = ("namespace", "deployment", "revision", "variant")

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


@dataclasses.dataclass(frozen=True, slots=True)
class RevisionMetrics:
    """The bound series of one revision."""

    labels: tuple[str, str, str, str]
    digest: str
    requests: dict[Outcome, Counter]
    durations: dict[Outcome, Histogram]
    feedback: dict[Verdict, Counter]


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

    def bind(self, record: ServingRecord) -> RevisionMetrics:
        """Return the series of ``record``'s revision; from now on they exist."""
        labels = (record.namespace, record.deployment, record.revision, record.variant)
        return RevisionMetrics(
            labels=labels,
            digest=record.model_digest,
            requests={outcome: self._requests.labels(*labels, outcome) for outcome in Outcome},
            durations={outcome: self._durations.labels(*labels, outcome) for outcome in Outcome},
            feedback={verdict: self._feedback.labels(*labels, verdict) for verdict in Verdict},
        )

    def mark_active(self, revision: RevisionMetrics) -> None:
        """Say that ``revision`` is active."""
        self._info.labels(*revision.labels, revision.digest).set(1)

    def mark_inactive(self, revision: RevisionMetrics) -> None:
        """Take back that ``revision`` is active; its counters stay."""
        self._info.remove(*revision.labels, revision.digest)

    def render(self) -> bytes:
        """Return all series in Prometheus' text format."""
        return prometheus_client.generate_latest(self._registry)
