import dataclasses
import pickle
from concurrent.futures import ProcessPoolExecutor

import pytest

from linnet_operator.judge.assess import MetricInputs, StepInputs, ThresholdInputs, assess
from linnet_operator.judge.thresholds import ThresholdSample, ThresholdSpec
from linnet_operator.judge.verdicts import Verdict


@pytest.fixture
def step(fleet):
    def build(*metrics, thresholds=(), **more):
        return StepInputs(
            metrics=metrics,
            thresholds=thresholds,
            alpha=0.01,
            steps=4,
            detect=fleet.detect,
            required_windows=6,
            **more,
        )

    return build


@pytest.fixture
def metric(fleet):
    def build(name="errors", *, failures=30.0, candidates=5, per_node=None, **more):
        counted = per_node or [failures] * candidates
        signal = more.pop("signal", "Errors")
        learned = more.pop("learned", fleet.learned())
        return MetricInputs(
            name=name,
            signal=signal,
            learned=learned,
            candidates=tuple(fleet.count(i, x, 3000.0) for i, x in enumerate(counted)),
            stable=tuple(fleet.count(i, 30.0, 3000.0) for i in range(len(counted), 10)),
            **more,
        )

    return build


def threshold(value):
    spec = ThresholdSpec(name="temperature", maximum="85")
    return ThresholdInputs(spec=spec, samples=(ThresholdSample(at_s=1.0, value=value, series=1),))


def test_a_good_step_passes_and_says_what_it_rests_on(step, metric):
    result = assess(step(metric(), metric("wrong", signal="Wrong"), thresholds=(threshold(60.0),)))

    assert result.verdict is Verdict.PASS
    assert result.short == "no harm seen"
    assert "150 of 15000 requests failed on 5 candidates" in result.message
    assert "is excluded" in result.message


def test_a_bad_step_fails_and_names_the_metric(step, metric):
    result = assess(step(metric(), metric("wrong", signal="Wrong", failures=600.0)))

    assert result.verdict is Verdict.FAIL
    assert result.short == "harm seen in wrong"
    assert result.message.startswith("wrong: 3000 of 15000 labelled answers were wrong")
    assert result.log_e >= result.line


@pytest.mark.parametrize(
    ("failures", "verdict"), [(3.0, Verdict.PASS), (9.0, Verdict.UNDECIDED), (12.0, Verdict.FAIL)]
)
def test_harm_on_one_kind_of_node_is_found_and_named(step, fleet, failures, verdict):
    def judged(*kinds):
        metric = MetricInputs(
            name="errors",
            signal="Errors",
            learned=fleet.learned(20),
            candidates=tuple(
                fleet.count(i, (3.0 if i % 4 else failures), 300.0, domain=kinds[i % 4])
                for i in range(12)
            ),
            stable=tuple(fleet.count(i, 3.0, 300.0) for i in range(12, 20)),
        )
        return assess(step(metric))

    known = judged("nano", "orin", "xavier", "x86")
    unknown = judged("", "", "", "")

    assert known.verdict is verdict
    assert unknown.verdict is (Verdict.PASS if failures == 3.0 else Verdict.UNDECIDED)
    assert known.log_e >= unknown.log_e
    (metric,) = known.metrics
    assert [each.domain for each in metric.look.domains] == ["nano", "orin", "x86", "xavier"]
    assert metric.look.domains[0].failures == 3 * failures
    named = f"mostly on nano: {3 * failures:.0f} of 900, 9.0 expected"
    assert (named in known.message) is (failures > 3.0)


def test_a_threshold_condemns_by_itself(step, metric):
    result = assess(step(metric(), thresholds=(threshold(90.0),)))

    assert result.verdict is Verdict.FAIL
    assert "temperature: 90 is beyond the limit (at most 85)" in result.message


def test_one_node_does_not_turn_a_fleet_of_five(step, metric):
    alone = assess(step(metric(per_node=[2500.0, 30.0, 30.0, 30.0, 30.0])))
    two = assess(step(metric(per_node=[2500.0, 2500.0, 30.0, 30.0, 30.0])))
    four = assess(step(metric(per_node=[2500.0, 30.0, 30.0, 30.0])))

    assert (alone.verdict, alone.needs_person) == (Verdict.FAIL, True)
    assert alone.short == "one node looks bad"
    assert (two.verdict, two.needs_person) == (Verdict.FAIL, False)
    assert (four.verdict, four.needs_person) == (Verdict.FAIL, False)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        pytest.param({"no_data": "http://prometheus is down"}, Verdict.NO_DATA, id="source down"),
        pytest.param({"partial": "a store is down"}, Verdict.PARTIAL, id="warnings"),
        pytest.param({"learned": None}, Verdict.LEARNING, id="no history"),
        pytest.param({"candidates": ()}, Verdict.NOT_MEASURED, id="no candidate"),
    ],
)
def test_rule_5_what_is_not_whole_is_not_a_pass(step, metric, changes, verdict):
    lacking = dataclasses.replace(metric(), **changes)

    assert assess(step(lacking)).verdict is verdict
    assert assess(step(metric("wrong"), lacking)).verdict is verdict


def test_a_step_that_measures_nothing_is_not_a_pass(step):
    result = assess(step())

    assert result.verdict is Verdict.NOT_MEASURED
    assert result.message == "nothing is measured in this step"


def test_partial_data_may_still_condemn(step, metric):
    assert assess(step(metric(failures=900.0, partial="a store is down"))).verdict is Verdict.FAIL


def test_learning_says_how_many_windows_there_are(step, metric, fleet):
    result = assess(step(metric(learned=fleet.learned(windows=4))))

    assert result.verdict is Verdict.LEARNING
    assert "has 4 of 6 windows of history" in result.message


def test_proceeding_without_history_leaves_the_comparison_to_thresholds(step, metric, fleet):
    lacking = metric(learned=fleet.learned(windows=4))

    alone = assess(step(lacking, proceed_without_history=True))
    guarded = assess(step(lacking, thresholds=(threshold(60.0),), proceed_without_history=True))

    assert alone.verdict is Verdict.NOT_MEASURED
    assert guarded.verdict is Verdict.PASS
    assert guarded.metrics[0].look.verdict is Verdict.NOT_MEASURED


def test_an_undecided_step_says_what_it_needs(step, fleet):
    few = MetricInputs(
        name="errors",
        signal="Errors",
        learned=fleet.learned(),
        candidates=(fleet.count(0, 0.0, 20.0),),
        stable=tuple(fleet.count(i, 0.0, 20.0) for i in range(1, 10)),
    )

    result = assess(step(few))

    assert result.verdict is Verdict.UNDECIDED
    assert result.power is not None
    assert result.short.startswith("needs about")
    assert len(result.short) <= 40


def test_more_metrics_never_mean_more_false_alarms(step, metric):
    quiet = [metric(f"quiet-{index}") for index in range(3)]
    bad = metric("bad", per_node=[90.0])

    assert assess(step(bad, *quiet)).log_e <= assess(step(bad)).log_e


@pytest.mark.slow
def test_it_runs_in_a_worker_and_says_the_same_there(step, metric):
    inputs = step(metric(), metric("wrong", failures=60.0), thresholds=(threshold(60.0),))

    with ProcessPoolExecutor(max_workers=1) as workers:
        there = workers.submit(assess, inputs).result()

    assert there == assess(inputs)
    assert pickle.loads(pickle.dumps(there)) == there  # noqa: S301 - our own bytes
