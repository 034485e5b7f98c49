"""What each node shall do, derived from what is recorded and nothing else.

- Sent on (forward): only connected nodes, in the order of the lot, within quota and budget.
- Taken back: at once, all of them, whether connected or not; offline ones find the order at first
  contact.
- While a rollout runs an order for the candidate names the baseline; when it has ended, the
  baseline is cleared (rule 3).
- A sequence never falls, neither below the last order nor below what the node has seen (rule 7).
- A node that is deselected, or that cannot run the model, keeps what it has; one that has found
  that out keeps its order as well: another one would let it count, and be asked, again.
- Nobody is told to unload anything but a candidate that was bad, where there was nothing before.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from linnet_api.model_rollout import RevisionRef
from linnet_api.names import node_model_name
from linnet_api.node_model import Baseline, Desired, NodeModelSpec, NodeRef, RolloutRef
from linnet_operator.planner.budget import Room, admit
from linnet_operator.planner.fleet import Fleet, finds_no_variant, is_ordered
from linnet_operator.planner.model import DeploymentView, NodeView, Order, RevisionView


@dataclass(frozen=True, slots=True)
class Desk:
    """What every order of one turn has in common."""

    now: datetime
    deployment: DeploymentView
    revisions: Sequence[RevisionView]
    rollout: RolloutRef | None

    def activate(
        self, node: NodeView, to: RevisionRef, *, over: RevisionRef | None
    ) -> Order | None:
        """Return the order to serve ``to``; None where nobody knows any more what it was."""
        content = self._content(to)
        if content is None:
            return None
        baseline = Baseline(revision=over.revision, artifact=over.digest) if over else None
        return self._order(node, content, baseline)

    def unload(self, node: NodeView) -> Order:
        """Return the order to serve nothing."""
        return self._order(node, Desired(state="Absent"), None)

    def clear_baseline(self, node: NodeView) -> Order:
        """Return the node's own order without a baseline."""
        assert node.order is not None, node.name
        return self._order(node, node.order.desired, None)

    def _content(self, to: RevisionRef) -> Desired | None:
        for revision in self.revisions:
            if revision.revision == to.revision:
                return Desired(
                    state="Active",
                    revision=to.revision,
                    number=to.number,
                    source=revision.sources[-1],
                    artifact=to.digest,
                    serving=revision.serving,
                    resources=self.deployment.spec.resources,
                    swap=self.deployment.spec.swap,
                    variants=revision.variants,
                )
        return None

    def _order(self, node: NodeView, desired: Desired, baseline: Baseline | None) -> Order:
        return Order(
            name=node_model_name(
                node=node.name, namespace=self.deployment.namespace, deployment=self.deployment.name
            ),
            node=node.name,
            spec=NodeModelSpec(
                deployment=self.deployment.name,
                node=NodeRef(name=node.name, uid=node.uid),
                sequence=next_sequence(node, now=self.now),
                desired=desired,
                baseline=baseline,
                rollout=self.rollout,
            ),
            owned=self.deployment.spec.removal == "Keep",
        )


def next_sequence(node: NodeView, *, now: datetime) -> int:
    """Return a number above all that the node has seen: milliseconds since 1970, or one more."""
    last_order = node.order.sequence if node.order is not None else 0
    last_seen = node.report.observed_sequence if node.report is not None else 0
    return max(int(now.timestamp() * 1000), last_order + 1, last_seen + 1)


def wave(by_lot: Sequence[NodeView], *, candidate: str, quota_nodes: int) -> tuple[NodeView, ...]:
    """Return the nodes that shall have the candidate: who is ordered it keeps it, the lot fills up.

    Args:
        by_lot: The eligible nodes in the order of the lot.
        candidate: The revision.
        quota_nodes: How many may hold it.
    """
    holders = {node.name for node in by_lot if is_ordered(node, candidate)}
    free = max(0, quota_nodes - len(holders))
    joining = [node.name for node in by_lot if node.name not in holders][:free]
    chosen = holders.union(joining)
    return tuple(node for node in by_lot if node.name in chosen)


def of_running(
    desk: Desk,
    fleet: Fleet,
    *,
    candidate: RevisionRef,
    stable: RevisionRef | None,
    asked: Sequence[NodeView],
    left: Room,
    moving: bool,
) -> list[Order]:
    """Return the orders of a running rollout.

    Args:
        desk: Makes orders.
        fleet: The nodes.
        candidate: What the asked nodes shall serve.
        stable: What all others shall serve; None in a first rollout.
        asked: The wave, in the order of the lot.
        left: The budget.
        moving: False while nobody may be sent on (paused, or the source is in doubt).
    """
    names = {node.name for node in asked}
    back = [
        node
        for node in fleet.everyone
        if node.name not in names
        and (node.matched or not is_ordered(node, candidate.revision))
        and not finds_no_variant(node, candidate.revision)
    ]
    orders = _taken_back(desk, back, stable=stable, bad=candidate)
    orders += [
        order
        for node in asked
        if stable is not None and _lacks_baseline(node, candidate)
        for order in (desk.activate(node, candidate, over=stable),)
        if order is not None
    ]
    taken = {order.node for order in orders}
    if not moving:
        return orders
    eligible = {node.name for node in fleet.eligible}
    forward = [node for node in asked if not is_ordered(node, candidate.revision)]
    behind = [
        node
        for node in back
        if node.name not in taken and node.name in eligible and _is_behind(node, stable)
    ]
    sent = admit(
        [node for node in (*forward, *behind) if node.connected(desk.now)], left, now=desk.now
    )
    for node in sent:
        to = candidate if node.name in names else stable
        assert to is not None, node.name
        _append(orders, desk.activate(node, to, over=stable if node.name in names else None))
    return orders


def of_rollback(
    desk: Desk, fleet: Fleet, *, candidate: RevisionRef, stable: RevisionRef | None
) -> list[Order]:
    """Return the orders that take every node back at once."""
    return _taken_back(desk, fleet.everyone, stable=stable, bad=candidate)


def of_settled(
    desk: Desk,
    fleet: Fleet,
    *,
    stable: RevisionRef | None,
    bad: RevisionRef | None,
    left: Room,
    moving: bool,
) -> list[Order]:
    """Return the orders while no rollout runs: everyone to the stable revision, baselines cleared.

    Args:
        desk: Makes orders.
        fleet: The nodes.
        stable: What all shall serve; None where there is none yet.
        bad: The candidate of the last rollout, where that was taken back.
        left: The budget.
        moving: False while nobody may be sent on.
    """
    orders = _taken_back(desk, fleet.everyone, stable=stable, bad=bad)
    if stable is None:
        return orders
    orders += [
        desk.clear_baseline(node)
        for node in fleet.everyone
        if is_ordered(node, stable.revision)
        and node.order is not None
        and node.order.baseline is not None
    ]
    done = {order.node for order in orders}
    if moving:
        behind = [
            node for node in fleet.eligible if node.name not in done and _is_behind(node, stable)
        ]
        for node in admit([n for n in behind if n.connected(desk.now)], left, now=desk.now):
            _append(orders, desk.activate(node, stable, over=None))
    return orders


def _taken_back(
    desk: Desk,
    nodes: Iterable[NodeView],
    *,
    stable: RevisionRef | None,
    bad: RevisionRef | None,
) -> list[Order]:
    orders: list[Order] = []
    for node in nodes:
        if stable is None:
            if bad is not None and is_ordered(node, bad.revision):
                _append(orders, _without_stable(desk, node, bad))
        elif not is_ordered(node, stable.revision) and _came_from(node, stable, bad):
            _append(orders, desk.activate(node, stable, over=None))
    return orders


def _without_stable(desk: Desk, node: NodeView, bad: RevisionRef) -> Order | None:
    """Return the way back where no revision is stable: to what the node had, else to nothing."""
    report = node.report
    slots = (report.current, report.previous) if report is not None else ()
    had = next((slot for slot in slots if slot is not None and slot.revision != bad.revision), None)
    if had is None:
        return desk.unload(node)
    number = next((r.number for r in desk.revisions if r.revision == had.revision), 1)
    to = RevisionRef(revision=had.revision, digest=had.artifact, number=number)
    return desk.activate(node, to, over=None)


def _came_from(node: NodeView, stable: RevisionRef, bad: RevisionRef | None) -> bool:
    """Return True where the node was sent on from ``stable``, or to the revision that is bad."""
    if node.order is None:
        return False
    if bad is not None and is_ordered(node, bad.revision):
        return True
    return node.order.baseline is not None and node.order.baseline.revision == stable.revision


def _lacks_baseline(node: NodeView, candidate: RevisionRef) -> bool:
    return (
        is_ordered(node, candidate.revision)
        and node.order is not None
        and node.order.baseline is None
    )


def _is_behind(node: NodeView, stable: RevisionRef | None) -> bool:
    return stable is not None and not is_ordered(node, stable.revision)


def _append(orders: list[Order], order: Order | None) -> None:
    if order is not None:
        orders.append(order)
