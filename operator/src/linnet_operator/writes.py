"""Carries out a plan's writes, in their order, and keeps the cache as new as what was written.

Rules:
- Stop at the first write that fails; the next turn goes on from what is written.
- Evidence before the status that names it, the status of a rollout before its orders.
- The status of a rollout is written on the very version that was planned on.
- Orders may go out side by side, but after everything before them.
- That an object is there already is success, where it is the same one.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import groupby
from typing import Final, assert_never

from linnet_api.model_deployment import ModelDeploymentStatus
from linnet_api.model_rollout import ModelRolloutStatus
from linnet_api.names import DEPLOYMENT_LABEL, NODE_LABEL, REVISION_LABEL, ROLLOUT_LABEL
from linnet_api.node_model import Soak
from linnet_operator.cache import (
    SOURCES_ANNOTATION,
    DeploymentFacts,
    FleetCache,
    RolloutFacts,
    facts_of,
)
from linnet_operator.errors import KubeConflictError, KubeError, KubeNotFoundError
from linnet_operator.events import (
    Decided,
    about_deployment,
    about_rollout,
    deployment_decisions,
    event_body,
    rollout_decisions,
)
from linnet_operator.evidence import EvidenceRecord, config_map
from linnet_operator.kube import (
    CONFIG_MAPS,
    CONTROLLER_REVISIONS,
    EVENTS,
    MODEL_DEPLOYMENTS,
    MODEL_ROLLOUTS,
    NODE_MODELS,
    Body,
    Kube,
    Resource,
)
from linnet_operator.metrics import ROLLOUTS_ENDED
from linnet_operator.planner.model import (
    CreateRollout,
    DeploymentView,
    DropOrder,
    DropRevision,
    KeepEvidence,
    Order,
    RecordDeployment,
    RecordRevision,
    RecordRollout,
    SetFinalizers,
    Write,
)

_AT_ONCE: Final = 16
_LONGEST_LABEL: Final = 63


class EvidenceLostError(KubeError):
    """The record of a look is no longer in memory: it is looked at again."""


class Writer:
    """Writes for one deployment."""

    def __init__(
        self,
        kube: Kube,
        cache: FleetCache,
        *,
        clock: Callable[[], datetime],
        reporter: str,
        soak_s: int,
        record_of: Callable[[str], EvidenceRecord | None],
    ) -> None:
        self._kube = kube
        self._cache = cache
        self._clock = clock
        self._reporter = reporter
        self._soak = Soak(seconds=soak_s)
        self._record_of = record_of

    async def carry_out(self, writes: Sequence[Write], deployment: DeploymentView) -> None:
        """Write everything, in order.

        Raises:
            KubeConflictError: Something is newer than the plan: read and plan again.
            KubeError: The API server did not take one of them; the later ones were not tried.
        """
        for kind, group in groupby(writes, key=type):
            batch = list(group)
            if kind is Order:
                await self._order_all(
                    [each for each in batch if isinstance(each, Order)], deployment
                )
                continue
            for write in batch:
                await self._carry_out_one(write, deployment)

    async def _carry_out_one(self, write: Write, deployment: DeploymentView) -> None:
        match write:
            case RecordRevision():
                await self._record_revision(write, deployment)
            case CreateRollout():
                await self._create_rollout(write, deployment)
            case KeepEvidence():
                await self._keep_evidence(write, deployment)
            case RecordRollout():
                await self._record_rollout(write, deployment)
            case Order():
                await self._order(write, deployment)
            case DropOrder():
                await self._drop(NODE_MODELS, deployment.namespace, write.name)
            case DropRevision():
                await self._drop(CONTROLLER_REVISIONS, deployment.namespace, write.name)
            case RecordDeployment():
                await self._record_deployment(write, deployment)
            case SetFinalizers():
                await self._set_finalizers(write, deployment)
            case _:
                assert_never(write)

    async def _order_all(self, orders: Sequence[Order], deployment: DeploymentView) -> None:
        limit = asyncio.Semaphore(_AT_ONCE)

        async def send(order: Order) -> KubeError | None:
            async with limit:
                try:
                    await self._order(order, deployment)
                except KubeError as error:
                    return error
                return None

        # One order that is refused must not keep the others back: all are tried.
        results = await asyncio.gather(*(send(order) for order in orders))
        for error in results:
            if error is not None:
                raise error

    async def _record_revision(self, write: RecordRevision, deployment: DeploymentView) -> None:
        view = write.revision
        metadata = _metadata(write.name, deployment, labels={REVISION_LABEL: view.revision})
        metadata["annotations"] = {SOURCES_ANNOTATION: json.dumps(list(view.sources))}
        body = {
            "metadata": metadata,
            "revision": view.number,
            "data": {
                "deployment": deployment.name,
                "revision": view.revision,
                "artifact": view.artifact,
                "source": view.sources[0],
                "variants": list(view.variants),
                "serving": view.serving.to_dict(),
            },
        }
        self._cache.put(CONTROLLER_REVISIONS, await self._kube.apply(CONTROLLER_REVISIONS, body))

    async def _create_rollout(self, write: CreateRollout, deployment: DeploymentView) -> None:
        labels = {REVISION_LABEL: write.spec.to.revision}
        body = {
            "apiVersion": MODEL_ROLLOUTS.api_version,
            "kind": MODEL_ROLLOUTS.kind,
            "metadata": _metadata(write.name, deployment, labels=labels),
            "spec": write.spec.to_dict(),
        }
        try:
            made = await self._kube.create(MODEL_ROLLOUTS, body)
        except KubeConflictError:
            made = await self._kube.get(
                MODEL_ROLLOUTS, namespace=deployment.namespace, name=write.name
            )
            if made["spec"]["deployment"]["uid"] != deployment.uid:
                # Left over from a deleted deployment of this name; the garbage collector takes it.
                raise
        self._cache.put(MODEL_ROLLOUTS, made)
        about = about_rollout(
            namespace=deployment.namespace, name=write.name, uid=made["metadata"]["uid"]
        )
        source = write.spec.from_.revision if write.spec.from_ is not None else "nothing"
        note = f"Rolling out revision {write.spec.to.revision} in place of {source}."
        await self._post([Decided(about=about, key="started", reason="Started", note=note)])

    async def _keep_evidence(self, write: KeepEvidence, deployment: DeploymentView) -> None:
        record = self._record_of(write.ref.sha256)
        if record is None:
            raise EvidenceLostError(f"the record of {write.ref.name} is not in memory any more")
        body = config_map(
            record,
            name=write.ref.name,
            namespace=deployment.namespace,
            labels={DEPLOYMENT_LABEL: label_value(deployment.name)},
            owner_references=[self._rollout_of(write.ref.name, deployment)],
        )
        try:
            await self._kube.create(CONFIG_MAPS, body)
        except KubeConflictError:
            # The name holds the hash of the content, so what is there is the same.
            return

    def _rollout_of(self, name: str, deployment: DeploymentView) -> Body:
        entries = self._cache.of_deployment(
            MODEL_ROLLOUTS, namespace=deployment.namespace, deployment=deployment.name
        )
        for entry in reversed(entries):
            if name.startswith(f"{entry.name}-"):
                return owner_reference(MODEL_ROLLOUTS, name=entry.name, uid=entry.uid)
        raise KubeNotFoundError(f"no ModelRollout owns the evidence {name}")

    async def _record_rollout(self, write: RecordRollout, deployment: DeploymentView) -> None:
        entry = self._cache.get(MODEL_ROLLOUTS, namespace=deployment.namespace, name=write.name)
        before = facts_of(entry, RolloutFacts).status if entry is not None else ModelRolloutStatus()
        metadata = {
            "name": write.name,
            "namespace": deployment.namespace,
            "uid": write.uid,
            "resourceVersion": write.resource_version,
        }
        body = {"metadata": metadata, "status": write.status.to_dict()}
        try:
            written = await self._kube.apply_status(MODEL_ROLLOUTS, body)
        except KubeConflictError:
            newest = await self._kube.get(
                MODEL_ROLLOUTS, namespace=deployment.namespace, name=write.name
            )
            self._cache.put(MODEL_ROLLOUTS, newest)
            raise
        self._cache.put(MODEL_ROLLOUTS, written)
        phase = write.status.phase
        if phase is not None and phase.ended and before.phase != phase:
            ROLLOUTS_ENDED.labels(deployment.namespace, deployment.name, phase).inc()
        about = about_rollout(namespace=deployment.namespace, name=write.name, uid=write.uid)
        await self._post(rollout_decisions(about, before, write.status))

    async def _order(self, write: Order, deployment: DeploymentView) -> None:
        labels = {NODE_LABEL: label_value(write.node)}
        if write.spec.desired.revision is not None:
            labels[REVISION_LABEL] = write.spec.desired.revision
        if write.spec.rollout is not None:
            labels[ROLLOUT_LABEL] = label_value(write.spec.rollout.name)
        metadata = _metadata(write.name, deployment, labels=labels)
        if not write.owned:
            metadata["ownerReferences"] = []
        body = {
            "metadata": metadata,
            "spec": write.spec.model_copy(update={"soak": self._soak}).to_dict(),
        }
        self._cache.put(NODE_MODELS, await self._kube.apply(NODE_MODELS, body))

    async def _drop(self, resource: Resource, namespace: str, name: str) -> None:
        entry = self._cache.get(resource, namespace=namespace, name=name)
        if entry is None:
            return
        await self._kube.delete(resource, namespace=namespace, name=name, uid=entry.uid)
        self._cache.drop(
            resource, {"metadata": {"namespace": namespace, "name": name, "uid": entry.uid}}
        )

    async def _set_finalizers(self, write: SetFinalizers, deployment: DeploymentView) -> None:
        metadata = {
            "name": write.name,
            "namespace": deployment.namespace,
            "uid": deployment.uid,
            "resourceVersion": write.resource_version,
            "finalizers": list(write.finalizers),
        }
        self._cache.put(
            MODEL_DEPLOYMENTS, await self._kube.patch_metadata(MODEL_DEPLOYMENTS, metadata)
        )

    async def _record_deployment(self, write: RecordDeployment, deployment: DeploymentView) -> None:
        await self.record_status(
            write.status, namespace=deployment.namespace, name=write.name, uid=deployment.uid
        )

    async def record_status(
        self, status: ModelDeploymentStatus, *, namespace: str, name: str, uid: str
    ) -> None:
        """Write the status of the ModelDeployment with that uid."""
        entry = self._cache.get(MODEL_DEPLOYMENTS, namespace=namespace, name=name)
        before = facts_of(entry, DeploymentFacts).status if entry else ModelDeploymentStatus()
        metadata = {"name": name, "namespace": namespace, "uid": uid}
        body = {"metadata": metadata, "status": status.to_dict()}
        self._cache.put(MODEL_DEPLOYMENTS, await self._kube.apply_status(MODEL_DEPLOYMENTS, body))
        about = about_deployment(namespace=namespace, name=name, uid=uid)
        await self._post(deployment_decisions(about, before, status))

    async def _post(self, decided: Sequence[Decided]) -> None:
        for each in decided:
            try:
                body = event_body(each, now=self._clock(), reporter=self._reporter)
                await self._kube.create(EVENTS, body)
            except KubeError:
                # Said already, or not to be said: an event stops nothing.
                continue


def label_value(name: str) -> str:
    """Return ``name`` as a label value: whole where it fits, else cut."""
    return name[:_LONGEST_LABEL].rstrip("-.")


def owner_reference(resource: Resource, *, name: str, uid: str) -> Body:
    """Return a controller's owner reference that never holds up a deletion."""
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "name": name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def _metadata(name: str, deployment: DeploymentView, *, labels: dict[str, str]) -> Body:
    owner = owner_reference(MODEL_DEPLOYMENTS, name=deployment.name, uid=deployment.uid)
    return {
        "name": name,
        "namespace": deployment.namespace,
        "labels": {DEPLOYMENT_LABEL: label_value(deployment.name), **labels},
        "ownerReferences": [owner],
    }
