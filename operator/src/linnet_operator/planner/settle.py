"""A turn without a running rollout: begin one, or keep everyone on what is stable.

- A revision that was taken back is not tried again until the spec names another digest, or a person
  says retry (rule 6).
- A node that returns gets the stable revision, through the same budget.
- Without a stable revision nobody is told anything, but the nodes of a first rollout that was bad:
  they unload.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from linnet_api.conditions import Condition, paused, reconciling, settled, stalled
from linnet_api.fields import WaitingFor
from linnet_api.model_deployment import Condemned, ModelDeploymentStatus
from linnet_api.model_rollout import DeploymentRef, ModelRolloutSpec, RevisionRef
from linnet_api.names import rollout_name
from linnet_api.node_model import RolloutRef
from linnet_api.reasons import ActVerb, DeploymentReason, RolloutPhase, WaitReason
from linnet_api.rollout_policy import BUILT_IN, Budget, Offline, RolloutPolicySpec
from linnet_operator.planner import acts, orders, windows
from linnet_operator.planner import status as say
from linnet_operator.planner.budget import room
from linnet_operator.planner.fleet import Fleet
from linnet_operator.planner.model import (
    CreateRollout,
    DeploymentView,
    DropOrder,
    Look,
    Order,
    Plan,
    PolicyMissing,
    RecordDeployment,
    RevisionView,
    RolloutView,
    Write,
)
from linnet_operator.planner.orders import Desk
from linnet_operator.planner.recheck import SOON, lease_times, until
from linnet_operator.planner.wanted import Wanted, outdated, ref, stable_of, title

_NOT_AGAIN = frozenset({RolloutPhase.ROLLED_BACK, RolloutPhase.REFUSED, RolloutPhase.ABORTED})


@dataclass(frozen=True, slots=True)
class Rest:
    """What is known in a turn without a running rollout."""

    now: datetime
    deployment: DeploymentView
    policy: RolloutPolicySpec | PolicyMissing
    wanted: Wanted
    revisions: Sequence[RevisionView]
    rollout: RolloutView | None
    fleet: Fleet

    @property
    def stable(self) -> RevisionRef | None:
        """What all nodes shall serve."""
        return stable_of(self.deployment, self.rollout)

    @property
    def target(self) -> RevisionRef | None:
        """What the spec wants, where that is known and is not what is stable."""
        if self.wanted.revision is None:
            return None
        target = ref(self.wanted.revision)
        same = self.stable is not None and self.stable.revision == target.revision
        return None if same else target

    @property
    def generation(self) -> int:
        """Generation of the deployment."""
        return self.deployment.generation


@dataclass(frozen=True, slots=True)
class _Trouble:
    """Why nothing can begin; ``final`` where only a person can help."""

    reason: DeploymentReason
    message: str
    final: bool


def settle(rest: Rest, drops: Sequence[Write]) -> Plan:
    """Return the plan of a turn without a running rollout."""
    target = rest.target
    ready = (
        target is not None
        and _trouble(rest) is None
        and not is_blocked(rest, target)
        and not rest.deployment.spec.paused
        and bool(rest.fleet.eligible)
    )
    if target is not None and ready:
        return _begin(rest, target, drops)
    return _stay(rest, target, drops)


def offline_of(policy: RolloutPolicySpec | PolicyMissing, rollout: RolloutView | None) -> Offline:
    """Return what lost nodes mean: by the running rollout's policy, else by the one in force."""
    ended = rollout is None or (rollout.status.phase is not None and rollout.status.phase.ended)
    if rollout is not None and not ended:
        return rollout.spec.policy.offline
    return policy.offline if isinstance(policy, RolloutPolicySpec) else BUILT_IN.offline


def is_blocked(rest: Rest, target: RevisionRef) -> bool:
    """Return True where ``target`` was taken back, and nobody has asked for it anew."""
    rollout, status = rest.rollout, rest.deployment.status
    if rollout is not None and acts.fresh(rollout, ActVerb.RETRY) is not None:
        return False
    # A status that nobody has written yet cannot tell of another wish in between.
    asked_for = status.candidate is not None and status.candidate.digest == target.digest
    if not asked_for and status.observed_generation >= 0:
        return False
    if any(entry.digest == target.digest for entry in status.condemned):
        return True
    return (
        rollout is not None
        and rollout.spec.to.revision == target.revision
        and rollout.status.phase in _NOT_AGAIN
    )


def record_deployment(deployment: DeploymentView, status: ModelDeploymentStatus) -> list[Write]:
    """Return the write of the deployment's status, where it differs from what stands there."""
    if status.to_dict() == deployment.status.to_dict():
        return []
    return [RecordDeployment(deployment.name, status)]


def _begin(rest: Rest, target: RevisionRef, drops: Sequence[Write]) -> Plan:
    assert isinstance(rest.policy, RolloutPolicySpec)
    number = rest.rollout.number + 1 if rest.rollout is not None else 1
    name = rollout_name(deployment=rest.deployment.name, number=number)
    spec = ModelRolloutSpec(
        deployment=DeploymentRef(name=rest.deployment.name, uid=rest.deployment.uid),
        from_=rest.stable,
        to=target,
        policy=rest.policy,
    )
    message = f"rollout {name} to {title(target, rest.revisions)} begins"
    waiting = say.wait(WaitReason.LEARNING, "begins", message)
    conditions = reconciling(
        reason=DeploymentReason.PROGRESSING, message=message, generation=rest.generation
    )
    status = say.of_deployment(
        rest.deployment,
        now=rest.now,
        conditions=conditions,
        fleet=rest.fleet,
        newest=target,
        stable=rest.stable,
        candidate=target,
        rollout=None,
        waiting=waiting,
        condemned=_condemned(rest),
        rollout_name=name,
    )
    writes = [*drops, *_record_revision(rest), CreateRollout(name, spec)]
    writes += record_deployment(rest.deployment, status)
    return Plan(tuple(writes), status, None, SOON, waiting, Look(resolve=rest.wanted.ask))


def _stay(rest: Rest, target: RevisionRef | None, drops: Sequence[Write]) -> Plan:
    conditions, waiting = _said(rest, target)
    status = say.of_deployment(
        rest.deployment,
        now=rest.now,
        conditions=conditions,
        fleet=rest.fleet,
        newest=rest.stable,
        stable=rest.stable,
        candidate=_candidate(rest, target),
        rollout=rest.rollout,
        waiting=waiting,
        condemned=_condemned(rest),
    )
    writes = [*drops, *_record_revision(rest), *_orders(rest, drops)]
    writes += record_deployment(rest.deployment, status)
    if not writes:
        writes += outdated(
            rest.deployment, rest.revisions, rest.fleet.everyone, keep=_named(rest, target)
        )
    offline = offline_of(rest.policy, rest.rollout)
    busy = waiting is not None and waiting.reason != WaitReason.DEFERRED_NODES
    recheck = until(lease_times(rest.fleet, offline, now=rest.now, moving=busy), rest.now)
    return Plan(
        tuple(writes),
        status,
        rest.rollout.status if rest.rollout is not None else None,
        recheck,
        waiting,
        Look(resolve=rest.wanted.ask),
    )


def _said(
    rest: Rest, target: RevisionRef | None
) -> tuple[tuple[Condition, ...], WaitingFor | None]:
    """Return the conditions, and what is waited for, in a turn in which nothing begins."""
    waiting = _catching_up(rest)
    trouble = _trouble(rest)
    if trouble is not None and (target is not None or rest.wanted.revision is None):
        make = stalled if trouble.final else reconciling
        wait = waiting or say.wait(WaitReason.SOURCE, trouble.reason.value, trouble.message)
        return make(
            reason=trouble.reason, message=trouble.message, generation=rest.generation
        ), wait
    if rest.wanted.revision is None:
        asked = say.wait(
            WaitReason.SOURCE, "source", f"{rest.deployment.spec.source} is being resolved"
        )
        return say.under_way(asked, rest.generation), asked
    if target is not None:
        return _not_begun(rest, target, waiting)
    if waiting is not None and waiting.reason != WaitReason.DEFERRED_NODES:
        return say.under_way(waiting, rest.generation), waiting
    assert rest.stable is not None
    message = say.serving_message(rest.fleet, rest.stable, title(rest.stable, rest.revisions))
    return settled(
        reason=DeploymentReason.SERVING, message=message, generation=rest.generation
    ), waiting


def _not_begun(
    rest: Rest, target: RevisionRef, waiting: WaitingFor | None
) -> tuple[tuple[Condition, ...], WaitingFor | None]:
    if is_blocked(rest, target):
        reason, message = _verdict(rest, target)
        return stalled(reason=reason, message=message, generation=rest.generation), waiting
    if rest.deployment.spec.paused:
        text = f"spec.paused is true: {title(target, rest.revisions)} is not begun"
        held = say.wait(WaitReason.PAUSED, "paused", text)
        conditions = reconciling(
            reason=DeploymentReason.PAUSED, message=text, generation=rest.generation
        )
        extra = paused(reason=DeploymentReason.PAUSED, message=text, generation=rest.generation)
        return (*conditions, extra), held
    none = say.no_nodes(rest.fleet)
    return reconciling(
        reason=DeploymentReason.NO_NODES, message=none.message, generation=rest.generation
    ), none


def _catching_up(rest: Rest) -> WaitingFor | None:
    if rest.stable is None:
        return None
    return say.catching_up(
        rest.fleet, rest.stable, title(rest.stable, rest.revisions), now=rest.now
    )


def _verdict(rest: Rest, target: RevisionRef) -> tuple[DeploymentReason, str]:
    rollout = rest.rollout
    if rollout is not None and rollout.spec.to.digest == target.digest:
        reason = {
            RolloutPhase.REFUSED: DeploymentReason.REFUSED,
            RolloutPhase.ABORTED: DeploymentReason.ABORTED,
        }.get(rollout.status.phase or RolloutPhase.ROLLED_BACK, DeploymentReason.ROLLED_BACK)
        return reason, rollout.status.message or reason.value
    entry = next(c for c in rest.deployment.status.condemned if c.digest == target.digest)
    name = rest.deployment.name
    return DeploymentReason.CONDEMNED, (
        f"{title(target, rest.revisions)} was taken back by {entry.rollout}: {entry.reason}; "
        f"name another model or run: linnet retry {name}"
    )


def _trouble(rest: Rest) -> _Trouble | None:
    failure = rest.wanted.failure
    if failure is not None:
        return _Trouble(DeploymentReason.SOURCE_NOT_RESOLVED, failure.message, failure.final)
    if isinstance(rest.policy, PolicyMissing):
        return _Trouble(DeploymentReason.POLICY_NOT_FOUND, rest.policy.message, final=True)
    wrong = windows.check(rest.policy.windows)
    if wrong is not None:
        return _Trouble(DeploymentReason.INVALID_SPEC, f"the policy's {wrong}", final=True)
    return None


def _orders(rest: Rest, drops: Sequence[Write]) -> list[Order]:
    rollout = rest.rollout
    budget: Budget = (
        rest.policy.budget if isinstance(rest.policy, RolloutPolicySpec) else BUILT_IN.budget
    )
    # One that was merely superseded is not unloaded where there is nothing to go back to.
    bad = rollout.spec.to if rollout is not None and rollout.status.phase in _NOT_AGAIN else None
    given_by = RolloutRef(name=rollout.name, uid=rollout.uid) if rollout is not None else None
    dropped = {drop.node for drop in drops if isinstance(drop, DropOrder)}
    found = orders.of_settled(
        Desk(rest.now, rest.deployment, rest.revisions, given_by),
        rest.fleet,
        stable=rest.stable,
        bad=bad,
        left=room(
            budget,
            rest.fleet,
            now=rest.now,
            had_model=rest.stable is not None,
            swap=rest.deployment.spec.swap,
        ),
        moving=not rest.deployment.spec.paused,
    )
    return [order for order in found if order.node not in dropped]


def _record_revision(rest: Rest) -> list[Write]:
    return [rest.wanted.record] if rest.wanted.record is not None else []


def _candidate(rest: Rest, target: RevisionRef | None) -> RevisionRef | None:
    """Return what was asked for last; a source that cannot be resolved is no other wish."""
    before = rest.deployment.status.candidate
    if rest.wanted.revision is not None or before is None:
        return target
    return RevisionRef(revision=before.revision, digest=before.digest, number=before.number)


def _condemned(rest: Rest) -> tuple[Condemned, ...]:
    if rest.rollout is None:
        return rest.deployment.status.condemned
    return say.condemn(rest.deployment, rest.rollout, rest.rollout.status)


def _named(rest: Rest, target: RevisionRef | None) -> set[str]:
    named = {revision.revision for revision in (rest.stable, target) if revision is not None}
    if rest.rollout is not None:
        named.add(rest.rollout.spec.to.revision)
    if rest.wanted.revision is not None:
        named.add(rest.wanted.revision.revision)
    return named
