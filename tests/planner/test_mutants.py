# ruff: noqa: ARG005 - a mutant keeps the signature of what it replaces
"""Hand-seeded mistakes in the planner that must be caught: coverage cannot see a missing rule.

Each mutant is one plausible slip, made by replacing a function. One of a battery of short stories,
watched by the referee, must notice it; without a mistake, no story has anything to complain of.
"""

from dataclasses import replace
from datetime import timedelta

import pytest

from linnet_api.reasons import ActVerb, RolloutPhase, Verdict
from linnet_api.rollout_policy import Budget, History, Judge, Offline, RolloutPolicySpec, Step
from linnet_operator.planner import (
    acts,
    bake,
    budget,
    decide,
    gates,
    orders,
    plan,
    quotas,
    settle,
    turn,
)
from linnet_testbed.referee import Referee
from linnet_testbed.simulator import FleetSimulator, digest_of

pytestmark = pytest.mark.slow

ONE, TWO, THREE = (f"oci://r.test/m/digits:{n}" for n in range(1, 4))
ENDED = timedelta(minutes=15)


# ---------------------------------------------------------------- the battery


def policy(*shares, bake_for="10s", **rest):
    return RolloutPolicySpec(
        steps=tuple(Step(nodes=share, bake=bake_for) for share in shares),
        judge=Judge(interval="2s", history=History(window="10s")),
        offline=Offline(defer_after="10s", suspect_after="15s"),
        **{"budget": Budget(max_downloads=3), **rest},
    )


class Story:
    def __init__(self, rules, *, nodes=12):
        self.referee = Referee()
        at_once = policy("100%", bake_for="0s", control=0, budget=Budget(max_downloads=20))
        self.fleet = FleetSimulator(
            seed=3, nodes=nodes, policy=at_once, on_write=self.referee.on_write
        )
        self.pass_time(until=lambda fleet: fleet.is_quiet())
        self.fleet.policy = rules

    def pass_time(self, span=ENDED, *, until=None):
        for count, _ in enumerate(self.fleet.events(self.fleet.now + span)):
            self.referee.check(self.fleet)
            if count % 50 == 0:
                self.referee.check_same(self.fleet)
            if until is not None and until(self.fleet):
                return
        assert until is None, "not in time"

    def bring(self, source, *, flaw=None):
        if flaw is not None:
            getattr(self.fleet, flaw).add(digest_of(source))
        before = len(self.fleet.rollouts)
        self.fleet.set_source(source)
        self.pass_time(until=lambda fleet: len(fleet.rollouts) > before)

    def finish(self, phase, *, serving):
        self.pass_time(until=lambda fleet: fleet.phase.ended)
        self.pass_time(timedelta(minutes=2))
        assert self.fleet.phase is phase
        assert {node.current.artifact for node in self.fleet.nodes.values() if node.online} == {
            digest_of(serving)
        }
        self.referee.check_rest(self.fleet)


def good_model():
    story = Story(policy(1, "25%", "100%"))
    story.bring(TWO)
    story.pass_time(until=lambda fleet: fleet.phase is RolloutPhase.FINISHING)
    left = sum(n.current.artifact == digest_of(ONE) for n in story.fleet.nodes.values())
    assert left == 2, "the control group is not there any more"
    story.finish(RolloutPhase.COMPLETED, serving=TWO)


def bad_model_at_the_second_step():
    story = Story(policy(1, "50%", "100%"))
    story.bring(TWO)
    story.pass_time(until=lambda fleet: fleet.rollout.status.step == 2)
    story.fleet.bad.add(digest_of(TWO))
    story.finish(RolloutPhase.ROLLED_BACK, serving=ONE)
    story.pass_time()
    assert len(story.fleet.rollouts) == 2, "it is tried again"


def bad_model_with_one_node_offline():
    story = Story(policy("50%", "100%", bake_for="60s"))
    story.bring(TWO)
    story.pass_time(until=lambda fleet: fleet.phase is RolloutPhase.BAKING)
    gone = next(n for n in story.fleet.nodes.values() if n.current.artifact == digest_of(TWO))
    story.fleet.cut(gone.name)
    story.fleet.bad.add(digest_of(TWO))
    story.pass_time(until=lambda fleet: fleet.phase.ended)
    story.fleet.heal(gone.name)
    story.finish(RolloutPhase.ROLLED_BACK, serving=ONE)


def metrics_that_vanish():
    story = Story(policy(1, "100%"))
    story.bring(TWO)
    story.pass_time(until=lambda fleet: fleet.phase is RolloutPhase.BAKING)
    story.fleet.metrics = "absent"
    story.pass_time()
    assert story.fleet.rollout.status.step == 1


def looks_that_stop():
    story = Story(policy(1, "100%", bake_for="60s"))
    story.bring(TWO)
    story.pass_time(until=lambda fleet: fleet.phase is RolloutPhase.BAKING)
    story.pass_time(timedelta(seconds=20))
    assert story.fleet._evidence.verdict is Verdict.PASS
    story.fleet._fetch = lambda made: None
    story.pass_time()
    assert story.fleet.rollout.status.step == 1


def metrics_that_lie():
    story = Story(policy(1, "100%"))
    story.bring(TWO)
    story.pass_time(until=lambda fleet: fleet.phase is RolloutPhase.STEPPING)
    story.fleet.metrics = "lying"
    story.pass_time()
    assert story.fleet.rollout.status.step == 1


def metrics_that_hide_failures():
    story = Story(policy(1, "100%"))
    story.bring(TWO)
    story.fleet.bad.add(digest_of(TWO))
    story.pass_time(until=lambda fleet: fleet.phase is RolloutPhase.STEPPING)
    story.fleet.metrics = "hiding"
    story.pass_time()
    assert story.fleet.rollout.status.step == 1


def nodes_that_are_away():
    story = Story(policy("50%", "100%"))
    for name in ("node-0001", "node-0002"):
        story.fleet.cut(name)
    story.bring(TWO)
    story.pass_time(until=lambda fleet: fleet.is_quiet())
    assert story.fleet.status.nodes.deferred == 2
    for name in ("node-0001", "node-0002"):
        story.fleet.heal(name)
    story.finish(RolloutPhase.COMPLETED, serving=TWO)


def a_node_that_joins():
    story = Story(policy("50%", "100%"))
    story.bring(TWO)
    story.pass_time(until=lambda fleet: fleet.phase is RolloutPhase.BAKING)
    story.fleet.join("late")
    story.finish(RolloutPhase.COMPLETED, serving=TWO)


def a_model_that_fails_its_self_test():
    story = Story(policy(1, "100%"))
    story.bring(TWO, flaw="failing")
    story.finish(RolloutPhase.ROLLED_BACK, serving=ONE)


def a_model_that_is_refused():
    story = Story(policy(2, "100%"))
    story.bring(TWO, flaw="refused")
    story.finish(RolloutPhase.REFUSED, serving=ONE)


def a_model_that_kills_nodes():
    story = Story(policy(4, "100%"))
    story.bring(TWO, flaw="deadly")
    story.pass_time(until=lambda fleet: fleet.phase.ended)
    assert story.fleet.phase is RolloutPhase.ROLLED_BACK


def abort_while_baking():
    story = Story(policy("50%", "100%", bake_for="10m"))
    story.bring(TWO)
    story.pass_time(until=lambda fleet: fleet.phase is RolloutPhase.BAKING)
    story.fleet.edit(paused=True)
    story.fleet.act(ActVerb.ABORT)
    story.pass_time(timedelta(minutes=2), until=lambda fleet: fleet.phase.ended)
    story.finish(RolloutPhase.ABORTED, serving=ONE)


def pause_in_the_middle():
    story = Story(policy("100%", budget=Budget(max_downloads=1)))
    story.bring(TWO)
    story.pass_time(until=lambda fleet: fleet.phase is RolloutPhase.STEPPING)
    story.pass_time(timedelta(seconds=15))
    story.fleet.edit(paused=True)
    story.pass_time(timedelta(minutes=5))
    story.fleet.edit(paused=False)
    story.finish(RolloutPhase.COMPLETED, serving=TWO)


def a_hub_from_an_old_backup():
    story = Story(policy("100%"))
    for node in story.fleet.nodes.values():
        node.highest += 10**9
        story.fleet._report(node)
    story.bring(TWO)
    story.finish(RolloutPhase.COMPLETED, serving=TWO)


def a_sick_node_and_a_small_budget():
    story = Story(policy("100%", control=0, budget=Budget(max_unavailable=1)))
    sick = story.fleet.nodes["node-0003"]
    sick.current = None
    story.fleet._report(sick)
    story.bring(TWO)
    story.finish(RolloutPhase.COMPLETED, serving=TWO)


def three_models_in_a_row():
    story = Story(policy("50%", "100%"))
    story.bring(TWO)
    story.pass_time(until=lambda fleet: fleet.phase is RolloutPhase.BAKING)
    story.bring(THREE)
    story.finish(RolloutPhase.COMPLETED, serving=THREE)


BATTERY = (
    good_model,
    bad_model_at_the_second_step,
    bad_model_with_one_node_offline,
    metrics_that_vanish,
    looks_that_stop,
    metrics_that_lie,
    metrics_that_hide_failures,
    nodes_that_are_away,
    a_node_that_joins,
    a_model_that_fails_its_self_test,
    a_model_that_is_refused,
    a_model_that_kills_nodes,
    abort_while_baking,
    pause_in_the_middle,
    a_hub_from_an_old_backup,
    a_sick_node_and_a_small_budget,
    three_models_in_a_row,
)


# ---------------------------------------------------------------- the mutants


def quota_is_one_too_many(patch):
    right = quotas.quota
    patch.setattr(
        turn.quotas,
        "quota",
        lambda policy, step, *, eligible_count, first_rollout: min(
            eligible_count,
            1 + right(policy, step, eligible_count=eligible_count, first_rollout=first_rollout),
        ),
    )


def quota_counts_lost_nodes_too(patch):
    patch.setattr(turn.Turn, "eligible_count", property(lambda self: self.fleet.matched_count))


def no_control_group(patch):
    patch.setattr(quotas, "control_count", lambda *_, **__: 0)


def bad_only_at_the_first_step(patch):
    right = decide._gated
    patch.setattr(
        decide,
        "_gated",
        lambda turn, status: (
            None
            if decide.gate_of(turn, status).verdict is Verdict.FAIL and status.step > 1
            else right(turn, status)
        ),
    )


def no_data_is_a_pass(patch):
    right = gates._weigh

    def weigh(evidence, facts, judge, now):
        if evidence.verdict is Verdict.NO_DATA:
            evidence = replace(evidence, verdict=Verdict.PASS)
        return right(evidence, facts, judge, now)

    patch.setattr(gates, "_weigh", weigh)


def stale_looks_count(patch):
    patch.setattr(gates, "STALE_AT_LEAST", timedelta(days=1))


def metrics_are_believed(patch):
    patch.setattr(gates, "misfit", lambda *_, **__: None)


def hidden_failures_are_believed(patch):
    patch.setattr(gates, "_missing_failures", lambda _: None)


def the_bake_is_skipped(patch):
    patch.setattr(bake, "served", lambda *_: timedelta(days=1))


def nobody_is_waited_for(patch):
    patch.setattr(decide, "is_all_in", lambda turn, status: bool(turn.asked(status)))


def the_budget_is_forgotten(patch):
    patch.setattr(orders, "admit", lambda nodes, left, *, now: tuple(nodes))


def silent_and_sick_nodes_are_forgotten(patch):
    patch.setattr(budget, "unavailable_limit", lambda *_: 1000)


def the_baseline_is_forgotten(patch):
    right = orders.Desk.activate
    patch.setattr(
        orders.Desk, "activate", lambda self, node, to, *, over: right(self, node, to, over=None)
    )


def baselines_are_never_cleared(patch):
    patch.setattr(
        orders.Desk, "clear_baseline", lambda self, node: orders.Order("x", node.name, node.order)
    )


def only_connected_nodes_are_taken_back(patch):
    right = orders._taken_back

    def taken_back(desk, nodes, **rest):
        return right(desk, [node for node in nodes if node.connected(desk.now)], **rest)

    patch.setattr(orders, "_taken_back", taken_back)
    patch.setattr(orders, "_is_behind", lambda node, stable: False)


def what_was_condemned_is_tried_again(patch):
    patch.setattr(settle, "is_blocked", lambda rest, target: False)


def abort_is_overheard(patch):
    right = acts.fresh
    patch.setattr(
        acts,
        "fresh",
        lambda rollout, verb, **rest: (
            None if verb is ActVerb.ABORT else right(rollout, verb, **rest)
        ),
    )


def the_brake_is_overheard(patch):
    patch.setattr(turn.Turn, "held", property(lambda self: None))


def sequences_are_a_plain_count(patch):
    patch.setattr(
        orders,
        "next_sequence",
        lambda node, *, now: node.order.sequence + 1 if node.order is not None else 1,
    )


def half_the_fleet_is_never_asked(patch):
    right = plan.by_lot
    patch.setattr(plan, "by_lot", lambda nodes, **rest: right(nodes, **rest)[: len(nodes) // 2])


def late_joiners_are_forgotten(patch):
    right = plan.sort_out
    patch.setattr(
        plan,
        "sort_out",
        lambda nodes, **rest: right([n for n in nodes if n.name != "late"], **rest),
    )


def failures_of_nodes_are_ignored(patch):
    patch.setattr(decide, "_node_failure", lambda turn, status: None)


def refusals_are_ignored(patch):
    patch.setattr(decide, "_refused", lambda turn, status: None)


def lost_nodes_are_ignored(patch):
    patch.setattr(decide, "_lost_nodes", lambda turn, status: None)


def orders_go_to_nodes_that_are_away(patch):
    patch.setattr(orders.NodeView, "connected", lambda self, now: True)


def evidence_is_not_kept(patch):
    patch.setattr(decide, "_keep", lambda before, after: None)


MUTANTS = {
    quota_is_one_too_many: good_model,
    quota_counts_lost_nodes_too: nodes_that_are_away,
    no_control_group: good_model,
    bad_only_at_the_first_step: bad_model_at_the_second_step,
    no_data_is_a_pass: metrics_that_vanish,
    stale_looks_count: looks_that_stop,
    metrics_are_believed: metrics_that_lie,
    hidden_failures_are_believed: metrics_that_hide_failures,
    the_bake_is_skipped: good_model,
    nobody_is_waited_for: good_model,
    the_budget_is_forgotten: good_model,
    silent_and_sick_nodes_are_forgotten: a_sick_node_and_a_small_budget,
    the_baseline_is_forgotten: three_models_in_a_row,
    baselines_are_never_cleared: good_model,
    only_connected_nodes_are_taken_back: nodes_that_are_away,
    what_was_condemned_is_tried_again: bad_model_at_the_second_step,
    abort_is_overheard: abort_while_baking,
    the_brake_is_overheard: pause_in_the_middle,
    sequences_are_a_plain_count: a_hub_from_an_old_backup,
    half_the_fleet_is_never_asked: good_model,
    late_joiners_are_forgotten: a_node_that_joins,
    failures_of_nodes_are_ignored: a_model_that_fails_its_self_test,
    refusals_are_ignored: a_model_that_is_refused,
    lost_nodes_are_ignored: a_model_that_kills_nodes,
    orders_go_to_nodes_that_are_away: nodes_that_are_away,
    evidence_is_not_kept: good_model,
}
"""Mistake -> the story that must notice it."""


@pytest.mark.parametrize("story", BATTERY, ids=lambda story: story.__name__)
def test_the_planner_as_it_is_passes(story):
    story()


@pytest.mark.parametrize(("mutant", "story"), MUTANTS.items(), ids=lambda part: part.__name__)
def test_a_mutant_is_caught(mutant, story, monkeypatch):
    mutant(monkeypatch)

    with pytest.raises(AssertionError):
        story()
