"""A real Prometheus that scrapes what nodes export, without the nodes."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import ClientSession, web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from linnet_operator.presets import Signal, Subject
from linnet_operator.prometheus import PrometheusSource
from linnet_testbed import Settings, TestbedUnavailableError
from linnet_testbed.binaries import Binaries
from linnet_testbed.progress import Progress

LABELS = ("namespace", "deployment", "revision", "variant")
OF = ("factory", "digits")
SUBJECT = Subject(namespace=OF[0], deployment=OF[1])


class Exporter:
    """What a node's server exports, without the server."""

    def __init__(self):
        self.restart()

    def restart(self):
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "linnet_inference_requests", "r", (*LABELS, "outcome"), registry=self.registry
        )
        self.feedback = Counter(
            "linnet_inference_feedback", "f", (*LABELS, "verdict"), registry=self.registry
        )
        self.durations = Histogram(
            "linnet_inference_duration_seconds",
            "d",
            (*LABELS, "outcome"),
            buckets=(0.01, 0.05, 1.0),
            registry=self.registry,
        )
        self.heat = Gauge("camera_temperature_celsius", "h", registry=self.registry)
        self.triton_good = Counter(
            "nv_inference_request_success", "s", ("model", "version"), registry=self.registry
        )
        self.triton_bad = Counter(
            "nv_inference_request_failure",
            "f",
            ("model", "version", "reason"),
            registry=self.registry,
        )

    def serve(self, revision, *, good=0, bad=0, variant="onnx"):
        labels = (*OF, revision, variant)
        self.requests.labels(*labels, "success").inc(good)
        self.requests.labels(*labels, "failure").inc(bad)
        self.requests.labels(*labels, "rejected").inc(1000)
        self.feedback.labels(*labels, "correct").inc(good)
        self.feedback.labels(*labels, "wrong").inc(bad)
        for index in range(good + bad):
            self.durations.labels(*labels, "success").observe(0.001 if index < good else 0.2)

    def serve_triton(self, version, *, good=0, bad=0, rejected=0):
        self.triton_good.labels("digits", version).inc(good)
        self.triton_bad.labels("digits", version, "BACKEND").inc(bad)
        self.triton_bad.labels("digits", version, "REJECTED").inc(rejected)

    async def scrape(self, _request):
        # Triton names its counters without the _total that this library adds.
        body = generate_latest(self.registry).replace(b"_success_total", b"_success")
        body = body.replace(b"_failure_total", b"_failure")
        return web.Response(body=body, content_type="text/plain")


@pytest.fixture
async def exporters():
    found, runners, targets = {}, [], []
    for node in ("edge-a", "edge-b"):
        found[node] = Exporter()
        app = web.Application()
        app.router.add_get("/metrics", found[node].scrape)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        runners.append(runner)
        address = f"127.0.0.1:{runner.addresses[0][1]}"
        targets.append({"targets": [address], "labels": {"node": node}})
    yield found, targets
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def prometheus_url(exporters, tmp_path):
    settings = Settings.from_environment()
    try:
        program = Binaries(settings.cache_home, Progress(quiet=True)).prometheus()
    except TestbedUnavailableError as error:
        pytest.skip(str(error))
    (tmp_path / "nodes.json").write_text(json.dumps(exporters[1]))
    config = {
        "global": {"scrape_interval": "400ms", "scrape_timeout": "400ms"},
        "scrape_configs": [
            {"job_name": "n", "file_sd_configs": [{"files": [str(tmp_path / "nodes.json")]}]}
        ],
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))
    port = await free_port()
    process = await asyncio.create_subprocess_exec(
        program,
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(60), ClientSession() as session:
            while not await is_ready(session, url):  # noqa: ASYNC110 - another process has no event for us
                await asyncio.sleep(0.05)
        yield url
    finally:
        process.terminate()
        await process.wait()


@pytest.fixture
async def source(prometheus_url):
    async with PrometheusSource(prometheus_url) as found:
        yield found


async def free_port():
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port


async def is_ready(session, url):
    try:
        async with session.get(f"{url}/-/ready") as answer:
            return answer.status == 200
    except OSError:
        return False


def clock():
    return datetime.now(tz=UTC)  # noqa: TID251 - the scrapes of a real Prometheus are in real time


@pytest.fixture
def until(source):
    """Wait until nodes were scraped with ``wanted``: (node, revision) -> newest requests."""

    async def wait(wanted, subject=SUBJECT):
        async with asyncio.timeout(90):
            while True:
                found = await source.newest_common_time(
                    subject, now=clock(), lag_limit=timedelta(seconds=30)
                )
                if found.at is not None:
                    counts = await source.counts(Signal(kind="Errors"), subject, times=[found.at])
                    newest = {k: v[0] and v[0][1] for k, v in counts.by_node_revision.items()}
                    if all(newest.get(key) == value for key, value in wanted.items()):
                        return found.at
                await asyncio.sleep(0.05)

    return wait
