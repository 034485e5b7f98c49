"""``make bench``: the first table, each part measured on this machine, now.

- Parts run one after the other, so that they do not measure each other.
- Ratios travel; absolute figures are of this machine.
"""

import argparse
import importlib
import platform
import sys
import time

PARTS = {
    "server": "requests per second, p50 and p99, beside a bare ASGI loop over onnxruntime",
    "fleet": "memory of each process and seconds of each activation phase, on the testbed",
    "judge": "milliseconds of one look at 1,000 nodes, in the worker process",
    "planner": "milliseconds of a plan and writes per node, a rollout over 1,000 simulated nodes",
}

ARGUMENTS = {"server": ["--peers", "linnet,bare"]}
"""The other peers are `make bench-server`'s."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"any of {', '.join(PARTS)}; default all")
    chosen = parser.parse_args().parts or list(PARTS)
    unknown = [part for part in chosen if part not in PARTS]
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    worst = 0
    for part in chosen:
        print(f"\n== {part}: {PARTS[part]}", flush=True)
        started = time.monotonic()
        worst = max(worst, importlib.import_module(f"bench.{part}").main(ARGUMENTS.get(part, [])))
        print(f"({time.monotonic() - started:.0f} s)", flush=True)
    return worst


if __name__ == "__main__":
    sys.exit(main())
