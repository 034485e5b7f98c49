"""From the cache to what the planner reads: one consistent picture of one deployment.

Rules:
- Nothing here awaits: a plan is made from one instant of the cache.
- A node that is selected no more, but has an order, stays in the picture.
- A policy that is missing, or that cannot be used, is said; nothing stands in for it.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from linnet_api.model_deployment import ModelDeploymentSpec
from linnet_api.rollout_policy import BUILT_IN, RolloutPolicySpec
from linnet_operator.cache import (
    DeploymentFacts,
    Entry,
    FleetCache,
    HostFacts,
    Invalid,
    NodeFacts,
    NodeModelFacts,
    PolicyFacts,
    RevisionFacts,
    RolloutFacts,
    facts_of,
)
from linnet_operator.heartbeats import Heartbeat, Heartbeats
from linnet_operator.kube import (
    CONTROLLER_REVISIONS,
    MODEL_HOSTS,
    MODEL_ROLLOUTS,
    NODE_MODELS,
    NODES,
    ROLLOUT_POLICIES,
)
from linnet_operator.planner.model import (
    DeploymentView,
    NodeView,
    PolicyMissing,
    RevisionView,
    RolloutView,
)
from linnet_operator.policy_rules import policy_problems
from linnet_operator.selector import matches

_NO_LEASE: Final = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Picture:
    """What the planner reads of one deployment, at one instant."""

    deployment: DeploymentView
    policy: RolloutPolicySpec | PolicyMissing
    revisions: tuple[RevisionView, ...]
    rollout: RolloutView | None
    nodes: tuple[NodeView, ...]


def take_picture(cache: FleetCache, heartbeats: Heartbeats, entry: Entry) -> Picture:
    """Return the picture of the deployment ``entry``, whose spec is valid."""
    facts = facts_of(entry, DeploymentFacts)
    spec = facts.spec
    assert isinstance(spec, ModelDeploymentSpec), entry.key
    deployment = DeploymentView(
        namespace=entry.namespace,
        name=entry.name,
        uid=entry.uid,
        generation=entry.generation,
        spec=spec,
        status=facts.status,
        resource_version=entry.resource_version,
        deleting=facts.deleting,
        finalizers=facts.finalizers,
    )
    return Picture(
        deployment=deployment,
        policy=_policy_of(cache, deployment),
        revisions=_revisions_of(cache, deployment),
        rollout=newest_rollout(cache, deployment),
        nodes=tuple(_nodes_of(cache, heartbeats, deployment)),
    )


def newest_rollout(cache: FleetCache, deployment: DeploymentView) -> RolloutView | None:
    """Return the rollout of this very deployment that has the highest number."""
    entries = cache.of_deployment(
        MODEL_ROLLOUTS, namespace=deployment.namespace, deployment=deployment.name
    )
    views = [
        _rollout_view(each)
        for each in entries
        if facts_of(each, RolloutFacts).owner_uid == deployment.uid
    ]
    return max(views, key=lambda view: view.number, default=None)


def _rollout_view(entry: Entry) -> RolloutView:
    facts = facts_of(entry, RolloutFacts)
    number = entry.name.rpartition("-")[2]
    return RolloutView(
        name=entry.name,
        uid=entry.uid,
        number=int(number) if number.isdecimal() else 0,
        generation=entry.generation,
        resource_version=entry.resource_version,
        spec=facts.spec,
        status=facts.status,
    )


def _policy_of(cache: FleetCache, deployment: DeploymentView) -> RolloutPolicySpec | PolicyMissing:
    reference = deployment.spec.policy_ref
    if reference is None:
        return BUILT_IN
    entry = cache.get(ROLLOUT_POLICIES, namespace=deployment.namespace, name=reference.name)
    if entry is None:
        return PolicyMissing(
            f"RolloutPolicy {reference.name!r} does not exist in namespace "
            f"{deployment.namespace!r}; create it, or take spec.policyRef out for the built-in one"
        )
    spec = facts_of(entry, PolicyFacts).spec
    problems = [spec.message] if isinstance(spec, Invalid) else policy_problems(spec)
    if isinstance(spec, Invalid) or problems:
        return PolicyMissing(
            f"RolloutPolicy {reference.name!r} cannot be used: {'; '.join(problems)}"
        )
    return spec


def _revisions_of(cache: FleetCache, deployment: DeploymentView) -> tuple[RevisionView, ...]:
    entries = cache.of_deployment(
        CONTROLLER_REVISIONS, namespace=deployment.namespace, deployment=deployment.name
    )
    facts = [facts_of(each, RevisionFacts) for each in entries]
    views = [each.view for each in facts if each.owner_uid == deployment.uid]
    return tuple(sorted(views, key=lambda view: view.number))


def _nodes_of(
    cache: FleetCache, heartbeats: Heartbeats, deployment: DeploymentView
) -> list[NodeView]:
    orders = {
        facts_of(each, NodeModelFacts).spec.node.name: facts_of(each, NodeModelFacts)
        for each in cache.of_deployment(
            NODE_MODELS, namespace=deployment.namespace, deployment=deployment.name
        )
    }
    service = f"{deployment.namespace}/{deployment.name}"
    views = []
    for entry in cache.all(NODES):
        labels = facts_of(entry, NodeFacts).labels
        matched = matches(deployment.spec.nodes, labels)
        order = orders.pop(entry.name, None)
        if not matched and order is None:
            continue
        beat = heartbeats.of(entry.name)
        host = cache.get(MODEL_HOSTS, name=entry.name)
        views.append(
            NodeView(
                name=entry.name,
                uid=entry.uid,
                labels=labels,
                matched=matched,
                runtimes=facts_of(host, HostFacts).runtimes if host is not None else None,
                heartbeat_at=beat.seen_at if beat is not None else None,
                lease=beat.lease if beat is not None else _NO_LEASE,
                served=beat.served.get(service, {}) if beat is not None else {},
                order=order.spec if order is not None else None,
                report=order.status if order is not None else None,
            )
        )
    # Nodes that are gone from the cluster, but whose orders are still here.
    views += [_lost_node(each, heartbeats.of(name)) for name, each in sorted(orders.items())]
    return views


def _lost_node(order: NodeModelFacts, beat: Heartbeat | None) -> NodeView:
    return NodeView(
        name=order.spec.node.name,
        uid=order.spec.node.uid,
        matched=False,
        heartbeat_at=beat.seen_at if beat is not None else None,
        lease=beat.lease if beat is not None else _NO_LEASE,
        order=order.spec,
        report=order.status,
    )
