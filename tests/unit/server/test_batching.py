"""Requests that run as one: which may, when they start, and what one cannot do to others."""

import asyncio
import threading

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from linnet_server.batching import BatchingLane, BatchLimits, can_batch
from linnet_server.errors import (
    DeadlineExceededError,
    ModelFailedError,
    NotReadyError,
    OverloadedError,
)
from linnet_server.sessions import load_session

LONG_S = 60.0
"""A delay that no test sees the end of."""


class GatedSession:
    """y = x + 1; each run waits for `gate` and is written down; a negative x cannot be run."""

    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()
        self.runs = []
        self.options = []
        self.started = threading.Semaphore(0)

    def run(self, feeds, names, options):
        x = feeds["x"]
        self.runs.append(x.reshape(-1).tolist())
        self.options.append(options)
        self.started.release()
        assert self.gate.wait(10)
        if (x < 0).any():
            raise ModelFailedError("a negative x")
        return [x + 1 for _ in names]

    async def wait_started(self, count=1):
        for _ in range(count):
            await asyncio.to_thread(self.started.acquire)


class Rows(list):
    """The rows of each batch."""

    def __call__(self, rows):
        self.append(rows)


def lane_of(session, *, max_rows=4, delay_s=LONG_S, instances=1, max_queue=16, rows=None):
    return BatchingLane(
        session,
        BatchLimits(max_rows=max_rows, delay_s=delay_s),
        instances=instances,
        max_queue=max_queue,
        observe_rows=Rows() if rows is None else rows,
    )


def ask(lane, *values, names=("y",), deadline_s=20.0, width=1):
    x = np.array(values, np.float32).reshape(-1, width)
    run = lane.run({"x": x}, names, elements=x.size, deadline_s=deadline_s)
    return asyncio.ensure_future(run)


async def answers_of(*asks):
    return [answer[0].reshape(-1).tolist() for answer in await asyncio.gather(*asks)]


async def test_a_full_batch_starts_at_once_and_each_gets_its_rows_back():
    session, rows = GatedSession(), Rows()
    lane = lane_of(session, rows=rows)

    answers = await answers_of(ask(lane, 1), ask(lane, 2, 3), ask(lane, 4))

    assert answers == [[2], [3, 4], [5]]
    assert session.runs == [[1, 2, 3, 4]]
    assert rows == [4]


async def test_a_batch_that_does_not_fill_starts_when_its_oldest_has_waited():
    session = GatedSession()
    lane = lane_of(session, delay_s=0.001)

    answers = await answers_of(ask(lane, 1), ask(lane, 2))

    assert answers == [[2], [3]]
    assert session.runs == [[1, 2]]


async def test_without_a_delay_only_what_has_piled_up_goes_together():
    session = GatedSession()
    session.gate.clear()
    lane = lane_of(session, delay_s=0.0)
    first = ask(lane, 1)
    await session.wait_started()
    later = [ask(lane, 2), ask(lane, 3)]
    await asyncio.sleep(0)
    waiting = lane.waiting

    session.gate.set()

    assert await answers_of(first, *later) == [[2], [3], [4]]
    assert waiting == 2
    assert lane.waiting == 0
    assert session.runs == [[1], [2, 3]]


async def test_a_request_that_fails_alone_does_not_fail_its_neighbours():
    session = GatedSession()
    lane = lane_of(session, max_rows=3)

    good, bad, other = ask(lane, 1), ask(lane, -5), ask(lane, 3)

    with pytest.raises(ModelFailedError):
        await bad
    assert await answers_of(good, other) == [[2], [4]]
    assert session.runs == [[1, -5, 3], [1], [-5], [3]]


async def test_other_outputs_or_other_shapes_are_other_batches():
    session = GatedSession()
    lane = lane_of(session, max_rows=2, delay_s=0.0, max_queue=16)
    session.gate.clear()
    first = ask(lane, 0)
    await session.wait_started()
    asks = [
        ask(lane, 1),
        ask(lane, 2, names=("y", "z")),
        ask(lane, 3, 4, width=2),
        ask(lane, 5),
        ask(lane, 6, names=("y", "z")),
    ]
    await asyncio.sleep(0)

    session.gate.set()

    assert await answers_of(first, *asks) == [[1], [2], [3], [4, 5], [6], [7]]
    assert session.runs == [[0], [1, 5], [2, 6], [3, 4]]


async def test_a_request_larger_than_a_batch_runs_alone():
    session = GatedSession()
    lane = lane_of(session, max_rows=2)

    assert await answers_of(ask(lane, 1, 2, 3, 4, 5)) == [[2, 3, 4, 5, 6]]


async def test_inputs_that_disagree_about_the_rows_run_alone():
    class Sum(GatedSession):
        def run(self, feeds, _names, _options):
            self.runs.append(sorted(array.shape[0] for array in feeds.values()))
            return [feeds["x"] + feeds["one"]]

    session = Sum()
    lane = lane_of(session)
    feeds = {"x": np.zeros((3, 1), np.float32), "one": np.ones((1, 1), np.float32)}

    (answer,) = await lane.run(feeds, ["y"], elements=4, deadline_s=20)

    assert answer.reshape(-1).tolist() == [1, 1, 1]
    assert session.runs == [[1, 3]]


async def test_a_model_that_does_not_answer_row_for_row_is_never_batched_again():
    class Mean(GatedSession):
        def run(self, feeds, names, options):
            super().run(feeds, names, options)
            return [feeds["x"].mean(axis=0, keepdims=True)]

    session = Mean()
    lane = lane_of(session, max_rows=2)

    first = await answers_of(ask(lane, 1), ask(lane, 3))
    second = await answers_of(ask(lane, 5), ask(lane, 7))

    assert first + second == [[1], [3], [5], [7]]
    assert session.runs == [[1, 3], [1], [3], [5], [7]]


async def test_what_waits_beyond_the_queue_is_refused_at_once():
    session = GatedSession()
    session.gate.clear()
    lane = lane_of(session, max_queue=2, delay_s=0.0)
    running = ask(lane, 0)
    await session.wait_started()
    waiting = [ask(lane, 1), ask(lane, 2)]
    await asyncio.sleep(0)

    with pytest.raises(OverloadedError):
        await ask(lane, 3)

    session.gate.set()
    assert await answers_of(running, *waiting) == [[1], [2], [3]]


async def test_a_request_that_is_too_late_leaves_its_batch():
    session = GatedSession()
    session.gate.clear()
    lane = lane_of(session, delay_s=0.0)
    running = ask(lane, 0)
    await session.wait_started()
    late = ask(lane, 1, deadline_s=0.01)
    patient = ask(lane, 2)

    with pytest.raises(DeadlineExceededError):
        await late
    session.gate.set()

    assert await answers_of(running, patient) == [[1], [3]]
    assert session.runs == [[0], [2]]


async def test_a_batch_is_stopped_when_nobody_waits_for_it_any_more():
    session = GatedSession()
    session.gate.clear()
    lane = lane_of(session, max_rows=2)
    early, late = ask(lane, 1, deadline_s=0.01), ask(lane, 2, deadline_s=0.2)
    await session.wait_started()

    with pytest.raises(DeadlineExceededError):
        await early
    stopped_while_one_waits = session.options[0].terminate
    with pytest.raises(DeadlineExceededError):
        await late

    assert not stopped_while_one_waits
    assert session.options[0].terminate
    session.gate.set()


async def test_a_lane_that_is_stopped_answers_everybody():
    session = GatedSession()
    session.gate.clear()
    lane = lane_of(session, delay_s=0.0)
    running = ask(lane, -1)
    await session.wait_started()
    waiting = ask(lane, 2)
    await asyncio.sleep(0)

    lane.stop()
    session.gate.set()

    for request in (running, waiting):
        with pytest.raises(NotReadyError):
            await request
    assert session.options[0].terminate


@pytest.mark.parametrize(
    ("build", "may"),
    [
        pytest.param(lambda m: m.adder(1), True, id="rows in and out"),
        pytest.param(lambda m: m.identity(TensorProto.FLOAT, (1, 4)), False, id="fixed"),
        pytest.param(lambda m: m.identity(TensorProto.FLOAT, (2, "M")), False, id="second only"),
        pytest.param(lambda m: m.looper, False, id="a scalar"),
    ],
)
def test_only_models_with_dynamic_rows_may_be_batched(models, tmp_path, build, may):
    build(models)(tmp_path / "m.onnx")
    session = load_session(tmp_path / "m.onnx", variant="onnx", threads=1)

    assert can_batch(session.signature) is may


def test_a_model_without_inputs_is_not_batched(models, tmp_path):
    models.save_model(
        tmp_path / "m.onnx",
        [helper.make_node("NonZero", ["c"], ["i"]), helper.make_node("Squeeze", ["i"], ["y"])],
        [],
        [helper.make_tensor_value_info("y", TensorProto.INT64, ["N"])],
        [numpy_helper.from_array(np.array([1.0, 2.0], np.float32), "c")],
    )
    session = load_session(tmp_path / "m.onnx", variant="onnx", threads=1)

    assert not can_batch(session.signature)


async def test_batches_are_answered_and_counted_through_the_whole_server(node, models, open_bench):
    node.set_current(node.add(models.adder(1)))
    async with open_bench(batch=BatchLimits(max_rows=4, delay_s=LONG_S)) as bench:
        documents = [
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [i] * 4}]}
            for i in range(4)
        ]
        answers = await asyncio.gather(
            *(bench.client.post("/v2/models/defects/infer", json=one) for one in documents)
        )
        samples = await bench.samples()

    assert [answer.json()["outputs"][0]["data"][0] for answer in answers] == [1, 2, 3, 4]
    labels = 'deployment="defects",namespace="factory",revision="r1",variant="onnx"'
    assert float(samples[f"linnet_batch_rows_sum{{{labels}}}"]) == 4
    assert float(samples[f"linnet_batch_rows_count{{{labels}}}"]) == 1


async def test_a_model_that_cannot_be_batched_is_served_as_ever(node, models, open_bench):
    node.set_current(node.add(models.looper))
    async with open_bench(batch=BatchLimits(max_rows=4, delay_s=LONG_S)) as bench:
        n = {"name": "n", "datatype": "INT64", "shape": [], "data": [1]}
        answer = await bench.client.post("/v2/models/defects/infer", json={"inputs": [n]})

    assert answer.status_code == 200, answer.text
