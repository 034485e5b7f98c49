"""How long an answer may take: the server says, and the client, in two ways; the least counts."""

import asyncio

import pytest

from linnet_server import inference_pb2 as pb
from linnet_server.errors import BadRequestError
from linnet_server.protocol import parse_infer
from linnet_server.protocol_grpc import parse_infer_message
from linnet_server.sessions import load_session

INFER = "/v2/models/defects/infer"
BAD = [
    pytest.param(-1, id="negative"),
    pytest.param(True, id="a boolean"),
    pytest.param("100", id="text"),
    pytest.param(0.5, id="no whole number"),
]


def number(n, **parameters):
    return {
        "inputs": [{"name": "n", "datatype": "INT64", "shape": [], "data": [n]}],
        "parameters": parameters,
    }


def message(name, value):
    question = pb.ModelInferRequest(model_name="m")
    question.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    question.raw_input_contents.append(bytes(16))
    setattr(question.parameters["timeout"], name, value)
    return question


@pytest.mark.slow
async def test_a_run_beyond_the_requests_timeout_is_ended(node, models, open_bench):
    node.set_current(node.add(models.looper))
    async with open_bench(deadline_s=60.0) as bench, asyncio.timeout(20):
        answer = await bench.client.post(INFER, json=number(2**62, timeout=100_000))

    assert answer.status_code == 504
    assert "0.1 s" in answer.json()["error"]


@pytest.mark.slow
async def test_who_gives_up_counts_whether_it_had_said_when_or_not(node, models, open_bench):
    """Else a model that has become too slow for its clients would look like one nobody asks."""
    node.set_current(node.add(models.looper))
    async with open_bench(deadline_s=60.0) as bench, asyncio.timeout(20):
        await bench.client.post(INFER, json=number(2**62, timeout=100_000))
        hangs_up = asyncio.ensure_future(bench.client.post(INFER, json=number(2**62)))
        (loaded,) = (deployment.active for deployment in bench.catalog._deployments.values())
        while not loaded.holders:
            await asyncio.wait([hangs_up], timeout=0.01)
        hangs_up.cancel()
        await asyncio.wait([hangs_up])
        assert await bench.outcomes() == {"success": 0, "failure": 2, "rejected": 0}


@pytest.mark.slow
async def test_a_request_cannot_wait_longer_than_the_server_lets_it(node, models, open_bench):
    node.set_current(node.add(models.looper))
    async with open_bench(deadline_s=0.1) as bench, asyncio.timeout(20):
        answer = await bench.client.post(INFER, json=number(2**62, timeout=60_000_000))

    assert answer.status_code == 504


async def test_a_timeout_of_zero_is_none(node, models, open_bench):
    node.set_current(node.add(models.looper))
    async with open_bench() as bench:
        assert (await bench.client.post(INFER, json=number(1, timeout=0))).status_code == 200


@pytest.mark.parametrize("value", BAD)
async def test_a_timeout_that_is_no_count_of_microseconds_is_refused(
    node, models, open_bench, value
):
    node.set_current(node.add(models.looper))
    async with open_bench() as bench:
        assert (await bench.client.post(INFER, json=number(1, timeout=value))).status_code == 400


@pytest.mark.parametrize("name", ["int64_param", "uint64_param"])
def test_a_timeout_comes_over_grpc_too(models, tmp_path, name):
    models.adder(1)(tmp_path / "m.onnx")
    signature = load_session(tmp_path / "m.onnx", variant="onnx", threads=1).signature

    assert parse_infer_message(message(name, 250_000), signature).timeout_s == 0.25
    assert (
        parse_infer(
            b'{"parameters": {"timeout": 250000}, "inputs": '
            b'[{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0, 0, 0, 0]}]}',
            json_bytes=None,
            signature=signature,
        ).timeout_s
        == 0.25
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("int64_param", -1, id="negative"),
        pytest.param("bool_param", True, id="a boolean"),
        pytest.param("string_param", "100", id="text"),
        pytest.param("double_param", 0.5, id="no whole number"),
    ],
)
def test_a_timeout_over_grpc_that_is_no_count_is_refused(models, tmp_path, name, value):
    models.adder(1)(tmp_path / "m.onnx")
    signature = load_session(tmp_path / "m.onnx", variant="onnx", threads=1).signature

    with pytest.raises(BadRequestError):
        parse_infer_message(message(name, value), signature)
