"""A linnet-agent that dies at a named step: at the n-th time that NAME is reached, with no goodbye.

LINNET_CRASH_AT=NAME:n   where to die; nowhere where it is not set
LINNET_CRASH_LOG=FILE    where the names are written that were passed
"""

import os
import random  # noqa: TID251
import sys
from datetime import UTC, datetime

from linnet_agent import __main__ as program
from linnet_agent import command

KILLED = 137


def main():
    name, _, count = os.environ.get("LINNET_CRASH_AT", "").rpartition(":")  # noqa: TID251
    log = os.open(os.environ["LINNET_CRASH_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)  # noqa: TID251
    left = int(count) if count else 0

    def checkpoint(passed):
        nonlocal left
        os.write(log, f"{passed}\n".encode())
        if passed == name:
            left -= 1
            if left == 0:
                os._exit(KILLED)

    flags = vars(program._parser().parse_args(sys.argv[1:]))
    return command.run(
        flags,
        print_config=flags.pop("print_config"),
        clock=lambda: datetime.now(UTC),  # noqa: TID251
        jitter=random.random,
        checkpoint=checkpoint,
    )


if __name__ == "__main__":
    sys.exit(main())
