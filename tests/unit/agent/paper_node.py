"""A node on paper: a disk, a server, a trust, power that can be cut. The table is real."""

from datetime import UTC, datetime, timedelta

from linnet_agent import outcome, table
from linnet_agent.journal import (
    Action,
    Facts,
    Goal,
    Journal,
    Judged,
    Known,
    Order,
    ServerFacts,
    Standing,
    Step,
)
from linnet_api.reasons import NodeReason, NodeState

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def order(revision="r1", *, sequence=1, goal=Goal.ACTIVE, **more):
    return Order(
        sequence=sequence,
        goal=goal,
        revision=None if goal is Goal.ABSENT else revision,
        artifact=f"sha256:{revision}",
        serving_name="digits",
        **more,
    )


class PowerCutError(Exception):
    """The node lost its power here."""


class Node:
    def __init__(self):
        self.now = NOON
        self.disk = Journal()
        self.journal = self.disk
        self.complete = set()
        self.corrupt = {}
        self.revoked = {}
        self.current = self.previous = None
        self.active = self.staged = None
        self.server_up = True
        self.server_gone_s = 0.0
        self.requests = self.failures = 0
        self.duration_s = 0.0
        self.trust = "t1"
        self.refuses = {}
        self.broken = {}
        self.away = set()
        self.at_hand = None
        self.vanished = False
        self.counters = {}
        self.steps = []
        self.reloads = 0
        self.cut_after = None

    # --- the world

    def facts(self):
        server = ServerFacts(
            self.active, None, self.staged, self.requests, self.failures, self.duration_s
        )
        return Facts(
            now=self.now,
            complete=frozenset(self.complete) - self.corrupt.keys(),
            corrupt=dict(self.corrupt),
            current=self.current,
            previous=self.previous,
            server=server if self.server_up else None,
            server_gone_s=0.0 if self.server_up else self.server_gone_s,
            policy_hash=self.trust,
            allowed=self.at_hand[0] if self.at_hand and self.at_hand[1] == self.trust else None,
            vanished=self.vanished,
        )

    def give(self, wanted):
        self.write(outcome.accept(self.journal, wanted))

    def cut_power(self):
        """Lose what is in memory; the agent starts again, and the server from what is current."""
        self.at_hand = None
        self.restart_server()
        self.journal = self.disk
        self.write(outcome.resume(self.disk))

    def restart_server(self):
        self.active, self.staged = self.current, None
        self.requests = self.failures = 0

    def write(self, journal):
        self.tick()
        self.journal = self.disk = journal

    def tick(self):
        """Count a change to the world; the power may fail just before it."""
        if self.cut_after is not None:
            self.cut_after -= 1
            if self.cut_after < 0:
                self.cut_after = None
                raise PowerCutError
        assert self.current is None or self.current in self.complete, "rule 2"

    # --- the agent's loop

    def step(self):
        facts = self.facts()
        action = table.next_action(self.journal, facts)
        if action.step in (Step.REST, Step.WAIT):
            return action
        self.steps.append((action.step, action.revision))
        begun = outcome.begin(self.journal, action)
        if begun != self.journal:
            self.write(begun)
        if action.step in self.away:
            self.write(
                outcome.postpone(
                    self.journal,
                    action,
                    reason=NodeReason.REGISTRY_UNAVAILABLE,
                    message="no answer",
                )
            )
            return Action(Step.WAIT)
        if (reason := self.broken.get((action.step, action.revision))) is not None:
            after = outcome.fail(self.journal, action, facts, reason=reason, message="broken")
            stuck = after.state is self.journal.state and after.revert == self.journal.revert
            self.write(after)
            return Action(Step.WAIT) if stuck else action
        after = getattr(self, f"_do_{action.step.name.lower()}", self._do_nothing)(action, facts)
        if after != self.journal:
            self.write(after)
        return action

    def run(self, *, limit=60):
        """Go on until it rests, or waits for what only time or the world can bring."""
        for _ in range(limit):
            action = self.step()
            if action.step is Step.REST:
                return action
            if action.step is Step.WAIT:
                if action.until is None:
                    return action
                self.now = action.until
        raise AssertionError(f"it does not end: {self.steps[-8:]}")

    def run_with_power_cut(self, cut):
        """Lose power before the ``cut``-th change to the world, and go on after that."""
        self.cut_after = cut
        try:
            self.run()
        except PowerCutError:
            self.cut_power()
        self.cut_after = None
        self.run()

    def run_through(self, wanted, *, limit=60):
        self.give(wanted)
        return self.run(limit=limit)

    # --- the steps

    def _do_nothing(self, action, facts):
        return outcome.succeed(self.journal, action, facts)

    def _do_rejudge(self, action, _facts):
        standing = self.revoked.get(action.revision, Standing.GOOD)
        bad = standing is not Standing.GOOD
        judged = Judged(
            revision=action.revision,
            allowed=not bad,
            reason=NodeReason.REVOKED if bad else NodeReason.NONE,
            message="revoked" if bad else "",
            policy_hash=self.trust,
            at=self.now,
        )
        return outcome.rejudge(self.journal, judged, standing=standing, why=judged.message)

    def _do_verify(self, action, facts):
        reason = self.refuses.get(action.revision)
        standing = self.revoked.get(action.revision, Standing.GOOD)
        if standing is not Standing.GOOD:
            reason = NodeReason.REVOKED
        if reason is not None and table.is_legal_anyway(self.journal, action.revision, standing):
            reason = None
        judged = Judged(
            revision=action.revision,
            allowed=reason is None,
            reason=reason or NodeReason.NONE,
            message="",
            policy_hash=self.trust,
            at=self.now,
            counter=self.counters.get(action.revision),
        )
        if reason is not None:
            return outcome.deny(self.journal, judged, facts)
        self.at_hand = (action.revision, self.trust)
        return outcome.succeed(self.journal, action, facts, judged=judged)

    def _do_fetch(self, action, facts):
        self.tick()
        self.complete.add(action.revision)
        known = Known(
            artifact=f"sha256:{action.revision}",
            model_digest=f"sha256:{action.revision}",
            policy_hash=self.trust,
            counter=self.counters.get(action.revision),
        )
        return outcome.succeed(self.journal, action, facts, known=known)

    def _do_repair(self, action, facts):
        self.tick()
        del self.corrupt[action.revision]
        return outcome.succeed(self.journal, action, facts)

    def _do_stage(self, action, facts):
        self.tick()
        assert action.revision not in self.corrupt
        if action.fresh:
            self.reloads += 1
        self.staged = action.revision
        return outcome.succeed(self.journal, action, facts)

    def _do_swap(self, action, facts):
        self.tick()
        if self.current is not None:
            self.previous = self.current
            self.tick()
        self.current = action.revision
        return outcome.succeed(self.journal, action, facts)

    def _do_flip(self, action, facts):
        self.tick()
        assert self.staged == action.revision
        self.active, self.staged = action.revision, None
        self.requests = self.failures = 0
        self.duration_s = 0.0
        return outcome.succeed(self.journal, action, facts)

    def _do_unstage(self, action, facts):
        self.staged = None
        return outcome.succeed(self.journal, action, facts)

    def _do_unload(self, action, facts):
        self.tick()
        self.current = self.previous = None
        self.tick()
        if self.server_up:
            self.active = self.staged = None
        return outcome.succeed(self.journal, action, facts)

    def evict(self):
        self.complete &= table.keep_revisions(self.journal, self.facts())

    def names(self):
        return [step for step, _ in self.steps]


def active_node(revision="r1", **more):
    node = Node()
    node.run_through(order(revision, **more))
    assert node.journal.state is NodeState.ACTIVE
    node.steps.clear()
    return node


def later(node, seconds):
    node.now += timedelta(seconds=seconds)


def soaking_node(**more):
    node = active_node("r1")
    node.give(order("r2", sequence=2, baseline="r1", **more))
    while node.journal.state is not NodeState.SOAKING:
        node.step()
    return node
