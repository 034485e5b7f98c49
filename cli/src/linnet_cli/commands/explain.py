"""``linnet explain``: why is it there, and what happens next?

- ``--verify`` computes every recorded decision again, from its evidence alone.
"""

import argparse

from linnet_cli.commands.status import paint_for
from linnet_cli.errors import EvidenceError
from linnet_cli.exits import Exit
from linnet_cli.explaining import explain
from linnet_cli.kube import Json, Kube
from linnet_cli.options import add_cluster_options, split_name
from linnet_cli.reading import read_records
from linnet_cli.story import tell
from linnet_cli.world import World


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``explain`` takes."""
    parser.add_argument("deployment", metavar="DEPLOYMENT")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="compute every recorded decision again; 0 only where all agree",
    )
    add_cluster_options(parser)


def run(args: argparse.Namespace, world: World) -> int:
    """Print the explanation, or verify the decisions."""
    kube = world.connect(args)
    namespace, name = args.namespace or kube.namespace, split_name(args.deployment)
    records = read_records(
        kube, now=world.now(), namespace=namespace, name=name, with_nodes=not args.verify
    )[0]
    if args.verify:
        return verify(kube, records.rollout, namespace=namespace, world=world)
    width = max(60, world.size()[0] - 1) if world.terminal else 110
    paint = paint_for(args, world)
    lines = explain(
        tell(records), rollout=records.rollout, paint=paint, width=width, prog=world.prog
    )
    world.show("\n".join(lines))
    return Exit.OK


def verify(kube: Kube, rollout: Json | None, *, namespace: str, world: World) -> int:
    """Compute every decision of the rollout again.

    Returns:
        0 where each agrees with the record; 1 where one does not, or its evidence is gone.
    """
    raise EvidenceError(f"no evidence of {namespace} can be read yet")
