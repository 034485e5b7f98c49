"""``make bench-decisions``: simulate, judge, and write the tables and pictures.

- A full run takes an hour of two cores. It keeps what is done in a file, and goes on from there.
- ``--report`` writes ``bench/README.md`` and the pictures from that file, and simulates nothing.
- ``--gate`` is the small size, with fixed seeds and the limits of the judge: 0 where they hold.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from bench.decisions import gate, report
from bench.decisions.measure import OURS, Outcome, run, run_batch
from bench.decisions.scenarios import all_scenarios

FULL = 1000
KEPT = Path("build/bench-decisions.json")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.decisions", description=__doc__)
    parser.add_argument("--gate", action="store_true", help="the small size, with limits")
    parser.add_argument("--report", action="store_true", help="only write what has been measured")
    parser.add_argument("--rivals", action="store_true", help="ask the rivals again, not ours")
    parser.add_argument("--repetitions", type=int, default=FULL, help=f"of each fleet ({FULL})")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--only", default="", help="scenarios whose key has this in it")
    parser.add_argument("--kept", type=Path, default=KEPT, help=f"results so far ({KEPT})")
    args = parser.parse_args(arguments)
    if args.gate:
        return gate.main(workers=args.workers)
    kept = _read(args.kept)
    if args.rivals:
        _ask_rivals_again(kept)
        _write(args.kept, kept)
    if not (args.report or args.rivals):
        wanted = [
            each
            for each in all_scenarios()
            if args.only in each.key
            and (each.key not in kept or kept[each.key].repetitions < each.count(args.repetitions))
        ]
        started = time.monotonic()
        for scenario, outcome in run(wanted, args.repetitions, workers=args.workers, kept=kept):
            kept[scenario.key] = outcome
            _write(args.kept, kept)
            print(
                f"{time.monotonic() - started:7.0f} s  {report.line(scenario, outcome)}", flush=True
            )
    report.write(kept, Path("bench"))
    return 0


def _ask_rivals_again(kept: dict[str, Outcome]) -> None:
    """Judge the fleets of before with the rivals alone: a repetition has dice of its own."""
    for scenario in all_scenarios():
        if scenario.key not in kept or scenario.withheld or scenario.table == "clear":
            continue
        before = kept[scenario.key]
        again = run_batch(scenario, 0, before.repetitions, "rivals")
        before.alarms |= {**again.alarms, OURS: before.alarms[OURS]}


def _read(path: Path) -> dict[str, Outcome]:
    if not path.exists():
        return {}
    return {key: Outcome(**each) for key, each in json.loads(path.read_text()).items()}


def _write(path: Path, kept: dict[str, Outcome]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({key: vars(each) for key, each in kept.items()}))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
