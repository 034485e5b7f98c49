"""Faults of a metrics source, from a server that misbehaves as a real one rarely does."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web

from linnet_operator.presets import Signal, Subject
from linnet_operator.prometheus import PrometheusSource, fixed_times, step_times

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ERRORS = Signal(kind="Errors")
SUBJECT = Subject(namespace="factory", deployment="digits")


class Server:
    """Answers every query with one prepared answer."""

    def __init__(self):
        self.body = ""
        self.status = 200
        self.delay = asyncio.Event()
        self.delay.set()
        self.asked = []
        self.url = ""

    async def answer(self, request):
        self.asked.append((request.path, dict(await request.post())))
        await self.delay.wait()
        return web.Response(text=self.body, status=self.status)

    def says(self, kind, result, **more):
        self.body = json.dumps(
            {"status": "success", "data": {"resultType": kind, "result": result}, **more}
        )


@pytest.fixture
async def server():
    found = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", found.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    found.delay.set()
    await runner.cleanup()


@pytest.fixture
async def source(server):
    async with PrometheusSource(server.url, timeout=timedelta(seconds=60)) as found:
        yield found


async def ask(source, times=(NOON, NOON + timedelta(seconds=5)), signal=ERRORS):
    return await source.counts(signal, SUBJECT, times=times)


def row(value, **labels):
    return {"metric": labels, "value": [NOON.timestamp(), value]}


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (503, '{"status":"error","error":"shutting down"}', "answered 503: shutting down"),
        (422, '{"status":"error","error":"bad match"}', "check the query"),
        (200, "<html>login</html>", "no JSON"),
        (302, "", "no JSON"),
        (200, "[]", "no reason given"),
        (200, '{"status":"success"}', "without data"),
        (200, '{"status":"success","data":{"resultType":"vector"}}', "vector for a range"),
        (200, '{"status":"success","data":{"resultType":"matrix"}}', "not a matrix"),
        (200, '{"status":"success","data":{"resultType":"matrix","result":[7]}}', "not a matrix"),
    ],
)
async def test_a_broken_answer_is_no_data_with_a_sentence(server, source, status, body, words):
    server.status, server.body = status, body

    counts = await ask(source)

    assert words in counts.no_data
    assert server.url in counts.no_data
    assert counts.by_node_revision == {}


def matrix(*rows, **more):
    return json.dumps(
        {"status": "success", "data": {"resultType": "matrix", "result": rows}, **more}
    )


AT = NOON.timestamp()
LABELS = {"node": "a", "revision": "r", "outcome": "success"}


@pytest.mark.parametrize(
    "body",
    [
        "[" * 200_000,
        '{"a":' * 200_000,
        matrix({"metric": {**LABELS, "node": ["a"]}, "values": [[AT, "1"]]}),
        matrix({"metric": {**LABELS, "node": "\ud800"}, "values": [[AT, "1"]]}),
        matrix({"metric": [["node", "a"]], "values": [[AT, "1"]]}),
        matrix({"metric": LABELS, "values": [["inf", "1"]]}),
        matrix({"metric": LABELS, "values": [[10**400, "1"]]}),
        matrix({"metric": LABELS, "values": [[AT + 2, "1"]]}),
        matrix({"metric": LABELS, "values": [[AT - 5, "1"]]}),
        matrix({"metric": LABELS, "values": [[AT, "1"], [AT, "2"]]}),
        matrix(*[{"metric": LABELS, "values": [[AT, "1"]]}] * 2),
    ],
    ids=[
        "arrays too deep",
        "objects too deep",
        "a label that is no text",
        "half a character",
        "labels in a list",
        "no time",
        "a time too large",
        "aligned to other times",
        "before what was asked for",
        "one time twice",
        "one series twice",
    ],
)
async def test_an_answer_of_any_shape_is_no_data_and_never_an_error(server, source, body):
    server.body = body

    counts = await ask(source)

    assert server.url in counts.no_data
    assert counts.by_node_revision == {}


@pytest.mark.parametrize("warnings", [5, "a store is down", [None], ["\ud800"], ["x" * 500] * 100])
async def test_warnings_of_any_shape_are_warnings_that_can_be_written_down(
    server, source, warnings
):
    server.body = matrix(warnings=warnings)

    counts = await ask(source)

    assert 1 <= len(counts.warnings) <= 9
    assert all(len(text.encode()) <= 300 for text in counts.warnings)


async def test_an_error_in_half_characters_can_be_written_down(server, source):
    server.body = r'{"status":"error","error":"bad \ud800"}'

    assert "bad ?" in (await ask(source)).no_data.encode().decode()


@pytest.mark.parametrize("said", ["1e300", "-1e18", "-1", "Inf", str(AT + 3600)])
async def test_a_scrape_at_a_time_that_cannot_be_is_none(server, source, said):
    server.says("vector", [row(said, node="a")])

    found = await source.newest_common_time(SUBJECT, now=NOON, lag_limit=timedelta(seconds=5))

    assert found.at is None
    assert "in the last five minutes" in found.no_data


async def test_a_bucket_edge_that_is_no_number_is_no_data(server, source):
    server.says("vector", [row("1", le="wide")])

    counts = await ask(source, signal=Signal(kind="Slow", over=timedelta(milliseconds=50)))

    assert "edges of buckets that are no numbers" in counts.no_data


async def test_an_edge_that_is_written_otherwise_from_now_on_is_asked_for_again(server, source):
    """As after a move from Prometheus 2 to 3, which writes 1.0 for 1."""
    slow = Signal(kind="Slow", over=timedelta(seconds=1))
    server.says("vector", [row("1", le="1")])
    await ask(source, times=[NOON], signal=slow)
    of = {"node": "a", "revision": "r"}
    server.says("vector", [row("5", **of, le="1.0"), row("9", **of, le="+Inf")])

    missed = await ask(source, times=[NOON], signal=slow)
    counts = await ask(source, times=[NOON], signal=slow)

    assert missed.by_node_revision == {("a", "r"): (None,)}
    assert counts.by_node_revision == {("a", "r"): ((4.0, 9.0),)}


async def test_a_slow_source_is_no_data(server):
    server.delay.clear()

    async with PrometheusSource(server.url, timeout=timedelta(seconds=0.2)) as source:
        counts = await ask(source)

    assert "did not answer within 0.2s" in counts.no_data


async def test_a_source_that_is_gone_is_no_data_and_hides_credentials():
    async with PrometheusSource("http://ana:secret@127.0.0.1:9/prom") as source:
        counts = await ask(source)
        sampled = await source.samples("up", [NOON])
        newest = await source.newest_common_time(SUBJECT, now=NOON, lag_limit=timedelta(seconds=5))

    assert "http://127.0.0.1:9/prom/api/v1/query_range cannot be reached" in counts.no_data
    for said in (counts.no_data, sampled.no_data, newest.no_data):
        assert "secret" not in said
    assert sampled.samples == ()
    assert newest.at is None


async def test_warnings_and_partial_answers_are_passed_on(server, source):
    server.says("matrix", [], warnings=["a store is down"], isPartial=True)

    counts = await ask(source)

    assert counts.warnings == ("a store is down", "the source says that its answer is partial")


async def test_even_times_are_one_query_and_all_others_one_each(server, source):
    server.says("matrix", [])
    await ask(
        source,
        times=fixed_times(start=NOON, end=NOON + timedelta(minutes=1), step=timedelta(seconds=5)),
    )
    ranged = len(server.asked)
    server.says("vector", [row("3", node="a", revision="r", outcome="success")])
    counts = await ask(
        source, times=[NOON, NOON + timedelta(seconds=1), NOON + timedelta(seconds=9)]
    )

    assert ranged == 1
    assert [path for path, _ in server.asked[1:]] == ["/api/v1/query"] * 3
    assert counts.by_node_revision == {("a", "r"): ((0.0, 3.0),) * 3}


async def test_no_query_rates_or_increases_and_labels_are_quoted(server, source):
    server.says("matrix", [])

    await source.counts(
        ERRORS,
        Subject(namespace='a"b\\', deployment="d"),
        times=step_times(
            start=NOON, end=NOON + timedelta(minutes=1), interval=timedelta(seconds=5)
        ),
    )

    ((_, form),) = server.asked
    assert form["query"] == (
        "sum by (node, revision, outcome) (linnet_inference_requests_total"
        '{namespace="a\\"b\\\\",deployment="d",outcome=~"success|failure"})'
    )


async def test_nan_is_no_sample(server, source):
    at = NOON.timestamp()
    server.says(
        "matrix",
        [
            {
                "metric": {"node": "a", "revision": "r", "outcome": "success"},
                "values": [[at, "NaN"], [at + 5, "7"]],
            }
        ],
    )

    counts = await ask(source)

    assert counts.by_node_revision == {("a", "r"): (None, (0.0, 7.0))}


@pytest.mark.parametrize(
    ("result", "kind", "value", "series", "words"),
    [
        ([], "vector", None, 0, "no series"),
        ([row("NaN")], "vector", None, 1, "no measurement"),
        ([row("+Inf")], "vector", None, 1, "no measurement"),
        ([row("1", node="a"), row("2", node="b")], "vector", None, 2, '{node="a"} and {node="b"}'),
        ([row("1.5", node="a")], "vector", 1.5, 1, ""),
        ([NOON.timestamp(), "2"], "scalar", 2.0, 1, ""),
    ],
)
async def test_a_threshold_query_gives_one_number_or_says_why_not(
    server, source, result, kind, value, series, words
):
    server.says(kind, result)

    (sample,) = (await source.samples("q", [NOON])).samples

    assert (sample.value, sample.series) == (value, series)
    assert words in sample.problem
    assert sample.at_s == NOON.timestamp()


async def test_a_query_that_gives_no_number_is_no_answer(server, source):
    server.says("string", [NOON.timestamp(), "x"])

    assert "must give one number" in (await source.samples("q", [NOON])).no_data


async def test_samples_at_even_times_are_one_query_and_each_is_judged_alone(server, source):
    at = NOON.timestamp()
    values = [[at, "1"], [at + 5, "NaN"], [at + 10, "3"]]
    other = [[at + 10, "4"]]
    server.says(
        "matrix",
        [{"metric": {"node": "a"}, "values": values}, {"metric": {"node": "b"}, "values": other}],
        warnings=["a store is down"],
    )
    times = [NOON + timedelta(seconds=5 * index) for index in range(4)]

    one, nan, two, none = (await source.samples("q", times)).samples

    assert len(server.asked) == 1
    assert (one.value, one.problem) == (1.0, "a store is down")
    assert (nan.value, nan.series) == (None, 1)
    assert (two.value, two.series) == (None, 2)
    assert (none.value, none.series) == (None, 0)


async def test_a_bucket_edge_is_found_however_it_is_written(server, source):
    server.says("vector", [row("1", le="5e-02"), row("1", le="+Inf"), row("1", le="0.1")])
    wrong = Signal(kind="Slow", over=timedelta(milliseconds=70))
    right = Signal(kind="Slow", over=timedelta(milliseconds=50))

    refused = await ask(source, signal=wrong)
    await ask(source, signal=right)

    assert refused.no_data == "over: 0.07s is no edge of a bucket; take one of 0.05s, 0.1s"
    assert 'le=~"5e\\\\-02|\\\\+Inf"' in server.asked[-1][1]["query"]
    asked = len(server.asked)
    await ask(source, signal=right)
    assert len(server.asked) == asked + 1


async def test_the_newest_common_time_leaves_laggards_out_and_names_them(server, source):
    at = NOON.timestamp()
    server.says(
        "vector",
        [row(str(at - 1), node="a"), row(str(at - 3), node="b"), row(str(at - 90), node="c")],
    )

    found = await source.newest_common_time(SUBJECT, now=NOON, lag_limit=timedelta(seconds=10))

    assert found.at == NOON - timedelta(seconds=3)
    assert found.behind == ("c",)
    assert found.nodes == ("a", "b", "c")


async def test_a_source_whose_clock_is_behind_only_shifts_the_time(server, source):
    at = NOON.timestamp() - 90
    server.says("vector", [row(str(at), node="a"), row(str(at - 1), node="b")])

    found = await source.newest_common_time(SUBJECT, now=NOON, lag_limit=timedelta(seconds=10))

    assert found.at == NOON - timedelta(seconds=91)
    assert not found.behind


def test_the_times_of_a_long_step_are_few_and_reach_both_ends():
    end = NOON + timedelta(hours=12)

    times = step_times(start=NOON, end=end, interval=timedelta(seconds=30))

    assert len(times) == 120
    assert times[-1] == end
    assert abs(times[0] - NOON) < timedelta(seconds=1)
    assert step_times(start=end, end=NOON, interval=timedelta(seconds=1)) == (NOON,)
