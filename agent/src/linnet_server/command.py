"""What `linnet-server` does once its flags are parsed: exit codes and sentences for people."""

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Mapping
from typing import Final

import pydantic
import uvloop

from linnet_server.app import StartError, serve
from linnet_server.logs import configure_logging
from linnet_server.settings import name_source, read_settings

USAGE_ERROR: Final = 2


def run_server(flags: Mapping[str, object], *, print_config: bool) -> int:
    """Run the server until it is told to stop, and return the exit code."""
    try:
        settings = read_settings(flags)
    except pydantic.ValidationError as exc:
        for error in exc.errors(include_url=False):
            where = "".join(f"{name_source(str(part), flags)}: " for part in error["loc"][:1])
            _complain(where + error["msg"].removeprefix("Value error, "))
        return USAGE_ERROR
    except ValueError as exc:
        _complain(str(exc))
        return USAGE_ERROR
    if print_config:
        sys.stdout.write(settings.model_dump_json(indent=2) + "\n")
        return 0
    configure_logging()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except StartError as exc:
        _complain(str(exc))
        return 1
    if any(
        thread.name.startswith(("linnet-run", "linnet-load")) for thread in threading.enumerate()
    ):
        # A run or a load in native code cannot be ended, and is not waited for.
        logging.shutdown()
        os._exit(0)
    return 0


def _complain(sentence: str) -> None:
    sys.stderr.write(f"linnet-server: {sentence}\n")
