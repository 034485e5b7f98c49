"""Whatever happens to a node in whatever order, the rules hold: hypothesis writes the stories.

Orders, stale orders, orders that vanish, trust that changes, files that rot, steps that fail,
a registry and a server that go away, and power that fails anywhere in between.
"""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from paper_node import Node, PowerCutError, order

from linnet_agent import outcome, table
from linnet_agent.journal import Goal, Standing, Step
from linnet_api.reasons import NodeReason, NodeState

REVISIONS = ("r1", "r2", "r3")
BAD = (Standing.REVOKED, Standing.KEPT, Standing.FORBIDDEN)


class NodeStory(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.node = Node()
        self.sequence = 0
        self.failed = set()
        """Revision and rollout of each failure, and how often it was tested until then."""
        self.wanted = None

    # --- what happens

    @rule(
        revision=st.sampled_from(REVISIONS),
        goal=st.sampled_from([Goal.ACTIVE, Goal.ACTIVE, Goal.ACTIVE, Goal.STAGED, Goal.ABSENT]),
        baseline=st.sampled_from([None, *REVISIONS]),
        rollout=st.integers(1, 3),
        owner=st.sampled_from(["d1", "d1", "d2"]),
        soak_s=st.integers(0, 5),
    )
    def is_ordered(self, revision, goal, baseline, rollout, owner, soak_s):
        self.sequence += 1
        self.wanted = order(
            revision,
            sequence=self.sequence,
            goal=goal,
            baseline=baseline,
            rollout=f"{owner}-u{rollout}",
            rollout_number=rollout,
            owner=owner,
            soak_s=soak_s,
        )
        self.node.vanished = False
        self.node.give(self.wanted)

    @precondition(lambda self: self.sequence > 1)
    @rule(revision=st.sampled_from(REVISIONS))
    def gets_a_stale_order(self, revision):
        stale = order(revision, sequence=self.sequence - 1)

        assert outcome.is_stale(self.node.journal, stale), "rule 7"

    @rule()
    def sees_its_order_vanish(self):
        self.node.vanished = self.wanted is not None

    @rule(revoked=st.dictionaries(st.sampled_from(REVISIONS), st.sampled_from(BAD), max_size=3))
    def hears_of_other_trust(self, revoked):
        self.node.trust += "+"
        self.node.revoked = revoked

    @precondition(lambda self: self.node.complete)
    @rule(data=st.data())
    def has_rot(self, data):
        revision = data.draw(st.sampled_from(sorted(self.node.complete)))
        self.node.corrupt[revision] = "other bytes"

    @rule(
        step=st.sampled_from([Step.VERIFY, Step.FETCH, Step.SELF_TEST, Step.STAGE, Step.REPAIR]),
        revision=st.sampled_from(REVISIONS),
    )
    def has_a_model_that_is_broken(self, step, revision):
        reason = {
            Step.SELF_TEST: NodeReason.SELF_TEST_FAILED,
            Step.STAGE: NodeReason.LOAD_FAILED,
        }.get(step, NodeReason.SOURCE_NOT_FOUND)
        self.node.broken[step, revision] = reason

    @rule()
    def has_models_that_are_well_again(self):
        self.node.broken = {}

    @rule(away=st.booleans())
    def has_a_registry(self, away):
        self.node.away = {Step.VERIFY, Step.FETCH, Step.REPAIR} if away else set()

    @rule(up=st.booleans(), gone_s=st.sampled_from([1.0, 100.0]))
    def has_a_server(self, up, gone_s):
        if up and not self.node.server_up:
            self.node.restart_server()
        self.node.server_up, self.node.server_gone_s = up, gone_s

    @rule(cut=st.integers(0, 12))
    def loses_power(self, cut):
        self.work(cut=cut)

    @rule()
    def works(self):
        self.work()

    # --- what must hold

    def work(self, *, cut=None):
        node = self.node
        before, tested = node.current, len(node.steps)
        node.cut_after = cut
        try:
            node.run(limit=200)
        except PowerCutError:
            node.cut_power()
        node.cut_after = None
        node.run(limit=200)
        self.note_failures(node.steps[tested:])
        self.check_that_it_rests()
        self.check_who_serves(before)
        node.evict()

    def note_failures(self, steps):
        for step, revision in steps:
            tried = (revision, self.node.journal.order.rollout if self.node.journal.order else None)
            assert step is not Step.SELF_TEST or tried not in self.failed, "rule 6"
        self.failed = {(f.revision, f.rollout) for f in self.node.journal.failures}

    def check_that_it_rests(self):
        """Nothing is done twice: what can be done was done (rule 8), and peace writes nothing."""
        journal, done = self.node.journal, len(self.node.steps)
        self.node.run(limit=20)
        retried = {step for step, _ in self.node.steps[done:]}
        waits = self.node.away | {step for step, _ in self.node.broken}
        assert retried <= waits, (retried, waits)
        assert retried or self.node.journal == journal, "rule 11"

    def check_who_serves(self, before):
        node, journal = self.node, self.node.journal
        gone = node.current is None and before is not None
        unloads = (
            journal.state is NodeState.ABSENT
            or (journal.order is not None and journal.order.goal is Goal.ABSENT)
            or Standing.FORBIDDEN in node.revoked.values()
            or journal.state is NodeState.REVERTED
        )
        assert not gone or unloads, "nobody but an order or the ceiling takes the last model"
        if node.current is None:
            return
        standing = node.revoked.get(node.current, Standing.GOOD)
        leaving = (
            journal.order is not None and journal.order.goal is Goal.ABSENT and not node.vanished
        )
        stuck = leaving or {step for step, _ in node.broken} | node.away
        if stuck:
            return
        assert standing is not Standing.FORBIDDEN
        if standing is Standing.REVOKED:
            assert table.way_back(journal, node.facts(), leaving=node.current) is None

    @invariant()
    def rule_2_what_is_current_is_complete_or_rotted_and_known_to_be(self):
        node = self.node
        assert node.current is None or node.current in node.complete

    @invariant()
    def rule_3_the_baseline_stays_while_an_order_names_it(self):
        wanted = self.node.journal.order
        if wanted is not None and wanted.baseline is not None:
            kept = table.keep_revisions(self.node.journal, self.node.facts())
            assert wanted.baseline in kept

    @invariant()
    def rule_7_the_highest_order_is_remembered(self):
        assert self.node.journal.observed_sequence == self.sequence
        assert self.node.disk == self.node.journal

    @invariant()
    def the_journal_names_nothing_that_was_never_there(self):
        journal = self.node.journal
        assert journal.committed is None or journal.committed in journal.known


NodeStory.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.mark.slow
class TestNodeStory(NodeStory.TestCase):
    pass


def test_the_story_teller_catches_a_table_that_forgets_a_baseline(monkeypatch):
    def forgetful(journal, _facts):
        return frozenset({journal.committed} - {None})

    monkeypatch.setattr(table, "keep_revisions", forgetful)
    story = NodeStory()
    story.is_ordered("r2", Goal.ACTIVE, "r1", 1, "d1", 0)

    with pytest.raises(AssertionError):
        story.rule_3_the_baseline_stays_while_an_order_names_it()


def test_the_story_teller_catches_a_table_that_serves_what_the_ceiling_forbids(monkeypatch):
    monkeypatch.setattr(table, "_leave_bad", lambda _journal, _facts: None)
    story = NodeStory()
    story.is_ordered("r1", Goal.ACTIVE, None, 1, "d1", 0)
    story.works()
    story.hears_of_other_trust({"r1": Standing.FORBIDDEN})

    with pytest.raises(AssertionError):
        story.works()


def test_the_story_teller_catches_a_table_that_unloads_what_only_the_hub_revokes(monkeypatch):
    real = outcome._turn_back

    def eager(journal, action, facts):
        after = real(journal, action, facts)
        return replace(after, revert=replace(after.revert, to=None, unload=True))

    monkeypatch.setattr(outcome, "_turn_back", eager)
    monkeypatch.setattr(table, "way_back", lambda _journal, _facts, **_: None)
    monkeypatch.setattr(
        table,
        "_leave_bad",
        lambda journal, facts: (
            table.Action(Step.REVERT, facts.current, reason=NodeReason.REVOKED)
            if facts.current and journal.known[facts.current].standing is Standing.REVOKED
            else None
        ),
    )
    story = NodeStory()
    story.is_ordered("r1", Goal.ACTIVE, None, 1, "d1", 0)
    story.works()
    story.hears_of_other_trust({"r1": Standing.REVOKED})

    with pytest.raises(AssertionError, match="takes the last model"):
        story.works()
