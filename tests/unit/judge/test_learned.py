from dataclasses import replace
from math import inf, nan
from statistics import mean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnet_operator.judge.learned import (
    SMALLEST_SHAPE,
    NodeHistory,
    is_count,
    learn,
    readiness,
)


def test_a_missing_window_is_not_one_without_requests():
    node = NodeHistory(node="edge-00", windows=(None, (1.0, 100.0), (0.0, 0.0), (1.0, 100.0)))

    (own,) = learn([node], interval_s=1, window_s=10).nodes

    assert (own.windows, own.failures, own.requests) == (2, 2.0, 200.0)


def test_readiness_names_who_lacks_windows(fleet):
    short = NodeHistory(node="edge-99", windows=((1.0, 100.0),) * 4)
    learned = learn([*fleet.history(3), short], interval_s=1, window_s=10)

    ready = readiness(learned, ["edge-00", "edge-99"], required=6)

    assert (ready.lacking, ready.fewest) == (("edge-99",), 4)
    assert ready.sentence.startswith("has 4 of 6 windows of history")
    assert not readiness(learned, ["edge-00"], required=6).lacking
    unknown = readiness(learned, ["unknown", "edge-00"], required=6)
    assert (unknown.lacking, unknown.fewest) == (("unknown",), 0)


def test_nodes_that_differ_are_seen_to_differ():
    alike = [NodeHistory(node=f"n{i}", windows=((20.0, 1000.0),) * 6) for i in range(10)]
    unlike = [NodeHistory(node=f"n{i}", windows=((4.0 * i, 1000.0),) * 6) for i in range(10)]

    same = learn(alike, interval_s=1, window_s=10)
    different = learn(unlike, interval_s=1, window_s=10)

    assert same.shape > 10 * different.shape


def test_drift_from_window_to_window_is_learned():
    steady = [NodeHistory(node=f"n{i}", windows=((50.0, 1000.0),) * 6) for i in range(10)]
    drifting = [
        NodeHistory(
            node=f"n{i}",
            windows=tuple(((10.0, 90.0)[(i + w) % 2], 1000.0) for w in range(6)),
        )
        for i in range(10)
    ]

    assert learn(steady, interval_s=1, window_s=10).drift_quadratic == 0.0
    assert learn(drifting, interval_s=1, window_s=10).drift_quadratic > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("windows", [12, 24])
@pytest.mark.parametrize("nodes", [6, 40])
def test_chance_alone_is_not_taken_for_drift_where_windows_hold_one_failure(nodes, windows):
    """A drift of 0.3, which matters, has a square of 0.09."""
    dice = np.random.default_rng([nodes, windows])

    def drift():
        requests = dice.poisson(100, (nodes, windows))
        failures = dice.binomial(requests, 0.01)
        history = [
            NodeHistory(node=f"n{i}", windows=tuple(zip(x, n, strict=True)))
            for i, (x, n) in enumerate(zip(failures.tolist(), requests.tolist(), strict=True))
        ]
        return learn(history, interval_s=1, window_s=10).drift_quadratic

    learned = [drift() for _ in range(60)]

    assert mean(learned) < 0.03
    assert sum(each == 0.0 for each in learned) >= 30


def test_no_history_at_all_is_as_wide_as_can_be():
    learned = learn([], interval_s=1, window_s=10)

    assert learned.windows == 0
    assert learned.requests_per_s == 0.0
    assert learned.shape == pytest.approx(0.02)


NO_COUNT = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True))


@given(st.lists(st.tuples(NO_COUNT, NO_COUNT), max_size=12))
def test_what_is_no_measurement_is_no_history(rows):
    node = NodeHistory(node="n", windows=tuple(rows), recent=())

    (own,) = learn([node], interval_s=1, window_s=10).nodes

    assert 0 <= own.failures <= own.requests or own.windows == 0


NO_MEASUREMENT = [(nan, 100.0), (1.0, nan), (inf, inf), (-1.0, 100.0), (3.0, 2.0), (0.0, 2.0**54)]


@pytest.mark.parametrize("row", NO_MEASUREMENT, ids=str)
def test_what_is_no_measurement_teaches_nothing_of_bursts_either(row):
    whole = NodeHistory(
        node="n", windows=((2.0, 200.0),) * 6, recent=((0.0, 20.0), (1.0, 20.0), (4.0, 20.0))
    )
    broken = replace(whole, windows=(row, *whole.windows), recent=(row, *whole.recent))

    learned = learn([broken], interval_s=1, window_s=10)

    assert learned == learn([whole], interval_s=1, window_s=10)
    assert learned.burst_quadratic > 0.0


def test_one_row_says_nothing_of_bursts(fleet):
    assert fleet.learned(recent=1) == fleet.learned(recent=0)


def test_the_order_of_nodes_does_not_matter_to_what_is_learned(fleet):
    history = [*fleet.history(3), NodeHistory(node="edge-99", windows=((4.0, 90.0), None))]

    learned = learn(history[::-1], interval_s=1, window_s=10)

    assert learned == learn(history, interval_s=1, window_s=10)
    assert [own.node for own in learned.nodes] == ["edge-00", "edge-01", "edge-02", "edge-99"]


def test_however_much_nodes_differ_their_past_still_counts_a_little():
    """All failures on one of a thousand nodes; a shape of nothing would make each node a riddle."""
    history = [
        NodeHistory(node=f"n{i}", windows=((float(i == 0) * 900, 1000.0),) * 2) for i in range(1000)
    ]

    assert learn(history, interval_s=1, window_s=10).shape == SMALLEST_SHAPE


@pytest.mark.parametrize("value", [0, 7.0, 2.0**53])
def test_a_count_is_a_number_that_a_float_tells_from_its_neighbours(value):
    assert is_count(value)


@pytest.mark.parametrize("value", [-1, 2.0**53 + 2, nan, inf, True, "7", None])
def test_all_else_is_no_count(value):
    assert not is_count(value)
