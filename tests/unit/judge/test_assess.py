import dataclasses
import pickle
from concurrent.futures import ProcessPoolExecutor

import pytest

from linnet_operator.judge.assess import (
    MetricInputs,
    StepInputs,
    ThresholdInputs,
    _slowest,
    assess,
)
from linnet_operator.judge.compare import combine
from linnet_operator.judge.learned import learn
from linnet_operator.judge.power import Power
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
    assert result.message.endswith(", line 400"), "4 steps at 1 %"
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

    some = assess(step(metric(per_node=[2500.0, 42.0, 42.0, 42.0, 42.0])))

    assert (alone.verdict, alone.needs_person) == (Verdict.FAIL, True)
    assert alone.short == "one node looks bad"
    # The others neither speak for the model nor condemn it: more requests will tell.
    assert (some.verdict, some.needs_person) == (Verdict.UNDECIDED, True)
    assert some.short == "harm seen, on too few nodes"
    assert some.message.startswith("harm is seen, but not enough of it without the worst node")
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
    result = assess(step(metric(failures=900.0, partial="a store is down")))

    assert result.verdict is Verdict.FAIL
    assert result.metrics[0].look.verdict is Verdict.FAIL


def test_learning_says_how_many_windows_there_are(step, metric, fleet):
    result = assess(step(metric(learned=fleet.learned(windows=4))))

    assert result.verdict is Verdict.LEARNING
    assert "has 4 of 6 windows of history" in result.message


@pytest.mark.parametrize(
    ("strangers", "verdict"),
    [(0, Verdict.PASS), (1, Verdict.PASS), (2, Verdict.LEARNING), (3, Verdict.LEARNING)],
)
def test_where_half_of_the_candidates_have_no_history_there_is_no_comparison(
    step, metric, fleet, strangers, verdict
):
    learned = learn(fleet.history(10)[strangers:], interval_s=1, window_s=10)

    assert assess(step(metric(candidates=4, learned=learned))).verdict is verdict


def test_proceeding_without_history_leaves_the_comparison_to_thresholds(step, metric, fleet):
    lacking = metric(learned=fleet.learned(windows=4))

    alone = assess(step(lacking, proceed_without_history=True))
    guarded = assess(step(lacking, thresholds=(threshold(60.0),), proceed_without_history=True))

    assert alone.verdict is Verdict.NOT_MEASURED
    assert guarded.verdict is Verdict.PASS
    assert guarded.metrics[0].look.verdict is Verdict.NOT_MEASURED


@pytest.mark.parametrize("proceeds", [True, False])
@pytest.mark.parametrize("known", [True, False], ids=["short history", "no history"])
def test_where_all_requests_fail_no_history_is_needed(step, metric, fleet, known, proceeds):
    learned = fleet.learned(windows=4) if known else None
    failing = metric(candidates=1, failures=3000.0, learned=learned)
    well = metric("slow", candidates=1, signal="Slow")

    result = assess(step(failing, well, proceed_without_history=proceeds))

    assert result.verdict is Verdict.FAIL
    assert "3000 of 3000 requests failed" in result.message


@pytest.mark.parametrize("failures", [0.0, 30.0, 600.0])
def test_without_history_what_fails_in_part_is_not_compared(step, metric, failures):
    lacking = metric(candidates=1, failures=failures, learned=None)

    assert assess(step(lacking)).verdict is Verdict.LEARNING


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"partial": "a store is down"}, Verdict.PARTIAL),
        ({"no_data": "http://prometheus is down"}, Verdict.NO_DATA),
        ({"candidates": ()}, Verdict.NOT_MEASURED),
    ],
    ids=lambda value: str(value)[:12],
)
def test_proceeding_without_history_leaves_out_nothing_else(step, metric, changes, verdict):
    lacking = dataclasses.replace(metric(), **changes)

    result = assess(step(lacking, thresholds=(threshold(60.0),), proceed_without_history=True))

    assert result.verdict is verdict


def test_a_node_that_a_metric_does_not_know_cannot_be_what_its_evidence_rests_on(
    step, metric, fleet
):
    """Labels come from four of five nodes; all four are bad."""
    wrong = metric("wrong", signal="Wrong", failures=900.0)
    silent = fleet.count(4, None, None)
    wrong = dataclasses.replace(wrong, candidates=(*wrong.candidates[:4], silent))

    result = assess(step(metric(), wrong))

    assert (result.verdict, result.needs_person) == (Verdict.FAIL, False)


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


def test_a_sentence_names_who_does_not_report_and_who_has_no_requests(step, metric, fleet):
    whole = metric()
    lacking = dataclasses.replace(
        whole,
        candidates=(*whole.candidates[:4], fleet.count(4, 0.0, 0.0)),
        stable=(*whole.stable[:4], fleet.count(9, None, None)),
    )

    result = assess(step(lacking))

    assert result.verdict is Verdict.PASS
    assert "without the stable edge-09, which do not report" in result.message
    assert result.message.endswith("without requests: edge-04")


def test_a_rise_that_is_excluded_is_no_pass_where_a_smaller_one_is_likelier_than_none(step, metric):
    result = assess(step(metric(per_node=[50.0] * 4)))

    assert result.verdict is Verdict.UNDECIDED
    assert "is excluded, but a smaller one is likelier than none" in result.message


def test_a_step_waits_for_its_slowest_metric():
    soon = Power(decidable=True, requests=900.0, seconds=10.0)
    late = Power(decidable=True, requests=9.0, seconds=90.0)
    never = Power(decidable=False, requests=None, seconds=None)

    assert _slowest([soon, late]) is _slowest([late, soon]) is late
    assert _slowest([late, never, soon]) is never
    assert _slowest([]) is None


def test_more_metrics_never_mean_more_false_alarms(step, metric):
    """What one of them would condemn by itself, the average of all does not."""
    quiet = [metric(f"quiet-{index}", candidates=1) for index in range(3)]
    bad = metric("bad", per_node=[55.0] * 4)
    alone = assess(step(bad))

    together = assess(step(bad, *quiet))

    assert alone.verdict is Verdict.FAIL
    assert together.log_e == combine([each.look.log_e for each in together.metrics])
    assert together.verdict is Verdict.UNDECIDED
    assert together.metrics[0].look.verdict is Verdict.UNDECIDED
    assert "evidence of harm, but not yet enough over all metrics" in together.message


def test_what_all_requests_fail_of_is_not_averaged_away(step, metric, fleet):
    """In a fleet in trouble there is little evidence; that all requests fail needs none."""
    failing = dataclasses.replace(
        metric(),
        candidates=(fleet.count(0, 24.0, 25.0),),
        stable=tuple(fleet.count(index, 300.0, 1000.0) for index in range(1, 10)),
    )

    result = assess(step(failing, *(metric(f"quiet-{index}", candidates=1) for index in range(3))))

    assert (result.verdict, result.needs_person) == (Verdict.FAIL, False)
    assert result.log_e < result.line
    assert result.metrics[0].look.verdict is Verdict.FAIL
    assert result.short == "harm seen in errors"


def test_one_node_whose_requests_all_fail_does_not_turn_a_fleet_of_five(step, metric, fleet):
    """Not even where it has nearly all of the traffic."""

    def judged(candidates, *, failing=1):
        counted = [fleet.count(index, 1000.0, 1000.0) for index in range(failing)]
        counted += [fleet.count(index, 1.0, 10.0) for index in range(failing, candidates)]
        stable = tuple(fleet.count(index, 10.0, 1000.0) for index in range(5, 10))
        result = assess(
            step(dataclasses.replace(metric(), candidates=tuple(counted), stable=stable))
        )
        assert result.metrics[0].look.all_fail
        return result.verdict, result.needs_person

    assert judged(5) == (Verdict.UNDECIDED, True)
    assert judged(5, failing=2) == (Verdict.FAIL, False)
    assert judged(4) == (Verdict.FAIL, False)


def test_harm_is_not_blamed_on_a_model_while_another_metric_shows_the_fleet_in_trouble(
    step, metric, fleet
):
    bad = metric("bad", failures=900.0)
    trouble = dataclasses.replace(
        metric("slow"),
        candidates=tuple(fleet.count(index, 300.0, 3000.0) for index in range(5)),
        stable=tuple(fleet.count(index, 300.0, 3000.0) for index in range(5, 10)),
    )

    result = assess(step(bad, trouble))

    assert result.log_e >= result.line
    assert (result.verdict, result.short) == (
        Verdict.FLEET_TROUBLE,
        "whole fleet in trouble: slow",
    )


def test_a_dry_run_decides_nothing_and_says_what_it_would_have_decided(step, metric):
    hot = threshold(90.0)
    dry = dataclasses.replace(hot, spec=dataclasses.replace(hot.spec, dry_run=True))

    result = assess(step(metric(), thresholds=(dry,)))

    assert result.verdict is Verdict.PASS
    assert result.message.endswith(
        ". Dry run, would have taken it back: "
        "temperature: 90 is beyond the limit (at most 85), once"
    )
    assert assess(step(thresholds=(dry,))).verdict is Verdict.NOT_MEASURED


@pytest.mark.slow
def test_it_runs_in_a_worker_and_says_the_same_there(step, metric):
    inputs = step(metric(), metric("wrong", failures=60.0), thresholds=(threshold(60.0),))

    with ProcessPoolExecutor(max_workers=1) as workers:
        there = workers.submit(assess, inputs).result()

    assert there == assess(inputs)
    assert pickle.loads(pickle.dumps(there)) == there  # noqa: S301 - our own bytes
