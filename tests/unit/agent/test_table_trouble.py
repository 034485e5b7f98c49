"""The table in trouble: what was revoked, what has rotted, and what a hub has forgotten."""

from dataclasses import replace

import pytest
from paper_node import Node, active_node, later, order, soaking_node

from linnet_agent import outcome, table
from linnet_agent.journal import (
    Condemned,
    Goal,
    Journal,
    Standing,
    Step,
    condemned_from_json,
    condemned_to_json,
    from_json,
    to_json,
)
from linnet_api.reasons import NodeReason, NodeState


def updated_node(**more):
    """A node that serves r2 and has r1 to go back to."""
    node = active_node("r1", **more)
    node.run_through(order("r2", sequence=2, baseline="r1", **more))
    assert (node.active, node.previous) == ("r2", "r1")
    node.steps.clear()
    return node


def alarm_of(node):
    return table.alarm(
        node.journal,
        current=node.current,
        complete=frozenset(node.complete) - node.corrupt.keys(),
        corrupt=node.corrupt,
    )


def revoke(node, standing=Standing.REVOKED, *revisions):
    node.trust += "+"
    node.revoked = dict.fromkeys(revisions, standing)
    return node.run()


# --- revocation


def test_what_is_revoked_while_it_serves_is_left_for_the_last_good_one_without_a_network():
    node = updated_node()
    node.away = {Step.FETCH, Step.VERIFY}

    revoke(node, Standing.REVOKED, "r2")

    assert (node.current, node.active, node.journal.committed) == ("r1", "r1", "r1")
    assert (node.journal.state, node.journal.reason) == (NodeState.REFUSED, NodeReason.REVOKED)
    assert node.journal.judged.allowed is False
    assert Step.FETCH not in node.names()
    assert node.run().step is Step.REST


def test_what_is_revoked_and_has_no_other_behind_it_serves_on_and_alarms():
    node = active_node("r1")

    revoke(node, Standing.REVOKED, "r1")

    assert (node.current, node.active) == ("r1", "r1")
    assert node.journal.state is NodeState.ACTIVE
    assert alarm_of(node).reason is NodeReason.REVOKED
    assert "no other is left" in alarm_of(node).message


def test_what_the_nodes_own_ceiling_revokes_is_unloaded_even_as_the_last_one():
    node = active_node("r1")

    revoke(node, Standing.FORBIDDEN, "r1")

    assert node.current is node.active is None
    assert (node.journal.state, node.journal.reason) == (NodeState.REFUSED, NodeReason.REVOKED)
    assert node.journal.committed is None
    assert alarm_of(node) is None


def test_what_the_ceiling_revokes_is_left_for_a_good_one_where_there_is_one():
    node = updated_node()

    revoke(node, Standing.FORBIDDEN, "r2")

    assert (node.current, node.active) == ("r1", "r1")


def test_a_policy_that_lets_what_is_active_serve_on_only_alarms():
    node = updated_node()

    revoke(node, Standing.KEPT, "r2")

    assert node.active == "r2"
    assert node.journal.state is NodeState.ACTIVE
    assert "the policy lets it serve on" in alarm_of(node).message


def test_where_to_go_back_to_is_judged_again_as_well():
    node = updated_node()

    revoke(node, Standing.REVOKED, "r1", "r2")

    assert (node.current, node.active) == ("r2", "r2")
    assert node.journal.state is NodeState.ACTIVE
    assert alarm_of(node).reason is NodeReason.REVOKED


@pytest.mark.parametrize("standing", [Standing.REVOKED, Standing.KEPT, Standing.FORBIDDEN])
def test_a_soak_that_fails_never_goes_back_to_what_was_revoked(standing):
    node = updated_node()
    node.give(order("r3", sequence=3, baseline="r1"))
    while node.journal.state is not NodeState.SOAKING:
        node.step()
    node.trust, node.revoked = "t2", {"r2": standing}
    node.requests = node.failures = 10

    node.run()

    assert (node.current, node.active) == ("r1", "r1")
    assert node.journal.reason is NodeReason.SOAK_FAILED


def test_nothing_but_a_revocation_takes_away_what_serves():
    node = updated_node()
    node.trust, node.refuses = "t2", {"r2": NodeReason.UNTRUSTED_KEY}

    node.run()

    assert node.active == "r2"
    assert node.journal.state is NodeState.ACTIVE
    assert alarm_of(node) is None


def test_trust_is_asked_once_for_each_change_and_not_again_after_a_restart():
    node = updated_node()
    node.trust = "t2"
    node.run()
    assert node.names().count(Step.REJUDGE) == 2
    node.steps.clear()

    node.cut_power()
    node.run()

    assert Step.REJUDGE not in node.names()
    assert Step.VERIFY not in node.names()


def test_trust_that_is_not_known_yet_is_not_asked():
    node = updated_node()
    node.trust = ""

    assert node.run().step is Step.REST
    assert node.steps == []


def test_a_revocation_that_is_taken_back_brings_the_ordered_revision_back():
    node = updated_node()
    revoke(node, Standing.REVOKED, "r2")
    assert node.active == "r1"

    node.trust, node.revoked = "t9", {}
    node.run()

    assert node.active == "r2"
    assert node.journal.state is NodeState.ACTIVE


def test_what_serves_without_an_order_is_left_as_well_when_it_is_revoked():
    node = updated_node()
    node.vanished = True

    revoke(node, Standing.REVOKED, "r2")

    assert (node.current, node.active) == ("r1", "r1")


def test_an_order_that_failed_stays_failed_when_what_serves_beside_it_is_left():
    node = updated_node()
    node.broken = {(Step.SELF_TEST, "r3"): NodeReason.SELF_TEST_FAILED}
    node.run_through(order("r3", sequence=3, baseline="r1"))
    assert node.journal.state is NodeState.FAILED
    node.steps.clear()

    revoke(node, Standing.REVOKED, "r2")

    assert (node.current, node.active) == ("r1", "r1")
    assert (node.journal.state, node.journal.reason) == (
        NodeState.FAILED,
        NodeReason.SELF_TEST_FAILED,
    )
    assert Step.SELF_TEST not in node.names()


def test_an_order_to_leave_comes_before_a_revocation():
    node = updated_node()
    node.trust, node.revoked = "t2", {"r2": Standing.REVOKED}

    node.run_through(order(sequence=3, goal=Goal.ABSENT))

    assert node.current is None
    assert Step.REVERT not in node.names()


def test_a_way_back_whose_end_is_revoked_meanwhile_ends_elsewhere_or_stays():
    node = updated_node()
    node.trust, node.revoked = "t2", {"r2": Standing.REVOKED}
    while node.journal.revert is None:
        node.step()
    node.trust, node.revoked = "t3", {"r1": Standing.REVOKED, "r2": Standing.REVOKED}

    node.run()

    assert (node.current, node.active) == ("r2", "r2")
    assert node.journal.revert is None


@pytest.mark.parametrize("cut", range(9))
def test_rule_8_power_that_fails_anywhere_on_the_way_back_from_a_revocation(cut):
    node = updated_node()
    node.trust, node.revoked = "t2", {"r2": Standing.REVOKED}
    node.run_with_power_cut(cut)

    assert (node.current, node.active) == ("r1", "r1")
    assert node.journal.state is NodeState.REFUSED


# --- rot


def test_what_has_rotted_is_left_for_the_good_copy_fetched_again_and_activated_again():
    node = updated_node()
    node.corrupt = {"r2": "model.onnx has other bytes"}
    served = []

    while (action := node.step()).step is not Step.REST:
        served.append(node.active)
        if action.step is Step.WAIT:
            node.now = action.until

    assert "r1" in served
    assert (node.current, node.active) == ("r2", "r2")
    assert node.names().count(Step.REPAIR) == 1
    assert Step.SELF_TEST not in node.names()
    assert node.journal.state is NodeState.ACTIVE


def test_while_it_is_fetched_again_the_good_copy_serves_and_the_reason_is_told():
    node = updated_node()
    node.corrupt = {"r2": "model.onnx has other bytes"}
    node.away = {Step.REPAIR}

    node.run()

    assert (node.current, node.active) == ("r1", "r1")
    assert node.journal.state is NodeState.FETCHING
    assert alarm_of(node).reason is NodeReason.CORRUPT


def test_rot_without_a_good_copy_serves_on_from_memory_and_is_fetched_and_loaded_again():
    node = active_node("r1")
    node.corrupt, node.away = {"r1": "model.onnx has other bytes"}, {Step.REPAIR}

    node.run()
    assert (node.current, node.active) == ("r1", "r1")
    assert node.journal.state is NodeState.ACTIVE
    assert alarm_of(node).reason is NodeReason.CORRUPT
    assert "model.onnx has other bytes" in alarm_of(node).message

    node.away = set()
    node.run()
    assert node.reloads == 1
    assert node.active == "r1"
    assert alarm_of(node) is None
    assert node.run().step is Step.REST


def test_rot_of_what_an_order_has_vanished_from_is_repaired_all_the_same():
    node = active_node("r1")
    node.vanished, node.corrupt = True, {"r1": "gone"}

    node.run()

    assert node.corrupt == {}
    assert node.active == "r1"


def test_rule_3_a_baseline_that_has_rotted_is_repaired_while_the_other_serves_on():
    node = updated_node()
    node.corrupt = {"r1": "gone"}

    node.run()

    assert node.names() == [Step.REPAIR]
    assert node.active == "r2"
    assert node.journal.state is NodeState.ACTIVE


def test_a_repair_that_cannot_be_made_takes_nothing_from_what_serves_and_writes_nothing():
    node = updated_node()
    node.corrupt, node.broken = {"r1": "gone"}, {(Step.REPAIR, "r1"): NodeReason.SOURCE_NOT_FOUND}
    before = node.journal

    for _ in range(3):
        node.run()

    assert node.journal == before
    assert alarm_of(node).reason is NodeReason.CORRUPT


def test_a_soaking_revision_that_rots_and_has_no_other_behind_it_is_not_unloaded():
    node = Node()
    node.give(order(soak_s=60))
    while node.journal.state is not NodeState.SOAKING:
        node.step()
    node.corrupt, node.broken = {"r1": "gone"}, {(Step.REPAIR, "r1"): NodeReason.SOURCE_NOT_FOUND}

    node.run()

    assert (node.current, node.active) == ("r1", "r1")


def test_a_revoked_revision_that_rots_is_not_fetched_again_unless_it_serves():
    node = updated_node()
    revoke(node, Standing.REVOKED, "r1")
    node.corrupt = {"r1": "gone"}
    node.steps.clear()

    node.run()

    assert node.names() == []


@pytest.mark.parametrize("cut", range(14))
def test_rule_8_power_that_fails_anywhere_on_the_way_of_a_repair(cut):
    node = updated_node()
    node.corrupt = {"r2": "gone"}

    node.run_with_power_cut(cut)

    assert (node.current, node.active) == ("r2", "r2")
    assert node.corrupt == {}


# --- what a hub has forgotten


def failed_node(**more):
    node = active_node("r1", owner="d1")
    node.broken = {(Step.SELF_TEST, "r2"): NodeReason.SELF_TEST_FAILED}
    bad = order("r2", baseline="r1", sequence=2, rollout="u1", rollout_number=4, owner="d1", **more)
    node.run_through(bad)
    assert node.journal.state is NodeState.FAILED
    node.broken = {}
    node.steps.clear()
    return node


def again(sequence, *, rollout, number, owner):
    return order(
        "r2",
        baseline="r1",
        sequence=sequence,
        rollout=rollout,
        rollout_number=number,
        owner=owner,
    )


def test_a_deployment_that_was_made_anew_does_not_try_again_what_failed_here():
    node = failed_node()

    node.run_through(again(3, rollout="u2", number=1, owner="d2"))

    assert (node.journal.state, node.journal.reason) == (
        NodeState.FAILED,
        NodeReason.LOOP_BREAKER,
    )
    assert "made anew" in node.journal.message
    assert node.steps == []
    assert node.active == "r1"


def test_a_hub_that_was_restored_from_a_backup_counts_anew_and_does_not_try_it_again():
    node = failed_node()

    node.run_through(again(3, rollout="u2", number=4, owner="d1"))

    assert node.journal.reason is NodeReason.LOOP_BREAKER


def test_a_persons_retry_is_a_later_rollout_of_the_same_deployment():
    node = failed_node()

    node.run_through(again(3, rollout="u2", number=5, owner="d1"))

    assert node.journal.state is NodeState.ACTIVE
    assert node.active == "r2"
    assert node.journal.condemned == ()


def test_a_persons_retry_is_obeyed_after_the_new_deployment_has_been_told():
    node = failed_node()
    node.run_through(again(3, rollout="u2", number=1, owner="d2"))
    node.run_through(again(4, rollout="u2", number=1, owner="d2"))
    assert node.journal.state is NodeState.FAILED

    node.run_through(again(5, rollout="u3", number=2, owner="d2"))

    assert node.journal.state is NodeState.ACTIVE


def test_what_failed_stays_condemned_over_restarts_and_other_orders():
    node = failed_node()
    node.cut_power()
    node.run_through(order("r1", sequence=3, rollout="u2", rollout_number=1, owner="d2"))
    node.run_through(order(sequence=4, goal=Goal.ABSENT, owner="d2"))
    node.evict()
    node.cut_power()

    node.run_through(again(5, rollout="u3", number=1, owner="d3"))

    assert node.journal.reason is NodeReason.LOOP_BREAKER


def test_what_a_rollout_takes_back_itself_is_condemned_where_it_was_active():
    node = active_node("r1")
    first = order("r2", sequence=2, baseline="r1", rollout="u1", rollout_number=3, owner="d1")
    node.run_through(first)
    node.run_through(
        order("r1", sequence=3, baseline="r1", rollout="u1", rollout_number=3, owner="d1")
    )

    node.run_through(again(4, rollout="u1", number=3, owner="d9"))
    assert node.active == "r2", "the same rollout knows what it does"
    node.run_through(
        order("r1", sequence=5, baseline="r1", rollout="u1", rollout_number=3, owner="d1")
    )
    node.run_through(again(6, rollout="u2", number=1, owner="d2"))

    assert node.journal.reason is NodeReason.LOOP_BREAKER
    assert "took it back" in node.journal.message


def test_a_first_rollout_that_is_taken_back_is_condemned_too():
    node = Node()
    node.run_through(order("r2", rollout="u1", rollout_number=1, owner="d1"))
    node.run_through(
        order(goal=Goal.ABSENT, sequence=2, rollout="u1", rollout_number=1, owner="d1")
    )

    node.run_through(again(3, rollout="u2", number=1, owner="d2"))

    assert node.journal.reason is NodeReason.LOOP_BREAKER


@pytest.mark.parametrize(
    "reason",
    [
        NodeReason.SOURCE_NOT_FOUND,
        NodeReason.DIGEST_MISMATCH,
        NodeReason.SERVING_NAME_TAKEN,
        NodeReason.BUDGET_EXCEEDED,
        NodeReason.WRONG_VARIANT,
    ],
)
def test_what_is_not_the_models_fault_condemns_nothing(reason):
    node = active_node("r1", owner="d1")
    node.broken = {(Step.STAGE, "r2"): reason}
    node.run_through(again(2, rollout="u1", number=4, owner="d1"))
    assert node.journal.state is NodeState.FAILED
    node.broken = {}

    node.run_through(again(3, rollout="u2", number=1, owner="d2"))

    assert node.journal.state is NodeState.ACTIVE


def test_what_serves_already_is_not_taken_away_by_a_deployment_made_anew():
    node = updated_node(owner="d1")
    node.journal = replace(
        node.journal, condemned=(Condemned("sha256:r2", "d1", "u1", 3, "it was bad"),)
    )

    node.run_through(again(3, rollout="u2", number=1, owner="d2"))

    assert node.journal.state is NodeState.ACTIVE
    assert node.active == "r2"


def test_at_most_64_artifacts_are_remembered_the_newest_of_them():
    journal = Journal()
    for number in range(70):
        failing = order(f"r{number}", sequence=number + 1, rollout=f"u{number}")
        journal = outcome.accept(journal, failing)
        journal = outcome.fail(
            journal,
            table.Action(Step.SELF_TEST, f"r{number}"),
            Node().facts(),
            reason=NodeReason.SELF_TEST_FAILED,
            message="bad",
        )

    assert [c.artifact for c in journal.condemned] == [f"sha256:r{n}" for n in range(6, 70)]


def test_the_condemned_have_a_file_of_their_own():
    node = failed_node()

    assert condemned_from_json(condemned_to_json(node.journal.condemned)) == node.journal.condemned
    assert from_json(to_json(node.journal)) == replace(node.journal, condemned=())
    with pytest.raises(ValueError, match=r"."):
        condemned_from_json(b'[{"artifact": 1}]')


# --- local health


def soaks_with(*, before, after):
    node = active_node("r1")
    node.requests, node.duration_s = before
    node.give(order("r2", sequence=2, baseline="r1", soak_s=60))
    while node.journal.state is not NodeState.SOAKING:
        node.step()
    node.requests, node.duration_s = after
    later(node, 1)
    return node, table.next_action(node.journal, node.facts())


def test_a_revision_that_is_far_slower_than_the_one_before_is_taken_back():
    node, action = soaks_with(before=(100, 1.0), after=(20, 8.0))

    assert (action.step, action.reason) == (Step.REVERT, NodeReason.SOAK_FAILED)
    assert "0.400 s on average" in action.message
    node.run()
    assert node.active == "r1"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param((100, 1.0), (19, 60.0), id="too few requests"),
        pytest.param((19, 1.0), (100, 60.0), id="too few before"),
        pytest.param((100, 10.0), (100, 40.0), id="four times"),
        pytest.param((100, 0.1), (100, 20.0), id="a fifth of a second"),
        pytest.param((100, 0.0), (100, 60.0), id="a server that does not say"),
    ],
)
def test_local_health_is_generous_about_latency(before, after):
    _, action = soaks_with(before=before, after=after)

    assert action.step is Step.WAIT


def test_a_first_revision_may_be_as_slow_as_it_is():
    node = Node()
    node.give(order(soak_s=5))
    while node.journal.state is not NodeState.SOAKING:
        node.step()
    node.requests, node.duration_s = 100, 500.0

    node.run()

    assert node.journal.state is NodeState.ACTIVE


def test_a_soak_looks_at_the_requests_since_the_swap_alone():
    node = soaking_node(soak_s=5)

    assert node.journal.before == (0, 0)
    node.run()
    assert node.journal.state is NodeState.ACTIVE
