"""Answers on the control socket that no sound linnet-server gives."""

import asyncio
import json

import pytest

from linnet_agent.errors import (
    BudgetExceededError,
    DiskFaultError,
    LoadFailedError,
    NoMemoryError,
    NotOnnxError,
    ServerUnavailableError,
    WrongVariantError,
)
from linnet_agent.monitor import ServerMonitor
from linnet_agent.server import ServerClient
from linnet_agent.store import ModelKey

KEY = ModelKey("factory", "defects")


@pytest.fixture
async def socket(fake, tmp_path):
    path = tmp_path / "server.sock"
    server = await asyncio.start_unix_server(fake.serve, path)
    yield path
    server.close()


@pytest.fixture
async def client(socket):
    made = ServerClient(socket)
    yield made
    await made.aclose()


async def test_what_is_served_and_staged_is_read(fake, client):
    model = {"namespace": "factory", "deployment": "defects", "revision": "r1"}
    ready = model | {"state": "Ready", "requests": 7, "failures": 1}
    fake.tell(fake.answer({"models": [ready], "staged": [model | {"revision": "r2"}]}))

    facts = (await client.read()).facts(KEY)

    assert (facts.active, facts.staged, facts.requests, facts.failures) == ("r1", "r2", 7, 1)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{" * 100_000,
        {"models": 1},
        {"models": [1]},
        {"models": [{"state": "Ready"}]},
        {"models": [{"namespace": "a", "deployment": "b", "state": "Ready", "revision": "r"}]},
        {"staged": [{"namespace": "a"}]},
    ],
)
async def test_an_answer_that_cannot_be_read_is_as_none(fake, client, body):
    fake.tell(fake.answer(body))

    with pytest.raises(ServerUnavailableError, match="cannot be read"):
        await client.read()


async def test_an_answer_without_end_is_given_up(fake, client):
    fake.tell(fake.answer(b" " * (5 << 20), hangs=True))

    with pytest.raises(ServerUnavailableError, match="no end"):
        await client.read()


async def test_a_server_that_hangs_up_or_is_not_there_is_transient(fake, client, tmp_path):
    fake.tell(lambda _: None)
    with pytest.raises(ServerUnavailableError, match="does not answer"):
        await client.read()

    nobody = ServerClient(tmp_path / "nobody.sock")
    with pytest.raises(ServerUnavailableError, match="does not answer"):
        await nobody.read()
    await nobody.aclose()


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (422, {"reason": "NotOnnx", "message": "no"}, NotOnnxError),
        (422, {"reason": "WrongVariant", "message": "no"}, WrongVariantError),
        (422, {"reason": "BudgetExceeded", "message": "no"}, BudgetExceededError),
        (422, {"reason": "DiskFault", "message": "no"}, DiskFaultError),
        (422, {"reason": "NoMemory", "message": "no"}, NoMemoryError),
        (422, {"reason": "Levitates", "message": "no"}, LoadFailedError),
        (422, b"<no>", LoadFailedError),
        (409, {"message": "no"}, ServerUnavailableError),
        (500, b"no", ServerUnavailableError),
    ],
)
async def test_a_refusal_has_its_word(fake, client, tmp_path, status, body, error):
    fake.tell(fake.answer(body, status=status))

    with pytest.raises(error, match="no"):
        await client.stage(KEY, tmp_path)


@pytest.mark.parametrize("replace", [False, True])
async def test_only_the_order_says_whether_what_serves_may_be_taken_out(
    fake, client, tmp_path, replace
):
    told = []

    def answer(request):
        told.append(json.loads(request.body))
        return fake.answer({"revision": "r2", "loadSeconds": 0.1})

    fake.tell(answer)

    await client.stage(KEY, tmp_path, replace=replace)

    assert told == [{"path": str(tmp_path), "fresh": False, "replace": replace}]


ABILITIES = {"targets": ["onnx", "tensorrt"], "accelerators": ["nvidia-sm87"], "gpu": "Orin"}


async def test_what_the_server_can_run_is_asked_once_and_again_after_it_was_away(fake, client):
    asked = []

    def answer(request):
        asked.append(request.path)
        body = ABILITIES if request.path == "/control/runtimes" else {"models": [], "staged": []}
        return fake.answer(body)

    fake.tell(answer)
    monitor = ServerMonitor(client, on_change=lambda: None)
    assert monitor.abilities is None

    await monitor.refresh()
    await monitor.refresh()
    assert asked.count("/control/runtimes") == 1
    assert monitor.abilities.runtimes == {"onnx", "tensorrt"}
    assert monitor.abilities.gpu == "Orin"

    fake.tell(lambda _: None)
    assert await monitor.refresh() is None
    assert monitor.abilities is not None
    fake.tell(answer)
    await monitor.refresh()
    assert asked.count("/control/runtimes") == 2


@pytest.mark.parametrize(
    "body", [pytest.param({}, id="nothing said"), pytest.param({"targets": 7}, id="no list")]
)
async def test_a_server_that_cannot_say_what_it_runs_is_there_all_the_same(fake, client, body):
    def answer(request):
        said = body if request.path == "/control/runtimes" else {"models": [], "staged": []}
        return fake.answer(said)

    fake.tell(answer)
    monitor = ServerMonitor(client, on_change=lambda: None)

    assert await monitor.refresh() is not None
    assert monitor.abilities is None
    assert monitor.gone_s == 0.0
