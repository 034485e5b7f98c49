"""The metrics source on a real Prometheus that scrapes servers which restart and vanish."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import ClientSession, web
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from linnet_operator.judge.counters import node_counts, node_histories
from linnet_operator.presets import Signal, Subject
from linnet_operator.prometheus import PrometheusSource, fixed_times, step_times
from linnet_testbed import Settings, TestbedUnavailableError
from linnet_testbed.binaries import Binaries
from linnet_testbed.progress import Progress

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

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

    def serve(self, revision, *, good=0, bad=0, variant="onnx"):
        labels = (*OF, revision, variant)
        self.requests.labels(*labels, "success").inc(good)
        self.requests.labels(*labels, "failure").inc(bad)
        self.requests.labels(*labels, "rejected").inc(1000)
        self.feedback.labels(*labels, "correct").inc(good)
        self.feedback.labels(*labels, "wrong").inc(bad)
        for index in range(good + bad):
            self.durations.labels(*labels, "success").observe(0.001 if index < good else 0.2)

    async def scrape(self, _request):
        return web.Response(body=generate_latest(self.registry), content_type="text/plain")


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
async def source(exporters, tmp_path):
    settings = Settings.from_environment()
    try:
        program = Binaries(settings.cache_home, Progress(quiet=True)).prometheus()
    except TestbedUnavailableError as error:
        pytest.skip(str(error))
    (tmp_path / "nodes.json").write_text(json.dumps(exporters[1]))
    config = {
        "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"},
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
        async with PrometheusSource(url) as found:
            yield found
    finally:
        process.terminate()
        await process.wait()


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


async def until(source, wanted):
    """Wait until both nodes were scraped with ``wanted``: (node, revision) -> newest requests."""
    async with asyncio.timeout(30):
        while True:
            found = await source.newest_common_time(
                SUBJECT, now=clock(), lag_limit=timedelta(seconds=30)
            )
            if found.at is not None:
                counts = await source.counts(Signal(kind="Errors"), SUBJECT, times=[found.at])
                newest = {k: v[0] and v[0][1] for k, v in counts.by_node_revision.items()}
                if all(newest.get(key) == value for key, value in wanted.items()):
                    return found.at
            await asyncio.sleep(0.05)


async def test_counts_of_two_nodes_through_a_restart_and_a_new_revision(exporters, source):
    a, b = exporters[0]["edge-a"], exporters[0]["edge-b"]
    a.serve("r1", good=100, bad=4)
    a.serve("r1", good=10, bad=1, variant="onnx-int8")
    b.serve("r1", good=50)
    began = await until(source, {("edge-a", "r1"): 115, ("edge-b", "r1"): 50})
    b.restart()
    b.serve("r1", good=20, bad=2)
    a.serve("r2", good=30, bad=3)
    ended = await until(source, {("edge-a", "r2"): 33, ("edge-b", "r1"): 22})
    times = step_times(start=began, end=ended, interval=timedelta(milliseconds=200))

    async def look(signal):
        counts = await source.counts(signal, SUBJECT, times=times)
        assert not counts.no_data, counts.no_data
        (candidate,) = node_counts(
            counts, revision="r2", seconds_by_node={"edge-a": 1.0}, born_at_zero=True
        )
        (stable,) = node_counts(
            counts, revision="r1", seconds_by_node={"edge-b": 1.0}, born_at_zero=False
        )
        return (candidate.failures, candidate.requests, stable.failures, stable.requests), counts

    errors, first = await look(Signal(kind="Errors"))
    wrong, _ = await look(Signal(kind="Wrong"))
    slow, _ = await look(Signal(kind="Slow", over=timedelta(milliseconds=50)))
    assert errors == wrong == slow == (3.0, 33.0, 2.0, 22.0)

    _, again = await look(Signal(kind="Errors"))
    assert again == first


async def test_history_windows_before_the_first_scrape_are_missing(exporters, source):
    a, b = exporters[0]["edge-a"], exporters[0]["edge-b"]
    a.serve("r1", good=10)
    b.serve("r1", good=10)
    began = await until(source, {("edge-a", "r1"): 10, ("edge-b", "r1"): 10})
    a.serve("r1", good=5, bad=1)
    ended = await until(source, {("edge-a", "r1"): 16, ("edge-b", "r1"): 10})
    step = ended - began
    times = fixed_times(start=ended - 3 * step - timedelta(hours=1), end=ended, step=step)[-4:]

    counts = await source.counts(Signal(kind="Errors"), SUBJECT, times=times)
    one, two = node_histories(counts, None, revision="r1", nodes=["edge-a", "edge-b"])

    assert one.windows[0] is None
    assert one.windows[-1] == (1.0, 6.0)
    assert two.windows[-1] == (0.0, 0.0)


async def test_a_threshold_on_the_real_thing(exporters, source):
    exporters[0]["edge-a"].serve("r1", good=7)
    exporters[0]["edge-b"].serve("r1", good=7)
    at = await until(source, {("edge-a", "r1"): 7, ("edge-b", "r1"): 7})
    before = at - timedelta(hours=1)

    one = await source.samples(
        'sum(linnet_inference_requests_total{outcome="success"})', [before, at]
    )
    many = await source.samples('linnet_inference_requests_total{outcome="success"}', [at])
    none = await source.samples("nothing_of_that_name", [at])
    broken = await source.samples("sum(", [at])

    assert [each.value for each in one.samples] == [None, 14.0]
    assert one.samples[0].problem.startswith("the query gave no series")
    assert (many.samples[0].value, many.samples[0].series) == (None, 2)
    assert none.samples[0].problem.startswith("the query gave no series")
    assert "check the query" in broken.no_data
