"""What ``linnet-agent`` runs once its flags are parsed."""

import asyncio
import logging
import sys
from collections.abc import Callable, Mapping
from datetime import datetime

import pydantic

from linnet_agent.app import AlreadyRunningError, run_agent
from linnet_agent.logs import configure_logging
from linnet_agent.settings import read_settings
from linnet_agent.store import Checkpoint, no_checkpoint
from linnet_agent.sync import Jitter

log = logging.getLogger(__name__)

_USAGE = 2


def run(
    flags: Mapping[str, object],
    *,
    clock: Callable[[], datetime],
    jitter: Jitter,
    print_config: bool = False,
    checkpoint: Checkpoint = no_checkpoint,
) -> int:
    """Run the agent; return 0 where a signal ended it, 1 if it cannot run, 2 on wrong settings."""
    try:
        settings = read_settings(flags)
    except pydantic.ValidationError as error:
        for fault in error.errors(include_url=False, include_input=False):
            flag = "--" + str(fault["loc"][0]).replace("_", "-") if fault["loc"] else "settings"
            sys.stderr.write(f"linnet-agent: {flag}: {fault['msg']}\n")
        return _USAGE
    except ValueError as error:
        sys.stderr.write(f"linnet-agent: {error}\n")
        return _USAGE
    if print_config:
        sys.stdout.write(settings.model_dump_json(indent=2) + "\n")
        return 0
    configure_logging()
    try:
        asyncio.run(run_agent(settings, clock=clock, jitter=jitter, checkpoint=checkpoint))
    except (AlreadyRunningError, OSError, ValueError) as error:
        sys.stderr.write(f"linnet-agent: {error}\n")
        return 1
    return 0
