"""The nodes' network: one process with a listener for each link from a node to everything else.

A link can be cut (open connections are reset or stall, new ones hang, as when a cable is pulled),
delayed, made to refuse some connections, or broken after so many bytes. A Unix socket takes
orders, one JSON object a line.
"""

import asyncio
import contextlib
import json
import logging
import random
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)
_CHUNK = 64 * 1024


@dataclass(slots=True)
class Faults:
    """What is wrong with a link: nothing, by default."""

    delay: float = 0.0
    """Seconds by which each chunk is held, in both directions."""
    drop_rate: float = 0.0
    """The share of new connections that are reset at once."""
    break_after: int | None = None
    """Reset a connection when so many bytes have come from the target."""
    break_times: int | None = None
    """How many connections `break_after` breaks; None is all."""


@dataclass(slots=True)
class Link:
    """One listener, what it leads to, and what is wrong with it."""

    node: str
    name: str
    listen: int
    target: tuple[str, int]
    faults: Faults = field(default_factory=Faults)
    passing: asyncio.Event = field(default_factory=asyncio.Event)
    connections: set[asyncio.StreamWriter] = field(default_factory=set)

    def reset(self) -> None:
        """Reset every open connection."""
        for writer in list(self.connections):
            _abort(writer)


def _abort(writer: asyncio.StreamWriter) -> None:
    """Close with RST, so that the peer sees an error and not an end."""
    raw = writer.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()


class Proxy:
    """All links of a bed."""

    def __init__(self, links: list[Link], dice: Callable[[], float]) -> None:
        self._links = links
        self._dice = dice
        self._tasks: set[asyncio.Task[None]] = set()
        self.started = asyncio.Event()

    async def run(self, control: Path, stop: asyncio.Event) -> None:
        """Serve until `stop`."""
        servers = []
        for link in self._links:
            link.passing.set()
            servers.append(
                await asyncio.start_server(
                    lambda r, w, link=link: self._accept(link, r, w),  # type: ignore[misc]  # mypy cannot type defaults of a lambda
                    "127.0.0.1",
                    link.listen,
                    limit=_CHUNK,
                )
            )
        control.unlink(missing_ok=True)  # noqa: ASYNC240 - once, at the start
        servers.append(await asyncio.start_unix_server(self._orders, control))
        self.started.set()
        await stop.wait()
        for server in servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(
        self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(link, reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(
        self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Carry one connection from accept to end."""
        link.connections.add(writer)
        upstream: asyncio.StreamWriter | None = None
        try:
            if self._dice() < link.faults.drop_rate:
                return
            await link.passing.wait()
            from_target, upstream = await asyncio.open_connection(*link.target, limit=_CHUNK)
            link.connections.add(upstream)
            left = self._bytes_until_break(link)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(link, reader, upstream, None))
                both.create_task(self._pump(link, from_target, writer, left))
            await _close(writer)
            await _close(upstream)
        except (OSError, ExceptionGroup):
            return  # reset below; a broken connection is this process's trade
        finally:
            for end in (writer, upstream):
                if end is not None:
                    link.connections.discard(end)
                    if not end.is_closing():
                        _abort(end)

    @staticmethod
    def _bytes_until_break(link: Link) -> int | None:
        faults = link.faults
        if faults.break_after is None or faults.break_times == 0:
            return None
        if faults.break_times is not None:
            faults.break_times -= 1
        return faults.break_after

    @staticmethod
    async def _pump(
        link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int | None
    ) -> None:
        while chunk := await reader.read(_CHUNK):
            if link.faults.delay:
                await asyncio.sleep(link.faults.delay)
            await link.passing.wait()
            if left is not None and len(chunk) >= left:
                writer.write(chunk[:left])
                await writer.drain()
                raise ConnectionResetError("broken on order")
            if left is not None:
                left -= len(chunk)
            writer.write(chunk)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()

    async def _orders(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                try:
                    answer: dict[str, Any] = {"ok": True, "links": self._obey(json.loads(line))}
                except (ValueError, TypeError, KeyError) as error:
                    answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except OSError:
            return
        finally:
            writer.close()

    def _obey(self, order: dict[str, Any]) -> list[dict[str, Any]]:
        """Carry out {"op", "node", "links"?, ...}; return how the links are now."""
        names = order.get("links")
        chosen = [
            link
            for link in self._links
            if order.get("node") in {link.node, None} and (not names or link.name in names)
        ]
        if not chosen:
            raise KeyError(f"no such link: {order.get('node')} {names}")
        for link in chosen:
            match order["op"]:
                case "cut":
                    link.passing.clear()
                    if order.get("reset", True):
                        link.reset()
                case "restore":
                    link.faults = Faults()
                    link.passing.set()
                case "faults":
                    for key, value in order["faults"].items():
                        if key not in Faults.__slots__:
                            raise KeyError(f"no such fault: {key}")
                        setattr(link.faults, key, value)
                case "reset":
                    link.reset()
                case "status":
                    pass
                case other:
                    raise ValueError(f"no such order: {other}")
        return [
            {
                "node": link.node,
                "link": link.name,
                "cut": not link.passing.is_set(),
                "open": len(link.connections) // 2,
                "delay": link.faults.delay,
                "drop_rate": link.faults.drop_rate,
                "break_after": link.faults.break_after,
            }
            for link in chosen
        ]


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def order(control: Path, what: dict[str, object], timeout: float = 10) -> list[dict[str, Any]]:
    """Send one order to a running proxy and return how the links are after it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect(str(control))
        connection.sendall(json.dumps(what).encode() + b"\n")
        with connection.makefile("rb") as lines:
            answer = json.loads(lines.readline())
    if not answer["ok"]:
        raise ValueError(answer["error"])
    return list(answer["links"])


async def serve(configuration: Path) -> None:
    """Run the network that a file describes, until SIGTERM."""
    settings = json.loads(configuration.read_text())  # noqa: ASYNC240 - before anything runs
    links = [
        Link(e["node"], e["link"], e["listen"], (e["target"][0], e["target"][1]))
        for e in settings["links"]
    ]
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    dice = random.Random(settings.get("seed", 0))  # noqa: S311 - faults, not secrets
    _log.info("proxy.started", extra={"links": len(links)})
    await Proxy(links, dice.random).run(Path(settings["control"]), stop)
