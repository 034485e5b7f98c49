import gzip
import json
import random  # noqa: TID251 - seeded
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnet_operator.evidence import (
    DATA_KEY,
    LARGEST_COMPRESSED_BYTES,
    SHA256_ANNOTATION,
    EvidenceRecordError,
    config_map,
    learned_from_json,
    learned_to_json,
    make_record,
    read_config_map,
    recompute,
)
from linnet_operator.judge.assess import MetricInputs, StepInputs, ThresholdInputs, assess
from linnet_operator.judge.compare import Detect
from linnet_operator.judge.thresholds import ThresholdSample, ThresholdSpec


def inputs_of(fleet, failures, *, nodes=10, candidates=4):
    rows = [fleet.count(index, failures[index % len(failures)], 300.0) for index in range(nodes)]
    spec = ThresholdSpec(name="temperature", maximum="85")
    sample = ThresholdSample(at_s=1.5, value=float("nan"), series=1, problem="")
    return StepInputs(
        metrics=(
            MetricInputs(
                name="errors",
                signal="Errors",
                learned=fleet.learned(nodes),
                candidates=tuple(rows[:candidates]),
                stable=tuple(rows[candidates:]),
            ),
        ),
        thresholds=(ThresholdInputs(spec=spec, samples=(sample,)),),
        alpha=0.01,
        steps=4,
        detect=fleet.detect,
        required_windows=6,
    )


COUNT = st.one_of(st.none(), st.integers(-1, 300), st.floats(0, 300), st.just(float("nan")))


@pytest.mark.slow
@given(st.lists(COUNT, min_size=10, max_size=10))
def test_rule_15_a_record_judges_itself_again_to_the_last_bit(fleet, failures):
    inputs = inputs_of(fleet, failures)
    record = make_record(inputs, assess(inputs), about={"rollout": "digits-2"})

    for bytes_ in (record.compressed, record.canonical):
        again = recompute(bytes_)
        assert again.differences == ()
        assert again.sha256 == record.sha256
    assert again.about == {"rollout": "digits-2"}


def test_the_same_look_gives_the_same_bytes(fleet):
    inputs = inputs_of(fleet, [3.0])

    first = make_record(inputs, assess(inputs), about={"b": 1, "a": 2})
    second = make_record(inputs, assess(inputs), about={"a": 2, "b": 1})

    assert first == second
    assert first.compressed[4:8] == bytes(4), "gzip's time of writing"


def differences(record, change):
    value = json.loads(record.canonical)
    change(value)
    return recompute(json.dumps(value).encode()).differences


@pytest.mark.parametrize(
    ("change", "where"),
    [
        pytest.param(lambda said: said.update(verdict="Pass"), "verdict", id="the verdict"),
        pytest.param(lambda said: said.update(log_e=0.5), "log_e", id="a figure"),
        pytest.param(lambda said: said.pop("line"), "line", id="a figure is gone"),
        pytest.param(lambda said: said.update(note="fine"), "note", id="one more"),
        pytest.param(
            lambda said: said["metrics"][0]["look"]["candidates"][2].update(failures=0.0),
            "metrics[0].look.candidates[2].failures",
            id="deep inside",
        ),
        pytest.param(lambda said: said["metrics"].pop(), "metrics", id="a metric is gone"),
    ],
)
def test_whatever_was_changed_of_what_the_judge_said_is_found_where_it_stands(fleet, change, where):
    inputs = inputs_of(fleet, [3.0])
    record = make_record(inputs, assess(inputs), about={})

    found = differences(record, lambda value: change(value["assessment"]))

    assert found == (f"assessment.{where}",)


def test_a_record_of_another_format_is_not_judged(fleet):
    inputs = inputs_of(fleet, [3.0])
    record = make_record(inputs, assess(inputs), about={})

    with pytest.raises(EvidenceRecordError, match=r"^format 'v9' is not known"):
        differences(record, lambda value: value.update(format="v9"))


def test_a_changed_count_is_found(fleet):
    inputs = inputs_of(fleet, [3.0])
    record = make_record(inputs, assess(inputs), about={})

    def more_failures(value):
        value["inputs"]["metrics"][0]["candidates"]["failures"][0] = 250

    assert "assessment.log_e" in differences(record, more_failures)


def test_a_record_holds_all_that_the_judge_was_given(fleet):
    (metric,) = inputs_of(fleet, [3.0]).metrics
    rows = (
        fleet.count(0, None, None, domain="nano"),
        fleet.count(1, 3.0, 300.0, 59.5, domain="orin"),
    )
    spec = ThresholdSpec(
        name="heat",
        maximum="85",
        minimum="-5",
        failure_limit=2,
        consecutive_failure_limit=1,
        consecutive_error_limit=0,
        dry_run=True,
    )
    samples = (ThresholdSample(at_s=1.5, value=None, series=2, problem="two"),)
    inputs = StepInputs(
        metrics=(
            replace(metric, candidates=rows, partial="a store is down"),
            replace(metric, name="slow", signal="Slow", learned=None, no_data="down"),
        ),
        thresholds=(ThresholdInputs(spec=spec, samples=samples),),
        alpha=0.05,
        steps=7,
        detect=Detect(factor=2.5, floor=0.02),
        required_windows=3,
        proceed_without_history=True,
    )

    assert recompute(make_record(inputs, assess(inputs), about={}).compressed).inputs == inputs


def test_what_is_no_number_is_written_as_nothing_and_never_as_zero(fleet):
    inputs = inputs_of(fleet, [float("nan")])

    again = recompute(make_record(inputs, assess(inputs), about={}).compressed).inputs

    assert {row.failures for row in again.metrics[0].candidates} == {None}
    assert again.thresholds[0].samples[0].value is None


def test_a_record_that_is_too_large_is_refused_and_not_cut(fleet):
    inputs = inputs_of(fleet, [3.0])
    noise = random.Random(1).randbytes(LARGEST_COMPRESSED_BYTES + 10_000).hex()  # noqa: S311 - seeded

    with pytest.raises(EvidenceRecordError, match="bytes compressed, more than 700000"):
        make_record(inputs, assess(inputs), about={"noise": noise})


def test_the_config_map_is_immutable_and_names_its_hash(fleet):
    inputs = inputs_of(fleet, [3.0])
    record = make_record(inputs, assess(inputs), about={})

    body = config_map(record, name="e", namespace="n", labels={"a": "b"}, owner_references=[])

    assert body["immutable"] is True
    assert body["metadata"]["annotations"][SHA256_ANNOTATION] == record.sha256
    assert read_config_map(body) == record.compressed
    assert recompute(read_config_map(body)).sha256 == record.sha256


@pytest.mark.slow
def test_a_thousand_nodes_fit_with_room(fleet):
    inputs = inputs_of(fleet, [float(index % 17) for index in range(97)], nodes=1000, candidates=50)
    record = make_record(inputs, assess(inputs), about={})

    assert len(record.compressed) < LARGEST_COMPRESSED_BYTES / 10


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{}", id="no fields"),
        pytest.param(b"[1]", id="no object"),
        pytest.param(b"\x1f\x8bxx", id="broken gzip"),
        pytest.param(gzip.compress(b"x"), id="no JSON"),
        pytest.param(b'{"format":"other"}', id="unknown format"),
        pytest.param(b"\xff\xfe", id="no text"),
    ],
)
def test_a_damaged_record_is_an_error_that_says_so(damaged):
    with pytest.raises(EvidenceRecordError):
        recompute(damaged)


@pytest.mark.parametrize(
    ("field", "value"),
    [("rate", 0), ("interval_s", 0), ("burst_linear", 1e308), ("shape", 10**400), ("about", 7)],
)
def test_numbers_that_no_judge_has_written_are_damage(fleet, field, value):
    inputs = inputs_of(fleet, [3.0, 2.0])
    record = json.loads(make_record(inputs, assess(inputs), about={}).canonical)
    if field == "about":
        record[field] = value
    else:
        record["inputs"]["metrics"][0]["learned"][field] = value

    with pytest.raises(EvidenceRecordError):
        recompute(json.dumps(record).encode())


@pytest.mark.parametrize("body", [{}, {"binaryData": None}, {"binaryData": {DATA_KEY: "%"}}])
def test_a_config_map_without_a_record_is_an_error(body):
    with pytest.raises(EvidenceRecordError):
        read_config_map(body)


def test_the_frozen_parameters_survive_json(fleet):
    learned = fleet.learned()

    assert learned_from_json(json.loads(json.dumps(learned_to_json(learned)))) == learned
