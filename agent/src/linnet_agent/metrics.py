"""The agent's own metrics, in Prometheus form; the names are stable (DESIGN, section 4)."""

import contextlib
import errno
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

disable_created_metrics()  # type: ignore[no-untyped-call]  # a third of all series, and nobody reads them

_PHASE_BUCKETS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


@dataclass(frozen=True, slots=True)
class StateRow:
    """One series of ``linnet_agent_state``."""

    namespace: str
    deployment: str
    revision: str
    state: str
    alarm: str = ""
    """Why a person should look at it; empty: all is well."""


class Metrics:
    """Counters of one agent."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._phase_s = Histogram(
            "linnet_agent_phase_seconds",
            "Seconds that a phase of an activation took.",
            ["phase"],
            buckets=_PHASE_BUCKETS,
            registry=self.registry,
        )
        self.fetched_bytes = Counter(
            "linnet_agent_fetch_bytes",
            "Bytes of model files fetched.",
            registry=self.registry,
        )
        self.fetch_seconds = Counter(
            "linnet_agent_fetch_seconds",
            "Seconds spent fetching model files, waiting for other fetches included.",
            registry=self.registry,
        )
        self.corruptions = Counter(
            "linnet_agent_corruptions",
            "Models on the disk that were found to be other than what was verified.",
            registry=self.registry,
        )
        self._disk_faults = Counter(
            "linnet_agent_disk_faults",
            "Operations on the disk that failed, by the kind of fault.",
            ["error"],
            registry=self.registry,
        )
        self._verifications = Counter(
            "linnet_agent_verifications",
            "Decisions of the node's trust.",
            ["decision", "reason"],
            registry=self.registry,
        )
        self._reverts = Counter(
            "linnet_agent_reverts",
            "Activations that the node itself took back.",
            ["reason"],
            registry=self.registry,
        )
        self._trust_alarms = Gauge(
            "linnet_agent_trust_alarm",
            "1 where a person should look at what this node trusts; it serves on.",
            ["alarm"],
            registry=self.registry,
        )
        self.restores = Counter(
            "linnet_agent_restores",
            "Models that the server no longer served, and that were loaded again.",
            registry=self.registry,
        )
        self.faults = Counter(
            "linnet_agent_faults",
            "Unexpected errors that a loop of the agent has survived.",
            ["loop"],
            registry=self.registry,
        )

    def show_states(self, rows: Callable[[], Iterable[StateRow]]) -> None:
        """Let ``linnet_agent_state`` show what ``rows`` says when it is scraped."""
        self.registry.register(_States(rows))

    def show_trust(self, alarms: Mapping[str, bool]) -> None:
        """Let ``linnet_agent_trust_alarm`` show which alarms are raised."""
        for name, raised in alarms.items():
            self._trust_alarms.labels(name).set(raised)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the body as one phase."""
        started_at = monotonic()
        try:
            yield
        finally:
            self._phase_s.labels(name).observe(monotonic() - started_at)

    def count_verification(self, *, allowed: bool, reason: str) -> None:
        """Count a decision."""
        self._verifications.labels("Allowed" if allowed else "Refused", reason or "None").inc()

    def count_disk_fault(self, error: OSError) -> None:
        """Count a fault of the disk, by its name, such as ENOSPC."""
        self._disk_faults.labels(errno.errorcode.get(error.errno or 0, "unknown")).inc()

    def count_revert(self, reason: str) -> None:
        """Count an activation that was taken back."""
        self._reverts.labels(reason).inc()


class _States(Collector):
    def __init__(self, rows: Callable[[], Iterable[StateRow]]) -> None:
        self._rows = rows

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(
            "linnet_agent_state",
            "1 for the state that a model is in on this node.",
            labels=["namespace", "deployment", "revision", "state"],
        )
        alarms = GaugeMetricFamily(
            "linnet_agent_alarm",
            "1 where a model serves, and a person should look at it all the same.",
            labels=["namespace", "deployment", "reason"],
        )
        for row in self._rows():
            family.add_metric([row.namespace, row.deployment, row.revision, row.state], 1)
            if row.alarm:
                alarms.add_metric([row.namespace, row.deployment, row.alarm], 1)
        yield family
        yield alarms
