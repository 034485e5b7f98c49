"""Sends HTTP requests from worker threads: what a node needs for bytes that it will check.

- No event loop stands between the socket and the reader.
- Whoever cancels shuts the socket: the worker ends at once, and has ended when the caller goes on.
- What was looked up and judged is what is connected to.
- Connections are kept for the next exchange, and only so many are open to one host.
"""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

from linnet_agent.fetch.addresses import require_allowed
from linnet_agent.fetch.throttle import Throttle
from linnet_agent.fetch.wire import (
    Address,
    Answer,
    Exchange,
    Limits,
    Origin,
    TransientError,
    Wire,
    split_url,
)

_IDLE_S: Final = 15.0
_OPENING: Final = 3
"""Times ``connect_s``, and whoever drips a handshake is given up."""
_PULSE_S: Final = 0.25
_MAX_WORKERS: Final = 32

_Result = TypeVar("_Result")

Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]
"""Looks a host up."""


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
        self._slots: dict[Origin, asyncio.Semaphore] = {}
        self._idle: dict[_Way, list[Wire]] = {}
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
        origin, path = split_url(url)
        async with self._slots.setdefault(origin, asyncio.Semaphore(self._per_host)):
            way = _Way(origin=origin, anywhere=anywhere, loopback=loopback)
            wire = self._take_idle(way)
            addresses: Sequence[Address] = ()
            if wire is None:
                addresses = await self._look_up(origin)
                if not anywhere:
                    names = [address for _, address, _ in addresses]
                    require_allowed(origin.host, names, loopback=loopback)
            exchange = Exchange(origin, path, self._limits, self._throttle)

            def work() -> _Result:
                exchange.open(wire, addresses, self._context(origin))
                return exchange.run(method, headers or {}, body, receive)

            loop = asyncio.get_running_loop()
            opening = loop.call_later(_OPENING * self._limits.connect_s, exchange.abort_opening)
            try:
                return await self._in_worker(work, exchange, pulse)
            finally:
                opening.cancel()
                self._keep(way, exchange)

    async def _in_worker(
        self, work: Callable[[], _Result], exchange: Exchange, pulse: Callable[[], None] | None
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
            if not future.done():
                exchange.abort()
            while not future.done():  # ends as soon as the call it is in returns
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({future})
            _ = future.exception()  # seen
            raise

    async def _look_up(self, origin: Origin) -> Sequence[Address]:
        try:
            async with asyncio.timeout(self._limits.connect_s):
                return await self._resolve(origin.host, origin.port)
        except (OSError, UnicodeError) as error:  # TimeoutError is an OSError
            fact = str(error) or "no answer"
            raise TransientError(f"{origin.host} cannot be resolved: {fact}") from error

    def _context(self, origin: Origin) -> ssl.SSLContext | None:
        if origin.scheme == "http":
            return None
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    def _take_idle(self, way: "_Way") -> Wire | None:
        self._close_idle(before=time.monotonic() - _IDLE_S)
        wires = self._idle.get(way, [])
        while wires:
            wire = wires.pop()
            if wire.is_quiet():
                return wire
            wire.shut()
        return None

    def _keep(self, way: "_Way", exchange: Exchange) -> None:
        if not exchange.reusable:
            exchange.close()
            return
        wire = exchange.wire
        wire.idle_since = time.monotonic()
        self._idle.setdefault(way, []).append(wire)
        loop = asyncio.get_running_loop()
        loop.call_later(_IDLE_S, lambda: self._close_idle(before=time.monotonic() - _IDLE_S / 2))

    def _close_idle(self, *, before: float) -> None:
        for way, wires in list(self._idle.items()):
            for wire in [one for one in wires if one.idle_since < before]:
                wires.remove(wire)
                wire.shut()
            if not wires:
                del self._idle[way]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """A connection serves only those who may go where it leads."""

    origin: Origin
    anywhere: bool
    loopback: bool


async def _resolve(host: str, port: int) -> Sequence[Address]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, str(address[0]), port) for family, _, _, _, address in found]


__all__ = ["Answer", "Limits", "TransientError", "Transport"]
