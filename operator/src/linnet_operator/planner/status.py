"""What objects say about themselves: conditions, counts, and what is waited for (rules 9 and 10).

- Everything that is not settled says what it waits for, in words and numbers.
- Numbers that move by themselves are shown in tenths, so that waiting does not write all the time
  (rule 11).
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

from linnet_api.conditions import Condition, paused, reconciling, settled, stalled, stamp
from linnet_api.durations import format_duration, share_of
from linnet_api.fields import WaitingFor
from linnet_api.model_deployment import (
    Condemned,
    ModelDeploymentStatus,
    NodeCounts,
    RevisionStatus,
)
from linnet_api.model_rollout import ModelRolloutStatus, RevisionRef
from linnet_api.reasons import DeploymentReason, RolloutPhase, Verdict, WaitReason
from linnet_operator.planner import bake, windows
from linnet_operator.planner.decide import (
    deadline_passed,
    gate_of,
    is_asking,
    is_back,
    names,
    next_steps,
)
from linnet_operator.planner.fleet import (
    Fleet,
    has_accepted,
    has_failed,
    has_refused,
    is_active,
    is_hindered,
    is_in,
    is_ordered,
    is_stuck,
)
from linnet_operator.planner.model import DeploymentView, NodeView, RolloutView
from linnet_operator.planner.turn import Turn, step_status
from linnet_operator.planner.wanted import title

_TENTHS = 10
_PERSON = frozenset({WaitReason.APPROVAL, WaitReason.DECISION, WaitReason.PAUSED})
_END_REASON = {
    RolloutPhase.COMPLETED: DeploymentReason.SERVING,
    RolloutPhase.ROLLED_BACK: DeploymentReason.ROLLED_BACK,
    RolloutPhase.REFUSED: DeploymentReason.REFUSED,
}


# ---------------------------------------------------------------- a running rollout


def of_rollout(turn: Turn, status: ModelRolloutStatus) -> ModelRolloutStatus:
    """Return ``status`` with everything that is said about it filled in."""
    status = _with_counts(turn, status)
    phase = status.phase
    if phase is not None and phase.ended:
        return _with_conditions(turn, status, _conditions_at_end(turn, status))
    waiting = waiting_for(turn, status)
    if phase is not RolloutPhase.ROLLING_BACK:
        noted = f"{waiting.message}{_notes(turn, status)}"
        waiting = waiting.model_copy(update={"message": noted[:2048]})
    status = status.model_copy(update={"waiting_for": waiting})
    if phase is not RolloutPhase.ROLLING_BACK:
        status = status.model_copy(update={"message": waiting.message})
    return _with_conditions(
        turn, status, _conditions(turn, status, waiting, turn.rollout.generation)
    )


def waiting_for(turn: Turn, status: ModelRolloutStatus) -> WaitingFor:
    """Return what the rollout waits for."""
    if status.phase is RolloutPhase.ROLLING_BACK:
        return _reverting(turn, status)
    held = turn.held
    if held is not None:
        return _wait(
            held.reason, "paused" if held.reason is WaitReason.PAUSED else "source", held.message
        )
    if not turn.eligible_count:
        return _no_nodes(turn.fleet)
    match status.phase:
        case RolloutPhase.WAITING:
            return _waiting(turn, status)
        case RolloutPhase.STEPPING | RolloutPhase.FINISHING:
            return _activating(turn, status)
        case RolloutPhase.BAKING:
            return _baking(turn, status)
        case _:
            return _learning(turn)


def _notes(turn: Turn, status: ModelRolloutStatus) -> str:
    """Return what a reader of the policy would not expect of this rollout."""
    notes = ""
    last = turn.merged_to(status.step)
    if last > status.step:
        notes += f"; steps {status.step} to {last} ask for the same nodes and are one"
    control = share_of(turn.policy.control, whole_count=turn.eligible_count)
    if turn.stable is not None and control and not turn.control_count:
        notes += "; no control group: too few nodes"
    if turn.policy_edited:
        notes += "; the policy was edited since: that counts from the next rollout on"
    return notes


def _reverting(turn: Turn, status: ModelRolloutStatus) -> WaitingFor:
    left = [node for node in turn.fleet.everyone if not is_back(turn, node)]
    online = [node for node in left if node.connected(turn.now)]
    where = title(turn.stable, turn.revisions) if turn.stable is not None else "nothing"
    cause = status.decisions[-1].message if status.decisions else ""
    return _wait(
        WaitReason.REVERTING,
        f"{len(online)} to revert",
        f"{len(online)} connected nodes go back to {where}"
        + (f": {names(online)}" if online else "")
        + (
            f"; {len(left) - len(online)} offline at first contact"
            if len(left) > len(online)
            else ""
        )
        + _trouble_of(online, turn.stable.revision if turn.stable is not None else None)
        + f"; because {cause}",
    )


def _no_nodes(fleet: Fleet) -> WaitingFor:
    matched = fleet.matched_count
    text = (
        f"no eligible node: {matched} match spec.nodes, {len(fleet.deferred)} of them have no "
        f"agent or were not seen for long, {len(fleet.incompatible)} cannot run it"
        if matched
        else "no node matches spec.nodes: label the nodes, or name another selector"
    )
    return _wait(WaitReason.NO_NODES, f"0 of {matched} nodes", text)


def _learning(turn: Turn) -> WaitingFor:
    evidence = turn.look_at(0)
    if evidence is None:
        return _wait(WaitReason.LEARNING, "history", "the nodes' own history is being read")
    reason = {
        Verdict.NO_DATA: WaitReason.NO_DATA,
        Verdict.PARTIAL: WaitReason.PARTIAL_DATA,
        Verdict.FLEET_TROUBLE: WaitReason.FLEET_TROUBLE,
    }.get(evidence.verdict, WaitReason.LEARNING)
    return _wait(reason, evidence.short or "history", evidence.message)


def _waiting(turn: Turn, status: ModelRolloutStatus) -> WaitingFor:
    coming = next_steps(turn, status.step)
    step = coming[0] if coming else status.step
    name = turn.deployment.name
    if is_asking(status):
        # What to do stands at the end, and shall not be cut off.
        message = status.decisions[-1].message[:1800] if status.decisions else ""
        return _wait(
            WaitReason.DECISION,
            f"a person: {status.verdict}",
            f"{status.verdict}: {message}; decide: linnet promote {name}, or linnet abort {name}",
        )
    if status.reason == WaitReason.APPROVAL:
        return _wait(
            WaitReason.APPROVAL,
            f"approval of step {step}",
            f"step {step} ({turn.quota(step)} of {turn.eligible_count} nodes) begins when a person "
            f"approves it: linnet approve {name} --step {step}",
        )
    opens = windows.next_open(turn.policy.windows, turn.now)
    when = f"opens at {opens:%Y-%m-%d %H:%M %Z}" if opens is not None else "never opens"
    return WaitingFor(
        reason=WaitReason.WINDOW,
        short=f"window for step {step}",
        message=f"step {step} begins in the next window, which {when}",
        until=opens.replace(microsecond=0) if opens is not None else None,
    )


def _activating(turn: Turn, status: ModelRolloutStatus) -> WaitingFor:
    candidate = turn.candidate.revision
    asked = turn.asked(status)
    if not asked:
        return _wait(
            WaitReason.HELD_AT_ZERO,
            "held at 0 nodes",
            f"step {status.step} asks for 0 nodes and holds here: "
            f"linnet promote {turn.deployment.name}",
        )
    done = [node for node in asked if is_in(node, candidate, now=turn.now)]
    short = f"{len(done)} of {len(asked)} nodes"
    begin = f"{len(done)} of {len(asked)} nodes serve {title(turn.candidate, turn.revisions)}"
    trouble = _trouble(turn, asked)
    silent = [node for node in asked if node in turn.fleet.silent]
    if silent:
        return _wait(
            WaitReason.SILENT_NODES,
            f"{len(silent)} silent",
            f"{begin}; {names(silent)} took it and are lost since{trouble}",
        )
    unordered = [node for node in asked if not is_ordered(node, candidate)]
    left = turn.room
    if unordered and left.spent:
        out = "out of service or on their way" if left.replaces else "out of service"
        return _wait(
            WaitReason.BUDGET,
            f"budget: {left.unavailable} of {left.limit} out",
            f"{begin}; {left.unavailable} nodes are {out} and {left.limit} may be, so "
            f"{len(unordered)} wait{trouble}",
        )
    reason = (
        WaitReason.FINISHING if status.phase is RolloutPhase.FINISHING else WaitReason.ACTIVATING
    )
    return _wait(reason, short, f"{begin}{_missing(turn, asked, done)}{trouble}")


def _missing(turn: Turn, asked: Sequence[NodeView], done: Sequence[NodeView]) -> str:
    """Return which nodes are waited for, three at most, and where they are."""
    there = {node.name for node in done}
    missing = [node for node in asked if node.name not in there]
    if not missing:
        return ""
    shown = ", ".join(f"{node.name} ({_place(turn, node)})" for node in missing[:3])
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return f"; waits for {shown}{more}"


def _place(turn: Turn, node: NodeView) -> str:
    if not node.connected(turn.now):
        return "not connected"
    if not is_ordered(node, turn.candidate.revision):
        return "not asked yet"
    if node.report is None or node.report.state is None or not has_accepted(node):
        return "asked"
    return node.report.state.value


def _trouble(turn: Turn, nodes: Sequence[NodeView]) -> str:
    candidate = turn.candidate.revision
    return _trouble_of(nodes, candidate)


def _trouble_of(nodes: Sequence[NodeView], revision: str | None) -> str:
    """Return what keeps the first of the nodes from ``revision``, in its own words."""
    if revision is None:
        return ""
    stuck = [
        node
        for node in nodes
        if is_stuck(node, revision)
        or has_failed(node, revision)
        or has_refused(node, revision)
        or is_hindered(node, revision)
    ]
    if not stuck or stuck[0].report is None:
        return ""
    report = stuck[0].report
    word = report.reason.value if report.reason is not None else "Failed"
    more = f" and {len(stuck) - 1} more" if len(stuck) > 1 else ""
    return f"; {stuck[0].name}{more}: {word}" + (f" ({report.message})" if report.message else "")


def _baking(turn: Turn, status: ModelRolloutStatus) -> WaitingFor:
    step = step_status(status, status.step)
    whole = turn.bake(status.step)
    served = bake.served(step, turn.now)
    gate = gate_of(turn, status)
    evidence = turn.look_at(status.step)
    said = f"; {gate.verdict}: {gate.message}" if turn.measures else ""
    if served < whole:
        shown = format_duration(_tenths(served, whole))
        short = f"{shown} of {format_duration(whole)}"
        if step.baking_since is None:
            text = f"step {status.step} stands still at {short}: too many of its nodes are missing"
            return _wait(WaitReason.BAKING, short, text + said)
        ends = step.baking_since + whole - timedelta(seconds=step.baked_seconds)
        text = f"step {status.step} bakes: {short}{said}"
        return _wait(WaitReason.BAKING, short, text, until=ends.replace(microsecond=0))
    if gate.reason in (WaitReason.BAKING, WaitReason.ACTIVATING):
        return _activating(turn, status)
    short = evidence.short if evidence is not None and evidence.short else str(gate.verdict)
    return _wait(gate.reason, short, f"step {status.step} has baked {format_duration(whole)}{said}")


def _with_counts(turn: Turn, status: ModelRolloutStatus) -> ModelRolloutStatus:
    steps = turn.policy.steps
    update: dict[str, object] = {
        "observed_generation": turn.rollout.generation,
        "step_short": f"{turn.merged_to(status.step)}/{len(steps)}",
    }
    ended = status.phase is not None and status.phase.ended
    if status.step and not ended:
        holders = [n for n in turn.fleet.eligible if is_ordered(n, turn.candidate.revision)]
        step = step_status(status, status.step)
        changes: dict[str, object] = {
            "nodes": len(holders),
            "quota": turn.quota(status.step),
            "control": turn.control_count,
        }
        look = turn.look_at(status.step)
        judging = status.phase in (RolloutPhase.STEPPING, RolloutPhase.BAKING)
        if look is not None and (judging or look.verdict is not step.verdict) and turn.measures:
            changes |= {"verdict": look.verdict, "message": look.message[:2048]}
            if not is_asking(status) and status.phase is not RolloutPhase.ROLLING_BACK:
                update["verdict"] = look.verdict
        index = status.step - 1
        update["steps"] = (
            *status.steps[:index],
            step.model_copy(update=changes),
            *status.steps[index + 1 :],
        )
    return status.model_copy(update=update)


def _conditions(
    turn: Turn, status: ModelRolloutStatus, waiting: WaitingFor, generation: int
) -> tuple[Condition, ...]:
    if deadline_passed(turn, status):
        text = (
            f"it has not moved for longer than {turn.policy.progress_deadline}: {waiting.message}"
        )
        return stalled(reason=DeploymentReason.WAITING, message=text, generation=generation)
    return _under_way(waiting, generation)


def _under_way(waiting: WaitingFor, generation: int) -> tuple[Condition, ...]:
    person = waiting.reason in _PERSON
    reason = DeploymentReason.WAITING if person else DeploymentReason.PROGRESSING
    found = reconciling(reason=reason, message=waiting.message, generation=generation)
    if not person:
        return found
    extra = DeploymentReason.PAUSED if waiting.reason == WaitReason.PAUSED else reason
    return (*found, paused(reason=extra, message=waiting.message, generation=generation))


def _conditions_at_end(turn: Turn, status: ModelRolloutStatus) -> tuple[Condition, ...]:
    assert status.phase is not None
    reason = _END_REASON.get(status.phase, DeploymentReason.ABORTED)
    make = settled if status.phase is RolloutPhase.COMPLETED else stalled
    return make(reason=reason, message=status.message or "", generation=turn.rollout.generation)


def _with_conditions(
    turn: Turn, status: ModelRolloutStatus, wanted: tuple[Condition, ...]
) -> ModelRolloutStatus:
    stamped = stamp(wanted, before=turn.rollout.status.conditions, now=turn.now)
    return status.model_copy(update={"conditions": stamped})


# ---------------------------------------------------------------- the deployment


def of_deployment_running(turn: Turn, status: ModelRolloutStatus) -> ModelDeploymentStatus:
    """Return the deployment's status while a rollout runs, whose described status is ``status``."""
    waiting = status.waiting_for
    assert waiting is not None
    generation = turn.deployment.generation
    conditions = _conditions(turn, status, waiting, generation)
    return of_deployment(
        turn.deployment,
        now=turn.now,
        conditions=conditions,
        fleet=turn.fleet,
        newest=turn.candidate,
        stable=turn.stable,
        candidate=turn.candidate,
        rollout=turn.rollout,
        waiting=waiting,
        condemned=condemn(turn.deployment, turn.rollout, status),
        step_short=status.step_short,
    )


def of_deployment(
    deployment: DeploymentView,
    *,
    now: datetime,
    conditions: tuple[Condition, ...],
    fleet: Fleet,
    newest: RevisionRef | None,
    stable: RevisionRef | None,
    candidate: RevisionRef | None,
    rollout: RolloutView | None,
    waiting: WaitingFor | None,
    condemned: tuple[Condemned, ...],
    step_short: str | None = None,
    rollout_name: str | None = None,
) -> ModelDeploymentStatus:
    """Return the whole status of the deployment.

    Args:
        deployment: The deployment.
        now: The time of the turn.
        conditions: Unstamped.
        fleet: The nodes.
        newest: The revision whose nodes are counted.
        stable: The revision that the fleet goes back to.
        candidate: What is rolled out, or was asked for last and is not served.
        rollout: The newest one.
        waiting: What is waited for.
        condemned: The digests that were taken back.
        step_short: Step of steps, while a rollout runs.
        rollout_name: Name of a rollout that is being created by this turn.
    """
    before = deployment.status
    name = rollout_name or (rollout.name if rollout is not None else before.rollout)
    counts = _node_counts(fleet, newest, rollout, before.nodes)
    stamped = stamp(conditions, before=before.conditions, now=now)
    return ModelDeploymentStatus(
        observed_generation=deployment.generation,
        conditions=stamped,
        stable=_revision_status(stable),
        candidate=_revision_status(candidate),
        rollout=name,
        condemned=condemned,
        nodes=counts,
        nodes_short=f"{counts.on_candidate}/{counts.eligible}",
        step_short=step_short,
        waiting_for=waiting,
        reason=stamped[0].reason,
    )


def condemn(
    deployment: DeploymentView, rollout: RolloutView, status: ModelRolloutStatus
) -> tuple[Condemned, ...]:
    """Return the condemned digests, with the rollout's own where it was judged bad."""
    before = deployment.status.condemned
    bad = status.phase is RolloutPhase.ROLLED_BACK or (
        status.phase is RolloutPhase.ROLLING_BACK and status.reason == RolloutPhase.ROLLED_BACK
    )
    if not bad or any(entry.rollout == rollout.name for entry in before):
        return before
    decision = status.decisions[-1]
    others = [entry for entry in before if entry.digest != rollout.spec.to.digest]
    same = [entry.at for entry in before if entry.digest == rollout.spec.to.digest]
    new = Condemned(
        digest=rollout.spec.to.digest,
        rollout=rollout.name,
        reason=decision.message,
        at=status.moved_at or decision.at,
        earlier=same[0] if same else None,
    )
    return (*others[-63:], new)


def invalid_spec(
    message: str, *, generation: int, before: ModelDeploymentStatus, now: datetime
) -> ModelDeploymentStatus:
    """Return the status of a deployment whose spec cannot be read; what is served is served on."""
    conditions = stalled(
        reason=DeploymentReason.INVALID_SPEC, message=message, generation=generation
    )
    return before.model_copy(
        update={
            "observed_generation": generation,
            "conditions": stamp(conditions, before=before.conditions, now=now),
            "reason": DeploymentReason.INVALID_SPEC.value,
        }
    )


def catching_up(
    fleet: Fleet, stable: RevisionRef, shown: str, *, now: datetime
) -> WaitingFor | None:
    """Return what a deployment without a running rollout waits for; None where all serve."""
    behind = [node for node in fleet.eligible if not is_active(node, stable.revision)]
    total = len(fleet.eligible)
    if behind:
        trouble = _trouble_of(behind, stable.revision)
        lost = [node for node in behind if not node.connected(now)]
        gone = f"; not connected: {names(lost)}" if lost else ""
        return _wait(
            WaitReason.ACTIVATING,
            f"{total - len(behind)} of {total} nodes",
            f"{total - len(behind)} of {total} nodes serve {shown}{gone}{trouble}",
        )
    if fleet.deferred:
        deferred = len(fleet.deferred)
        return _wait(
            WaitReason.DEFERRED_NODES,
            f"{deferred} deferred",
            f"{total} of {total + deferred} nodes serve {shown}; {deferred} deferred: "
            f"{names(list(fleet.deferred))}; they catch up by themselves at first contact",
        )
    return None


def serving_message(fleet: Fleet, stable: RevisionRef, shown: str) -> str:
    """Return how many nodes serve the stable revision, in a sentence."""
    serving = sum(is_active(node, stable.revision) for node in fleet.eligible)
    whole = len(fleet.eligible) + len(fleet.deferred)
    left = (
        f"; {len(fleet.deferred)} deferred, they catch up by themselves" if fleet.deferred else ""
    )
    unable = f"; {len(fleet.incompatible)} cannot run it" if fleet.incompatible else ""
    return f"{serving} of {whole} nodes serve {shown}{left}{unable}"


def wait(reason: WaitReason, short: str, message: str) -> WaitingFor:
    """Return what is waited for, without a time."""
    return _wait(reason, short, message)


def no_nodes(fleet: Fleet) -> WaitingFor:
    """Return that there is no node to begin with."""
    return _no_nodes(fleet)


def under_way(waiting: WaitingFor, generation: int) -> tuple[Condition, ...]:
    """Return the conditions of something that waits."""
    return _under_way(waiting, generation)


def _node_counts(
    fleet: Fleet, newest: RevisionRef | None, rollout: RolloutView | None, before: NodeCounts
) -> NodeCounts:
    on_newest = refused = 0
    if newest is not None:
        on_newest = sum(is_active(node, newest.revision) for node in fleet.eligible)
    if rollout is not None:
        candidate = rollout.spec.to.revision
        counts = Counter(has_refused(node, candidate) for node in fleet.everyone)
        refused = counts[True]
        # The refused orders are taken back; how many there were stays to be seen until something
        # else is tried.
        phase = rollout.status.phase
        ending = rollout.status.reason == RolloutPhase.REFUSED
        if phase is RolloutPhase.REFUSED or (phase is RolloutPhase.ROLLING_BACK and ending):
            refused = max(refused, before.refused)
    return NodeCounts(
        matched=fleet.matched_count,
        eligible=len(fleet.eligible),
        on_candidate=on_newest,
        deferred=len(fleet.deferred),
        silent=len(fleet.silent),
        refused=refused,
        incompatible=len(fleet.incompatible),
    )


def _revision_status(revision: RevisionRef | None) -> RevisionStatus | None:
    if revision is None:
        return None
    return RevisionStatus(
        revision=revision.revision, number=revision.number, digest=revision.digest
    )


def _wait(
    reason: WaitReason, short: str, message: str, *, until: datetime | None = None
) -> WaitingFor:
    return WaitingFor(reason=reason.value, short=short[:40], message=message[:2048], until=until)


def _tenths(done: timedelta, whole: timedelta) -> timedelta:
    tenth = whole / _TENTHS
    return (done // tenth) * tenth if tenth else done
