"""Where each node is, seen from one rollout: eligible, deferred, silent, incompatible.

- Connected means that the heartbeat Lease is renewed in time, nothing else.
- Deferred: never took the candidate, and not seen for long; it leaves the count and catches up
  later.
- Silent: took the candidate, then lost beyond a grace: a suspected failure, and never deferred.
- Incompatible: it has no runtime for the model, or has found no variant of it that it can run.
- A report speaks of an order only once the node has taken that order up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from linnet_api.durations import parse_duration
from linnet_api.reasons import NodeReason, NodeState
from linnet_api.rollout_policy import Offline
from linnet_operator.planner.model import NodeView

MODEL_FAULTS = frozenset(
    {
        NodeReason.CONTENT_REFUSED,
        NodeReason.NOT_ONNX,
        NodeReason.SELF_TEST_FAILED,
        NodeReason.SELF_TEST_TIMEOUT,
        NodeReason.SELF_TEST_CRASHED,
        NodeReason.NOT_DETERMINISTIC,
        NodeReason.BUDGET_EXCEEDED,
        NodeReason.LOAD_FAILED,
        NodeReason.NO_MEMORY,
        NodeReason.HOOK_FAILED,
        NodeReason.SOAK_FAILED,
        NodeReason.LOOP_BREAKER,
        NodeReason.UNSUPPORTED_ARTIFACT,
    }
)
"""Failures that are the model's own; all others (a registry, a disk) are waited for."""

_WELL = frozenset(
    {
        None,
        NodeReason.NONE,
        NodeReason.WORKING,
        NodeReason.STAGED,
        NodeReason.ACTIVE,
        NodeReason.ABSENT,
    }
)
_NOT_TAKEN_UP = frozenset(
    {
        NodeReason.DISK_FULL,
        NodeReason.DISK_FAULT,
        NodeReason.STALE_ORDER,
        NodeReason.WRONG_NODE,
        NodeReason.INVALID_ORDER,
    }
)
"""Why a node says that it does not take an order up."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """The nodes of a deployment, sorted by name, each in one of these."""

    everyone: tuple[NodeView, ...]
    eligible: tuple[NodeView, ...]
    deferred: tuple[NodeView, ...]
    incompatible: tuple[NodeView, ...]
    silent: tuple[NodeView, ...]
    """Of the eligible."""

    @property
    def matched_count(self) -> int:
        """Nodes that the selector matches."""
        return len(self.eligible) + len(self.deferred) + len(self.incompatible)


def sort_out(
    nodes: Sequence[NodeView],
    *,
    now: datetime,
    runtime: str,
    offline: Offline,
    candidate: str | None,
    stable: str | None,
) -> Fleet:
    """Return every node in its place.

    Args:
        nodes: All of them, in any order.
        now: The time of the turn.
        runtime: The runtime that the model needs.
        offline: When a node is deferred or silent.
        candidate: The revision that a running rollout brings; None where none runs.
        stable: The revision that is served where none runs; None where there is none yet.
    """
    everyone = tuple(sorted(nodes, key=lambda node: node.name))
    matched = [node for node in everyone if node.matched]
    wanted = stable if candidate is None else candidate
    incompatible = tuple(
        node
        for node in matched
        if (node.runtimes is not None and runtime not in node.runtimes)
        or (wanted is not None and finds_no_variant(node, wanted))
    )
    unable = {node.name for node in incompatible}
    could = [node for node in matched if node.name not in unable]
    took = {node.name for node in could if candidate is not None and has_taken(node, candidate)}
    defer_after = parse_duration(offline.defer_after)
    suspect_after = parse_duration(offline.suspect_after)
    deferred = tuple(
        node
        for node in could
        if node.name not in took
        and (node.runtimes is None or is_lost(node, now=now, grace=defer_after))
    )
    gone = {node.name for node in deferred}
    eligible = tuple(node for node in could if node.name not in gone)
    silent = tuple(
        node
        for node in eligible
        if node.name in took and is_lost(node, now=now, grace=suspect_after)
    )
    return Fleet(everyone, eligible, deferred, incompatible, silent)


def is_lost(node: NodeView, *, now: datetime, grace: timedelta) -> bool:
    """Return True where the node is not connected and was not seen for ``grace``."""
    if node.connected(now):
        return False
    return node.heartbeat_at is None or now - node.heartbeat_at > grace


def is_ordered(node: NodeView, revision: str) -> bool:
    """Return True where the node's order names ``revision``."""
    return (
        node.order is not None
        and node.order.desired.state != "Absent"
        and node.order.desired.revision == revision
    )


def has_accepted(node: NodeView) -> bool:
    """Return True where the node has taken its newest order up."""
    return (
        node.order is not None
        and node.report is not None
        and node.report.observed_sequence >= node.order.sequence
    )


def serves(node: NodeView, revision: str) -> bool:
    """Return True where the node says that it serves ``revision``."""
    report = node.report
    return report is not None and report.current is not None and report.current.revision == revision


def has_taken(node: NodeView, revision: str) -> bool:
    """Return True where the node serves ``revision``, or has taken up the order to."""
    return serves(node, revision) or (is_ordered(node, revision) and has_accepted(node))


def is_active(node: NodeView, revision: str) -> bool:
    """Return True where the node is Active on ``revision`` and has soaked it."""
    report = node.report
    return (
        report is not None
        and report.state is NodeState.ACTIVE
        and report.current is not None
        and report.current.revision == revision
        and report.current.soaked
    )


def is_in(node: NodeView, revision: str, *, now: datetime) -> bool:
    """Return True where the node is ordered to, active on and connected with ``revision``."""
    return is_ordered(node, revision) and is_active(node, revision) and node.connected(now)


def has_refused(node: NodeView, revision: str) -> bool:
    """Return True where the node's trust refused its order for ``revision``."""
    return _ended_in(node, revision, NodeState.REFUSED)


def has_failed(node: NodeView, revision: str) -> bool:
    """Return True where ``revision`` failed on the node by its own fault."""
    return (
        _ended_in(node, revision, NodeState.FAILED, NodeState.REVERTED)
        and node.report is not None
        and node.report.reason in MODEL_FAULTS
    )


def finds_no_variant(node: NodeView, revision: str) -> bool:
    """Return True where no variant of ``revision`` is for the node; it serves on what it has."""
    return (
        _ended_in(node, revision, NodeState.FAILED)
        and node.report is not None
        and node.report.reason is NodeReason.WRONG_VARIANT
    )


def is_stuck(node: NodeView, revision: str) -> bool:
    """Return True where ``revision`` failed on the node, but not by its own fault."""
    return _ended_in(node, revision, NodeState.FAILED, NodeState.REVERTED) and not has_failed(
        node, revision
    )


def is_hindered(node: NodeView, revision: str) -> bool:
    """Return True where the node cannot go on to ``revision`` now, says why, and tries again."""
    report = node.report
    if report is None or not is_ordered(node, revision) or is_settled(node):
        return False
    return report.reason not in _WELL if has_accepted(node) else report.reason in _NOT_TAKEN_UP


def is_settled(node: NodeView) -> bool:
    """Return True where the node has done what it was told, or has given up."""
    return (
        has_accepted(node)
        and node.report is not None
        and node.report.state is not None
        and node.report.state.settled
    )


def is_out_of_service(node: NodeView, *, now: datetime) -> bool:
    """Return True where the node is connected and serves none, though it had one or gave up."""
    if node.order is None or node.order.desired.state != "Active" or not node.connected(now):
        return False
    if node.report is None or node.report.current is not None:
        return False
    baseline = node.order.baseline
    had = baseline is not None and baseline.revision in node.report.on_disk
    return had or is_settled(node)


def _ended_in(node: NodeView, revision: str, *states: NodeState) -> bool:
    report = node.report
    return (
        report is not None
        and report.state in states
        and is_ordered(node, revision)
        and has_accepted(node)
        and report.revision in (revision, None)
    )
