"""The metrics source on a real Prometheus that scrapes servers which restart and vanish."""

from datetime import timedelta

import pytest

from linnet_operator.judge.counters import node_counts, node_histories
from linnet_operator.presets import Signal, Subject
from linnet_operator.prometheus import fixed_times, step_times

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

SUBJECT = Subject(namespace="factory", deployment="digits")


async def test_counts_of_two_nodes_through_a_restart_and_a_new_revision(exporters, source, until):
    a, b = exporters["edge-a"], exporters["edge-b"]
    a.serve("r1", good=100, bad=4)
    a.serve("r1", good=10, bad=1, variant="onnx-int8")
    b.serve("r1", good=50)
    began = await until({("edge-a", "r1"): 115, ("edge-b", "r1"): 50})
    b.restart()
    b.serve("r1", good=20, bad=2)
    a.serve("r2", good=30, bad=3)
    ended = await until({("edge-a", "r2"): 33, ("edge-b", "r1"): 22})
    times = step_times(start=began, end=ended, interval=timedelta(milliseconds=200))

    async def look(signal):
        counts = await source.counts(signal, SUBJECT, times=times)
        assert not counts.no_data, counts.no_data
        (candidate,) = node_counts(
            counts, revision="r2", seconds_by_node={"edge-a": 1.0}, born_at_zero=True
        )
        (stable,) = node_counts(
            counts, revision="r1", seconds_by_node={"edge-b": 1.0}, born_at_zero=False
        )
        return (candidate.failures, candidate.requests, stable.failures, stable.requests), counts

    errors, first = await look(Signal(kind="Errors"))
    wrong, _ = await look(Signal(kind="Wrong"))
    slow, _ = await look(Signal(kind="Slow", over=timedelta(milliseconds=50)))
    assert errors == wrong == slow == (3.0, 33.0, 2.0, 22.0)

    _, again = await look(Signal(kind="Errors"))
    assert again == first


async def test_history_windows_before_the_first_scrape_are_missing(exporters, source, until):
    a, b = exporters["edge-a"], exporters["edge-b"]
    a.serve("r1", good=10)
    b.serve("r1", good=10)
    began = await until({("edge-a", "r1"): 10, ("edge-b", "r1"): 10})
    a.serve("r1", good=5, bad=1)
    ended = await until({("edge-a", "r1"): 16, ("edge-b", "r1"): 10})
    step = ended - began
    times = fixed_times(start=ended - 3 * step - timedelta(hours=1), end=ended, step=step)[-4:]

    counts = await source.counts(Signal(kind="Errors"), SUBJECT, times=times)
    one, two = node_histories(counts, None, revision="r1", nodes=["edge-a", "edge-b"])

    assert one.windows[0] is None
    assert one.windows[-1] == (1.0, 6.0)
    assert two.windows[-1] == (0.0, 0.0)


async def test_a_threshold_on_the_real_thing(exporters, source, until):
    exporters["edge-a"].serve("r1", good=7)
    exporters["edge-b"].serve("r1", good=7)
    at = await until({("edge-a", "r1"): 7, ("edge-b", "r1"): 7})
    before = at - timedelta(hours=1)

    one = await source.samples(
        'sum(linnet_inference_requests_total{outcome="success"})', [before, at]
    )
    many = await source.samples('linnet_inference_requests_total{outcome="success"}', [at])
    none = await source.samples("nothing_of_that_name", [at])
    broken = await source.samples("sum(", [at])

    assert [each.value for each in one.samples] == [None, 14.0]
    assert one.samples[0].problem.startswith("the query gave no series")
    assert (many.samples[0].value, many.samples[0].series) == (None, 2)
    assert none.samples[0].problem.startswith("the query gave no series")
    assert "check the query" in broken.no_data
