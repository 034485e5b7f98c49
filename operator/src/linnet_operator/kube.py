"""The one way to the API server: list, get, server-side apply, status, create, delete.

Rules:
- Writes go through one token bucket and one retry policy: 429, 5xx and no answer are tried again
  with a growing, jittered pause; 409 is for the caller, who reads again and plans again.
- Server-side apply with a fixed field manager and ``fieldValidation=Strict``: an undeclared field
  is an error.
- A status is applied with the resourceVersion that was read: a second operator does no harm.
- Every write is counted; nothing else counts writes.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, Protocol, Self
from urllib.parse import quote

import aiohttp
from kubernetes.aio import client as kube_client
from kubernetes.aio import config as kube_config

from linnet_api.names import API_VERSION, OPERATOR_FIELD_MANAGER
from linnet_operator.errors import (
    KubeConflictError,
    KubeError,
    KubeNotFoundError,
    KubeRefusedError,
    KubeUnavailableError,
)
from linnet_operator.metrics import KUBE_RETRIES, WRITES

log = logging.getLogger(__name__)

Body = dict[str, Any]

_PAGE: Final = 500
_TRIES: Final = 5
_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 5.0
# A connection into a void is given up after so long; a page of 500 objects takes 0.1 s.
_TIMEOUT: Final = aiohttp.ClientTimeout(total=10, sock_connect=3)
_APPLY: Final = "application/apply-patch+yaml"
_MERGE: Final = "application/merge-patch+json"


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind as the API server addresses it."""

    kind: str
    api_version: str
    plural: str
    namespaced: bool = True

    def path(self, *, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """Return the URL path of the collection, or of the object ``name``."""
        root = "/api/" if "/" not in self.api_version else "/apis/"
        parts = [root + self.api_version]
        if self.namespaced and namespace:
            parts += ["namespaces", quote(namespace)]
        parts.append(self.plural)
        parts += [quote(part) for part in (name, subresource) if part]
        return "/".join(parts)


NODES: Final = Resource("Node", "v1", "nodes", namespaced=False)
CONFIG_MAPS: Final = Resource("ConfigMap", "v1", "configmaps")
EVENTS: Final = Resource("Event", "events.k8s.io/v1", "events")
LEASES: Final = Resource("Lease", "coordination.k8s.io/v1", "leases")
CONTROLLER_REVISIONS: Final = Resource("ControllerRevision", "apps/v1", "controllerrevisions")
MODEL_DEPLOYMENTS: Final = Resource("ModelDeployment", API_VERSION, "modeldeployments")
ROLLOUT_POLICIES: Final = Resource("RolloutPolicy", API_VERSION, "rolloutpolicies")
TRUST_POLICIES: Final = Resource("TrustPolicy", API_VERSION, "trustpolicies", namespaced=False)
MODEL_ROLLOUTS: Final = Resource("ModelRollout", API_VERSION, "modelrollouts")
NODE_MODELS: Final = Resource("NodeModel", API_VERSION, "nodemodels")
MODEL_HOSTS: Final = Resource("ModelHost", API_VERSION, "modelhosts", namespaced=False)


class Kube(Protocol):
    """What the operator asks of an API server."""

    def list_pages(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        labels: str = "",
        stale_is_fine: bool = False,
    ) -> AsyncIterator[list[Body]]:
        """Yield all objects, page by page.

        Args:
            resource: The kind.
            namespace: Where; None: everywhere.
            labels: A label selector; empty: all.
            stale_is_fine: The API server may answer from its cache, older than our own last write.
        """

    async def get(self, resource: Resource, *, namespace: str | None, name: str) -> Body:
        """Return one object, read from the store itself."""

    async def create(self, resource: Resource, body: Body) -> Body:
        """Create one object."""

    async def apply(self, resource: Resource, body: Body) -> Body:
        """Apply the fields of ``body`` that are not status."""

    async def apply_status(self, resource: Resource, body: Body) -> Body:
        """Apply ``body['status']``; ``metadata.resourceVersion`` is the precondition, if given."""

    async def patch_metadata(self, resource: Resource, metadata: Body) -> Body:
        """Merge ``metadata``; its ``resourceVersion`` is the precondition."""

    async def delete(
        self, resource: Resource, *, namespace: str | None, name: str, uid: str
    ) -> None:
        """Delete one object, if it still has that uid; absence is no error."""


class TokenBucket:
    """A rate limit that lets a burst through: ``take`` waits for its turn, in order."""

    def __init__(
        self, *, rate_per_s: float, burst: int, clock: Callable[[], float] = monotonic
    ) -> None:
        assert rate_per_s > 0, rate_per_s
        self._rate = rate_per_s
        self._burst = float(burst)
        self._tokens = float(burst)
        self._clock = clock
        self._at = clock()
        self._turn = asyncio.Lock()

    async def take(self) -> None:
        """Wait until one more request may go out."""
        async with self._turn:
            await asyncio.sleep(self._pause_s())
            self._tokens -= 1

    def _pause_s(self) -> float:
        """Take up what has flowed in; return the seconds until one token is there."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        return 0.0 if self._tokens >= 1 else (1 - self._tokens) / self._rate


class KubeAdapter:
    """The API server over ``kubernetes.aio``, in plain dicts."""

    def __init__(
        self,
        api: kube_client.ApiClient,
        *,
        jitter: Callable[[], float],
        writes_per_s: float = 50,
        burst: int = 100,
    ) -> None:
        self._api = api
        self._jitter = jitter
        self._bucket = TokenBucket(rate_per_s=writes_per_s, burst=burst)

    @classmethod
    async def connect(
        cls,
        kubeconfig: str | None,
        *,
        jitter: Callable[[], float],
        writes_per_s: float = 50,
        burst: int = 100,
    ) -> Self:
        """Return an adapter for ``kubeconfig``, or for the cluster that the process runs in."""
        configuration = kube_client.Configuration()
        if kubeconfig is not None:
            await kube_config.load_kube_config(
                config_file=kubeconfig, client_configuration=configuration
            )
        else:
            kube_config.load_incluster_config(client_configuration=configuration)
        api = kube_client.ApiClient(configuration)
        return cls(api, jitter=jitter, writes_per_s=writes_per_s, burst=burst)

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    async def list_pages(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        labels: str = "",
        stale_is_fine: bool = False,
    ) -> AsyncIterator[list[Body]]:
        """Yield all objects, page by page.

        Args:
            resource: The kind.
            namespace: Where; None: everywhere.
            labels: A label selector; empty: all.
            stale_is_fine: The API server may answer from its cache, older than our own last write.
        """
        token = ""
        while True:
            query = {"limit": str(_PAGE)}
            if token:
                query["continue"] = token
            elif stale_is_fine:
                query["resourceVersion"] = "0"
            query |= {"labelSelector": labels} if labels else {}
            answer = await self._request("GET", resource.path(namespace=namespace), query=query)
            yield [
                {"apiVersion": resource.api_version, "kind": resource.kind, **item}
                for item in answer.get("items") or []
            ]
            token = answer["metadata"].get("continue") or ""
            if not token:
                return

    async def get(self, resource: Resource, *, namespace: str | None, name: str) -> Body:
        """Return one object, read from the store itself.

        Raises:
            KubeNotFoundError: There is none.
        """
        return await self._request("GET", resource.path(namespace=namespace, name=name))

    async def create(self, resource: Resource, body: Body) -> Body:
        """Create one object.

        Raises:
            KubeConflictError: One of that name exists.
        """
        namespace = body["metadata"].get("namespace")
        query = {"fieldManager": OPERATOR_FIELD_MANAGER, "fieldValidation": "Strict"}
        path = resource.path(namespace=namespace)
        return await self._write("create", resource, "POST", path, query=query, body=body)

    async def apply(self, resource: Resource, body: Body) -> Body:
        """Apply the fields of ``body`` that are not status; creates the object where there is none.

        Raises:
            KubeConflictError: ``metadata.resourceVersion`` or ``uid`` is not the current one.
        """
        return await self._apply("apply", resource, body, subresource="")

    async def apply_status(self, resource: Resource, body: Body) -> Body:
        """Apply ``body['status']``; fields of ours that it leaves out go away.

        Raises:
            KubeConflictError: ``metadata.resourceVersion`` is given and is not the current one.
            KubeNotFoundError: The object is gone.
        """
        return await self._apply("status", resource, body, subresource="status")

    async def patch_metadata(self, resource: Resource, metadata: Body) -> Body:
        """Merge ``metadata``; its ``resourceVersion`` is the precondition.

        Raises:
            KubeConflictError: The object is newer.
            KubeNotFoundError: The object is gone.
        """
        assert metadata.get("resourceVersion"), metadata
        path = resource.path(namespace=metadata.get("namespace"), name=metadata["name"])
        query = {"fieldManager": OPERATOR_FIELD_MANAGER, "fieldValidation": "Strict"}
        body = {"metadata": metadata}
        return await self._write(
            "patch", resource, "PATCH", path, query=query, body=body, content_type=_MERGE
        )

    async def delete(
        self, resource: Resource, *, namespace: str | None, name: str, uid: str
    ) -> None:
        """Delete one object, if it still has that uid; absence is no error."""
        path = resource.path(namespace=namespace, name=name)
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        try:
            await self._write("delete", resource, "DELETE", path, query={}, body=body)
        except (KubeNotFoundError, KubeConflictError):
            return

    async def _apply(self, verb: str, resource: Resource, body: Body, *, subresource: str) -> Body:
        metadata = body["metadata"]
        path = resource.path(
            namespace=metadata.get("namespace"), name=metadata["name"], subresource=subresource
        )
        query = {
            "fieldManager": OPERATOR_FIELD_MANAGER,
            "fieldValidation": "Strict",
            "force": "true",
        }
        body = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        return await self._write(
            verb, resource, "PATCH", path, query=query, body=body, content_type=_APPLY
        )

    async def _write(
        self,
        verb: str,
        resource: Resource,
        method: str,
        path: str,
        *,
        query: Mapping[str, str],
        body: Body,
        content_type: str = "application/json",
    ) -> Body:
        answer = await self._request(
            method, path, query=query, body=body, content_type=content_type, bucket=self._bucket
        )
        WRITES.labels(kind=resource.kind, verb=verb).inc()
        return answer

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Body | None = None,
        content_type: str = "application/json",
        bucket: TokenBucket | None = None,
    ) -> Body:
        """Return the answer's JSON; try again what may pass by itself."""
        pause_s = _FIRST_PAUSE_S
        for left in reversed(range(_TRIES)):
            if bucket is not None:
                await bucket.take()
            try:
                return await self._send(method, path, dict(query or {}), body, content_type)
            except KubeUnavailableError as error:
                if not left:
                    raise
                KUBE_RETRIES.labels(status=str(error.status)).inc()
                log.debug(
                    "kube.request.retried",
                    extra={"method": method, "path": path, "status": error.status},
                )
            await asyncio.sleep(pause_s * (0.5 + self._jitter()))
            pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)
        raise AssertionError("unreachable: the last try returns or raises")

    async def _send(
        self, method: str, path: str, query: dict[str, str], body: Body | None, content_type: str
    ) -> Body:
        headers = {"Accept": "application/json", "Content-Type": content_type}
        parameters = await self._api.param_serialize(
            method,
            path,
            query_params=list(query.items()),
            header_params=headers,
            auth_settings=["BearerToken"],
        )
        verb, url, headers, _body, _post = parameters
        try:
            # The body goes around the client's own serialiser: it is plain JSON already.
            answer = await self._api.call_api(verb, url, headers, body, _request_timeout=_TIMEOUT)
            raw: bytes = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise KubeUnavailableError(
                f"{method} {path}: {type(error).__name__}: {error}"
            ) from error
        if answer.status < 300:
            parsed: Body = json.loads(raw)
            return parsed
        raise _error_of(method, path, status=answer.status, raw=raw)


def _error_of(method: str, path: str, *, status: int, raw: bytes) -> KubeError:
    try:
        said = json.loads(raw).get("message", "")
    except ValueError:
        said = raw[:200].decode(errors="replace")
    message = f"{method} {path}: {status}: {said}"
    if status == 409:
        return KubeConflictError(message, status=status)
    if status == 404:
        return KubeNotFoundError(message, status=status)
    # The API server answers 500 to an apply with a field that the schema does not declare.
    if "failed to create typed patch object" in said:
        return KubeRefusedError(message, status=status)
    if status == 429 or status >= 500:
        return KubeUnavailableError(message, status=status)
    return KubeRefusedError(message, status=status)
