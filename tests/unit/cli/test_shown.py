"""What ``explain`` shows of a decision: the one that was asked for, and its worst nodes first."""

import re
from dataclasses import replace

import pytest

from linnet_cli.workings import show_workings
from linnet_operator.evidence import config_map, make_record, recompute
from linnet_operator.judge.assess import MetricInputs, StepInputs, assess
from linnet_operator.judge.compare import Detect, NodeCount
from linnet_operator.judge.kernel import log_mean
from linnet_operator.judge.learned import NodeHistory, learn

NODES = [f"edge-{number}" for number in range(1, 9)]


def inputs_of(failures, *, names=("errors",)):
    """Return a step whose candidates fail so many of 1000 requests; 10 are expected."""
    past = [
        NodeHistory(node=node, windows=((10.0, 1000.0),) * 6, recent=((1.0, 100.0),) * 6)
        for node in NODES
    ]
    learned = learn(past, interval_s=10.0, window_s=600.0)
    counted = [*failures, *[10.0] * (len(NODES) - len(failures))]
    rows = tuple(
        NodeCount(node=node, failures=x, requests=1000.0, seconds=600.0)
        for node, x in zip(NODES, counted, strict=True)
    )
    metrics = tuple(
        MetricInputs(
            name=name,
            signal="Errors",
            learned=learned,
            candidates=rows[: len(failures)],
            stable=rows[len(failures) :],
        )
        for name in names
    )
    detect = Detect(factor=3.0, floor=0.01)
    return StepInputs(metrics=metrics, alpha=0.01, steps=4, detect=detect, required_windows=6)


def shown(failures, *, names=("errors",), metric=None):
    inputs = inputs_of(failures, names=names)
    said = assess(inputs)
    again = recompute(make_record(inputs, said, about={}).compressed)
    return "\n".join(show_workings(again, metric=metric, node=None)), said


def numbers(text, label):
    line = next(line for line in text.splitlines() if label in line).partition(label)[2]
    return [float(each.split()[-1]) for each in line.split(", ")]


def test_one_metric_is_shown_alone():
    both, _ = shown([10.0, 12.0], names=("errors", "slow"))
    one, _ = shown([10.0, 12.0], names=("errors", "slow"), metric="slow")

    assert ("errors (Errors)" in both, "slow (Errors)" in both) == (True, True)
    assert ("errors (Errors)" in one, "slow (Errors)" in one) == (False, True)


def test_the_worst_node_is_shown_first_with_what_is_left_without_it():
    text, said = shown([10.0, 40.0, 12.0, 0.0])

    assert re.findall(r"^  (edge-\d) ", text, re.MULTILINE) == [
        "edge-2",
        "edge-3",
        "edge-1",
        "edge-4",
    ]
    without = [float(each) for each in re.findall(r"log E without it (-?[\d.]+)", text)]
    assert without == sorted(without), "the less is left, the worse the node"
    assert without[0] < said.log_e < without[-1]


@pytest.mark.parametrize(
    ("failures", "reached"), [([20.0, 20.0], "not reached"), ([90.0, 90.0], "reached")]
)
def test_each_kind_of_harm_has_its_number_and_their_average_is_the_evidence(failures, reached):
    text, said = shown(failures)

    by_factor, by_mean = numbers(text, "a node worse by x: "), numbers(text, "plus fleet means: ")
    named = numbers(text, "the rise that detect names:")
    assert log_mean([*by_factor, *by_mean, *named]) == pytest.approx(said.log_e, abs=0.02)
    assert said.log_e > 0.0
    assert f"log(4 / 0.01) = 5.991: {reached}" in text


def test_harm_by_a_factor_and_by_the_fleets_mean_are_told_apart():
    """A node that hardly ever fails: twice of that is nothing, the fleet's mean on top is much."""
    inputs = inputs_of([10.0])
    quiet = NodeHistory(node=NODES[0], windows=((0.0, 1000.0),) * 6)
    others = [NodeHistory(node=node, windows=((20.0, 1000.0),) * 6) for node in NODES[1:]]
    (metric,) = inputs.metrics
    learned = learn([quiet, *others], interval_s=10.0, window_s=600.0)
    changed = replace(inputs, metrics=(replace(metric, learned=learned),))
    record = make_record(changed, assess(changed), about={})

    text = "\n".join(show_workings(recompute(record.compressed), metric=None, node=None))

    assert numbers(text, "plus fleet means: ")[0] > numbers(text, "a node worse by x: ")[0] + 1


def test_what_differs_from_the_record_is_said_beside_the_verdict():
    inputs = inputs_of([10.0, 12.0])
    other = assess(inputs_of([90.0, 90.0]))
    again = recompute(make_record(inputs, other, about={}).compressed)

    last = show_workings(again, metric=None, node=None)[-1]

    assert "DIFFERS from the record in assessment." in last
    assert "agrees" not in last


def test_the_newest_decision_is_the_one_that_is_explained(stories, linnet):
    fleet = stories["rolled-back"]()
    rollout = fleet.objects["modelrollouts", "factory", "digits-3"]
    decisions = []
    for number, failures in ((1, [11.0]), (2, [90.0])):
        inputs = inputs_of(failures)
        said = assess(inputs)
        record = make_record(inputs, said, about={})
        name = f"digits-3-e{number}"
        fleet.objects["configmaps", "factory", name] = config_map(
            record, name=name, namespace="factory", labels={}, owner_references=[]
        )
        decisions.append(
            {
                "n": number,
                "at": "2026-03-01T09:00:00.000000Z",
                "step": 1,
                "verdict": str(said.verdict),
                "action": "Rollback" if number == 2 else "Hold",
                "message": said.message,
                "evidence": {"name": name, "sha256": record.sha256},
            }
        )
    rollout["status"]["decisions"] = decisions

    told = " ".join(linnet(fleet.kube(), "explain", "digits").out.split())
    newest = linnet(fleet.kube(), "explain", "digits", "--metric", "errors").out
    first = linnet(fleet.kube(), "explain", "digits", "--decision", "1").out

    assert "it rests on errors: 90 of 1000" in told
    assert newest.startswith("digits-3 decision 2, step 1: Fail, Rollback")
    assert first.startswith("digits-3 decision 1, step 1: ")
    assert "x = 11 of" in first
