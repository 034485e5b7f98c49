"""Heartbeats: which nodes are connected, from the agents' Leases.

Rules:
- Leases are not watched: 10,000 nodes renew a thousand times a second. They are listed, and only
  while somebody needs to know.
- They are listed at least three times in the shortest lease, or a living node would look dead.
- A node's clock is not believed: a heartbeat is as old as our first sight of its renewTime.
- What an agent writes into its Lease is material: what cannot be read is left out.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import Any, Final

from linnet_api.names import AGENTS_NAMESPACE, SERVED_ANNOTATION
from linnet_operator.kube import LEASES, Body, Kube
from linnet_operator.planner.model import Served

log = logging.getLogger(__name__)

_SHORTEST_LEASE: Final = timedelta(seconds=1)
_LONGEST_LEASE: Final = timedelta(hours=1)
_NO_SERVED: Final[Mapping[str, Mapping[str, Served]]] = {}


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The newest heartbeat of one node.

    Attributes:
        renewed: The Lease's renewTime, as the agent wrote it; only compared for equality.
        seen_at: When this renewTime was first seen, by our clock.
        lease: How long it counts.
        served: "<namespace>/<deployment>" -> revision -> counts.
    """

    renewed: str
    seen_at: datetime
    lease: timedelta
    served: Mapping[str, Mapping[str, Served]]


class Heartbeats:
    """The newest heartbeat of every node, listed when asked."""

    def __init__(self, kube: Kube, *, clock: Callable[[], datetime], poll_s: float) -> None:
        self._kube = kube
        self._clock = clock
        self._longest_poll_s = poll_s
        self._by_node: dict[str, Heartbeat] = {}
        self._listed_at: float | None = None
        self._listing = asyncio.Lock()

    @property
    def poll_s(self) -> float:
        """How often they are to be listed while somebody needs to know."""
        shortest = min((beat.lease for beat in self._by_node.values()), default=_LONGEST_LEASE)
        return min(self._longest_poll_s, shortest.total_seconds() / 3)

    def of(self, node: str) -> Heartbeat | None:
        """Return the newest heartbeat of ``node``, or None where none was ever seen."""
        return self._by_node.get(node)

    async def refresh(self) -> None:
        """List the Leases, unless that was done less than half a poll ago."""
        async with self._listing:
            now = monotonic()
            if self._listed_at is not None and now - self._listed_at < self.poll_s / 2:
                return
            found: dict[str, Heartbeat] = {}
            async for page in self._kube.list_pages(
                LEASES, namespace=AGENTS_NAMESPACE, stale_is_fine=True
            ):
                for lease in page:
                    name = lease["metadata"]["name"]
                    found[name] = self._read(lease, self._by_node.get(name))
            self._by_node = found
            self._listed_at = now

    def _read(self, lease: Body, before: Heartbeat | None) -> Heartbeat:
        spec = lease.get("spec") or {}
        renewed = str(spec.get("renewTime") or "")
        if before is not None and before.renewed == renewed:
            return before
        annotations = lease["metadata"].get("annotations") or {}
        seconds = timedelta(seconds=int(spec.get("leaseDurationSeconds") or 10))
        return Heartbeat(
            renewed=renewed,
            seen_at=self._clock(),
            lease=min(_LONGEST_LEASE, max(_SHORTEST_LEASE, seconds)),
            served=read_served(annotations.get(SERVED_ANNOTATION, "")),
        )


def read_served(text: str) -> Mapping[str, Mapping[str, Served]]:
    """Return the counts that an agent reports, by "<namespace>/<deployment>" and revision."""
    if not text:
        return _NO_SERVED
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return _NO_SERVED
    if not isinstance(said, dict):
        return _NO_SERVED
    found: dict[str, dict[str, Served]] = {}
    for key, counts in said.items():
        deployment, slash, revision = str(key).rpartition("/")
        if slash and _are_counts(counts):
            found.setdefault(deployment, {})[revision] = Served(
                requests=counts[0], failures=counts[1]
            )
    return found


def _are_counts(value: Any) -> bool:  # noqa: ANN401 - parsed JSON of an agent can be anything
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**63 for n in value)
    )
