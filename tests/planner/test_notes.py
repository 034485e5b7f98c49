"""What a reader of the policy would not expect of a running rollout is said in its status."""

from datetime import timedelta

import pytest

from linnet_api.rollout_policy import History, Judge, RolloutPolicySpec, Step
from linnet_testbed.simulator import FleetSimulator, digest_of

pytestmark = pytest.mark.slow

ONE, TWO = "oci://r.test/m/digits:1", "oci://r.test/m/digits:2"


def policy(*shares, **rest):
    steps = tuple(Step(nodes=share, bake="30s") for share in shares)
    return RolloutPolicySpec(steps=steps, judge=Judge(compare=()), **rest)


def baking(rules, *, nodes, edited=None):
    """Return what the second rollout says while its first step bakes."""
    fleet = FleetSimulator(seed=1, nodes=nodes, policy=rules, source=ONE)
    run_until(fleet, fleet.is_quiet)
    fleet.set_source(TWO)
    run_until(fleet, lambda: len(fleet.rollouts) == 2)
    fleet.policy = edited or rules
    run_until(fleet, lambda: fleet.rollout.status.phase == "Baking")
    return fleet.status.waiting_for.message


def run_until(fleet, done):
    assert any(done() for _ in fleet.events(fleet.now + timedelta(hours=1))), fleet.log


@pytest.mark.parametrize(
    ("rules", "nodes", "edited", "says"),
    [
        (policy(1, "10%", "100%"), 10, None, "steps 1 to 2 ask for the same nodes and are one"),
        (policy(1, "100%"), 2, None, "no control group: too few nodes"),
        (policy(1, "100%"), 4, policy("100%"), "counts from the next rollout on"),
    ],
    ids=["merged", "no control", "edited"],
)
def test_it_is_said(rules, nodes, edited, says):
    assert says in baking(rules, nodes=nodes, edited=edited)


def test_a_policy_that_is_edited_midway_moves_no_node_of_the_running_rollout():
    """At the edit all nodes at once are allowed; the rollout goes on as it was begun."""
    fleet = FleetSimulator(seed=1, nodes=4, policy=policy(1, "100%"), source=ONE)
    run_until(fleet, fleet.is_quiet)
    fleet.set_source(TWO)
    run_until(fleet, lambda: fleet.rollout.status.phase == "Baking")
    fleet.policy = policy("100%")

    seen = []

    def is_over():
        if fleet.rollout.status.step == 1:
            seen.append(fleet.status.nodes.on_candidate)
        return fleet.rollout.status.phase == "Completed"

    run_until(fleet, is_over)

    assert fleet.rollout.spec.policy == policy(1, "100%")
    assert max(seen) == 1


def test_what_is_as_the_policy_says_needs_no_word():
    said = baking(policy(1, "100%"), nodes=4)

    assert not any(word in said for word in ("are one", "control", "edited"))


class Wordy(FleetSimulator):
    """A metrics source with so much to say that it fits no field of a status."""

    def _assess(self, request):
        verdict, message, requests = super()._assess(request)
        return verdict, f"{message} {'and so on ' * 500}", requests


@pytest.mark.parametrize("metrics", ["honest", "absent"])
def test_a_look_with_more_to_say_than_a_status_holds_is_cut_and_stops_nothing(metrics):
    rules = RolloutPolicySpec(
        steps=(Step(nodes="100%", bake="30s"),),
        judge=Judge(interval="2s", history=History(window="10s"), decide_within="1m"),
    )
    fleet = Wordy(seed=1, nodes=4, policy=rules, source=ONE)
    run_until(fleet, fleet.is_quiet)
    fleet.set_source(TWO)
    run_until(fleet, lambda: fleet.rollout.spec.from_ and fleet.rollout.status.step == 1)
    fleet.metrics = metrics

    run_until(fleet, lambda: "and so on" in fleet.status.waiting_for.message)
    assert len(fleet.status.waiting_for.message) == 2048
    fleet.metrics = "honest"

    run_until(fleet, lambda: fleet.phase == "Completed")


def test_what_a_person_can_do_is_said_however_long_the_reason_is():
    rules = policy("100%").model_copy(
        update={"judge": Judge(interval="2s", history=History(window="10s"))}
    )
    fleet = Wordy(seed=1, nodes=4, policy=rules, source=ONE)
    run_until(fleet, fleet.is_quiet)
    fleet.policy = rules.model_copy(update={"on_bad": "Pause"})
    fleet.bad.add(digest_of(TWO))
    fleet.set_source(TWO)

    run_until(fleet, lambda: fleet.phase == "Waiting")

    assert fleet.status.waiting_for.message.endswith(
        "decide: linnet promote digits, or linnet abort digits"
    )
