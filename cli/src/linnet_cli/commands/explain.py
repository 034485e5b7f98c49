"""``linnet explain``: why is it there, and what happens next?

- ``--verify`` computes every recorded decision again, from its evidence alone.
- ``--decision``, ``--metric`` and ``--node`` print how one was computed: inputs, formulas, numbers.
"""

import argparse
import base64
import json
import zlib

from linnet_cli.commands.status import paint_for
from linnet_cli.errors import ForbiddenError, NotFoundError, UsageError
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
    parser.add_argument(
        "--decision",
        metavar="N",
        type=int,
        help="how decision N was computed (default: the newest)",
    )
    parser.add_argument("--metric", metavar="NAME", help="of a comparison or threshold alone")
    parser.add_argument("--node", metavar="NODE", help="what one node adds to it")
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
        if args.metric or args.node:
            raise UsageError("--verify checks whole decisions: without --metric and --node")
        return verify(kube, records.rollout, namespace=namespace, world=world, only=args.decision)
    if args.decision is not None or args.metric or args.node:
        return show(kube, records.rollout, args, namespace=namespace, world=world)
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


def show(
    kube: Kube, rollout: Json | None, args: argparse.Namespace, *, namespace: str, world: World
) -> int:
    """Print how one decision was computed, from its record alone."""
    from linnet_cli.workings import show_workings  # noqa: PLC0415 - the judge is slow to import
    from linnet_operator.evidence import (  # noqa: PLC0415 - the same
        EvidenceRecordError,
        read_config_map,
        recompute,
    )

    title, reference = _find_evidence(rollout, wanted=args.decision)
    try:
        again = recompute(read_config_map(read_evidence(kube, reference, namespace=namespace)))
        lines = show_workings(again, metric=args.metric, node=args.node)
    except EvidenceRecordError as error:
        raise NotFoundError(f"{title}: {error}. {error.remedy}") from error
    except LookupError as error:
        raise NotFoundError(f"{title}: {error.args[0]}") from error
    head = [title, f"  {'record'.ljust(12)} ConfigMap {reference['name']}, sha256 {again.sha256}"]
    world.show("\n".join([*head, *lines]))
    return Exit.OK


def _find_evidence(rollout: Json | None, *, wanted: int | None) -> tuple[str, Json]:
    """Return the title and the evidence of a decision; of the newest where none is wanted."""
    name = rollout["metadata"]["name"] if rollout else "it"
    status = (rollout or {}).get("status") or {}
    judged = [d for d in _decisions(rollout, wanted=wanted) if d.get("evidence")]
    if judged:
        last = judged[-1]
        title = (
            f"{name} decision {last['n']}, step {last['step']}: {last['verdict']}, {last['action']}"
        )
        return title, last["evidence"]
    if wanted is not None:
        raise NotFoundError(f"{name} decision {wanted} rests on no metrics")
    if status.get("evidence"):
        return f"{name}: what was learned before the first step", status["evidence"]
    raise NotFoundError(f"{name} has judged no metrics yet")


def _decisions(rollout: Json | None, *, wanted: int | None) -> list[Json]:
    """Return that decision; all of them where none is wanted.

    Raises:
        NotFoundError: There is no such decision.
    """
    recorded = list(((rollout or {}).get("status") or {}).get("decisions") or ())
    found = [decision for decision in recorded if wanted in (None, decision["n"])]
    if wanted is not None and not found:
        name = rollout["metadata"]["name"] if rollout else "it"
        known = ", ".join(str(decision["n"]) for decision in recorded) or "none"
        raise NotFoundError(f"{name} has no decision {wanted}; it has: {known}")
    return found


def verify(
    kube: Kube,
    rollout: Json | None,
    *,
    namespace: str,
    world: World,
    only: int | None = None,
) -> int:
    """Compute every decision of the rollout again, from its ConfigMap and nothing else.

    Returns:
        0 where each agrees with the record; 1 where one does not, or its evidence is gone.

    Raises:
        NotFoundError: There is no decision ``only``.
    """
    from linnet_operator.evidence import (  # noqa: PLC0415 - the judge is slow to import, and only needed here
        EvidenceRecordError,
        read_config_map,
        recompute,
    )

    name = rollout["metadata"]["name"] if rollout else ""
    agreed = judged = 0
    for decision in _decisions(rollout, wanted=only):
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
