"""What Prometheus reads, judged by the parser of its own Python client."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from linnet_server.exposition import Registry

EDGES = (0.1, 1, 10)


def read(registry):
    families = text_string_to_metric_families(registry.render().decode())
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def test_counters_count_by_their_labels():
    registry = Registry()
    counter = registry.counter("seen_total", "What was seen.", ("b", "a"))

    counter.labels("x", "y").inc()
    counter.labels("x", "y").inc()
    counter.labels("x", "z")

    assert read(registry) == {
        ("seen_total", ("a", "y"), ("b", "x")): 2,
        ("seen_total", ("a", "z"), ("b", "x")): 0,
    }


@given(values=st.lists(st.floats(0, 100)))
def test_a_histogram_counts_what_lies_up_to_each_edge(values):
    registry = Registry()
    histogram = registry.histogram("took_seconds", "How long.", ("a",), edges=EDGES).labels("x")

    for value in values:
        histogram.observe(value)

    found = read(registry)
    for edge in EDGES:
        below = sum(value <= edge for value in values)
        assert found["took_seconds_bucket", ("a", "x"), ("le", repr(float(edge)))] == below
    assert found["took_seconds_bucket", ("a", "x"), ("le", "+Inf")] == len(values)
    assert found["took_seconds_count", ("a", "x")] == len(values)
    assert found["took_seconds_sum", ("a", "x")] == pytest.approx(sum(values))


@given(
    value=st.text(
        st.characters(codec="utf-8", exclude_characters="\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")
    )
)
def test_whatever_a_label_holds_is_read_back(value):
    registry = Registry()
    registry.gauge("is", "It is.", ("a",)).labels(value).set(1)

    assert read(registry) == {("is", ("a", value)): 1}


def test_a_gauge_is_asked_at_each_scrape_and_forgotten_when_it_is_removed():
    registry = Registry()
    gauge = registry.gauge("depth", "How deep.", ("a",))
    depths = [7, 8]
    gauge.labels("x").set_function(lambda: depths.pop(0))

    found = [read(registry), read(registry)]
    gauge.remove("x")

    assert found == [{("depth", ("a", "x")): 7}, {("depth", ("a", "x")): 8}]
    assert read(registry) == {}


def test_a_family_is_described_before_it_has_series():
    registry = Registry()
    registry.counter("seen_total", "What was seen.", ("a",))

    assert registry.render() == b"# HELP seen_total What was seen.\n# TYPE seen_total counter\n"


def test_an_edge_belongs_to_the_bucket_below_it():
    registry = Registry()
    registry.histogram("h", "H.", ("a",), edges=EDGES).labels("x").observe(1)

    assert read(registry)["h_bucket", ("a", "x"), ("le", "1.0")] == 1
