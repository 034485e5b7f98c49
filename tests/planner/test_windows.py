"""When steps may begin."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnet_api.rollout_policy import Window
from linnet_operator.planner.windows import check, is_open, next_open, parse_cron

NIGHT = Window(cron="0 2 * * *", duration="3h", time_zone="Europe/Berlin")
moments = st.datetimes(datetime(2025, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis wants naive bounds


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_no_window_is_always_open():
    assert is_open([], at("2026-01-05T12:00"))
    assert next_open([], at("2026-01-05T12:00")) is None


@pytest.mark.parametrize(
    ("when", "opened"),
    [
        ("2026-01-05T00:59:59", False),
        ("2026-01-05T01:00", True),  # 02:00 in Berlin
        ("2026-01-05T03:59:59", True),
        ("2026-01-05T04:00", False),
        ("2026-07-05T00:00", True),  # summer time
        ("2026-07-05T03:00", False),
    ],
)
def test_a_window_follows_its_time_zone(when, opened):
    assert is_open([NIGHT], at(when)) is opened


def test_a_window_that_reaches_over_midnight_stays_open():
    late = Window(cron="30 23 * * 5", duration="2h")

    assert is_open([late], at("2026-01-10T01:29"))  # Friday 23:30 to Saturday 01:30
    assert not is_open([late], at("2026-01-10T01:30"))


def test_the_next_opening():
    assert next_open([NIGHT], at("2026-01-05T12:00")) == at("2026-01-06T01:00")
    assert next_open([NIGHT], at("2026-01-05T01:00")) == at("2026-01-06T01:00")


def test_either_day_counts_where_both_are_restricted():
    cron = parse_cron("0 0 13 * 5")

    assert cron.matches_day(at("2026-01-13T00:00"))  # a Tuesday
    assert cron.matches_day(at("2026-01-16T00:00"))  # a Friday
    assert not cron.matches_day(at("2026-01-14T00:00"))


def test_names_lists_ranges_and_steps():
    cron = parse_cron("*/20 8-10,22 1 jan,mar mon-fri")

    assert cron.minutes == (0, 20, 40)
    assert cron.hours == (8, 9, 10, 22)
    assert cron.months == {1, 3}
    assert cron.weekdays == {1, 2, 3, 4, 5}
    assert parse_cron("0 0 * * 7").weekdays == {0}
    assert parse_cron("5/30 0 * * *").minutes == (5, 35)


@pytest.mark.parametrize(
    "cron",
    [
        "* * * *",
        "60 * * * *",
        "* 24 * * *",
        "5-1 * * * *",
        "*/0 * * * *",
        "a * * * *",
        "*/x * * * *",
    ],
)
def test_what_is_no_cron_line_is_said(cron):
    said = check([Window(cron=cron.ljust(9), duration="1h")])

    assert said is not None
    assert cron.strip() in said


def test_an_unknown_time_zone_is_said():
    said = check([Window(cron="0 2 * * *", duration="1h", time_zone="Mars/Olympus")])

    assert said is not None
    assert "Mars/Olympus" in said
    assert check([NIGHT]) is None


def test_a_day_that_never_comes_never_opens():
    never = Window(cron="0 0 31 2 *", duration="1h")

    assert not is_open([never], at("2026-01-05T12:00"))
    assert next_open([never], at("2026-01-05T12:00")) is None


@given(moments)
def test_it_is_open_at_the_next_opening_and_not_just_before(now):
    opens = next_open([NIGHT], now)

    assert opens > now
    assert is_open([NIGHT], opens)
    assert not is_open([NIGHT], opens - timedelta(seconds=1))
