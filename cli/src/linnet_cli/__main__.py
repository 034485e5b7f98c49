"""The process: streams, clock and environment enter here and nowhere else."""

import gc
import io
import os
import sys
import time
from datetime import UTC, datetime

from linnet_cli.app import main as run_command_line
from linnet_cli.exits import Exit
from linnet_cli.settings import read_environment
from linnet_cli.world import World


def main() -> int:
    """Run the command line of this process and return its exit code."""
    # One command makes a megabyte of JSON and ends: looking for cycles in it costs 10 ms.
    gc.set_threshold(200_000)
    environment = read_environment()

    def connect_with_environment(args):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - see World.connect
        from linnet_cli.kube.connect import connect  # noqa: PLC0415 - start-up

        return connect(args, environment)

    # A name that the terminal's encoding lacks is shown as \u1234; it is no reason to fail.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    terminal = sys.stdout.isatty()
    world = World(
        prog="kubectl linnet" if os.path.basename(sys.argv[0]).startswith("kubectl-") else "linnet",  # noqa: PTH119 - start-up
        out=sys.stdout,
        err=sys.stderr,
        now=lambda: datetime.now(UTC),
        monotonic=time.monotonic,
        sleep=time.sleep,
        token=lambda: os.urandom(4).hex(),
        connect=connect_with_environment,
        color=terminal and not environment.no_color,
        terminal=terminal,
        size=_terminal_size,
    )
    try:
        return run_command_line(sys.argv[1:], world)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Whoever read us has gone (`| head`); say nothing, also not at interpreter exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK


def _terminal_size() -> tuple[int, int]:
    columns, lines = os.get_terminal_size(sys.stdout.fileno())
    return columns, lines


if __name__ == "__main__":
    sys.exit(main())
