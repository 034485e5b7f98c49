"""The next state of a running rollout: one transition at a time, recorded before it is acted on.

- Abort wins, from every state; a rollback is legal in every state that has not ended, and nothing
  holds it (rule 14).
- One record of a decision carries the look that made it, and the acts that were taken up with it
  (rules 8 and 15).
- A step begins only on a recorded pass, or because a person said so (rule 5).
- The spec names another revision: the rollout is superseded; it names the stable one: the nodes
  return at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from linnet_api.durations import parse_duration
from linnet_api.model_rollout import (
    AppliedAct,
    Decision,
    EvidenceRef,
    ModelRolloutStatus,
    StepStatus,
)
from linnet_api.reasons import ActVerb, RolloutPhase, Verdict, WaitReason
from linnet_operator.planner import acts, bake, gates, windows
from linnet_operator.planner.budget import unavailable_limit
from linnet_operator.planner.fleet import (
    has_accepted,
    has_failed,
    has_refused,
    has_taken,
    is_active,
    is_in,
    is_ordered,
    is_settled,
    serves,
)
from linnet_operator.planner.gates import Action, Facts, Gate
from linnet_operator.planner.model import NodeView
from linnet_operator.planner.turn import Turn, step_status
from linnet_operator.planner.wanted import title

ROLLBACKS_A_DAY = 2
"""So many automatic ones, then a person is asked."""
_DECISIONS_LIMIT = 100
_MANY_NODES = 5
_LONE_NODE = "one node only: look at it, then promote to go on without it, or abort"


@dataclass(frozen=True, slots=True)
class Transition:
    """What is recorded, and the evidence that must be kept first."""

    status: ModelRolloutStatus
    keep: EvidenceRef | None = None


def _keep(before: ModelRolloutStatus, after: ModelRolloutStatus) -> EvidenceRef | None:
    """Return what a new record names for the first time: it is kept before it is named."""
    if after.evidence is not None and after.evidence != before.evidence:
        return after.evidence
    if len(after.decisions) and after.decisions[-1:] != before.decisions[-1:]:
        return after.decisions[-1].evidence
    return None


def decide(turn: Turn) -> Transition | None:
    """Return the next transition; None where the recorded state stands."""
    status = _take_up_acts(turn)
    found = _first(turn, status) or _set_clock(turn, status)
    if found == turn.rollout.status:
        return None
    return Transition(found, _keep(turn.rollout.status, found))


def names(nodes: list[NodeView]) -> str:
    """Return the names of the nodes, three at most, for a sentence."""
    shown = ", ".join(node.name for node in nodes[:3])
    return f"{shown} and {len(nodes) - 3} more" if len(nodes) > 3 else shown


def _first(turn: Turn, status: ModelRolloutStatus) -> ModelRolloutStatus | None:
    if status.phase is RolloutPhase.ROLLING_BACK:
        return _end_rollback(turn, status)
    abort = acts.fresh(turn.rollout, ActVerb.ABORT)
    if abort is not None:
        return _roll_back(turn, status, RolloutPhase.ABORTED, f"aborted {acts.said(abort)}")
    for step in (_superseded, _node_failure, _lost_nodes, _refused):
        found = step(turn, status)
        if found is not None:
            return found
    match status.phase:
        case None:
            return _start(turn, status)
        case RolloutPhase.LEARNING:
            return _promoted(turn, status) or _learn(turn, status)
        case RolloutPhase.STEPPING:
            return _gated(turn, status) or _promoted(turn, status) or _bake_from_now(turn, status)
        case RolloutPhase.BAKING:
            return _gated(turn, status) or _promoted(turn, status)
        case RolloutPhase.WAITING:
            return _gated(turn, status) or _promoted(turn, status) or _waited(turn, status)
        case RolloutPhase.FINISHING:
            return _complete(turn, status)
        case _:
            raise AssertionError(f"{status.phase} is no state of a running rollout")


def _take_up_acts(turn: Turn) -> ModelRolloutStatus:
    new = tuple(AppliedAct(id=act.id, seen_at=turn.now) for act in acts.unseen(turn.rollout))
    status = turn.rollout.status
    return status.model_copy(update={"acts": (*status.acts, *new)}) if new else status


# ---------------------------------------------------------------- what ends it


def _superseded(turn: Turn, status: ModelRolloutStatus) -> ModelRolloutStatus | None:
    wanted = turn.wanted.revision
    if wanted is None or wanted.revision == turn.candidate.revision:
        return None
    if turn.stable is not None and wanted.revision == turn.stable.revision:
        message = f"the spec names the stable revision {turn.stable.revision} again"
        return _roll_back(turn, status, RolloutPhase.SUPERSEDED, message)
    message = f"the spec names revision {wanted.revision} now"
    noted = _note(turn, status, Action.HOLD, Verdict.NOT_MEASURED, message)
    return _ended(turn, noted, RolloutPhase.SUPERSEDED, f"superseded: {message}")


def _node_failure(turn: Turn, status: ModelRolloutStatus) -> ModelRolloutStatus | None:
    failed = [
        node
        for node in turn.fleet.everyone
        if has_failed(node, turn.candidate.revision) and not _is_forgiven(status, node)
    ]
    if not failed:
        return None
    first = failed[0].report
    assert first is not None, failed[0].name
    reason = first.reason.value if first.reason is not None else "Failed"
    more = f" and {len(failed) - 1} more nodes" if len(failed) > 1 else ""
    said = f": {first.message}" if first.message else ""
    message = f"{reason} on {failed[0].name}{more}{said}"
    if _is_lone(failed, turn.asked(status)):
        return _ask(turn, status, Verdict.FAIL, f"{message} ({_LONE_NODE})")
    return _bad(turn, status, message)


def _lost_nodes(turn: Turn, status: ModelRolloutStatus) -> ModelRolloutStatus | None:
    silent = [node for node in turn.fleet.silent if has_taken(node, turn.candidate.revision)]
    if len(silent) < 2 or len(silent) <= unavailable_limit(turn.policy.budget, turn.fleet):
        return None
    took = [node for node in turn.fleet.eligible if has_taken(node, turn.candidate.revision)]
    took_names = {node.name for node in took}
    others = [
        node
        for node in (*turn.fleet.eligible, *turn.fleet.deferred)
        if node.name not in took_names and node.runtimes is not None
    ]
    lost_others = [node for node in others if not node.connected(turn.now)]
    # Where the others are lost as well it is the network, and says nothing about the model.
    if not any(node.connected(turn.now) for node in turn.fleet.eligible) or (
        others and 2 * len(lost_others) * len(took) >= len(silent) * len(others)
    ):
        return None
    return _bad(
        turn,
        status,
        f"{len(silent)} of {len(took)} nodes were lost after they took it: {names(silent)}; "
        f"of the others {len(lost_others)} of {len(others)} are lost",
    )


def _refused(turn: Turn, status: ModelRolloutStatus) -> ModelRolloutStatus | None:
    candidate = turn.candidate.revision
    refused = [
        node
        for node in turn.fleet.everyone
        if has_refused(node, candidate) and not _is_forgiven(status, node)
    ]
    if not refused:
        return None
    asked = [node for node in turn.asked(status) if node.connected(turn.now)]
    if any(not is_ordered(node, candidate) or not is_settled(node) for node in asked):
        return None
    report = refused[0].report
    assert report is not None, refused[0].name
    reasons = sorted({_reason_of(node) for node in refused})
    said = f": {report.message}" if report.message else ""
    message = (
        f"{len(refused)} of {len(asked)} asked nodes refused it by their own trust "
        f"({', '.join(reasons)}); {refused[0].name}{said}"
    )
    if _is_lone(refused, asked):
        return _ask(turn, status, Verdict.FAIL, f"{message} ({_LONE_NODE})")
    return _roll_back(turn, status, RolloutPhase.REFUSED, message)


def _is_lone(bad: Sequence[NodeView], asked: Sequence[NodeView]) -> bool:
    """Return True where one node speaks against many: a broken or captured one turns no fleet."""
    return len(bad) == 1 and len(asked) >= _MANY_NODES


def _is_forgiven(status: ModelRolloutStatus, node: NodeView) -> bool:
    """Return True where a person said to go on although this node had failed or refused."""
    promoted = [d.step for d in status.decisions if d.action == Action.PROMOTE]
    return _ordered_at(node) <= max(promoted, default=0)


def _bad(turn: Turn, status: ModelRolloutStatus, message: str) -> ModelRolloutStatus | None:
    """Return the way back for a candidate that is bad, or the question to a person."""
    if turn.policy.on_bad == "Pause":
        return _ask(turn, status, Verdict.FAIL, f"{message} (the policy says onBad: Pause)")
    return _take_back(turn, status, Verdict.FAIL, message)


def _take_back(
    turn: Turn, status: ModelRolloutStatus, verdict: Verdict, message: str
) -> ModelRolloutStatus | None:
    """Return the way back, or the question to a person where it was automatic too often today."""
    day_ago = turn.now - timedelta(days=1)
    taken_back = [
        at
        for entry in turn.deployment.status.condemned
        for at in (entry.at, entry.earlier)
        if at is not None and at > day_ago
    ]
    if len(taken_back) >= ROLLBACKS_A_DAY:
        note = f"{len(taken_back)} automatic rollbacks within a day: a person must decide"
        return _ask(turn, status, verdict, f"{message} ({note})")
    return _roll_back(turn, status, RolloutPhase.ROLLED_BACK, message, verdict=verdict)


def _roll_back(
    turn: Turn,
    status: ModelRolloutStatus,
    end: RolloutPhase,
    message: str,
    *,
    verdict: Verdict = Verdict.NOT_MEASURED,
) -> ModelRolloutStatus:
    noted = _note(turn, status, Action.ROLLBACK, verdict, message)
    update = {"phase": RolloutPhase.ROLLING_BACK, "reason": end.value, "message": message}
    return _moved(turn, noted, update)


def _end_rollback(turn: Turn, status: ModelRolloutStatus) -> ModelRolloutStatus | None:
    waiting = [node for node in turn.fleet.everyone if not is_back(turn, node)]
    if any(node.connected(turn.now) for node in waiting):
        return None
    end = RolloutPhase(status.reason or RolloutPhase.ROLLED_BACK)
    cause = status.decisions[-1].message if status.decisions else ""
    return _ended(turn, status, end, _epitaph(turn, end, cause, waiting))


def is_back(turn: Turn, node: NodeView) -> bool:
    """Return True where the node neither has the candidate nor is on its way to or from it."""
    candidate = turn.candidate.revision
    if is_ordered(node, candidate) or serves(node, candidate):
        return False
    if node.order is None or node.order.rollout is None:
        return True
    # Only orders of this rollout are waited for; a node that lags for another reason is not its
    # matter.
    if node.order.rollout.uid != turn.rollout.uid:
        return True
    return has_accepted(node) and is_settled(node)


def _epitaph(turn: Turn, end: RolloutPhase, cause: str, waiting: list[NodeView]) -> str:
    name = turn.deployment.name
    left = f"; {len(waiting)} offline return at first contact" if waiting else ""
    remedy = {
        RolloutPhase.ROLLED_BACK: f"; fix the model or run: linnet retry {name}",
        RolloutPhase.REFUSED: f"; sign it as the trust policies ask, or run: linnet retry {name}",
        RolloutPhase.ABORTED: f"; name another model or run: linnet retry {name}",
    }.get(end, "")
    if turn.stable is None:
        verb = {RolloutPhase.ROLLED_BACK: "stopped", RolloutPhase.REFUSED: "refused"}.get(
            end, "ended"
        )
        return (
            f"{verb}: {cause}; there was nothing to go back to, its nodes unloaded it{left}{remedy}"
        )
    matched = [node for node in turn.fleet.everyone if node.matched]
    serving = sum(serves(node, turn.stable.revision) for node in matched)
    total = turn.fleet.matched_count
    back_to = title(turn.stable, turn.revisions)
    verb = "rolled back to" if end is RolloutPhase.ROLLED_BACK else f"{end.value.lower()}, back on"
    if end is RolloutPhase.REFUSED:
        verb = "refused, all stay on"
    return (
        f"{verb} {back_to}: {cause}; {serving} of {total} nodes serve "
        f"{turn.stable.revision}{left}{remedy}"
    )


# ---------------------------------------------------------------- what moves it


def _start(turn: Turn, status: ModelRolloutStatus) -> ModelRolloutStatus | None:
    begun = status.model_copy(
        update={"started_at": turn.now, "moved_at": turn.now, "phase": RolloutPhase.LEARNING}
    )
    if turn.compares:
        return begun
    return _go_on(turn, begun, 0) or begun


def _learn(turn: Turn, status: ModelRolloutStatus) -> ModelRolloutStatus | None:
    if not turn.compares:
        return _go_on(turn, status, 0)
    evidence = turn.look_at(0)
    if evidence is None:
        return None
    unready = evidence.verdict in (Verdict.LEARNING, Verdict.NO_DATA, Verdict.PARTIAL)
    proceed = turn.policy.judge.history.on_missing == "Proceed"
    if evidence.verdict is Verdict.FLEET_TROUBLE or (unready and not proceed):
        return None
    known = status.model_copy(update={"evidence": evidence.ref or status.evidence})
    return _go_on(turn, known, 0)


def _bake_from_now(turn: Turn, status: ModelRolloutStatus) -> ModelRolloutStatus | None:
    if not is_all_in(turn, status):
        return None
    clock = bake.set_running(step_status(status, status.step), running=True, now=turn.now)
    return _moved(
        turn, _with_step(status, status.step, clock), {"phase": RolloutPhase.BAKING, "reason": None}
    )


def _gated(turn: Turn, status: ModelRolloutStatus) -> ModelRolloutStatus | None:
    """Return what the evidence of the step brings about."""
    if status.step == 0:
        return None
    gate = gate_of(turn, status)
    asked_for_fail = is_asking(status) and status.verdict is Verdict.FAIL
    match gate.action:
        case Action.ROLLBACK if gate.verdict is Verdict.FAIL:
            return None if asked_for_fail else _bad(turn, status, gate.message)
        case Action.ROLLBACK if status.phase is RolloutPhase.BAKING:
            return _take_back(turn, status, gate.verdict, gate.message)
        case Action.ASK if gate.verdict is Verdict.FAIL or status.phase is RolloutPhase.BAKING:
            return _ask(turn, status, gate.verdict, gate.message)
        case Action.ADVANCE if status.phase is RolloutPhase.BAKING or (
            is_asking(status) and not asked_for_fail
        ):
            noted = _note(turn, status, Action.ADVANCE, gate.verdict, gate.message)
            return _go_on(turn, noted, status.step)
        case _:
            return None


def gate_of(turn: Turn, status: ModelRolloutStatus) -> Gate:
    """Return what the gate of the recorded step says now."""
    judge = turn.policy.judge
    evidence = turn.look_at(status.step)
    baked = bake.served(step_status(status, status.step), turn.now) >= turn.bake(status.step)
    began = status.moved_at or turn.now
    facts = Facts(
        measures=turn.measures,
        may_go_unmeasured=all(each.dry_run for each in turn.limits)
        and (not turn.compares or judge.history.on_missing == "Proceed"),
        baked=baked,
        all_in=is_all_in(turn, status),
        late=status.phase is RolloutPhase.BAKING
        and turn.now - began > turn.decide_within(status.step),
        misfit=gates.misfit(
            turn.asked(status), evidence, revision=turn.candidate.revision, now=turn.now
        )
        if evidence is not None
        else None,
        gave_up=evidence is not None and evidence.gave_up,
    )
    return gates.pass_or_hold(evidence, facts, judge, now=turn.now)


def is_all_in(turn: Turn, status: ModelRolloutStatus) -> bool:
    """Return True where every asked node serves the candidate; a tenth may be silent.

    Nodes that had failed or refused when a person promoted are gone on without, as long as they are
    fewer than half.
    """
    asked = turn.asked(status)
    silent = {node.name for node in turn.fleet.silent}
    out = [node for node in asked if not is_in(node, turn.candidate.revision, now=turn.now)]
    missing = [
        node
        for node in out
        if not (_has_said_no(node, turn.candidate.revision) and _is_forgiven(status, node))
    ]
    if 2 * (len(out) - len(missing)) >= max(1, len(asked)):
        return False
    if any(node.name not in silent for node in missing):
        return False
    return bake.may_run(node_count=len(asked), missing_count=len(missing))


def _has_said_no(node: NodeView, candidate: str) -> bool:
    return has_failed(node, candidate) or has_refused(node, candidate)


def is_asking(status: ModelRolloutStatus) -> bool:
    """Return True where a person's decision is waited for."""
    return status.phase is RolloutPhase.WAITING and status.reason == WaitReason.DECISION


def next_steps(turn: Turn, step: int) -> range:
    """Return the steps (merged ones together) that come after ``step``; empty after the last."""
    first = turn.merged_to(step) + 1
    if first > len(turn.policy.steps):
        return range(0)
    return range(first, turn.merged_to(first) + 1)


def _promoted(turn: Turn, status: ModelRolloutStatus) -> ModelRolloutStatus | None:
    act = acts.fresh(turn.rollout, ActVerb.PROMOTE, step=status.step)
    if act is None or turn.deployment.spec.paused:
        return None
    noted = _note(turn, status, Action.PROMOTE, Verdict.NOT_MEASURED, f"promoted {acts.said(act)}")
    return _begin(turn, noted, next_steps(turn, status.step))


def _waited(turn: Turn, status: ModelRolloutStatus) -> ModelRolloutStatus | None:
    if is_asking(status):
        return None
    if status.reason == WaitReason.APPROVAL:
        # The word is recorded first: an approval is not lost to a pause or a closed window.
        if acts.approval(turn.rollout, steps=next_steps(turn, status.step)) is None:
            return None
        return _moved(turn, status, {"reason": WaitReason.WINDOW.value})
    return _go_on(turn, status, status.step)


def _go_on(turn: Turn, status: ModelRolloutStatus, step: int) -> ModelRolloutStatus | None:
    """Return the begin of what follows ``step``, or what it waits for first; None while held."""
    coming = next_steps(turn, step)
    if turn.held is not None or not turn.eligible_count:
        return None
    guarded = any(turn.policy.steps[n - 1].approval == "BeforeStep" for n in coming)
    approved = status.phase is RolloutPhase.WAITING and status.reason == WaitReason.WINDOW
    if guarded and not approved and acts.approval(turn.rollout, steps=coming) is None:
        return _wait(turn, status, WaitReason.APPROVAL)
    if coming and not windows.is_open(turn.policy.windows, turn.now):
        return _wait(turn, status, WaitReason.WINDOW)
    return _begin(turn, status, coming)


def _begin(turn: Turn, status: ModelRolloutStatus, coming: range) -> ModelRolloutStatus:
    """Return the begin of the steps ``coming``, which are one; Finishing where there is none."""
    stopped = _with_step(
        status,
        status.step,
        bake.set_running(step_status(status, status.step), running=False, now=turn.now),
    )
    if not coming:
        return _moved(turn, stopped, {"phase": RolloutPhase.FINISHING, "reason": None})
    step = coming[0]
    skipped = [
        StepStatus(quota=turn.quota(n), message=f"one with step {stopped.step}: the same nodes")
        for n in range(len(stopped.steps) + 1, step)
    ]
    new = StepStatus(quota=turn.quota(step), control=turn.control_count, started_at=turn.now)
    update = {
        "phase": RolloutPhase.STEPPING,
        "step": step,
        "steps": (*stopped.steps, *skipped, new),
        "reason": None,
        "verdict": Verdict.NOT_MEASURED,
    }
    return _moved(turn, stopped, update)


def _wait(turn: Turn, status: ModelRolloutStatus, reason: WaitReason) -> ModelRolloutStatus | None:
    if status.phase is RolloutPhase.WAITING and status.reason == reason:
        return None
    return _moved(turn, status, {"phase": RolloutPhase.WAITING, "reason": reason.value})


def _ask(
    turn: Turn, status: ModelRolloutStatus, verdict: Verdict, message: str
) -> ModelRolloutStatus | None:
    if is_asking(status) and status.verdict in (Verdict.FAIL, verdict):
        return None
    noted = _note(turn, status, Action.ASK, verdict, message)
    update = {
        "phase": RolloutPhase.WAITING,
        "reason": WaitReason.DECISION.value,
        "verdict": verdict,
    }
    return _moved(turn, noted, update)


def _complete(turn: Turn, status: ModelRolloutStatus) -> ModelRolloutStatus | None:
    if not turn.eligible_count or not is_all_in(turn, status):
        return None
    serving = sum(is_active(node, turn.candidate.revision) for node in turn.fleet.eligible)
    total = turn.fleet.matched_count
    deferred = f"; {len(turn.fleet.deferred)} deferred, they catch up by themselves"
    left = deferred if turn.fleet.deferred else ""
    message = f"{serving} of {total} nodes serve {title(turn.candidate, turn.revisions)}{left}"
    return _ended(turn, status, RolloutPhase.COMPLETED, message)


# ---------------------------------------------------------------- how it is written down


def _set_clock(turn: Turn, status: ModelRolloutStatus) -> ModelRolloutStatus:
    if status.phase not in (RolloutPhase.BAKING, RolloutPhase.WAITING):
        return status
    asked = turn.asked(status)
    missing = [node for node in asked if not is_in(node, turn.candidate.revision, now=turn.now)]
    running = bake.may_run(node_count=len(asked), missing_count=len(missing))
    step = step_status(status, status.step)
    return _with_step(status, status.step, bake.set_running(step, running=running, now=turn.now))


def _note(
    turn: Turn, status: ModelRolloutStatus, action: Action, verdict: Verdict, message: str
) -> ModelRolloutStatus:
    look = turn.look_at(status.step)
    judged = look is not None and look.verdict is verdict and status.step > 0
    decision = Decision(
        n=status.decisions[-1].n + 1 if status.decisions else 1,
        at=look.at if judged and look is not None else turn.now,
        step=status.step,
        verdict=verdict,
        action=action.value,
        message=message[:2048],
        evidence=look.ref if judged and look is not None else None,
    )
    decisions = (*status.decisions, decision)
    if len(decisions) > _DECISIONS_LIMIT:
        decisions = (decisions[0], *decisions[-_DECISIONS_LIMIT + 1 :])
    noted = status.model_copy(update={"decisions": decisions, "verdict": verdict})
    step = step_status(status, status.step).model_copy(
        update={"verdict": verdict, "message": message[:2048]}
    )
    return _with_step(noted, status.step, step)


def _with_step(status: ModelRolloutStatus, step: int, new: StepStatus) -> ModelRolloutStatus:
    if not 0 < step <= len(status.steps) or status.steps[step - 1] == new:
        return status
    steps = (*status.steps[: step - 1], new, *status.steps[step:])
    return status.model_copy(update={"steps": steps})


def _moved(
    turn: Turn, status: ModelRolloutStatus, update: Mapping[str, object]
) -> ModelRolloutStatus:
    waited_s = status.waited_s
    person = (WaitReason.APPROVAL, WaitReason.DECISION)
    if status.phase is RolloutPhase.WAITING and status.reason in person and status.moved_at:
        waited_s += max(0, int((turn.now - status.moved_at).total_seconds()))
    return status.model_copy(update={"moved_at": turn.now, "waited_s": waited_s, **update})


def _ended(
    turn: Turn, status: ModelRolloutStatus, end: RolloutPhase, message: str
) -> ModelRolloutStatus:
    stopped = _with_step(
        status,
        status.step,
        bake.set_running(step_status(status, status.step), running=False, now=turn.now),
    )
    return stopped.model_copy(
        update={
            "phase": end,
            "reason": end.value,
            "message": message[:2048],
            "moved_at": turn.now,
            "ended_at": turn.now,
            "waiting_for": None,
        }
    )


def _ordered_at(node: NodeView) -> int:
    order = node.order
    return order.rollout.step if order is not None and order.rollout is not None else 0


def _reason_of(node: NodeView) -> str:
    report = node.report
    return report.reason.value if report is not None and report.reason is not None else "Refused"


def deadline_passed(turn: Turn, status: ModelRolloutStatus) -> bool:
    """Return True where it has not moved for too long; waiting for a person does not count."""
    person = status.phase is RolloutPhase.WAITING and status.reason in (
        WaitReason.APPROVAL,
        WaitReason.DECISION,
    )
    if person or turn.held is not None or status.moved_at is None:
        return False
    return turn.now - status.moved_at > parse_duration(turn.policy.progress_deadline)
