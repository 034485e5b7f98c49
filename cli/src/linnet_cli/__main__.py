"""The process: streams, clock and environment enter here and nowhere else."""

import gc
import io
import os
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from linnet_cli.app import main as run_command_line
from linnet_cli.exits import Exit
from linnet_cli.settings import read_environment
from linnet_cli.world import World

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _OutputError(Exception):
    """Our data cannot be written; no OSError, which argparse swallows and files have as well."""


class _Stdout(io.FileIO):
    """Where data goes, and who tells that it does not arrive."""

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _OutputError(error.strerror) from error


def main() -> int:
    """Run the command line of this process and return its exit code."""
    # One command makes a megabyte of JSON and ends: looking for cycles in it costs 10 ms.
    gc.set_threshold(200_000)
    environment = read_environment()

    def connect_with_environment(args):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - see World.connect
        from linnet_cli.kube.connect import connect  # noqa: PLC0415 - start-up

        return connect(args, environment)

    if sys.stdout is None:
        return _cannot_write("it is closed")
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Stdout(sys.stdout.fileno(), "w", closefd=False)),
        encoding=sys.stdout.encoding,
        # A name that the terminal's encoding lacks is shown as \u1234; it is no reason to fail.
        errors="backslashreplace",
        line_buffering=sys.stdout.isatty(),
    )
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
        code = run_command_line(sys.argv[1:], world)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Whoever read us has gone (`| head`); say nothing.
        _drop_output()
        return Exit.OK
    except _OutputError as error:
        _drop_output()
        return _cannot_write(str(error))
    return code


def _drop_output() -> None:
    """Let what stdout still holds go nowhere: the interpreter writes it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _cannot_write(why: str) -> int:
    if sys.stderr is not None:
        sys.stderr.write(f"linnet: stdout cannot be written: {why}\n")
    return Exit.ERROR


def _terminal_size() -> tuple[int, int]:
    columns, lines = os.get_terminal_size(sys.stdout.fileno())
    return columns, lines


if __name__ == "__main__":
    sys.exit(main())
