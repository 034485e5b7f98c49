"""``linnet explain``: why is it there, and what happens next?

- ``--verify`` computes every recorded decision again, from its evidence alone.
"""

import argparse
import base64
import json
import zlib

from linnet_cli.commands.status import paint_for
from linnet_cli.errors import ForbiddenError, NotFoundError
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
    parser.add_argument("--rollout", metavar="NAME", help="an older rollout (default: the newest)")
    add_cluster_options(parser)


def run(args: argparse.Namespace, world: World) -> int:
    """Print the explanation, or verify the decisions."""
    kube = world.connect(args)
    namespace, name = args.namespace or kube.namespace, split_name(args.deployment)
    records = read_records(
        kube,
        now=world.now(),
        namespace=namespace,
        name=name,
        with_nodes=not args.verify,
        rollout=args.rollout,
    )[0]
    if args.verify:
        return verify(kube, records.rollout, namespace=namespace, world=world)
    width = max(60, world.size()[0] - 1) if world.terminal else 110
    paint = paint_for(args, world)
    lines = explain(
        tell(records),
        rollout=records.rollout,
        record=read_last_record(kube, records.rollout, namespace=namespace),
        paint=paint,
        width=width,
        prog=world.prog,
    )
    world.show("\n".join(lines))
    return Exit.OK


def verify(kube: Kube, rollout: Json | None, *, namespace: str, world: World) -> int:
    """Compute every decision of the rollout again, from its ConfigMap and nothing else.

    Returns:
        0 where each agrees with the record; 1 where one does not, or its evidence is gone.
    """
    from linnet_operator.evidence import (  # noqa: PLC0415 - the judge is slow to import, and only needed here
        EvidenceRecordError,
        read_config_map,
        recompute,
    )

    name = rollout["metadata"]["name"] if rollout else ""
    decisions = ((rollout or {}).get("status") or {}).get("decisions") or ()
    agreed = judged = 0
    for decision in decisions:
        what = f"{name} decision {decision['n']}, step {decision['step']}: {decision['verdict']}, "
        what += str(decision["action"])
        reference = decision.get("evidence")
        if not reference:
            world.show(f"{what}: no metrics were judged")
            continue
        judged += 1
        try:
            again = recompute(read_config_map(read_evidence(kube, reference, namespace=namespace)))
        except (EvidenceRecordError, NotFoundError) as error:
            world.show(f"{what}: NOT VERIFIED, {error}")
            continue
        differences = list(again.differences)
        if again.sha256 != reference["sha256"]:
            differences.append("sha256 (the evidence is not what the decision names)")
        if again.recorded.get("verdict") != decision["verdict"]:
            differences.append(f"verdict (the evidence says {again.recorded.get('verdict')})")
        if differences:
            world.show(f"{what}: DIFFERS in {', '.join(differences[:5])}")
            continue
        agreed += 1
        world.show(f"{what}: agrees, from {reference['name']}")
    if not judged:
        world.say(
            f"{name or 'it'} has no decision that rests on metrics: there is nothing to verify"
        )
    return Exit.OK if agreed == judged else Exit.ERROR


def read_evidence(kube: Kube, reference: Json, *, namespace: str) -> Json:
    """Return the ConfigMap that a decision names.

    Raises:
        NotFoundError: It is gone.
    """
    return kube.get(f"/api/v1/namespaces/{namespace}/configmaps/{reference['name']}")


def read_last_record(kube: Kube, rollout: Json | None, *, namespace: str) -> Json:
    """Return the record of the newest decision that rests on metrics; empty where there is none."""
    decisions = ((rollout or {}).get("status") or {}).get("decisions") or ()
    reference = next((d["evidence"] for d in reversed(decisions) if d.get("evidence")), None)
    if reference is None:
        return {}
    try:
        data = read_evidence(kube, reference, namespace=namespace)["binaryData"]["evidence.json.gz"]
        record = json.loads(zlib.decompress(base64.b64decode(data), wbits=31))
    except (ForbiddenError, NotFoundError, KeyError, ValueError, zlib.error):
        # The story is told without it; --verify is what tells damaged evidence from none.
        return {}
    return record if isinstance(record, dict) else {}
