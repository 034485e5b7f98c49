"""A linnet-agent that dies at a named step: at the n-th time that NAME is reached, with no goodbye.

LINNET_CRASH_AT=NAME:n       where to die; nowhere where it is not set
LINNET_CRASH_LOG=FILE        where the names are written that were passed
LINNET_CRASH_CLOCK=FILE      holds a time: the clock stands at it; or "+SECONDS": it is wrong by
                             that; read at each look
LINNET_CRASH_MEMORY=PID:MIB   how much the models of process PID and a self-test may have together
LINNET_CRASH_MUTANT=NAME     a mistake of ``crashlab.mutants`` that it is to make
LINNET_CRASH_TRACED=1        no more threads than one of each kind: strace counts calls by thread,
                             and the same call must be the n-th one in each run
"""

import os
import random  # noqa: TID251
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from crashlab.mutants import seed

KILLED = 137


def main():
    environ = os.environ  # noqa: TID251
    if mutant := environ.get("LINNET_CRASH_MUTANT"):
        seed(mutant)
    from linnet_agent import __main__ as program  # noqa: PLC0415 - after the mistake is seeded
    from linnet_agent import app, command, selftest  # noqa: PLC0415
    from linnet_agent.fetch import transport  # noqa: PLC0415
    from linnet_agent.verify import directory  # noqa: PLC0415

    name, _, count = environ.get("LINNET_CRASH_AT", "").rpartition(":")
    log = os.open(environ["LINNET_CRASH_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    wrong = Path(environ["LINNET_CRASH_CLOCK"])
    left = int(count) if count else 0

    def checkpoint(passed):
        nonlocal left
        os.write(log, f"{passed}\n".encode())
        if passed == name:
            left -= 1
            if left == 0:
                os._exit(KILLED)

    def clock():
        now = datetime.now(UTC)  # noqa: TID251
        told = wrong.read_text() if wrong.exists() else "+0"
        if not told.startswith(("+", "-")):
            return datetime.fromisoformat(told)
        return now + timedelta(seconds=float(told))

    if told := environ.get("LINNET_CRASH_MEMORY"):
        pid, _, mib = told.partition(":")
        selftest.available_bytes = lambda: (int(mib) << 20) - held_bytes(pid)
    if environ.get("LINNET_CRASH_TRACED"):
        app._THREADS = directory._MAX_HASHERS = transport._MAX_WORKERS = 1
    flags = vars(program._parser().parse_args(sys.argv[1:]))
    return command.run(
        flags,
        print_config=flags.pop("print_config"),
        clock=clock,
        jitter=random.random,
        checkpoint=checkpoint,
    )


def held_bytes(pid):
    """Return the private memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:"))


if __name__ == "__main__":
    sys.exit(main())
