"""A decision depends on what was counted, not on how or when the judge was asked."""

from hypothesis import given
from hypothesis import strategies as st

from linnet_operator.evidence import make_record, recompute
from linnet_operator.judge.assess import MetricInputs, StepInputs, assess
from linnet_operator.judge.learned import learn

ALPHA = 0.01


def a_step(fleet, failures, order=range(10), *, domains=True):
    rows = [
        fleet.count(i, float(x), 400.0 + i, domain=f"site-{i % 2}" if domains else "")
        for i, x in enumerate(failures)
    ]
    history = fleet.history()
    metric = MetricInputs(
        name="errors",
        signal="Errors",
        learned=learn([history[i] for i in order], interval_s=1, window_s=10),
        candidates=tuple(rows[i] for i in order if i < 6),
        stable=tuple(rows[i] for i in order if i >= 6),
    )
    return StepInputs(
        metrics=(metric,), alpha=ALPHA, steps=4, detect=fleet.detect, required_windows=6
    )


@given(st.permutations(range(10)), st.lists(st.integers(0, 60), min_size=10, max_size=10))
def test_the_order_of_nodes_does_not_matter_to_a_verdict(fleet, order, failures):
    assert assess(a_step(fleet, failures, order)) == assess(a_step(fleet, failures))


@given(st.lists(st.integers(0, 60), min_size=10, max_size=10), st.integers(1, 5))
def test_how_often_it_was_looked_at_before_does_not_matter(fleet, failures, looks):
    last = a_step(fleet, failures)
    alone = assess(last)
    for part in range(1, looks + 1):
        assess(a_step(fleet, [x * part // (looks + 1) for x in failures]))

    assert assess(last) == alone


@given(st.lists(st.integers(0, 60), min_size=10, max_size=10))
def test_after_a_restart_the_record_alone_gives_the_same_to_the_last_bit(fleet, failures):
    step = a_step(fleet, failures)
    said = assess(step)
    record = make_record(step, said, about={})

    again = recompute(record.compressed)

    assert again.differences == ()
    assert assess(again.inputs) == said
    assert make_record(again.inputs, assess(again.inputs), about={}).sha256 == record.sha256


@given(
    requests=st.floats(1, 1e9),
    ratio=st.floats(0, 1),
    past=st.floats(1, 1e9),
    past_ratio=st.floats(0, 1),
)
def test_nothing_overflows_whatever_was_counted(fleet, requests, ratio, past, past_ratio):
    learned = fleet.learned(failures=past * past_ratio, requests=past)
    rows = [fleet.count(i, requests * ratio, requests, domain=f"d{i % 2}") for i in range(6)]
    stable = [fleet.count(i, requests * past_ratio, requests) for i in range(6, 10)]

    said = fleet.look(rows, stable, learned=learned)

    figures = [said.log_e, said.log_excluding, said.expected, *(d.log_e for d in said.domains)]
    assert all(abs(figure) < 1e13 for figure in figures)
