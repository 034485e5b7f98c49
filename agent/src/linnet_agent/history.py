"""What became of orders while nobody listened: told as Events on the NodeModel, once it is back.

- A NodeModel's status is its last state; the ends that it came to in between (Active, Reverted,
  Refused, ...) would be lost with a long outage. They wait on disk, with their own times.
- An end that the status has told is not told again: an agent with a connection writes no Event.
- The status goes first; then at most 100 Events, the newest, in order.
- An Event is known by its name: one that was written before a kill is not written twice.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from linnet_agent.activate import WorkerView
from linnet_agent.errors import HubRefusedError, HubUnavailableError
from linnet_agent.hub import Hub, Object
from linnet_agent.parts import Reporter
from linnet_agent.results import Result, ResultQueue
from linnet_agent.store import ModelKey
from linnet_agent.sync import Desired, Link
from linnet_api.names import API_VERSION
from linnet_api.reasons import NodeState

log = logging.getLogger(__name__)

CONTROLLER: Final = "linnet.dev/agent"
MAX_EVENTS: Final = 100
_GRACE_S: Final = 5.0
"""So long the status has to tell it, before it counts as not told."""
_NOTE_LIMIT: Final = 1000

_BAD: Final = frozenset({NodeState.FAILED, NodeState.REVERTED, NodeState.REFUSED})
_ENDS: Final = _BAD | {NodeState.ACTIVE, NodeState.STAGED, NodeState.ABSENT}


@dataclass(frozen=True, slots=True)
class Ending:
    """An end that an order came to."""

    sequence: int
    state: NodeState
    revision: str | None
    reason: str


class History(Reporter):
    """Stands before the status reporter, and keeps what that one cannot tell."""

    def __init__(
        self,
        inner: Reporter,
        queue: ResultQueue,
        *,
        hub: Hub,
        link: Link,
        desired: Desired,
        node: str,
        view: Callable[[ModelKey], WorkerView | None],
        clock: Callable[[], datetime],
        grace_s: float = _GRACE_S,
    ) -> None:
        self._inner = inner
        self._queue = queue
        self._hub = hub
        self._link = link
        self._desired = desired
        self._node = node
        self._view = view
        self._clock = clock
        self._grace_s = grace_s
        self._seen: dict[ModelKey, Ending] = {}
        self._fresh: list[tuple[ModelKey, Ending, datetime, Object]] = []
        self._wake = asyncio.Event()

    def mark(self, key: ModelKey) -> None:
        """Note an end that a model's order has just come to, and tell the status reporter."""
        self._let_go_told(key)
        view = self._view(key)
        if view is not None:
            self._note(key, view)
        self._inner.mark(key)

    async def report_now(self, key: ModelKey) -> None:
        """Let the status reporter try."""
        await self._inner.report_now(key)
        self._let_go_told(key)

    async def run(self) -> None:
        """Keep and tell, for ever."""
        await asyncio.to_thread(self._queue.load)
        while True:
            await self._wait()
            if self._link.up:
                await asyncio.sleep(self._grace_s)
            await self._keep()
            if self._link.up:
                await self._flush()

    async def _wait(self) -> None:
        """Wait for an end that is new, or, where something waits on disk, for the hub."""
        waiting = bool(self._queue.pending(now=self._clock()))
        if not (waiting and self._link.up):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._grace_s if waiting else None):
                    await self._wake.wait()
        self._wake.clear()

    def _note(self, key: ModelKey, view: WorkerView) -> None:
        journal = view.journal
        revision = journal.order.revision if journal.order is not None else None
        ending = Ending(journal.observed_sequence, journal.state, revision, str(journal.reason))
        before = self._seen.get(key)
        self._seen[key] = ending
        if before is None or before == ending or journal.state not in _ENDS:
            return
        if (before.sequence, before.state, before.revision) == (
            ending.sequence,
            ending.state,
            ending.revision,
        ):
            return  # a server that was away for a moment is no new end
        self._fresh.append((key, ending, self._clock(), _content(view, ending)))
        del self._fresh[:-MAX_EVENTS]
        self._wake.set()

    async def _keep(self) -> None:
        for key in self._seen:
            self._let_go_told(key)
        fresh, self._fresh = self._fresh, []
        for key, _, at, content in fresh:
            wanted = self._desired.get(key)
            place = {
                "namespace": key.namespace,
                "name": key.deployment if wanted is None else wanted.name,
                "uid": None if wanted is None else wanted.document["metadata"].get("uid"),
            }
            await asyncio.to_thread(self._queue.append, content | place, at=at)

    def _let_go_told(self, key: ModelKey) -> None:
        """Forget an end that the status tells; asked before it can tell the next one."""
        self._fresh = [
            each for each in self._fresh if each[0] != key or not self._is_told(key, each[1])
        ]

    def _is_told(self, key: ModelKey, ending: Ending) -> bool:
        wanted = self._desired.get(key)
        status: Mapping[str, Any] = {} if wanted is None else wanted.status
        said = (status.get("observedSequence"), status.get("state"), status.get("revision"))
        return said == (ending.sequence, str(ending.state), ending.revision)

    async def _flush(self) -> None:
        pending = self._queue.pending(now=self._clock())
        for result in pending[:-MAX_EVENTS]:
            self._queue.done(result)
        for result in pending[-MAX_EVENTS:]:
            body = event(result, node=self._node)
            place = body["metadata"]["namespace"]
            try:
                await self._hub.create(f"/apis/events.k8s.io/v1/namespaces/{place}/events", body)
            except HubUnavailableError as error:
                log.info("history.postponed", extra={"cause": str(error)})
                return
            except HubRefusedError as error:
                if error.status != 409:  # it is there already
                    log.warning("history.refused", extra={"cause": str(error)})
            self._queue.done(result)
        if pending:
            log.info(
                "history.told",
                extra={"count": len(pending[-MAX_EVENTS:]), "dropped": self._queue.dropped},
            )


def _content(view: WorkerView, ending: Ending) -> Object:
    journal = view.journal
    known = journal.known.get(ending.revision) if ending.revision is not None else None
    return {
        "sequence": ending.sequence,
        "state": str(ending.state),
        "reason": ending.reason,
        "message": journal.message[:_NOTE_LIMIT],
        "revision": ending.revision,
        "modelDigest": None if known is None else known.model_digest,
        "signer": None if journal.judged is None else journal.judged.signer,
        "serves": view.current,
    }


def event(result: Result, *, node: str) -> Object:
    """Return the Event that tells one end, with the time at which it came."""
    content = result.content
    said = [
        f"{content['state']} of revision {content['revision']}, order {content['sequence']}",
        f"serves {content['serves']}" if content["serves"] else "serves nothing",
        f"model {content['modelDigest']}" if content["modelDigest"] else "",
        f"signed by {content['signer']}" if content["signer"] else "",
        str(content["message"]),
    ]
    regarding = {
        "apiVersion": API_VERSION,
        "kind": "NodeModel",
        "namespace": content["namespace"],
        "name": content["name"],
    }
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "name": f"{content['name']}.{result.id}",
            "namespace": content["namespace"],
        },
        "eventTime": result.at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": CONTROLLER,
        "reportingInstance": node,
        "action": "Activate",
        "reason": content["reason"] or content["state"],
        "type": "Warning" if content["state"] in _BAD else "Normal",
        "regarding": regarding | ({"uid": content["uid"]} if content["uid"] else {}),
        "note": "; ".join(part for part in said if part)[:_NOTE_LIMIT],
    }
