"""HTTP/1.1 for a server whose answers take microseconds: connections, limits, patience.

- llhttp parses (httptools); what it refuses is a 400 and the end of the connection. Nothing is
  guessed, so nothing can be smuggled.
- One request of a connection at a time, in order; what comes behind it waits unread.
- A client that is gone, or has said that it says no more, gets no answer that is still to be
  computed: its place is somebody else's.
- An answer that is there at once is written at once: no task, no queue. That is half of the bill of
  a model that takes ten microseconds.
- A head has `HEAD_S` seconds, a body must come at `BODY_BYTES_S` with no pause beyond `HEAD_S`,
  however fast it came before; an answer must be taken within `ANSWER_S`; a connection that does
  nothing may do so for `IDLE_S`. One sweep a second looks, while there are connections.
- The bodies that are here at once are bounded, by all connections together. Where they are too
  many, the one that has been under way for longest makes room.
- An upgrade is declined by going on in HTTP/1.1 (RFC 9110, 7.8). llhttp takes an offered one as
  taken, and would read the body as what comes next.
- A connection that is lost takes its request with it.

Source: RFC 9112; llhttp's strict mode.
"""

import asyncio
import collections
import functools
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from http import HTTPStatus
from time import monotonic
from typing import Any, Final, NamedTuple, cast
from urllib.parse import unquote

import httptools
import orjson

from linnet_server.budget import TOO_MANY, BodyBudget, counted
from linnet_server.errors import BadRequestError, ServerError, TooLargeError

log = logging.getLogger(__name__)

HEAD_S: Final = 10.0
BODY_BYTES_S: Final = 16 << 10
ANSWER_S: Final = 30.0
IDLE_S: Final = 75.0
"""Longer than the pools of common clients: who closes first, loses a request now and then."""
PARTING_S: Final = 1.0
LINGER_S: Final = 2.0
"""So long is read on and thrown away after a refusal, that the client gets to read it."""

MAX_HEAD_BYTES: Final = 64 << 10
MAX_CONNECTIONS: Final = 4096
_MAX_WAITING: Final = 64
_JOIN_BYTES: Final = 64 << 10
_LENGTH_DIGITS: Final = 18
_RECALLED_BYTES: Final = 256

Header = tuple[bytes, bytes]
JSON: Final[Header] = (b"content-type", b"application/json")

_HEADS: Final = {
    status.value: b"HTTP/1.1 %d %s\r\ncontent-length: " % (status.value, status.phrase.encode())
    for status in HTTPStatus
}


class Request(NamedTuple):
    """A whole request; header names are in lower case, of several the first counts."""

    method: str
    path: str
    headers: Mapping[bytes, bytes]
    body: bytes


class Response(NamedTuple):
    """A whole answer."""

    status: int
    body: bytes = b""
    headers: tuple[Header, ...] = ()


Handler = Callable[[Request], Response | Awaitable[Response]]
"""Answers a request, at once or later; it raises nothing."""

Observe = Callable[[Request, Response, float], None]
"""Is told of every answer, and of the seconds between the request's last byte and it."""


def json_response(
    document: Mapping[str, Any], status: int = 200, headers: Iterable[Header] = ()
) -> Response:
    """Return ``document`` as an answer."""
    return Response(status, orjson.dumps(document), (JSON, *headers))


def error_response(
    error: ServerError,
    **facts: Any,  # noqa: ANN401 - JSON
) -> Response:
    """Return ``error`` as an answer.

    Args:
        error: What went wrong.
        facts: What stands beside the sentence.
    """
    headers = list(error.asked)
    if error.retry_after_s:
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    return json_response({"error": str(error), **facts}, error.status, headers)


def unexpected_response(path: str, error: Exception) -> Response:
    """Log ``error``, which nobody has foreseen, and return a 500."""
    log.error("server.unexpected", extra={"path": path}, exc_info=error)
    return json_response({"error": "the server failed; its log says why"}, 500)


class HttpListener:
    """One listening socket and its connections.

    Args:
        handler: Answers the requests.
        sock: Bound; it is listened on here.
        max_body_bytes: A longer body is a 413.
        budget: What all bodies together may have, with those of other listeners; None: there are
            none.
        tls: What connections must speak; None: nothing but HTTP.
        observe: For the access log; None: there is none.
    """

    def __init__(
        self,
        handler: Handler,
        sock: socket.socket,
        *,
        max_body_bytes: int,
        budget: BodyBudget | None = None,
        tls: ssl.SSLContext | None = None,
        observe: Observe | None = None,
    ) -> None:
        self.handler: Final = handler
        self.max_body_bytes: Final = max_body_bytes
        self.budget: Final = budget or BodyBudget(max_body_bytes)
        self.tls: Final = tls
        self.observe: Final = observe
        self.stopping = False
        self._socket = sock
        self._connections: set[_Connection] = set()
        self._all_gone = asyncio.Event()
        self._sweep: asyncio.TimerHandle | None = None
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        create = loop.create_server
        if self._socket.family == socket.AF_UNIX:
            create = loop.create_unix_server  # type: ignore[assignment]  # the same, by path
        tls: dict[str, Any] = {}
        if self.tls is not None:
            tls = {
                "ssl": self.tls,
                "ssl_handshake_timeout": HEAD_S,
                "ssl_shutdown_timeout": LINGER_S,
            }
        self._server = await create(
            lambda: _Connection(self), sock=self._socket, backlog=2048, **tls
        )

    async def stop(self, grace_s: float) -> None:
        """Take no new connections after `PARTING_S`; what is under way has ``grace_s`` seconds."""
        assert self._server is not None
        self.stopping = True
        # Who is closed between two requests may be asking in that very moment, and gets a reset: so
        # answers first say, for a while, that they are the last ones of their connections.
        if not await self._wait_all_gone(min(grace_s, PARTING_S)):
            for connection in tuple(self._connections):
                connection.close_where_idle()
        self._server.close()
        if not await self._wait_all_gone(grace_s):
            log.warning("server.stop.late", extra={"connections": len(self._connections)})
            for connection in tuple(self._connections):
                connection.abort()

    async def _wait_all_gone(self, seconds: float) -> bool:
        """Return whether there are no connections any more, within ``seconds``."""
        try:
            async with asyncio.timeout(seconds):
                while self._connections:
                    self._all_gone.clear()
                    await self._all_gone.wait()
        except TimeoutError:
            return False
        return True

    def join(self, connection: "_Connection") -> bool:
        """Take a new connection; False where there are too many."""
        if len(self._connections) >= MAX_CONNECTIONS:
            return False
        self._connections.add(connection)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(1.0, self._look)
        return True

    def make_room(self, connection: "_Connection") -> bool:
        """End the body that has been under way for longest, for the one of ``connection``.

        False where that one is itself the slowest, or nobody is slow: then it is the one too many.
        """
        slow_since = monotonic() - HEAD_S
        slow = [one for one in self._connections if one.has_part_since(slow_since)]
        slowest = min(slow, key=lambda one: one.since, default=connection)
        if slowest is connection:
            return False
        slowest.refuse(503, TOO_MANY)
        return True

    def leave(self, connection: "_Connection") -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        if not self._connections:
            self._all_gone.set()

    def _look(self) -> None:
        now = monotonic()
        for connection in tuple(self._connections):
            connection.look(now)
        self._sweep = None
        if self._connections:
            self._sweep = asyncio.get_running_loop().call_later(1.0, self._look)


class _Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, listener: HttpListener) -> None:
        self._listener = listener
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # connection_made sets it
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: collections.deque[tuple[Request, bool, bool]] = collections.deque()
        self._task: asyncio.Task[None] | None = None
        self.since = monotonic()
        """When this phase began: idle, reading, answering, or lingering."""
        self._due_at = self.since + HEAD_S
        self._looked_bytes = 0
        self._asked_at = self.since
        self._reading = False
        self._lingering = False
        self._fresh = True
        self._ended = False
        self._held_bytes = 0
        self._stuck_since: float | None = None
        self._begin()

    # --- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the client on, where there is room."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own is no subclass
        if not self._listener.join(self):
            self.refuse(503, "too many connections")
            self._transport.close()  # nobody looks after it: it may not linger

    def connection_lost(self, exc: Exception | None) -> None:
        """End what was under way: nobody waits for it."""
        del exc
        self._listener.leave(self)
        self._release(self._held_bytes)
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()

    def eof_received(self) -> bool:
        """Close, unless answers wait to be taken.

        A client that has gone looks like one that only has no more to say. Nearly all are gone.
        """
        self._ended = True
        if self._listener.tls is not None:
            return False  # TLS has no half-close
        return self._task is None and bool(self._waiting)

    def pause_writing(self) -> None:
        """Note that the client does not take what it is sent."""
        self._stuck_since = monotonic()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self._stuck_since = None
        self._read_on()
        self._advance()

    def data_received(self, data: bytes) -> None:
        """Parse, and answer what is complete."""
        if self._lingering:
            return
        try:
            self._parse(data)
        except _RefusedError as error:
            self.refuse(error.status, error.sentence)
        except httptools.HttpParserError as error:
            cause = error.__context__
            if isinstance(cause, _RefusedError):
                self.refuse(cause.status, cause.sentence)
            else:
                self.refuse(400, "this is not HTTP/1.1 as RFC 9112 has it")
        else:
            self._advance()
            if self._task is not None and (self._waiting or self._reading):
                self._transport.pause_reading()

    def _read_on(self) -> None:
        """Read again, with as much patience as at first."""
        self._due_at = monotonic() + HEAD_S
        self._transport.resume_reading()

    def _parse(self, data: bytes) -> None:
        while data:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                data = self._decline_upgrade() + data[offer.args[0] :]
            else:
                return

    def _decline_upgrade(self) -> bytes:
        """Return the head that has just been read, without its offer, for a parser of its own."""
        method = self._parser.get_method()
        if method == b"CONNECT":
            raise _RefusedError(405, "this is no proxy")
        version = self._parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (method, self._url, version)]
        for name, value in self._headers.items():
            if name != b"upgrade":
                lines.append(name + b": " + value)
        self._begin()
        self._parser = httptools.HttpRequestParser(self)
        return b"\r\n".join((*lines, b"", b""))

    # --- llhttp

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._reading = True
        self.since = monotonic()
        self._due_at = self.since + HEAD_S
        self._looked_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Take a part of the URL."""
        self._url += url
        self._head_bytes += len(url)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise _RefusedError.long_head()

    def on_header(self, name: bytes, value: bytes | None) -> None:
        """Take a header."""
        value = value or b""
        lower = name.lower()
        if lower not in self._headers:
            self._headers[lower] = value
        elif lower == b"transfer-encoding":
            raise _RefusedError(400, "Transfer-Encoding is there twice")
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise _RefusedError.long_head()

    def on_headers_complete(self) -> None:
        """Refuse what need not be read to its end."""
        if self._parser.should_upgrade():
            return  # this head comes again
        headers = self._headers
        if b"host" not in headers and self._parser.get_http_version() == "1.1":
            raise _RefusedError(400, "there is no Host header")
        declared = headers.get(b"content-length")
        if declared is not None and int(declared) > self._listener.max_body_bytes:
            raise _RefusedError.too_large(self._listener.max_body_bytes)
        if headers.get(b"expect", b"").lower() == b"100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, part: bytes) -> None:
        """Take a part of the body."""
        self._body_bytes += len(part)
        if self._body_bytes > self._listener.max_body_bytes:
            raise _RefusedError.too_large(self._listener.max_body_bytes)
        self._parts.append(part)
        more = counted(self._body_bytes) - counted(self._body_bytes - len(part))
        self._held_bytes += more
        fits = self._listener.budget.take(more)
        if more and not fits and not self._listener.make_room(self):
            raise _RefusedError(503, TOO_MANY)

    def on_message_complete(self) -> None:
        """Put the request into the line."""
        if self._parser.should_upgrade():
            return
        parser, parts, url = self._parser, self._parts, self._url
        request = Request(
            parser.get_method().decode(),
            _recall_path(url) if len(url) <= _RECALLED_BYTES else _path_of(url),
            self._headers,
            parts[0] if len(parts) == 1 else b"".join(parts),
        )
        keep = parser.should_keep_alive()
        self._waiting.append((request, keep, parser.get_http_version() == "1.0"))
        self._reading = False
        self._begin()
        if len(self._waiting) > _MAX_WAITING:
            raise _RefusedError(503, "too many requests in one go")

    # --- answering

    def close_where_idle(self) -> None:
        """Close, unless a request is under way; it is then the last one."""
        if self._task is None and not self._waiting and not self._reading:
            self._transport.close()

    def has_part_since(self, since: float) -> bool:
        """Return whether a large body has been under way since then."""
        return self._reading and self._held_bytes > 0 and self.since < since

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def look(self, now: float) -> None:
        """End what takes too long."""
        waited_s = now - self.since
        if self._transport.is_closing():
            if waited_s > ANSWER_S:
                self.abort()  # the rest of an answer that nobody takes
        elif self._stuck_since is not None:
            if now - self._stuck_since > ANSWER_S:
                self.abort()
        elif self._lingering:
            if waited_s > LINGER_S:
                self.abort()
        elif self._task is not None:
            return  # a deadline of its own ends it
        elif self._reading:
            earned_s = (self._body_bytes - self._looked_bytes) / BODY_BYTES_S
            self._looked_bytes = self._body_bytes
            self._due_at = min(self._due_at + earned_s, now + HEAD_S)
            if now > self._due_at:
                self.refuse(408, "the request takes too long to arrive")
        elif waited_s > (HEAD_S if self._fresh else IDLE_S):
            self._transport.close()

    def _begin(self) -> None:
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []
        self._head_bytes = 0
        self._body_bytes = 0

    def _advance(self) -> None:
        while self._waiting and self._task is None and self._stuck_since is None:
            if self._transport.is_closing():
                return
            request, keep, old = self._waiting.popleft()
            self._fresh = False
            self._asked_at = monotonic()
            answer = self._listener.handler(request)
            if isinstance(answer, Response):
                self._write(answer, request, keep=keep, old=old)
            else:
                self._task = asyncio.get_running_loop().create_task(
                    self._answer_later(answer, request, keep=keep, old=old)
                )

    async def _answer_later(
        self, answer: Awaitable[Response], request: Request, *, keep: bool, old: bool
    ) -> None:
        response = await answer
        self._task = None
        if self._transport.is_closing():
            return
        self._write(response, request, keep=keep, old=old)
        if self._stuck_since is None and not self._transport.is_closing():
            self._read_on()
            self._advance()

    def _write(self, response: Response, request: Request, *, keep: bool, old: bool) -> None:
        keep = keep and not self._listener.stopping and (not self._ended or bool(self._waiting))
        lines = [_HEADS[response.status], b"%d" % len(response.body)]
        for name, value in response.headers:
            lines += (b"\r\n", name, b": ", value)
        if not keep:
            lines.append(b"\r\nconnection: close")
        elif old:
            lines.append(b"\r\nconnection: keep-alive")
        lines.append(b"\r\n\r\n")
        if request.method == "HEAD":
            self._transport.write(b"".join(lines))
        elif len(response.body) < _JOIN_BYTES:
            lines.append(response.body)
            self._transport.write(b"".join(lines))
        else:
            self._transport.writelines((b"".join(lines), response.body))
        self.since = monotonic()
        self._release(counted(len(request.body)))
        if self._listener.observe is not None:
            self._listener.observe(request, response, self.since - self._asked_at)
        if not keep:
            self._transport.close()

    def _release(self, count: int) -> None:
        self._held_bytes -= count
        self._listener.budget.give_back(count)

    def refuse(self, status: int, sentence: str) -> None:
        """Answer with an error, and end: what comes after cannot be told apart from a request."""
        self._waiting.clear()
        if self._task is None and not self._transport.is_closing():
            self._release(self._held_bytes)
            self._begin()
            body = orjson.dumps({"error": sentence})
            again = b"retry-after: 1\r\n" if status == 503 else b""
            head = b"%b%d\r\ncontent-type: application/json\r\n%bconnection: close\r\n\r\n"
            self._transport.write(head % (_HEADS[status], len(body), again) + body)
            if self._transport.can_write_eof():
                self._transport.write_eof()
            self._lingering, self._reading = True, False
            self.since = monotonic()
        else:
            self._transport.close()


class _RefusedError(Exception):
    """A request that is not read to its end."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence

    @classmethod
    def long_head(cls) -> "_RefusedError":
        return cls(431, f"the head has more than {MAX_HEAD_BYTES} bytes")

    @classmethod
    def too_large(cls, limit_bytes: int) -> "_RefusedError":
        return cls(
            TooLargeError.status,
            f"the body has more than the {limit_bytes} bytes that --max-body-bytes allows",
        )


def _path_of(url: bytes) -> str:
    path = url.partition(b"?")[0]
    if not path.startswith(b"/"):  # absolute form, as proxies write it
        path = httptools.parse_url(url).path or b"/"
    text = path.decode("ascii", "replace")
    # An encoded slash stays one: it parts nothing, here as in a proxy that has looked before.
    return unquote(text) if "%" in text and "%2f" not in text.lower() else text


_recall_path = functools.lru_cache(maxsize=256)(_path_of)
"""Clients ask for the same few paths; only short ones are kept."""


def read_length(request: Request, name: bytes) -> int | None:
    """Return the header ``name`` as a count of bytes; None where there is none.

    Raises:
        BadRequestError: It is no number.
    """
    value = request.headers.get(name)
    if value is None:
        return None
    if not value.isdigit() or len(value) > _LENGTH_DIGITS:
        raise BadRequestError(f"{name.decode()} is not a count of bytes")
    return int(value)
