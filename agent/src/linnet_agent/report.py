"""What the hub is told: NodeModel statuses and the node's ModelHost.

- A status is written when it differs from what the hub holds, and only then: a settled node writes
  nothing (rule 11).
- What comes in quick succession is told once; a fetch tells its progress every ten seconds.
- What could not be told is told when the hub is back: the newest state, not its history.
- A merge patch with nulls: what is no longer so is removed.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from time import monotonic
from typing import Any, Final

import pydantic

from linnet_agent.activate import WorkerView
from linnet_agent.errors import HubError, HubRefusedError, HubUnavailableError
from linnet_agent.hub import Hub, Object
from linnet_agent.journal import Journal, Judged
from linnet_agent.store import ModelKey
from linnet_agent.sync import Desired, Link, Wanted
from linnet_api import conditions
from linnet_api.conditions import Condition
from linnet_api.names import API_VERSION
from linnet_api.node_model import NodeModelStatus, OnNode, Verification
from linnet_api.reasons import NodeReason, NodeState

log = logging.getLogger(__name__)

_COALESCE_S: Final = 0.05
_PROGRESS_S: Final = 10.0
_PROGRESS_FIELDS: Final = frozenset(
    {"progressBytes", "totalBytes", "progressSeconds", "progressBytesPerSecond"}
)
_MESSAGE_LIMIT: Final = 2000

_CONDITIONS: Final = pydantic.TypeAdapter(tuple[Condition, ...])

_WELL: Final = frozenset({NodeReason.ACTIVE, NodeReason.STAGED, NodeReason.ABSENT, NodeReason.NONE})
_READY: Final = frozenset({NodeState.ACTIVE, NodeState.STAGED, NodeState.ABSENT})
_STALLED: Final = frozenset({NodeState.FAILED, NodeState.REVERTED, NodeState.REFUSED})


def node_model_status(
    view: WorkerView, *, generation: int, before: Iterable[Condition], now: datetime
) -> NodeModelStatus:
    """Return the status of a NodeModel: what became of its order, and what is served."""
    journal = view.journal
    reason, message = journal.reason, journal.message
    if view.problem is not None:
        reason, message = view.problem.reason, view.problem.message
    elif view.alarm is not None and reason in _WELL:
        reason, message = view.alarm.reason, view.alarm.message
    state = journal.state
    if journal.order is None and view.problem is not None:
        state = NodeState.REFUSED
    progress = view.progress if state is NodeState.FETCHING else None
    return NodeModelStatus(
        observed_generation=generation,
        observed_sequence=journal.observed_sequence,
        state=state,
        revision=journal.order.revision if journal.order is not None else None,
        reason=reason,
        message=message[:_MESSAGE_LIMIT] or None,
        current=_on_node(journal, view.current),
        previous=_on_node(journal, view.previous),
        on_disk=tuple(sorted(view.complete))[:32],
        verification=None if journal.judged is None else _verification(journal.judged),
        progress_bytes=progress.done_bytes if progress else None,
        total_bytes=progress.total_bytes if progress else None,
        progress_seconds=progress.seconds if progress else None,
        progress_bytes_per_second=progress.bytes_per_second if progress else None,
        conditions=conditions.stamp(
            _conditions(state, reason, message, view, generation), before=before, now=now
        ),
    )


def _conditions(
    state: NodeState, reason: NodeReason, message: str, view: WorkerView, generation: int
) -> tuple[Condition, ...]:
    word = str(reason) or str(NodeReason.WORKING)
    if view.problem is not None or state in _STALLED:
        return conditions.stalled(reason=word, message=message, generation=generation)
    if state is NodeState.ACTIVE and reason is NodeReason.REVOKED:
        return conditions.stalled(reason=word, message=message, generation=generation)
    if state in _READY and reason in _WELL:
        return conditions.settled(reason=word, message=message, generation=generation)
    return conditions.reconciling(
        reason=word, message=message or f"the node is {state}", generation=generation
    )


def _on_node(journal: Journal, revision: str | None) -> OnNode | None:
    known = journal.known.get(revision) if revision is not None else None
    if revision is None or known is None:
        return None
    return OnNode(
        revision=revision,
        artifact=known.artifact,
        model_digest=known.model_digest,
        serving_name=known.serving_name or None,
        activated_at=journal.activated_at if journal.activated == revision else None,
        soaked=journal.committed == revision,
        self_test=None if known.test is None else known.test.value,
    )


def _verification(judged: Judged) -> Verification:
    return Verification(
        decision="Allowed" if judged.allowed else "Refused",
        reason=str(judged.reason) or "Allowed",
        message=judged.message[:_MESSAGE_LIMIT],
        signer=judged.signer[:512] if judged.signer else None,
        model=judged.model[:512] if judged.model else None,
        counter=judged.counter,
        policy_hash=judged.policy_hash or None,
        at=judged.at,
    )


def _read_conditions(status: Mapping[str, Any]) -> tuple[Condition, ...]:
    try:
        return _CONDITIONS.validate_python(status.get("conditions") or ())
    except ValueError:
        return ()


def merge_patch(wanted: Object, before: Mapping[str, Any]) -> Object:
    """Return the merge patch from ``before`` to ``wanted``; empty where they are alike."""
    patch: Object = {name: None for name in before if name not in wanted}
    for name, value in wanted.items():
        old = before.get(name)
        if value == old:
            continue
        if isinstance(value, dict) and isinstance(old, dict):
            patch[name] = merge_patch(value, old)
        else:
            patch[name] = value
    return patch


class StatusReporter:
    """Tells the hub how its NodeModels stand."""

    def __init__(
        self,
        hub: Hub,
        desired: Desired,
        link: Link,
        *,
        view: Callable[[ModelKey], WorkerView | None],
        clock: Callable[[], datetime],
        retry_s: float,
    ) -> None:
        self._hub = hub
        self._desired = desired
        self._link = link
        self._view = view
        self._clock = clock
        self._retry_s = retry_s
        self._dirty: set[ModelKey] = set()
        self._wake = asyncio.Event()
        self._told: dict[ModelKey, tuple[Object, Object]] = {}
        """What was wanted, and what the hub then held: where they differ, once is enough."""
        self._progress_at: dict[ModelKey, float] = {}

    def mark(self, key: ModelKey) -> None:
        """Note that there is something new about a model."""
        self._dirty.add(key)
        self._wake.set()

    async def run(self) -> None:
        """Tell what is new, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(_COALESCE_S)
            dirty, self._dirty = self._dirty, set()
            try:
                while dirty:
                    key = dirty.pop()
                    try:
                        await self._report(key)
                    except HubUnavailableError:
                        dirty.add(key)
                        raise
            except HubUnavailableError as error:
                log.info("report.postponed", extra={"cause": str(error)})
                self._dirty |= dirty
                await self._link.wait_restored(self._retry_s)
                self._wake.set()

    async def report_now(self, key: ModelKey) -> None:
        """Try once to tell how one model stands, before it takes up another order."""
        if not self._link.up:
            return
        try:
            await self._report(key)
        except HubError:
            self.mark(key)

    async def _report(self, key: ModelKey) -> None:
        wanted, view = self._desired.get(key), self._view(key)
        if wanted is None or view is None:
            return
        if view.problem is None and view.journal.order is None:
            return  # nothing has been taken up yet
        status = self._status(wanted, view)
        told = (status, dict(wanted.status))
        patch = merge_patch(status, wanted.status)
        if not patch or self._told.get(key) == told or self._is_mere_progress(key, patch):
            return
        path = f"/apis/{API_VERSION}/namespaces/{key.namespace}/nodemodels/{wanted.name}/status"
        try:
            answer = await self._hub.merge(path, {"status": patch})
        except HubRefusedError as error:
            if error.status != 404:  # gone meanwhile: the watch will say so
                log.error("report.refused", extra={"object": wanted.name, "cause": str(error)})  # noqa: TRY400 - expected
            return
        self._desired.note_status(wanted, answer.get("status") or {})
        self._told[key] = (status, answer.get("status") or {})

    def _status(self, wanted: Wanted, view: WorkerView) -> Object:
        before = _read_conditions(wanted.status)
        # A generation whose order is not taken up yet is not observed; one that is refused is.
        taken = view.problem is not None or wanted.order == view.journal.order
        seen = int(wanted.status.get("observedGeneration", -1))
        generation = wanted.generation if taken else min(seen, wanted.generation)
        status = node_model_status(view, generation=generation, before=before, now=self._clock())
        return status.to_dict()

    def _is_mere_progress(self, key: ModelKey, patch: Object) -> bool:
        """Tell whether only the progress of a fetch is new, and was told a moment ago."""
        if not patch.keys() <= _PROGRESS_FIELDS or None in patch.values():
            return False
        last, now = self._progress_at.get(key), monotonic()
        if last is not None and now - last < _PROGRESS_S:
            return True
        self._progress_at[key] = now
        return False
