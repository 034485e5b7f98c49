"""One turn: everything that is known goes in, what to write and what to look at comes out.

- Decide, record, act: a turn that records a transition gives no order; the next one acts on what
  stands there.
- A settled deployment gets an empty plan (rule 11).
- The same input gives the same plan, in every process.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from linnet_api.durations import parse_duration
from linnet_api.model_rollout import ModelRolloutStatus
from linnet_api.names import node_model_name
from linnet_api.node_model import RolloutRef
from linnet_api.reasons import RolloutPhase, WaitReason
from linnet_api.rollout_policy import RolloutPolicySpec
from linnet_operator.planner import bake, orders, removal, windows
from linnet_operator.planner import status as say
from linnet_operator.planner.cohort import by_lot, domain_of
from linnet_operator.planner.decide import decide
from linnet_operator.planner.fleet import is_active, sort_out
from linnet_operator.planner.model import (
    Candidate,
    DeploymentView,
    DropOrder,
    Evidence,
    EvidenceRequest,
    KeepEvidence,
    Look,
    LookKind,
    NodeView,
    Order,
    Plan,
    PolicyMissing,
    RecordRollout,
    Resolved,
    ResolveFailure,
    RevisionView,
    RolloutView,
    Write,
)
from linnet_operator.planner.orders import Desk
from linnet_operator.planner.recheck import SOON, lease_times, until
from linnet_operator.planner.settle import Rest, offline_of, record_deployment, settle
from linnet_operator.planner.turn import Turn, step_status
from linnet_operator.planner.wanted import known_revisions, want


def plan(
    *,
    now: datetime,
    deployment: DeploymentView,
    policy: RolloutPolicySpec | PolicyMissing,
    resolved: Resolved | ResolveFailure | None,
    revisions: Sequence[RevisionView],
    rollout: RolloutView | None,
    nodes: Sequence[NodeView],
    evidence: Evidence | None,
) -> Plan:
    """Return what one turn of one deployment decides.

    Args:
        now: The time of the turn, with a time zone.
        deployment: The deployment; its spec is valid.
        policy: What a rollout that begins now would follow; a running one has its own.
        resolved: The last answer for what ``look.resolve`` asked for.
        revisions: All that are recorded.
        rollout: The newest ModelRollout.
        nodes: Nodes that the selector matches, and others that have a NodeModel of this deployment.
        evidence: The newest look.
    """
    assert now.tzinfo is not None, now
    if deployment.deleting:
        drops, present = _drop_reinstalled(deployment, nodes)
        offline = offline_of(policy, rollout)
        return removal.of_deleting(deployment, present, now=now, offline=offline, drops=drops)
    first = removal.before_anything(deployment, nodes)
    if first:
        return Plan(tuple(first), deployment.status, None, SOON, None, Look())
    wanted = want(deployment, revisions, resolved)
    drops, present = _drop_reinstalled(deployment, nodes)
    known = known_revisions(deployment, revisions, wanted, rollout=rollout, nodes=present)
    running = rollout is not None and not _has_ended(rollout)
    fleet = sort_out(
        present,
        now=now,
        runtime=deployment.serving.runtime,
        offline=offline_of(policy, rollout),
        candidate=rollout.spec.to.revision if rollout is not None and running else None,
        stable=None if deployment.status.stable is None else deployment.status.stable.revision,
    )
    if rollout is not None and running:
        turn = Turn(
            now=now,
            deployment=deployment,
            rollout=rollout,
            revisions=known,
            wanted=wanted,
            fleet=fleet,
            by_lot=by_lot(
                fleet.eligible,
                rollout_uid=rollout.uid,
                spread_by=rollout.spec.policy.spread_by,
            ),
            evidence=evidence,
            policy_edited=isinstance(policy, RolloutPolicySpec)
            and policy.to_dict() != rollout.spec.policy.to_dict(),
        )
        return _run(turn, drops)
    rest = Rest(
        now=now,
        deployment=deployment,
        policy=policy,
        wanted=wanted,
        revisions=known,
        rollout=rollout,
        fleet=fleet,
    )
    return settle(rest, drops)


# ---------------------------------------------------------------- while a rollout runs


def _run(turn: Turn, drops: list[Write]) -> Plan:
    before = turn.rollout.status
    transition = decide(turn)
    status = say.of_rollout(turn, before if transition is None else transition.status)
    writes: list[Write] = [*drops]
    if transition is not None and transition.keep is not None:
        writes.append(KeepEvidence(transition.keep))
    if status.to_dict() != before.to_dict():
        writes.append(
            RecordRollout(
                turn.rollout.name, turn.rollout.uid, turn.rollout.resource_version, status
            )
        )
    if transition is None:
        writes += _orders(turn, drops)
    if status.phase is not None and status.phase.ended:
        # The next turn speaks for the deployment: it knows what comes after the end.
        return Plan(tuple(writes), turn.deployment.status, status, SOON, None, Look())
    deployment_status = say.of_deployment_running(turn, status)
    writes += record_deployment(turn.deployment, deployment_status)
    return Plan(
        writes=tuple(writes),
        deployment_status=deployment_status,
        rollout_status=status,
        recheck_after=SOON if transition is not None else _recheck(turn, status),
        waiting_for=status.waiting_for,
        look=_look(turn, status),
    )


def _orders(turn: Turn, drops: list[Write]) -> list[Order]:
    status = turn.rollout.status
    desk = Desk(
        now=turn.now,
        deployment=turn.deployment,
        revisions=turn.revisions,
        rollout=RolloutRef(name=turn.rollout.name, uid=turn.rollout.uid, step=status.step),
    )
    if status.phase is RolloutPhase.ROLLING_BACK:
        return orders.of_rollback(desk, turn.fleet, candidate=turn.candidate, stable=turn.stable)
    found = orders.of_running(
        desk,
        turn.fleet,
        candidate=turn.candidate,
        stable=turn.stable,
        asked=turn.asked(status),
        left=turn.room,
        moving=turn.held is None,
    )
    return _without_dropped(found, drops)


def _look(turn: Turn, status: ModelRolloutStatus) -> Look:
    return Look(resolve=turn.wanted.ask, evidence=_evidence_request(turn, status))


def _evidence_request(turn: Turn, status: ModelRolloutStatus) -> EvidenceRequest | None:
    candidates: tuple[Candidate, ...] = ()
    revision = turn.candidate.revision
    if status.phase is RolloutPhase.LEARNING and turn.compares:
        kind = LookKind.HISTORY
    elif (
        status.phase in (RolloutPhase.STEPPING, RolloutPhase.BAKING, RolloutPhase.WAITING)
        and status.step
        and turn.measures
    ):
        kind = LookKind.STEP
        candidates = tuple(
            Candidate(
                node.name,
                node.report.current.activated_at or turn.now,
                domain_of(node, turn.policy.spread_by),
                node.served.get(revision),
            )
            for node in turn.fleet.eligible
            if is_active(node, revision)
            and node.report is not None
            and node.report.current is not None
        )
        if not candidates:
            return None
    else:
        return None
    step = 0 if kind is LookKind.HISTORY else status.step
    last = turn.look_at(step)
    if last is not None and turn.now - last.at < _interval(turn):
        return None
    stable = turn.stable
    return EvidenceRequest(
        kind=kind,
        rollout=turn.rollout.name,
        rollout_uid=turn.rollout.uid,
        step=step,
        candidate=revision,
        baseline=stable.revision if stable is not None else None,
        candidates=candidates,
        stable=tuple(
            node.name
            for node in turn.fleet.eligible
            if stable is not None and is_active(node, stable.revision)
        ),
        started_at=status.started_at or turn.now,
        bake=turn.bake(step),
    )


def _interval(turn: Turn) -> timedelta:
    return parse_duration(turn.policy.judge.interval)


def _recheck(turn: Turn, status: ModelRolloutStatus) -> timedelta | None:
    now, offline = turn.now, turn.policy.offline
    times = lease_times(turn.fleet, offline, now=now)
    for step in (0, status.step):
        last = turn.look_at(step)
        if last is not None:
            times.append(last.at + _interval(turn))
    clock = step_status(status, status.step)
    if clock.baking_since is not None:
        whole = turn.bake(status.step)
        served = bake.served(clock, now)
        if served < whole:
            tenth = whole / 10
            times += [now + tenth - served % tenth, now + whole - served]
    if status.moved_at is not None:
        times += [
            status.moved_at + turn.decide_within(status.step),
            status.moved_at + parse_duration(turn.policy.progress_deadline),
        ]
    if status.phase is RolloutPhase.WAITING and status.reason == WaitReason.WINDOW:
        opens = windows.next_open(turn.policy.windows, now)
        times += [opens] if opens is not None else []
    return until(times, now)


# ---------------------------------------------------------------- parts of a turn


def _has_ended(rollout: RolloutView) -> bool:
    return rollout.status.phase is not None and rollout.status.phase.ended


def _drop_reinstalled(
    deployment: DeploymentView, nodes: Sequence[NodeView]
) -> tuple[list[Write], list[NodeView]]:
    """Return the NodeModels of nodes that are others now, and the nodes without them."""
    drops: list[Write] = []
    present: list[NodeView] = []
    for node in nodes:
        if node.order is None or node.order.node.uid == node.uid:
            present.append(node)
            continue
        name = node_model_name(
            node=node.name, namespace=deployment.namespace, deployment=deployment.name
        )
        drops.append(DropOrder(name, node.name))
        present.append(replace(node, order=None, report=None))
    return drops, present


def _without_dropped(found: list[Order], drops: list[Write]) -> list[Order]:
    dropped = {drop.node for drop in drops if isinstance(drop, DropOrder)}
    return [order for order in found if order.node not in dropped]
