from statistics import mean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnet_operator.judge.learned import NodeHistory, learn, readiness


def test_a_missing_window_is_not_one_without_requests():
    node = NodeHistory(node="edge-00", windows=(None, (1.0, 100.0), (0.0, 0.0), (1.0, 100.0)))

    (own,) = learn([node], interval_s=1, window_s=10).nodes

    assert (own.windows, own.failures, own.requests) == (2, 2.0, 200.0)


def test_readiness_names_who_lacks_windows(fleet):
    short = NodeHistory(node="edge-99", windows=((1.0, 100.0),) * 4)
    learned = learn([*fleet.history(3), short], interval_s=1, window_s=10)

    ready = readiness(learned, ["edge-00", "edge-99"], required=6)

    assert ready.lacking == ("edge-99",)
    assert ready.sentence.startswith("has 4 of 6 windows of history")
    assert not readiness(learned, ["edge-00"], required=6).lacking
    assert readiness(learned, ["unknown"], required=6).fewest == 0


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


@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True)),
            st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True)),
        ),
        max_size=12,
    )
)
def test_what_is_no_measurement_is_no_history(rows):
    node = NodeHistory(node="n", windows=tuple(rows), recent=())

    (own,) = learn([node], interval_s=1, window_s=10).nodes

    assert 0 <= own.failures <= own.requests or own.windows == 0
