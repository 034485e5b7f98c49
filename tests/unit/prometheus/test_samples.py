"""From what a source answers to a sample: pairs that count, and times that are the same again."""

from datetime import UTC, datetime, timedelta
from math import inf, nan

import pytest

from linnet_operator.presets import Signal, Subject
from linnet_operator.prometheus import PrometheusSource, _sample, fixed_times, step_times

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("parts", "sample"),
    [
        pytest.param({"success": 90.0, "failure": 10.0}, (10.0, 100.0), id="failures of all"),
        pytest.param({"success": 90.0}, (0.0, 90.0), id="none has failed yet"),
        pytest.param({"failure": 9.0}, (9.0, 9.0), id="all have failed"),
        pytest.param({}, None, id="it does not report"),
        pytest.param({"success": nan, "failure": 1.0}, None, id="not a number"),
        pytest.param({"success": inf}, None, id="infinite"),
        pytest.param({"success": 2.0, "failure": -1.0}, None, id="negative"),
    ],
)
def test_what_failed_and_all_are_counted_from_their_parts(parts, sample):
    assert _sample(parts, "Errors", "failure") == sample


@pytest.mark.parametrize(
    ("parts", "sample"),
    [
        pytest.param({"0.05": 90.0, "+Inf": 100.0}, (10.0, 100.0), id="beyond the edge"),
        pytest.param({"0.05": 100.0, "+Inf": 100.0}, (0.0, 100.0), id="none is slow"),
        pytest.param({"+Inf": 100.0}, None, id="no such edge"),
        pytest.param({"0.05": 90.0}, None, id="nobody says how many there are"),
        pytest.param({"0.05": 101.0, "+Inf": 100.0}, None, id="buckets of two scrapes"),
        pytest.param({}, None, id="it does not report"),
    ],
)
def test_what_is_slow_lies_beyond_the_edge_of_a_bucket(parts, sample):
    assert _sample(parts, "Slow", "0.05") == sample


def seconds(times):
    return [(time - NOON).total_seconds() for time in times]


@pytest.mark.parametrize(
    ("end", "times"),
    [
        pytest.param(30, [0, 10, 20, 30], id="whole steps reach the start"),
        pytest.param(25, [5, 15, 25], id="others begin just after it, and reach the end"),
        pytest.param(9, [9], id="less than a step"),
        pytest.param(-9, [-9], id="an end before the start"),
    ],
)
def test_fixed_times_hang_on_the_end(end, times):
    ended = NOON + timedelta(seconds=end)

    assert seconds(fixed_times(start=NOON, end=ended, step=timedelta(seconds=10))) == times


@pytest.mark.parametrize(
    ("end", "most", "times"),
    [
        pytest.param(30, 120, [0, 10, 20, 30], id="whole intervals"),
        pytest.param(25, 120, [0, 12.5, 25], id="never closer than an interval"),
        pytest.param(5, 120, [0, 5], id="both ends of a short one"),
        pytest.param(0, 120, [0], id="it has just begun"),
        pytest.param(100, 3, [0, 50, 100], id="few of a long one"),
    ],
)
def test_the_times_of_a_look_are_even_from_the_start_to_the_end(end, most, times):
    ended = NOON + timedelta(seconds=end)
    found = step_times(start=NOON, end=ended, interval=timedelta(seconds=10), most=most)

    assert seconds(found) == times


@pytest.mark.parametrize("kind", ["Wrong", "Slow"])
async def test_what_a_preset_does_not_count_is_no_data_and_asks_nobody(kind):
    subject = Subject(namespace="factory", deployment="digits", preset="Triton", model="digits")
    source = PrometheusSource("http://127.0.0.1:9")

    counts = await source.counts(
        Signal(kind=kind, over=timedelta(seconds=1)), subject, times=[NOON]
    )

    assert counts.no_data.startswith(f"{kind} is not counted: Triton ")
