"""The process: two listeners on one loop, the catalog between them, a clean start and a clean end.

- Both listeners are up before anything is loaded: live is not ready.
- The port file appears when both listen.
- SIGTERM: not ready from now on, no new connections, requests under way end, exit 0.
- A control socket that is left over from a kill is replaced; one that answers belongs to another
  server, and is not.
"""

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import stat
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from linnet_server.access import Access, AccessError, open_access
from linnet_server.access_log import log_http
from linnet_server.budget import BodyBudget
from linnet_server.catalog import Catalog
from linnet_server.control import BODY_LIMIT_BYTES, ControlApp
from linnet_server.dataplane import DataPlane, number_ids
from linnet_server.http1 import MAX_CONNECTIONS, HttpListener
from linnet_server.loading import Loader
from linnet_server.memory import limit_memory, trim
from linnet_server.metrics import Metrics
from linnet_server.public import PublicApp
from linnet_server.records import RevisionFiles
from linnet_server.settings import Settings
from linnet_server.standalone import ModelPathError, find_models

if TYPE_CHECKING:
    from linnet_server.public_grpc import GrpcListener
    from linnet_server.span_export import SpanExport

log = logging.getLogger(__name__)


class Listener(Protocol):
    """An address where requests come in."""

    async def start(self) -> None:
        """Listen."""

    async def stop(self, grace_s: float) -> None:
        """Take no new requests; those under way have ``grace_s`` seconds to end."""


class StartError(Exception):
    """The server cannot start; the message says what to do."""


async def serve(settings: Settings) -> None:
    """Run the server until SIGTERM or SIGINT.

    Raises:
        StartError: An address is taken, the control socket or the port file cannot be made, a file
            of tokens or certificates is of no use, a bare model cannot be served, or what spans
            need is not installed.
    """
    try:
        access = open_access(settings.token_file, settings.tls)
        bare = find_models(
            settings.model, variant=settings.variant, threads=settings.standalone_threads
        )
    except (AccessError, ModelPathError) as exc:
        raise StartError(str(exc)) from exc
    stopping = asyncio.Event()
    limit_memory(settings.max_memory_bytes)
    _allow_connections()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    with _bind_tcp(*settings.http_address) as http_socket, contextlib.ExitStack() as cleanup:
        control_socket = None
        if settings.control_path is not None:
            control_socket = cleanup.enter_context(_bind_unix(settings.control_path))
        failure: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as background:
                await _run(
                    settings, access, bare, http_socket, control_socket, stopping, background
                )
        except* StartError as group:
            failure = group.exceptions[0]
        if failure is not None:
            raise failure
    log.info("server.stopped")


def _allow_connections() -> None:
    """Let as many connections be open as are taken: the usual limit on files is a quarter of it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MAX_CONNECTIONS
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning("server.few_files", extra={"files": allowed, "connections": MAX_CONNECTIONS})


async def _run(
    settings: Settings,
    access: Access,
    bare: list[RevisionFiles],
    http_socket: socket.socket,
    control_socket: socket.socket | None,
    stopping: asyncio.Event,
    background: asyncio.TaskGroup,
) -> None:
    metrics = Metrics()
    loader = Loader(
        max_threads=settings.threads,
        max_queue=settings.max_queue,
        timeout_s=settings.load_timeout_s,
        engine_cache=settings.engine_directory,
        batch=settings.batch_limits,
    )
    catalog = Catalog(
        metrics,
        loader,
        spawn=background.create_task,
        drain_s=settings.drain_s,
        replace=settings.replace,
    )
    plane = DataPlane(catalog, deadline_s=settings.deadline_s, new_id=number_ids(uuid.uuid4().hex))
    spans = _open_spans(settings.otlp_endpoint, metrics)
    public = PublicApp(plane, metrics, stopping=stopping, tokens=access.tokens, spans=spans)
    budget = BodyBudget(settings.max_body_bytes)
    listeners: list[Listener] = [
        HttpListener(
            public.respond,
            http_socket,
            max_body_bytes=settings.max_body_bytes,
            budget=budget,
            tls=access.tls_context,
            observe=log_http if settings.access_log else None,
        )
    ]
    if control_socket is not None:
        control = ControlApp(catalog, settings.root.resolve(), bare)
        listeners.append(
            HttpListener(control.respond, control_socket, max_body_bytes=BODY_LIMIT_BYTES)
        )
    ports = [http_socket.getsockname()[1]]
    if settings.grpc is not None:
        grpc_listener = _bind_grpc(plane, settings.grpc, settings, access, stopping, budget, spans)
        listeners.append(grpc_listener)
        ports.append(grpc_listener.port)
    for listener in listeners:
        await listener.start()
    if spans is not None:
        spans.start()
    if settings.port_file is not None:
        _write_ports(settings.port_file, ports)
    log.info("server.listening", extra={"ports": ports, "pid": os.getpid()})
    async with asyncio.TaskGroup() as tasks:
        boot = tasks.create_task(_boot(catalog, settings, bare, stopping))
        await stopping.wait()
        boot.cancel()
        await asyncio.gather(*(listener.stop(settings.drain_s) for listener in listeners))
        if spans is not None:
            await spans.stop()
    failures = catalog.failures() if settings.standalone else ()
    await catalog.close()
    if failures:
        raise StartError("; ".join(failures))


async def _boot(
    catalog: Catalog, settings: Settings, bare: list[RevisionFiles], stopping: asyncio.Event
) -> None:
    """Load what is to be served; with bare models nobody mends one later, so that is the end."""
    await catalog.boot(None if settings.standalone else settings.root.resolve(), bare)
    if settings.standalone and catalog.failures():
        stopping.set()
    _settle()


def _settle() -> None:
    """Give back what the start alone needed, and never look at the rest for garbage again."""
    gc.collect()
    gc.freeze()
    trim()


def _bind_tcp(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as exc:
        sentence = (exc.strerror or str(exc)).partition(" (while attempting")[0]
        raise StartError(f"cannot listen on {host}:{port}: {sentence}") from exc


@contextlib.contextmanager
def _bind_unix(path: Path) -> Iterator[socket.socket]:
    """Yield a socket that listens at ``path``, mode 0600 from its first moment; then remove it."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_stale(path)
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen()
    except OSError as exc:
        listener.close()
        reason = "the path is too long" if exc.errno is None else exc.strerror
        raise StartError(f"cannot make the control socket {path}: {reason}") from exc
    inode = path.stat().st_ino
    try:
        yield listener
    finally:
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == inode:
                path.unlink()


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise StartError(f"{path} is there, and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink()
            return
    raise StartError(f"another server answers on {path}")


def _bind_grpc(
    plane: DataPlane,
    address: str,
    settings: Settings,
    access: Access,
    stopping: asyncio.Event,
    budget: BodyBudget,
    spans: "SpanExport | None",
) -> "GrpcListener":
    from linnet_server.public_grpc import GrpcListener  # noqa: PLC0415 - 10 MiB, where wanted

    try:
        return GrpcListener(
            plane,
            address=address,
            max_body_bytes=settings.max_body_bytes,
            budget=budget,
            stopping=stopping,
            access=access,
            access_log=settings.access_log,
            spans=spans,
        )
    except OSError as exc:
        raise StartError(str(exc)) from exc


def _open_spans(endpoint: str | None, metrics: Metrics) -> "SpanExport | None":
    if endpoint is None:
        return None
    try:
        from linnet_server.span_export import SpanExport  # noqa: PLC0415 - 8 MiB, where wanted
    except ModuleNotFoundError as exc:
        raise StartError(
            f"--otlp-endpoint {endpoint} needs the extra 'tracing', and {exc.name} is not there: "
            "pip install 'linnet[agent,tracing]', or unset the endpoint"
        ) from exc
    return SpanExport(endpoint, fates=metrics.bind_spans(), clock_ns=time.time_ns)


def _write_ports(path: Path, ports: Sequence[int]) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text("".join(f"{port}\n" for port in ports))
        draft.replace(path)
    except OSError as exc:
        raise StartError(f"cannot write {path}: {exc.strerror}") from exc
