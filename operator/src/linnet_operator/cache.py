"""The fleet as the operator knows it: parsed once per change, never older than its own writes.

Rules:
- The newer resourceVersion wins, whoever brings it: a watch, a list, or the answer to a write.
- An object that was seen deleted does not come back by a late answer.
- Only a change of what the planner reads wakes anybody; a new resourceVersion alone does not.
- A list removes what it does not hold, but nothing that came since it began.
- A spec that cannot be parsed is kept as the sentence that says why.
"""

import json
import logging
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import pydantic

from linnet_api.fields import ApiModel
from linnet_api.model_deployment import ModelDeploymentSpec, ModelDeploymentStatus, Serving
from linnet_api.model_host import ModelHostStatus
from linnet_api.model_rollout import ModelRolloutSpec, ModelRolloutStatus
from linnet_api.names import DEPLOYMENT_LABEL, GROUP
from linnet_api.node_model import NodeModelSpec, NodeModelStatus
from linnet_api.rollout_policy import RolloutPolicySpec, RolloutPolicyStatus
from linnet_api.trust_policy import TrustPolicySpec, TrustPolicyStatus
from linnet_operator.errors import SourceMalformedError
from linnet_operator.kube import (
    CONTROLLER_REVISIONS,
    MODEL_DEPLOYMENTS,
    MODEL_HOSTS,
    MODEL_ROLLOUTS,
    NODE_MODELS,
    NODES,
    ROLLOUT_POLICIES,
    TRUST_POLICIES,
    Body,
    Resource,
)
from linnet_operator.planner.model import RevisionView
from linnet_operator.sources import pinned_digest

log = logging.getLogger(__name__)

SOURCES_ANNOTATION: Final = f"{GROUP}/sources"
"""On a ControllerRevision: JSON list of the sources that were resolved to it."""

_GONE_REMEMBERED: Final = 4096

Key = tuple[str, str]
"""Namespace (empty where the kind has none) and name."""


@dataclass(frozen=True, slots=True)
class Invalid:
    """A spec that cannot be used, and the sentence that says why."""

    message: str


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the planner reads of a Node."""

    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What the planner reads of a ModelHost."""

    runtimes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeploymentFacts:
    """A ModelDeployment."""

    spec: ModelDeploymentSpec | Invalid
    status: ModelDeploymentStatus
    deleting: bool
    finalizers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PolicyFacts:
    """A RolloutPolicy."""

    spec: RolloutPolicySpec | Invalid
    status: RolloutPolicyStatus


@dataclass(frozen=True, slots=True)
class TrustFacts:
    """A TrustPolicy."""

    spec: TrustPolicySpec | Invalid
    status: TrustPolicyStatus


@dataclass(frozen=True, slots=True)
class RolloutFacts:
    """A ModelRollout."""

    spec: ModelRolloutSpec
    status: ModelRolloutStatus
    owner_uid: str


@dataclass(frozen=True, slots=True)
class NodeModelFacts:
    """A NodeModel."""

    spec: NodeModelSpec
    status: NodeModelStatus


@dataclass(frozen=True, slots=True)
class RevisionFacts:
    """A ControllerRevision of ours."""

    deployment: str
    owner_uid: str
    view: RevisionView


Facts = (
    NodeFacts
    | HostFacts
    | DeploymentFacts
    | PolicyFacts
    | TrustFacts
    | RolloutFacts
    | NodeModelFacts
    | RevisionFacts
)
F = TypeVar("F", bound=Facts)
_M = TypeVar("_M", bound=ApiModel)


@dataclass(frozen=True, slots=True)
class Entry:
    """One object: who it is, how new it is, and what the planner reads of it."""

    namespace: str
    name: str
    uid: str
    generation: int
    resource_version: str = field(compare=False)
    facts: Facts

    @property
    def key(self) -> Key:
        """Namespace and name."""
        return self.namespace, self.name


Listener = Callable[[Resource, Entry | None, Entry | None], None]


class FleetCache:
    """All objects that the planner reads, by kind; synchronous, for one event loop."""

    def __init__(self, listener: Listener | None = None) -> None:
        self._entries: dict[str, dict[Key, Entry]] = {kind: {} for kind in _PARSERS}
        # (namespace, deployment) -> names, for the kinds of which one deployment has many.
        self._names: dict[str, dict[Key, set[str]]] = {kind: {} for kind in _OWNED}
        self._gone: set[str] = set()
        self._gone_order: deque[str] = deque()
        self._listener = listener

    def listen(self, listener: Listener) -> None:
        """Call ``listener(resource, before, after)`` after every change of what is read."""
        self._listener = listener

    def put(self, resource: Resource, body: Body) -> None:
        """Take up one object as a watch, a list or a write returned it."""
        metadata = body["metadata"]
        if metadata["uid"] in self._gone:
            return
        key = (metadata.get("namespace", ""), metadata["name"])
        before = self._entries[resource.kind].get(key)
        if before is not None and _is_older(metadata["resourceVersion"], before):
            return
        facts = _parse(resource, body)
        if facts is None:
            return
        after = Entry(
            namespace=sys.intern(key[0]),
            name=key[1],
            uid=metadata["uid"],
            generation=metadata.get("generation", 0),
            resource_version=metadata["resourceVersion"],
            facts=facts,
        )
        self._entries[resource.kind][key] = after
        if before is None and resource.kind in _OWNED:
            owner = (key[0], _deployment_of(facts))
            self._names[resource.kind].setdefault(owner, set()).add(key[1])
        if before != after and self._listener is not None:
            self._listener(resource, before, after)

    def drop(self, resource: Resource, body: Body) -> None:
        """Forget an object that was seen deleted."""
        metadata = body["metadata"]
        self._remember_gone(metadata["uid"])
        key = (metadata.get("namespace", ""), metadata["name"])
        entry = self._entries[resource.kind].get(key)
        if entry is not None and entry.uid == metadata["uid"]:
            self._remove(resource, entry)

    def forget_missing(
        self, resource: Resource, listed: Collection[str], *, known_before: Collection[str]
    ) -> None:
        """Drop the objects that a full list does not hold.

        Args:
            resource: The kind.
            listed: Uids that the list held.
            known_before: Uids that were known when the list began; what came since is newer.
        """
        for entry in list(self._entries[resource.kind].values()):
            if entry.uid in known_before and entry.uid not in listed:
                self._remove(resource, entry)

    def uids(self, resource: Resource) -> set[str]:
        """Return the uids of all known objects of a kind."""
        return {entry.uid for entry in self._entries[resource.kind].values()}

    def get(self, resource: Resource, *, namespace: str = "", name: str) -> Entry | None:
        """Return one object, or None where none is known."""
        return self._entries[resource.kind].get((namespace, name))

    def all(self, resource: Resource) -> list[Entry]:
        """Return all objects of a kind, by namespace and name."""
        entries = self._entries[resource.kind]
        return [entries[key] for key in sorted(entries)]

    def of_deployment(self, resource: Resource, *, namespace: str, deployment: str) -> list[Entry]:
        """Return the objects of a kind that belong to a deployment's name, by name."""
        names = self._names[resource.kind].get((namespace, deployment), ())
        entries = self._entries[resource.kind]
        return [entries[namespace, name] for name in sorted(names)]

    def counts(self) -> dict[str, int]:
        """Return how many objects of each kind are known."""
        return {kind: len(entries) for kind, entries in self._entries.items()}

    def _remove(self, resource: Resource, entry: Entry) -> None:
        del self._entries[resource.kind][entry.key]
        if resource.kind in _OWNED:
            owner = (entry.namespace, _deployment_of(entry.facts))
            self._names[resource.kind][owner].discard(entry.name)
        if self._listener is not None:
            self._listener(resource, entry, None)

    def _remember_gone(self, uid: str) -> None:
        if uid in self._gone:
            return
        self._gone.add(uid)
        self._gone_order.append(uid)
        if len(self._gone_order) > _GONE_REMEMBERED:
            self._gone.discard(self._gone_order.popleft())


def facts_of(entry: Entry, kind: type[F]) -> F:
    """Return the entry's facts as ``kind``, which the caller knows from the resource."""
    assert isinstance(entry.facts, kind), (entry.key, kind)
    return entry.facts


def _is_older(resource_version: str, known: Entry) -> bool:
    """Return whether an object is older than the known one of that name.

    Numbers are compared where both are numbers (they are, on etcd and kine); elsewhere the last
    one to come wins, as with every other client.
    """
    old = known.resource_version
    return resource_version.isdecimal() and old.isdecimal() and int(resource_version) < int(old)


def _parse(resource: Resource, body: Body) -> Facts | None:
    try:
        return _PARSERS[resource.kind](body)
    except (pydantic.ValidationError, KeyError, TypeError, ValueError) as error:
        metadata = body["metadata"]
        log.warning(
            "cache.object.unreadable",
            extra={
                "kind": resource.kind,
                "namespace": metadata.get("namespace", ""),
                "object": metadata["name"],
                "reason": _sentence(error),
            },
        )
        return None


def _deployment_of(facts: Facts) -> str:
    match facts:
        case NodeModelFacts(spec=spec):
            return spec.deployment
        case RolloutFacts(spec=rollout):
            return rollout.deployment.name
        case RevisionFacts(deployment=deployment):
            return deployment
        case _:
            raise AssertionError(f"not owned by a deployment: {facts!r}")


def _parse_node(body: Body) -> NodeFacts:
    labels = body["metadata"].get("labels") or {}
    return NodeFacts(
        labels={sys.intern(key): sys.intern(value) for key, value in sorted(labels.items())}
    )


def _parse_host(body: Body) -> HostFacts:
    status = _model(ModelHostStatus, body.get("status"))
    return HostFacts(runtimes=tuple(sorted(sys.intern(each.name) for each in status.runtimes)))


def _parse_deployment(body: Body) -> DeploymentFacts:
    spec = _spec(ModelDeploymentSpec, body)
    deleting = "deletionTimestamp" in body["metadata"]
    # What is being deleted names no source any more; a wrong one must not hold it.
    if isinstance(spec, ModelDeploymentSpec) and not deleting:
        try:
            pinned_digest(spec.source, spec.digest)
        except SourceMalformedError as error:
            spec = Invalid(f"spec.source: {error}. {error.remedy}")
    return DeploymentFacts(
        spec=spec,
        status=_model(ModelDeploymentStatus, body.get("status")),
        deleting=deleting,
        finalizers=tuple(body["metadata"].get("finalizers") or ()),
    )


def _parse_policy(body: Body) -> PolicyFacts:
    return PolicyFacts(
        spec=_spec(RolloutPolicySpec, body), status=_model(RolloutPolicyStatus, body.get("status"))
    )


def _parse_trust(body: Body) -> TrustFacts:
    return TrustFacts(
        spec=_spec(TrustPolicySpec, body), status=_model(TrustPolicyStatus, body.get("status"))
    )


def _parse_rollout(body: Body) -> RolloutFacts:
    spec = _model(ModelRolloutSpec, body.get("spec"))
    status = _model(ModelRolloutStatus, body.get("status"))
    return RolloutFacts(spec=spec, status=status, owner_uid=spec.deployment.uid)


def _parse_node_model(body: Body) -> NodeModelFacts:
    return NodeModelFacts(
        spec=_model(NodeModelSpec, body.get("spec")),
        status=_model(NodeModelStatus, body.get("status")),
    )


def _parse_revision(body: Body) -> RevisionFacts | None:
    metadata = body["metadata"]
    if DEPLOYMENT_LABEL not in (metadata.get("labels") or {}):
        # Somebody else's: StatefulSets and DaemonSets have ControllerRevisions too.
        return None
    data = body["data"]
    owners = metadata.get("ownerReferences") or [{"uid": ""}]
    annotations = metadata.get("annotations") or {}
    sources = json.loads(annotations.get(SOURCES_ANNOTATION, "[]")) or [data["source"]]
    view = RevisionView(
        revision=data["revision"],
        number=body["revision"],
        artifact=data["artifact"],
        sources=tuple(str(source) for source in sources),
        variants=tuple(data["variants"]),
        serving=Serving.model_validate(data["serving"]),
    )
    return RevisionFacts(deployment=data["deployment"], owner_uid=owners[0]["uid"], view=view)


def _spec(kind: type[_M], body: Body) -> _M | Invalid:
    try:
        return _model(kind, body.get("spec"))
    except pydantic.ValidationError as error:
        return Invalid(_sentence(error))


def _model(kind: type[_M], value: Mapping[str, Any] | None) -> _M:
    return kind.model_validate(value or {})


def _sentence(error: Exception) -> str:
    if not isinstance(error, pydantic.ValidationError):
        return f"{type(error).__name__}: {error}"
    return "; ".join(_problems(error))


def _problems(error: pydantic.ValidationError) -> Iterable[str]:
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        yield f"spec.{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"


_PARSERS: Final[Mapping[str, Callable[[Body], Facts | None]]] = {
    NODES.kind: _parse_node,
    MODEL_HOSTS.kind: _parse_host,
    MODEL_DEPLOYMENTS.kind: _parse_deployment,
    ROLLOUT_POLICIES.kind: _parse_policy,
    TRUST_POLICIES.kind: _parse_trust,
    MODEL_ROLLOUTS.kind: _parse_rollout,
    NODE_MODELS.kind: _parse_node_model,
    CONTROLLER_REVISIONS.kind: _parse_revision,
}
_OWNED: Final = frozenset({MODEL_ROLLOUTS.kind, NODE_MODELS.kind, CONTROLLER_REVISIONS.kind})
