"""What all workers of one agent share."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from linnet_agent.fetch.sources import Sources
from linnet_agent.fetch.variants import Capabilities
from linnet_agent.judge import Judge
from linnet_agent.metrics import Metrics
from linnet_agent.monitor import ServerMonitor
from linnet_agent.programs import Programs
from linnet_agent.store import ModelKey, Store
from linnet_agent.sync import Desired, Jitter

Clock = Callable[[], datetime]


class Reporter(Protocol):
    """Who tells the hub."""

    def mark(self, key: ModelKey) -> None:
        """Note that there is something new about a model."""

    async def report_now(self, key: ModelKey) -> None:
        """Try once to tell it, where there is something to tell; a failure is no matter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What all workers share."""

    store: Store
    desired: Desired
    judge: Judge
    monitor: ServerMonitor
    sources: Sources
    capabilities: Callable[[], Capabilities]
    """What this node can run, as the server said last."""
    metrics: Metrics
    programs: Programs
    clock: Clock
    jitter: Jitter
    refresh_trust: Callable[[], Awaitable[None]]
    """Ask the hub for its policies as they are now; does nothing where it does not answer."""
    node_uid: Callable[[], str | None]
    self_test_timeout_s: float
    retry_max_s: float
    fetch_spread_s: float
    """Over so many seconds the starts of a fleet's fetches are spread."""
    fetch_slots: asyncio.Semaphore
    disk: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held where models move into the store or out of it."""
    staging: defaultdict[str, asyncio.Lock] = field(
        default_factory=lambda: defaultdict(asyncio.Lock)
    )
    """By artifact; held by the one who fills its staging directory: deployments may share it."""
    wanted_staging: Callable[[], set[str]]
    """Artifacts whose half-fetched files are still of use."""
    pinned: Callable[[], Mapping[ModelKey, frozenset[str]]]
    """The revisions of each deployment that may not be evicted; a deployment that is not here is
    pinned whole."""
