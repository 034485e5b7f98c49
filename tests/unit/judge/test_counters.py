from hypothesis import given
from hypothesis import strategies as st

from linnet_operator.judge.counters import (
    Counts,
    foreign_series,
    node_counts,
    node_histories,
    say_foreign,
    total_count,
    window_counts,
)


def test_a_counter_that_falls_has_restarted_at_zero():
    assert window_counts([(1.0, 100.0), (2.0, 150.0), (0.0, 30.0)]) == ((1.0, 50.0), (0.0, 30.0))
    assert total_count([(1.0, 100.0), (0.0, 30.0), (1.0, 50.0)], born_at_zero=False) == (1.0, 50.0)


def test_however_little_it_fell():
    assert window_counts([(10.0, 1000.0), (9.0, 999.0)]) == ((9.0, 999.0),)


def test_failures_that_do_not_fall_restart_with_their_requests():
    assert window_counts([(0.0, 100.0), (3.0, 30.0)]) == ((3.0, 30.0),)


def test_a_gap_is_missing_and_not_zero():
    assert window_counts([(0.0, 10.0), None, (1.0, 30.0)]) == (None, None)
    assert total_count([(0.0, 10.0), None, (1.0, 30.0)], born_at_zero=False) == (1.0, 20.0)


def test_a_series_begins_at_zero_only_where_it_was_born_in_the_range():
    samples = [None, (5.0, 50.0), (6.0, 70.0)]

    assert total_count(samples, born_at_zero=True) == (6.0, 70.0)
    assert total_count(samples, born_at_zero=False) == (1.0, 20.0)
    assert total_count([(4.0, 40.0), *samples[1:]], born_at_zero=True) == (2.0, 30.0)


def test_a_missing_newest_sample_is_no_count():
    assert total_count([(0.0, 10.0), None], born_at_zero=True) is None
    assert total_count([], born_at_zero=True) is None


@given(
    st.lists(st.one_of(st.none(), st.tuples(st.floats(0, 1e9), st.floats(0, 1e9))), max_size=20),
    st.booleans(),
)
def test_no_count_is_ever_negative(samples, born):
    total = total_count(samples, born_at_zero=born)

    assert total is None or min(total) >= 0
    assert all(pair is None or min(pair) >= 0 for pair in window_counts(samples))


def test_history_is_of_the_stable_revision_alone():
    counts = Counts(
        times_s=(0.0, 10.0, 20.0),
        by_node_revision={
            ("a", "stable"): ((0.0, 0.0), (1.0, 10.0), (1.0, 30.0)),
            ("a", "other"): ((0.0, 0.0), (9.0, 10.0), (9.0, 10.0)),
        },
    )

    fine = Counts(
        times_s=(16.0, 18.0, 20.0, 22.0),
        by_node_revision={
            ("a", "stable"): ((1.0, 20.0), (1.0, 27.0), None, (1.0, 30.0)),
            ("a", "other"): ((0.0, 0.0), (9.0, 10.0), (9.0, 10.0), (9.0, 11.0)),
        },
    )

    first, second = node_histories(counts, fine, revision="stable", nodes=["b", "a"])

    assert (first.node, second.node) == ("a", "b")
    assert first.windows == ((1.0, 10.0), (0.0, 20.0))
    assert first.recent == ((0.0, 7.0),)
    assert (second.windows, second.recent) == ((None, None), ())
    assert node_histories(counts, None, revision="stable", nodes=["a"])[0].recent == ()


def test_a_node_that_does_not_report_has_no_count():
    counts = Counts(
        times_s=(0.0, 1.0),
        by_node_revision={
            ("a", "other"): ((0.0, 0.0), (7.0, 7.0)),
            ("a", "r"): (None, (1.0, 5.0)),
            ("b", "other"): ((0.0, 0.0), (7.0, 7.0)),
        },
    )

    a, b = node_counts(
        counts, revision="r", seconds_by_node={"b": 9.0, "a": 9.0}, born_at_zero=True
    )

    assert (a.failures, a.requests) == (1.0, 5.0)
    assert (b.failures, b.requests) == (None, None)


def test_a_growing_series_of_a_node_without_that_revision_is_foreign():
    counts = Counts(
        times_s=(0.0, 1.0),
        by_node_revision={
            ("a", "r1"): ((0.0, 5.0), (0.0, 9.0)),
            ("b", "r1"): ((0.0, 5.0), (0.0, 5.0)),
            ("b", "r2"): (None, (0.0, 3.0)),
            ("", "r1"): ((0.0, 5.0), (0.0, 6.0)),
        },
    )

    assert foreign_series(counts, {"r1": ["a"], "r2": ["b"]}) == (("", "r1"),)
    assert foreign_series(counts, {"r1": ["a", ""]}) == (("b", "r2"),)
    assert say_foreign(()) == ""
    assert "without a node label" in say_foreign([("", "r1")])
    assert "'b'" in say_foreign([("b", "r2"), ("c", "r2")])
