"""What Kopf feeds into the cache; no handler writes anything.

Rules:
- Only ``on.event``: no finalizer and no annotation on people's objects.
- A handler takes up one object and returns; who must turn is the cache's listener's business.
- No discovery of kinds and namespaces, no peering, no posted events, small pages.
"""

import itertools
from collections.abc import Iterator
from typing import Any, Final

import kopf

from linnet_api.names import GROUP, VERSION
from linnet_operator.cache import FleetCache
from linnet_operator.kube import (
    MODEL_DEPLOYMENTS,
    MODEL_HOSTS,
    MODEL_ROLLOUTS,
    NODE_MODELS,
    NODES,
    ROLLOUT_POLICIES,
    TRUST_POLICIES,
    Resource,
)

WATCHED: Final = (
    NODES,
    MODEL_HOSTS,
    ROLLOUT_POLICIES,
    TRUST_POLICIES,
    MODEL_ROLLOUTS,
    NODE_MODELS,
    MODEL_DEPLOYMENTS,
)
"""Leases are listed (see heartbeats), ControllerRevisions are ours alone."""


class _Endless:
    """Pauses between tries, for ever: an API server that is away for an hour ends no operator."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((0.5, 1, 2, 3, 5), itertools.repeat(8))


def make_registry(cache: FleetCache, *, kubeconfig: str | None) -> kopf.OperatorRegistry:
    """Return the handlers that feed ``cache``."""
    registry = kopf.OperatorRegistry()
    login = kopf.login_with_kubeconfig if kubeconfig else kopf.login_with_service_account
    kopf.on.login(registry=registry)(login)
    for resource in WATCHED:
        _feed(registry, cache, resource)
    return registry


def make_settings() -> kopf.OperatorSettings:
    """Return Kopf's settings; research/kopf-craft.md has the measurements behind them."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.watching.chunk_size = 500
    # A worker holds its memory until its object was silent for so long.
    settings.queueing.idle_timeout = 0.05
    settings.networking.connect_timeout = 5
    settings.networking.request_timeout = 30
    settings.networking.enforce_retry_after = True
    settings.networking.error_backoffs = _Endless()
    settings.process.ultimate_exiting_timeout = 50
    settings.persistence.finalizer = f"{GROUP}/finalizer"
    return settings


def _feed(registry: kopf.OperatorRegistry, cache: FleetCache, resource: Resource) -> None:
    group, version = (GROUP, VERSION) if "/" in resource.api_version else ("", "v1")

    @kopf.on.event(group, version, resource.plural, registry=registry, id=f"feed-{resource.plural}")
    async def take_up(event: kopf.RawEvent, **_: Any) -> None:  # noqa: ANN401 - Kopf's calling convention
        body: dict[str, Any] = dict(event["object"])
        if event["type"] == "DELETED":
            cache.drop(resource, body)
        else:
            cache.put(resource, body)
