"""Clients: an open loop at a fixed rate, a closed loop, and what they saw.

- The open loop asks at its times whatever the server does, and a duration counts from the time at
  which the request was due: a server that stands still cannot hide it by slowing its client down.
- Whatever is not a 200 is an error, and so is a connection that breaks.
"""

import asyncio
import bisect
import collections
import json
import time

from bench.server import Connection

_BODY = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0, 0, 0, 0]}]}
).encode()
MODEL = "slow"
PATH = f"/v2/models/{MODEL}/infer"
_REQUEST = (
    f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(_BODY)}\r\n\r\n"
).encode() + _BODY
_CONNECTIONS = 64


class Seen:
    """Every answer: when it came, and how long after it was due; and every error."""

    def __init__(self):
        self.times = []
        self.durations_s = []
        self.errors = collections.Counter()

    def answer(self, due_at):
        now = time.perf_counter()
        self.times.append(now)
        self.durations_s.append(now - due_at)

    def between(self, spans):
        """Return the sorted durations of the answers that came within ``spans``."""
        found = []
        for start, end in spans:
            first, last = bisect.bisect(self.times, start), bisect.bisect(self.times, end)
            found += self.durations_s[first:last]
        return sorted(found)

    def longest_gap_s(self):
        """Return the longest time without an answer."""
        return max((b - a for a, b in zip(self.times, self.times[1:], strict=False)), default=0)


class Client(Connection):
    """One connection: a request, its answer, the next one."""

    def __init__(self, seen, when_free):
        self._seen = seen
        self._when_free = when_free
        self._due_at = None
        self.open = True

    def ask(self, due_at):
        self._due_at = due_at
        self.send(_REQUEST)

    def answered(self, head, body):
        due_at, self._due_at = self._due_at, None
        if head.startswith(b"HTTP/1.1 200"):
            self._seen.answer(due_at)
        else:
            self._seen.errors[f"{head[9:12].decode()} {body[:60].decode(errors='replace')}"] += 1
        self._when_free(self)

    def connection_lost(self, _exc):
        self.open = False
        if self._due_at is not None:
            self._seen.errors["connection lost"] += 1

    def close(self):
        self._due_at = None
        self._transport.close()


async def open_loop(port, rate, until):
    """Ask ``rate`` times a second until ``until`` is done; return what was seen."""
    loop = asyncio.get_running_loop()
    seen, free, late = Seen(), [], collections.deque()

    def when_free(connection):
        if late:
            connection.ask(late.popleft())
        else:
            free.append(connection)

    connections = []
    for _ in range(_CONNECTIONS):
        _, connection = await loop.create_connection(
            lambda: Client(seen, when_free), "127.0.0.1", port
        )
        connections.append(connection)
    free += connections
    due_at = time.perf_counter()
    while not until.done():
        now = time.perf_counter()
        while due_at <= now:
            while free and not free[-1].open:
                free.pop()
            if free:
                free.pop().ask(due_at)
            else:
                late.append(due_at)
            due_at += 1 / rate
        await asyncio.sleep(max(0, due_at - time.perf_counter()))
    await _let_answers_come(connections)
    return seen


async def closed_loop(port, clients, until):
    """Let ``clients`` ask as fast as they get answers until ``until`` is done."""
    loop = asyncio.get_running_loop()
    seen = Seen()

    def when_free(connection):
        if not until.done():
            connection.ask(time.perf_counter())

    connections = []
    for _ in range(clients):
        _, connection = await loop.create_connection(
            lambda: Client(seen, when_free), "127.0.0.1", port
        )
        connections.append(connection)
        connection.ask(time.perf_counter())
    await asyncio.wait([until])
    await _let_answers_come(connections)
    return seen


async def _let_answers_come(connections):
    deadline = time.perf_counter() + 10
    while any(one._due_at is not None and one.open for one in connections):
        if time.perf_counter() > deadline:
            break
        await asyncio.sleep(0.01)
    for connection in connections:
        connection.close()


async def call(method, path, body=None, *, port=None, socket=None):
    """Ask once, on a connection of its own; return the JSON of a 2xx answer."""
    if socket is None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    else:
        reader, writer = await asyncio.open_unix_connection(str(socket))
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    writer.write(head.encode() + content)
    try:
        async with asyncio.timeout(120):
            head = await reader.readuntil(b"\r\n\r\n")
            _, found, length = head.lower().partition(b"content-length:")
            body = await reader.readexactly(int(length.split(b"\r\n")[0])) if found else b""
    finally:
        writer.close()
    if not head.startswith(b"HTTP/1.1 2"):
        raise RuntimeError(f"{method} {path}: {head[:100]!r} {body[:300]!r}")
    return json.loads(body) if body else None


async def bias_now(port):
    """Return the bias of the model that answers."""
    (output,) = (await call("POST", PATH, json.loads(_BODY), port=port))["outputs"]
    return output["data"][0]
