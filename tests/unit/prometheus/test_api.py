"""The HTTP API: which times are one query, and what of an answer is believed."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web

from linnet_operator.prometheus import PrometheusSource

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ONE = {"metric": {"node": "a"}, "value": [NOON.timestamp(), "7"]}


def success(kind, result):
    return json.dumps({"status": "success", "data": {"resultType": kind, "result": result}})


@pytest.fixture
async def served():
    """Start a server that answers as told: path -> (status, headers, body); and what was asked."""
    answers, asked = {}, []

    async def answer(request):
        asked.append((request.path, dict(await request.post())))
        status, headers, body = answers[request.path]
        return web.Response(status=status, headers=headers, text=body)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", answers, asked
    await runner.cleanup()


async def sample(url, *after_s):
    times = [NOON + timedelta(seconds=each) for each in after_s]
    async with PrometheusSource(url) as source:
        return await source.samples("up", times)


async def test_no_redirect_is_followed_not_even_to_a_good_answer(served):
    url, answers, asked = served
    answers["/api/v1/query"] = (307, {"Location": f"{url}/elsewhere"}, "")
    answers["/elsewhere"] = (200, {}, success("vector", [ONE]))

    sampled = await sample(url, 0)

    assert "answered 307" in sampled.no_data
    assert [path for path, _ in asked] == ["/api/v1/query"]


async def test_a_status_that_is_no_success_is_not_believed_whatever_the_body_says(served):
    url, answers, _ = served
    answers["/api/v1/query"] = (500, {}, success("vector", [ONE]))

    assert "answered 500" in (await sample(url, 0)).no_data


async def test_an_answer_that_is_too_large_is_not_read_to_its_end(served, monkeypatch):
    url, answers, _ = served
    answers["/api/v1/query"] = (200, {}, success("vector", [ONE] * 100))
    monkeypatch.setattr("linnet_operator.promapi._MOST_BYTES", 1000)

    assert "gave more than 256 MiB; ask for fewer windows" in (await sample(url, 0)).no_data


async def test_at_most_four_queries_are_under_way_at_once():
    under_way, most = 0, 0

    async def answer(_):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _ in range(200):
            # Long enough for all the others to come in, if they could.
            await asyncio.sleep(0)
        under_way -= 1
        return web.Response(text=success("vector", [ONE]))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()

    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        sampled = await sample(url, *(number**2 for number in range(60)))
    finally:
        await runner.cleanup()

    assert [each.value for each in sampled.samples] == [7.0] * 60
    assert most == 4


async def test_a_series_without_a_value_is_none(served):
    """A native histogram is no number."""
    url, answers, _ = served
    histogram = {"metric": {"node": "b"}, "histogram": [NOON.timestamp(), {"count": "1"}]}
    answers["/api/v1/query"] = (200, {}, success("vector", [histogram, ONE]))

    ((found,),) = ((await sample(url, 0)).samples,)

    assert (found.value, found.series) == (7.0, 1)


@pytest.mark.parametrize(
    ("after_s", "queries"),
    [
        pytest.param([0, 5, 10, 15], 1, id="even"),
        pytest.param([0, 0.333, 0.666, 0.999], 1, id="even to the millisecond"),
        pytest.param([0, 5, 10.002, 15], 4, id="two milliseconds off"),
        pytest.param([0], 1, id="one time"),
        pytest.param([0, 0], 2, id="no time between"),
    ],
)
async def test_times_are_one_query_where_they_are_even(served, after_s, queries):
    url, answers, asked = served
    at_s = [NOON.timestamp() + each for each in after_s]
    # As Prometheus writes times: three digits.
    values = [[round(at, 3), str(index)] for index, at in enumerate(at_s)]
    whole = [{"metric": {}, "values": values}]
    answers["/api/v1/query_range"] = (200, {}, success("matrix", whole))
    answers["/api/v1/query"] = (200, {}, success("vector", [ONE]))

    sampled = await sample(url, *after_s)

    assert len(asked) == queries
    if len(after_s) > queries:
        assert [each.value for each in sampled.samples] == [0.0, 1.0, 2.0, 3.0]
