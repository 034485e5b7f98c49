"""The gRPC address of a real server process: deadlines, refusals, counts, swaps, a clean end."""

import asyncio
import contextlib

import grpc
import pytest

from linnet_server import public_grpc
from linnet_server.access import Access
from linnet_server.budget import HELD_BODIES, BodyBudget
from linnet_server.dataplane import DataPlane, number_ids
from linnet_server.inference_pb2 import ModelInferRequest, ModelInferResponse

pytestmark = pytest.mark.slow

FOR_EVER = 2**40


def count_to(n, name="defects"):
    message = ModelInferRequest(model_name=name)
    message.inputs.add(name="n", datatype="INT64", shape=[]).contents.int64_contents.append(n)
    return message


def add_to_zero():
    message = ModelInferRequest(model_name="defects")
    x = message.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    x.contents.fp32_contents.extend([0, 0, 0, 0])
    return message


@contextlib.asynccontextmanager
async def connect(server):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.ports[1]}") as channel:
        yield channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=ModelInferRequest.SerializeToString,
            response_deserializer=ModelInferResponse.FromString,
        )


@contextlib.contextmanager
def refusal(code):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield caught
    assert caught.value.code() is code, caught.value


def trailing(error):
    return dict(error.trailing_metadata() or ())


def failures(server):
    with server.client() as client:
        lines = client.get("/metrics").text.splitlines()
    ours = [one for one in lines if one.startswith("linnet_inference_requests_total")]
    return sum(float(one.rsplit(" ", 1)[1]) for one in ours if 'outcome="failure"' in one)


async def test_a_clients_deadline_stops_the_run(node, models, start_server):
    node.set_current(node.add(models.looper))
    server = start_server(node.root, "--grpc", "127.0.0.1:0")
    async with connect(server) as infer:
        with refusal(grpc.StatusCode.DEADLINE_EXCEEDED):
            await infer(count_to(FOR_EVER), timeout=0.3)
        # The run was told to stop, so its place is free again.
        answer = await infer(count_to(1), timeout=20)
        assert answer.parameters["revision"].string_param == "r1"


async def test_a_full_queue_is_unavailable_and_says_when_to_come_again(node, models, start_server):
    node.set_current(node.add(models.looper))
    server = start_server(node.root, "--grpc", "127.0.0.1:0", "--max-queue", "0")
    async with connect(server) as infer:
        running = asyncio.ensure_future(infer(count_to(FOR_EVER), timeout=60))
        told = {}
        while not told:  # until the first one runs
            try:
                await infer(count_to(FOR_EVER), timeout=0.5)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    told = trailing(error)
        running.cancel()
    assert told["retry-after"] == "1"
    assert told["linnet-revision"] == "r1"


async def test_a_failing_model_is_internal_and_counted(node, models, start_server):
    node.set_current(node.add(models.lookup(3)))
    server = start_server(node.root, "--grpc", "127.0.0.1:0")
    message = ModelInferRequest(model_name="defects")
    message.inputs.add(name="i", datatype="INT64", shape=[1]).contents.int64_contents.append(99)
    async with connect(server) as infer:
        with refusal(grpc.StatusCode.INTERNAL) as caught:
            await infer(message, timeout=20)
        assert trailing(caught.value)["linnet-model-digest"]
    assert failures(server) == 1


async def test_a_message_above_the_limit_never_reaches_the_model(node, models, start_server):
    node.set_current(node.add(models.adder(1)))
    server = start_server(node.root, "--grpc", "127.0.0.1:0", "--max-body-bytes", "1024")
    message = add_to_zero()
    message.parameters["much"].string_param = "x" * (1 << 20)
    async with connect(server) as infer:
        with refusal(grpc.StatusCode.RESOURCE_EXHAUSTED):
            await infer(message, timeout=20)
        assert (await infer(add_to_zero(), timeout=20)).model_version == "r1"


async def test_a_swap_fails_no_request(node, models, start_server):
    node.set_current(node.add(models.adder(1)))
    second = node.add(models.adder(2), revision="r2")
    server = start_server(node.root, "--grpc", "127.0.0.1:0")
    seen = []
    enough = asyncio.Event()
    done = asyncio.Event()

    async def ask(infer):
        while not done.is_set():
            seen.append((await infer(add_to_zero(), timeout=20)).model_version)
            if len(seen) >= 20:
                enough.set()

    def swap():
        with server.agent() as agent:
            path = "/control/models/factory/defects"
            agent.put(f"{path}/staged", json={"path": str(second)}).raise_for_status()
            node.set_current(second)
            agent.post(f"{path}/activate", json={"revision": "r2"}).raise_for_status()

    async with connect(server) as infer:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(4):
                tasks.create_task(ask(infer))
            await enough.wait()
            await asyncio.to_thread(swap)
            done.set()
        assert (await infer(add_to_zero(), timeout=20)).model_version == "r2"
    assert "r1" in seen


async def test_a_request_under_way_ends_before_the_server_does(node, models, start_server):
    node.set_current(node.add(models.looper))
    server = start_server(node.root, "--grpc", "127.0.0.1:0")
    async with connect(server) as infer:
        asked = asyncio.ensure_future(infer(count_to(20_000), timeout=60))
        await asyncio.wait({asked}, timeout=0.2)
        code = await asyncio.to_thread(server.stop)
        assert (await asked).model_version == "r1"
    assert code == 0


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\xff" * 50, id="noise"),
        pytest.param(b"\x0a\x7f", id="truncated"),
        pytest.param(b"\x0a\x01\xff", id="a name that is not UTF-8"),
        pytest.param(b"\xa3\x06" * 100_000 + b"\xa4\x06" * 100_000, id="100,000 groups deep"),
    ],
)
async def test_what_is_no_message_is_the_clients_fault(node, models, start_server, raw):
    node.set_current(node.add(models.adder(1)))
    server = start_server(node.root, "--grpc", "127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.ports[1]}") as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with refusal(grpc.StatusCode.INVALID_ARGUMENT):
            await infer(raw, timeout=20)


@contextlib.asynccontextmanager
async def listen(bench):
    """A listener in this process, for what a real one takes minutes for."""
    listener = public_grpc.GrpcListener(
        DataPlane(bench.catalog, deadline_s=10, new_id=number_ids("a")),
        address="127.0.0.1:0",
        max_body_bytes=1024,
        budget=BodyBudget(1024),
        stopping=bench.stopping,
        access=Access(None, None, None),
        access_log=False,
    )
    await listener.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{listener.port}") as channel:
        yield channel
    await listener.stop(1.0)


async def say_nothing():
    await asyncio.Event().wait()
    yield b""


def infer_over(channel):
    return channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=ModelInferRequest.SerializeToString,
        response_deserializer=ModelInferResponse.FromString,
    )


async def test_a_call_that_never_says_its_message_holds_up_nobody_and_ends(
    node, models, open_bench, monkeypatch
):
    monkeypatch.setattr(public_grpc, "CONNECTION_AGE_S", 1)
    monkeypatch.setattr(public_grpc, "CONNECTION_GRACE_S", 1)
    node.set_current(node.add(models.adder(1)))

    async with open_bench() as bench, listen(bench) as channel:
        call = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")(say_nothing())
        infer = infer_over(channel)
        assert (await infer(add_to_zero(), timeout=20)).model_version == "r1"
        async with asyncio.timeout(60):
            with pytest.raises(grpc.aio.AioRpcError):
                await call
        assert (await infer(add_to_zero(), timeout=20, wait_for_ready=True)).model_version


async def test_one_call_too_many_is_refused_until_another_ends(
    node, models, open_bench, monkeypatch
):
    monkeypatch.setattr(public_grpc, "MAX_CALLS", 1)
    node.set_current(node.add(models.adder(1)))

    async with open_bench() as bench, listen(bench) as channel, asyncio.timeout(60):
        infer = infer_over(channel)
        codes = set()
        while codes != {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}:
            calls = [infer(add_to_zero(), timeout=20) for _ in range(8)]
            codes = {await call.code() for call in calls}
        while await infer(add_to_zero(), timeout=20).code() is not grpc.StatusCode.OK:
            pass


async def test_messages_and_bodies_that_are_here_at_once_are_bounded_together(
    node, models, start_server
):
    node.set_current(node.add(models.looper))
    node.set_current(node.add(models.adder(1), deployment="small"))
    limit = 1 << 20
    server = start_server(node.root, "--grpc", "127.0.0.1:0", "--max-body-bytes", str(limit))
    large = count_to(FOR_EVER)
    large.parameters["much"].string_param = "x" * (limit - 100)
    small = add_to_zero()
    small.model_name = "small"
    async with connect(server) as infer:
        held = [asyncio.ensure_future(infer(large, timeout=120)) for _ in range(HELD_BODIES)]
        told = None
        while told is None:  # until all of them are there
            for at, one in enumerate(held):
                if one.done():  # it came after the one that looks, and was itself one too many
                    held[at] = asyncio.ensure_future(infer(large, timeout=120))
            try:
                await infer(large, timeout=0.5)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    told = error
        with server.client() as client:
            body = b"x" * (limit - 100)
            refused = await asyncio.to_thread(client.post, "/v2/models/small/infer", content=body)
            ready = await asyncio.to_thread(client.get, "/v2/health/ready")
        answer = await infer(small, timeout=20)
        for one in held:
            one.cancel()
        await asyncio.wait(held)
        large.inputs[0].contents.int64_contents[0] = 1
        again = None
        while again is None:  # until their places are free
            with contextlib.suppress(grpc.aio.AioRpcError):
                again = await infer(large, timeout=20)

    assert trailing(told)["retry-after"] == "1"
    assert "too many bytes" in told.details()
    assert (refused.status_code, ready.status_code) == (503, 200)
    assert answer.model_version == "r1"
    assert again.model_version == "r1"
