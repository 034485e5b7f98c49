"""Feedback: what counts, under whom, and what is forgotten."""

import numpy as np
import pytest

from linnet_server.errors import BadRequestError, NotFoundError
from linnet_server.feedback import RecentAnswers, read_labels
from linnet_server.metrics import Metrics, Verdict
from linnet_server.protocol import Signature
from linnet_server.standalone import find_models
from linnet_server.tensors import TensorSpec

FEEDBACK = "/v2/models/defects/feedback"
INFER = "/v2/models/defects/infer"


@pytest.fixture
def revision(tmp_path):
    (tmp_path / "m.onnx").touch()
    (files,) = find_models({"m": tmp_path / "m.onnx"}, variant="onnx", threads=1)
    return Metrics().bind(files.record)


def counted(revision):
    return {verdict: revision.feedback[verdict].value for verdict in Verdict}


SCORES = np.array([[0.1, 0.7, 0.2]], np.float32)
LABEL = np.array([2], np.int64)


@pytest.mark.parametrize(
    ("output", "label", "verdict"),
    [
        pytest.param(SCORES, 1, "correct", id="argmax of floats"),
        pytest.param(SCORES, 2, "wrong", id="not the argmax"),
        pytest.param(LABEL, [2], "correct", id="a list of one"),
        pytest.param(LABEL, 2, "correct", id="integers as they are"),
        pytest.param(np.vstack([SCORES, SCORES]), [1, 1], "correct", id="a label a row"),
        pytest.param(np.vstack([SCORES, SCORES]), [1, 0], "wrong", id="one row wrong"),
        pytest.param(SCORES[0], 1, "correct", id="floats without rows"),
        pytest.param(np.eye(1, 5000, 4321, np.float32), 4321, "correct", id="a large output"),
    ],
)
def test_a_label_is_compared_with(revision, output, label, verdict):
    answers = RecentAnswers()
    answers.remember("a", revision, output)

    assert answers.judge("a", label=label, verdict=None) == verdict
    assert counted(revision)[Verdict(verdict)] == 1


@pytest.mark.parametrize(
    ("output", "feedback"),
    [
        pytest.param(SCORES, {"label": "1"}, id="label is a string"),
        pytest.param(SCORES, {"label": True}, id="label is a boolean"),
        pytest.param(SCORES, {"label": []}, id="no labels"),
        pytest.param(SCORES, {"label": [1, 1]}, id="more labels than rows"),
        pytest.param(SCORES, {}, id="neither label nor verdict"),
        pytest.param(SCORES, {"label": 1, "verdict": "wrong"}, id="both"),
        pytest.param(SCORES, {"verdict": "maybe"}, id="unknown verdict"),
        pytest.param(None, {"label": 1}, id="an output without labels"),
        pytest.param(np.zeros((100, 3), np.float32), {"label": [0] * 100}, id="too many rows"),
        pytest.param(np.zeros((0, 3), np.float32), {"label": 0}, id="no rows"),
    ],
)
def test_feedback_that_does_not_fit_is_refused_and_not_counted(revision, output, feedback):
    answers = RecentAnswers()
    answers.remember("a", revision, output)

    with pytest.raises(BadRequestError):
        answers.judge("a", label=feedback.get("label"), verdict=feedback.get("verdict"))
    assert counted(revision) == {Verdict.CORRECT: 0, Verdict.WRONG: 0}


def test_an_answer_is_judged_once(revision):
    answers = RecentAnswers()
    answers.remember("a", revision, SCORES)

    first = answers.judge("a", label=None, verdict="wrong")
    again = answers.judge("a", label=None, verdict="correct")
    by_label = answers.judge("a", label=1, verdict=None)

    assert (first, again, by_label) == ("wrong", "wrong", "wrong")
    assert counted(revision) == {Verdict.CORRECT: 0, Verdict.WRONG: 1}


def test_the_oldest_answers_are_forgotten(revision):
    answers = RecentAnswers(capacity=3)
    for name in "abcad":
        answers.remember(name, revision, SCORES)

    assert len(answers) == 3
    assert answers.judge("a", label=1, verdict=None) == "correct"
    with pytest.raises(NotFoundError):
        answers.judge("b", label=1, verdict=None)


def test_integers_of_all_sizes_are_labels():
    assert read_labels(np.array([[3], [250]], np.uint8)) == [3, 250]


@pytest.mark.parametrize(
    ("datatypes", "label_at"),
    [
        pytest.param(["FP32", "INT64"], 1, id="int64 before floats"),
        pytest.param(["BYTES", "FP32", "FP64"], 1, id="the first of floats"),
        pytest.param(["BYTES", "BOOL"], None, id="neither"),
    ],
)
def test_the_label_is_in(datatypes, label_at):
    outputs = [TensorSpec(f"y{n}", datatype, (1,)) for n, datatype in enumerate(datatypes)]

    assert Signature([], outputs).want_all(binary=False).label_at == label_at


async def test_feedback_counts_under_the_revision_that_answered(node, models, open_bench):
    node.set_current(node.add(models.adder(1)))
    second = node.add(models.adder(2), revision="r2")
    x = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0, 9, 0, 0]}
    async with open_bench() as bench:
        await bench.client.post(INFER, json={"id": "old", "inputs": [x]})
        await bench.activate(second)

        wrong = await bench.client.post(FEEDBACK, json={"id": "old", "label": 3})
        unknown = await bench.client.post(FEEDBACK, json={"id": "never", "label": 3})
        nothing = await bench.client.post(FEEDBACK, json={"label": 3})

        assert (wrong.status_code, wrong.json()) == (200, {"id": "old", "verdict": "wrong"})
        assert (unknown.status_code, nothing.status_code) == (404, 400)
        samples = await bench.samples()
        counts = {
            name.split('revision="')[1][:2]: value
            for name, value in samples.items()
            if name.startswith("linnet_inference_feedback_total") and 'verdict="wrong"' in name
        }
        assert counts == {"r1": "1.0", "r2": "0.0"}
