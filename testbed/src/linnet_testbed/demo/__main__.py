"""``make demo``: plays the seven acts, prints the table, writes ``build/demo/report.json``.

- Exit code 0 only where every act went as it should and no request was lost by the serving.
- The testbed stays up afterwards, so that people can look; ``make demo-down`` takes it away.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from linnet_cli.publish.keys import generate_key
from linnet_testbed import Testbed
from linnet_testbed.demo import digits
from linnet_testbed.demo.acts import ACTS, Act
from linnet_testbed.demo.report import ActResult, Requests, render_table, write_report
from linnet_testbed.demo.stage import MODEL, NAMESPACE, ActFailedError, Stage, trust_policy
from linnet_testbed.errors import TestbedError

_NODES: Final = 10
_SHOWN: Final = {
    "scrape": "1s",
    "history": "6 to 8 windows of 4s",
    "detect": "the larger of 3 times and 15 % of requests on top",
    "bake": "6s",
    "compared": "errors and wrong (not slow: ten nodes share two cores)",
    "chance to take a good model back": "1 %",
}

_POLICY: Final[dict[str, Any]] = {
    "steps": [
        {"nodes": 1, "bake": "6s"},
        {"nodes": "30%", "bake": "6s"},
        {"nodes": "100%", "bake": "6s"},
    ],
    "control": "5%",
    "judge": {
        "interval": "1s",
        "history": {"window": "4s", "windows": 8, "required": 6},
        "compare": [
            {"name": "errors", "signal": "Errors"},
            {"name": "wrong", "signal": "Wrong"},
        ],
        "falseRollback": "1%",
        "detect": {"factor": 3, "floor": "15%"},
        "decideWithin": "5m",
    },
    "budget": {"maxUnavailable": "30%"},
    "offline": {"deferAfter": "12s", "suspectAfter": "30s"},
}
_AT_ONCE: Final[dict[str, Any]] = _POLICY | {
    "steps": [{"nodes": "100%", "bake": "6s"}],
    "control": 0,
    "budget": {"maxUnavailable": "100%"},
}


def main() -> int:
    """Play the demo; return the exit code."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--name", default="demo", help="name of the testbed; default demo")
    parser.add_argument("--acts", default="", help="play only the first N acts, such as 3")
    parser.add_argument("--report", type=Path, default=Path("build/demo/report.json"))
    options = parser.parse_args()
    acts = ACTS[: int(options.acts)] if options.acts else ACTS
    try:
        return _play(options.name, acts, report=options.report)
    except TestbedError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted; `make demo-down` takes the testbed away", file=sys.stderr)
        return 130


def _play(name: str, acts: tuple[Act, ...], *, report: Path) -> int:
    key, rogue = generate_key(), generate_key()
    ceiling = yaml.safe_dump(trust_policy(key[1]))
    Testbed.remove(name)
    bed = Testbed.up(name=name, nodes=_NODES, scrape_interval="1s", ceiling=ceiling)
    with tempfile.TemporaryDirectory(prefix="linnet-demo-") as scratch:
        stage = Stage(bed, Path(scratch), digits.load(), key, rogue, Path(scratch) / "counts.json")
        _prepare(stage)
        print(_how_to_look(bed), flush=True)
        with _clients(stage):
            results = [_result(stage, number, act) for number, act in enumerate(acts, start=1)]
            time.sleep(1)
        requests = _requests(stage)
    write_report(report, results, requests)
    print(render_table(results, requests, policy=_SHOWN), flush=True)
    print(f"the same as JSON: {report}; the testbed is still up: {_how_to_look(bed)}")
    return 0 if all(result.ok for result in results) and requests.failed == 0 else 1


def _prepare(stage: Stage) -> None:
    stage.bed.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    for name, spec in (("canary", _POLICY), ("at-once", _AT_ONCE)):
        stage.bed.apply(
            {
                "apiVersion": "linnet.dev/v1alpha1",
                "kind": "RolloutPolicy",
                "metadata": {"name": name, "namespace": NAMESPACE},
                "spec": spec,
            }
        )


def _result(stage: Stage, number: int, act: Act) -> ActResult:
    print(f"\nact {number}: {act.name}\n  expected: {act.expected}", flush=True)
    started = time.monotonic()
    try:
        seen, ok = act.play(stage), True
    except ActFailedError as error:
        seen, ok = str(error), False
    print(f"  {'seen' if ok else 'NOT as expected'}: {seen}", flush=True)
    return ActResult(act.name, act.expected, seen, ok, round(time.monotonic() - started, 1))


@contextmanager
def _clients(stage: Stage) -> Iterator[None]:
    targets = {node.name: node.server_url for node in stage.bed.nodes}
    command = [
        sys.executable,
        "-m",
        "linnet_testbed.demo.clients",
        "--targets",
        json.dumps(targets),
        "--out",
        str(stage.counts_file),
        "--model",
        MODEL,
    ]
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)


def _requests(stage: Stage) -> Requests:
    counts = stage.counts().values()
    return Requests(
        total=sum(c["total"] for c in counts),
        failed=sum(c["failed"] for c in counts),
        failed_by_model=sum(r["failed"] for c in counts for r in c["by_revision"].values()),
        failures=tuple(f"{f['kind']}: {f['text']}" for c in counts for f in c["failures"]),
    )


def _how_to_look(bed: Testbed) -> str:
    return (
        f"look with: export KUBECONFIG={bed.kubeconfig}; "
        f"kubectl get modeldeployments,modelrollouts,nodemodels -A; "
        f".venv/bin/linnet status {MODEL} -n {NAMESPACE} --watch"
    )


if __name__ == "__main__":
    sys.exit(main())
