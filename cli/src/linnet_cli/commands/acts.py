"""``linnet approve, pause, resume, abort, promote, retry``: what people decide about a rollout.

- A decision is appended to the newest ModelRollout's ``spec.acts``, where it stays as a record.
- ``by`` is who the API server says we are; an admission policy holds it to that.
- The patch names the resourceVersion that was read: of two people at once, both are kept.
"""

import argparse

from linnet_cli.contract import ENDED_PHASES, ROLLOUTS, object_path
from linnet_cli.errors import ConflictError, NotFoundError, NotNowError, UnauthorizedError
from linnet_cli.exits import Exit
from linnet_cli.kube import Json, Kube
from linnet_cli.options import add_cluster_options, split_name
from linnet_cli.reading import read_deployment, read_newest_rollout
from linnet_cli.story import health_of
from linnet_cli.world import World

# The operator writes statuses meanwhile, each of which is a conflict: a second apart at most.
_ATTEMPTS = 8
_RETRIED = frozenset({"RolledBack", "Refused", "Aborted", "Abandoned"})
_IDENTITY = "/apis/authentication.k8s.io/v1/selfsubjectreviews"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every act takes."""
    parser.add_argument("deployment", metavar="DEPLOYMENT")
    parser.add_argument(
        "--step", type=int, metavar="N", help="the step that is meant (default: the one it is at)"
    )
    parser.add_argument("--reason", default="", metavar="TEXT", help="why, for the record")
    parser.add_argument(
        "--dry-run", action="store_true", help="let the API server check it, write nothing"
    )
    add_cluster_options(parser)


def run(args: argparse.Namespace, world: World) -> int:
    """Append the act and say what was recorded."""
    kube = world.connect(args)
    namespace, name = args.namespace or kube.namespace, split_name(args.deployment)
    verb = str(args.command).capitalize()
    by = who_am_i(kube)
    act: Json = {"id": f"{args.command}-{world.token()}", "verb": verb, "by": by}
    if args.step is not None:
        act["step"] = args.step
    if args.reason:
        act["reason"] = args.reason
    deployment, rollout = append_act(
        kube, act, namespace=namespace, name=name, prog=world.prog, dry_run=args.dry_run
    )
    tried = "would be recorded (dry run)" if args.dry_run else "recorded"
    world.show(f"{rollout['metadata']['name']}: {verb} by {by} {tried}")
    if verb == "Resume" and deployment.get("spec", {}).get("paused"):
        world.say(
            "note: spec.paused of the ModelDeployment is true, and Git's brake beats this one"
        )
    if not args.dry_run:
        world.say(f"follow it with: {world.prog} status {name} -n {namespace} --watch")
    return Exit.OK


def who_am_i(kube: Kube) -> str:
    """Return the user name that the API server knows us by.

    Raises:
        UnauthorizedError: It knows none.
    """
    kind = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    review = kube.post(_IDENTITY, kind)
    name = str(review.get("status", {}).get("userInfo", {}).get("username", ""))
    if not name:
        raise UnauthorizedError("the API server does not say who you are: log in again")
    return name


def append_act(
    kube: Kube, act: Json, *, namespace: str, name: str, prog: str, dry_run: bool = False
) -> tuple[Json, Json]:
    """Append ``act`` to the newest rollout of a deployment; never twice, never over another.

    Returns:
        The ModelDeployment and the patched ModelRollout.

    Raises:
        NotFoundError: No such deployment, or it has no rollout yet.
        NotNowError: The act makes no sense in the state that the rollout is in.
        ConflictError: The object changed at every attempt.
    """
    meant = ""
    for attempt in range(_ATTEMPTS):
        deployment = read_deployment(kube, namespace=namespace, name=name)
        rollout = read_newest_rollout(kube, deployment)
        if rollout is None:
            raise NotFoundError(
                f"{name} has no rollout yet, so there is nothing to {act['verb'].lower()}; "
                f"see `{prog} explain {name} -n {namespace}`"
            )
        found = str(rollout["metadata"]["name"])
        if meant and found != meant:
            raise NotNowError(
                f"{found} took the place of {meant} meanwhile; look at it, then decide again"
            )
        meant = found
        acts = rollout["spec"].get("acts") or []
        if any(other.get("id") == act["id"] for other in acts):
            return deployment, rollout
        target = f"{name} -n {namespace}"
        refuse_if_senseless(act, rollout, deployment, target=target, prog=prog)
        path = object_path(ROLLOUTS, namespace=namespace, name=found)
        body = {
            "metadata": {"resourceVersion": rollout["metadata"]["resourceVersion"]},
            "spec": {"acts": [*acts, act]},
        }
        try:
            return deployment, kube.merge_patch(f"{path}?dryRun=All" if dry_run else path, body)
        except ConflictError:
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable: the last attempt returns or raises")


def refuse_if_senseless(
    act: Json, rollout: Json, deployment: Json, *, target: str, prog: str
) -> None:
    """Refuse an act that could not do anything, and say what could.

    Raises:
        NotNowError: With what to do instead.
    """
    name, verb = rollout["metadata"]["name"], str(act["verb"])
    status = rollout.get("status") or {}
    phase, waiting = str(status.get("phase") or ""), status.get("waitingFor") or {}
    if verb == "Retry":
        condemned = health_of(deployment).reason == "Condemned"
        if phase and phase not in _RETRIED and not condemned:
            state = f"ended as {phase}" if phase in ENDED_PHASES else "is still running"
            raise NotNowError(
                f"{name} {state}: only what was taken back or refused can be tried again"
            )
        return
    if phase in ENDED_PHASES:
        again = f"; `{prog} retry {target}` tries it again" if phase in _RETRIED else ""
        raise NotNowError(f"{name} has ended ({phase}): there is nothing to {verb.lower()}{again}")
    if verb == "Approve" and phase and act.get("step") is None:
        _refuse_unasked_approval(name, phase, waiting, target=target, prog=prog)


def _refuse_unasked_approval(
    name: str, phase: str, waiting: Json, *, target: str, prog: str
) -> None:
    match waiting.get("reason"):
        case "Approval":
            return
        case "Decision":
            raise NotNowError(
                f"{name} asks for more than an approval: `{prog} promote {target}` goes on, "
                f"`{prog} abort {target}` takes the candidate back"
            )
        case reason:
            waits = f"{reason}, {waiting.get('short', '')}" if reason else phase
            raise NotNowError(
                f"{name} does not wait for an approval but for {waits.rstrip(', ')}; to approve a "
                "later step now, name it with --step"
            )
