"""``explain --verify``: anyone can compute a decision again, from its evidence alone."""

import base64
import gzip
import json

import pytest

from linnet_cli.exits import Exit
from linnet_operator.evidence import config_map, make_record
from linnet_operator.judge.assess import MetricInputs, StepInputs, ThresholdInputs, assess
from linnet_operator.judge.compare import Detect, NodeCount
from linnet_operator.judge.learned import NodeHistory, learn
from linnet_operator.judge.thresholds import ThresholdSample, ThresholdSpec

QUERY = 'sum by (node, revision) (linnet_inference_requests_total{deployment="digits"})'


@pytest.fixture
def judged(stories):
    """A fleet whose one decision rests on a real look of the judge, and its ConfigMap."""
    nodes = [f"edge-{number}" for number in range(1, 8)]
    past = [
        NodeHistory(node=node, windows=((2.0, 200.0),) * 24, recent=((0.0, 10.0),) * 24)
        for node in nodes
    ]
    inputs = StepInputs(
        metrics=(
            MetricInputs(
                name="errors",
                signal="Errors",
                learned=learn(past, interval_s=1.0, window_s=60.0),
                candidates=(NodeCount(node="edge-1", failures=90.0, requests=100.0, seconds=60.0),),
                stable=tuple(
                    NodeCount(node=node, failures=1.0, requests=100.0, seconds=60.0)
                    for node in nodes[1:]
                ),
            ),
        ),
        alpha=0.01,
        steps=4,
        detect=Detect(factor=3.0, floor=0.01),
        required_windows=6,
    )
    assessment = assess(inputs)
    record = make_record(inputs, assessment, about={"queries": {"errors": QUERY}})
    fleet = stories["rolled-back"]()
    body = config_map(
        record, name="digits-3-e1", namespace="factory", labels={}, owner_references=[]
    )
    fleet.objects["configmaps", "factory", "digits-3-e1"] = body
    rollout = fleet.objects["modelrollouts", "factory", "digits-3"]
    rollout["status"]["decisions"] = [
        {
            "n": 1,
            "at": "2026-03-01T09:00:00.000000Z",
            "step": 1,
            "verdict": str(assessment.verdict),
            "action": "Rollback",
            "message": assessment.message,
            "evidence": {"name": "digits-3-e1", "sha256": record.sha256},
        },
        {
            "n": 2,
            "at": "2026-03-01T09:00:00.000000Z",
            "step": 1,
            "verdict": "Fail",
            "action": "Hold",
            "message": "m",
        },
    ]
    return fleet, body, rollout


def test_a_decision_that_can_be_computed_again_agrees(judged, linnet):
    outcome = linnet(judged[0].kube(), "explain", "digits", "--verify")

    assert outcome.code == Exit.OK
    assert "decision 1, step 1: Fail, Rollback: agrees, from digits-3-e1" in outcome.out
    assert "decision 2, step 1: Fail, Hold: no metrics were judged" in outcome.out


def change(body, edit):
    record = json.loads(gzip.decompress(base64.b64decode(body["binaryData"]["evidence.json.gz"])))
    edit(record)
    body["binaryData"]["evidence.json.gz"] = base64.b64encode(
        gzip.compress(json.dumps(record).encode())
    ).decode()


@pytest.mark.parametrize(
    ("tamper", "says"),
    [
        pytest.param(
            lambda b, _r: change(
                b, lambda e: e["inputs"]["metrics"][0]["candidates"].update(failures=[1.0])
            ),
            "DIFFERS in assessment",
            id="other counts",
        ),
        pytest.param(
            lambda b, _r: change(b, lambda e: e["about"].update(queries={})),
            "DIFFERS in sha256",
            id="other bytes",
        ),
        pytest.param(
            lambda _b, r: r["status"]["decisions"][0].update(verdict="Pass"),
            "DIFFERS in verdict (the evidence says Fail)",
            id="another verdict",
        ),
        pytest.param(
            lambda b, _r: b["binaryData"].update({"evidence.json.gz": "!"}),
            "NOT VERIFIED",
            id="damaged",
        ),
        pytest.param(
            lambda _b, r: r["status"]["decisions"][0]["evidence"].update(name="gone"),
            "NOT VERIFIED",
            id="gone",
        ),
    ],
)
def test_what_was_changed_afterwards_does_not_agree(judged, linnet, tamper, says):
    fleet, body, rollout = judged
    tamper(body, rollout)

    outcome = linnet(fleet.kube(), "explain", "digits", "--verify")

    assert outcome.code == Exit.ERROR
    assert says in outcome.out


def test_an_older_rollout_can_be_verified_too(judged, linnet):
    fleet = judged[0]
    fleet.rollout(number=4, start="1.1", to="1.0", phase="Learning")
    fleet.objects["modeldeployments", "factory", "digits"]["status"]["rollout"] = "digits-4"

    newest = linnet(fleet.kube(), "explain", "digits", "--verify")
    older = linnet(fleet.kube(), "explain", "digits", "--verify", "--rollout", "digits-3")
    missing = linnet(fleet.kube(), "explain", "digits", "--verify", "--rollout", "digits-9")

    assert "nothing to verify" in newest.err
    assert (older.code, "agrees" in older.out) == (Exit.OK, True)
    assert "it has: digits-3, digits-4" in missing.err


def test_without_decisions_there_is_nothing_to_verify(stories, linnet):
    outcome = linnet(stories["first-rollout"]().kube(), "explain", "digits", "--verify")

    assert outcome.code == Exit.OK
    assert "nothing to verify" in outcome.err


def test_explain_shows_counts_expectation_and_query_of_the_newest_decision(judged, linnet):
    out = " ".join(linnet(judged[0].kube(), "explain", "digits").out.split())

    assert "it rests on errors: 90 of 100, expected" in out
    assert f"query errors: {QUERY}" in out


def test_the_workings_of_a_decision_show_formulas_with_their_numbers(judged, linnet):
    outcome = linnet(judged[0].kube(), "explain", "digits", "--decision", "1")

    assert outcome.code == Exit.OK
    assert "digits-3 decision 1, step 1: Fail, Rollback" in outcome.out
    assert f"asked        {QUERY}" in outcome.out
    assert "f = (sum x + 2) / (sum n r + 2) = (6 + 2) / (" in outcome.out
    assert "edge-1       counted x = 90 of n = 100; own rate r = (a + x0) / (a/mu + n0) = (" in (
        outcome.out
    )
    assert "expected e = n r f = 100 x 0.01" in outcome.out
    assert "line = log(steps / alpha) = log(4 / 0.01) = 5.991: reached" in outcome.out
    assert outcome.out.rstrip().endswith("Fail; computed again, it agrees with the record")


def test_the_numbers_of_the_workings_are_those_of_the_judge(judged, linnet):
    """The own rate and the expectation, by hand from what is printed, give what the judge says."""
    out = linnet(judged[0].kube(), "explain", "digits", "--metric", "errors").out
    own = next(line for line in out.splitlines() if "own rate r" in line and "edge-1" in line)
    terms = own.rpartition(") = (")[2].replace("(", "").replace(")", "").replace("=", "/")
    above, below, rate = (part.strip() for part in terms.split("/"))
    computed = sum(map(float, above.split("+"))) / sum(map(float, below.split("+")))

    assert computed == pytest.approx(float(rate), rel=1e-3)


def test_one_node_is_shown_alone_candidate_or_stable(judged, linnet):
    candidate = linnet(judged[0].kube(), "explain", "digits", "--node", "edge-1").out
    stable = linnet(judged[0].kube(), "explain", "digits", "--node", "edge-2").out

    assert "edge-1       counted x = 90 of n = 100" in candidate
    assert "stable edge-2 counted x = 1 of n = 100; own rate r" in stable
    assert "evidence     E =" not in candidate


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("--decision", "7"), "digits-3 has no decision 7; it has: 1, 2"),
        (("--decision", "2"), "decision 2 rests on no metrics"),
        (("--metric", "heat"), "nothing named heat was judged; there are: errors"),
        (("--node", "edge-99"), "no node edge-99 was judged; there are: edge-1, edge-2"),
    ],
)
def test_what_was_not_judged_is_said_with_what_was(judged, linnet, argv, says):
    outcome = linnet(judged[0].kube(), "explain", "digits", *argv)

    assert outcome.code == Exit.ERROR
    assert says in outcome.err


def test_one_decision_is_verified_alone(judged, linnet):
    outcome = linnet(judged[0].kube(), "explain", "digits", "--verify", "--decision", "1")

    assert outcome.code == Exit.OK
    assert "decision 2" not in outcome.out


def test_a_decision_that_is_not_there_is_not_verified(judged, linnet):
    missing = linnet(judged[0].kube(), "explain", "digits", "--verify", "--decision", "99")
    part = linnet(judged[0].kube(), "explain", "digits", "--verify", "--metric", "errors")

    assert (missing.code, missing.out) == (Exit.ERROR, "")
    assert "digits-3 has no decision 99; it has: 1, 2" in missing.err
    assert (part.code, part.out) == (Exit.USAGE, "")
    assert "without --metric and --node" in part.err


def test_nothing_is_said_to_be_excluded_beside_harm_that_is_larger(judged, linnet):
    told = " ".join(linnet(judged[0].kube(), "explain", "digits").out.split())
    workings = linnet(judged[0].kube(), "explain", "digits", "--decision", "1").out

    assert "no rise excluded yet; evidence of harm" in told
    detect = next(line for line in workings.splitlines() if line.startswith("  detect"))
    assert detect.endswith(": less likely than what is seen, which is more")


def test_a_threshold_shows_its_samples_and_when_its_limit_broke(judged, linnet):
    samples = tuple(
        ThresholdSample(at_s=1e9 + 10 * n, value=value, series=value is not None)
        for n, value in enumerate((80.0, None, 90.0))
    )
    spec = ThresholdSpec(name="heat", maximum="85", dry_run=True)
    inputs = StepInputs(
        metrics=(),
        thresholds=(ThresholdInputs(spec=spec, samples=samples),),
        alpha=0.01,
        steps=4,
        detect=Detect(factor=3.0, floor=0.01),
        required_windows=6,
    )
    record = make_record(inputs, assess(inputs), about={})
    body = config_map(
        record, name="digits-3-e1", namespace="factory", labels={}, owner_references=[]
    )
    judged[0].objects["configmaps", "factory", "digits-3-e1"] = body

    out = linnet(judged[0].kube(), "explain", "digits", "--decision", "1").out

    assert "heat (threshold) (dry run: decides nothing)" in out
    assert "3, 2 with a value, 1 beyond the limit (1 in a row now)" in out
    assert "the newest: 80, none, 90" in out
    assert "broken       at 2001-09-09T01:47:00Z" in out
