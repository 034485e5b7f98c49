"""The table: each line with its budget, and whether it holds."""

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path

from bench.agent import fetching, node, verifying
from bench.agent.measuring import Line, SkippedError
from linnet_testbed import TestbedUnavailableError

PARTS = {
    "verify": verifying.measure,
    "fetch": fetching.measure,
    "reads": fetching.count_reads,
    "idle": node.measure_idle,
    "revert": node.measure_revert,
}
_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3}


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m bench.agent", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"any of {', '.join(PARTS)}; default all")
    parser.add_argument("--size", type=_size, default=1000**3, help="of the model (default 1G)")
    parser.add_argument("--runs", type=int, default=5, help="of each command (default 5)")
    parser.add_argument("--scratch", type=Path, help="where the models lie (default: a temporary)")
    options = parser.parse_args(argv)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {min(unknown)}; there are {', '.join(PARTS)}")
    load = os.getloadavg()[0]
    print(
        f"{os.cpu_count()} cores, load {load:.1f} before, {options.size // 1000**2} MB in 8 files"
    )
    lines = []
    for part in options.parts or PARTS:
        with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
            try:
                lines += PARTS[part](Path(scratch), size=options.size, runs=options.runs)
            except (SkippedError, TestbedUnavailableError) as reason:
                lines.append(Line(part, note=f"skipped: {reason}"))
        sys.stdout.flush()
    print(f"\n{'what':<46}{'measured':>14}{'budget':>12}  ")
    for line in lines:
        print(line)
    print(f"load {os.getloadavg()[0]:.1f} after")
    return 1 if any(line.missed for line in lines) else 0


def _size(text):
    found = re.fullmatch(r"([0-9]+)([KMG]?)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text} is not a size such as 64M")
    return int(found.group(1)) * _UNITS[found.group(2)]


if __name__ == "__main__":
    sys.exit(main())
