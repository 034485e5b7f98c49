import itertools
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnet_agent.fetch.throttle import Throttle, start_delay


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_no_rate_is_no_pause():
    throttle = Throttle(0)

    assert throttle.slice_bytes is None
    assert throttle.take(1 << 40) == 0


@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=50), st.integers(1_000, 1_000_000))
def test_whoever_keeps_the_pauses_keeps_the_rate(reads, rate):
    clock = Clock()
    throttle = Throttle(rate, clock=clock)
    start = clock.now
    for count in reads:
        clock.now += throttle.take(count)

    assert clock.now - start >= sum(reads) / rate - 0.25 - 1e-6
    assert clock.now - start <= sum(reads) / rate + 1e-6


def test_what_was_not_used_is_not_saved_up():
    clock = Clock()
    throttle = Throttle(1000, clock=clock)
    clock.now += 3600

    assert throttle.take(250) == 0
    assert throttle.take(1000) == pytest.approx(1.0)


def test_all_threads_share_one_rate():
    clock = Clock()
    throttle = Throttle(1000, clock=clock)
    pauses = []
    threads = [
        threading.Thread(target=lambda: pauses.extend(throttle.take(10) for _ in range(100)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert max(pauses) == pytest.approx(4.0)


def test_slices_make_a_smooth_rate_and_are_never_tiny():
    assert Throttle(1 << 20).slice_bytes == 1 << 18
    assert Throttle(1).slice_bytes == 4096


@given(st.text(), st.text(), st.floats(0, 1e6))
def test_a_start_is_within_the_window_and_always_the_same(node, artifact, window_s):
    delay = start_delay(node, artifact, window_s)

    assert 0 <= delay <= window_s
    assert delay == start_delay(node, artifact, window_s)


def test_starts_of_a_fleet_are_spread_and_differ_by_artifact():
    fleet = [f"node-{number}" for number in range(1000)]
    starts = sorted(start_delay(node, "sha256:a", 100.0) for node in fleet)
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]

    assert all(80 <= sum(n <= s < n + 10 for s in starts) <= 120 for n in range(0, 100, 10))
    assert max(gaps) < 2.0
    assert start_delay("node-1", "sha256:a", 100.0) != start_delay("node-1", "sha256:b", 100.0)
