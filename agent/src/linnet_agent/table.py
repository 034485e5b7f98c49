"""What is next on a node: a pure function over what it remembers and what it can see.

- ``next_action(journal, facts)`` says the next step; a shell (or a simulator) takes it and tells
  ``outcome`` what came of it. Nothing here does anything.
- A step that was done but not noted is seen to be done, and nothing is done twice (rule 8).
- What was committed before, is on disk and was not revoked is a legal target; it needs no network,
  no self-test and no second soak (rule 3).
- When trust changes, all that serves or could be gone back to is judged again. What was revoked is
  left for the last good one; where none is left it serves on, unless the node's own ceiling has
  revoked it.
- What has rotted on the disk is left for the last good copy, and fetched again; where there is
  none, what is in memory serves on meanwhile.
- A NodeModel that vanishes is not an order (rule 7).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from linnet_agent.journal import (
    Action,
    Facts,
    Goal,
    Journal,
    Known,
    Order,
    Revert,
    Runtime,
    Standing,
    Step,
)
from linnet_agent.soak import soak_fault
from linnet_api.reasons import NodeReason, NodeState

MAX_RESUMES: Final = 5
"""So often may the agent be started in the middle of one activation; then the model is suspected of
killing the node."""

SERVER_GRACE_S: Final = 20.0
"""So long may the server be away after a swap before the swap is blamed; a restart with a load
takes seconds."""

_REST: Final = Action(Step.REST)

RESUME: Final[Mapping[NodeState, NodeState]] = {
    NodeState.PENDING: NodeState.PENDING,
    NodeState.VERIFYING: NodeState.PENDING,  # what was read from the registry is lost: verify again
    NodeState.FETCHING: NodeState.PENDING,  # verify again; the fetch goes on where it was
    NodeState.SELF_TESTING: NodeState.SELF_TESTING,  # again, and counted
    NodeState.ACTIVATING: NodeState.ACTIVATING,  # link and server tell how far it came; counted
    NodeState.SOAKING: NodeState.SOAKING,  # what is left of the soak; counted
    NodeState.STAGED: NodeState.STAGED,
    NodeState.ACTIVE: NodeState.ACTIVE,
    NodeState.FAILED: NodeState.FAILED,
    NodeState.REVERTED: NodeState.REVERTED,
    NodeState.REFUSED: NodeState.REFUSED,
    NodeState.ABSENT: NodeState.ABSENT,
}
"""Where an agent that starts goes on, by the state that its journal holds."""


def next_action(journal: Journal, facts: Facts) -> Action:
    """Return the next step; REST where the node is where its order wants it, or can get no further.

    The same journal and facts give the same step. A step that has been taken shows in the facts, so
    that repeating the question moves on.
    """
    action = _rejudge(journal, facts) or _advance(journal, facts)
    if action.step is Step.REST:
        return _repair(journal, facts) or action
    return action


def keep_revisions(journal: Journal, facts: Facts) -> frozenset[str]:
    """Return the revisions that must stay on disk: all others may go (rule 3)."""
    order = journal.order
    kept = {facts.current, facts.previous, journal.committed}
    if order is not None:
        kept.add(order.baseline)
        if order.goal is Goal.ABSENT:
            kept = {facts.current, order.baseline}
        elif journal.state not in (NodeState.FAILED, NodeState.REFUSED):
            kept.add(order.revision)
    if journal.revert is not None:
        kept.add(journal.revert.to)
    return frozenset(revision for revision in kept if revision is not None)


def is_home(journal: Journal, revision: str) -> bool:
    """Tell whether the revision was committed here, so that it may be gone back to (rule 3).

    Only what is still on the disk counts: what was evicted and is fetched again is new.
    """
    known = journal.known.get(revision)
    return known is not None and known.committed


def is_legal_anyway(journal: Journal, revision: str, standing: Standing) -> bool:
    """Tell whether a revision may be gone back to whatever else today's trust says of it.

    What this node has committed to and still has is always a legal target (rule 3): neither a
    floor that rose nor a key that was rotated may strand it on a candidate that is bad. What was
    revoked is not.
    """
    return is_home(journal, revision) and standing is Standing.GOOD


def way_back(journal: Journal, facts: Facts, *, leaving: str | None) -> str | None:
    """Return where to go back to: committed last, else the baseline, else the one before."""
    baseline = journal.order.baseline if journal.order is not None else None
    for revision in (journal.committed, baseline, facts.previous):
        if revision is None or revision == leaving or revision not in facts.complete:
            continue
        known = journal.known.get(revision)
        if known is not None and known.committed and known.standing is Standing.GOOD:
            return revision
    return None


@dataclass(frozen=True, slots=True)
class Alarm:
    """What a person should know although the node serves."""

    reason: NodeReason
    message: str


def alarm(
    journal: Journal, *, current: str | None, complete: frozenset[str], corrupt: Mapping[str, str]
) -> Alarm | None:
    """Return what is wrong with what serves, or with what stands behind it."""
    if current is None:
        return None
    standing, why = _standing(journal, current)
    if standing is not Standing.GOOD:
        kept = "the policy lets it serve on" if standing is Standing.KEPT else "it serves on"
        none_left = "" if standing is Standing.KEPT else ", and no other is left on this node"
        return Alarm(
            NodeReason.REVOKED,
            f"what serves was revoked{none_left}: {kept}; name another model in the deployment. "
            f"{why}",
        )
    rotten = current if current not in complete else next(iter(sorted(corrupt)), None)
    if rotten is None:
        return None
    what = "what serves" if rotten == current else f"revision {rotten}, which this node keeps,"
    fault = corrupt.get(rotten, "it cannot be read")
    return Alarm(
        NodeReason.CORRUPT,
        f"{what} is not on the disk as it was verified: {fault}; it is fetched again, and what is "
        "in memory serves on",
    )


# --- trust and disk, before anything else ---------------------------------------------------------


def _rejudge(journal: Journal, facts: Facts) -> Action | None:
    """Return the question to ask of today's trust, where it is another than yesterday's."""
    if not facts.policy_hash:
        return None
    for revision in sorted(facts.complete & journal.known.keys()):
        known = journal.known[revision]
        matters = known.committed or revision == facts.current
        if matters and known.policy_hash != facts.policy_hash:
            return Action(Step.REJUDGE, revision)
    return None


def _leave_bad(journal: Journal, facts: Facts) -> Action | None:
    """Return the way back from what may not serve, or whose files are gone."""
    current = facts.current
    if current is None:
        return None
    standing, why = _standing(journal, current)
    to = way_back(journal, facts, leaving=current)
    if standing is Standing.FORBIDDEN or (standing is Standing.REVOKED and to is not None):
        return Action(Step.REVERT, current, reason=NodeReason.REVOKED, message=why)
    if current not in facts.complete and to is not None:
        fault = facts.corrupt.get(current, "it cannot be read")
        message = f"its files are not what was verified, and are fetched again: {fault}"
        return Action(Step.REVERT, current, reason=NodeReason.CORRUPT, message=message)
    return None


def _repair(journal: Journal, facts: Facts) -> Action | None:
    """Return the repair of what must stay on disk and has rotted; where nothing else is to do."""
    kept = keep_revisions(journal, facts)
    for revision in sorted(facts.corrupt.keys() & kept & journal.known.keys()):
        if revision == facts.current or _standing(journal, revision)[0] is Standing.GOOD:
            return Action(Step.REPAIR, revision)
    return None


def _standing(journal: Journal, revision: str) -> tuple[Standing, str]:
    known = journal.known.get(revision)
    return (Standing.GOOD, "") if known is None else (known.standing, known.why)


# --- the order ------------------------------------------------------------------------------------


def _advance(journal: Journal, facts: Facts) -> Action:
    if journal.revert is not None:
        return _go_back(journal, journal.revert, facts)
    order = journal.order
    leaving = order is not None and order.goal is Goal.ABSENT and not facts.vanished
    if not leaving and (away := _leave_bad(journal, facts)) is not None:
        return away
    if order is None or (facts.vanished and not _is_midway(journal, order, facts)):
        return _mend(journal, facts)
    if order.goal is Goal.ABSENT:
        return _leave(journal, facts)
    assert order.revision is not None, order
    if journal.state in (NodeState.FAILED, NodeState.REVERTED):
        return _mend(journal, facts)
    if journal.state is NodeState.REFUSED and not _trust_has_changed(journal, facts):
        return _mend(journal, facts)
    if journal.resumes > MAX_RESUMES and not is_home(journal, order.revision):
        return Action(
            Step.GIVE_UP,
            order.revision,
            reason=NodeReason.LOOP_BREAKER,
            message=f"the agent was ended {journal.resumes} times while it activated this revision",
        )
    return _prepare(journal, order.revision, facts) or (
        _rest_staged(journal, facts)
        if order.goal is Goal.STAGED
        else _activate(journal, order, order.revision, facts)
    )


def _prepare(journal: Journal, revision: str, facts: Facts) -> Action | None:
    """Return the step that is missing until the revision is on disk, allowed and tested."""
    known = journal.known.get(revision)
    if known is not None and revision in facts.corrupt and known.standing is Standing.GOOD:
        return Action(Step.REPAIR, revision)
    if known is None or revision not in facts.complete:
        step = Step.FETCH if facts.allowed == revision else Step.VERIFY
        return Action(step, revision)
    if facts.current == revision:
        return None
    if known.policy_hash != facts.policy_hash or known.standing is not Standing.GOOD:
        return Action(Step.VERIFY, revision)  # from what is kept beside it: no network
    return None if known.tested else Action(Step.SELF_TEST, revision)


def _rest_staged(journal: Journal, facts: Facts) -> Action:
    if journal.state is NodeState.STAGED and journal.reason is NodeReason.STAGED:
        return _mend(journal, facts)
    return Action(Step.SETTLE, state=NodeState.STAGED, reason=NodeReason.STAGED)


def _activate(journal: Journal, order: Order, revision: str, facts: Facts) -> Action:
    server = facts.server
    if journal.known[revision].runtime == "Files":
        if facts.current != revision:
            return Action(Step.SWAP, revision)
        if not _is_settled(journal, revision) and not _is_handed_over(journal, revision, facts):
            return Action(Step.FLIP, revision)
        return _soak(journal, order, revision, facts)
    if server is None:
        return _wait_for_server(journal, revision, facts)
    if facts.current == revision:
        if server.active == revision:
            return _soak(journal, order, revision, facts)
        if server.loading == revision:
            return Action(Step.WAIT, revision)
    if revision not in (server.staged, server.active):
        return Action(Step.STAGE, revision)
    if facts.current != revision:
        return Action(Step.SWAP, revision)
    return Action(Step.FLIP, revision)


def _wait_for_server(journal: Journal, revision: str, facts: Facts) -> Action:
    swapped = facts.current == revision and journal.committed != revision
    if swapped and facts.server_gone_s >= SERVER_GRACE_S:
        return Action(
            Step.REVERT,
            revision,
            reason=NodeReason.SOAK_FAILED,
            message=f"the server has been gone for {facts.server_gone_s:.0f} s since the swap",
        )
    if journal.state is NodeState.ACTIVE and facts.server_gone_s < SERVER_GRACE_S:
        return Action(Step.WAIT, revision)  # a restart is not worth a word
    return Action(
        Step.WAIT,
        revision,
        reason=NodeReason.SERVER_UNAVAILABLE,
        message="linnet-server does not answer on its control socket: check that it runs",
    )


def _soak(journal: Journal, order: Order, revision: str, facts: Facts) -> Action:
    if _is_settled(journal, revision):
        if journal.reason is NodeReason.ACTIVE:
            return _mend(journal, facts)
        return Action(Step.SETTLE, state=NodeState.ACTIVE, reason=NodeReason.ACTIVE)
    if is_home(journal, revision):
        return Action(Step.COMMIT, revision)
    if journal.state is not NodeState.SOAKING or not soaks_since(journal, revision, facts.now):
        return Action(Step.SOAK, revision)
    if (fault := soak_fault(journal, facts)) is not None:
        return Action(Step.REVERT, revision, reason=NodeReason.SOAK_FAILED, message=fault)
    assert journal.activated_at is not None
    until = journal.activated_at + timedelta(seconds=order.soak_s)
    if facts.now >= until and facts.sick:
        return Action(
            Step.REVERT, revision, reason=NodeReason.SOAK_FAILED, message=f"not well: {facts.sick}"
        )
    if facts.now >= until:
        return Action(Step.COMMIT, revision)
    return Action(Step.WAIT, revision, until=until)


def soaks_since(journal: Journal, revision: str, now: datetime) -> bool:
    """Tell whether the soak has begun; not where it begins in the future: a clock was set."""
    return (
        journal.activated == revision
        and journal.activated_at is not None
        and journal.activated_at <= now
    )


# --- the way back, the way out, and peace ---------------------------------------------------------


def _go_back(journal: Journal, revert: Revert, facts: Facts) -> Action:
    """Return the next step back. A server that is gone does not hold it up: the link decides."""
    end = Action(Step.SETTLE, state=revert.state, reason=revert.reason, message=revert.message)
    server, to = facts.server, revert.to
    if to is None or to not in facts.complete or _standing(journal, to)[0] is not Standing.GOOD:
        to = way_back(journal, facts, leaving=revert.of)
    if to is None:
        if not revert.unload:
            return Action(Step.STAY, facts.current)
        return end if _is_unloaded(facts) else Action(Step.UNLOAD)
    files_only = runtime_of(journal, to) == "Files"
    if facts.current != to:
        if server is not None and not files_only and to not in (server.staged, server.active):
            return Action(Step.STAGE, to)
        return Action(Step.SWAP, to)
    if files_only:
        return end if _is_handed_over(journal, to, facts) else Action(Step.FLIP, to)
    if server is None or server.active == to:
        return end
    if server.loading == to:
        return Action(Step.WAIT, to)
    return Action(Step.FLIP if server.staged == to else Step.STAGE, to)


def _leave(journal: Journal, facts: Facts) -> Action:
    if journal.state is NodeState.ABSENT and _is_unloaded(facts):
        return _REST
    if facts.current is not None or (facts.server is not None and not _is_unloaded(facts)):
        return Action(Step.UNLOAD)
    if facts.server is None and facts.server_gone_s < SERVER_GRACE_S:
        return Action(Step.WAIT)
    return Action(Step.SETTLE, state=NodeState.ABSENT, reason=NodeReason.ABSENT)


def _mend(journal: Journal, facts: Facts) -> Action:
    """Return what brings the server back to what is current, where it is not; else REST."""
    server, current = facts.server, facts.current
    if current is not None and runtime_of(journal, current) == "Files":
        reload = facts.hook and journal.reload == current and current in facts.complete
        return Action(Step.FLIP, current, fresh=True) if reload or _is_held(facts) else _REST
    if server is None or current is None:
        return _REST
    if server.active == current and journal.reload == current and current in facts.complete:
        return Action(Step.FLIP if server.staged == current else Step.STAGE, current, fresh=True)
    if server.active == current:
        return Action(Step.UNSTAGE) if server.staged not in (None, current) else _REST
    if server.loading == current:
        return Action(Step.WAIT, current)
    return Action(Step.FLIP if server.staged == current else Step.STAGE, current)


def _is_unloaded(facts: Facts) -> bool:
    return facts.current is None and not _is_held(facts)


def _is_held(facts: Facts) -> bool:
    """Tell whether the server has any revision of this model."""
    server = facts.server
    return server is not None and not (
        server.active is None and server.loading is None and server.staged is None
    )


def _is_handed_over(journal: Journal, revision: str, facts: Facts) -> bool:
    """Tell whether files are with the program that uses them, and with nobody else."""
    return not _is_held(facts) and (not facts.hook or journal.told == revision)


def _is_settled(journal: Journal, revision: str) -> bool:
    return journal.state is NodeState.ACTIVE and journal.committed == revision


def _is_midway(journal: Journal, order: Order, facts: Facts) -> bool:
    return facts.current is not None and facts.current == order.revision != journal.committed


def _trust_has_changed(journal: Journal, facts: Facts) -> bool:
    return journal.judged is None or journal.judged.policy_hash != facts.policy_hash


def runtime_of(journal: Journal, revision: str) -> Runtime:
    """Return what runs a revision."""
    known: Known | None = journal.known.get(revision)
    return "Linnet" if known is None else known.runtime
