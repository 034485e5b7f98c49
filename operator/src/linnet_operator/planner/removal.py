"""What a deletion means for nodes: Keep lets the object go, Unload tells the nodes first.

- Keep: no finalizer, ever. Unload: the finalizer stands before the first order is given.
- With Unload a NodeModel has no owner, so that no way of deleting takes it before its node has
  heard: one that vanishes is not an order (rule 7).
- All nodes that have an order are told at once: paused or not, connected or not.
- Waited for: every node seen within ``offline.deferAfter``, until it reports Absent under that
  order. One that cannot unload is waited for, and named with its reason.
- All others are named and not waited for. Their orders stay, and they unload at first contact;
  ``is_over`` says when such an order may go.
"""

from collections.abc import Sequence
from datetime import datetime

from linnet_api.conditions import reconciling, stamp
from linnet_api.durations import parse_duration
from linnet_api.fields import WaitingFor
from linnet_api.model_deployment import ModelDeploymentStatus
from linnet_api.names import UNLOAD_FINALIZER, node_model_name
from linnet_api.node_model import NodeModelSpec, NodeModelStatus
from linnet_api.reasons import DeploymentReason, NodeState, WaitReason
from linnet_api.rollout_policy import Offline
from linnet_operator.planner.decide import names
from linnet_operator.planner.fleet import has_accepted, is_lost
from linnet_operator.planner.model import (
    DeploymentView,
    DropOrder,
    Look,
    NodeView,
    Order,
    Plan,
    RecordDeployment,
    SetFinalizers,
    Write,
)
from linnet_operator.planner.orders import Desk
from linnet_operator.planner.recheck import SOON, until


def before_anything(deployment: DeploymentView, nodes: Sequence[NodeView]) -> list[Write]:
    """Return what makes finalizer and owners as ``spec.removal`` says, where they are not.

    The orders are given anew first, as they stand, for their owner: a kill in between is made good
    by the next turn, which still sees the old finalizer.
    """
    unload = deployment.spec.removal == "Unload"
    if deployment.held == unload:
        return []
    others = tuple(each for each in deployment.finalizers if each != UNLOAD_FINALIZER)
    wanted = (*others, UNLOAD_FINALIZER) if unload else others
    return [
        *(_as_it_stands(deployment, node.order) for node in nodes if node.order is not None),
        SetFinalizers(deployment.name, deployment.resource_version, wanted),
    ]


def of_deleting(
    deployment: DeploymentView,
    nodes: Sequence[NodeView],
    *,
    now: datetime,
    offline: Offline,
    drops: Sequence[Write],
) -> Plan:
    """Return the plan of a turn of a deployment that is being deleted.

    Args:
        deployment: The deployment.
        nodes: Its nodes; those of ``drops`` without their orders.
        now: The time of the turn.
        offline: When a node is not waited for.
        drops: NodeModels of nodes that are others now.
    """
    if deployment.spec.removal == "Keep" or not deployment.held:
        freed = before_anything(deployment, nodes) if deployment.held else []
        return Plan(tuple(freed), deployment.status, None, None, None, Look())
    told = sorted((node for node in nodes if node.order is not None), key=lambda node: node.name)
    desk = Desk(now, deployment, revisions=(), rollout=None)
    orders = [desk.unload(node) for node in told if not _is_told(node)]
    grace = parse_duration(offline.defer_after)
    done = [node for node in told if _has_unloaded(node)]
    open_ = [node for node in told if not _has_unloaded(node)]
    lost = [node for node in open_ if is_lost(node, now=now, grace=grace)]
    left = [node for node in open_ if node not in lost]
    waiting = _waiting_for(done, left, lost, now=now) if left else None
    status = deployment.status
    if waiting is not None:
        status = _said(deployment, waiting, now=now)
    writes: list[Write] = [*drops, *orders]
    if status.to_dict() != deployment.status.to_dict():
        writes.append(RecordDeployment(deployment.name, status))
    if not orders and not left:
        others = tuple(each for each in deployment.finalizers if each != UNLOAD_FINALIZER)
        writes += [DropOrder(_order_name(deployment, node), node.name) for node in done]
        writes.append(SetFinalizers(deployment.name, deployment.resource_version, others))
    seen = [node.heartbeat_at + max(grace, node.lease) for node in left if node.heartbeat_at]
    recheck = SOON if orders else until(seen, now)
    return Plan(tuple(writes), status, None, recheck, waiting, Look())


def is_over(
    order: NodeModelSpec,
    report: NodeModelStatus,
    *,
    deployment_exists: bool,
    node_uid: str | None,
) -> bool:
    """Return True where an order to unload has outlived its deployment and has nothing left to do.

    Args:
        order: The order.
        report: What the node says.
        deployment_exists: A deployment of that name exists; it decides then.
        node_uid: Uid of the Node of that name; None: there is none any more.
    """
    if deployment_exists or order.desired.state != "Absent":
        return False
    if node_uid != order.node.uid:
        return True
    return report.observed_sequence >= order.sequence and report.state is NodeState.ABSENT


def _is_told(node: NodeView) -> bool:
    return node.order is not None and node.order.desired.state == "Absent"


def _has_unloaded(node: NodeView) -> bool:
    return (
        _is_told(node)
        and has_accepted(node)
        and node.report is not None
        and node.report.state is NodeState.ABSENT
    )


def _as_it_stands(deployment: DeploymentView, order: NodeModelSpec) -> Order:
    name = node_model_name(
        node=order.node.name, namespace=deployment.namespace, deployment=deployment.name
    )
    return Order(name, order.node.name, order, owned=deployment.spec.removal == "Keep")


def _order_name(deployment: DeploymentView, node: NodeView) -> str:
    return node_model_name(
        node=node.name, namespace=deployment.namespace, deployment=deployment.name
    )


def _waiting_for(
    done: Sequence[NodeView], left: Sequence[NodeView], lost: Sequence[NodeView], *, now: datetime
) -> WaitingFor:
    whole = len(done) + len(left) + len(lost)
    stuck = [
        f"{node.name}: {node.report.reason.value} ({node.report.message or 'no message'})"
        for node in left
        if has_accepted(node)
        and node.report is not None
        and node.report.state in (NodeState.FAILED, NodeState.REVERTED, NodeState.REFUSED)
        and node.report.reason is not None
    ]
    away = [node for node in left if not node.connected(now)]
    message = (
        f"it is being deleted with removal: Unload; {len(done)} of {whole} nodes have unloaded; "
        f"waits for {names(list(left))}"
        + (f"; not connected: {names(away)}" if away else "")
        + (f"; {stuck[0]}" if stuck else "")
        + (f"; not waited for, at first contact: {names(list(lost))}" if lost else "")
        + "; removal: Keep lets it go at once"
    )
    return WaitingFor(
        reason=WaitReason.UNLOADING.value,
        short=f"{len(done)} of {whole} unloaded"[:40],
        message=message[:2048],
    )


def _said(
    deployment: DeploymentView, waiting: WaitingFor, *, now: datetime
) -> ModelDeploymentStatus:
    before = deployment.status
    conditions = reconciling(
        reason=DeploymentReason.PROGRESSING,
        message=waiting.message,
        generation=deployment.generation,
    )
    return before.model_copy(
        update={
            "observed_generation": deployment.generation,
            "conditions": stamp(conditions, before=before.conditions, now=now),
            "waiting_for": waiting,
            "reason": DeploymentReason.PROGRESSING.value,
        }
    )
