"""A swap with limits: an endless load, memory for one only, a drain that does not end."""

import asyncio
import contextlib
import os
import threading

import pytest

from linnet_server.memory import available_bytes, needed_bytes

X = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0, 0, 0, 0]}
INFER = "/v2/models/defects/infer"
CONTROL = "/control/models/factory/defects"


async def answer_of(bench):
    answer = await bench.client.post(INFER, json={"inputs": [X]})
    assert answer.status_code == 200, answer.text
    document = answer.json()
    return document["parameters"]["revision"], document["outputs"][0]["data"][0]


async def stage(bench, directory, **order):
    return await bench.agent.put(f"{CONTROL}/staged", json={"path": str(directory), **order})


async def activate(bench, revision):
    answer = await bench.agent.post(f"{CONTROL}/activate", json={"revision": revision})
    assert answer.status_code == 200, answer.text


async def until(condition):
    """Return when ``condition`` holds; each look lets the loop go round."""
    async with asyncio.timeout(20):
        while True:
            if await condition():
                return
            await asyncio.sleep(0)


class Memory:
    """What can be had: as much as the test says."""

    def __init__(self, size=None):
        self.bytes = size

    def __call__(self):
        return self.bytes() if callable(self.bytes) else self.bytes


class RoomForOne:
    """There is room where nothing serves."""

    catalog = None

    def __call__(self):
        models = self.catalog.describe()["models"] if self.catalog else ()
        return 0 if any(model["state"] == "Ready" for model in models) else 1 << 30


@pytest.fixture
def open_small_bench(open_bench):
    """A bench whose memory holds one model."""

    @contextlib.asynccontextmanager
    async def bench(**settings):
        room = RoomForOne()
        async with open_bench(available=room, **settings) as opened:
            room.catalog = opened.catalog
            yield opened

    return bench


@pytest.mark.slow
async def test_a_load_that_takes_too_long_is_a_verdict_and_the_next_one_loads(
    node, models, open_bench
):
    node.set_current(node.add(models.adder(1)))
    endless = node.add(models.slow_to_load(40), revision="r2")
    good = node.add(models.adder(3), revision="r3")
    async with open_bench(load_timeout_s=0.2) as bench:
        refused = await stage(bench, endless)
        served = await answer_of(bench)
        await bench.activate(good)

        assert (refused.status_code, refused.json()["reason"]) == (422, "LoadFailed")
        assert "0.2 s" in refused.json()["message"]
        assert served == ("r1", 1)
        assert await answer_of(bench) == ("r3", 3)


@pytest.mark.slow
async def test_the_loop_answers_while_a_model_loads_and_the_swap_is_measured(
    node, models, open_bench
):
    node.set_current(node.add(models.adder(1)))
    slow = node.add(models.slow_to_load(10, bias=2), revision="r2")
    async with open_bench() as bench:
        staging = asyncio.ensure_future(stage(bench, slow))
        answers = 0
        while not staging.done():
            assert await answer_of(bench) == ("r1", 1)
            answers += 1
            await asyncio.sleep(0)
        await activate(bench, "r2")
        assert await answer_of(bench) == ("r2", 2)
        labels = 'deployment="defects",namespace="factory",phase="{}"'

        async def measured():
            samples = await bench.samples()
            name = f"linnet_swap_duration_seconds_count{{{labels.format('drain')}}}"
            return float(samples.get(name, 0)) == 1

        await until(measured)
        samples = await bench.samples()

    assert answers > 10
    name = f"{{{labels.format('load')}}}"
    assert float(samples[f"linnet_swap_duration_seconds_count{name}"]) == 2
    took_s = float(samples[f"linnet_swap_duration_seconds_sum{name}"])
    assert 0 < float(samples[f"linnet_swap_stall_seconds_sum{name}"]) < took_s
    memory = [name for name in samples if name.startswith("linnet_model_memory_bytes")]
    depth = [name for name in samples if name.startswith("linnet_queue_depth")]
    assert ['revision="r2"' in name for name in memory + depth] == [True, True]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("threads", "steps_back"),
    [
        pytest.param(1, True, id="alone"),
        pytest.param(2, False, id="threads that stay would inherit it"),
    ],
)
async def test_a_load_steps_back_behind_the_requests(node, models, open_bench, threads, steps_back):
    slow = node.add(models.slow_to_load(20), threads=threads)
    left_by_others = threading.enumerate()
    async with open_bench() as bench:
        staging = asyncio.ensure_future(stage(bench, slow))
        levels = set()
        while not staging.done():
            await asyncio.sleep(0)
            for thread in threading.enumerate():
                if thread.name == "linnet-load" and thread not in left_by_others:
                    with contextlib.suppress(ProcessLookupError, TypeError):  # it comes or goes
                        levels.add(os.getpriority(os.PRIO_PROCESS, thread.native_id))

    usual = os.getpriority(os.PRIO_PROCESS, 0)
    assert (max(levels) > usual) is steps_back


async def test_a_candidate_that_does_not_fit_is_refused_with_the_numbers(node, models, open_bench):
    node.set_current(node.add(models.adder(1)))
    second = node.add(models.adder(2), revision="r2")
    async with open_bench(available=Memory(10 << 20)) as bench:
        refused = await stage(bench, second)

        assert (refused.status_code, refused.json()["reason"]) == (422, "NoMemory")
        assert "10 MiB can be had" in refused.json()["message"]
        assert "spec.swap: Replace" in refused.json()["remedy"]
        assert await answer_of(bench) == ("r1", 1)


async def test_where_it_may_the_old_one_makes_room_and_clients_are_told_to_come_back(
    node, models, open_small_bench
):
    node.set_current(node.add(models.adder(1)))
    second = node.add(models.adder(2), revision="r2")
    async with open_small_bench() as bench:
        staged = await stage(bench, second, replace=True)
        meanwhile = await bench.client.post(INFER, json={"inputs": [X]})
        ready = await bench.client.get("/v2/health/ready")
        info = [name for name in await bench.samples() if name.startswith("linnet_model_info")]
        states = (await bench.agent.get("/control/models")).json()["models"]
        again = await stage(bench, second, replace=True)
        await activate(bench, "r2")

        assert staged.status_code == 200, staged.text
        assert (meanwhile.status_code, meanwhile.headers["retry-after"]) == (503, "1")
        assert "it is being replaced" in meanwhile.json()["error"]
        assert ready.status_code == 503
        assert [(one["revision"], one["state"]) for one in states] == [("r1", "Replacing")]
        assert info == []
        assert again.status_code == 200
        assert await answer_of(bench) == ("r2", 2)


async def test_room_is_made_only_where_it_is_needed(node, models, open_bench):
    node.set_current(node.add(models.adder(1)))
    second = node.add(models.adder(2), revision="r2")
    async with open_bench(available=Memory(1 << 30)) as bench:
        await stage(bench, second, replace=True)

        assert await answer_of(bench) == ("r1", 1)


async def test_what_made_room_comes_back_where_the_candidate_cannot_be_loaded(
    node, models, open_small_bench
):
    node.set_current(node.add(models.adder(1)))
    garbage = node.add(lambda path: path.write_bytes(b"not a model"), revision="r2")
    async with open_small_bench() as bench:
        refused = await stage(bench, garbage, replace=True)

        assert (refused.status_code, refused.json()["reason"]) == (422, "LoadFailed")
        assert await answer_of(bench) == ("r1", 1)


async def test_what_made_room_comes_back_where_the_candidate_is_given_up(
    node, models, open_small_bench
):
    node.set_current(node.add(models.adder(1)))
    second = node.add(models.adder(2), revision="r2")
    async with open_small_bench() as bench:
        await stage(bench, second, replace=True)
        await bench.agent.delete(f"{CONTROL}/staged")

        assert await answer_of(bench) == ("r1", 1)


@pytest.mark.slow
async def test_what_made_room_comes_back_where_nobody_waits_for_the_candidate_any_more(
    node, models, open_small_bench
):
    node.set_current(node.add(models.adder(1)))
    slow = node.add(models.slow_to_load(20), revision="r2")
    async with open_small_bench() as bench:
        staging = asyncio.ensure_future(stage(bench, slow, replace=True))

        async def made_room():
            return not bench.catalog.ready

        await until(made_room)
        staging.cancel()  # as the connection of an agent that is killed

        async def is_back():
            return bench.catalog.ready

        await until(is_back)
        assert await answer_of(bench) == ("r1", 1)


async def test_a_staged_revision_makes_room_before_the_active_one_does(node, models, open_bench):
    node.set_current(node.add(models.adder(1)))
    second = node.add(models.adder(2), revision="r2")
    third = node.add(models.adder(3), revision="r3")
    memory = Memory()
    async with open_bench(available=memory) as bench:
        await stage(bench, second)
        memory.bytes = 0
        refused = await stage(bench, third)
        staged = (await bench.agent.get("/control/models")).json()["staged"]

        assert refused.status_code == 422
        assert staged == []
        assert await answer_of(bench) == ("r1", 1)


async def test_what_does_not_even_fit_alone_is_refused_and_the_old_one_comes_back(
    node, models, open_bench
):
    node.set_current(node.add(models.adder(1)))
    second = node.add(models.adder(2), revision="r2")
    async with open_bench(available=Memory(0)) as bench:
        refused = await stage(bench, second, replace=True)

        assert (refused.status_code, refused.json()["reason"]) == (422, "NoMemory")
        assert await answer_of(bench) == ("r1", 1)


async def test_a_staged_revision_that_makes_room_enough_spares_the_active_one(
    node, models, open_bench
):
    node.set_current(node.add(models.adder(1)))
    second = node.add(models.adder(2), revision="r2")
    third = node.add(models.adder(3), revision="r3")
    memory = Memory()
    async with open_bench(available=memory) as bench:
        await stage(bench, second)
        memory.bytes = lambda: 0 if bench.catalog.describe()["staged"] else 1 << 30

        assert (await stage(bench, third, replace=True)).status_code == 200
        assert await answer_of(bench) == ("r1", 1)


async def test_the_old_one_can_be_staged_again_instead_of_what_it_made_room_for(
    node, models, open_small_bench
):
    first = node.add(models.adder(1))
    node.set_current(first)
    second = node.add(models.adder(2), revision="r2")
    async with open_small_bench() as bench:
        await stage(bench, second, replace=True)
        await stage(bench, first)
        await activate(bench, "r1")

        assert await answer_of(bench) == ("r1", 1)
        assert (await bench.agent.get("/control/models")).json()["staged"] == []


async def test_what_serves_can_be_taken_out_and_comes_back_when_nothing_is_staged(
    node, models, open_bench
):
    node.set_current(node.add(models.adder(1)))
    async with open_bench() as bench:
        for _ in range(2):
            assert (await bench.agent.post(f"{CONTROL}/vacate")).status_code == 204
        answer = await bench.client.post(INFER, json={"inputs": [X]})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")

        await bench.agent.delete(f"{CONTROL}/staged")

        assert await answer_of(bench) == ("r1", 1)
        assert (await bench.agent.post("/control/models/a/b/vacate")).status_code == 204


async def test_what_was_taken_out_comes_back_when_the_agent_falls_silent(node, models, open_bench):
    node.set_current(node.add(models.adder(1)))
    async with open_bench(silence_s=0.1) as bench:
        await bench.agent.post(f"{CONTROL}/vacate")

        async def serves_again():
            return (await bench.client.get("/v2/health/ready")).status_code == 200

        await until(serves_again)
        assert await answer_of(bench) == ("r1", 1)


@pytest.mark.parametrize(("current", "served"), [("r1", ("r1", 1)), ("r2", ("r2", 2))])
async def test_a_silent_agent_leaves_what_current_says_as_a_restart_would(
    current, served, node, models, open_small_bench
):
    revisions = {"r1": node.add(models.adder(1)), "r2": node.add(models.adder(2), revision="r2")}
    node.set_current(revisions["r1"])
    async with open_small_bench(silence_s=0.1) as bench:
        assert (await stage(bench, revisions["r2"], replace=True)).status_code == 200
        node.set_current(revisions[current])

        async def serves_again():
            return (await bench.client.get("/v2/health/ready")).status_code == 200

        await until(serves_again)
        assert await answer_of(bench) == served
        assert bench.catalog.describe()["staged"] == []


@pytest.mark.slow
async def test_what_is_taken_out_stays_out_while_the_agent_asks(node, models, open_bench):
    node.set_current(node.add(models.adder(1)))
    async with open_bench(silence_s=2.0) as bench:
        await bench.agent.post(f"{CONTROL}/vacate")
        for _ in range(25):
            await asyncio.sleep(0.1)
            (model,) = (await bench.agent.get("/control/models")).json()["models"]
            assert model["state"] == "Replacing"


async def test_replace_is_true_or_false(node, models, open_bench):
    directory = node.add(models.adder(1))
    async with open_bench() as bench:
        assert (await stage(bench, directory, replace="yes")).status_code == 400


@pytest.mark.slow
async def test_a_request_that_outlasts_the_drain_is_ended_and_says_so(node, models, open_bench):
    node.set_current(node.add(models.looper))
    second = node.add(models.adder(2), revision="r2")
    n = {"name": "n", "datatype": "INT64", "shape": [], "data": [2**40]}
    async with open_bench(drain_s=0.1, deadline_s=60.0) as bench:
        endless = asyncio.ensure_future(bench.client.post(INFER, json={"inputs": [n]}))
        old = bench.catalog.pick("defects")

        async def runs():
            return old.holders == 1

        await until(runs)
        await bench.activate(second)
        async with asyncio.timeout(20):
            answer = await endless

        assert answer.status_code == 503
        assert "longer than the drain" in answer.json()["error"]
        assert await answer_of(bench) == ("r2", 2)


def test_what_a_model_needs_grows_with_its_files(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"0")
    small = needed_bytes(tmp_path / "m.onnx")
    with (tmp_path / "weights.bin").open("wb") as weights:
        weights.truncate(100 << 20)

    assert small >> 20 == 32
    assert needed_bytes(tmp_path / "m.onnx") - small == 125 << 20


def test_the_kernel_says_what_can_be_had():
    assert available_bytes() > 0
