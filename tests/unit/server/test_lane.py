"""How many run, how many wait, and where."""

import asyncio
import threading
import time

import numpy as np
import pytest

from linnet_server.errors import (
    DeadlineExceededError,
    ModelFailedError,
    NotReadyError,
    OverloadedError,
)
from linnet_server.lane import INLINE_S, SingleLane
from linnet_server.sessions import WarmUp, load_session

FEEDS = {"x": np.zeros(4, np.float32)}


class GatedSession:
    """A session whose runs wait for `gate`, and say in which threads they were."""

    def __init__(self):
        self.gate = threading.Event()
        self.threads = []
        self.started = threading.Semaphore(0)

    def run(self, feeds, _names, _options=None):
        self.threads.append(threading.current_thread())
        self.started.release()
        assert self.gate.wait(10)
        return [feeds["x"]]

    async def wait_started(self, count=1):
        for _ in range(count):
            await asyncio.to_thread(self.started.acquire)


def lane_of(session, *, instances=1, max_queue=0, warm_up=None):
    return SingleLane(session, instances=instances, max_queue=max_queue, warm_up=warm_up)


def start_run(lane, *, deadline_s=10.0, elements=4):
    run = lane.run(FEEDS, ["y"], elements=elements, deadline_s=deadline_s)
    return asyncio.ensure_future(run)


async def run_as_the_data_plane_does(lane, *, elements=4):
    arrays = lane.run_now(FEEDS, ["y"], elements=elements)
    return await start_run(lane, elements=elements) if arrays is None else arrays


async def run_when_free(lane, feeds):
    """Run once the lane has a place; each refusal lets the loop go round."""
    while True:
        try:
            return await lane.run(feeds, ["y"], elements=1, deadline_s=10)
        except OverloadedError:
            await asyncio.sleep(0)


async def test_the_request_beyond_the_queue_is_refused_at_once():
    session = GatedSession()
    lane = lane_of(session, instances=1, max_queue=1)
    running, waiting = start_run(lane), start_run(lane)
    await session.wait_started()

    with pytest.raises(OverloadedError):
        await start_run(lane)

    session.gate.set()
    await asyncio.gather(running, waiting)
    await start_run(lane)


async def test_no_more_than_the_instances_run_at_once():
    session = GatedSession()
    lane = lane_of(session, instances=2, max_queue=5)
    runs = [start_run(lane) for _ in range(5)]
    await session.wait_started(2)

    assert len(session.threads) == 2

    session.gate.set()
    await asyncio.gather(*runs)
    assert len(set(session.threads)) <= 2


async def test_a_run_that_is_too_late_keeps_its_place_until_it_has_ended():
    session = GatedSession()
    lane = lane_of(session, max_queue=0)

    with pytest.raises(DeadlineExceededError):
        await start_run(lane, deadline_s=0.01)
    with pytest.raises(OverloadedError):
        await start_run(lane)
    idle = asyncio.ensure_future(lane.wait_idle())
    await asyncio.sleep(0)
    idle_while_it_runs = idle.done()

    session.gate.set()
    async with asyncio.timeout(10):
        await run_when_free(lane, FEEDS)
        await idle
    assert not idle_while_it_runs


async def test_short_runs_happen_on_the_loop_and_long_ones_do_not():
    session = GatedSession()
    session.gate.set()
    short = lane_of(session, warm_up=WarmUp(best_s=INLINE_S / 10, elements=4))
    long = lane_of(session, warm_up=WarmUp(best_s=INLINE_S * 10, elements=4))

    await run_as_the_data_plane_does(short, elements=4)
    await run_as_the_data_plane_does(short, elements=5)
    await run_as_the_data_plane_does(long, elements=4)

    here = threading.main_thread()
    assert [thread is here for thread in session.threads] == [True, False, False]


async def test_two_long_runs_in_a_row_are_the_last_ones_on_the_loop():
    class Slow:
        def __init__(self):
            self.threads = []

        def run(self, _feeds, _names, _options=None):
            self.threads.append(threading.current_thread())
            until = time.perf_counter() + INLINE_S * 2
            while time.perf_counter() < until:
                pass
            return []

    session = Slow()
    lane = lane_of(session, warm_up=WarmUp(best_s=0.0, elements=4))

    for _ in range(3):
        await run_as_the_data_plane_does(lane)

    assert [t is threading.main_thread() for t in session.threads] == [True, True, False]


async def test_a_lane_that_is_stopped_says_so_to_what_runs_and_waits(models, tmp_path):
    models.looper(tmp_path / "m.onnx")
    session = load_session(tmp_path / "m.onnx", variant="onnx", threads=1)
    lane = lane_of(session, max_queue=1)
    feeds = {"n": np.array(2**62)}
    runs = [
        asyncio.ensure_future(lane.run(feeds, ["y"], elements=1, deadline_s=60)) for _ in range(2)
    ]
    await asyncio.sleep(0)
    waiting = lane.waiting

    lane.stop()

    for run in runs:
        with pytest.raises(NotReadyError):
            await run
    assert waiting == 1
    await lane.wait_idle()


@pytest.mark.slow
async def test_a_real_run_that_is_too_late_is_stopped(models, tmp_path):
    models.looper(tmp_path / "m.onnx")
    session = load_session(tmp_path / "m.onnx", variant="onnx", threads=1)
    lane = lane_of(session, max_queue=0)
    endless = {"n": np.array(2**62)}

    with pytest.raises(DeadlineExceededError):
        await lane.run(endless, ["y"], elements=1, deadline_s=0.05)

    async with asyncio.timeout(20):
        await run_when_free(lane, {"n": np.array(1)})


async def test_what_the_runtime_raises_frees_the_place(models, tmp_path):
    models.lookup(3)(tmp_path / "m.onnx")
    lane = lane_of(load_session(tmp_path / "m.onnx", variant="onnx", threads=1), max_queue=0)

    for _ in range(3):
        with pytest.raises(ModelFailedError):
            await lane.run({"i": np.array([9])}, ["y"], elements=1, deadline_s=10)
