"""Which of a node's own reports is held against the metrics."""

from datetime import UTC, datetime, timedelta

import pytest

from linnet_operator.own_reports import OwnReports
from linnet_operator.planner.model import Candidate, Served

START = datetime(2026, 11, 21, 12, tzinfo=UTC)
SINCE = START + timedelta(seconds=5)


def at(seconds):
    return START + timedelta(seconds=seconds)


def node(requests, failures=0, *, name="edge-1", since=SINCE):
    return Candidate(name, since, own=Served(requests, failures))


def known(reports, counted, *, until, interval=10, candidates=None):
    return reports.known_by(
        counted,
        until=at(until),
        interval=timedelta(seconds=interval),
        candidates=candidates or [node(0)],
        started_at=START,
    )


@pytest.fixture
def reports():
    """A node that serves ten requests a second, looked at each ten seconds for five minutes."""
    filled = OwnReports()
    for seconds in range(10, 310, 10):
        filled.note([node(10 * seconds, seconds)], at=at(seconds))
    return filled


def test_the_newest_report_with_no_more_requests_than_the_metrics_count(reports):
    assert known(reports, {"edge-1": 2850.0}, until=300) == {"edge-1": Served(2800, 280)}


def test_metrics_that_count_too_little_do_not_lead_back_for_ever(reports):
    assert known(reports, {"edge-1": 500.0}, until=300) == {"edge-1": Served(1800, 180)}
    assert known(reports, {}, until=300) == {"edge-1": Served(1800, 180)}


def test_long_intervals_look_further_back(reports):
    assert known(reports, {}, until=300, interval=90) == {"edge-1": Served(1200, 120)}


def test_what_can_be_needed_later_is_kept(reports):
    known(reports, {"edge-1": 3000.0}, until=300)

    assert known(reports, {}, until=310) == {"edge-1": Served(1900, 190)}


def test_where_none_is_known_to_the_metrics_it_is_the_oldest():
    reports = OwnReports()
    for seconds in (10, 20):
        reports.note([node(10 * seconds)], at=at(seconds))

    assert known(reports, {"edge-1": 50.0}, until=20) == {"edge-1": Served(100)}


def test_what_was_reported_of_an_earlier_activation_is_not_compared(reports):
    again = node(3, since=at(290))
    reports.note([again], at=at(300))

    assert known(reports, {"edge-1": 3000.0}, until=300, candidates=[again]) == {
        "edge-1": Served(3)
    }


def test_who_serves_since_before_the_rollout_reports_of_another_time():
    early = node(1000, 900, since=START - timedelta(seconds=1))
    reports = OwnReports()
    reports.note([early], at=at(10))

    assert known(reports, {"edge-1": 1000.0}, until=10, candidates=[early]) == {}


def test_who_reports_nothing_has_none():
    silent = Candidate("edge-2", SINCE)
    reports = OwnReports()
    reports.note([silent], at=at(10))

    assert known(reports, {"edge-2": 10.0}, until=10, candidates=[silent]) == {}
