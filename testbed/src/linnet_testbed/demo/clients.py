"""A client per node: sends real digits all the time, and reports the true label for some of them.

- It stands on the node's own site and talks to the node's server directly, so that a node that lost
  its network is asked on.
- It begins with a node once the model is ready there, and counts every answer from then on: by
  revision, and every failure with its kind. A failure of a model (a 500 that names the revision)
  is told apart from a failure of the serving.
- It is a process of its own, and writes what it counted to a file that others read.
"""

import argparse
import asyncio
import contextlib
import json
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import numpy as np

from linnet_testbed.demo import digits

_WRITE_EVERY_S: Final = 0.5
_READY_EVERY_S: Final = 0.25
_LABELLED_RATIO: Final = 0.75
"""The share of answers that get their true label."""


@dataclass
class Counts:
    """What one client has seen; counts of requests since it began."""

    total: int = 0
    failed: int = 0
    by_revision: dict[str, dict[str, int]] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)

    def answered(self, revision: str, *, ok: bool) -> None:
        """Count an answer that names its revision; a failure among them is the model's own."""
        self.total += 1
        counts = self.by_revision.setdefault(revision, {"requests": 0, "failed": 0})
        counts["requests"] += 1
        counts["failed"] += not ok

    def lost(self, kind: str, text: str) -> None:
        """Count a request that no model answered: the serving failed."""
        self.total += 1
        self.failed += 1
        if len(self.failures) < 50:
            self.failures.append({"kind": kind, "text": text[:300]})


async def _drive(
    session: aiohttp.ClientSession,
    node: str,
    url: str,
    *,
    model: str,
    rate: float,
    counts: Counts,
    data: digits.Digits,
) -> None:
    while not await _ready(session, url, model):  # noqa: ASYNC110 - the node is another process
        await asyncio.sleep(_READY_EVERY_S)
    loop = asyncio.get_running_loop()
    dice = np.random.default_rng(list(node.encode()))
    next_at = loop.time()
    for number in range(2**62):
        place = int(dice.integers(len(data.live_labels)))
        await _ask(
            session,
            f"{url}/v2/models/{model}",
            pixels=data.live_pixels[place].tolist(),
            label=int(data.live_labels[place]) if dice.random() < _LABELLED_RATIO else None,
            request_id=f"{node}-{number}",
            counts=counts,
        )
        next_at = max(next_at + 1 / rate, loop.time() - 1)
        await asyncio.sleep(max(0.0, next_at - loop.time()))


async def _ask(
    session: aiohttp.ClientSession,
    url: str,
    *,
    pixels: list[float],
    label: int | None,
    request_id: str,
    counts: Counts,
) -> None:
    body = {
        "id": request_id,
        "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": pixels}],
    }
    try:
        async with session.post(f"{url}/infer", json=body) as answer:
            text = await answer.text()
            revision = answer.headers.get("linnet-revision")
            if answer.status == 200 and revision is not None:
                counts.answered(revision, ok=True)
            elif answer.status == 500 and revision is not None:
                counts.answered(revision, ok=False)
                return
            else:
                counts.lost(f"http {answer.status}", text)
                return
        if label is not None:
            async with session.post(
                f"{url}/feedback", json={"id": request_id, "label": label}
            ) as answer:
                await answer.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        counts.lost(type(error).__name__, str(error))


async def _ready(session: aiohttp.ClientSession, url: str, model: str) -> bool:
    try:
        async with session.get(f"{url}/v2/models/{model}/ready") as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


async def _main(targets: dict[str, str], out: Path, *, model: str, rate: float) -> None:
    data = digits.load()
    counts = {node: Counts() for node in targets}
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(
                _drive(session, node, url, model=model, rate=rate, counts=counts[node], data=data)
            )
            for node, url in targets.items()
        ]
        while not stop.is_set():
            _write(out, counts)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _WRITE_EVERY_S)
        for task in tasks:
            task.cancel()
    _write(out, counts)


def _write(out: Path, counts: dict[str, Counts]) -> None:
    fresh = out.with_suffix(".new")
    fresh.write_text(json.dumps({node: vars(c) for node, c in counts.items()}), encoding="utf-8")
    fresh.replace(out)


def main() -> int:
    """Send digits until SIGTERM; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", required=True, help='JSON {"node": "http://host:port"}')
    parser.add_argument("--out", type=Path, required=True, help="file for the counts, JSON by node")
    parser.add_argument("--model", default="digits", help="serving name; default digits")
    parser.add_argument("--rate", type=float, default=16, help="requests per second and node")
    options = parser.parse_args()
    asyncio.run(
        _main(json.loads(options.targets), options.out, model=options.model, rate=options.rate)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
