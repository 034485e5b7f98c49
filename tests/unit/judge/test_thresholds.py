import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnet_operator.judge.thresholds import ThresholdSample, ThresholdSpec, judge_threshold
from linnet_operator.judge.verdicts import Verdict

HOT = ThresholdSpec(name="temperature", maximum="85", consecutive_failure_limit=2)


def samples(*values):
    return [
        ThresholdSample(at_s=float(index), value=value, series=0 if value is None else 1)
        for index, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        pytest.param([], Verdict.NOT_MEASURED, id="nothing was asked"),
        pytest.param([None], Verdict.NO_DATA, id="an empty vector"),
        pytest.param([float("nan")], Verdict.NO_DATA, id="not a number"),
        pytest.param([float("inf")], Verdict.NO_DATA, id="infinite"),
        pytest.param([80.0], Verdict.PASS, id="within"),
        pytest.param([85.0], Verdict.PASS, id="at the limit"),
        pytest.param([90.0], Verdict.UNDECIDED, id="beyond, within the failure limit"),
        pytest.param([90.0, 90.0], Verdict.UNDECIDED, id="beyond, as often as is tolerated"),
        pytest.param([90.0, 90.0, 90.0], Verdict.FAIL, id="beyond, too often in a row"),
        pytest.param([90.0, 90.0, 90.0, 80.0], Verdict.FAIL, id="a fail stays a fail"),
        pytest.param([90.0, 80.0, 90.0, 80.0, 90.0], Verdict.UNDECIDED, id="never in a row"),
        pytest.param([90.0, None, 90.0, None, 90.0], Verdict.FAIL, id="a gap ends no row"),
        pytest.param([80.0, None], Verdict.NO_DATA, id="data that went away"),
    ],
)
def test_samples_against_a_limit(values, verdict):
    assert judge_threshold(HOT, samples(*values)).verdict is verdict


def test_several_series_are_never_a_pass():
    two = ThresholdSample(at_s=1.0, value=1.0, series=2, problem="two")

    assert judge_threshold(HOT, [two]).verdict is Verdict.PARTIAL


def test_several_series_condemn_nobody_whatever_value_is_shown_of_them():
    several = [ThresholdSample(at_s=float(at), value=99.0, series=2) for at in range(9)]

    look = judge_threshold(HOT, [*several, *samples(80.0)])

    assert (look.bad, look.measured) == (0, 1)


@pytest.mark.parametrize("limit", [{"maximum": "nan"}, {"minimum": "nan"}], ids=str)
def test_a_limit_that_is_no_number_lets_nothing_pass(limit):
    assert judge_threshold(ThresholdSpec(name="t", **limit), samples(1.0)).verdict is Verdict.FAIL


def test_a_warning_beside_a_good_value_is_not_a_pass():
    warned = ThresholdSample(at_s=1.0, value=1.0, series=1, problem="a store is down")

    assert judge_threshold(HOT, [warned]).verdict is Verdict.PARTIAL


def test_a_minimum_is_a_limit_from_below():
    spec = ThresholdSpec(name="rate", minimum="0.5")

    assert judge_threshold(spec, samples(0.4)).verdict is Verdict.FAIL
    assert judge_threshold(spec, samples(0.5)).verdict is Verdict.PASS


@given(
    st.lists(
        st.builds(
            ThresholdSample,
            at_s=st.floats(0, 100),
            value=st.one_of(st.none(), st.sampled_from([float("nan"), float("inf")])),
            series=st.integers(0, 3),
            problem=st.sampled_from(["", "down"]),
        )
    )
)
def test_rule_5_no_number_is_never_a_pass(found):
    assert judge_threshold(HOT, found).verdict is not Verdict.PASS


def test_without_any_limit_the_first_bad_sample_condemns():
    spec = ThresholdSpec(name="temperature", maximum="85")

    look = judge_threshold(spec, samples(80.0, 90.0, 80.0))

    assert look.verdict is Verdict.FAIL
    assert look.message == "temperature: 90 is beyond the limit (at most 85), once"
    assert look.failed_at_s == 1.0


def test_failure_limit_counts_over_the_whole_step_and_the_other_in_a_row():
    fail_ok = (90.0, 80.0, 90.0, 80.0, 90.0)
    whole = ThresholdSpec(name="t", maximum="85", failure_limit=2)
    row = ThresholdSpec(name="t", maximum="85", consecutive_failure_limit=2)
    both = ThresholdSpec(name="t", maximum="85", failure_limit=9, consecutive_failure_limit=1)

    look = judge_threshold(whole, samples(*fail_ok))

    assert (look.verdict, look.bad, look.failed_at_s) == (Verdict.FAIL, 3, 4.0)
    assert look.message.endswith("3 times in this step")
    assert judge_threshold(row, samples(*fail_ok)).verdict is Verdict.UNDECIDED
    assert judge_threshold(both, samples(90.0, 90.0)).verdict is Verdict.FAIL


def test_missing_samples_in_a_row_give_up_but_never_condemn():
    spec = ThresholdSpec(name="t", maximum="85", consecutive_error_limit=4)

    tolerated = judge_threshold(spec, samples(80.0, *[None] * 4))
    too_many = judge_threshold(spec, samples(80.0, *[None] * 5))
    again = judge_threshold(spec, samples(*[None] * 4, 80.0, *[None] * 4))

    assert (tolerated.verdict, tolerated.gave_up) == (Verdict.NO_DATA, False)
    assert (too_many.verdict, too_many.gave_up) == (Verdict.NO_DATA, True)
    assert (again.missing_in_a_row, again.gave_up) == (4, False)
    none = ThresholdSpec(name="t", maximum="85", consecutive_error_limit=0)
    assert judge_threshold(none, samples(80.0, None)).gave_up
    assert not judge_threshold(none, samples(None, 80.0)).gave_up


def test_a_limit_was_broken_when_it_was_broken_first():
    look = judge_threshold(HOT, samples(90.0, 90.0, 91.0, 92.0, 80.0))

    assert look.failed_at_s == 2.0
    assert look.message == ("temperature: 91 is beyond the limit (at most 85), 3 times in a row")


def test_the_order_in_which_samples_come_does_not_matter():
    spec = ThresholdSpec(name="t", maximum="85", failure_limit=1)
    found = samples(80.0, 90.0, 91.0, None, 80.0)

    assert judge_threshold(spec, found) == judge_threshold(spec, found[::-1])
