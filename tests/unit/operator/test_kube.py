"""The adapter: what is tried again, what is not, and what goes over the wire."""

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio import client as kube_client

from linnet_operator.errors import (
    KubeConflictError,
    KubeNotFoundError,
    KubeRefusedError,
    KubeUnavailableError,
)
from linnet_operator.kube import MODEL_ROLLOUTS, NODES, KubeAdapter, TokenBucket
from linnet_operator.metrics import WRITES


class Answers:
    """An API server that says what it was told to say: faults cannot be had from the real one."""

    def __init__(self):
        self.queue = []
        self.seen = []

    async def handle(self, request):
        self.seen.append((request.method, request.path, dict(request.query), await request.text()))
        status, body = self.queue.pop(0) if self.queue else (200, {"metadata": {}})
        if status == 0:
            request.transport.close()
            return web.Response()
        return web.json_response(body, status=status)


@pytest.fixture
async def answers():
    return Answers()


@pytest.fixture
async def kube(answers):
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answers.handle)
    async with TestServer(application) as server:
        configuration = kube_client.Configuration(host=f"http://127.0.0.1:{server.port}")
        configuration.api_key["BearerToken"] = "bearer secret"
        adapter = KubeAdapter(kube_client.ApiClient(configuration), jitter=lambda: -0.49)
        yield adapter
        await adapter.close()


def status_body(resource_version="7"):
    metadata = {"name": "digits-1", "namespace": "factory", "resourceVersion": resource_version}
    return {"metadata": metadata, "status": {"step": 1}}


async def test_a_status_goes_out_as_a_strict_apply_with_its_precondition(kube, answers):
    await kube.apply_status(MODEL_ROLLOUTS, status_body())

    method, path, query, text = answers.seen[0]
    assert method == "PATCH"
    assert path.endswith("/namespaces/factory/modelrollouts/digits-1/status")
    assert query == {
        "fieldManager": "linnet-operator",
        "fieldValidation": "Strict",
        "force": "true",
    }
    assert '"resourceVersion": "7"' in text


@pytest.mark.parametrize("status", [0, 429, 500, 503])
async def test_what_may_pass_by_itself_is_tried_again(kube, answers, status):
    answers.queue = [(status, {}), (status, {})]

    await kube.apply_status(MODEL_ROLLOUTS, status_body())

    assert len(answers.seen) == 3


@pytest.mark.parametrize(
    ("status", "message", "error"),
    [
        pytest.param(409, "newer", KubeConflictError, id="a conflict is for the caller"),
        pytest.param(404, "none", KubeNotFoundError, id="what is not there is not there"),
        pytest.param(422, "bad", KubeRefusedError, id="an invalid object stays invalid"),
        pytest.param(403, "no", KubeRefusedError, id="a forbidden one stays forbidden"),
        pytest.param(
            500, "failed to create typed patch object", KubeRefusedError, id="an undeclared field"
        ),
    ],
)
async def test_what_does_not_pass_is_not_tried_again(kube, answers, status, message, error):
    answers.queue = [(status, {"message": message})]

    with pytest.raises(error, match=message):
        await kube.apply_status(MODEL_ROLLOUTS, status_body())

    assert len(answers.seen) == 1


@pytest.mark.slow
async def test_a_server_that_never_recovers_is_given_up(kube, answers):
    answers.queue = [(503, {"message": "down"})] * 20

    with pytest.raises(KubeUnavailableError, match="down"):
        await kube.get(NODES, namespace=None, name="edge-1")

    assert len(answers.seen) == 5


async def test_a_list_is_read_page_by_page_and_fresh(kube, answers):
    answers.queue = [
        (200, {"metadata": {"continue": "more"}, "items": [{"metadata": {"name": "a"}}]}),
        (200, {"metadata": {}, "items": [{"metadata": {"name": "b"}}]}),
    ]

    names = [item["metadata"]["name"] async for page in kube.list_pages(NODES) for item in page]

    assert names == ["a", "b"]
    assert answers.seen[0][2] == {"limit": "500"}
    assert answers.seen[1][2] == {"limit": "500", "continue": "more"}


async def test_deleting_what_is_gone_is_no_error(kube, answers):
    answers.queue = [(404, {"message": "none"})]

    await kube.delete(NODES, namespace=None, name="edge-1", uid="u")

    assert '"uid": "u"' in answers.seen[0][3]


async def test_every_write_is_counted_and_no_read(kube):
    counter = WRITES.labels(kind="ModelRollout", verb="status")
    before = counter._value.get()

    await kube.apply_status(MODEL_ROLLOUTS, status_body())
    await kube.get(MODEL_ROLLOUTS, namespace="factory", name="digits-1")

    assert counter._value.get() == before + 1


async def test_a_bucket_lets_a_burst_through_and_then_keeps_the_rate():
    now = 0.0
    bucket = TokenBucket(rate_per_s=2, burst=3, clock=lambda: now)

    for _ in range(3):
        await asyncio.wait_for(bucket.take(), 0.05)

    assert bucket._pause_s() == pytest.approx(0.5)
    now = 1.0
    assert bucket._pause_s() == 0
