"""linnet-testbed: up, down, status, and the nodes' network."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from linnet_testbed.bed import Testbed
from linnet_testbed.errors import TestbedError
from linnet_testbed.progress import Progress
from linnet_testbed.settings import Settings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="linnet-testbed", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=text, description=text)
        made.add_argument("--name", default="default", help="which testbed (default: default)")
        return made

    up = verb("up", "Start a testbed, or mend one.")
    up.add_argument("--nodes", type=int, help="how many edge nodes (default: 3, or what there is)")
    up.add_argument("--bare", action="store_true", help="only a cluster, to offer to another")
    up.add_argument("--no-agents", action="store_true", help="make nodes, but start no processes")
    up.add_argument("--no-operator", action="store_true", help="do not start the operator")
    up.add_argument("--scrape-interval", help="Prometheus's interval (default: 1s)")
    up.add_argument("--heartbeat", help="the agents' heartbeat (default: 2s)")
    up.add_argument("--ceiling", type=Path, help="a trust.yaml that every node has of its own")
    gone = verb("down", "End a testbed; nothing is left.")
    gone.add_argument("--forget", action="store_true", help="leave an offered cluster as it is")
    gone.add_argument("--all", action="store_true", help="every testbed")
    status = verb("status", "Show a testbed's processes.")
    status.add_argument("-o", dest="output", choices=["json"], help="as JSON")
    network = verb("network", "Cut, restore, or spoil a node's network, or show it.")
    network.add_argument("op", choices=["cut", "restore", "delay", "drop", "show"])
    network.add_argument("node", nargs="?", help="edge-1, ..., or operator")
    network.add_argument("value", nargs="?", type=float, help="seconds, or a share of connections")
    network.add_argument("--link", action="append", default=[], help="only this link")
    return parser


def _status(bed: Testbed, output: str | None) -> int:
    rows = bed.status()
    if output == "json":
        print(json.dumps({"name": bed.name, "env": bed.env, "processes": rows}, indent=1))
    else:
        print(f"{'PROCESS':<26}{'PID':<9}{'PORT':<8}STATE")
        for row in rows:
            print(f"{row['name']:<26}{row['pid'] or '-':<9}{row['port'] or '-':<8}{row['state']}")
        print(f"\nPrometheus  {bed.prometheus_url}\nRegistry    {bed.registry_url}")
        for key, value in bed.env.items():
            print(f"export {key}={value}")
    return 0 if all(row["state"] == "up" for row in rows) else 1


def _network(bed: Testbed, args: argparse.Namespace) -> None:
    faults = {"delay": "delay", "drop": "drop_rate"}
    if args.op in faults:
        wanted = {faults[args.op]: args.value or 0.0}
        links = bed.network("faults", args.node, args.link, faults=wanted)
    else:
        links = bed.network("status" if args.op == "show" else args.op, args.node, args.link)
    for link in links:
        state = "cut" if link["cut"] else "up"
        print(
            f"{link['node']:<12}{link['link']:<16}{state:<6}open={link['open']} "
            f"delay={link['delay']} drop={link['drop_rate']}"
        )


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Do what the command line says."""
    say = Progress()
    if args.verb == "up":
        fresh = args.name not in settings.names()
        Testbed.up(
            args.name,
            nodes=3 if fresh and args.nodes is None else args.nodes,
            bare=args.bare or None,
            agents=False if args.no_agents else True if fresh else None,
            operator=False if args.no_operator else True if fresh else None,
            scrape_interval=args.scrape_interval,
            heartbeat=args.heartbeat,
            ceiling=args.ceiling.read_text() if args.ceiling else None,
            settings=settings,
            say=say,
        )
        return 0
    if args.verb == "down":
        for name in settings.names() if args.all else [args.name]:
            Testbed.remove(name, forget=args.forget, settings=settings, say=say)
        return 0
    bed = Testbed.attach(args.name, settings=settings, say=say)
    if args.verb == "status":
        return _status(bed, args.output)
    _network(bed, args)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; problems are one sentence on stderr."""
    args = _parser().parse_args(argv)
    try:
        return run(args, Settings.from_environment())
    except TestbedError as error:
        print(f"linnet-testbed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("linnet-testbed: interrupted; run up again, or down", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
