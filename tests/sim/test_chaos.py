"""Anything may happen to a fleet, in any order; the rules hold after every event.

One seed draws the policy, the fleet and what happens to it. At the end the troubles end, people
answer what they are asked, and the fleet must come to rest where it belongs.
"""

from datetime import timedelta

import pytest

from linnet_api.reasons import ActVerb, NodeState
from linnet_api.rollout_policy import Budget, History, Judge, Offline, RolloutPolicySpec, Step
from linnet_testbed.referee import Referee
from linnet_testbed.simulator import FleetSimulator, dice, digest_of

pytestmark = [pytest.mark.sim, pytest.mark.slow]

FLAWS = ("bad", "refused", "failing", "deadly")
HAPPENINGS = (
    *("cut", "heal", "heal", "good", "good", "act", "act", "metrics", "paused", "restart"),
    *("kill", "back", "join", "remove", "wait", "wait", "wait", "registry", *FLAWS),
)
METRICS = ("honest", "honest", "honest", "absent", "nan", "partial", "lying", "hiding", "trouble")
MOMENTS_S = (1, 5, 20, 60)
GIVEN_UP = (NodeState.FAILED, NodeState.REVERTED, NodeState.REFUSED)


def test_rules_hold_whatever_happens(seed):
    chaos = Chaos(seed)
    try:
        chaos.trouble(moments=25)
        chaos.calm_down()
    except AssertionError:
        print("\n".join(chaos.fleet.log))
        raise

    assert chaos.is_at_rest(), chaos.fleet.last.waiting_for
    chaos.referee.check_rest(chaos.fleet)


def draw_policy(dice):
    shape = dice.choice(
        [(1, "30%", "100%"), ("10%", "50%", "100%"), ("100%",), (1, 2, "5%", "100%"), (1, "50%")]
    )
    approvals = ["None", "None", "None", "BeforeStep"]
    return RolloutPolicySpec(
        steps=tuple(
            Step(nodes=n, bake=f"{dice.choice([0, 10, 20])}s", approval=dice.choice(approvals))
            for n in shape
        ),
        judge=Judge(
            interval="2s",
            history=History(window="10s", on_missing=dice.choice(["Wait", "Proceed"])),
            on_undecided=dice.choice(["Ask", "Hold", "Rollback", "Advance"]),
            on_no_data=dice.choice(["Hold", "Ask", "Rollback"]),
        ),
        offline=Offline(defer_after="12s", suspect_after="15s"),
        budget=Budget(
            max_unavailable=dice.choice(["5%", 1, "30%"]), max_downloads=dice.choice([1, 2, 10])
        ),
        control=dice.choice(["5%", 0, 3]),
        on_bad=dice.choice(["Rollback", "Rollback", "Pause"]),
    )


class Chaos:
    def __init__(self, seed):
        self.dice = dice(seed)
        self.referee = Referee()
        self.fleet = FleetSimulator(
            seed=seed,
            nodes=self.dice.choice([1, 2, 3, 5, 10, 12]),
            policy=draw_policy(self.dice),
            on_write=self.referee.on_write,
        )
        self.fleet.kill_chance = self.dice.choice([0, 0.1, 0.3])
        self.models = 1

    def trouble(self, *, moments):
        for _ in range(moments):
            if self.dice.random() < 0.6:
                self.happen(self.dice.choice(HAPPENINGS))
            self.watch(self.dice.choice(MOMENTS_S))

    def happen(self, what):
        fleet, dice, names = self.fleet, self.dice, list(self.fleet.nodes)
        fleet.log.append(f"{fleet.now:%H:%M:%S} -- {what}")
        match what:
            case "cut":
                fleet.cut(dice.choice(names))
            case "heal":
                for name in names:
                    fleet.heal(name)
            case "good" | "bad" | "refused" | "failing" | "deadly":
                self.models += 1
                source = f"oci://r.test/m/digits:{self.models}"
                if what != "good":
                    getattr(fleet, what).add(digest_of(source))
                fleet.set_source(source)
            case "back":
                earlier = max(1, self.models - dice.choice([1, 2]))
                fleet.set_source(f"oci://r.test/m/digits:{earlier}")
            case "act" if fleet.rollout is not None:
                fleet.act(dice.choice(list(ActVerb)), step=dice.choice([None, None, 1, 2]))
            case "metrics":
                fleet.metrics = dice.choice(METRICS)
            case "paused":
                fleet.edit(paused=not fleet.spec.paused)
            case "restart":
                fleet.restart_agent(dice.choice(names))
            case "kill":
                fleet.kill_operator()
            case "join" if len(names) < 15:
                fleet.join(f"late-{len(fleet.log)}")
            case "remove" if len(names) > 1:
                fleet.remove(dice.choice(names))
            case "registry":
                fleet.registry_down = not fleet.registry_down
            case _:
                pass

    def calm_down(self):
        fleet = self.fleet
        fleet.kill_chance, fleet.metrics, fleet.registry_down = 0, "honest", False
        if fleet.spec.paused:
            fleet.edit(paused=False)
        for minute in range(60):
            for name in list(fleet.nodes):
                fleet.heal(name)
            self.watch(60)
            if self.is_at_rest():
                return
            waiting = fleet.last.waiting_for
            if fleet.rollout is None or fleet.phase.ended or waiting is None:
                continue
            match waiting.reason:
                case "Approval":
                    fleet.act(ActVerb.APPROVE)
                case "Paused":
                    fleet.act(ActVerb.RESUME)
                case "Decision":
                    fleet.act(self.dice.choice([ActVerb.PROMOTE, ActVerb.ABORT]))
                case _ if minute > 40:
                    # Promoted past failures, it can never complete: people end such a rollout.
                    fleet.act(ActVerb.ABORT)

    def is_at_rest(self):
        fleet = self.fleet
        if fleet.is_quiet():
            return True
        # Promoted past a node that had failed: it is said for as long as that node is behind.
        promoted = fleet.rollout is not None and any(
            decision.action == "Promote" for decision in fleet.rollout.status.decisions
        )
        failed = any(node.state in GIVEN_UP for node in fleet.nodes.values())
        return bool(promoted and failed and fleet.phase.ended and not fleet.last.writes)

    def watch(self, seconds):
        for _ in self.fleet.events(self.fleet.now + timedelta(seconds=seconds)):
            self.referee.check(self.fleet)
            if self.dice.random() < 0.05:
                self.referee.check_same(self.fleet)
