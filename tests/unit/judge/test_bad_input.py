"""Bad input and faults, as the issue lists them: what the judge says when the world is odd."""

import pytest

from linnet_operator.judge.assess import MetricInputs, StepInputs, assess
from linnet_operator.judge.learned import NodeHistory, learn
from linnet_operator.judge.verdicts import Verdict


@pytest.fixture
def judged(fleet):
    def judge(candidates, stable, *, learned=None, required=6):
        metric = MetricInputs(
            name="errors",
            signal="Errors",
            learned=learned or fleet.learned(len(candidates) + len(stable)),
            candidates=tuple(candidates),
            stable=tuple(stable),
        )
        return assess(
            StepInputs(
                metrics=(metric,),
                alpha=0.01,
                steps=4,
                detect=fleet.detect,
                required_windows=required,
            )
        )

    return judge


def nodes(fleet, start, stop, failures, requests=3000.0):
    return [fleet.count(index, failures, requests) for index in range(start, stop)]


def test_a_node_with_90_percent_of_all_failures_before_and_after_is_not_the_models_fault(
    fleet, judged
):
    history = [
        NodeHistory(
            node=f"edge-{index:02d}",
            windows=((90.0 if index == 0 else 1.0, 200.0),) * 6,
            recent=((9.0 if index == 0 else 0.1, 20.0),) * 5,
        )
        for index in range(10)
    ]
    learned = learn(history, interval_s=1, window_s=10)
    stuck = fleet.count(0, 1350.0, 3000.0)

    said = judged([stuck, *nodes(fleet, 1, 5, 15.0)], nodes(fleet, 5, 10, 15.0), learned=learned)

    assert said.verdict is not Verdict.FAIL
    assert said.log_e < 0.0


def test_zero_requests_for_the_whole_bake_say_what_is_needed(fleet, judged):
    said = judged(nodes(fleet, 0, 2, 0.0, 0.0), nodes(fleet, 2, 10, 30.0))

    assert said.verdict is Verdict.NO_DATA
    assert "no requests from 2 candidates; needs about" in said.message


def test_a_candidate_that_never_had_history_is_learned_first(fleet, judged):
    learned = learn(fleet.history(10)[2:], interval_s=1, window_s=10)

    said = judged(nodes(fleet, 0, 2, 900.0), nodes(fleet, 2, 10, 30.0), learned=learned)

    assert said.verdict is Verdict.LEARNING


def test_one_late_joiner_among_others_is_named(fleet, judged):
    learned = learn(fleet.history(10)[1:], interval_s=1, window_s=10)

    said = judged(nodes(fleet, 0, 5, 30.0), nodes(fleet, 5, 10, 30.0), learned=learned)

    assert "by the fleet's rate, having no history: edge-00" in said.message


def test_all_nodes_but_two_controls(fleet, judged):
    good = judged(nodes(fleet, 0, 38, 30.0), nodes(fleet, 38, 40, 30.0))
    bad = judged(nodes(fleet, 0, 38, 120.0), nodes(fleet, 38, 40, 30.0))

    assert good.verdict is Verdict.PASS
    assert bad.verdict is Verdict.FAIL


@pytest.mark.parametrize("shock", [1.5, 3.0, 20.0])
def test_a_shock_on_the_whole_fleet_is_not_the_models_fault(fleet, judged, shock):
    said = judged(nodes(fleet, 0, 5, 30.0 * shock), nodes(fleet, 5, 10, 30.0 * shock))

    assert said.verdict is (Verdict.FLEET_TROUBLE if shock > 2 else Verdict.PASS)


def test_a_shock_on_the_site_of_one_candidate_is_a_persons_matter(fleet, judged):
    said = judged(
        [*nodes(fleet, 0, 1, 600.0), *nodes(fleet, 1, 6, 30.0)], nodes(fleet, 6, 12, 30.0)
    )

    assert (said.verdict, said.needs_person) == (Verdict.FAIL, True)
    assert said.message.startswith("the evidence of harm rests on a single node")


@pytest.mark.parametrize("shock", [2.0, 4.0])
@pytest.mark.parametrize(
    "candidate_sites", ["aabb", "aaaa"], ids=["candidates on both sites", "all on that site"]
)
def test_a_shock_on_one_site_is_not_the_models_fault_where_stable_nodes_have_it_too(
    fleet, judged, shock, candidate_sites
):
    """Their spread today is seen on the stable nodes, half of which stand on that site."""

    def node(index, site):
        failures = 30.0 * (shock if site == "a" else 1.0)
        return fleet.count(index, failures, 3000.0, domain=site)

    candidates = [node(index, site) for index, site in enumerate(candidate_sites)]
    stable = [node(4 + index, site) for index, site in enumerate("aaaabbbb")]

    assert judged(candidates, stable).verdict is not Verdict.FAIL
    harmed = [fleet.count(i, 300.0, 3000.0, domain=s) for i, s in enumerate(candidate_sites)]
    quiet = [fleet.count(4 + i, 30.0, 3000.0, domain=s) for i, s in enumerate("aaaabbbb")]
    assert judged(harmed, quiet).verdict is Verdict.FAIL


def test_a_billion_requests_decide_as_a_million_do(fleet, judged):
    learned = fleet.learned(failures=2e6, requests=2e8)

    def verdict(ratio):
        stable = nodes(fleet, 5, 10, 1e7, 1e9)
        return judged(nodes(fleet, 0, 5, ratio * 1e9, 1e9), stable, learned=learned).verdict

    assert verdict(0.01) is Verdict.PASS
    assert verdict(0.04) is Verdict.FAIL


def test_labels_that_come_hours_late_count_when_they_come(fleet, judged):
    before = judged(nodes(fleet, 0, 5, 0.0, 0.0), nodes(fleet, 5, 10, 30.0))
    after = judged(nodes(fleet, 0, 5, 30.0), nodes(fleet, 5, 10, 30.0))

    assert before.verdict is Verdict.NO_DATA
    assert after.verdict is Verdict.PASS
