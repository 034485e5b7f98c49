"""The table, on a node on paper: a disk and a server, and power that can be cut."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paper_node import NOON, Node, PowerCutError, active_node, later, order, soaking_node

from linnet_agent import outcome, table
from linnet_agent.journal import Goal, Known, Standing, Step, from_json, to_json
from linnet_api.reasons import NodeReason, NodeState

# --- the way of an order


def test_a_first_order_goes_through_every_phase_and_is_committed_after_its_soak():
    node = Node()

    end = node.run_through(order(soak_s=5))

    assert end.step is Step.REST
    assert node.names() == [
        Step.VERIFY,
        Step.FETCH,
        Step.SELF_TEST,
        Step.STAGE,
        Step.SWAP,
        Step.FLIP,
        Step.SOAK,
        Step.COMMIT,
    ]
    assert node.journal.state is NodeState.ACTIVE
    assert node.journal.committed == node.current == node.active == "r1"
    assert node.now == NOON + timedelta(seconds=5)


def test_a_second_revision_keeps_the_first_as_previous():
    node = active_node("r1")

    node.run_through(order("r2", sequence=2, baseline="r1"))

    assert (node.current, node.previous, node.active) == ("r2", "r1", "r2")
    assert node.journal.committed == "r2"


def test_rule_3_an_order_back_to_the_baseline_needs_no_fetch_no_self_test_and_no_soak():
    node = active_node("r1")
    node.run_through(order("r2", sequence=2, baseline="r1"))
    node.steps.clear()
    at = node.now

    node.run_through(order("r1", sequence=3, baseline="r1"))

    assert node.names() == [Step.STAGE, Step.SWAP, Step.FLIP, Step.COMMIT]
    assert node.journal.state is NodeState.ACTIVE
    assert node.current == node.active == node.journal.committed == "r1"
    assert node.now == at


def test_rule_3_the_baseline_stays_on_disk_until_the_order_has_none():
    node = active_node("r1")
    node.run_through(order("r2", sequence=2, baseline="r1"))
    node.run_through(order("r3", sequence=3, baseline="r1"))
    node.evict()
    assert node.complete == {"r1", "r2", "r3"}

    node.run_through(order("r3", sequence=4))
    node.evict()

    assert node.complete == {"r2", "r3"}


@pytest.mark.parametrize("baseline", ["r1", None])
def test_rule_3_a_rollback_is_legal_below_the_floor_and_needs_no_network(baseline):
    node = active_node("r1")
    node.counters = {"r2": 2}
    node.run_through(order("r2", sequence=2, baseline="r1"))
    node.broken = {(Step.FETCH, "r1"): NodeReason.SOURCE_NOT_FOUND}
    node.refuses = {"r1": NodeReason.COUNTER_TOO_LOW}
    node.trust = "t2"
    at = node.now

    node.run_through(order("r1", sequence=3, baseline=baseline))

    assert node.journal.state is NodeState.ACTIVE
    assert node.active == "r1"
    assert node.now == at


def test_a_rollback_to_what_was_revoked_by_name_is_refused_and_what_serves_serves_on():
    node = active_node("r1")
    node.run_through(order("r2", sequence=2, baseline="r1"))
    node.trust, node.revoked = "t2", {"r1": Standing.REVOKED}

    node.run_through(order("r1", sequence=3))

    assert node.journal.state is NodeState.REFUSED
    assert node.active == "r2"


def test_what_was_committed_evicted_and_fetched_again_soaks_again():
    node = active_node("r1")
    for sequence, revision in enumerate(["r2", "r3"], 2):
        node.run_through(order(revision, sequence=sequence))
        node.evict()
    assert "r1" not in node.complete
    node.steps.clear()

    node.run_through(order("r1", sequence=4))

    assert {Step.FETCH, Step.SELF_TEST, Step.SOAK} <= set(node.names())


def test_staged_is_on_disk_verified_and_tested_and_serves_nothing():
    node = Node()

    node.run_through(order(goal=Goal.STAGED))

    assert node.journal.state is NodeState.STAGED
    assert node.names() == [Step.VERIFY, Step.FETCH, Step.SELF_TEST, Step.SETTLE]
    assert node.complete == {"r1"}
    assert node.current is node.active is None


def test_a_staged_revision_is_activated_without_another_fetch():
    node = Node()
    node.run_through(order(goal=Goal.STAGED))
    node.steps.clear()

    node.run_through(order(sequence=2))

    assert Step.FETCH not in node.names()
    assert node.active == "r1"


def test_a_staged_revision_is_judged_again_where_trust_has_changed_since():
    node = Node()
    node.run_through(order(goal=Goal.STAGED))
    node.trust, node.revoked = "t2", {"r1": Standing.REVOKED}

    node.run_through(order(sequence=2))

    assert node.journal.state is NodeState.REFUSED
    assert node.journal.reason is NodeReason.REVOKED
    assert node.current is None


def test_absent_unloads_and_is_acknowledged():
    node = active_node("r1")

    node.run_through(order(sequence=2, goal=Goal.ABSENT))
    node.evict()

    assert node.journal.state is NodeState.ABSENT
    assert node.current is node.active is None
    assert node.complete == set()


def test_files_need_no_server():
    node = Node()
    node.server_up, node.server_gone_s = False, 1000.0
    node.give(order())
    known = Known(artifact="a", model_digest="m", runtime="Files", policy_hash="t1", tested=True)
    node.complete = {"r1"}
    node.journal = replace(node.journal, known={"r1": known})

    node.run()

    assert node.journal.state is NodeState.ACTIVE
    assert node.current == "r1"


# --- orders that are none


def test_rule_7_a_lower_sequence_is_stale_and_an_equal_one_is_not():
    node = active_node("r1")

    assert outcome.is_stale(node.journal, order("r2", sequence=0))
    assert not outcome.is_stale(node.journal, order("r2", sequence=1))


def test_rule_7_a_node_model_that_vanishes_is_not_an_order():
    node = active_node("r1")
    node.vanished = True

    assert node.run().step is Step.REST
    assert node.active == node.current == "r1"


def test_rule_7_what_vanishes_before_the_swap_is_not_begun():
    node = active_node("r1")
    node.give(order("r2", sequence=2))
    node.vanished = True

    assert node.run().step is Step.REST
    assert node.current == "r1"


def test_what_vanishes_after_the_swap_is_finished():
    node = active_node("r1")
    node.give(order("r2", sequence=2))
    while node.current != "r2":
        node.step()
    node.vanished = True

    node.run()

    assert node.journal.committed == node.active == "r2"


def test_the_same_order_with_a_new_sequence_moves_nothing():
    node = active_node("r1")

    node.run_through(order("r1", sequence=2))

    assert node.steps == []
    assert node.journal.observed_sequence == 2
    assert node.journal.state is NodeState.ACTIVE


def test_rule_11_a_settled_node_takes_no_step():
    node = active_node("r1")

    assert [node.step().step for _ in range(3)] == [Step.REST] * 3
    assert node.steps == []


# --- refusals and failures


def test_a_refused_order_fetches_nothing_and_leaves_what_serves():
    node = active_node("r1")
    node.refuses = {"r2": NodeReason.UNTRUSTED_KEY}

    node.run_through(order("r2", sequence=2, baseline="r1"))

    assert node.journal.state is NodeState.REFUSED
    assert node.journal.reason is NodeReason.UNTRUSTED_KEY
    assert node.names() == [Step.VERIFY]
    assert node.active == "r1"


def test_a_refused_order_is_judged_again_only_when_trust_changes():
    node = Node()
    node.refuses = {"r1": NodeReason.NO_TRUST_POLICY}
    node.run_through(order())
    node.steps.clear()
    assert node.run().step is Step.REST
    assert node.steps == []

    node.trust, node.refuses = "t2", {}
    node.run()

    assert node.journal.state is NodeState.ACTIVE


def test_a_refusal_that_stays_one_is_not_told_as_work_in_between():
    node = Node()
    node.refuses = {"r1": NodeReason.UNSIGNED}
    node.run_through(order())
    node.trust = "t2"

    states = []
    while node.step().step is not Step.REST:
        states.append(node.journal.state)

    assert states == [NodeState.REFUSED]


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        pytest.param(Step.VERIFY, NodeReason.SOURCE_NOT_FOUND, id="no such source"),
        pytest.param(Step.FETCH, NodeReason.DIGEST_MISMATCH, id="other bytes"),
        pytest.param(Step.SELF_TEST, NodeReason.SELF_TEST_CRASHED, id="crashes"),
        pytest.param(Step.STAGE, NodeReason.LOAD_FAILED, id="does not load"),
    ],
)
def test_a_step_that_fails_for_good_ends_as_failed_and_leaves_what_serves(step, reason):
    node = active_node("r1")
    node.broken = {(step, "r2"): reason}

    assert node.run_through(order("r2", sequence=2, baseline="r1")).step is Step.REST

    assert (node.journal.state, node.journal.reason) == (NodeState.FAILED, reason)
    assert (node.current, node.active) == ("r1", "r1")


def test_the_loop_breaker_tries_a_failed_revision_again_only_for_another_rollout():
    node = active_node("r1")
    node.broken = {(Step.SELF_TEST, "r2"): NodeReason.SELF_TEST_FAILED}
    node.run_through(order("r2", sequence=2, baseline="r1", rollout="u1"))
    node.run_through(order("r1", sequence=3, baseline="r1", rollout="u1"))
    node.steps.clear()

    node.run_through(order("r2", sequence=4, baseline="r1", rollout="u1"))
    assert node.journal.state is NodeState.FAILED
    assert "not tried again" in node.journal.message
    assert node.steps == []

    node.broken = {}
    node.run_through(order("r2", sequence=5, baseline="r1", rollout="u2"))
    assert node.journal.state is NodeState.ACTIVE


def test_a_registry_that_is_away_is_waited_for_in_the_state_it_was_needed_in():
    node = active_node("r1")
    node.away = {Step.FETCH}

    assert node.run_through(order("r2", sequence=2)).step is Step.WAIT
    assert node.journal.state is NodeState.FETCHING
    assert node.journal.reason is NodeReason.REGISTRY_UNAVAILABLE
    assert node.active == "r1"

    node.away = set()
    node.run()
    assert node.journal.state is NodeState.ACTIVE


# --- soak


def test_a_revision_that_clearly_fails_in_its_soak_is_taken_back():
    node = soaking_node()
    node.requests, node.failures = 8, 6

    node.run()

    assert (node.journal.state, node.journal.reason) == (
        NodeState.REVERTED,
        NodeReason.SOAK_FAILED,
    )
    assert "6 of 8" in node.journal.message
    assert (node.current, node.active, node.journal.committed) == ("r1", "r1", "r1")


@pytest.mark.parametrize(
    ("requests", "failures"),
    [pytest.param(4, 4, id="too few"), pytest.param(100, 50, id="only half")],
)
def test_a_soak_is_generous(requests, failures):
    node = soaking_node()
    node.requests, node.failures = requests, failures

    node.run()

    assert node.journal.state is NodeState.ACTIVE


def test_a_soak_does_not_blame_what_was_there_before():
    node = active_node("r1")
    node.requests, node.failures = 100, 60
    node.give(order("r2", sequence=2, baseline="r1"))
    while node.journal.state is not NodeState.SOAKING:
        node.step()
    node.requests, node.failures = 100, 60

    node.run()

    assert node.journal.state is NodeState.ACTIVE


def test_a_first_revision_that_fails_its_soak_is_unloaded():
    node = Node()
    node.give(order())
    while node.journal.state is not NodeState.SOAKING:
        node.step()
    node.requests, node.failures = 10, 10

    node.run()

    assert node.journal.state is NodeState.REVERTED
    assert node.current is node.active is None


def test_a_server_that_stays_away_after_the_swap_gets_its_old_model_back():
    node = soaking_node()
    node.server_up, node.server_gone_s = False, table.SERVER_GRACE_S

    node.run()

    assert node.current == "r1"
    assert node.journal.reason is NodeReason.SOAK_FAILED


def test_a_soak_that_a_restart_has_interrupted_goes_on_where_it_was():
    node = soaking_node(soak_s=10)
    node.step()
    began = node.now
    later(node, 6)
    node.cut_power()

    node.run()

    assert node.now == began + timedelta(seconds=10)


def test_a_clock_that_is_set_back_does_not_stretch_a_soak():
    node = soaking_node(soak_s=10)
    later(node, -86_400)
    began = node.now

    node.run()

    assert node.now <= began + timedelta(seconds=10)


def test_an_order_that_comes_in_on_the_way_back_has_its_turn_after_it():
    node = soaking_node()
    node.requests, node.failures = 10, 10
    while node.journal.revert is None:
        node.step()
    node.requests = node.failures = 0
    node.refuses = {"r3": NodeReason.UNSIGNED}

    node.run_through(order("r3", sequence=3, baseline="r1"))

    assert (node.current, node.active) == ("r1", "r1")
    assert node.journal.state is NodeState.REFUSED


def test_a_model_that_ends_the_agent_again_and_again_is_given_up():
    node = soaking_node()
    for _ in range(table.MAX_RESUMES + 1):
        node.cut_power()

    node.run()

    assert (node.journal.state, node.journal.reason) == (
        NodeState.REVERTED,
        NodeReason.LOOP_BREAKER,
    )
    assert node.active == "r1"


def test_to_be_started_again_while_it_waits_for_the_server_is_not_held_against_a_model():
    node = active_node("r1")
    node.server_up, node.server_gone_s = False, 100.0
    node.give(order("r2", sequence=2))
    node.journal = replace(
        node.journal, state=NodeState.ACTIVATING, reason=NodeReason.SERVER_UNAVAILABLE
    )

    assert outcome.resume(node.journal).resumes == 0


# --- the server


def test_a_server_that_lost_its_model_is_given_it_again():
    node = active_node("r1")
    node.active = None

    node.run()

    assert node.names() == [Step.STAGE, Step.FLIP, Step.COMMIT]
    assert node.active == "r1"
    assert node.journal.state is NodeState.ACTIVE


def test_a_short_absence_of_the_server_is_not_worth_a_word():
    node = active_node("r1")
    node.server_up, node.server_gone_s = False, 2.0

    action = table.next_action(node.journal, node.facts())

    assert (action.step, action.reason) == (Step.WAIT, NodeReason.NONE)


def test_a_long_absence_of_the_server_is_told():
    node = active_node("r1")
    node.server_up, node.server_gone_s = False, 100.0

    action = table.next_action(node.journal, node.facts())

    assert (action.step, action.reason) == (Step.WAIT, NodeReason.SERVER_UNAVAILABLE)


def test_what_was_good_and_cannot_be_loaded_now_is_tried_again_not_given_up():
    node = active_node("r1")
    node.active = None
    node.broken = {(Step.STAGE, "r1"): NodeReason.LOAD_FAILED}

    assert node.run().step is Step.WAIT
    assert node.journal.reason is NodeReason.LOAD_FAILED
    assert node.current == "r1"

    node.broken = {}
    node.run()
    assert node.journal.state is NodeState.ACTIVE


def test_what_was_staged_for_an_order_that_is_no_more_is_freed():
    node = active_node("r1")
    node.staged = "r9"

    node.run()

    assert node.staged is None


# --- the floor


def test_the_floor_rises_only_past_the_oldest_of_current_and_baseline():
    node = Node()
    node.counters = {"r1": 10, "r2": 11, "r3": 12}
    node.run_through(order("r1"))
    assert node.journal.floor == 10

    node.run_through(order("r2", sequence=2, baseline="r1"))
    assert node.journal.floor == 10

    node.run_through(order("r2", sequence=3))
    assert node.journal.floor == 11

    node.run_through(order("r3", sequence=4))
    assert node.journal.floor == 12


def test_the_floor_never_falls():
    node = Node()
    node.counters = {"r1": 10, "r2": 11}
    node.run_through(order("r1"))
    node.run_through(order("r2", sequence=2, baseline="r2"))
    assert node.journal.floor == 11

    node.run_through(order("r1", sequence=3, baseline="r1"))

    assert node.journal.floor == 11


# --- kills


def orders():
    return st.builds(
        order,
        st.sampled_from(["r1", "r2", "r3"]),
        goal=st.sampled_from([Goal.ACTIVE, Goal.ACTIVE, Goal.STAGED, Goal.ABSENT]),
        baseline=st.sampled_from([None, "r1", "r2"]),
        rollout=st.sampled_from([None, "u1", "u2"]),
        soak_s=st.integers(0, 10),
    )


def run_with_power_cuts(node, wanted, cuts):
    given_ = False
    for cut in [*cuts, None]:
        node.cut_after = cut
        try:
            if not given_:
                node.give(wanted)
                given_ = True
            node.run(limit=200)
            node.evict()
        except PowerCutError:
            node.cut_after = None
            if node.disk.order == wanted:
                given_ = True
            node.cut_power()


@pytest.mark.slow
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(st.tuples(orders(), st.lists(st.integers(0, 12), max_size=3)), max_size=5))
def test_rules_2_and_8_whatever_the_orders_and_wherever_the_power_is_cut(story):
    node = Node()
    for sequence, (wanted, cuts) in enumerate(story, 1):
        numbered = replace(wanted, sequence=sequence)
        run_with_power_cuts(node, numbered, cuts)

        assert node.journal.observed_sequence == sequence
        assert node.journal.revert is None
        assert node.current is None or node.current in node.complete
        assert node.active == node.current
        match numbered.goal:
            case Goal.ACTIVE:
                assert node.journal.state is NodeState.ACTIVE
                assert node.current == numbered.revision
            case Goal.STAGED:
                assert node.journal.state is NodeState.STAGED
                assert numbered.revision in node.complete
            case Goal.ABSENT:
                assert node.journal.state is NodeState.ABSENT
                assert node.current is None
        if numbered.baseline in node.journal.known and numbered.goal is Goal.ACTIVE:
            assert numbered.baseline not in node.complete or numbered.baseline in (
                table.keep_revisions(node.journal, node.facts())
            )


@pytest.mark.parametrize("cut", range(14))
def test_rule_8_a_kill_at_any_step_of_an_update_is_made_good_and_nothing_is_done_twice(cut):
    node = active_node("r1")

    run_with_power_cuts(node, order("r2", sequence=2, baseline="r1"), [cut])

    assert (node.current, node.previous, node.active) == ("r2", "r1", "r2")
    assert node.names().count(Step.FETCH) <= 2
    assert [step for step in node.names() if step is Step.SWAP].count(Step.SWAP) <= 2


# --- on paper


def test_a_journal_reads_back_as_it_was_written():
    node = soaking_node()
    node.refuses = {"r3": NodeReason.UNSIGNED}
    node.run()
    node.run_through(order("r3", sequence=3, rollout="u1"))

    assert from_json(to_json(node.journal)) == node.journal


def test_an_unknown_state_is_begun_again_and_an_unknown_field_is_left_out():
    document = json.loads(to_json(active_node().journal))
    document |= {"state": "Levitating", "mood": "fine"}

    read = from_json(json.dumps(document).encode())

    assert read.state is NodeState.PENDING
    assert read.observed_sequence == 1


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b'{"observed_sequence": "many"}'])
def test_what_is_no_journal_is_said_to_be_none(raw):
    with pytest.raises(ValueError, match=r"."):
        from_json(raw)


def test_every_state_has_a_place_to_resume_at():
    assert set(table.RESUME) == set(NodeState)


def test_the_names_of_the_states_are_frozen():
    assert [str(state) for state in NodeState] == [
        "Pending",
        "Verifying",
        "Fetching",
        "Staged",
        "SelfTesting",
        "Activating",
        "Soaking",
        "Active",
        "Failed",
        "Reverted",
        "Refused",
        "Absent",
    ]
