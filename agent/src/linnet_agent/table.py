"""What is next on a node, and what came of it: pure functions over the journal and the facts.

- ``next_action(journal, facts)`` says the next step; a shell (or a simulator) takes it and tells
  ``begin`` and then one of ``succeed``, ``deny``, ``postpone``, ``fail`` what came of it. Nothing
  here does anything.
- A step that was done but not noted is seen to be done, and nothing is done twice (rule 8).
- An order with a lower sequence than one already taken up is not taken up (rule 7).
- A revision that failed on this node is not tried again until an order of another rollout asks for
  it.
- What was committed before and is on disk is a legal target; it needs no network, no self-test and
  no second soak (rule 3).
- The journal is never ahead of the disk: a result is noted after it is durable.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from linnet_agent.journal import (
    Action,
    Facts,
    Failure,
    Goal,
    Journal,
    Judged,
    Known,
    Order,
    Revert,
    Runtime,
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

_COUNTED: Final = frozenset({NodeState.SELF_TESTING, NodeState.ACTIVATING, NodeState.SOAKING})


# --- orders ---------------------------------------------------------------------------------------


def is_stale(journal: Journal, order: Order) -> bool:
    """Tell whether ``order`` is older than one that this node has taken up."""
    return order.sequence < journal.observed_sequence


def accept(journal: Journal, order: Order) -> Journal:
    """Return the journal with ``order`` taken up; it must not be stale.

    The same target again keeps its state, unless it failed and another rollout asks for it: that is
    a new attempt.
    """
    assert not is_stale(journal, order), (journal.observed_sequence, order.sequence)
    taken = replace(journal, observed_sequence=order.sequence, order=order)
    before = journal.order
    new_attempt = before is None or before.rollout != order.rollout
    if order.same_target(before) and not (new_attempt and journal.state in _ENDED_BADLY):
        # A rollout that has ended takes its baseline with it, and the floor may rise past that.
        settled = journal.state is NodeState.ACTIVE
        return replace(taken, floor=_raise_floor(taken)) if settled else taken
    failures = tuple(
        f for f in journal.failures if f.revision != order.revision or f.rollout == order.rollout
    )
    fresh = replace(
        taken,
        state=NodeState.PENDING,
        reason=NodeReason.WORKING,
        message="",
        resumes=0,
        failures=failures,
    )
    failed = next((f for f in failures if f.revision == order.revision), None)
    if failed is not None and order.goal is not Goal.ABSENT:
        return replace(
            fresh, state=failed.state, reason=failed.reason, message=_once_more(failed.message)
        )
    return fresh


def resume(journal: Journal) -> Journal:
    """Return the journal as an agent that has just started takes it up."""
    state = RESUME[journal.state]
    working = journal.reason is NodeReason.WORKING  # who only waits for something does no harm
    counted = (journal.state in _COUNTED and working) or journal.revert is not None
    return replace(journal, state=state, resumes=journal.resumes + counted)


def is_legal_anyway(journal: Journal, revision: str, reason: NodeReason) -> bool:
    """Tell whether a revision may be gone back to although today's trust says ``reason``.

    What this node has committed to and still has is always a legal target (rule 3): neither a
    floor that rose nor a key that was rotated may strand it on a candidate that is bad. What was
    revoked by name is not.
    """
    return _is_home(journal, revision) and reason is not NodeReason.REVOKED


# --- what is next ---------------------------------------------------------------------------------


def next_action(journal: Journal, facts: Facts) -> Action:
    """Return the next step; REST where the node is where its order wants it, or can get no further.

    The same journal and facts give the same step. A step that has been taken shows in the facts, so
    that repeating the question moves on.
    """
    if journal.revert is not None:
        return _go_back(journal, journal.revert, facts)
    order = journal.order
    if order is None or (facts.vanished and not _is_midway(journal, order, facts)):
        return _mend(journal, facts)
    if order.goal is Goal.ABSENT:
        return _leave(journal, facts)
    assert order.revision is not None, order
    if journal.state in (NodeState.FAILED, NodeState.REVERTED):
        return _mend(journal, facts)
    if journal.state is NodeState.REFUSED and not _trust_has_changed(journal, facts):
        return _mend(journal, facts)
    if journal.resumes > MAX_RESUMES and not _is_home(journal, order.revision):
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


def _prepare(journal: Journal, revision: str, facts: Facts) -> Action | None:
    """Return the step that is missing until the revision is on disk, allowed and tested."""
    known = journal.known.get(revision)
    if known is None or revision not in facts.complete:
        step = Step.FETCH if facts.allowed == revision else Step.VERIFY
        return Action(step, revision)
    if facts.current == revision:
        return None
    if known.policy_hash != facts.policy_hash:
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
    if journal.state is NodeState.ACTIVE and journal.committed == revision:
        if journal.reason is NodeReason.ACTIVE:
            return _mend(journal, facts)
        return Action(Step.SETTLE, state=NodeState.ACTIVE, reason=NodeReason.ACTIVE)
    if _is_home(journal, revision):
        return Action(Step.COMMIT, revision)
    if journal.state is not NodeState.SOAKING or not _soaks_since(journal, revision, facts.now):
        return Action(Step.SOAK, revision)
    if (fault := soak_fault(journal, facts)) is not None:
        return Action(Step.REVERT, revision, reason=NodeReason.SOAK_FAILED, message=fault)
    assert journal.activated_at is not None
    until = journal.activated_at + timedelta(seconds=order.soak_s)
    if facts.now >= until:
        return Action(Step.COMMIT, revision)
    return Action(Step.WAIT, revision, until=until)


def _soaks_since(journal: Journal, revision: str, now: datetime) -> bool:
    """Tell whether the soak has begun; not where it begins in the future: a clock was set."""
    return (
        journal.activated == revision
        and journal.activated_at is not None
        and journal.activated_at <= now
    )


def _go_back(journal: Journal, revert: Revert, facts: Facts) -> Action:
    """Return the next step back. A server that is gone does not hold it up: the link decides."""
    end = Action(
        Step.SETTLE, state=NodeState.REVERTED, reason=revert.reason, message=revert.message
    )
    server, to = facts.server, revert.to
    if to is None or to not in facts.complete:
        return end if _is_unloaded(facts) else Action(Step.UNLOAD)
    files_only = _runtime(journal, to) == "Files"
    if facts.current != to:
        if server is not None and not files_only and to not in (server.staged, server.active):
            return Action(Step.STAGE, to)
        return Action(Step.SWAP, to)
    if server is None or files_only or server.active == to:
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
    if server is None or current is None or _runtime(journal, current) == "Files":
        return _REST
    if server.active == current:
        return Action(Step.UNSTAGE) if server.staged not in (None, current) else _REST
    if server.loading == current:
        return Action(Step.WAIT, current)
    return Action(Step.FLIP if server.staged == current else Step.STAGE, current)


def _is_unloaded(facts: Facts) -> bool:
    server = facts.server
    return facts.current is None and (
        server is None
        or (server.active is None and server.loading is None and server.staged is None)
    )


def _is_midway(journal: Journal, order: Order, facts: Facts) -> bool:
    return facts.current is not None and facts.current == order.revision != journal.committed


def _is_home(journal: Journal, revision: str) -> bool:
    """Tell whether the revision was committed here, so that it may be gone back to (rule 3).

    Only what is still on the disk counts: what was evicted and is fetched again is new.
    """
    known = journal.known.get(revision)
    return known is not None and known.committed


def _trust_has_changed(journal: Journal, facts: Facts) -> bool:
    return journal.judged is None or journal.judged.policy_hash != facts.policy_hash


def _runtime(journal: Journal, revision: str) -> Runtime:
    known = journal.known.get(revision)
    return "Linnet" if known is None else known.runtime


# --- what came of it ------------------------------------------------------------------------------

_STATE_OF: Final[Mapping[Step, NodeState]] = {
    Step.VERIFY: NodeState.VERIFYING,
    Step.FETCH: NodeState.FETCHING,
    Step.SELF_TEST: NodeState.SELF_TESTING,
    Step.STAGE: NodeState.ACTIVATING,
    Step.SWAP: NodeState.ACTIVATING,
    Step.FLIP: NodeState.ACTIVATING,
}

_ENDED_BADLY: Final = frozenset({NodeState.FAILED, NodeState.REVERTED, NodeState.REFUSED})


def begin(journal: Journal, action: Action) -> Journal:
    """Return the journal to be written before ``action`` is taken; unchanged where the state is."""
    state = _STATE_OF.get(action.step)
    if state is None or journal.revert is not None or journal.state in _ENDED_BADLY:
        return journal
    order = journal.order
    if order is None or action.revision != order.revision or state is journal.state:
        return journal
    return replace(journal, state=state, reason=NodeReason.WORKING, message="")


def succeed(
    journal: Journal,
    action: Action,
    facts: Facts,
    *,
    judged: Judged | None = None,
    known: Known | None = None,
) -> Journal:
    """Return the journal after ``action`` was done and is durable.

    Args:
        journal: As ``begin`` returned it.
        action: What was done.
        facts: As they were when it was decided.
        judged: Of VERIFY: the decision, allowed.
        known: Of FETCH: what is on disk now.
    """
    revision = action.revision
    match action.step:
        case Step.VERIFY:
            assert judged is not None
            assert judged.allowed, judged
            return _allow(journal, judged)
        case Step.FETCH:
            assert revision is not None
            assert known is not None
            return replace(journal, known={**journal.known, revision: known})
        case Step.SELF_TEST:
            assert revision is not None
            return _update_known(journal, revision, tested=True)
        case Step.SWAP if journal.revert is None:
            server = facts.server
            served = server is not None and server.active is not None
            before = (server.requests, server.failures) if server is not None and served else None
            return replace(journal, before=before)
        case Step.SOAK:
            return _start_soak(journal, revision, facts)
        case Step.COMMIT:
            assert revision is not None
            return _commit(journal, revision, facts)
        case Step.REVERT | Step.GIVE_UP:
            return fail(journal, action, facts, reason=action.reason, message=action.message)
        case Step.SETTLE:
            return _settle(journal, action, facts)
        case _:
            return journal


def deny(journal: Journal, judged: Judged, facts: Facts) -> Journal:
    """Return the journal after the node's trust has refused; what is current stays."""
    assert not judged.allowed, judged
    return replace(
        _forget_incomplete(journal, facts),
        state=NodeState.REFUSED,
        reason=judged.reason,
        message=judged.message,
        judged=judged,
        resumes=0,
    )


def postpone(journal: Journal, *, reason: NodeReason, message: str) -> Journal:
    """Return the journal while a step waits for something outside; the state stays.

    The first sentence stands while the reason does: a retry that fails alike is not news (rule 11).
    """
    if journal.reason is reason or journal.state in _ENDED_BADLY:
        return journal
    return replace(journal, reason=reason, message=message)


def recover(journal: Journal) -> Journal:
    """Return the journal after what it waited for is there again."""
    settled = journal.state.settled or journal.revert is not None
    if settled or journal.reason is NodeReason.WORKING:
        return journal
    return replace(journal, reason=NodeReason.WORKING, message="")


def fail(
    journal: Journal, action: Action, facts: Facts, *, reason: NodeReason, message: str
) -> Journal:
    """Return the journal after ``action`` failed for good: the way back begins, or it is Failed."""
    order = journal.order
    at_home = order is None or journal.revert is not None or action.revision != order.revision
    if at_home or (action.revision is not None and journal.committed == action.revision):
        # What was good cannot be loaded now: there is nothing better to go back to, so it is tried
        # again.
        return postpone(journal, reason=reason, message=message)
    assert order is not None
    if facts.current is not None and facts.current == order.revision:
        noted = _note_failure(journal, NodeState.REVERTED, reason, message)
        to = _way_back(journal, order, facts)
        way = Revert(of=facts.current, to=to, reason=reason, message=message)
        return replace(noted, revert=way, reason=reason, message=message)
    noted = _note_failure(journal, NodeState.FAILED, reason, message)
    return replace(noted, state=NodeState.FAILED, reason=reason, message=message, resumes=0)


def _allow(journal: Journal, judged: Judged) -> Journal:
    judged_now = replace(journal, judged=judged)
    if journal.state is NodeState.REFUSED:
        judged_now = replace(
            judged_now, state=NodeState.VERIFYING, reason=NodeReason.WORKING, message=""
        )
    if judged.revision in journal.known:
        return _update_known(judged_now, judged.revision, policy_hash=judged.policy_hash)
    return judged_now


def _start_soak(journal: Journal, revision: str | None, facts: Facts) -> Journal:
    assert revision is not None
    resumed = _soaks_since(journal, revision, facts.now)
    return replace(
        journal,
        state=NodeState.SOAKING,
        reason=NodeReason.WORKING,
        message="",
        activated=revision,
        activated_at=journal.activated_at if resumed else facts.now,
    )


def _commit(journal: Journal, revision: str, facts: Facts) -> Journal:
    kept = journal.activated == revision and journal.activated_at is not None
    committed = replace(
        _update_known(_forget_incomplete(journal, facts), revision, committed=True, tested=True),
        state=NodeState.ACTIVE,
        reason=NodeReason.ACTIVE,
        message="",
        committed=revision,
        activated=revision,
        activated_at=journal.activated_at if kept else facts.now,
        resumes=0,
    )
    return replace(committed, floor=_raise_floor(committed))


def _raise_floor(journal: Journal) -> int | None:
    """Return the floor: it rises only past the oldest of what is current and what is baseline."""
    baseline = journal.order.baseline if journal.order is not None else None
    held = [r for r in (journal.committed, baseline) if r is not None and r in journal.known]
    counters = [journal.known[r].counter for r in held]
    if not counters or any(counter is None for counter in counters):
        return journal.floor
    lowest = min(counter for counter in counters if counter is not None)
    return lowest if journal.floor is None else max(journal.floor, lowest)


def _settle(journal: Journal, action: Action, facts: Facts) -> Journal:
    assert action.state is not None, action
    settled = replace(
        journal, state=action.state, reason=action.reason, message=action.message, resumes=0
    )
    if action.state is NodeState.ABSENT:
        return replace(settled, committed=None, activated=None, activated_at=None, before=None)
    if journal.revert is None:
        return settled
    back = journal.revert.to
    reverted = replace(
        settled,
        revert=None,
        committed=back,
        activated=back,
        activated_at=None if back is None else facts.now,
        before=None,
    )
    if journal.order is not None and journal.order.revision == journal.revert.of:
        return reverted
    # Another order came in meanwhile: now it has its turn.
    return replace(reverted, state=NodeState.PENDING, reason=NodeReason.WORKING, message="")


def _note_failure(journal: Journal, state: NodeState, reason: NodeReason, message: str) -> Journal:
    order = journal.order
    assert order is not None
    assert order.revision is not None
    failure = Failure(order.revision, order.rollout, state, reason, message)
    others = tuple(f for f in journal.failures if f.revision != order.revision)
    return replace(journal, failures=(*others, failure)[-16:])


def _way_back(journal: Journal, order: Order, facts: Facts) -> str | None:
    """Return where to go back to: committed last, else the baseline, else the one before."""
    for revision in (journal.committed, order.baseline, facts.previous):
        known = journal.known.get(revision) if revision is not None else None
        if known is None or revision == order.revision or revision not in facts.complete:
            continue
        if known.committed:
            return revision
    return None


def _update_known(journal: Journal, revision: str, **changes: object) -> Journal:
    known = replace(journal.known[revision], **changes)  # type: ignore[arg-type]  # named at each call
    return replace(journal, known={**journal.known, revision: known})


def _forget_incomplete(journal: Journal, facts: Facts) -> Journal:
    known = {r: k for r, k in journal.known.items() if r in facts.complete}
    return replace(journal, known=known)


def _once_more(message: str) -> str:
    suffix = " (not tried again in this rollout)"
    return message if message.endswith(suffix) else message + suffix
