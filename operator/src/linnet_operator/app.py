"""The operator's process: connect, fill the cache, feed it, turn, stop.

Rules:
- Nothing is planned before every kind was listed once.
- SIGTERM and SIGINT end the turns first, then the feed.
- A feed that dies takes the process with it, non-zero: Kubernetes starts it anew.
"""

import asyncio
import json
import logging
import os
import platform
import random
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Final

import aiohttp
import kopf
import prometheus_client
from aiohttp import web

from linnet_api.names import DEPLOYMENT_LABEL
from linnet_operator import handlers, metrics
from linnet_operator.cache import FleetCache
from linnet_operator.credentials import Credentials
from linnet_operator.errors import KubeError, KubeNotFoundError
from linnet_operator.handlers import WATCHED
from linnet_operator.heartbeats import Heartbeats
from linnet_operator.kube import CONTROLLER_REVISIONS, Kube, KubeAdapter, Resource
from linnet_operator.learning import Workers
from linnet_operator.looks import Looks
from linnet_operator.loop import Shell, Supervisor
from linnet_operator.prometheus import PrometheusSource
from linnet_operator.resolve import Resolver
from linnet_operator.settings import Settings

log = logging.getLogger(__name__)

_LAG_PROBE_S: Final = 0.25
_LAG_WINDOW: Final = 40
_KINDS_WAIT_S: Final = 60.0


def utc_now() -> datetime:
    """Return the time; the one clock of the operator."""
    return datetime.now(UTC)


async def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        OperatorError: The API server cannot be used; the message says why.
        RuntimeError: The feed has died.
    """
    stop = asyncio.Event()
    _stop_on_signals(stop)
    async with AsyncExitStack() as stack:
        kube = await stack.enter_async_context(_connected(settings))
        cache = FleetCache()
        heartbeats = Heartbeats(kube, clock=utc_now, poll_s=settings.lease_poll_s)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        sources = {
            name: await stack.enter_async_context(_prometheus(settings, name, url))
            for name, url in settings.prometheus.items()
        }
        workers = Workers(settings.judge_workers)
        stack.callback(workers.close)
        shell = Shell(
            kube=kube,
            cache=cache,
            heartbeats=heartbeats,
            resolver=Resolver(session, mirrors=settings.registry_mirrors),
            make_looker=lambda: Looks(kube, cache, workers, sources=sources, clock=utc_now),
            clock=utc_now,
            jitter=random.random,
            reporter=platform.node(),
            resync_s=settings.resync_s,
            soak_s=settings.soak_s,
        )
        supervisor = Supervisor(shell)
        cache.listen(supervisor.notice)
        health = Health()
        await stack.enter_async_context(_serve_metrics(settings, cache, health))
        await fill(kube, cache, wait_s=_KINDS_WAIT_S)
        log.info("operator.started", extra={"objects": sum(cache.counts().values())})
        async with asyncio.TaskGroup() as group:
            end_feed = asyncio.Event()
            feed = group.create_task(
                _feed(settings, cache, health, stop=stop, end=end_feed), name="feed"
            )
            await health.fed.wait()
            tasks = [
                group.create_task(supervisor.run(), name="supervisor"),
                group.create_task(_relist(kube, cache, every_s=settings.relist_s), name="relist"),
                group.create_task(_measure_lag(health), name="lag"),
            ]
            await stop.wait()
            log.info("operator.stopping")
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            end_feed.set()
            await feed
    log.info("operator.stopped")


def _prometheus(settings: Settings, name: str, url: str) -> PrometheusSource:
    directory = settings.prometheus_auth.get(name)
    return PrometheusSource(
        url,
        timeout=timedelta(seconds=settings.prometheus_timeout_s),
        credentials=Credentials(Path(directory)) if directory else None,
    )


class Health:
    """Whether the feed has begun, and when the loop last turned."""

    def __init__(self) -> None:
        self.fed = asyncio.Event()
        self.turned_at = monotonic()


async def fill(kube: Kube, cache: FleetCache, *, wait_s: float) -> None:
    """List every kind once; wait for kinds that are not there yet.

    Raises:
        KubeNotFoundError: A kind is still not there after ``wait_s``.
    """
    give_up_at = monotonic() + wait_s
    for resource in (CONTROLLER_REVISIONS, *WATCHED):
        while True:
            try:
                await _list_into(kube, cache, resource)
                break
            except KubeNotFoundError:
                if monotonic() > give_up_at:
                    raise
                log.warning("operator.kind.missing", extra={"kind": resource.kind})
                await asyncio.sleep(1.0)


async def _list_into(kube: Kube, cache: FleetCache, resource: Resource) -> None:
    known = cache.uids(resource)
    listed: set[str] = set()
    labels = DEPLOYMENT_LABEL if resource is CONTROLLER_REVISIONS else ""
    async for page in kube.list_pages(resource, labels=labels):
        for body in page:
            listed.add(body["metadata"]["uid"])
            cache.put(resource, body)
    cache.forget_missing(resource, listed, known_before=known)


async def _relist(kube: Kube, cache: FleetCache, *, every_s: float) -> None:
    """List all again now and then: a watch that began anew does not tell what was deleted."""
    while True:
        await asyncio.sleep(every_s)
        try:
            await fill(kube, cache, wait_s=0)
        except KubeError as error:
            log.warning("operator.relist.failed", extra={"reason": str(error)})


async def _feed(
    settings: Settings,
    cache: FleetCache,
    health: Health,
    *,
    stop: asyncio.Event,
    end: asyncio.Event,
) -> None:
    """Run Kopf until ``end``; when it returns earlier, everything stops."""
    if settings.kubeconfig is not None:
        # Kopf's login reads the variable; it is the same file that our own adapter reads.
        os.environ["KUBECONFIG"] = settings.kubeconfig
    ready = asyncio.Event()
    registry = handlers.make_registry(cache, kubeconfig=settings.kubeconfig)

    async def note_ready() -> None:
        await ready.wait()
        # Kopf has put its own handlers in the place of ours.
        _stop_on_signals(stop)
        health.fed.set()

    async with asyncio.TaskGroup() as group:
        noting = group.create_task(note_ready())
        try:
            await kopf.operator(
                registry=registry,
                settings=handlers.make_settings(),
                standalone=True,
                clusterwide=True,
                stop_flag=end,
                ready_flag=ready,
            )
        finally:
            noting.cancel()
            stop.set()
            health.fed.set()


async def _measure_lag(health: Health) -> None:
    lags: list[float] = []
    while True:
        due = monotonic() + _LAG_PROBE_S
        await asyncio.sleep(_LAG_PROBE_S)
        health.turned_at = monotonic()
        lags = [*lags[-_LAG_WINDOW + 1 :], max(0.0, health.turned_at - due)]
        metrics.LOOP_LAG.set(max(lags))


@asynccontextmanager
async def _connected(settings: Settings) -> AsyncIterator[KubeAdapter]:
    kube = await KubeAdapter.connect(
        settings.kubeconfig,
        jitter=random.random,
        writes_per_s=settings.writes_per_s,
        burst=settings.writes_burst,
    )
    try:
        yield kube
    finally:
        await kube.close()


@asynccontextmanager
async def _serve_metrics(
    settings: Settings, cache: FleetCache, health: Health
) -> AsyncIterator[None]:
    """Serve /metrics, and /healthz that answers 200 once the feed has begun."""

    async def show_metrics(_request: web.Request) -> web.Response:
        for kind, count in cache.counts().items():
            metrics.CACHE_OBJECTS.labels(kind=kind).set(count)
        body = prometheus_client.generate_latest(metrics.REGISTRY)
        return web.Response(
            body=body, headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST}
        )

    async def show_health(_request: web.Request) -> web.Response:
        ok = health.fed.is_set()
        return web.Response(
            text=json.dumps({"synced": ok}),
            status=200 if ok else 503,
            content_type="application/json",
        )

    application = web.Application()
    application.router.add_get("/metrics", show_metrics)
    application.router.add_get("/healthz", show_health)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    host, port = settings.metrics_address
    try:
        await web.TCPSite(runner, host, port).start()
        yield
    finally:
        await runner.cleanup()


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
