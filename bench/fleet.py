"""Memory of each process and seconds of each activation phase, on a testbed of its own."""

import re
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from linnet_cli.publish.keys import generate_key
from linnet_testbed import Testbed
from linnet_testbed.demo import digits
from linnet_testbed.demo.stage import Stage

NODES = 3
LIMIT_S = 120


def main(arguments: list[str]) -> int:
    del arguments
    key = generate_key()
    Testbed.remove("bench")
    bed = Testbed.up(name="bench", nodes=NODES)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            stage = Stage(bed, Path(scratch), digits.load(), key, key, Path(scratch) / "counts")
            bed.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "factory"}})
            bed.apply(FIRST)
            digest = stage.publish("1.0")
            stage.trust(key[1])
            stage.deploy("1.0", policy="first")
            _wait_until_served(stage, digest)
        _print_memory(bed)
        _print_phases(bed)
    finally:
        bed.down()
    return 0


FIRST = {
    "apiVersion": "linnet.dev/v1alpha1",
    "kind": "RolloutPolicy",
    "metadata": {"name": "first", "namespace": "factory"},
    "spec": {
        "steps": [{"nodes": "100%", "bake": "1s"}],
        "control": 0,
        "judge": {"history": {"window": "1s"}},
        "budget": {"maxUnavailable": "100%"},
    },
}


def _wait_until_served(stage: Stage, digest: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while set(stage.serving().values()) != {digest}:
        if time.monotonic() > deadline:
            raise SystemExit(f"not served by all after {LIMIT_S} s: {stage.serving()}")
        time.sleep(0.5)


def _print_memory(bed: Testbed) -> None:
    rows: dict[str, list[float]] = {}
    for row in bed.status():
        if row["pid"]:
            name = re.sub(r"^edge-\d+\.", "linnet-", row["name"])
            rows.setdefault(name, []).append(_resident_mib(row["pid"]))
    print(f"{'process':<28}{'count':>6}{'MiB each (median)':>20}")
    for name, sizes in sorted(rows.items()):
        print(f"{name:<28}{len(sizes):>6}{sorted(sizes)[len(sizes) // 2]:>20.0f}")


def _resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found.group(1)) / 1024 if found else 0.0


def _print_phases(bed: Testbed) -> None:
    sums: dict[str, float] = {}
    counts: dict[str, float] = {}
    for node in bed.nodes:
        with urllib.request.urlopen(node.agent_metrics_url, timeout=10) as answer:  # noqa: S310 - loopback
            text = answer.read().decode()
        for name, phase, value in re.findall(
            r'linnet_agent_phase_seconds_(sum|count)\{[^}]*phase="(\w+)"[^}]*\} (\S+)', text
        ):
            target = sums if name == "sum" else counts
            target[phase] = target.get(phase, 0.0) + float(value)
    print(f"\n{'phase':<28}{'seconds (mean)':>20}")
    for phase, total in sums.items():
        if counts.get(phase):
            print(f"{phase:<28}{total / counts[phase]:>20.3f}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
