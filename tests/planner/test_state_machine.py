"""Hypothesis drives a fleet through any sequence of events and shrinks what breaks a rule."""

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from linnet_api.reasons import ActVerb
from linnet_api.rollout_policy import Budget, History, Judge, Offline, RolloutPolicySpec, Step
from linnet_testbed.referee import Referee
from linnet_testbed.simulator import FleetSimulator, digest_of

pytestmark = pytest.mark.slow

shares = st.one_of(st.integers(0, 6), st.sampled_from(["1%", "30%", "50%", "100%"]))
steps = st.lists(
    st.builds(
        Step,
        nodes=shares,
        bake=st.sampled_from(["0s", "10s"]),
        approval=st.sampled_from(["None", "BeforeStep"]),
    ),
    min_size=1,
    max_size=4,
)
policies = st.builds(
    RolloutPolicySpec,
    steps=steps.map(tuple),
    control=st.sampled_from(["5%", 0, 3]),
    budget=st.builds(
        Budget,
        max_unavailable=st.sampled_from(["5%", 1, 3]),
        max_downloads=st.integers(1, 10),
    ),
    judge=st.builds(
        Judge,
        interval=st.just("2s"),
        history=st.just(History(window="10s")),
        on_undecided=st.sampled_from(["Ask", "Hold", "Rollback", "Advance"]),
        on_no_data=st.sampled_from(["Hold", "Ask", "Rollback"]),
    ),
    offline=st.just(Offline(defer_after="12s", suspect_after="15s")),
    on_bad=st.sampled_from(["Rollback", "Pause"]),
)
picks = st.integers(0, 1000)


class AnyFleet(RuleBasedStateMachine):
    @initialize(policy=policies, nodes=st.integers(1, 12), seed=picks)
    def begin(self, policy, nodes, seed):
        self.referee = Referee()
        self.fleet = FleetSimulator(
            seed=seed, nodes=nodes, policy=policy, on_write=self.referee.on_write
        )
        self.models = 1

    def node(self, pick):
        names = sorted(self.fleet.nodes)
        return names[pick % len(names)]

    @rule(seconds=st.sampled_from([1, 5, 20, 60, 300]))
    def let_time_pass(self, seconds):
        for _ in self.fleet.events(self.fleet.now + timedelta(seconds=seconds)):
            self.referee.check(self.fleet)

    @rule(flaw=st.sampled_from([None, None, "bad", "refused", "failing", "deadly"]))
    def ask_for_another_model(self, flaw):
        self.models += 1
        source = f"oci://r.test/m/digits:{self.models}"
        if flaw is not None:
            getattr(self.fleet, flaw).add(digest_of(source))
        self.fleet.set_source(source)

    @rule(pick=picks)
    def ask_for_an_earlier_model(self, pick):
        self.fleet.set_source(f"oci://r.test/m/digits:{1 + pick % self.models}")

    @rule(pick=picks)
    def cut(self, pick):
        self.fleet.cut(self.node(pick))

    @rule()
    def heal(self):
        for name in list(self.fleet.nodes):
            self.fleet.heal(name)

    @rule(pick=picks)
    def restart_an_agent(self, pick):
        self.fleet.restart_agent(self.node(pick))

    @precondition(lambda self: len(self.fleet.nodes) < 15)
    @rule(pick=picks)
    def join(self, pick):
        self.fleet.join(f"late-{pick}-{self.models}")

    @precondition(lambda self: len(self.fleet.nodes) > 1)
    @rule(pick=picks)
    def remove(self, pick):
        self.fleet.remove(self.node(pick))

    @precondition(lambda self: self.fleet.rollout is not None)
    @rule(verb=st.sampled_from(ActVerb), step=st.sampled_from([None, None, 1, 2, 3]))
    def people_act(self, verb, step):
        if len(self.fleet.rollout.spec.acts) < 60:
            self.fleet.act(verb, step=step)

    @rule()
    def pull_or_release_the_brake(self):
        self.fleet.edit(paused=not self.fleet.spec.paused)

    @rule(
        metrics=st.sampled_from(
            ["honest", "absent", "nan", "partial", "lying", "hiding", "trouble"]
        )
    )
    def metrics_turn(self, metrics):
        self.fleet.metrics = metrics

    @rule()
    def kill_the_operator(self):
        self.fleet.kill_operator()

    @rule(ahead=st.integers(1, 6))
    def kill_it_before_a_write(self, ahead):
        self.fleet.kill_at.add(self.fleet.writes_tried + ahead)

    @invariant()
    def one_input_one_plan(self):
        if hasattr(self, "fleet"):
            self.referee.check_same(self.fleet)


AnyFleet.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestAnyFleet = AnyFleet.TestCase
