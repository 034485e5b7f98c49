import gzip
import json

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


def test_a_changed_count_or_verdict_is_found(fleet):
    inputs = inputs_of(fleet, [3.0])
    record = make_record(inputs, assess(inputs), about={})
    value = json.loads(record.canonical)
    value["assessment"]["verdict"] = "Pass"
    value["inputs"]["metrics"][0]["candidates"]["failures"][0] = 250

    differences = recompute(json.dumps(value).encode()).differences

    assert "assessment.log_e" in differences


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
