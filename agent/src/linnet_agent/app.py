"""The agent, put together: what follows the hub, one worker a model, and what reports.

- Every loop runs in one TaskGroup; a loop that meets what nobody foresaw is counted, logged and
  begun again.
- Two agents never share a directory: the second one says so and ends.
- It works from the disk before the hub has answered, and without it.
"""

import asyncio
import contextlib
import fcntl
import logging
import math
import os
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Final

from prometheus_client import start_http_server

from linnet_agent.activate import Worker, WorkerView
from linnet_agent.durable import make_directory
from linnet_agent.errors import HubRefusedError, HubUnavailableError
from linnet_agent.fetch.credentials import DockerConfig
from linnet_agent.fetch.directory import DirectoryClient
from linnet_agent.fetch.https import HttpsClient
from linnet_agent.fetch.oci import OciClient
from linnet_agent.fetch.sources import Sources
from linnet_agent.fetch.throttle import Throttle
from linnet_agent.fetch.variants import Capabilities, read_capabilities
from linnet_agent.heartbeat import Heartbeat
from linnet_agent.history import History
from linnet_agent.hub import Hub, Object, TokenFile
from linnet_agent.judge import Judge
from linnet_agent.known_time import KnownTime, Reading
from linnet_agent.memory import give_back, use_one_arena
from linnet_agent.metrics import Metrics, StateRow
from linnet_agent.model_host import HostReporter, host_status
from linnet_agent.monitor import ServerMonitor
from linnet_agent.parts import Parts
from linnet_agent.programs import Programs
from linnet_agent.rehash import Rehash
from linnet_agent.report import StatusReporter
from linnet_agent.results import ResultQueue
from linnet_agent.server import ServerClient, ServerView
from linnet_agent.settings import Settings
from linnet_agent.store import Checkpoint, ModelKey, Store, no_checkpoint
from linnet_agent.sync import NODE_MODELS, TRUST_POLICIES, Desired, Jitter, Link, follow, object_key
from linnet_agent.trust import TrustStore
from linnet_agent.tuf import TufRepository
from linnet_api.model_host import ModelHostStatus, Trust

log = logging.getLogger(__name__)

_RESTART_S: Final = 5.0
_PARALLEL_FETCHES: Final = 2
"""A node's uplink is thin; two, so that one slow registry does not hold up the other."""

_PROVISIONED_LOOK_S: Final = 30.0
"""So often are the ceiling's and the roots' files read; one stat and a small file each."""

_TUF_LOOK_S: Final = 3600.0
"""A look takes a child's half second; roots rotate in months."""

_START_S: Final = 4.0
_GIVE_BACK_S: Final = 600.0
_THREADS: Final = 8
"""For hashing and writing; a thread more on every core would only wait for the same disk."""

_HOST_BEATS: Final = 6
"""Every so many heartbeats the ModelHost is looked at."""


class AlreadyRunningError(Exception):
    """Another agent has this directory."""


@contextlib.contextmanager
def hold_directory(root: Path) -> Iterator[None]:
    """Be the only agent on ``root`` for as long as the body runs.

    Raises:
        AlreadyRunningError: Another one is there.
    """
    make_directory(root / "run")
    descriptor = os.open(
        root / "run" / "agent.lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyRunningError(
                f"another linnet-agent is at work on {root}; one directory is for one agent"
            ) from error
        yield
    finally:
        os.close(descriptor)


class Agent:
    """One agent."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], datetime],
        jitter: Jitter,
        checkpoint: Checkpoint = no_checkpoint,
    ) -> None:
        self._settings = settings
        self._jitter = jitter
        self._clock = clock
        self.metrics = Metrics()
        self._link = Link(on_up=self._greet)
        self._host_news = asyncio.Event()
        self._workers: dict[ModelKey, Worker] = {}
        self._group: asyncio.TaskGroup | None = None
        self._token = TokenFile(settings.token_file)
        self._node_uid: str | None = None
        self._hub = Hub(
            settings.api_server, token_file=settings.token_file, ca_file=settings.ca_file
        )
        self._store = Store(settings.root, checkpoint=checkpoint)
        self._desired = Desired(
            settings.root / "desired", on_change=self._wake_one, node=settings.node
        )
        self._time = KnownTime(settings.root / "trust" / "time")
        self._trust = TrustStore(
            settings.root / "trust",
            ceiling_file=settings.ceiling,
            on_change=self._wake_all,
            clock=lambda: self._read_time().now,
            roots_directory=settings.trust_roots,
        )
        self._judge = Judge(
            self._trust,
            node=settings.node,
            read_time=self._read_time,
            prove_time=self._time.prove,
        )
        self._tuf = None
        if settings.tuf_directory is not None:
            self._tuf = TufRepository(
                settings.tuf_directory, cache=settings.root / "trust" / "tuf.json"
            )
        self._monitor = ServerMonitor(ServerClient(settings.socket), on_change=self._wake_all)
        self._sources = _sources(settings, jitter=jitter)
        self._rehash = Rehash(
            self._store,
            self.metrics,
            interval_s=settings.rehash_interval,
            on_corrupt=self._wake_all,
        )
        self._reporter = StatusReporter(
            self._hub,
            self._desired,
            self._link,
            view=self._view,
            clock=clock,
            retry_s=max(2.0, settings.heartbeat),
        )
        self._history = History(
            self._reporter,
            ResultQueue(settings.root / "results"),
            hub=self._hub,
            link=self._link,
            desired=self._desired,
            node=settings.node,
            view=self._view,
            clock=clock,
        )
        self._host = HostReporter(self._hub, node=settings.node, status=self._host_status)
        self._own_capabilities = read_capabilities()
        self._parts = Parts(
            store=self._store,
            desired=self._desired,
            judge=self._judge,
            monitor=self._monitor,
            sources=self._sources,
            capabilities=self._capabilities,
            metrics=self.metrics,
            programs=Programs(settings.programs),
            clock=clock,
            jitter=jitter,
            refresh_trust=self._refresh_trust,
            node_uid=lambda: self._node_uid,
            self_test_timeout_s=settings.self_test_timeout,
            retry_max_s=settings.retry_max,
            fetch_spread_s=settings.fetch_spread,
            fetch_slots=asyncio.Semaphore(_PARALLEL_FETCHES),
            wanted_staging=self._wanted_staging,
            pinned=self._pinned,
        )
        self.metrics.show_states(self._state_rows)

    async def run(self) -> None:
        """Work until it is cancelled."""
        try:
            self._store.prepare()
        except OSError as error:  # a disk that has become read-only still holds what serves
            self.metrics.count_disk_fault(error)
            log.error("agent.disk.fault", extra={"cause": str(error)})  # noqa: TRY400 - expected
        self._trust.load()
        if self._tuf is not None:
            self._trust.take_tuf_root(self._tuf.state.root)
        self._desired.load()
        self._node_uid = self._token.node_uid()
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for key in self._known_keys():
                    self._wake_one(key)
                group.create_task(self._keep("beat", self._beat))
                group.create_task(self._keep("orders", self._follow_orders))
                group.create_task(self._keep("trust", self._follow_trust))
                group.create_task(self._keep("report", self._reporter.run))
                group.create_task(self._keep("history", self._history.run))
                group.create_task(self._keep("host", self._tell_host))
                group.create_task(self._keep("rehash", self._rehash.run))
                group.create_task(self._keep("provisioned", self._watch_provisioned))
                group.create_task(self._keep("memory", _stay_small))
        finally:
            self._group = None
            await self._hub.aclose()
            await self._sources.aclose()
            await self._monitor.client.aclose()

    # --- loops

    async def _keep(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        """Run a loop for ever; what nobody foresaw does not end the others."""
        while True:
            try:
                await loop()
            except Exception:
                self.metrics.faults.labels(name).inc()
                log.exception("agent.fault", extra={"loop": name})
            await asyncio.sleep(_RESTART_S)

    async def _beat(self) -> None:
        heartbeat = Heartbeat(
            self._hub,
            self._link,
            node=self._settings.node,
            beat_s=self._settings.heartbeat,
            clock=self._clock,
            jitter=self._jitter,
        )
        while True:
            view = await self._read_server()
            await heartbeat.beat({} if view is None else view.served())
            await heartbeat.pause()

    async def _read_server(self) -> ServerView | None:
        """Return what the server says, or said last: a busy server must not hold up a heartbeat."""
        try:
            async with asyncio.timeout(self._settings.heartbeat / 2):
                return await self._monitor.refresh()
        except TimeoutError:
            return self._monitor.view

    async def _follow_orders(self) -> None:
        await self._find_node_uid()
        await follow(
            self._hub,
            NODE_MODELS,
            {"fieldSelector": f"spec.node.name={self._settings.node}"},
            sink=self._desired,
            link=self._link,
            jitter=self._jitter,
            max_wait_s=self._settings.retry_max,
        )

    async def _follow_trust(self) -> None:
        await follow(
            self._hub,
            TRUST_POLICIES,
            {},
            sink=self._trust,
            link=self._link,
            jitter=self._jitter,
            max_wait_s=self._settings.retry_max,
        )

    async def _tell_host(self) -> None:
        await self._find_node_uid()
        while True:
            try:
                await self._host.report(node_uid=self._node_uid)
            except HubUnavailableError:
                await self._link.wait_restored(self._settings.retry_max)
                continue
            except HubRefusedError as error:
                log.error("host.refused", extra={"cause": str(error)})  # noqa: TRY400 - expected
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.heartbeat * _HOST_BEATS):
                    await self._host_news.wait()
            self._host_news.clear()

    async def _watch_provisioned(self) -> None:
        """Look at what people bring to the machine: ceiling, trusted roots, a TUF repository.

        And at what the disk would not tell at the start.
        """
        looked_at = -math.inf
        while True:
            if self._tuf is not None and monotonic() - looked_at >= _TUF_LOOK_S:
                looked_at = monotonic()
                state = await asyncio.to_thread(self._tuf.refresh, self._read_time().now)
                self._trust.take_tuf_root(state.root)
            self._trust.reload_ceiling()
            self._desired.reload()
            self.metrics.show_trust(self._trust_alarms())
            await asyncio.sleep(min(_PROVISIONED_LOOK_S, self._settings.retry_max))

    def _read_time(self) -> Reading:
        """Return what time it is at least; the hub's word counts when it was heard."""
        system = self._clock()
        if (said := self._hub.date) is not None:
            self._hub.date = None
            self._time.note_hub(said, system=system)
        return self._time.now(system)

    async def _find_node_uid(self) -> None:
        """Ask the hub for the Node's uid, where the token does not say it."""
        while self._node_uid is None:
            try:
                node = await self._hub.get(f"/api/v1/nodes/{self._settings.node}")
            except HubUnavailableError:
                await self._link.wait_restored(self._settings.heartbeat)
            except HubRefusedError as error:
                log.error("node.unknown", extra={"cause": str(error)})  # noqa: TRY400 - expected
                return
            else:
                self._node_uid = str(node["metadata"]["uid"])

    async def _refresh_trust(self) -> None:
        if not self._link.up:
            return
        try:
            listing = await self._hub.list(TRUST_POLICIES, {})
        except (HubUnavailableError, HubRefusedError):
            return
        items: dict[str, Object] = {object_key(item): item for item in listing.items}
        self._trust.replace(items)

    def _greet(self) -> None:
        """The hub is back: tell it all, and try again at once what needs the network."""
        self._host.forget()
        self._wake_all()

    # --- workers

    def _known_keys(self) -> set[ModelKey]:
        on_disk = {model.key for model in self._store.list_models()}
        return on_disk | set(self._desired.all())

    def _wake_one(self, key: ModelKey) -> None:
        worker = self._workers.get(key)
        if worker is None and self._group is not None:
            worker = self._workers[key] = Worker(key, self._parts, self._history)
            self._group.create_task(self._keep(f"model {key}", worker.run))
        if worker is not None:
            worker.notify()
        self._host_news.set()
        self._reporter.mark(key)

    def _wake_all(self) -> None:
        self._host_news.set()
        for key, worker in self._workers.items():
            worker.notify()
            self._reporter.mark(key)

    def _view(self, key: ModelKey) -> WorkerView | None:
        worker = self._workers.get(key)
        return worker.view() if worker is not None and worker.booted else None

    def _wanted_staging(self) -> set[str]:
        orders = [worker.journal.order for worker in self._workers.values()]
        orders += [wanted.order for wanted in self._desired.all().values()]
        return {order.artifact for order in orders if order is not None and order.artifact}

    def _pinned(self) -> Mapping[ModelKey, frozenset[str]]:
        return {key: worker.pinned() for key, worker in self._workers.items() if worker.booted}

    def _capabilities(self) -> Capabilities:
        """Return what this node can run: what is installed here, and what the server has."""
        abilities = self._monitor.abilities
        if abilities is None:
            return self._own_capabilities
        return replace(
            self._own_capabilities,
            runtimes=abilities.runtimes,
            accelerators=abilities.accelerators,
        )

    # --- what there is to tell

    def _host_status(self, before: ModelHostStatus) -> ModelHostStatus:
        return host_status(
            root=self._settings.root,
            node_uid=self._node_uid,
            trust=Trust(
                ceiling=self._trust.ceiling is not None,
                roots_version=self._trust.hash,
                loosened=self._trust.loosened,
                stale=self._trust.stale or self._is_tuf_stale(),
            ),
            orphans=self._orphans(),
            gpu=self._monitor.abilities.gpu if self._monitor.abilities else "",
            before=before,
            now=self._clock(),
        )

    def _trust_alarms(self) -> Mapping[str, bool]:
        alarms = self._trust.alarms
        return {**alarms, "Stale": alarms["Stale"] or self._is_tuf_stale()}

    def _is_tuf_stale(self) -> bool:
        return self._tuf is not None and self._tuf.state.is_stale(self._read_time().now)

    def _orphans(self) -> list[str]:
        """Return what is served and no order names; nothing before the hub has spoken."""
        if not self._desired.synced:
            return []
        return [
            str(key)
            for key, worker in self._workers.items()
            if self._desired.get(key) is None and worker.view().current is not None
        ]

    def _state_rows(self) -> list[StateRow]:
        return [_state_row(worker) for _, worker in sorted(self._workers.items())]


async def _stay_small() -> None:
    """Give memory back: soon, for a start takes most of it, and then now and again."""
    await asyncio.sleep(_START_S)
    while True:
        give_back()
        await asyncio.sleep(_GIVE_BACK_S)


def _state_row(worker: Worker) -> StateRow:
    view = worker.view()
    order = view.journal.order
    return StateRow(
        namespace=worker.key.namespace,
        deployment=worker.key.deployment,
        revision=(order.revision or "") if order is not None else "",
        state=str(view.journal.state),
        alarm="" if view.alarm is None else str(view.alarm.reason),
    )


def _sources(settings: Settings, *, jitter: Jitter) -> Sources:
    throttle = Throttle(settings.fetch_rate)
    config = settings.docker_config
    return Sources(
        {
            "oci": OciClient(
                mirrors=settings.registry_mirrors,
                credentials=None if config is None else DockerConfig(config),
                jitter=jitter,
                throttle=throttle,
            ),
            "https": HttpsClient(
                mirrors=settings.registry_mirrors, jitter=jitter, throttle=throttle
            ),
            "file": DirectoryClient(roots=settings.file_roots),
        }
    )


async def run_agent(
    settings: Settings,
    *,
    clock: Callable[[], datetime],
    jitter: Jitter,
    checkpoint: Checkpoint = no_checkpoint,
) -> None:
    """Run one agent until SIGTERM or SIGINT.

    Raises:
        AlreadyRunningError: Another agent has the directory.
    """
    use_one_arena()
    threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="agent")
    asyncio.get_running_loop().set_default_executor(threads)
    with hold_directory(settings.root):
        agent = Agent(settings, clock=clock, jitter=jitter, checkpoint=checkpoint)
        host, port = settings.metrics_address
        server, _thread = start_http_server(port, host, registry=agent.metrics.registry)
        log.info("agent.started", extra={"node": settings.node, "metrics_port": server.server_port})
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        work = asyncio.ensure_future(agent.run())
        stop = asyncio.ensure_future(ended.wait())
        await asyncio.wait((work, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not work.done():
            work.cancel()
        await asyncio.gather(work, stop, return_exceptions=ended.is_set())
        server.shutdown()
        log.info("agent.stopped", extra={"node": settings.node})
