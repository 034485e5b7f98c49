"""One connection and one HTTP exchange on it; blocking, and may be ended from another thread.

- A body goes from the socket into the reader's buffer, with no copy between.
- A server that is silent, or drips, is a transient error; time that the reader takes for itself
  (its disk, its byte rate) is not held against the server.
- No proxy of the environment, no cookies, no redirects, no decompression.
"""

import contextlib
import http.client
import io
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar, cast
from urllib.parse import urlsplit

from linnet_agent.errors import SourceNotFoundError
from linnet_agent.fetch.addresses import is_loopback
from linnet_agent.fetch.throttle import Throttle

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_PORTS: Final = {"http": 80, "https": 443}
_SMALL_REST_BYTES: Final = 16 << 10

_Result = TypeVar("_Result")

Address = tuple[socket.AddressFamily, str, int]
"""Family, numeric address, port."""


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

    def __init__(self, exchange: "Exchange", response: http.client.HTTPResponse) -> None:
        self._exchange = exchange
        self._response = response
        self._left = None if response.chunked else response.length
        self._ended = self._left == 0
        self.status = response.status
        self.headers: http.client.HTTPMessage = response.headers
        self.peer_is_loopback = is_loopback(exchange.wire.peer)

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

    def skip_rest(self) -> None:
        """Read what nobody wants, where it is little, so that the connection can be kept."""
        if self._left is not None and 0 < self._left <= _SMALL_REST_BYTES:
            with contextlib.suppress(TransientError):
                self.read_all(max_bytes=_SMALL_REST_BYTES)

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


@dataclass(frozen=True, slots=True)
class Origin:
    """Who is spoken to."""

    scheme: str
    host: str
    port: int


class Exchange:
    """One request and its answer on one connection; may be ended from another thread."""

    def __init__(self, origin: Origin, path: str, limits: Limits, throttle: Throttle) -> None:
        self.origin = origin
        self.path = path
        self.throttle = throttle
        self.aborted = threading.Event()
        self.reusable = False
        self._limits = limits
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._wire: Wire | None = None

    @property
    def wire(self) -> "Wire":
        """The connection, once there is one."""
        assert self._wire is not None
        return self._wire

    def open(
        self, wire: "Wire | None", addresses: Sequence[Address], tls: ssl.SSLContext | None
    ) -> None:
        """Take an idle connection, or make one to the first address that answers; blocking."""
        if wire is not None:
            self._hold(wire.socket)
            self._wire = wire
            return
        fault: Exception = OSError("it has no address")
        for family, address, port in addresses:
            try:
                self._wire = Wire(self._connect(family, (address, port), tls), self._limits)
            except (OSError, ValueError) as error:  # ValueError: no name that TLS can ask for
                self.close()
                fault = error
            else:
                return
        raise TransientError(f"{self.origin.host}: {fault}") from fault

    def _connect(
        self, family: socket.AddressFamily, address: tuple[str, int], tls: ssl.SSLContext | None
    ) -> socket.socket:
        plain = self._hold(socket.socket(family, socket.SOCK_STREAM))
        plain.settimeout(self._limits.connect_s)
        plain.connect(address)
        if tls is None:
            return plain
        wrapped = tls.wrap_socket(
            plain, server_hostname=self.origin.host, do_handshake_on_connect=False
        )
        self._hold(wrapped)
        wrapped.do_handshake()
        return wrapped

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
            wire.in_head = False
        answer = Answer(self, response)
        try:
            return receive(answer)
        finally:
            answer.skip_rest()
            self.reusable = answer.is_read and not self.aborted.is_set()

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

    def _hold(self, held: socket.socket) -> socket.socket:
        """Let ``abort`` shut this one."""
        with self._lock:
            self._socket = held
            if self.aborted.is_set():
                raise TransientError("cancelled")
        return held


class Wire:
    """A connected socket, as http.client wants one; notices a server that drips."""

    def __init__(self, connected: socket.socket, limits: Limits) -> None:
        self.socket = connected
        self.idle_since = 0.0
        self.peer: str = connected.getpeername()[0]
        self.in_head = True
        self._limits = limits
        self._waited_s = 0.0
        self._came_bytes = 0
        connected.settimeout(limits.silence_s)

    def begin(self) -> None:
        """Begin an exchange: what comes next is a head, which must not end half-way."""
        self.in_head = True
        self._measure_anew()

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
        if self.in_head and count == 0:
            raise TransientError("the connection ended before an answer")
        if self._waited_s >= self._limits.window_s:
            if self._came_bytes < self._waited_s * self._limits.min_bytes_per_s:
                msg = f"only {self._came_bytes} bytes came in {self._waited_s:.0f} s"
                raise TransientError(msg)
            self._measure_anew()
        return count

    def _measure_anew(self) -> None:
        self._waited_s, self._came_bytes = 0.0, 0

    # What http.client calls

    def sendall(self, data: bytes) -> None:
        """Send."""
        self.socket.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return a reader of one answer."""
        return io.BufferedReader(_Reader(self))

    def close(self) -> None:
        """Do nothing: who owns the connection closes it."""


class _Reader(io.RawIOBase):
    def __init__(self, wire: Wire) -> None:
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


def split_url(url: str) -> tuple[Origin, str]:
    """Return who is spoken to, and for what.

    Raises:
        SourceNotFoundError: It is no http or https address.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError):
        raise SourceNotFoundError(f"{url[:200]!r} is no address of a registry: refused") from None
    if not parts.hostname:
        raise SourceNotFoundError(f"{url[:200]!r} names no host: refused")
    path = parts.path or "/"
    return Origin(parts.scheme, parts.hostname, port), path + (
        f"?{parts.query}" if parts.query else ""
    )
