"""Flags that several publishers' commands share: how to reach a registry."""

import argparse
from typing import TYPE_CHECKING

from linnet_cli.errors import CliError
from linnet_cli.publish.settings import docker_config_path, read_mirrors

if TYPE_CHECKING:  # start-up: who judges a directory asks no registry
    from linnet_agent.fetch.credentials import Credential


def add_registry_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--registry-mirror``."""
    parser.add_argument(
        "--registry-mirror",
        action="append",
        default=[],
        metavar="HOST=URL",
        help="speak to URL instead of https://HOST; may repeat (default: LINNET_REGISTRY_MIRRORS)",
    )


def mirrors_of(args: argparse.Namespace) -> dict[str, str]:
    """Return the mirrors of flags and environment; flags win."""
    from linnet_agent.fetch.references import parse_mirrors  # noqa: PLC0415 - start-up

    try:
        return parse_mirrors(read_mirrors()) | parse_mirrors(",".join(args.registry_mirror))
    except ValueError as error:
        raise CliError(str(error)) from error


def read_credentials() -> "dict[str, Credential]":
    """Return what Docker's config file knows; nothing where there is none."""
    from linnet_agent.fetch.credentials import load_docker_config  # noqa: PLC0415 - start-up

    path = docker_config_path()
    try:
        return load_docker_config(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        msg = f"credentials: {error}"
        raise CliError(msg) from error
