"""What happens at the edges of a deployment: things missing, wrong, reinstalled or restored."""

from dataclasses import replace
from datetime import timedelta

import pytest

from linnet_api.node_model import NodeModelStatus
from linnet_api.reasons import ActVerb, NodeReason, NodeState, RolloutPhase
from linnet_api.rollout_policy import (
    Budget,
    History,
    Judge,
    Offline,
    RolloutPolicySpec,
    Step,
    Window,
)
from linnet_operator.planner.model import PolicyMissing
from linnet_testbed.referee import Referee
from linnet_testbed.simulator import FleetSimulator, digest_of

pytestmark = pytest.mark.slow

ONE, TWO, THREE = (f"oci://r.test/m/digits:{n}" for n in range(1, 4))
AT_ONCE = RolloutPolicySpec(
    steps=(Step(nodes="100%", bake="0s"),),
    control=0,
    judge=Judge(interval="2s", history=History(window="10s")),
    offline=Offline(defer_after="10s", suspect_after="15s"),
)
CAREFUL = AT_ONCE.model_copy(
    update={"steps": (Step(nodes=2, bake="20s"), Step(nodes="100%", bake="20s"))}
)


def fleet_of(nodes, *, settled=True, **how):
    fleet = FleetSimulator(
        seed=7, nodes=nodes, policy=AT_ONCE, source=ONE, on_write=Referee().on_write, **how
    )
    if settled:
        assert fleet.run_until(lambda one: one.is_quiet())
        fleet.policy = CAREFUL
    return fleet


def bring(fleet, source):
    before = len(fleet.rollouts)
    fleet.set_source(source)
    assert fleet.run_until(lambda one: len(one.rollouts) > before)


def serving(fleet, source):
    nodes = fleet.nodes.values()
    return sum(n.current is not None and n.current.artifact == digest_of(source) for n in nodes)


def condition(fleet):
    first = fleet.status.conditions[0]
    return first.status, first.reason


# ---------------------------------------------------------------- before anything begins


def test_without_nodes_nothing_begins_and_it_is_said():
    fleet = fleet_of(0, settled=False)
    fleet.run_for(timedelta(minutes=5))

    assert not fleet.rollouts
    assert condition(fleet) == ("Unknown", "NoNodes")
    assert fleet.status.waiting_for.reason == "NoNodes"
    assert "no node matches spec.nodes" in fleet.status.waiting_for.message

    fleet.join("first")
    fleet.run_for(timedelta(minutes=1))
    assert serving(fleet, ONE) == 1


def test_a_policy_that_does_not_exist_stalls_and_moves_nobody():
    fleet = fleet_of(3)
    fleet.policy = PolicyMissing("RolloutPolicy 'careful' does not exist")
    fleet.set_source(TWO)
    fleet.run_for(timedelta(minutes=5))

    assert condition(fleet) == ("False", "PolicyNotFound")
    assert {c.type for c in fleet.status.conditions} == {"Ready", "Stalled"}
    assert serving(fleet, ONE) == 3

    fleet.policy = CAREFUL
    fleet._dirty()
    assert fleet.run_until(lambda one: one.is_quiet() and serving(one, TWO) == 3)


def test_a_policy_with_a_wrong_window_is_an_invalid_spec():
    fleet = fleet_of(3)
    window = Window(cron="99 * * * *", duration="1h")
    fleet.policy = CAREFUL.model_copy(update={"windows": (window,)})
    fleet.set_source(TWO)
    fleet.run_for(timedelta(minutes=1))

    assert condition(fleet) == ("False", "InvalidSpec")
    assert "99" in fleet.status.conditions[0].message


def test_a_trouble_with_the_policy_is_no_trouble_while_nothing_shall_begin():
    fleet = fleet_of(3)
    fleet.policy = PolicyMissing("it is gone")
    fleet._dirty()
    fleet.run_for(timedelta(minutes=1))

    assert condition(fleet) == ("True", "Serving")


def test_paused_from_the_start_nothing_begins():
    fleet = fleet_of(3)
    fleet.edit(paused=True, source=TWO)
    fleet.run_for(timedelta(minutes=1))

    assert condition(fleet) == ("Unknown", "Paused")
    assert fleet.status.conditions[-1].type == "Paused"
    assert len(fleet.rollouts) == 1


def test_a_source_in_doubt_holds_a_running_rollout_but_not_its_way_back():
    fleet = fleet_of(5)
    bring(fleet, TWO)
    assert fleet.run_until(lambda one: one.phase is RolloutPhase.BAKING)
    fleet.registry_down = True
    fleet.set_source(THREE)
    fleet.run_for(timedelta(minutes=5))
    assert fleet.last.waiting_for.reason == "Source"
    assert serving(fleet, TWO) == 2

    fleet.bad.add(digest_of(TWO))
    assert fleet.run_until(lambda one: one.phase is RolloutPhase.ROLLED_BACK)
    assert serving(fleet, ONE) == 5


# ---------------------------------------------------------------- things that were lost


@pytest.mark.parametrize("shares", [(2, "100%"), ("100%",)])
def test_a_deleted_revision_does_not_stand_in_the_way_of_a_rollback(shares):
    fleet = fleet_of(5)
    fleet.policy = CAREFUL.model_copy(
        update={"steps": tuple(Step(nodes=share, bake="1m") for share in shares)}
    )
    bring(fleet, TWO)
    assert fleet.run_until(lambda one: one.phase is RolloutPhase.BAKING)
    stable = fleet.rollout.spec.from_.revision
    del fleet.revisions[stable]
    fleet.bad.add(digest_of(TWO))

    assert fleet.run_until(lambda one: one.phase is RolloutPhase.ROLLED_BACK)
    assert serving(fleet, ONE) == 5


def test_a_stable_revision_that_nobody_knows_any_more_is_waited_for_and_said():
    fleet = fleet_of(2)
    bring(fleet, TWO)
    fleet.policy = CAREFUL
    assert fleet.run_until(lambda one: one.phase is RolloutPhase.FINISHING)
    assert fleet.run_until(lambda one: one.phase is RolloutPhase.COMPLETED)
    fleet.run_for(timedelta(minutes=1))
    fleet.edit(source=THREE, serving={"threads": 4})
    fleet.bad.add(digest_of(THREE))
    fleet.policy = AT_ONCE
    assert fleet.run_until(lambda one: one.phase is RolloutPhase.BAKING)
    del fleet.revisions[fleet.rollout.spec.from_.revision]
    fleet.run_for(timedelta(minutes=10))

    assert fleet.phase is RolloutPhase.ROLLING_BACK
    assert fleet.last.waiting_for.reason == "Reverting"


def test_old_revisions_are_dropped_but_never_one_that_is_named():
    fleet = fleet_of(2)
    fleet.edit(revision_history_limit=2)
    fleet.policy = AT_ONCE
    for number in range(2, 8):
        bring(fleet, f"oci://r.test/m/digits:{number}")
        assert fleet.run_until(lambda one: one.is_quiet())
    fleet.run_for(timedelta(minutes=3))

    assert sorted(r.number for r in fleet.revisions.values()) == [6, 7]
    assert fleet.counts["DropRevision"] == 5


def test_a_reinstalled_node_gets_a_new_order():
    fleet = fleet_of(3)
    node = fleet.nodes["node-0001"]
    fresh = type(node)(node.name, "uid-reinstalled", seen_at=fleet.now)
    fleet.nodes[node.name] = fresh
    fleet._dirty()
    fleet.run_for(timedelta(minutes=1))

    assert fleet.counts["DropOrder"] == 1
    assert fleet.orders[node.name].node.uid == "uid-reinstalled"
    assert serving(fleet, ONE) == 3


def test_a_deselected_node_keeps_what_it_serves():
    fleet = fleet_of(3)
    right = fleet.view
    fleet.view = lambda node: replace(right(node), matched=node.name != "node-0001")
    bring(fleet, TWO)
    assert fleet.run_until(lambda one: one.is_quiet())
    fleet.run_for(timedelta(minutes=2))

    assert (serving(fleet, ONE), serving(fleet, TWO)) == (1, 2)
    assert fleet.status.nodes.matched == 2


def test_a_node_without_the_runtime_is_incompatible_and_left_alone():
    fleet = fleet_of(3)
    right = fleet.view
    fleet.view = lambda node: replace(
        right(node), runtimes=("Files",) if node.name == "node-0001" else ("Linnet",)
    )
    bring(fleet, TWO)
    assert fleet.run_until(lambda one: one.is_quiet())
    fleet.run_for(timedelta(minutes=1))

    assert (serving(fleet, ONE), serving(fleet, TWO)) == (1, 2)
    assert fleet.status.nodes.incompatible == 1
    assert "1 cannot run it" in fleet.status.conditions[0].message


def test_a_node_without_an_agent_is_deferred():
    fleet = fleet_of(3)
    fleet.join("bare")
    right = fleet.view
    fleet.view = lambda node: (
        replace(right(node), runtimes=None, heartbeat_at=None)
        if node.name == "bare"
        else right(node)
    )
    fleet._dirty()
    fleet.run_for(timedelta(minutes=1))

    assert fleet.status.nodes.deferred == 1
    assert "bare" in fleet.status.waiting_for.message
    assert condition(fleet) == ("True", "Serving")


# ---------------------------------------------------------------- what nodes say


@pytest.mark.parametrize("reason", [NodeReason.REGISTRY_UNAVAILABLE, NodeReason.DISK_FULL])
def test_what_is_not_the_models_fault_is_waited_for(reason):
    fleet = fleet_of(3)
    bring(fleet, TWO)
    fleet.registry_down = True
    assert fleet.run_until(lambda one: one.phase is RolloutPhase.STEPPING)
    fleet.run_for(timedelta(seconds=30))
    candidate = fleet.rollout.spec.to.revision
    asked = [n for n, o in fleet.orders.items() if o.desired.revision == candidate]
    for name in asked:
        node = fleet.nodes[name]
        node.state, node.reason, node.message = NodeState.FAILED, reason, "try later"
        fleet._report(node)
    fleet.run_for(timedelta(minutes=2))

    assert fleet.phase is RolloutPhase.STEPPING
    waiting = fleet.last.waiting_for
    assert waiting.reason == "Activating"
    assert reason.value in waiting.message
    assert "try later" in waiting.message


def fail_on_the_first(fleet, reason, message):
    """Bring a new version to all at once, and let it fail on one asked node; return its name."""
    fleet.policy = CAREFUL.model_copy(update={"steps": (Step(nodes="100%", bake="10s"),)})
    bring(fleet, TWO)
    assert fleet.run_until(lambda one: one.phase is RolloutPhase.STEPPING)
    fleet.run_for(timedelta(seconds=1))
    candidate = fleet.rollout.spec.to.revision
    first = min(n for n, o in fleet.orders.items() if o.desired.revision == candidate)
    node = fleet.nodes[first]
    node.epoch += 1
    node.state, node.reason, node.message = NodeState.FAILED, reason, message
    fleet._report(node)
    return first


def test_a_node_that_no_variant_is_for_is_incompatible_and_keeps_its_order():
    fleet = fleet_of(3)
    first = fail_on_the_first(fleet, NodeReason.WRONG_VARIANT, "needs a GPU")
    told = fleet.orders[first]

    assert fleet.run_until(lambda one: one.phase is RolloutPhase.COMPLETED)
    assert fleet.orders[first] == told
    fleet.run_for(timedelta(minutes=2))

    assert (serving(fleet, ONE), serving(fleet, TWO)) == (1, 2)
    assert fleet.status.nodes.incompatible == 1
    assert fleet.orders[first].desired.revision == told.desired.revision
    assert "1 cannot run it" in fleet.status.conditions[0].message


def test_one_node_of_many_that_fails_asks_a_person_and_is_gone_on_without():
    fleet = fleet_of(10)
    first = fail_on_the_first(fleet, NodeReason.SELF_TEST_CRASHED, "signal 11")

    assert fleet.run_until(lambda one: one.phase is RolloutPhase.WAITING)
    fleet.run_for(timedelta(minutes=1))
    assert f"SelfTestCrashed on {first}: signal 11" in fleet.last.waiting_for.message
    fleet.act(ActVerb.PROMOTE)
    assert fleet.run_until(lambda one: one.phase is RolloutPhase.COMPLETED)
    fleet.run_for(timedelta(minutes=2))

    assert serving(fleet, TWO) == 9
    assert "SelfTestCrashed" in fleet.status.waiting_for.message


def test_one_node_of_many_that_refuses_asks_a_person():
    fleet = fleet_of(10)
    fleet.policy = CAREFUL.model_copy(update={"steps": (Step(nodes="100%", bake="10m"),)})
    bring(fleet, TWO)
    assert fleet.run_until(lambda one: one.phase is RolloutPhase.BAKING)
    node = fleet.nodes[next(n for n in fleet.nodes if serving_node(fleet, n, TWO))]
    node.state, node.reason = NodeState.REFUSED, NodeReason.REVOKED
    fleet._report(node)

    assert fleet.run_until(lambda one: one.phase is RolloutPhase.WAITING)
    assert "refused it by their own trust" in fleet.rollout.status.decisions[-1].message


def serving_node(fleet, name, source):
    current = fleet.nodes[name].current
    return current is not None and current.artifact == digest_of(source)


def test_a_bake_stands_still_while_too_many_of_its_nodes_are_missing():
    fleet = fleet_of(6)
    fleet.policy = CAREFUL.model_copy(
        update={
            "steps": (Step(nodes=2, bake="1m"), Step(nodes="100%", bake="1m")),
            "offline": Offline(defer_after="10m", suspect_after="10m"),
        }
    )
    bring(fleet, TWO)
    assert fleet.run_until(lambda one: one.phase is RolloutPhase.BAKING)
    fleet.run_for(timedelta(seconds=20))
    gone = next(n for n in fleet.nodes if serving_node(fleet, n, TWO))
    fleet.cut(gone)
    fleet.run_for(timedelta(minutes=5))

    step = fleet.rollout.status.steps[0]
    assert fleet.phase is RolloutPhase.BAKING
    assert step.baking_since is None
    assert 15 <= step.baked_seconds <= 30
    assert "stands still" in fleet.last.waiting_for.message

    fleet.heal(gone)
    assert fleet.run_until(lambda one: one.is_quiet())
    assert serving(fleet, TWO) == 6


def test_a_budget_that_is_spent_is_said():
    fleet = fleet_of(6)
    fleet.policy = CAREFUL.model_copy(
        update={
            "steps": (Step(nodes=4, bake="1m"),),
            "budget": Budget(max_unavailable=1, max_downloads=1),
        }
    )
    bring(fleet, TWO)
    assert fleet.run_until(lambda one: serving(one, TWO) == 1)
    fleet.run_for(timedelta(seconds=8))
    sick = fleet.nodes[next(n for n in fleet.nodes if serving_node(fleet, n, ONE))]
    sick.current = None
    sick.disk.clear()
    fleet._report(sick)
    fleet.run_for(timedelta(seconds=30))

    assert fleet.last.waiting_for.reason == "Budget"
    assert "1 nodes are out of service and 1 may be" in fleet.last.waiting_for.message


def test_a_retry_of_what_completed_changes_nothing():
    fleet = fleet_of(3)
    fleet.act(ActVerb.RETRY)
    fleet.run_for(timedelta(minutes=2))

    assert len(fleet.rollouts) == 1


def test_a_condemned_digest_is_blocked_where_its_rollout_is_gone():
    fleet = fleet_of(3)
    fleet.bad.add(digest_of(TWO))
    bring(fleet, TWO)
    assert fleet.run_until(lambda one: one.phase is RolloutPhase.ROLLED_BACK)
    fleet.run_for(timedelta(minutes=1))
    fleet.rollouts.pop()
    fleet._dirty()
    fleet.run_for(timedelta(minutes=5))

    assert len(fleet.rollouts) == 1
    assert condition(fleet) == ("False", "Condemned")
    assert "linnet retry digits" in fleet.status.conditions[0].message


def test_an_empty_report_is_no_report():
    fleet = fleet_of(2)
    name = "node-0000"
    fleet.reports[name] = NodeModelStatus()
    fleet._dirty()
    fleet.run_for(timedelta(minutes=1))

    assert fleet.status.waiting_for.short == "1 of 2 nodes"
