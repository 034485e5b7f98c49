"""``linnet-agent``: parse the flags, read the settings, run the process.

- ``--help`` imports nothing but argparse.
"""

import argparse
import random
import sys
from collections.abc import Sequence
from datetime import UTC, datetime


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    flags = vars(_parser().parse_args(argv))
    print_config = flags.pop("print_config")

    # httpx imports its own command line, with click and rich, where they are installed: 5 MiB that
    # an agent never uses. This makes that import fail, which httpx expects.
    sys.modules["httpx._main"] = None  # type: ignore[assignment]  # how Python spells "not there"

    from linnet_agent import command  # noqa: PLC0415 - a third of a second that --help can spare

    return command.run(flags, clock=_now, jitter=random.random, print_config=print_config)


def _now() -> datetime:
    return datetime.now(UTC)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="linnet-agent",
        description="Carries out the orders for one node: verifies, fetches, activates and reports "
        "models. Every flag is also an environment variable: --api-server is "
        "LINNET_AGENT_API_SERVER.",
    )
    add = parser.add_argument
    add("--root", metavar="DIR", help="the node's directory (default /var/lib/linnet)")
    add("--node", metavar="NAME", help="name of this Node")
    add("--api-server", metavar="URL", help="the API server (default: the cluster's service)")
    add("--token-file", metavar="FILE", help="bearer token that is bound to this Node")
    add("--ca-file", metavar="FILE", help="who signed the API server's certificate")
    add("--server-socket", metavar="SOCK", help="linnet-server's control socket")
    add("--metrics", metavar="HOST:PORT", help="where metrics are served (default 127.0.0.1:9464)")
    add("--ceiling", metavar="FILE", help="the node's own trust (default /etc/linnet/trust.yaml)")
    add(
        "--programs",
        metavar="FILE",
        help="what to run after a swap of files (default /etc/linnet/programs.yaml)",
    )
    add(
        "--trust-roots",
        metavar="DIR",
        help="sigstore trusted roots (default /etc/linnet/trust-roots)",
    )
    add("--tuf-directory", metavar="DIR", help="a TUF repository with a trusted_root.json")
    add("--heartbeat", metavar="DURATION", help="between heartbeats (default 10s)")
    add("--retry-max", metavar="DURATION", help="longest wait before a new try (default 60s)")
    add("--self-test-timeout", metavar="DURATION", help="for a model's self-test (default 120s)")
    add(
        "--registry-mirror",
        metavar="HOST=URL",
        action="append",
        dest="registry_mirrors",
        help="ask URL instead of the registry HOST; may be repeated",
    )
    add("--docker-config", metavar="FILE", help="a Docker config.json with registry credentials")
    add(
        "--file-roots",
        metavar="DIR,DIR",
        help="below which file:// sources may lie (default /media,/mnt,/srv/linnet)",
    )
    add(
        "--fetch-rate", metavar="BYTES", help="a second, for all fetches, as 2M (default: no limit)"
    )
    add("--fetch-spread", metavar="DURATION", help="window of a fleet's fetch starts (default 0s)")
    add("--rehash-interval", metavar="DURATION", help="between looks at the disk (default 24h)")
    add("--print-config", action="store_true", help="print the effective settings and exit")
    return parser


if __name__ == "__main__":
    sys.exit(main())
