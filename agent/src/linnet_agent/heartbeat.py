"""The heartbeat: a Lease of the node's own, which alone says that it is connected.

- Renewed at a fixed beat, with what the node has served since each activation, counted by itself
  (rule 16). It is read once before it is first written: the counts go on over a restart.
- It is the probe of the network, too: what it learns ends dead watches, and wakes all who wait for
  the hub.
"""

import asyncio
import json
import logging
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Final

from linnet_agent.errors import HubRefusedError, HubUnavailableError
from linnet_agent.hub import Hub, Object
from linnet_agent.served import Counts, ServedTally, read_reported
from linnet_agent.sync import Link
from linnet_agent.verify.strict_json import as_object
from linnet_api.names import AGENTS_NAMESPACE, SERVED_ANNOTATION

log = logging.getLogger(__name__)

BEATS_A_LEASE: Final = 4
"""The Lease outlives three beats that got lost."""

BEFORE_ANNOTATION: Final = f"{SERVED_ANNOTATION}-before"
"""The part of what was served from before the server's newest start."""

_LEASES: Final = f"/apis/coordination.k8s.io/v1/namespaces/{AGENTS_NAMESPACE}/leases"
_NOT_FOUND: Final = 404


def lease(
    node: str,
    *,
    beat_s: float,
    now: datetime,
    served: Mapping[str, list[int]],
    before: Mapping[str, list[int]] = MappingProxyType({}),
) -> Object:
    """Return the Lease as it shall be; ``before`` is for this node alone, when it starts again."""
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": node,
            "namespace": AGENTS_NAMESPACE,
            "annotations": {
                name: json.dumps(dict(counts), separators=(",", ":"), sort_keys=True)
                for name, counts in ((SERVED_ANNOTATION, served), (BEFORE_ANNOTATION, before))
            },
        },
        "spec": {
            "holderIdentity": node,
            "leaseDurationSeconds": max(1, math.ceil(BEATS_A_LEASE * beat_s)),
            "renewTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        },
    }


class Heartbeat:
    """Renews the Lease, and tells the link what it learns."""

    def __init__(
        self,
        hub: Hub,
        link: Link,
        *,
        node: str,
        beat_s: float,
        clock: Callable[[], datetime],
        jitter: Callable[[], float],
    ) -> None:
        self._hub = hub
        self._link = link
        self._node = node
        self._beat_s = beat_s
        self._clock = clock
        self._jitter = jitter
        self._tally = ServedTally()
        self._has_read = False

    async def beat(self, counts: Mapping[str, list[int]]) -> None:
        """Renew the Lease once, within one beat; where there is none, make it.

        Args:
            counts: What the server says now of what is active; nothing while it is away.
        """
        now = self._clock()
        self._tally.add(counts)
        try:
            async with asyncio.timeout(max(self._beat_s, 1.0)):
                if not self._has_read:
                    self._tally.go_on_from(*await self._read())
                    self._has_read = True
                body = lease(
                    self._node,
                    beat_s=self._beat_s,
                    now=now,
                    served=self._tally.of(counts),
                    before=self._tally.before(counts),
                )
                await self._write(body)
        except (HubUnavailableError, TimeoutError):
            self._link.mark(up=False)
        except HubRefusedError as error:
            log.error("heartbeat.refused", extra={"node": self._node, "cause": str(error)})  # noqa: TRY400 - expected
            self._link.mark(up=True)  # it answers
        else:
            self._link.mark(up=True)

    async def pause(self) -> None:
        """Wait for the next beat; a tenth of it is by lot, so that a fleet does not beat as one."""
        await asyncio.sleep(self._beat_s * (0.95 + self._jitter() / 10))

    async def _read(self) -> tuple[Counts, Counts]:
        """Return what this node has reported before; nothing where it may not be read."""
        try:
            found = await self._hub.get(f"{_LEASES}/{self._node}")
        except HubRefusedError:
            return {}, {}
        metadata = as_object(found.get("metadata")) or {}
        annotations = as_object(metadata.get("annotations")) or {}
        return (
            read_reported(annotations.get(SERVED_ANNOTATION)),
            read_reported(annotations.get(BEFORE_ANNOTATION)),
        )

    async def _write(self, body: Object) -> None:
        try:
            await self._hub.merge(f"{_LEASES}/{self._node}", body)
        except HubRefusedError as error:
            if error.status != _NOT_FOUND:
                raise
            await self._hub.create(_LEASES, body)
