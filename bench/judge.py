"""Milliseconds of one look at one metric on 1,000 nodes, in the operator's worker process."""

import asyncio
import resource
import time
from statistics import median

from linnet_operator.judge.compare import MetricLook, look
from linnet_operator.judge.learned import Learned, NodeHistory, learn
from linnet_operator.judge.model import Detect, NodeCount
from linnet_operator.learning import Workers

NODES = 1000
DOMAINS = 4
LOOKS = 15
# Issue: one look at one metric takes no longer.
LIMITS_MS = {50: 100.0, 500: None, 950: 300.0}
_TICK_S = 0.001


def main(arguments: list[str]) -> int:
    del arguments
    return asyncio.run(_measure())


async def _measure() -> int:
    workers = Workers(1)
    learned = await workers.run(_learn)
    print(f"{'1,000 nodes of 4 kinds, one look':<34}{'ms':>8}{'limit':>8}{'loop held up, ms':>20}")
    worst = 0
    for candidates, limit in LIMITS_MS.items():
        rows = [
            NodeCount(
                node=f"n{i:04d}",
                failures=12.0,
                requests=1200.0,
                seconds=3600.0,
                domain=f"site-{i % DOMAINS}",
            )
            for i in range(NODES)
        ]
        times: list[float] = []
        held: list[float] = []
        for _ in range(LOOKS):
            ticks = asyncio.create_task(_ticks(held))
            took, said = await workers.run(_timed_look, learned, rows, candidates)
            ticks.cancel()
            assert said.candidates
            times.append(1000.0 * took)
        worst = max(worst, int(limit is not None and median(times) > limit))
        shown = "-" if limit is None else f"{limit:.0f}"
        print(
            f"{f'  {candidates} candidates':<34}{median(times):>8.0f}{shown:>8}"
            f"{1000.0 * max(held):>20.1f}"
        )
    peak = await workers.run(_peak_mib)
    print(f"{'peak memory of the worker, MiB':<34}{peak:>8.0f}")
    workers.close()
    return worst


async def _ticks(held: list[float]) -> None:
    """Note how much later than asked for the loop comes back: what a look in it would hold up."""
    while True:
        before = time.perf_counter()
        await asyncio.sleep(_TICK_S)
        held.append(time.perf_counter() - before - _TICK_S)


def _timed_look(
    learned: Learned, rows: list[NodeCount], candidates: int
) -> tuple[float, MetricLook]:
    before = time.process_time()
    said = look(
        learned,
        rows[:candidates],
        rows[candidates:],
        alpha=0.01,
        steps=5,
        detect=Detect(factor=3.0, floor=0.01),
    )
    return time.process_time() - before, said


def _learn() -> Learned:
    return learn(
        [
            NodeHistory(
                node=f"n{index:04d}",
                windows=tuple((float((index + window) % 5), 200.0) for window in range(24)),
                recent=tuple((float((index + row) % 9 == 0), 20.0) for row in range(60)),
            )
            for index in range(NODES)
        ],
        interval_s=60.0,
        window_s=600.0,
    )


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


if __name__ == "__main__":
    raise SystemExit(main([]))
