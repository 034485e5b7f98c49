import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnet_operator.judge.thresholds import ThresholdSample, ThresholdSpec, judge_threshold
from linnet_operator.judge.verdicts import Verdict

HOT = ThresholdSpec(name="temperature", maximum="85", failure_limit=2)


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
