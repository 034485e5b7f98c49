from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnet_api.durations import format_duration, parse_duration, parse_percent, share_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        pytest.param("30s", 30, id="one unit"),
        pytest.param("1h30m", 5400, id="two units"),
        pytest.param("7d", 604_800, id="days"),
        pytest.param("250ms", 0.25, id="milliseconds are not minutes"),
        pytest.param("0s", 0, id="zero is a duration"),
    ],
)
def test_a_duration_is_numbers_with_units(text, seconds):
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "10", "m", "1.5h", "-3s", "10 m", "1y"])
def test_anything_else_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match="30s, 10m, 1h30m or 7d"):
        parse_duration(text)


@given(st.integers(0, 10**7))
def test_a_formatted_duration_is_within_one_of_its_second_unit(seconds):
    text = format_duration(timedelta(seconds=seconds))

    assert 0 <= seconds - parse_duration(text).total_seconds() < 3600


@pytest.mark.parametrize(
    ("share", "whole", "count"),
    [
        pytest.param("1%", 3, 1, id="one percent of three rounds up to one"),
        pytest.param("15%", 10, 2, id="fifteen percent of ten is two"),
        pytest.param("0%", 10, 0, id="zero percent holds"),
        pytest.param(0, 10, 0, id="zero holds"),
        pytest.param(12, 10, 10, id="never more than there are"),
        pytest.param("100%", 10, 10, id="all"),
        pytest.param("50%", 0, 0, id="half of none"),
    ],
)
def test_rule_10_percent_is_ceil_over_eligible_and_0_is_hold(share, whole, count):
    assert share_of(share, whole_count=whole) == count


@given(st.integers(1, 100), st.integers(1, 10_000))
def test_rule_10_a_percentage_above_zero_never_means_nobody(percent, whole):
    assert 1 <= share_of(f"{percent}%", whole_count=whole) <= whole


@pytest.mark.parametrize("text", ["101%", "-1%", "1.5%", "50", "%"])
def test_a_percentage_over_100_is_refused(text):
    with pytest.raises(ValueError, match="0% to 100%"):
        parse_percent(text)
