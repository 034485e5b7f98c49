"""spec.swap: what each order says of it, and how many nodes may change at a time with it."""

from datetime import timedelta

import pytest

from linnet_api.model_deployment import ModelDeploymentSpec
from linnet_api.reasons import NodeState, RolloutPhase
from linnet_api.revisions import revision_of
from linnet_api.rollout_policy import Budget, History, Judge, RolloutPolicySpec, Step
from linnet_testbed.referee import Referee
from linnet_testbed.simulator import FleetSimulator, digest_of

ONE, TWO = (f"oci://r.test/m/digits:{n}" for n in (1, 2))
AT_ONCE = RolloutPolicySpec(
    steps=(Step(nodes="100%", bake="0s"),),
    control=0,
    judge=Judge(interval="2s", history=History(window="10s")),
    budget=Budget(max_unavailable=2, max_downloads=10),
)


def fleet_of(nodes):
    fleet = FleetSimulator(
        seed=3, nodes=nodes, policy=AT_ONCE, source=ONE, on_write=Referee().on_write
    )
    assert fleet.run_until(lambda one: one.is_quiet())
    return fleet


def swaps(fleet):
    return {order.desired.swap for order in fleet.orders.values()}


def bring(fleet, source):
    before = len(fleet.rollouts)
    fleet.set_source(source)
    assert fleet.run_until(lambda one: len(one.rollouts) > before)
    return fleet.rollout.spec.to.revision


@pytest.mark.slow
def test_every_order_says_what_a_swap_may_cost_also_on_the_way_back():
    fleet = fleet_of(3)
    assert swaps(fleet) == {"Beside"}

    fleet.edit(swap="Replace")
    assert fleet.run_until(lambda one: one.is_quiet())
    assert swaps(fleet) == {"Beside"}, "it is no new revision, so nobody is asked anything"

    fleet.failing.add(digest_of(TWO))
    bring(fleet, TWO)
    assert fleet.run_until(lambda one: one.phase is RolloutPhase.ROLLED_BACK)
    assert fleet.run_until(lambda one: one.is_quiet())
    stable = fleet.rollout.spec.from_.revision
    asked = [order for order in fleet.orders.values() if order.desired.swap == "Replace"]
    assert asked
    assert {order.desired.revision for order in asked} == {stable}


@pytest.mark.slow
@pytest.mark.parametrize(("swap", "most"), [("Replace", 2), ("Beside", 10)])
def test_with_replace_no_more_nodes_change_at_a_time_than_may_be_out_of_service(swap, most):
    fleet = fleet_of(10)
    fleet.edit(swap=swap)
    candidate = bring(fleet, TWO)

    seen = set()
    for _ in fleet.events(fleet.now + timedelta(minutes=30)):
        under_way = [
            name
            for name, order in fleet.orders.items()
            if order.desired.revision == candidate
            and (fleet.nodes[name].state, fleet.nodes[name].current.revision)
            != (NodeState.ACTIVE, candidate)
        ]
        seen.add(len(under_way))
        if fleet.phase is RolloutPhase.COMPLETED:
            break

    assert fleet.phase is RolloutPhase.COMPLETED
    assert max(seen) == most


def test_it_is_no_part_of_the_revision():
    beside, replace = (
        ModelDeploymentSpec.model_validate(
            {"source": ONE, "nodes": {"matchLabels": {"a": "b"}}, "swap": swap}
        )
        for swap in ("Beside", "Replace")
    )

    first, second = (
        revision_of(artifact=digest_of(ONE), variants=spec.variants, serving=spec.serving)
        for spec in (beside, replace)
    )
    assert first == second


def test_a_word_that_allows_something_else_is_refused():
    with pytest.raises(ValueError, match="swap"):
        ModelDeploymentSpec.model_validate(
            {"source": ONE, "nodes": {"matchLabels": {"a": "b"}}, "swap": "replace"}
        )
