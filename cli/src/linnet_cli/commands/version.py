"""``linnet version``: what this is."""

import argparse

from linnet_cli.exits import Exit
from linnet_cli.world import World


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``version`` takes: nothing."""
    del parser


def run(args: argparse.Namespace, world: World) -> int:
    """Print the version of the installed distribution."""
    del args
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - start-up

    try:
        world.show(f"linnet {version('linnet')}")
    except PackageNotFoundError:
        world.show("linnet, not installed as a distribution")
    return Exit.OK
