"""The rules of the design's section 2 that concern the planner, one property each, by number.

The fleets are simulated; a referee that shares no code with the planner watches every write.
"""

import subprocess
import sys
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linnet_api.reasons import ActVerb, RolloutPhase, Verdict
from linnet_api.rollout_policy import (
    Budget,
    Compare,
    History,
    Judge,
    Offline,
    RolloutPolicySpec,
    Step,
    Threshold,
    Window,
)
from linnet_operator.planner.model import Order
from linnet_testbed.referee import Referee
from linnet_testbed.simulator import START, FleetSimulator, digest_of

pytestmark = pytest.mark.slow

ONE, TWO, THREE, FOUR = (f"oci://r.test/m/digits:{n}" for n in range(1, 5))
SOON = timedelta(seconds=1)
few = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def policy(*shares, bake="20s", approval="None", budget=None, offline=None, **rest):
    judge = {"interval": "2s", "history": History(window="10s"), **rest.pop("judge", {})}
    return RolloutPolicySpec(
        steps=tuple(
            Step(nodes=share, bake=bake, approval=approval if index else "None")
            for index, share in enumerate(shares)
        ),
        judge=Judge(**judge),
        budget=budget or Budget(),
        offline=offline or Offline(defer_after="10s", suspect_after="15s"),
        **rest,
    )


STEPS = policy(1, "30%", "100%")
AT_ONCE = policy("100%", bake="0s", control=0)


class Watched:
    """A fleet and its referee."""

    def __init__(self, rules=STEPS, *, nodes=10, seed=1, source=ONE):
        self.referee = Referee()
        self.fleet = FleetSimulator(
            seed=seed, nodes=nodes, policy=rules, source=source, on_write=self.referee.on_write
        )

    def run_for(self, **span):
        for _ in self.fleet.events(self.fleet.now + timedelta(**span)):
            self.referee.check(self.fleet)

    def until(self, done, **limit):
        end = self.fleet.now + timedelta(**(limit or {"minutes": 30}))
        for _ in self.fleet.events(end):
            self.referee.check(self.fleet)
            if done(self.fleet):
                return
        raise AssertionError(f"not in time: {self.fleet.last.waiting_for}\n{self.story()}")

    def until_phase(self, phase, *, step=None):
        self.until(
            lambda fleet: (
                fleet.phase is phase and (step is None or fleet.rollout.status.step == step)
            )
        )

    def settle(self):
        self.until(lambda fleet: fleet.is_quiet())

    def bring(self, source, *, flaw=None):
        if flaw is not None:
            getattr(self.fleet, flaw).add(digest_of(source))
        before = len(self.fleet.rollouts)
        self.fleet.set_source(source)
        self.until(lambda fleet: len(fleet.rollouts) > before)

    def story(self):
        return "\n".join(self.fleet.log)

    def serving(self, source):
        digest = digest_of(source)
        return {
            node.name
            for node in self.fleet.nodes.values()
            if node.current is not None and node.current.artifact == digest
        }


def on_stable(rules=STEPS, **how):
    """Return a fleet that serves its first model, at rest."""
    watched = Watched(AT_ONCE, **how)
    watched.settle()
    watched.fleet.policy = rules
    assert len(watched.serving(ONE)) == len(watched.fleet.nodes), watched.story()
    return watched


# ---------------------------------------------------------------- rule 3


def test_rule_03_the_baseline_is_named_until_the_rollout_has_ended():
    watched = on_stable()
    watched.bring(TWO)
    watched.until_phase(RolloutPhase.BAKING, step=3)
    stable = watched.fleet.rollout.spec.from_.revision

    named = [o.baseline.revision for o in watched.fleet.orders.values() if o.baseline is not None]
    assert named == [stable] * 8  # ten nodes, two of them control

    watched.settle()
    assert watched.fleet.phase is RolloutPhase.COMPLETED
    assert all(order.baseline is None for order in watched.fleet.orders.values())


def test_rule_03_going_back_needs_no_network():
    watched = on_stable()
    watched.bring(TWO, flaw="bad")
    watched.until_phase(RolloutPhase.ROLLING_BACK)
    watched.fleet.registry_down = True

    watched.settle()

    assert len(watched.serving(ONE)) == 10
    assert all(node.fetches <= 2 for node in watched.fleet.nodes.values())


# ---------------------------------------------------------------- rule 4


@few
@given(
    nodes=st.integers(1, 25),
    shares=st.lists(
        st.one_of(st.integers(1, 20), st.integers(1, 100).map("{}%".format)),
        min_size=1,
        max_size=4,
    ),
    downloads=st.integers(1, 10),
    seed=st.integers(0, 1000),
)
def test_rule_04_no_step_exceeds_its_quota_nor_the_budget(nodes, shares, downloads, seed):
    rules = policy(*shares, bake="5s", budget=Budget(max_downloads=downloads))
    watched = on_stable(rules, nodes=nodes, seed=seed)

    watched.bring(TWO)
    watched.settle()  # the referee counts at every order

    assert len(watched.serving(TWO)) == nodes


def test_rule_04_silent_nodes_eat_the_budget():
    watched = on_stable(policy(4, "100%", budget=Budget(max_unavailable=1)))
    watched.bring(TWO)
    watched.until(lambda _: len(watched.serving(TWO)) == 1)
    first = next(iter(watched.serving(TWO)))
    watched.fleet.cut(first)
    watched.run_for(minutes=5)

    assert watched.fleet.phase is RolloutPhase.STEPPING
    assert watched.fleet.last.waiting_for.reason in ("SilentNodes", "Budget")
    assert watched.fleet.status.nodes.silent == 1

    watched.fleet.heal(first)
    watched.settle()
    assert watched.fleet.phase is RolloutPhase.COMPLETED


def test_rule_04_a_node_that_is_out_of_service_holds_the_others():
    rules = policy("100%", control=0, budget=Budget(max_unavailable=1))
    watched = on_stable(rules, nodes=4)
    sick = watched.fleet.nodes["node-0000"]
    sick.current = None
    sick.state = sick.state
    watched.fleet._report(sick)

    watched.bring(TWO)
    watched.until_phase(RolloutPhase.STEPPING)
    watched.run_for(milliseconds=500)

    candidate = watched.fleet.rollout.spec.to.revision
    asked = [n for n, o in watched.fleet.orders.items() if o.desired.revision == candidate]
    assert asked == ["node-0000"]  # it can only become better
    watched.settle()


# ---------------------------------------------------------------- rule 5


@pytest.mark.parametrize("metrics", ["absent", "nan", "partial", "trouble"])
@pytest.mark.parametrize("on_no_data", ["Hold", "Ask"])
def test_rule_05_no_data_never_advances(metrics, on_no_data):
    watched = on_stable(policy(1, "100%", judge={"on_no_data": on_no_data}))
    watched.bring(TWO)
    watched.until_phase(RolloutPhase.BAKING, step=1)
    watched.fleet.metrics = metrics

    watched.run_for(hours=1)

    assert watched.fleet.rollout.status.step == 1
    assert len(watched.serving(TWO)) == 1
    waits = {"absent": "NoData", "nan": "NoData", "partial": "PartialData"}
    wanted = waits.get(metrics, "FleetTrouble")
    if on_no_data == "Ask" and metrics != "trouble":
        wanted = "Decision"
    assert watched.fleet.last.waiting_for.reason == wanted


def test_rule_05_no_data_may_roll_back_where_the_policy_says_so():
    watched = on_stable(policy(1, "100%", judge={"on_no_data": "Rollback"}))
    watched.bring(TWO)
    watched.until_phase(RolloutPhase.BAKING, step=1)
    watched.fleet.metrics = "absent"

    watched.until_phase(RolloutPhase.ROLLED_BACK)
    watched.run_for(minutes=5)

    assert len(watched.serving(ONE)) == 10


@pytest.mark.parametrize(
    ("on_undecided", "phase"),
    [
        ("Hold", RolloutPhase.BAKING),
        ("Ask", RolloutPhase.WAITING),
        ("Advance", RolloutPhase.COMPLETED),
        ("Rollback", RolloutPhase.ROLLED_BACK),
    ],
)
def test_rule_05_what_stays_undecided_follows_the_policy(on_undecided, phase):
    watched = on_stable(policy(1, "100%", judge={"on_undecided": on_undecided}))
    watched.fleet.needed_requests = 10**9
    watched.bring(TWO)

    watched.run_for(hours=1)

    assert watched.fleet.phase is phase
    if phase is RolloutPhase.COMPLETED:
        assert {d.verdict for d in watched.fleet.rollout.status.decisions} == {Verdict.UNDECIDED}


def test_rule_05_a_pass_after_the_question_was_asked_goes_on_by_itself():
    watched = on_stable(policy(1, "100%"))
    watched.fleet.needed_requests = 10**9
    watched.bring(TWO)
    watched.until_phase(RolloutPhase.WAITING)
    watched.fleet.needed_requests = 60

    watched.settle()

    assert watched.fleet.phase is RolloutPhase.COMPLETED


# ---------------------------------------------------------------- rule 6


@few
@given(nodes=st.integers(2, 15), seed=st.integers(0, 1000))
def test_rule_06_a_bad_candidate_goes_back_from_every_node_also_from_offline_ones(nodes, seed):
    watched = on_stable(policy("60%", "100%", bake="60s"), nodes=nodes, seed=seed)
    watched.fleet.needed_requests = 10**9
    watched.bring(TWO)
    watched.until_phase(RolloutPhase.BAKING, step=1)
    gone = min(watched.serving(TWO))
    watched.fleet.cut(gone)
    watched.fleet.bad.add(digest_of(TWO))
    watched.fleet.needed_requests = 1

    watched.until(lambda fleet: fleet.phase.ended)
    assert watched.fleet.phase is RolloutPhase.ROLLED_BACK
    assert watched.serving(TWO) == {gone}
    assert "offline" in watched.fleet.rollout.status.message

    watched.fleet.heal(gone)
    watched.run_for(minutes=2)
    assert not watched.serving(TWO)
    assert watched.fleet.status.conditions[0].reason == "RolledBack"
    watched.referee.check_rest(watched.fleet)


def test_rule_06_it_is_not_tried_again_until_a_person_says_retry():
    watched = on_stable()
    watched.bring(TWO, flaw="bad")
    watched.until_phase(RolloutPhase.ROLLED_BACK)
    watched.run_for(minutes=10)
    watched.fleet.kill_operator()
    watched.fleet.edit(paused=False)  # Git applies the same spec again
    watched.run_for(minutes=10)
    assert len(watched.fleet.rollouts) == 2

    watched.fleet.bad.clear()
    watched.fleet.act(ActVerb.RETRY)
    watched.settle()

    assert len(watched.fleet.rollouts) == 3
    assert watched.fleet.rollout.status.decisions[0].step == 1
    assert len(watched.serving(TWO)) == 10


def test_rule_06_another_spec_lifts_the_ban():
    watched = on_stable()
    watched.bring(TWO, flaw="bad")
    watched.until_phase(RolloutPhase.ROLLED_BACK)
    watched.run_for(minutes=1)
    watched.fleet.set_source(ONE)
    watched.run_for(minutes=1)
    assert watched.fleet.status.conditions[0].status == "True"

    watched.fleet.bad.clear()
    watched.bring(TWO)
    watched.settle()

    assert len(watched.serving(TWO)) == 10


def test_rule_06_a_status_that_was_lost_does_not_lift_the_ban():
    watched = on_stable()
    watched.bring(TWO, flaw="bad")
    watched.until_phase(RolloutPhase.ROLLED_BACK)
    watched.run_for(minutes=1)
    watched.fleet.status = type(watched.fleet.status)()
    watched.run_for(minutes=10)

    assert len(watched.fleet.rollouts) == 2


@pytest.mark.parametrize("flaw", ["failing", "refused"])
def test_rule_06_a_first_rollout_that_is_bad_stops_and_unloads(flaw):
    watched = Watched(nodes=5, source=THREE)
    getattr(watched.fleet, flaw).add(digest_of(THREE))

    watched.run_for(minutes=10)

    end = RolloutPhase.REFUSED if flaw == "refused" else RolloutPhase.ROLLED_BACK
    assert watched.fleet.phase is end
    assert not watched.serving(THREE)
    assert {o.desired.state for o in watched.fleet.orders.values()} == {"Absent"}
    assert "nothing to go back to" in watched.fleet.status.conditions[0].message
    watched.referee.check_rest(watched.fleet)


def test_rule_06_two_rollbacks_by_themselves_then_a_person():
    watched = on_stable()
    for source in (TWO, THREE):
        watched.bring(source, flaw="bad")
        watched.until_phase(RolloutPhase.ROLLED_BACK)
        watched.run_for(seconds=30)
    watched.bring(FOUR, flaw="bad")

    watched.until_phase(RolloutPhase.WAITING)
    watched.run_for(minutes=10)

    waiting = watched.fleet.status.waiting_for
    assert waiting.reason == "Decision"
    assert "2 automatic rollbacks within a day" in waiting.message
    watched.fleet.act(ActVerb.ABORT)
    watched.until(lambda fleet: fleet.phase.ended)
    assert watched.fleet.phase is RolloutPhase.ABORTED
    assert len(watched.serving(ONE)) == 10


def test_rule_06_the_same_model_taken_back_and_retried_counts_each_time():
    watched = on_stable()
    watched.bring(TWO, flaw="bad")
    for _ in range(2):
        watched.until_phase(RolloutPhase.ROLLED_BACK)
        watched.run_for(seconds=30)
        before = len(watched.fleet.rollouts)
        watched.fleet.act(ActVerb.RETRY)
        watched.until(lambda fleet, count=before: len(fleet.rollouts) > count)

    watched.until_phase(RolloutPhase.WAITING)

    waiting = watched.fleet.status.waiting_for
    assert waiting.reason == "Decision"
    assert "2 automatic rollbacks within a day" in waiting.message


@pytest.mark.parametrize(
    "limit",
    [
        {"name": "dry", "query": "x", "max": "1", "dry_run": True},
        {"name": "rise", "query": "x{r='{{revision}}'} - x{r='{{baseline}}'}", "max": "1"},
    ],
    ids=["a dry run", "a limit that names the baseline"],
)
def test_rule_05_a_first_rollout_does_not_wait_for_what_decides_nothing(limit):
    judge = {"thresholds": (Threshold(**limit),)}
    watched = Watched(policy("100%", judge=judge), nodes=3)

    watched.until_phase(RolloutPhase.COMPLETED)

    assert len(watched.serving(ONE)) == 3


@pytest.mark.parametrize("cause", ["on_no_data", "on_undecided"])
def test_rule_06_what_the_policy_takes_back_undecided_counts_as_well(cause):
    watched = on_stable(policy(1, "100%", judge={cause: "Rollback"}))
    watched.fleet.needed_requests = 10**9
    whole = watched.fleet.metrics
    for source, end in ((TWO, "ROLLED_BACK"), (THREE, "ROLLED_BACK"), (FOUR, "WAITING")):
        watched.fleet.metrics = whole
        watched.bring(source)
        watched.until_phase(RolloutPhase.BAKING, step=1)
        watched.fleet.metrics = "absent" if cause == "on_no_data" else whole
        watched.until_phase(RolloutPhase[end])
        watched.run_for(seconds=30)

    waiting = watched.fleet.status.waiting_for
    assert waiting.reason == "Decision"
    assert "2 automatic rollbacks within a day" in waiting.message


def test_rule_06_on_bad_pause_asks():
    watched = on_stable(policy(1, "100%", on_bad="Pause"))
    watched.bring(TWO, flaw="bad")

    watched.until_phase(RolloutPhase.WAITING)
    watched.run_for(minutes=10)

    assert watched.fleet.last.waiting_for.reason == "Decision"
    assert len(watched.serving(TWO)) == 1


def test_rule_06_a_self_test_that_fails_takes_it_back():
    watched = on_stable()
    watched.bring(TWO, flaw="failing")

    watched.until_phase(RolloutPhase.ROLLED_BACK)

    message = watched.fleet.rollout.status.message
    assert "SelfTestFailed on node-" in message
    assert "output is NaN" in message


def test_rule_06_a_model_that_kills_nodes_does_not_eat_the_fleet():
    watched = on_stable(policy(4, "100%"))
    watched.bring(TWO, flaw="deadly")

    watched.until(lambda fleet: fleet.phase.ended)

    assert watched.fleet.phase is RolloutPhase.ROLLED_BACK
    assert "lost after they took it" in watched.fleet.rollout.status.message


def test_rule_06_where_the_whole_network_is_lost_the_model_is_not_blamed():
    watched = on_stable(policy(4, "100%", bake="10m"))
    watched.bring(TWO)
    watched.until_phase(RolloutPhase.BAKING)
    for name in list(watched.fleet.nodes):
        watched.fleet.cut(name)
    watched.run_for(minutes=3)
    assert watched.fleet.phase is RolloutPhase.BAKING

    for name in list(watched.fleet.nodes):
        watched.fleet.heal(name)
    watched.settle()
    assert watched.fleet.phase is RolloutPhase.COMPLETED


# ---------------------------------------------------------------- rule 7


def test_rule_07_sequences_never_fall_not_even_after_a_restore():
    watched = on_stable(nodes=3)
    node = watched.fleet.nodes["node-0001"]
    node.highest += 10**9  # it has seen orders that this hub does not know of
    watched.fleet._report(node)

    watched.bring(TWO)
    watched.settle()

    assert len(watched.serving(TWO)) == 3
    assert node.highest == watched.fleet.orders[node.name].sequence


def test_rule_07_an_order_that_vanishes_unloads_nobody():
    watched = on_stable(nodes=3)
    del watched.fleet.orders["node-0001"], watched.fleet.reports["node-0001"]
    watched.fleet._dirty()

    watched.run_for(minutes=3)

    assert len(watched.serving(ONE)) == 3
    assert "node-0001" in watched.fleet.orders


def test_rule_07_a_second_attempt_at_the_first_model_takes_nothing_away():
    watched = Watched(nodes=4)
    watched.until_phase(RolloutPhase.BAKING, step=2)
    served = watched.serving(ONE)
    watched.bring(TWO, flaw="refused")

    watched.until(lambda fleet: fleet.phase.ended and fleet.rollout.number == 2)
    watched.run_for(minutes=2)

    assert watched.serving(ONE) == served


# ---------------------------------------------------------------- rule 8


def decisions(watched):
    return [
        (rollout.name, d.step, d.action, d.verdict)
        for rollout in watched.fleet.rollouts
        for d in rollout.status.decisions
    ]


def whole_story(kill_at=()):
    watched = Watched(policy(1, "50%", "100%", bake="5s"), nodes=4)
    watched.fleet.kill_at = set(kill_at)
    watched.settle()
    watched.bring(TWO)
    watched.settle()
    watched.bring(THREE, flaw="bad")
    watched.until_phase(RolloutPhase.ROLLED_BACK)
    watched.run_for(minutes=1)
    return watched


def test_rule_08_killed_before_any_write_it_goes_on_and_decides_the_same():
    quiet = whole_story()
    writes = quiet.fleet.writes_tried
    assert len(decisions(quiet)) == 7

    for first in range(1, 8):
        killed = whole_story(range(first, writes, 7))

        assert killed.fleet.kills >= writes // 7
        assert decisions(killed) == decisions(quiet)
        assert len(killed.serving(TWO)) == 4


# ---------------------------------------------------------------- rule 9


def test_rule_09_whatever_waits_says_what_for_in_numbers():
    watched = on_stable(policy(1, "100%", approval="BeforeStep"))
    watched.bring(TWO)
    seen = {}
    for _ in watched.fleet.events(watched.fleet.now + timedelta(minutes=5)):
        waiting = watched.fleet.status.waiting_for
        assert waiting is not None
        assert waiting.short
        assert waiting.message
        seen.setdefault(waiting.reason, []).append(waiting)

    assert set(seen) == {"Learning", "Activating", "Baking", "Approval"}
    assert "of 20s" in seen["Baking"][-1].short
    assert "0 of 1 nodes" in seen["Activating"][0].message
    assert "linnet approve digits --step 2" in seen["Approval"][0].message
    assert seen["Baking"][0].until is not None
    conditions = {c.type: c.status for c in watched.fleet.status.conditions}
    assert conditions == {"Ready": "Unknown", "Reconciling": "True", "Paused": "True"}


def test_rule_09_nodes_that_were_left_out_are_said_and_catch_up():
    watched = on_stable()
    lost = ["node-0003", "node-0007"]
    for name in lost:
        watched.fleet.cut(name)
    watched.bring(TWO)
    watched.settle()
    status = watched.fleet.status
    assert (status.nodes.deferred, status.nodes_short) == (2, "8/8")
    assert "8 of 10 nodes serve" in status.conditions[0].message
    assert status.waiting_for.reason == "DeferredNodes"
    assert status.conditions[0].status == "True"

    for name in lost:
        watched.fleet.heal(name)
    watched.run_for(minutes=2)

    assert len(watched.serving(TWO)) == 10
    assert watched.fleet.status.waiting_for is None


# ---------------------------------------------------------------- rule 10


def test_rule_10_zero_holds_until_a_person_promotes():
    watched = on_stable(policy(0, "100%"))
    watched.bring(TWO)
    watched.run_for(minutes=30)
    assert watched.fleet.last.waiting_for.reason == "HeldAtZero"
    assert not watched.serving(TWO)

    watched.fleet.act(ActVerb.PROMOTE)
    watched.settle()

    assert len(watched.serving(TWO)) == 10


def test_rule_10_the_status_shows_integers():
    watched = on_stable(policy("15%", "100%"))
    watched.bring(TWO)
    watched.until_phase(RolloutPhase.BAKING, step=1)
    watched.run_for(seconds=1)

    step = watched.fleet.rollout.status.steps[0]
    assert (step.nodes, step.quota, step.control) == (2, 2, 2)
    assert watched.fleet.status.nodes_short == "2/10"
    assert watched.fleet.status.step_short == "1/2"


# ---------------------------------------------------------------- rule 11


@pytest.mark.parametrize("end", ["completed", "rolled back", "refused"])
def test_rule_11_a_settled_fleet_writes_nothing(end):
    watched = on_stable()
    flaw = {"rolled back": "bad", "refused": "refused"}.get(end)
    watched.bring(TWO, flaw=flaw)
    watched.until(lambda fleet: fleet.phase.ended)
    watched.run_for(minutes=1)
    before = dict(watched.fleet.counts)

    watched.run_for(hours=1)

    assert dict(watched.fleet.counts) == before
    assert not watched.fleet.make_plan().writes


def test_rule_11_waiting_for_a_person_writes_nothing():
    watched = on_stable(policy(1, "100%", approval="BeforeStep"))
    watched.bring(TWO)
    watched.until_phase(RolloutPhase.WAITING)
    watched.run_for(minutes=1)
    before = dict(watched.fleet.counts)

    watched.run_for(minutes=30)

    assert dict(watched.fleet.counts) == before


@pytest.mark.parametrize("metrics", ["honest", "absent"])
def test_rule_11_waiting_does_not_spin(metrics):
    watched = on_stable(policy(1, "100%", bake="1m"))
    watched.fleet.needed_requests = 10**9
    watched.bring(TWO)
    watched.until_phase(RolloutPhase.BAKING)
    watched.fleet.metrics = metrics
    watched.run_for(minutes=2)
    before = len(watched.fleet.plan_seconds)

    watched.run_for(minutes=2)

    # A look every two seconds, each with a turn before and a turn after it, and the leases.
    assert len(watched.fleet.plan_seconds) - before <= 200


# ---------------------------------------------------------------- rule 12


def test_rule_12_a_comparison_waits_for_history():
    watched = on_stable()
    watched.fleet.history_takes = timedelta(minutes=10)
    watched.bring(TWO)
    watched.run_for(minutes=9)
    assert watched.fleet.phase is RolloutPhase.LEARNING
    assert watched.fleet.last.waiting_for.reason == "Learning"
    assert not watched.serving(TWO)

    watched.settle()
    assert watched.fleet.rollout.status.evidence is not None


def test_rule_12_or_says_that_it_has_none():
    watched = on_stable(
        policy(1, "100%", judge={"history": History(window="10s", on_missing="Proceed")})
    )
    watched.fleet.history_takes = timedelta(days=1)
    watched.bring(TWO)

    watched.until_phase(RolloutPhase.BAKING, step=1)


def test_rule_12_a_first_rollout_compares_with_nothing():
    watched = on_stable()

    assert {d.verdict for d in watched.fleet.rollout.status.decisions} == {Verdict.NOT_MEASURED}


# ---------------------------------------------------------------- rule 13


def test_rule_13_a_control_group_remains_until_the_last_bake_has_ended():
    watched = on_stable()
    watched.bring(TWO)
    watched.until_phase(RolloutPhase.FINISHING)
    assert len(watched.serving(ONE)) == 2

    watched.settle()
    assert not watched.serving(ONE)


def test_rule_13_a_failure_in_finishing_reopens_the_verdict():
    watched = on_stable()
    watched.bring(TWO)
    watched.until_phase(RolloutPhase.FINISHING)
    watched.fleet.failing.add(digest_of(TWO))

    watched.until(lambda fleet: fleet.phase.ended)

    assert watched.fleet.phase is RolloutPhase.ROLLED_BACK
    assert len(watched.serving(ONE)) == 10


# ---------------------------------------------------------------- rule 14

PLACES = {
    "learning": (RolloutPhase.LEARNING, {}),
    "stepping": (RolloutPhase.STEPPING, {}),
    "baking": (RolloutPhase.BAKING, {}),
    "approval": (RolloutPhase.WAITING, {"approval": "BeforeStep"}),
    "decision": (RolloutPhase.WAITING, {"on_bad": "Pause"}),
    "finishing": (RolloutPhase.FINISHING, {}),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("brake", ["none", "Pause", "spec.paused"])
def test_rule_14_abort_wins_from_every_state(place, brake):
    phase, how = PLACES[place]
    watched = on_stable(policy(1, "100%", **how), nodes=5)
    watched.bring(TWO, flaw="bad" if place == "decision" else None)
    watched.until_phase(phase)
    if brake == "Pause":
        watched.fleet.act(ActVerb.PAUSE)
    elif brake == "spec.paused":
        watched.fleet.edit(paused=True)
    watched.fleet.act(ActVerb.ABORT)

    watched.until(lambda fleet: fleet.phase.ended, minutes=2)

    assert watched.fleet.phase is RolloutPhase.ABORTED
    watched.run_for(minutes=1)
    assert len(watched.serving(ONE)) == 5
    assert "aborted by ana: sim" in watched.fleet.rollout.status.message
    assert watched.fleet.status.conditions[0].reason == "Aborted"
    watched.referee.check_rest(watched.fleet)


@pytest.mark.parametrize("brake", ["Pause", "spec.paused", "window"])
def test_rule_14_nothing_holds_a_rollback(brake):
    windows = (Window(cron="0 8 5 1 *", duration="2m"),) if brake == "window" else ()
    watched = on_stable(policy(1, "100%", bake="10m", windows=windows))
    watched.bring(TWO)
    watched.until_phase(RolloutPhase.BAKING)
    if brake == "Pause":
        watched.fleet.act(ActVerb.PAUSE)
    elif brake == "spec.paused":
        watched.fleet.edit(paused=True)
    watched.fleet.bad.add(digest_of(TWO))

    watched.until_phase(RolloutPhase.ROLLED_BACK)

    assert len(watched.serving(ONE)) == 10


def test_rule_14_a_window_holds_a_step_and_nothing_else():
    watched = on_stable(policy(1, "100%", windows=(Window(cron="0 8,12 * * *", duration="4m"),)))
    watched.run_for(minutes=10)
    watched.bring(TWO)
    watched.until_phase(RolloutPhase.WAITING)
    assert watched.fleet.last.waiting_for.reason == "Window"
    assert watched.fleet.last.waiting_for.until is not None

    watched.until(lambda fleet: fleet.phase is RolloutPhase.STEPPING, hours=5)

    assert START + timedelta(hours=4) <= watched.fleet.now < START + timedelta(hours=4, minutes=4)


# ---------------------------------------------------------------- rule 15


def test_rule_15_the_evidence_of_every_decision_is_kept_before_it_is_named():
    watched = on_stable()
    watched.bring(TWO)
    watched.settle()
    watched.bring(THREE, flaw="bad")
    watched.until_phase(RolloutPhase.ROLLED_BACK)

    named = [d.evidence for rollout in watched.fleet.rollouts[1:] for d in rollout.status.decisions]
    assert len(named) == 4
    assert all(watched.fleet.kept[ref.name] == ref.sha256 for ref in named)


def test_rule_15_the_same_input_gives_the_same_run_under_every_hash_seed():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_rules import *\n"
        "watched = on_stable()\n"
        "watched.fleet.cut('node-0002')\n"
        "watched.bring(TWO); watched.settle()\n"
        "print(watched.story(), sorted(watched.fleet.orders.items()), watched.fleet.status)"
    )
    here = __file__.rpartition("/")[0]

    said = {
        subprocess.run(
            [sys.executable, "-c", code, here],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }

    assert len(said) == 1
    assert "Completed" in said.pop()


# ---------------------------------------------------------------- rule 16


def test_rule_16_who_can_write_metrics_cannot_wave_a_model_through():
    watched = on_stable(policy(1, "100%"))
    watched.bring(TWO, flaw="bad")
    watched.until_phase(RolloutPhase.STEPPING)
    watched.fleet.metrics = "lying"

    watched.run_for(hours=1)

    assert watched.fleet.rollout.status.step == 1
    assert "node reports do not fit" in watched.fleet.last.waiting_for.message
    assert len(watched.serving(TWO)) == 1


def test_rule_16_who_can_write_metrics_cannot_hide_failures():
    """The requests are the true ones: as many successes are added as failures taken away."""
    watched = on_stable(policy(1, "100%"))
    watched.bring(TWO, flaw="bad")
    watched.until_phase(RolloutPhase.STEPPING)
    watched.fleet.metrics = "hiding"

    watched.run_for(hours=1)

    assert watched.fleet.rollout.status.step == 1
    assert "metrics count 0 failures" in watched.fleet.last.waiting_for.message
    assert len(watched.serving(TWO)) == 1


def test_rule_16_but_metrics_alone_may_take_it_back():
    watched = on_stable(policy(1, "100%", judge={"compare": (Compare(name="w", signal="Wrong"),)}))
    watched.bring(TWO, flaw="bad")

    watched.until_phase(RolloutPhase.ROLLED_BACK)


# ---------------------------------------------------------------- people


def test_a_new_spec_supersedes_and_no_node_is_on_three_revisions():
    watched = on_stable(policy("40%", "100%"))
    watched.bring(TWO)
    watched.until_phase(RolloutPhase.BAKING, step=1)
    watched.bring(THREE)
    assert watched.fleet.rollouts[1].status.phase is RolloutPhase.SUPERSEDED

    for _ in watched.fleet.events(watched.fleet.now + timedelta(minutes=10)):
        on_disk = [len(n.disk) for n in watched.fleet.nodes.values() if n.state == "Active"]
        assert max(on_disk) <= 3
    assert len(watched.serving(THREE)) == 10


def test_a_spec_set_back_to_stable_returns_at_once_without_steps():
    watched = on_stable()
    watched.bring(TWO)
    watched.until_phase(RolloutPhase.BAKING, step=2)
    rollouts = len(watched.fleet.rollouts)
    watched.fleet.set_source(ONE)

    watched.until(lambda fleet: fleet.phase.ended, seconds=30)
    watched.run_for(minutes=1)

    assert watched.fleet.phase is RolloutPhase.SUPERSEDED
    assert len(watched.serving(ONE)) == 10
    assert len(watched.fleet.rollouts) == rollouts
    assert watched.fleet.status.conditions[0].status == "True"


def test_promote_goes_one_step_further_not_two():
    watched = on_stable(policy(1, "50%", "100%", bake="10m"))
    watched.bring(TWO)
    watched.until_phase(RolloutPhase.BAKING, step=1)
    watched.fleet.act(ActVerb.PROMOTE)
    watched.run_for(minutes=2)

    status = watched.fleet.rollout.status
    assert status.step == 2
    assert [(d.action, d.verdict) for d in status.decisions] == [("Promote", Verdict.NOT_MEASURED)]
    assert len(watched.serving(TWO)) == 5


def test_promote_of_a_step_that_has_passed_changes_nothing():
    watched = on_stable(policy(1, "50%", "100%", bake="10m"))
    watched.bring(TWO)
    watched.until_phase(RolloutPhase.BAKING, step=1)
    watched.fleet.act(ActVerb.PROMOTE, step=2)
    watched.run_for(minutes=2)

    assert watched.fleet.rollout.status.step == 1
    assert len(watched.fleet.rollout.status.acts) == 1


def test_pause_and_resume():
    watched = on_stable(policy("50%", "100%", budget=Budget(max_downloads=1)))
    watched.bring(TWO)
    watched.until(lambda _: len(watched.serving(TWO)) == 1)
    watched.fleet.act(ActVerb.PAUSE)
    watched.run_for(minutes=30)
    assert len(watched.serving(TWO)) <= 2
    assert watched.fleet.last.waiting_for.reason == "Paused"
    assert "linnet resume" in watched.fleet.last.waiting_for.message

    watched.fleet.act(ActVerb.RESUME)
    watched.settle()
    assert len(watched.serving(TWO)) == 10


def test_gits_brake_beats_resume_and_promote():
    watched = on_stable(policy(1, "100%"))
    watched.bring(TWO)
    watched.until_phase(RolloutPhase.BAKING, step=1)
    watched.fleet.edit(paused=True)
    watched.fleet.act(ActVerb.RESUME)
    watched.fleet.act(ActVerb.PROMOTE)
    watched.run_for(minutes=10)

    assert watched.fleet.rollout.status.step == 1
    assert "Git" in watched.fleet.last.waiting_for.message

    watched.fleet.edit(paused=False)
    watched.settle()
    assert len(watched.serving(TWO)) == 10


def test_an_approval_is_not_lost_to_a_pause():
    watched = on_stable(policy(1, "100%", approval="BeforeStep"))
    watched.bring(TWO)
    watched.until_phase(RolloutPhase.WAITING)
    watched.fleet.edit(paused=True)
    watched.run_for(seconds=10)
    watched.fleet.act(ActVerb.APPROVE)
    watched.run_for(minutes=5)
    assert watched.fleet.rollout.status.step == 1

    watched.fleet.edit(paused=False)
    watched.settle()

    assert len(watched.serving(TWO)) == 10


def test_a_deadline_stalls_but_not_while_a_person_is_waited_for():
    rules = policy(1, "100%", approval="BeforeStep", progress_deadline="5m")
    watched = on_stable(rules)
    watched.bring(TWO)
    watched.until_phase(RolloutPhase.WAITING)
    watched.run_for(minutes=30)
    assert "Stalled" not in {c.type for c in watched.fleet.status.conditions}

    watched.fleet.registry_down = True
    watched.fleet.act(ActVerb.APPROVE)
    watched.run_for(minutes=10)
    assert "Stalled" in {c.type for c in watched.fleet.status.conditions}
    assert watched.fleet.rollout.status.waited_s >= 29 * 60

    watched.fleet.registry_down = False
    watched.settle()


def test_a_source_that_does_not_resolve_moves_nobody():
    watched = on_stable()
    watched.fleet.registry_down = True
    watched.fleet.set_source(TWO)
    watched.run_for(minutes=5)
    assert watched.fleet.status.conditions[0].reason == "SourceNotResolved"
    assert len(watched.serving(ONE)) == 10

    watched.fleet.registry_down = False
    watched.settle()
    watched.until(lambda _: len(watched.serving(TWO)) == 10)


def test_a_tag_that_moves_changes_nothing():
    watched = on_stable()
    watched.fleet.registry[ONE] = digest_of("something else")
    watched.fleet.kill_operator()
    watched.run_for(minutes=10)

    assert len(watched.fleet.rollouts) == 1
    assert len(watched.serving(ONE)) == 10


def test_a_late_joiner_gets_the_stable_revision():
    watched = on_stable()
    watched.fleet.join("late")
    watched.run_for(minutes=2)

    assert len(watched.serving(ONE)) == 11
    assert watched.fleet.status.nodes_short == "11/11"


def test_a_late_joiner_lands_in_the_running_step():
    watched = on_stable(policy("50%", "100%", bake="2m"))
    watched.bring(TWO)
    watched.until_phase(RolloutPhase.BAKING, step=1)
    watched.fleet.join("late")
    watched.run_for(minutes=1)
    quota = watched.fleet.rollout.status.steps[0].quota
    assert quota == 6
    assert len(watched.serving(TWO)) == 6

    watched.settle()
    assert len(watched.serving(TWO)) == 11


def test_all_nodes_refuse_and_serve_on():
    watched = on_stable(policy("100%", control=0))
    watched.bring(TWO, flaw="refused")
    watched.until_phase(RolloutPhase.REFUSED)
    watched.run_for(minutes=1)

    status = watched.fleet.status
    assert status.conditions[0].reason == "Refused"
    assert "10 of 10 asked nodes refused it by their own trust" in status.conditions[0].message
    assert "UntrustedKey" in status.conditions[0].message
    assert status.nodes.refused == 10
    assert len(watched.serving(ONE)) == 10


def test_an_order_goes_only_to_a_node_that_is_there():
    watched = on_stable(nodes=4)
    watched.fleet.cut("node-0001")
    orders = []
    watched.fleet.on_write = lambda _, write: (
        orders.append(write.node) if isinstance(write, Order) else None
    )
    watched.bring(TWO)
    watched.until(lambda fleet: fleet.phase.ended)

    assert "node-0001" not in orders


# one node must not turn a fleet (DESIGN section 2, trust at the edges)


def with_one_on(source, *, rules):
    watched = on_stable(rules)
    watched.bring(source)
    watched.until(lambda _: len(watched.serving(source)) == 1)
    return watched, sorted(set(watched.fleet.nodes) - watched.serving(source))


@pytest.mark.parametrize("trait", ["broken", "wary"])
def test_one_of_many_that_says_no_is_asked_about_and_promote_goes_on_without_it(trait):
    watched, others = with_one_on(TWO, rules=policy(1, "100%", control=0))
    getattr(watched.fleet, trait).add(others[0])

    watched.until_phase(RolloutPhase.WAITING)
    assert watched.fleet.last.waiting_for.reason == "Decision"
    assert "one node only" in watched.fleet.rollout.status.decisions[-1].message
    watched.fleet.act(ActVerb.PROMOTE)
    watched.until(lambda fleet: fleet.phase.ended)

    assert watched.fleet.phase is RolloutPhase.COMPLETED
    assert len(watched.serving(TWO)) == len(watched.fleet.nodes) - 1


def test_two_of_many_that_fail_take_it_back():
    watched, others = with_one_on(TWO, rules=policy(1, "100%"))
    watched.fleet.broken.update(others)

    watched.until(lambda fleet: fleet.phase.ended)

    assert watched.fleet.phase is RolloutPhase.ROLLED_BACK
