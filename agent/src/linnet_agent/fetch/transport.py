"""One HTTP exchange at a time, in a worker thread: what a node needs for bytes that it will check.

- A body goes from the socket into the reader's buffer; no event loop and no copy between.
- Whoever cancels shuts the socket: the worker ends at once, and has ended when the caller goes on.
- A server that is silent, or drips, is a transient error; time that the reader takes for itself
  (its disk, its byte rate) is not held against the server.
- Connections are kept for the next exchange, and only so many are open to one host.
- No proxy of the environment, no cookies, no redirects, no decompression.
"""

import asyncio
import contextlib
import http.client
import io
import logging
import select
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar, cast
from urllib.parse import urlsplit

from linnet_agent.errors import SourceNotFoundError
from linnet_agent.fetch.addresses import is_loopback, require_allowed
from linnet_agent.fetch.throttle import Throttle

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

log = logging.getLogger(__name__)

_PORTS: Final = {"http": 80, "https": 443}
_IDLE_S: Final = 15.0
_OPENING: Final = 3
"""Times ``connect_s``, and whoever drips a handshake is given up."""
_PULSE_S: Final = 0.25
_MAX_WORKERS: Final = 32

_Result = TypeVar("_Result")
_Address = tuple[socket.AddressFamily, str, int]
Resolve = Callable[[str, int], Awaitable[Sequence[_Address]]]
"""Looks a host up: family, numeric address, port."""


class TransientError(Exception):
    """A failure that may pass; ``retry_after_s`` is what the server asked for."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        """Keep what the server asked for."""
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a server may keep us waiting.

    Attributes:
        connect_s: For looking up, connecting and shaking hands, each.
        silence_s: Without a byte.
        window_s: Over so many seconds of waiting, ``min_bytes_per_s`` must have come.
        min_bytes_per_s: Less is a drip.
    """

    connect_s: float = 5.0
    silence_s: float = 20.0
    window_s: float = 60.0
    min_bytes_per_s: float = 256.0


class Answer:
    """A response whose body is being read, in the worker thread."""

    def __init__(self, exchange: "_Exchange", response: http.client.HTTPResponse) -> None:
        self._exchange = exchange
        self._response = response
        self._left = None if response.chunked else response.length
        self._ended = self._left == 0
        self.status = response.status
        self.headers: http.client.HTTPMessage = response.headers
        self.peer_is_loopback = exchange.wire.peer_is_loopback

    @property
    def is_read(self) -> bool:
        """Return true where the whole body was read, and the connection can serve again."""
        return self._ended and not self._response.will_close

    def read_into(self, view: memoryview) -> int:
        """Fill the beginning of ``view`` with what comes next; 0 is the end.

        Raises:
            TransientError: It broke off, or the server is too slow.
        """
        if self._ended or not view:
            return 0
        throttle = self._exchange.throttle
        if (portion := throttle.slice_bytes) is not None:
            view = view[:portion]
        count = self._receive(view)
        if pause_s := throttle.take(count):
            self._exchange.aborted.wait(pause_s)
        return count

    def read_all(self, *, max_bytes: int) -> bytes:
        """Return the whole body.

        Raises:
            SourceNotFoundError: It is larger than ``max_bytes``.
            TransientError: It broke off, or the server is too slow.
        """
        content = bytearray()
        view = memoryview(bytearray(64 << 10))
        while count := self.read_into(view):
            content += view[:count]
            if len(content) > max_bytes:
                msg = f"{self._exchange.path} is larger than {max_bytes} bytes"
                raise SourceNotFoundError(msg)
        return bytes(content)

    def _receive(self, view: memoryview) -> int:
        with _as_transient():
            if self._response.chunked:
                chunk = self._response.read1(len(view))
                view[: len(chunk)] = chunk
                self._ended = not chunk
                return len(chunk)
            count = self._response.fp.readinto1(view[: self._left])
            if self._left is None:
                self._ended = count == 0
                return count
            self._left -= count
            if count == 0:
                msg = f"the connection ended {self._left} bytes too early"
                raise TransientError(msg)
            self._ended = self._left == 0
            return count


class Transport:
    """Sends requests and gives their answers to a reader; one for a process, closed at its end.

    Args:
        limits: How long a server may keep us waiting.
        throttle: The byte rate that all share.
        connections_per_host: So many at most are open to one host.
        tls: Context for https, where the system's roots do not do.
        resolve: Looks a host up.
    """

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        throttle: Throttle | None = None,
        connections_per_host: int = 4,
        tls: ssl.SSLContext | None = None,
        resolve: Resolve | None = None,
    ) -> None:
        self._limits = limits or Limits()
        self._throttle = throttle or Throttle()
        self._per_host = connections_per_host
        self._tls = tls
        self._resolve = resolve or _resolve
        self._slots: dict[_Origin, asyncio.Semaphore] = {}
        self._idle: dict[_Origin, list[_Wire]] = {}
        self._workers = ThreadPoolExecutor(_MAX_WORKERS, thread_name_prefix="fetch")

    async def aclose(self) -> None:
        """Close what is idle; exchanges under way end as they are cancelled."""
        self._close_idle(before=float("inf"))
        self._workers.shutdown(wait=False, cancel_futures=True)

    async def send(
        self,
        url: str,
        *,
        receive: Callable[[Answer], _Result],
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        anywhere: bool = False,
        loopback: bool = True,
        pulse: Callable[[], None] | None = None,
    ) -> _Result:
        """Send one request and return what ``receive`` makes of its answer.

        Args:
            url: Absolute, http or https.
            receive: Called in the worker thread; what it does not read is thrown away.
            method: GET or POST.
            headers: What to send beside Host and User-Agent.
            body: What to send.
            anywhere: True where the node's owner named the host: any address will do.
            loopback: True where the host may be this machine.
            pulse: Called now and then in the event loop while the answer is being read.

        Raises:
            TransientError: It failed, and may not the next time.
            SourceNotFoundError: The address is none, or is refused.
        """
        origin, path = _split(url)
        async with self._slots.setdefault(origin, asyncio.Semaphore(self._per_host)):
            wire = self._take_idle(origin)
            addresses: Sequence[_Address] = ()
            if wire is None:
                addresses = await self._look_up(origin)
                if not anywhere:
                    names = [address for _, address, _ in addresses]
                    require_allowed(origin.host, names, loopback=loopback)
            exchange = _Exchange(origin, path, self._limits, self._throttle)

            def work() -> _Result:
                exchange.open(wire, addresses, self._context(origin))
                return exchange.run(method, headers or {}, body, receive)

            loop = asyncio.get_running_loop()
            opening = loop.call_later(_OPENING * self._limits.connect_s, exchange.abort_opening)
            try:
                result = await self._in_worker(work, exchange, pulse)
            finally:
                opening.cancel()
            self._keep(exchange)
            return result

    async def _in_worker(
        self, work: Callable[[], _Result], exchange: "_Exchange", pulse: Callable[[], None] | None
    ) -> _Result:
        """Run ``work`` in a worker thread; it has ended when this returns or raises."""
        future = asyncio.get_running_loop().run_in_executor(self._workers, work)
        try:
            while True:
                await asyncio.wait({future}, timeout=_PULSE_S if pulse else None)
                if pulse is not None:
                    pulse()
                if future.done():
                    return future.result()
        except BaseException:
            exchange.abort()
            while not future.done():  # ends as soon as the call it is in returns
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({future})
            exchange.close()
            _ = future.cancelled() or future.exception()  # seen
            raise

    async def _look_up(self, origin: "_Origin") -> Sequence[_Address]:
        try:
            async with asyncio.timeout(self._limits.connect_s):
                return await self._resolve(origin.host, origin.port)
        except (OSError, UnicodeError) as error:  # TimeoutError is an OSError
            fact = str(error) or "no answer"
            raise TransientError(f"{origin.host} cannot be resolved: {fact}") from error

    def _context(self, origin: "_Origin") -> ssl.SSLContext | None:
        if origin.scheme == "http":
            return None
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    def _take_idle(self, origin: "_Origin") -> "_Wire | None":
        self._close_idle(before=time.monotonic() - _IDLE_S)
        wires = self._idle.get(origin, [])
        while wires:
            wire = wires.pop()
            if wire.is_quiet():
                return wire
            wire.shut()
        return None

    def _keep(self, exchange: "_Exchange") -> None:
        if not exchange.reusable:
            exchange.close()
            return
        wire = exchange.wire
        wire.idle_since = time.monotonic()
        self._idle.setdefault(exchange.origin, []).append(wire)
        loop = asyncio.get_running_loop()
        loop.call_later(_IDLE_S, lambda: self._close_idle(before=time.monotonic() - _IDLE_S / 2))

    def _close_idle(self, *, before: float) -> None:
        for origin, wires in list(self._idle.items()):
            for wire in [one for one in wires if one.idle_since < before]:
                wires.remove(wire)
                wire.shut()
            if not wires:
                del self._idle[origin]


@dataclass(frozen=True, slots=True)
class _Origin:
    scheme: str
    host: str
    port: int


class _Exchange:
    """One request and its answer on one connection; may be ended from another thread."""

    def __init__(self, origin: _Origin, path: str, limits: Limits, throttle: Throttle) -> None:
        self.origin = origin
        self.path = path
        self.throttle = throttle
        self.aborted = threading.Event()
        self.reusable = False
        self._limits = limits
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._wire: _Wire | None = None

    @property
    def wire(self) -> "_Wire":
        assert self._wire is not None
        return self._wire

    def open(
        self, wire: "_Wire | None", addresses: Sequence[_Address], tls: ssl.SSLContext | None
    ) -> None:
        """Take an idle connection, or make one to the first address that answers; blocking."""
        if wire is not None:
            self._hold(wire.socket)
            self._wire = wire
            return
        with _as_transient():
            fault: OSError = OSError("no address")
            for family, address, port in addresses:
                plain = socket.socket(family, socket.SOCK_STREAM)
                self._hold(plain)
                try:
                    plain.settimeout(self._limits.connect_s)
                    plain.connect((address, port))
                    connected = plain
                    if tls is not None:
                        shaking = tls.wrap_socket(
                            plain, server_hostname=self.origin.host, do_handshake_on_connect=False
                        )
                        self._hold(shaking)
                        shaking.do_handshake()
                        connected = shaking
                except OSError as error:
                    plain.close()
                    fault = error
                else:
                    self._wire = _Wire(connected, self._limits)
                    return
            raise fault

    def run(
        self,
        method: str,
        headers: Mapping[str, str],
        body: bytes | None,
        receive: Callable[[Answer], _Result],
    ) -> _Result:
        """Send the request and let ``receive`` read the answer; blocking."""
        wire = self.wire
        wire.begin()
        connection = http.client.HTTPConnection(self.origin.host, self.origin.port)
        connection.default_port = _PORTS[self.origin.scheme]
        connection.sock = cast("socket.socket", wire)
        with _as_transient():
            try:
                connection.request(
                    method,
                    self.path,
                    body=body,
                    headers={
                        "User-Agent": "linnet-agent",
                        "Accept-Encoding": "identity",
                        **headers,
                    },
                )
            except (ValueError, http.client.InvalidURL) as error:
                msg = f"{self.origin.host} leads to what is no address"
                raise SourceNotFoundError(msg) from error
            response = connection.getresponse()
        answer = Answer(self, response)
        result = receive(answer)
        self.reusable = answer.is_read and not self.aborted.is_set()
        return result

    def abort(self) -> None:
        """Make the worker end soon; from any thread."""
        with self._lock:
            self.aborted.set()
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    # Not SSLSocket's own, which would let the reader see what is encrypted.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def abort_opening(self) -> None:
        """Make the worker end if it has no connection yet."""
        if self._wire is None:
            self.abort()

    def close(self) -> None:
        """Close the connection, once the worker has ended."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def _hold(self, held: socket.socket) -> None:
        with self._lock:
            self._socket = held
            if self.aborted.is_set():
                raise TransientError("cancelled")


class _Wire:
    """A connected socket, as http.client wants one; notices a server that drips."""

    def __init__(self, connected: socket.socket, limits: Limits) -> None:
        self.socket = connected
        self.idle_since = 0.0
        self.peer_is_loopback = is_loopback(connected.getpeername()[0])
        self._limits = limits
        self._waited_s = 0.0
        self._came_bytes = 0
        connected.settimeout(limits.silence_s)

    def begin(self) -> None:
        """Begin to measure anew."""
        self._waited_s, self._came_bytes = 0.0, 0

    def is_quiet(self) -> bool:
        """Return true where nothing came while the connection was idle: no end, no stray byte."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return not poll.poll(0)

    def shut(self) -> None:
        """Close the connection."""
        self.socket.close()

    def receive(self, buffer: "WriteableBuffer") -> int:
        """Read once.

        Raises:
            TransientError: The server drips.
        """
        start = time.monotonic()
        count = self.socket.recv_into(buffer)
        self._waited_s += time.monotonic() - start
        self._came_bytes += count
        if self._waited_s >= self._limits.window_s:
            if self._came_bytes < self._waited_s * self._limits.min_bytes_per_s:
                msg = f"only {self._came_bytes} bytes came in {self._waited_s:.0f} s"
                raise TransientError(msg)
            self.begin()
        return count

    # What http.client calls

    def sendall(self, data: bytes) -> None:
        self.socket.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self))

    def close(self) -> None:
        """Do nothing: who owns the connection closes it."""


class _Reader(io.RawIOBase):
    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        return self._wire.receive(buffer)


@contextlib.contextmanager
def _as_transient() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise TransientError("the server is silent") from error
    except (OSError, http.client.HTTPException) as error:
        raise TransientError(str(error) or type(error).__name__) from error


async def _resolve(host: str, port: int) -> Sequence[_Address]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, str(address[0]), port) for family, _, _, _, address in found]


def _split(url: str) -> tuple[_Origin, str]:
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError):
        raise SourceNotFoundError(f"{url[:200]!r} is no address of a registry: refused") from None
    if not parts.hostname:
        raise SourceNotFoundError(f"{url[:200]!r} names no host: refused")
    path = parts.path or "/"
    return _Origin(parts.scheme, parts.hostname, port), path + (
        f"?{parts.query}" if parts.query else ""
    )
