"""The gRPC address and clients that mean no good: no gRPC, claims, bombs, messages without end."""

import asyncio
import contextlib
import re
import socket
from pathlib import Path

import grpc
import pytest

from linnet_server.inference_pb2 import ModelInferRequest, ServerLiveResponse

pytestmark = pytest.mark.slow

SERVICE = "/inference.GRPCInferenceService/"
LIMIT = 1 << 20
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, SETTINGS, DATA = 1, 4, 0
END_HEADERS = 4


def frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def call_of(method):
    """The head of a call on stream 1, its fields spelled out."""
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", (SERVICE + method).encode()),
        (b":authority", b"x"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ]
    block = b"".join(
        b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in fields
    )
    return PREFACE + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, END_HEADERS, 1, block)


def is_live(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.ports[1]}") as channel:
        answer = channel.unary_unary(f"{SERVICE}ServerLive")(b"", timeout=20)
    return ServerLiveResponse.FromString(answer).live


def peak_mib(server):
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024


@pytest.fixture
def server(node, models, start_server):
    node.set_current(node.add(models.adder(1)))
    return start_server(node.root, "--grpc", "127.0.0.1:0", "--max-body-bytes", str(LIMIT))


NOISE = {
    "HTTP/1.1": b"POST /v2/models/defects/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100,
    "noise": bytes(range(256)) * 8,
    "noise behind the preface": PREFACE + bytes(range(256)) * 8,
    "a frame that is too long": PREFACE
    + frame(SETTINGS, 0, 0, b"")
    + b"\xff\xff\xff\0\0\0\0\0\1"
    + b"x" * 100_000,
    "a head that is none": PREFACE
    + frame(SETTINGS, 0, 0, b"")
    + frame(HEADERS, END_HEADERS, 1, b"\xff" * 50),
    "data of no call": PREFACE + frame(SETTINGS, 0, 0, b"") + frame(DATA, 0, 7, b"x" * 50) * 20,
}


def send(server, raw):
    """Return when the server has closed the connection."""
    address = ("127.0.0.1", int(server.ports[1]))
    with (
        socket.create_connection(address, timeout=20) as client,
        contextlib.suppress(ConnectionError),
    ):
        client.sendall(raw)
        with contextlib.suppress(OSError):  # it may have gone already
            client.shutdown(socket.SHUT_WR)
        while client.recv(1 << 16):
            pass


def test_what_is_no_grpc_is_let_go_and_the_next_one_served(server):
    for raw in NOISE.values():
        send(server, raw)

        assert is_live(server)
    assert server.process.poll() is None


def test_a_claim_of_two_gigabytes_is_refused_at_its_first_bytes(server):
    before = peak_mib(server)
    claim = b"\0" + (2**31 - 1).to_bytes(4) + b"x" * 100
    with socket.create_connection(("127.0.0.1", int(server.ports[1])), timeout=20) as client:
        client.sendall(call_of("ModelInfer") + frame(DATA, 0, 1, claim))
        kinds = []
        with client.makefile("rb") as answer:
            while HEADERS not in kinds:
                head = answer.read(9)
                assert len(head) == 9, "closed without a word"
                kinds.append(head[3])
                answer.read(int.from_bytes(head[:3]))

    assert is_live(server)
    assert peak_mib(server) - before < 64


@pytest.mark.parametrize("coding", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_bomb_does_not_take_the_memory(server, coding):
    before = peak_mib(server)
    with grpc.insecure_channel(f"127.0.0.1:{server.ports[1]}") as channel:
        infer = channel.unary_unary(f"{SERVICE}ModelInfer")
        with pytest.raises(grpc.RpcError) as refused:
            infer(b"\0" * (512 << 20), timeout=60, compression=coding)

    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert is_live(server)
    assert peak_mib(server) - before < 64


def test_a_message_may_come_compressed(server):
    message = ModelInferRequest(model_name="defects")
    x = message.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    x.contents.fp32_contents.extend([0, 0, 0, 0])
    with grpc.insecure_channel(f"127.0.0.1:{server.ports[1]}") as channel:
        infer = channel.unary_unary(f"{SERVICE}ModelInfer")
        assert infer(message.SerializeToString(), timeout=20, compression=grpc.Compression.Gzip)


async def test_who_has_no_token_is_refused_before_a_message(node, models, start_server, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("a-token-that-is-long-enough-to-be-one\n")
    node.set_current(node.add(models.adder(1)))
    server = start_server(node.root, "--grpc", "127.0.0.1:0", "--token-file", str(tokens))
    never = asyncio.Event()

    async def say_nothing():
        await never.wait()
        yield b""

    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.ports[1]}") as channel:
        call = channel.stream_unary(f"{SERVICE}ModelInfer")(say_nothing(), timeout=20)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call

    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
