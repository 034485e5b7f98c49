"""Reads what one story needs: a deployment, its newest rollout, its NodeModels, the heartbeats.

- What may not be read (Leases, ControllerRevisions) makes the story poorer, never an error.
"""

from datetime import datetime
from typing import NamedTuple

from linnet_cli.contract import (
    AGENTS_NAMESPACE,
    DEPLOYMENTS,
    NODE_MODELS,
    ROLLOUTS,
    collection_path,
    object_path,
)
from linnet_cli.errors import ForbiddenError, NotFoundError
from linnet_cli.kube import Json, Kube


class Records(NamedTuple):
    """The raw objects behind one deployment's story.

    Attributes:
        deployment: The ModelDeployment.
        rollout: Its newest ModelRollout; None before the first.
        nodes: Its NodeModels, in no order.
        heartbeats: Node name to (last renewal, seconds it counts); None where they may not be read.
        labels: Revision to what people call it, such as ``1.1``.
        now: The time of reading, by the API server's clock where it is known.
    """

    deployment: Json
    rollout: Json | None
    nodes: tuple[Json, ...]
    heartbeats: dict[str, tuple[datetime, int]] | None
    labels: dict[str, str]
    now: datetime


def read_records(
    kube: Kube,
    *,
    now: datetime,
    namespace: str | None,
    name: str | None,
    with_nodes: bool = True,
    rollout: str | None = None,
) -> list[Records]:
    """Return the records of one deployment, or of all, sorted by namespace and name.

    Args:
        kube: The cluster.
        now: Our own clock, used where the server's is not known.
        namespace: None means every namespace; then ``name`` filters.
        name: None means every deployment.
        with_nodes: False leaves NodeModels and heartbeats unread.
        rollout: Name of an older rollout to read in place of the newest.

    Raises:
        NotFoundError: No such deployment; the sentence lists those that exist.
    """
    deployments = _read_deployments(kube, namespace=namespace, name=name)
    nodes = _items(kube, collection_path(NODE_MODELS, namespace=namespace)) if with_nodes else []
    heartbeats = _read_heartbeats(kube) if with_nodes and nodes else None
    by_deployment: dict[tuple[str, str], list[Json]] = {}
    for node in nodes:
        key = (node["metadata"]["namespace"], str(node.get("spec", {}).get("deployment")))
        by_deployment.setdefault(key, []).append(node)
    found = []
    for deployment in deployments:
        metadata = deployment["metadata"]
        own = tuple(by_deployment.get((metadata["namespace"], metadata["name"]), ()))
        meant = (
            read_rollout(kube, rollout, of=deployment)
            if rollout
            else read_newest_rollout(kube, deployment)
        )
        found.append(
            Records(
                deployment=deployment,
                rollout=meant,
                nodes=own,
                heartbeats=heartbeats,
                labels=_read_labels(kube, deployment, meant, own),
                now=kube.server_time or now,
            )
        )
    return found


def read_deployment(kube: Kube, *, namespace: str, name: str) -> Json:
    """Return one ModelDeployment.

    Raises:
        NotFoundError: There is none of that name; the sentence lists those that exist.
    """
    try:
        return kube.get(object_path(DEPLOYMENTS, namespace=namespace, name=name))
    except NotFoundError as error:
        raise NotFoundError(_no_such_deployment(kube, namespace, name)) from error


def read_newest_rollout(kube: Kube, deployment: Json) -> Json | None:
    """Return the newest ModelRollout of ``deployment``; None where there is none yet."""
    metadata = deployment["metadata"]
    named = deployment.get("status", {}).get("rollout")
    if named:
        try:
            return kube.get(object_path(ROLLOUTS, namespace=metadata["namespace"], name=str(named)))
        except NotFoundError:
            return None
    if not deployment.get("status", {}).get("stable") and not named:
        return None
    own = [
        rollout
        for rollout in _items(kube, collection_path(ROLLOUTS, namespace=metadata["namespace"]))
        if rollout["spec"]["deployment"]["name"] == metadata["name"]
    ]
    return max(own, key=lambda r: str(r["metadata"].get("creationTimestamp", "")), default=None)


def read_rollout(kube: Kube, name: str, *, of: Json) -> Json:
    """Return the ModelRollout ``name`` of the ModelDeployment ``of``.

    Raises:
        NotFoundError: It has no such rollout; the sentence lists those that it has.
    """
    metadata = of["metadata"]
    own = {
        str(rollout["metadata"]["name"]): rollout
        for rollout in _items(kube, collection_path(ROLLOUTS, namespace=metadata["namespace"]))
        if rollout["spec"]["deployment"]["name"] == metadata["name"]
    }
    if name not in own:
        known = ", ".join(sorted(own)) or "none"
        raise NotFoundError(f"{metadata['name']} has no rollout {name}; it has: {known}")
    return own[name]


def parse_time(text: object) -> datetime | None:
    """Return the time in a Kubernetes object; None where there is none."""
    if not isinstance(text, str):
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _read_deployments(kube: Kube, *, namespace: str | None, name: str | None) -> list[Json]:
    if namespace is not None and name is not None:
        return [read_deployment(kube, namespace=namespace, name=name)]
    everything = _items(kube, collection_path(DEPLOYMENTS, namespace=namespace))
    found = [d for d in everything if name in (None, d["metadata"]["name"])]
    if name is not None and not found:
        raise NotFoundError(_no_such_deployment(kube, None, name))
    return sorted(found, key=lambda d: (d["metadata"]["namespace"], d["metadata"]["name"]))


def _no_such_deployment(kube: Kube, namespace: str | None, name: str) -> str:
    try:
        others = _items(kube, collection_path(DEPLOYMENTS, namespace=None))
    except ForbiddenError:
        others = _items(kube, collection_path(DEPLOYMENTS, namespace=namespace))
    places = sorted((d["metadata"]["namespace"], d["metadata"]["name"]) for d in others)
    where = f" in namespace {namespace}" if namespace else ""
    start = f"there is no ModelDeployment {name}{where}"
    elsewhere = [ns for ns, other in places if other == name]
    if elsewhere:
        return f"{start}; there is one in {', '.join(elsewhere)}: add -n {elsewhere[0]}"
    here = [other for ns, other in places if namespace in (None, ns)]
    if here:
        return f"{start}; there are: {', '.join(here[:20])}"
    if places:
        listed = ", ".join(f"{other} (-n {ns})" for ns, other in places[:20])
        return f"{start}; there are: {listed}"
    return f"{start}, and no other one in the cluster; apply one first (examples/)"


def _read_heartbeats(kube: Kube) -> dict[str, tuple[datetime, int]] | None:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{AGENTS_NAMESPACE}/leases"
    try:
        leases = _items(kube, path)
    except (ForbiddenError, NotFoundError):
        return None
    found = {}
    for lease in leases:
        spec = lease.get("spec") or {}
        renewed_at = parse_time(spec.get("renewTime"))
        if renewed_at is not None:
            lasts_s = int(spec.get("leaseDurationSeconds") or 0)
            found[str(lease["metadata"]["name"])] = (renewed_at, lasts_s)
    return found


def _read_labels(
    kube: Kube, deployment: Json, rollout: Json | None, nodes: tuple[Json, ...]
) -> dict[str, str]:
    """Return what people call each revision: the tag of its source, else its number."""
    labels: dict[str, str] = {}
    for node in nodes:
        desired = node.get("spec", {}).get("desired") or {}
        revision, source = desired.get("revision"), desired.get("source")
        if revision and source and revision not in labels:
            labels[str(revision)] = source_label(str(source))
    status = deployment.get("status") or {}
    spec = (rollout or {}).get("spec") or {}
    named = (status.get("stable"), status.get("candidate"), spec.get("from"), spec.get("to"))
    for entry in named:
        if entry and entry["revision"] not in labels:
            labels[entry["revision"]] = _recorded_label(kube, deployment, entry)
    return labels


def _recorded_label(kube: Kube, deployment: Json, entry: Json) -> str:
    """Return the label by the ControllerRevision, whose data names the source."""
    metadata = deployment["metadata"]
    stem = str(metadata["name"])[:40].rstrip("-.")
    path = (
        f"/apis/apps/v1/namespaces/{metadata['namespace']}/controllerrevisions/"
        f"{stem}-{entry['revision']}"
    )
    number = f"#{entry.get('number', '?')}"
    try:
        data = kube.get(path).get("data")
    except (ForbiddenError, NotFoundError):
        return number
    sources = (data.get("sources") or [data.get("source")]) if isinstance(data, dict) else [None]
    return source_label(str(sources[0])) if sources[0] else number


def source_label(source: str) -> str:
    """Return what people call a source: its tag, the start of its digest, or its last part."""
    last = source.rsplit("/", 1)[-1]
    name, at, digest = last.partition("@")
    if at:
        return digest.removeprefix("sha256:")[:12]
    _, colon, tag = name.partition(":")
    return tag if colon else last


def _items(kube: Kube, path: str) -> list[Json]:
    items = kube.get(path).get("items")
    return items if isinstance(items, list) else []
