"""A real Prometheus that scrapes what nodes export, without the nodes."""

import asyncio
import collections
import json
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from linnet_operator.presets import Signal, Subject
from linnet_operator.prometheus import PrometheusSource
from linnet_testbed import Settings, TestbedUnavailableError, ports
from linnet_testbed.binaries import Binaries
from linnet_testbed.progress import Progress
from linnet_testbed.waiting import answers, until

LABELS = ("namespace", "deployment", "revision", "variant")
OF = ("factory", "digits")
SUBJECT = Subject(namespace=OF[0], deployment=OF[1])


class Exporter:
    """What a node's server exports, without the server."""

    def __init__(self):
        self._lock = threading.RLock()
        self.restart()

    def restart(self):
        """Begin anew, with all counters at zero."""
        with self._lock:
            self._make()

    def _make(self):
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
        with self._lock:
            self._count((*OF, revision, variant), good, bad)

    def _count(self, labels, good, bad):
        self.requests.labels(*labels, "success").inc(good)
        self.requests.labels(*labels, "failure").inc(bad)
        self.requests.labels(*labels, "rejected").inc(1000)
        self.feedback.labels(*labels, "correct").inc(good)
        self.feedback.labels(*labels, "wrong").inc(bad)
        for index in range(good + bad):
            self.durations.labels(*labels, "success").observe(0.001 if index < good else 0.2)

    def serve_triton(self, version, *, good=0, bad=0, rejected=0):
        with self._lock:
            self.triton_good.labels("digits", version).inc(good)
            self.triton_bad.labels("digits", version, "BACKEND").inc(bad)
            self.triton_bad.labels("digits", version, "REJECTED").inc(rejected)

    def scrape(self):
        # Triton names its counters without the _total that this library adds.
        with self._lock:
            body = generate_latest(self.registry).replace(b"_success_total", b"_success")
        return body.replace(b"_failure_total", b"_failure")


class Prometheus:
    """A real one, and the HTTP servers of this process that it scrapes."""

    def __init__(self, program, home, servers, config):
        (home / "prometheus.yml").write_text(json.dumps(config))
        self._servers = servers
        self.url = f"http://127.0.0.1:{ports.any_free()}"
        self._process = subprocess.Popen(
            [
                program,
                f"--config.file={home / 'prometheus.yml'}",
                f"--storage.tsdb.path={home / 'data'}",
                f"--web.listen-address={self.url.removeprefix('http://')}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @property
    def has_ended(self):
        return self._process.poll() is not None

    def close(self):
        self._process.terminate()
        self._process.wait()
        for server in self._servers:
            server.shutdown()
            server.server_close()


class Watched:
    """Two nodes' exporters, and a Prometheus of their own that scrapes them."""

    def __init__(self, start_prometheus, *, labels=lambda node: {"node": node}, relabel=()):
        self.exporters = {"edge-a": Exporter(), "edge-b": Exporter()}
        servers = [self._serve(exporter) for exporter in self.exporters.values()]
        targets = [
            {"targets": [f"127.0.0.1:{server.server_port}"], "labels": labels(node)}
            for node, server in zip(self.exporters, servers, strict=True)
        ]
        config = {
            "global": {"scrape_interval": "400ms", "scrape_timeout": "400ms"},
            "scrape_configs": [
                {"job_name": "n", "static_configs": targets, "relabel_configs": list(relabel)}
            ],
        }
        prometheus = start_prometheus(servers, config)
        self.url, self.close = prometheus.url, prometheus.close

    @staticmethod
    def _serve(exporter):
        class Metrics(BaseHTTPRequestHandler):
            def do_GET(self):
                body = exporter.scrape()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Metrics)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server


@pytest.fixture(scope="session")
def start_prometheus(tmp_path_factory):
    """Start one that scrapes ``servers``; whoever starts it closes it."""
    try:
        program = Binaries(
            Settings.from_environment().cache_home, Progress(quiet=True)
        ).prometheus()
    except TestbedUnavailableError as error:
        pytest.skip(str(error))

    def start(servers, config):
        return Prometheus(program, tmp_path_factory.mktemp("prometheus"), servers, config)

    return start


@pytest.fixture(scope="session")
def take_watched(start_prometheus):
    """Return the next one; it was started a test ago: Prometheus takes 5 s to find its targets."""
    waiting = collections.deque()

    def take():
        while len(waiting) < 2:
            waiting.append(Watched(start_prometheus))
        return waiting.popleft()

    yield take
    for watched in waiting:
        watched.close()


@pytest.fixture
def start_watched(start_prometheus):
    """Start one with target labels and relabelings of its own; its address answers."""
    started = []

    def start(**how):
        started.append(Watched(start_prometheus, **how))
        until(lambda: answers(f"{started[-1].url}/-/ready"), 60)
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture
def watched(take_watched):
    found = take_watched()
    until(lambda: answers(f"{found.url}/-/ready"), 60)
    yield found
    found.close()


@pytest.fixture
def exporters(watched):
    return watched.exporters


@pytest.fixture
def prometheus_url(watched):
    return watched.url


@pytest.fixture
async def source(prometheus_url):
    async with PrometheusSource(prometheus_url) as found:
        yield found


def clock():
    return datetime.now(tz=UTC)  # noqa: TID251 - the scrapes of a real Prometheus are in real time


@pytest.fixture(name="until")
def until_scraped(source):
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
