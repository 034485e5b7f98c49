"""`make bench-swap`: what clients see while a model is changed, beside Triton and MLServer.

- A model that takes a second to load, and another like it; swaps from one to the other and back,
  while clients ask in an open loop at half of the rate that each server can do: once without swaps
  (the control run), once with. Then with as many as 16 clients can ask.
- Errors, the longest gap between two answers, p99 before a swap and in it, seconds of a swap.
- The floor: what clients see while another process loads the same model and nothing is swapped.
- Memory: hundreds of swaps of a model with weights; the process at the start and at the end.
- Each server in turn, on the same cores as the client. Ratios travel; absolute figures are of this
  machine, now.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench.environments import MissingPeerError
from bench.server import NAMES, run
from bench.swap.clients import closed_loop, open_loop
from bench.swap.models import products_for, save_heavy, save_slow
from bench.swap.servers import SERVERS

CLIENTS = 16
LOAD_S = 1.0
REST_S = 0.5
"""Between two swaps: the quiet time that a swap is compared with."""

SIZES = {
    # swaps in the open loop, swaps when saturated, seconds of the control run, swaps for memory
    "full": (50, 10, 30.0, 200),
    "quick": (5, 3, 5.0, 20),
}
WEIGHTS_MIB = 64


async def swap_under_load(server, swaps, start):
    """Swap while a load runs; return what it saw, the times of the swaps, and of the rest."""
    done = asyncio.get_running_loop().create_future()
    load = asyncio.ensure_future(start(done))
    busy, quiet = [], []
    try:
        for _ in range(swaps):
            quiet_from = time.perf_counter()
            await asyncio.sleep(REST_S)
            began = time.perf_counter()
            quiet.append((quiet_from, began))
            await server.swap_to_next()
            busy.append((began, time.perf_counter()))
        await asyncio.sleep(REST_S)
    finally:
        done.set_result(None)
    return await load, busy, quiet


async def watch(seconds, start):
    """Return what a load sees in ``seconds`` without swaps."""
    done = asyncio.get_running_loop().create_future()
    load = asyncio.ensure_future(start(done))
    await asyncio.sleep(seconds)
    done.set_result(None)
    return await load


def percentile_ms(durations_s, ratio):
    if not durations_s:
        return float("nan")
    return durations_s[min(len(durations_s) - 1, int(len(durations_s) * ratio))] * 1e3


def figures_of(seen, busy, quiet):
    before, during = seen.between(quiet), seen.between(busy)
    return {
        "answers": len(seen.times),
        "errors": sum(seen.errors.values()),
        "kinds": dict(seen.errors.most_common(3)),
        "gap_ms": seen.longest_gap_s() * 1e3,
        "p50_before_ms": percentile_ms(before, 0.5),
        "p99_before_ms": percentile_ms(before, 0.99),
        "p50_during_ms": percentile_ms(during, 0.5),
        "p99_during_ms": percentile_ms(during, 0.99),
        "max_ms": percentile_ms(sorted(seen.durations_s), 1),
        "swap_s": statistics.median(end - start for start, end in busy) if busy else 0.0,
    }


class Neighbour:
    """A process that loads the model where nobody serves it, at the priority of our loads.

    What clients see of that is the floor of this machine: no swap can cost them less.
    """

    def __init__(self, model):
        self._command = ["nice", "-n", "5", sys.executable, "-m", "bench.swap.neighbour", model]

    async def swap_to_next(self):
        process = await asyncio.create_subprocess_exec(*map(str, self._command))
        if await process.wait() != 0:
            raise RuntimeError("the neighbour cannot load the model")


async def measure(server, swaps, saturated_swaps, control_s):
    await server.wait_up()
    port = server.port

    def saturate(until):
        return closed_loop(port, CLIENTS, until)

    await watch(1.0, saturate)
    saturated_s = max(2.0, control_s / 5)
    rate = len((await watch(saturated_s, saturate)).times) / saturated_s / 2

    def ask(until):
        return open_loop(port, rate, until)

    control = await watch(control_s, ask)
    neighbour = Neighbour(next(iter(server.models.values())))
    return {
        "rate": rate,
        "control": figures_of(control, [], [(0, time.perf_counter())]),
        "beside": figures_of(*await swap_under_load(neighbour, swaps, ask)),
        "open": figures_of(*await swap_under_load(server, swaps, ask)),
        "saturated": figures_of(*await swap_under_load(server, saturated_swaps, saturate)),
    }


async def measure_memory(server, swaps):
    """Return the process's MiB after each swap of a model with weights."""
    await server.wait_up()
    samples = []
    for _ in range(swaps):
        await server.swap_to_next()
        await asyncio.sleep(0.05)  # the old one is freed after the new one answers
        samples.append(server.usage()[1])
    return samples


def measure_all(options):
    swaps, saturated_swaps, control_s, memory_swaps = SIZES[options.size]
    result = {"machine": f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", "servers": {}}
    with tempfile.TemporaryDirectory(prefix="linnet-swap-") as place:
        directory = Path(place)
        products = products_for(LOAD_S, directory)
        slow, heavy = {}, {}
        for bias in (1.0, 2.0):
            slow[bias] = directory / f"slow{int(bias)}.onnx"
            save_slow(slow[bias], products=products, bias=bias)
            heavy[bias] = directory / f"heavy{int(bias)}.onnx"
            save_heavy(heavy[bias], mib=WEIGHTS_MIB, bias=bias)
        for name in options.peers.split(","):
            print(f"   {NAMES[name]} ...", flush=True)
            row = result["servers"][name] = {}
            for what, models, work in (
                ("swaps", slow, lambda one: measure(one, swaps, saturated_swaps, control_s)),
                ("memory_mib", heavy, lambda one: measure_memory(one, memory_swaps)),
            ):
                root = directory / f"{name}-{what}"
                root.mkdir()
                try:
                    with contextlib.ExitStack() as stack:
                        server = SERVERS[name](name, root, models)
                        stack.callback(server.stop)
                        row[what] = run(work(server))
                except MissingPeerError as error:
                    print(f"   left out: {error}")
                except (RuntimeError, OSError) as error:
                    print(f"   {name}, {what}: {error}")
    return result


def render(result):
    lines = [result["machine"]]
    for title, key in (
        ("open loop at half of the saturated rate", "open"),
        (f"saturated, {CLIENTS} clients", "saturated"),
    ):
        lines += ["", f"{title:<40}{'rps':>7}{'errors':>8}{'gap ms':>8}{'p99 before':>12}"]
        lines[-1] += f"{'during':>8}{'max ms':>8}{'swap s':>8}"
        for name, row in result["servers"].items():
            if "swaps" not in row:
                continue
            control, found = row["swaps"]["control"], row["swaps"][key]
            rate = f"{row['swaps']['rate']:.0f}" if key == "open" else ""
            if key == "open":
                lines.append(
                    f"  {NAMES[name] + ', without swaps':<38}{rate:>7}{control['errors']:>8}"
                    f"{control['gap_ms']:>8.1f}{control['p99_before_ms']:>12.2f}{'':>8}"
                    f"{control['max_ms']:>8.1f}"
                )
                lines.append(
                    _row(f"{NAMES[name]}, a neighbour loads", rate, row["swaps"]["beside"])
                )
            lines.append(_row(NAMES[name], rate, found))
            lines += [f"      {count} x {what}" for what, count in found["kinds"].items()]
    lines += ["", f"memory, swaps of {WEIGHTS_MIB} MiB of weights, MiB: the first and last tenth"]
    for name, row in result["servers"].items():
        samples = row.get("memory_mib", [])
        if samples:
            tenth = max(1, len(samples) // 10)
            first = statistics.median(samples[:tenth])
            last = statistics.median(samples[-tenth:])
            lines.append(
                f"  {NAMES[name]:<38}{first:>8.1f}{last:>8.1f}, "
                f"most {max(samples):.1f}, {len(samples)} swaps"
            )
    return "\n".join(lines)


def _row(title, rate, found):
    return (
        f"  {title:<38}{rate:>7}{found['errors']:>8}{found['gap_ms']:>8.1f}"
        f"{found['p99_before_ms']:>12.2f}{found['p99_during_ms']:>8.2f}"
        f"{found['max_ms']:>8.1f}{found['swap_s']:>8.2f}"
    )


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m bench.swap", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--peers", default=",".join(SERVERS), help="which, with commas")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args(argv)
    result = measure_all(options)
    print(json.dumps(result, indent=2) if options.json else render(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
