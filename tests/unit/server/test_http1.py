"""HTTP/1.1 over real sockets: right is answered in order, wrong ends the connection."""

import asyncio
import contextlib
import socket

import pytest

from linnet_server import budget, http1
from linnet_server.http1 import HttpListener, Response

LIMIT = 1000


class Service:
    """A listener whose answers say what it was asked."""

    def __init__(self):
        self.asked = []
        self.was_asked = asyncio.Event()
        self.gate = asyncio.Event()
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.listener = HttpListener(self.respond, self.sock, max_body_bytes=LIMIT)

    def respond(self, request):
        self.asked.append((request.method, request.path, request.body))
        self.was_asked.set()
        if request.path == "/slow":
            return self.answer_later()
        if request.path == "/much":
            return Response(200, b"x" * (64 << 20))
        return Response(200, request.path.encode())

    async def answer_later(self):
        await self.gate.wait()
        return Response(200, b"slow")

    async def connect(self):
        return await asyncio.open_connection("127.0.0.1", self.sock.getsockname()[1])

    async def send(self, raw):
        """Return all that comes back until the server closes."""
        reader, writer = await self.connect()
        writer.write(raw)
        async with asyncio.timeout(10):
            answer = await reader.read()
        writer.close()
        return answer


@pytest.fixture
async def service():
    service = Service()
    await service.listener.start()
    yield service
    service.gate.set()
    await service.listener.stop(1.0)


def get(path="/a", more="", version="1.1"):
    return f"GET {path} HTTP/{version}\r\nHost: x\r\n{more}\r\n".encode()


def last(path="/z"):
    return get(path, "Connection: close\r\n")


def bodies(raw):
    """Return the answers in ``raw`` as (status, body)."""
    found = []
    while raw:
        head, _, rest = raw.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(int(x.split(b":")[1]) for x in lines if x.startswith(b"content-length"))
        found.append((int(head.split()[1]), rest[:length]))
        raw = rest[length:]
    return found


async def test_pipelined_requests_are_answered_in_order(service):
    raw = await service.send(get("/1") + get("/2") + last("/3"))
    assert bodies(raw) == [(200, b"/1"), (200, b"/2"), (200, b"/3")]


async def test_what_comes_behind_a_slow_answer_waits_for_it(service):
    answer = asyncio.ensure_future(service.send(get("/slow") + last("/2")))
    await service.was_asked.wait()
    service.gate.set()
    assert bodies(await answer) == [(200, b"slow"), (200, b"/2")]


async def test_a_request_in_single_bytes(service):
    reader, writer = await service.connect()
    for (
        byte
    ) in b"POST /p%20q?x=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi":
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0)
    assert bodies(await reader.read()) == [(200, b"/p q")]
    assert service.asked == [("POST", "/p q", b"hi")]
    writer.close()


async def test_a_chunked_body(service):
    head = b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    raw = await service.send(head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    assert bodies(raw) == [(200, b"/c")]
    assert service.asked[0][2] == b"abcde"


async def test_head_has_the_length_and_no_body(service):
    raw = await service.send(b"HEAD /abc HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b"content-length: 4" in raw
    assert raw.endswith(b"\r\n\r\n")


async def test_an_old_client(service):
    assert bodies(await service.send(get(version="1.0"))) == [(200, b"/a")]
    raw = await service.send(get(more="Connection: keep-alive\r\n", version="1.0") + last())
    assert b"connection: keep-alive" in raw
    assert len(bodies(raw)) == 2


async def test_expect_100_continue(service):
    reader, writer = await service.connect()
    head = b"POST /e HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n"
    writer.write(head + b"Connection: close\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"ok")
    assert bodies(await reader.read()) == [(200, b"/e")]
    writer.close()


async def test_a_proxys_absolute_form_and_an_upgrade_that_is_not_taken_up(service):
    raw = await service.send(b"GET http://x/abs?y HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert bodies(raw) == [(200, b"/abs")]
    reader, writer = await service.connect()
    writer.write(get("/h2", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"))
    assert (await reader.readuntil(b"/h2")).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_an_encoded_slash_parts_nothing(service):
    await service.send(get("/a%2Fb%20c") + get("/a%2fb") + last("/a%20b"))
    assert [path for _, path, _ in service.asked] == ["/a%2Fb%20c", "/a%2fb", "/a b"]


UPGRADE = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"


@pytest.mark.parametrize("pieces", [1, 2, 7])
@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 11\r\n\r\nGET / HTTP/",
        b"Transfer-Encoding: chunked\r\n\r\nb\r\nGET / HTTP/\r\n0\r\n\r\n",
    ],
)
async def test_an_upgrade_is_declined_and_its_body_stays_a_body(service, body, pieces):
    raw = f"POST /up HTTP/1.1\r\nHost: x\r\n{UPGRADE}".encode() + body + get("/next") + last()
    reader, writer = await service.connect()
    size = -(-len(raw) // pieces)
    for start in range(0, len(raw), size):
        writer.write(raw[start : start + size])
        await asyncio.sleep(0.01)
    async with asyncio.timeout(10):
        assert [status for status, _ in bodies(await reader.read())] == [200] * 3
    writer.close()
    assert service.asked == [
        ("POST", "/up", b"GET / HTTP/"),
        ("GET", "/next", b""),
        ("GET", "/z", b""),
    ]


async def test_a_client_that_has_said_all_it_has_to_say_is_answered_at_once(service):
    reader, writer = await service.connect()
    writer.write(get("/a"))
    writer.write_eof()
    async with asyncio.timeout(10):
        assert bodies(await reader.read()) == [(200, b"/a")]
    writer.close()


@pytest.mark.parametrize("how", ["ends", "resets"])
async def test_a_client_that_has_gone_gives_its_place_back(service, how):
    _, writer = await service.connect()
    writer.write(get("/slow"))
    await service.was_asked.wait()
    (connection,) = service.listener._connections
    task = connection._task
    if how == "ends":
        writer.close()
    else:
        linger = (1).to_bytes(4, "little") + bytes(4)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
    async with asyncio.timeout(10):
        with pytest.raises(asyncio.CancelledError):
            await task


def post(*headers, body=b"", version="1.1"):
    head = f"POST /s HTTP/{version}\r\n" + "".join(f"{header}\r\n" for header in headers)
    return head.encode() + b"\r\n" + body


REFUSED = {
    "both lengths": (
        post("Host: x", "Content-Length: 3", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        400,
    ),
    "two lengths": (post("Host: x", "Content-Length: 3", "Content-Length: 4", body=b"abcd"), 400),
    "a list of lengths": (post("Host: x", "Content-Length: 3, 3", body=b"abc"), 400),
    "a negative length": (post("Host: x", "Content-Length: -1"), 400),
    "a length with a sign": (post("Host: x", "Content-Length: +3", body=b"abc"), 400),
    "a length beyond 64 bits": (post("Host: x", "Content-Length: 99999999999999999999"), 400),
    "an odd transfer coding": (
        post("Host: x", "Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
        400,
    ),
    "a space before the colon": (post("Host: x", "Content-Length : 3", body=b"abc"), 400),
    "a folded header": (post("Host: x", "X: a", " b"), 400),
    "a bare line feed": (b"GET / HTTP/1.1\nHost: x\n\n", 400),
    "a NUL in a header": (post("Host: x", "X: a\0b"), 400),
    "a chunk size that is none": (
        post("Host: x", "Transfer-Encoding: chunked", body=b"zz\r\n\r\n"),
        400,
    ),
    "a chunk size beyond 64 bits": (
        post("Host: x", "Transfer-Encoding: chunked", body=b"fffffffffffffffff\r\n"),
        400,
    ),
    "no host": (post("X: y"), 400),
    "two transfer codings": (
        post("Host: x", *["Transfer-Encoding: chunked"] * 2, body=b"0\r\n\r\n"),
        400,
    ),
    "a tunnel": (b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    "an upgrade with both lengths": (
        post(
            "Host: x",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Content-Length: 3",
            "Transfer-Encoding: chunked",
            body=b"0\r\n\r\n",
        ),
        400,
    ),
    "not HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "a head without end": (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000, 431),
    "a URL without end": (b"GET /" + b"a" * 70_000, 431),
    "a thousand headers": (post("Host: x", *[f"X-{n}: {'y' * 100}" for n in range(1000)]), 431),
    "a body that is too long": (post("Host: x", "Content-Length: 1001"), 413),
    "a claim of two gigabytes": (post("Host: x", f"Content-Length: {2**31}"), 413),
    "chunks that are too long": (
        post("Host: x", "Transfer-Encoding: chunked", body=b"3e9\r\n" + b"a" * 1001 + b"\r\n"),
        413,
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_refused_ends_the_connection(service, case):
    raw, status = REFUSED[case]
    # Whatever stands behind the refused request is never taken for one.
    reader, writer = await service.connect()
    writer.write(raw + b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    assert [found for found, _ in bodies(answer)] == [status], answer
    assert b"connection: close" in answer
    assert all(path != "/smuggled" for _, path, _ in service.asked)


async def test_a_good_request_before_a_bad_one_is_answered(service):
    raw = await service.send(get("/good") + b"\0\0\0\0")
    assert [status for status, _ in bodies(raw)] in ([200, 400], [400])


@pytest.fixture
def impatient(monkeypatch):
    for name in ("HEAD_S", "IDLE_S", "ANSWER_S", "LINGER_S"):
        monkeypatch.setattr(http1, name, 0.2)


SLOW = {
    "says nothing": (b"", b""),
    "stops in the head": (b"GET / HT", b"408"),
    "stops in the body": (post("Host: x", "Content-Length: 9", body=b"abc"), b"408"),
    "idles after an answer": (get(), b"200"),
}


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("case", SLOW)
async def test_who_takes_too_long_is_let_go(service, case):
    raw, status = SLOW[case]
    answer = await service.send(raw)
    assert answer[9:12] == status


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
async def test_a_byte_now_and_then_does_not_help(service):
    reader, writer = await service.connect()

    async def drip():
        with contextlib.suppress(ConnectionError):
            for byte in get("/" + "a" * 1000):
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.05)

    dripping = asyncio.ensure_future(drip())
    async with asyncio.timeout(10):
        assert (await reader.read())[9:12] == b"408"
    dripping.cancel()
    writer.close()


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
async def test_who_was_fast_may_not_be_slow_for_it(service, monkeypatch):
    monkeypatch.setattr(http1, "BODY_BYTES_S", 1)
    burst = await service.send(post("Host: x", f"Content-Length: {LIMIT}", body=b"a" * 999))
    assert burst[9:12] == b"408"


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
async def test_a_steady_body_may_take_its_time(service, monkeypatch):
    monkeypatch.setattr(http1, "BODY_BYTES_S", 20)
    reader, writer = await service.connect()
    writer.write(post("Host: x", "Content-Length: 100"))
    for _ in range(50):
        writer.write(b"aa")
        await asyncio.sleep(0.05)
    async with asyncio.timeout(10):
        assert (await reader.readuntil(b"/s"))[9:12] == b"200"
    writer.close()


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
async def test_who_does_not_take_the_answer_is_let_go(service):
    with socket.create_connection(service.sock.getsockname()) as client:
        client.sendall(get("/much"))
        async with asyncio.timeout(20):
            await service.was_asked.wait()
            await service.listener._all_gone.wait()


async def test_too_many_connections(service, monkeypatch):
    monkeypatch.setattr(http1, "MAX_CONNECTIONS", 1)
    reader, writer = await service.connect()
    writer.write(get())
    await reader.readuntil(b"/a")
    refused = await service.send(b"")
    assert refused[9:12] == b"503"
    assert b"retry-after: 1" in refused
    with socket.create_connection(service.sock.getsockname()) as silent:
        silent.setblocking(False)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(10):  # let go of, although the client keeps its end open
            while await loop.sock_recv(silent, 1000):
                pass
    writer.close()


async def fill_up(service, request):
    """Return connections that hold all that bodies may have, with a last byte to come of each."""
    waiting = [await service.connect() for _ in range(budget.HELD_BODIES)]
    for _, writer in waiting:
        writer.write(request)
    async with asyncio.timeout(10):
        while service.listener.budget.held_bytes < len(waiting) * budget.counted(LIMIT - 1):
            await service.send(last())
    return waiting


@pytest.mark.slow
async def test_slow_bodies_make_room_for_others(service, monkeypatch):
    monkeypatch.setattr(budget, "SMALL_BYTES", 0)
    most = post("Host: x", f"Content-Length: {LIMIT}", body=b"a" * (LIMIT - 1))
    slow = await fill_up(service, most)
    monkeypatch.setattr(http1, "HEAD_S", 0.0)

    body = b"b" * LIMIT
    whole = post("Host: x", f"Content-Length: {LIMIT}", "Connection: close", body=body)
    answer = await service.send(whole)

    assert answer[9:12] == b"200"
    async with asyncio.timeout(10):
        assert (await slow[0][0].readuntil(b"\r\n\r\n"))[9:12] in {b"503", b"408"}
    for _, writer in slow:
        writer.close()


async def test_the_bodies_of_all_connections_together_are_bounded(service, monkeypatch):
    monkeypatch.setattr(budget, "SMALL_BYTES", 1)
    half = post("Host: x", f"Content-Length: {LIMIT}", body=b"a" * (LIMIT - 1))
    waiting = await fill_up(service, half)

    refused = await service.send(half)
    small = await service.send(post("Host: x", "Content-Length: 1", "Connection: close", body=b"b"))

    assert refused[9:12] == b"503"
    assert b"retry-after: 1" in refused
    assert small[9:12] == b"200"
    for reader, writer in waiting[:-1]:
        writer.write(b"a")
        assert (await reader.readuntil(b"/s"))[9:12] == b"200"
        writer.close()
    waiting[-1][1].transport.abort()
    async with asyncio.timeout(10):
        await service.listener._all_gone.wait()
    assert service.listener.budget.held_bytes == 0


async def test_a_lost_connection_takes_its_request_with_it(service):
    _, writer = await service.connect()
    writer.write(get("/slow"))
    await service.was_asked.wait()
    (connection,) = service.listener._connections
    task = connection._task
    connection._transport.abort()
    with pytest.raises(asyncio.CancelledError):
        await task
    writer.close()


async def test_stop_lets_the_running_answer_end_and_takes_no_other(service):
    answer = asyncio.ensure_future(service.send(get("/slow") + get("/after")))
    idle, idle_writer = await service.connect()
    await service.was_asked.wait()
    stopping = asyncio.ensure_future(service.listener.stop(10.0))
    async with asyncio.timeout(10):
        assert await idle.read() == b""
    service.gate.set()
    await stopping
    assert bodies(await answer)[0] == (200, b"slow")
    idle_writer.close()


async def test_who_asks_while_the_server_stops_is_told_and_not_cut_off(service):
    reader, writer = await service.connect()
    writer.write(get("/first"))
    await reader.readuntil(b"/first")
    stopping = asyncio.ensure_future(service.listener.stop(10.0))
    await asyncio.sleep(0)
    writer.write(get("/last"))
    async with asyncio.timeout(10):
        answer = await reader.read()
        await stopping
    assert bodies(answer) == [(200, b"/last")]
    assert b"connection: close" in answer
    writer.close()


async def test_stop_waits_no_longer_than_its_grace(service):
    answer = asyncio.ensure_future(service.send(get("/slow")))
    await service.was_asked.wait()
    async with asyncio.timeout(10):
        await service.listener.stop(0.05)
    with contextlib.suppress(ConnectionError):
        assert await answer == b""
