"""One exchange at a time, against servers that do as they are told."""

import asyncio
import contextlib
import socket
import sys
import threading
import time
import traceback

import pytest

from linnet_agent.errors import SourceNotFoundError
from linnet_agent.fetch.throttle import Throttle
from linnet_agent.fetch.transport import Limits, TransientError, Transport

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
QUICK = Limits(connect_s=5.0, silence_s=0.3, window_s=0.3, min_bytes_per_s=100_000)


class Server:
    """Does with each connection what its script says, and counts."""

    def __init__(self, script):
        self.script = script
        self.heads = []
        self.connections = 0

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/x"
        self._tasks = set()
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        self.connections += 1
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                    if await self.script(writer) != "again":
                        break
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


def says(*pieces, pause_s=0.0, then=None):
    async def script(writer):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)
        return then

    return script


async def for_ever(_writer):
    await asyncio.Event().wait()


def read(answer):
    return answer.status, answer.read_all(max_bytes=1 << 20)


@pytest.fixture
async def transport():
    made = Transport()
    yield made
    await made.aclose()


@pytest.fixture
async def impatient():
    made = Transport(limits=QUICK)
    yield made
    await made.aclose()


@pytest.mark.parametrize(
    "response",
    [
        pytest.param(OK, id="a length"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\nhello", id="until the end"),
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\nhello", id="HTTP/1.0"),
        pytest.param(
            CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
            id="chunks",
        ),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + OK, id="after a 100"),
    ],
)
@pytest.mark.parametrize("in_pieces", [False, True])
async def test_a_body_is_read_however_it_is_framed(transport, response, in_pieces):
    pieces = [response[n : n + 1] for n in range(len(response))] if in_pieces else [response]
    async with Server(says(*pieces)) as server:
        assert await transport.send(server.url, receive=read) == (200, b"hello")


@pytest.mark.parametrize(
    "response",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Len", id="half a head"),
        pytest.param(OK[:-1], id="a byte too few"),
        pytest.param(CHUNKED + b"5\r\nhel", id="half a chunk"),
        pytest.param(CHUNKED + b"5\r\nhello\r\n", id="no end"),
        pytest.param(CHUNKED + b"zz\r\nhello\r\n", id="no chunk"),
        pytest.param(b"SSH-2.0-x\r\n", id="another protocol"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 500, id="500 headers"),
        pytest.param(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000, id="a header without end"),
        pytest.param(b"HTTP/1.1 999999 OK\r\n\r\n", id="no status"),
    ],
)
async def test_a_broken_answer_is_a_transient_error(transport, response):
    async with Server(says(response)) as server:
        with pytest.raises(TransientError):
            await transport.send(server.url, receive=read)


async def test_nobody_there_is_a_transient_error(transport):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    with pytest.raises(TransientError, match="refused"):
        await transport.send(f"http://127.0.0.1:{port}/x", receive=read)


async def test_silence_is_a_transient_error(impatient):
    async with Server(for_ever) as server:
        with pytest.raises(TransientError, match="silent"):
            await impatient.send(server.url, receive=read)


@pytest.mark.slow
@pytest.mark.parametrize(
    "response",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + b"x" * 500, id="body"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 500, id="head"),
        pytest.param(
            CHUNKED + b"1\r\nx\r\n" * 99,
            id="chunks",
        ),
    ],
)
async def test_a_server_that_drips_is_a_transient_error(impatient, response):
    drips = [response[n : n + 1] for n in range(len(response))]
    async with Server(says(*drips, pause_s=0.02)) as server:
        with pytest.raises(TransientError, match=r"only .* bytes came"):
            await impatient.send(server.url, receive=read)


async def test_a_reader_that_takes_its_time_is_not_the_servers_fault(impatient):
    done = threading.Event()

    def slowly(answer):
        view = memoryview(bytearray(1))
        content = b""
        while answer.read_into(view):
            content += bytes(view)
            done.wait(0.15)
        return content

    async with Server(says(OK)) as server:
        assert await impatient.send(server.url, receive=slowly) == b"hello"


@pytest.mark.parametrize(
    "where",
    [
        pytest.param(for_ever, id="before the head"),
        pytest.param(
            says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", pause_s=99), id="in the body"
        ),
    ],
)
async def test_a_cancelled_exchange_ends_at_once_and_its_worker_before_it(transport, where):
    workers_done = threading.Event()
    reading = asyncio.Event()
    loop = asyncio.get_running_loop()

    def receive(answer):
        try:
            return answer.read_all(max_bytes=100)
        finally:
            workers_done.set()

    async with Server(where) as server:
        sending = asyncio.ensure_future(
            transport.send(server.url, receive=receive, pulse=reading.set)
        )
        await asyncio.wait_for(reading.wait(), 10)
        begun = loop.time()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending

        assert loop.time() - begun < 5
        assert workers_done.is_set() == (where is not for_ever)
        assert not [t for t in threading.enumerate() if t.name.startswith("fetch") and _is_busy(t)]


def _is_busy(thread):
    """Return true where a worker is still inside an exchange."""
    frame = sys._current_frames().get(thread.ident)
    return frame is not None and any(
        entry.name == "run" and entry.filename.endswith("wire.py")
        for entry in traceback.extract_stack(frame)
    )


async def test_a_cancelled_connect_ends_at_once():
    with socket.create_server(("127.0.0.1", 0), backlog=1) as full:
        # A full backlog: further connections hang, as they do when a packet filter drops them.
        taken = [socket.socket() for _ in range(4)]
        for one in taken:
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                one.connect(full.getsockname())
        transport = Transport(limits=Limits(connect_s=30.0))
        started = asyncio.Event()
        sending = asyncio.ensure_future(
            transport.send(
                f"http://127.0.0.1:{full.getsockname()[1]}/x", receive=read, pulse=started.set
            )
        )
        await asyncio.wait_for(started.wait(), 10)
        begun = time.monotonic()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        for one in taken:
            one.close()
        await transport.aclose()

    assert time.monotonic() - begun < 10


async def test_a_connection_is_used_again_after_an_answer_was_read(transport):
    async with Server(says(OK, then="again")) as server:
        for _ in range(5):
            await transport.send(server.url, receive=read)

        assert server.connections == 1


async def test_a_small_no_does_not_cost_a_connection(transport):
    no = OK.replace(b"200 OK", b"404 Not Found")
    async with Server(says(no, then="again")) as server:
        assert await transport.send(server.url, receive=lambda answer: answer.status) == 404
        with pytest.raises(SourceNotFoundError):
            await transport.send(server.url, receive=_refuse)
        await transport.send(server.url, receive=read)

        assert server.connections == 1


def _refuse(_answer):
    raise SourceNotFoundError("no")


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(says(OK), id="closed by the server"),
        pytest.param(says(b"HTTP/1.1 200 OK\r\n\r\nhello"), id="read to its end"),
        pytest.param(
            says(OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"), then="again"), id="said so"
        ),
    ],
)
async def test_a_connection_that_cannot_serve_again_is_not_asked(transport, script):
    async with Server(script) as server:
        for _ in range(3):
            assert await transport.send(server.url, receive=read) == (200, b"hello")

        assert server.connections == 3


async def test_a_connection_serves_only_those_who_may_go_where_it_leads(transport):
    async with Server(says(OK, then="again")) as server:
        await transport.send(server.url, receive=read, anywhere=True)
        await transport.send(server.url, receive=read, loopback=True)
        with pytest.raises(SourceNotFoundError, match="refused"):
            await transport.send(server.url, receive=read, loopback=False)

        assert len(server.heads) == 2


async def test_only_so_many_connections_are_open_to_one_host():
    open_now, most = 0, 0
    gate = asyncio.Event()

    async def script(writer):
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        if open_now == 3:
            gate.set()
        await gate.wait()
        writer.write(OK)
        await writer.drain()
        open_now -= 1
        return "again"

    transport = Transport(connections_per_host=3)
    async with Server(script) as server:
        await asyncio.gather(*(transport.send(server.url, receive=read) for _ in range(12)))
        await transport.aclose()

        assert most == 3
        assert server.connections <= 3


@pytest.mark.slow
async def test_the_byte_rate_is_kept():
    body = b"x" * 100_000
    transport = Transport(throttle=Throttle(200_000))
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"
    async with Server(says(head + body)) as server:
        begun = time.monotonic()
        assert await transport.send(server.url, receive=read) == (200, body)
        took = time.monotonic() - begun
        await transport.aclose()

    assert took >= 0.25


async def test_a_document_that_is_too_large_is_refused(transport):
    async with Server(says(OK)) as server:
        with pytest.raises(SourceNotFoundError, match="larger than 4"):
            await transport.send(server.url, receive=lambda answer: answer.read_all(max_bytes=4))


async def test_the_address_that_was_judged_is_the_one_that_is_connected_to():
    looked_up = []

    async def rebinding(host, port):
        looked_up.append(host)
        address = "127.0.0.1" if len(looked_up) == 1 else "169.254.169.254"
        return [(socket.AF_INET, address, port)]

    transport = Transport(resolve=rebinding)
    async with Server(says(OK)) as server:
        url = server.url.replace("127.0.0.1", "rebinding.example")
        assert await transport.send(url, receive=read) == (200, b"hello")
        with pytest.raises(SourceNotFoundError, match="refused"):
            await transport.send(url, receive=read)
        await transport.aclose()

        assert looked_up == ["rebinding.example"] * 2
        assert server.connections == 1


async def test_the_next_address_is_tried_where_one_does_not_answer():
    with socket.create_server(("127.0.0.1", 0)) as free:
        dead = free.getsockname()[1]

    async def two(_host, port):
        return [(socket.AF_INET, "127.0.0.1", dead), (socket.AF_INET, "127.0.0.1", port)]

    transport = Transport(resolve=two)
    async with Server(says(OK)) as server:
        assert await transport.send(server.url, receive=read) == (200, b"hello")
        await transport.aclose()


async def test_a_name_that_cannot_be_looked_up_is_a_transient_error(transport):
    with pytest.raises(TransientError, match="resolved"):
        await transport.send("http://no-such-host.invalid/x", receive=read)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1/x",
        "http:///x",
        "http://127.0.0.1:99999/x",
        "http://[::1/x",
        "/x",
        "",
    ],
)
async def test_what_is_no_address_is_refused(transport, url):
    with pytest.raises(SourceNotFoundError, match="refused"):
        await transport.send(url, receive=read)


async def test_an_address_cannot_smuggle_headers(transport):
    async with Server(says(OK, then="again")) as server:
        with pytest.raises(SourceNotFoundError, match="no address"):
            await transport.send(f"{server.url} HTTP/1.1\u0085X: y", receive=read)
        with pytest.raises(SourceNotFoundError, match="no address"):
            await transport.send(f"{server.url}/\x7f y", receive=read)

        assert server.heads == []


async def test_nothing_of_the_environment_is_asked_or_told(transport, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with Server(says(OK)) as server:
        await transport.send(server.url, receive=read)

        assert sorted(server.heads[0].decode().lower().split("\r\n")) == [
            "",
            "",
            "accept-encoding: identity",
            "get /x http/1.1",
            f"host: 127.0.0.1:{server.port}",
            "user-agent: linnet-agent",
        ]
