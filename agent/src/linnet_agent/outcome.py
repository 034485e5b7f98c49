"""What came of an order or of a step: pure functions from one journal to the next.

- The journal is never ahead of the disk: a result is noted after it is durable.
- An order with a lower sequence than one already taken up is not taken up (rule 7).
- A revision that failed on this node is not tried again until an order of another rollout asks for
  it; nor what was taken back here, by a hub that has forgotten that: a deployment made anew, or one
  that counts its rollouts anew.
- What waits for something outside says so once; the state stays.
"""

from dataclasses import replace
from typing import Final

from linnet_agent.journal import (
    Action,
    Condemned,
    Facts,
    Failure,
    Goal,
    Journal,
    Judged,
    Known,
    Order,
    Revert,
    SelfTested,
    Standing,
    Step,
)
from linnet_agent.table import RESUME, soaks_since, way_back
from linnet_api.reasons import NodeReason, NodeState

MAX_CONDEMNED: Final = 64

_COUNTED: Final = frozenset({NodeState.SELF_TESTING, NodeState.ACTIVATING, NodeState.SOAKING})

_ENDED_BADLY: Final = frozenset({NodeState.FAILED, NodeState.REVERTED, NodeState.REFUSED})

_MODELS_FAULT: Final = frozenset(
    {
        NodeReason.CONTENT_REFUSED,
        NodeReason.NOT_ONNX,
        NodeReason.SELF_TEST_FAILED,
        NodeReason.SELF_TEST_TIMEOUT,
        NodeReason.SELF_TEST_CRASHED,
        NodeReason.NOT_DETERMINISTIC,
        NodeReason.LOAD_FAILED,
        NodeReason.SOAK_FAILED,
        NodeReason.LOOP_BREAKER,
    }
)
"""What condemns an artifact: not a registry, a disk, a name that is taken or a budget."""


# --- orders ---------------------------------------------------------------------------------------


def is_stale(journal: Journal, order: Order) -> bool:
    """Return True where ``order`` is older than one that this node has taken up."""
    return order.sequence < journal.observed_sequence


def accept(journal: Journal, order: Order) -> Journal:
    """Return the journal with ``order`` taken up; it must not be stale.

    The same target again keeps its state, unless it failed and another rollout asks for it: that is
    a new attempt.
    """
    assert not is_stale(journal, order), (journal.observed_sequence, order.sequence)
    before = journal.order
    taken = _note_rollback(
        replace(journal, observed_sequence=order.sequence, order=order), before, order
    )
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
    if order.goal is Goal.ABSENT:
        return fresh
    failed = next((f for f in failures if f.revision == order.revision), None)
    if failed is not None:
        return replace(
            fresh, state=failed.state, reason=failed.reason, message=_once_more(failed.message)
        )
    return _refuse_forgotten(fresh, order)


def resume(journal: Journal) -> Journal:
    """Return the journal as an agent that has just started takes it up."""
    state = RESUME[journal.state]
    working = journal.reason is NodeReason.WORKING  # who only waits for something does no harm
    counted = (journal.state in _COUNTED and working) or journal.revert is not None
    return replace(journal, state=state, resumes=journal.resumes + counted)


def _note_rollback(journal: Journal, before: Order | None, order: Order) -> Journal:
    """Condemn what a rollout had asked for and now takes back itself."""
    taken_back = (
        before is not None
        and before.goal is Goal.ACTIVE
        and before.rollout is not None
        and before.rollout == order.rollout
        and before.revision not in (None, order.revision, before.baseline)
        and (order.goal is Goal.ABSENT or order.revision == before.baseline)
    )
    if not taken_back:
        return journal
    assert before is not None
    return _condemn(journal, before, "the rollout that brought it took it back")


def _condemn(journal: Journal, order: Order, why: str) -> Journal:
    if not order.artifact:
        return journal
    entry = Condemned(order.artifact, order.owner, order.rollout, order.rollout_number, why)
    others = [c for c in journal.condemned if c.artifact != order.artifact]
    return replace(journal, condemned=tuple([*others, entry][-MAX_CONDEMNED:]))


def _refuse_forgotten(journal: Journal, order: Order) -> Journal:
    """Refuse what was taken back here, where the hub does not know that any more.

    A hub that remembers asks for it again only on a person's word, and that is a later rollout of
    the same deployment. What this node serves already is not asked for again.
    """
    entry = next((c for c in journal.condemned if c.artifact == order.artifact), None)
    if entry is None or order.revision == journal.committed or not _is_forgotten(entry, order):
        return journal
    message = (
        f"this node has taken {order.artifact} back before: {entry.why}. The deployment does not "
        "know that: it was made anew, or restored from a backup"
    )
    # From now on it is this deployment that knows: its next rollout is a person's word.
    noted = _condemn(journal, order, entry.why)
    return replace(
        _note_failure(noted, NodeState.FAILED, NodeReason.LOOP_BREAKER, message),
        state=NodeState.FAILED,
        reason=NodeReason.LOOP_BREAKER,
        message=message,
        condemned=noted.condemned,
    )


def _is_forgotten(entry: Condemned, order: Order) -> bool:
    if entry.rollout == order.rollout:
        return False
    if entry.owner is not None and order.owner is not None and entry.owner != order.owner:
        return True
    return 0 < order.rollout_number <= entry.rollout_number


# --- steps ----------------------------------------------------------------------------------------

_STATE_OF: Final = {
    Step.VERIFY: NodeState.VERIFYING,
    Step.FETCH: NodeState.FETCHING,
    Step.REPAIR: NodeState.FETCHING,
    Step.SELF_TEST: NodeState.SELF_TESTING,
    Step.STAGE: NodeState.ACTIVATING,
    Step.SWAP: NodeState.ACTIVATING,
    Step.FLIP: NodeState.ACTIVATING,
}


def begin(journal: Journal, action: Action) -> Journal:
    """Return the journal to be written before ``action`` is taken; unchanged where the state is.

    What serves stays ACTIVE while its files are repaired and loaded again: it serves. Whom a swap
    is to be told to does not know of it from before the swap on.
    """
    if action.step in (Step.SWAP, Step.UNLOAD):
        journal = replace(journal, told=None)
    state = _STATE_OF.get(action.step)
    if state is None or journal.revert is not None or journal.state in _ENDED_BADLY:
        return journal
    order = journal.order
    if order is None or action.revision != order.revision or state is journal.state:
        return journal
    if journal.state in (NodeState.ACTIVE, NodeState.STAGED) and (
        action.step is Step.REPAIR or action.fresh
    ):
        return journal
    return replace(journal, state=state, reason=NodeReason.WORKING, message="")


def succeed(
    journal: Journal,
    action: Action,
    facts: Facts,
    *,
    judged: Judged | None = None,
    known: Known | None = None,
    tested: SelfTested | None = None,
) -> Journal:
    """Return the journal after ``action`` was done and is durable.

    Args:
        journal: As ``begin`` returned it.
        action: What was done.
        facts: As they were when it was decided.
        judged: Of VERIFY: the decision, allowed.
        known: Of FETCH: what is on disk now.
        tested: Of SELF_TEST: what it showed.
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
        case Step.REPAIR:
            assert revision is not None
            return replace(journal, reload=revision if revision == facts.current else None)
        case Step.SELF_TEST:
            assert revision is not None
            return _update_known(journal, revision, tested=True, test=tested)
        case Step.SWAP if journal.revert is None:
            return _remember_before(journal, facts)
        case Step.FLIP:
            told = revision if facts.hook else None
            return replace(journal, reload=None, told=told)
        case Step.SOAK:
            return _start_soak(journal, revision, facts)
        case Step.COMMIT:
            assert revision is not None
            return _commit(journal, revision, facts)
        case Step.REVERT:
            return _turn_back(journal, action, facts)
        case Step.STAY:
            return replace(journal, revert=None, resumes=0)
        case Step.GIVE_UP:
            return fail(journal, action, facts, reason=action.reason, message=action.message)
        case Step.SETTLE:
            return _settle(journal, action, facts)
        case _:
            return journal


def rejudge(journal: Journal, judged: Judged, *, standing: Standing, why: str) -> Journal:
    """Return the journal after trust, which has changed, was asked about what is on the disk."""
    revision = judged.revision
    noted = _update_known(
        journal, revision, policy_hash=judged.policy_hash, standing=standing, why=why
    )
    if journal.order is None or journal.order.revision != revision:
        return noted
    told = replace(noted, judged=judged)
    if journal.state is NodeState.REFUSED and judged.allowed:
        return replace(told, state=NodeState.PENDING, reason=NodeReason.WORKING, message="")
    return told


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


def postpone(journal: Journal, action: Action, *, reason: NodeReason, message: str) -> Journal:
    """Return the journal while ``action`` waits for something outside; the state stays.

    The first sentence stands while the reason does: a retry that fails alike is not news (rule 11).
    A repair beside what serves takes nothing from that: the alarm speaks of it.
    """
    aside = action.step is Step.REPAIR and journal.state.settled
    if journal.reason is reason or journal.state in _ENDED_BADLY or aside:
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
    good = action.revision is not None and journal.committed == action.revision
    if at_home or good or (action.step is Step.REPAIR and action.revision == facts.current):
        # What was good cannot be loaded or fetched now: there is nothing better to go back to, so
        # it is tried again.
        return postpone(journal, action, reason=reason, message=message)
    assert order is not None
    if facts.current is not None and facts.current == order.revision:
        back = Action(Step.REVERT, facts.current, reason=reason, message=message)
        return _turn_back(journal, back, facts)
    noted = _note_failure(journal, NodeState.FAILED, reason, message)
    return replace(noted, state=NodeState.FAILED, reason=reason, message=message, resumes=0)


def _turn_back(journal: Journal, action: Action, facts: Facts) -> Journal:
    """Begin the way back from what is current.

    What has rotted is wanted again after it was fetched again, what was revoked when trust changes,
    what failed not before somebody asks for it anew.
    """
    assert facts.current is not None
    ordered = journal.order is not None and journal.order.revision == facts.current
    state = {NodeReason.CORRUPT: NodeState.PENDING, NodeReason.REVOKED: NodeState.REFUSED}.get(
        action.reason, NodeState.REVERTED
    )
    noted = journal
    if state is NodeState.REVERTED:
        assert ordered, action
        noted = _note_failure(journal, state, action.reason, action.message)
    way = Revert(
        of=facts.current,
        to=way_back(journal, facts, leaving=facts.current),
        reason=action.reason,
        message=action.message,
        state=state,
        unload=state is NodeState.REVERTED
        or _standing_of(journal, facts.current) is Standing.FORBIDDEN,
    )
    if ordered:
        noted = replace(noted, reason=action.reason, message=action.message)
    return replace(noted, revert=way)


def _allow(journal: Journal, judged: Judged) -> Journal:
    judged_now = replace(journal, judged=judged)
    if journal.state is NodeState.REFUSED:
        judged_now = replace(
            judged_now, state=NodeState.VERIFYING, reason=NodeReason.WORKING, message=""
        )
    if judged.revision in journal.known:
        return _update_known(
            judged_now,
            judged.revision,
            policy_hash=judged.policy_hash,
            standing=Standing.GOOD,
            why="",
        )
    return judged_now


def _remember_before(journal: Journal, facts: Facts) -> Journal:
    server = facts.server
    if server is None or server.active is None:
        return replace(journal, before=None, before_s=0.0)
    return replace(journal, before=(server.requests, server.failures), before_s=server.duration_s)


def _start_soak(journal: Journal, revision: str | None, facts: Facts) -> Journal:
    assert revision is not None
    resumed = soaks_since(journal, revision, facts.now)
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
    artifact = journal.known[revision].artifact
    committed = replace(
        _update_known(_forget_incomplete(journal, facts), revision, committed=True, tested=True),
        state=NodeState.ACTIVE,
        reason=NodeReason.ACTIVE,
        message="",
        committed=revision,
        activated=revision,
        activated_at=journal.activated_at if kept else facts.now,
        resumes=0,
        condemned=tuple(c for c in journal.condemned if c.artifact != artifact),
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
    ordered = journal.order is not None and journal.order.revision == journal.revert.of
    # Where the order is for something else, that stands where it stood.
    return replace(
        settled if ordered else replace(journal, resumes=0),
        revert=None,
        committed=facts.current,
        activated=facts.current,
        activated_at=None if facts.current is None else facts.now,
        before=None,
    )


def _note_failure(journal: Journal, state: NodeState, reason: NodeReason, message: str) -> Journal:
    order = journal.order
    assert order is not None
    assert order.revision is not None
    failure = Failure(order.revision, order.rollout, state, reason, message)
    others = tuple(f for f in journal.failures if f.revision != order.revision)
    noted = replace(journal, failures=(*others, failure)[-16:])
    return _condemn(noted, order, message) if reason in _MODELS_FAULT else noted


def _standing_of(journal: Journal, revision: str) -> Standing:
    known = journal.known.get(revision)
    return Standing.GOOD if known is None else known.standing


def _update_known(journal: Journal, revision: str, **changes: object) -> Journal:
    known = replace(journal.known[revision], **changes)  # type: ignore[arg-type]  # named at each call
    return replace(journal, known={**journal.known, revision: known})


def _forget_incomplete(journal: Journal, facts: Facts) -> Journal:
    known = {r: k for r, k in journal.known.items() if r in facts.complete or r in facts.corrupt}
    return replace(journal, known=known)


def _once_more(message: str) -> str:
    suffix = " (not tried again in this rollout)"
    return message if message.endswith(suffix) else message + suffix
