"""One task for each ModelDeployment: read the cache, plan, write, look, wait.

Rules:
- Level-triggered: no turn depends on what woke it; all that a decision rests on is read again.
- Between reading the cache and planning nothing is awaited.
- Looks and source resolution run beside the turns: a slow Prometheus delays nothing but itself.
- After a write the next turn follows at once; it reads what was written.
- Whatever goes wrong in one deployment's task is counted, logged, and tried again; the others do
  not notice.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from time import perf_counter
from typing import Final, Protocol

from linnet_api.names import UNLOAD_FINALIZER
from linnet_api.reasons import Verdict
from linnet_api.rollout_policy import RolloutPolicySpec
from linnet_operator.cache import (
    DeploymentFacts,
    Entry,
    FleetCache,
    Invalid,
    NodeModelFacts,
    PolicyFacts,
    RevisionFacts,
    RolloutFacts,
    TrustFacts,
    facts_of,
)
from linnet_operator.errors import KubeConflictError, KubeError, SourceError, SourceMalformedError
from linnet_operator.evidence import EvidenceRecord
from linnet_operator.heartbeats import Heartbeats
from linnet_operator.kube import (
    MODEL_DEPLOYMENTS,
    MODEL_HOSTS,
    NODE_MODELS,
    NODES,
    ROLLOUT_POLICIES,
    TRUST_POLICIES,
    Kube,
    Resource,
)
from linnet_operator.looks import Looked
from linnet_operator.metrics import LOOKS, PLAN_SECONDS, TURNS
from linnet_operator.planner.model import (
    DeploymentView,
    Evidence,
    EvidenceRequest,
    Plan,
    Resolved,
    ResolveFailure,
)
from linnet_operator.planner.plan import plan
from linnet_operator.planner.removal import is_over
from linnet_operator.planner.status import invalid_spec
from linnet_operator.policies import policy_status, trust_status
from linnet_operator.series import DeploymentSeries
from linnet_operator.views import Picture, take_picture
from linnet_operator.writes import EvidenceLostError, Writer

log = logging.getLogger(__name__)

_SHORTEST_PAUSE_S: Final = 0.02
_FIRST_BACKOFF_S: Final = 0.5
_LONGEST_BACKOFF_S: Final = 30.0
_FIRST_RESOLVE_PAUSE_S: Final = 1.0
_LONGEST_RESOLVE_PAUSE_S: Final = 30.0
_RECORDS_KEPT: Final = 4


class SourceResolver(Protocol):
    """Finds the digest behind a tag."""

    async def resolve(self, source: str) -> str:
        """Return the digest; raise SourceError where there is none to be had."""


class Looker(Protocol):
    """Asks the metrics and the judge."""

    async def look(
        self, request: EvidenceRequest, *, deployment: DeploymentView, policy: RolloutPolicySpec
    ) -> Looked:
        """Return one look; a dead Prometheus is evidence (NoData), not an error."""


@dataclass(frozen=True, slots=True)
class Shell:
    """What all deployment tasks share."""

    kube: Kube
    cache: FleetCache
    heartbeats: Heartbeats
    resolver: SourceResolver
    make_looker: Callable[[], Looker]
    clock: Callable[[], datetime]
    jitter: Callable[[], float]
    reporter: str
    resync_s: float
    soak_s: int


class Supervisor:
    """Starts a task for every ModelDeployment and ends it when the deployment is gone."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._loops: dict[str, tuple[DeploymentLoop, asyncio.Task[None]]] = {}
        self._changed = asyncio.Event()
        self._policies_changed = asyncio.Event()
        self._may_be_over = asyncio.Event()

    def notice(self, resource: Resource, before: Entry | None, after: Entry | None) -> None:
        """Wake whom a change concerns; called by the cache."""
        entry = after or before
        assert entry is not None
        if resource in {TRUST_POLICIES, ROLLOUT_POLICIES}:
            self._policies_changed.set()
        if resource is MODEL_DEPLOYMENTS:
            self._changed.set()
        if _may_end_an_order(resource, after):
            self._may_be_over.set()
        for loop, _ in self._loops.values():
            if resource in {NODES, MODEL_HOSTS} or loop.is_about(entry):
                loop.wake()

    async def run(self) -> None:
        """Turn until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_policy_statuses(), name="policies")
            group.create_task(self._clear_orders(), name="orders")
            self._changed.set()
            while True:
                await self._changed.wait()
                self._changed.clear()
                self._adjust(group)

    def _adjust(self, group: asyncio.TaskGroup) -> None:
        wanted = {
            entry.uid: entry
            for entry in self._shell.cache.all(MODEL_DEPLOYMENTS)
            if _is_ours(facts_of(entry, DeploymentFacts))
        }
        for uid in [uid for uid in self._loops if uid not in wanted]:
            loop, task = self._loops.pop(uid)
            task.cancel()
            loop.series.forget()
        for uid, entry in wanted.items():
            if uid not in self._loops:
                loop = DeploymentLoop(self._shell, entry)
                task = group.create_task(loop.run(), name=f"{entry.namespace}/{entry.name}")
                self._loops[uid] = (loop, task)

    async def _clear_orders(self) -> None:
        """Delete orders to unload that have outlived their deployment and are carried out."""
        while True:
            self._may_be_over.clear()
            try:
                for entry in self._over():
                    await self._shell.kube.delete(
                        NODE_MODELS, namespace=entry.namespace, name=entry.name, uid=entry.uid
                    )
                    log.info(
                        "order.over", extra={"namespace": entry.namespace, "order": entry.name}
                    )
            except KubeError as error:
                log.warning("order.over.failed", extra={"reason": str(error)})
            await _wait(self._may_be_over, self._shell.resync_s)

    def _over(self) -> list[Entry]:
        cache = self._shell.cache
        found = []
        for entry in cache.all(NODE_MODELS):
            facts = facts_of(entry, NodeModelFacts)
            node = cache.get(NODES, name=facts.spec.node.name)
            deployment = cache.get(
                MODEL_DEPLOYMENTS, namespace=entry.namespace, name=facts.spec.deployment
            )
            if is_over(
                facts.spec,
                facts.status,
                deployment_exists=deployment is not None,
                node_uid=node.uid if node is not None else None,
            ):
                found.append(entry)
        return found

    async def _keep_policy_statuses(self) -> None:
        """Write the status of policies; what fails is tried again."""
        pause_s = _FIRST_BACKOFF_S
        while True:
            self._policies_changed.clear()
            try:
                await self._write_policy_statuses()
                pause_s = _FIRST_BACKOFF_S
                wait_s = self._shell.resync_s
            except KubeError as error:
                log.warning("policies.status.failed", extra={"reason": str(error)})
                wait_s, pause_s = pause_s, min(_LONGEST_BACKOFF_S, pause_s * 2)
            await _wait(self._policies_changed, wait_s)

    async def _write_policy_statuses(self) -> None:
        shell = self._shell
        for entry in shell.cache.all(ROLLOUT_POLICIES):
            assert isinstance(entry.facts, PolicyFacts)
            wanted = policy_status(entry, now=shell.clock())
            if wanted is not None:
                metadata = {"name": entry.name, "namespace": entry.namespace, "uid": entry.uid}
                body = {"metadata": metadata, "status": wanted.to_dict()}
                shell.cache.put(
                    ROLLOUT_POLICIES, await shell.kube.apply_status(ROLLOUT_POLICIES, body)
                )
        for entry in shell.cache.all(TRUST_POLICIES):
            assert isinstance(entry.facts, TrustFacts)
            said = trust_status(entry, now=shell.clock())
            if said is not None:
                body = {
                    "metadata": {"name": entry.name, "uid": entry.uid},
                    "status": said.to_dict(),
                }
                shell.cache.put(TRUST_POLICIES, await shell.kube.apply_status(TRUST_POLICIES, body))


class DeploymentLoop:
    """The turns of one ModelDeployment, known by its uid."""

    def __init__(self, shell: Shell, entry: Entry) -> None:
        self._shell = shell
        self._namespace = entry.namespace
        self._name = entry.name
        self._uid = entry.uid
        self._woken = asyncio.Event()
        self._woken.set()
        self._evidence: Evidence | None = None
        self._records: OrderedDict[str, EvidenceRecord] = OrderedDict()
        self._looker = shell.make_looker()
        # Rollout, step and verdict of the last look that was told: a verdict is news once.
        self._told: tuple[str, int, Verdict] | None = None
        self.series = DeploymentSeries(entry.namespace, entry.name)
        self._looking = False
        self._resolved: Resolved | ResolveFailure | None = None
        self._wanted_source: str | None = None
        self._resolving: str | None = None
        self._writer = Writer(
            shell.kube,
            shell.cache,
            clock=shell.clock,
            reporter=shell.reporter,
            soak_s=shell.soak_s,
            record_of=self._records.get,
        )
        self._context = {"namespace": entry.namespace, "deployment": entry.name}

    def is_about(self, entry: Entry) -> bool:
        """Return whether a change of ``entry`` may change what this deployment should do."""
        if entry.namespace != self._namespace:
            return False
        match entry.facts:
            case DeploymentFacts():
                return entry.uid == self._uid
            case PolicyFacts():
                return True
            case NodeModelFacts(spec=order):
                return order.deployment == self._name
            case RolloutFacts(spec=rollout):
                return rollout.deployment.name == self._name
            case RevisionFacts(deployment=deployment):
                return deployment == self._name
            case _:
                return False

    def wake(self) -> None:
        """Turn soon."""
        self._woken.set()

    async def run(self) -> None:
        """Turn until cancelled; survive whatever a turn or a look does."""
        pause_s = _FIRST_BACKOFF_S
        while True:
            began = perf_counter()
            try:
                async with asyncio.TaskGroup() as group:
                    await self._turns(group)
            except* Exception as errors:
                TURNS.labels(outcome="Error").inc()
                log.exception("deployment.loop.failed", extra=self._context, exc_info=errors)
            self._looking, self._resolving = False, None
            if perf_counter() - began > 10 * _LONGEST_BACKOFF_S:
                pause_s = _FIRST_BACKOFF_S
            await asyncio.sleep(pause_s * (0.5 + self._shell.jitter()))
            pause_s = min(_LONGEST_BACKOFF_S, pause_s * 2)

    async def _turns(self, group: asyncio.TaskGroup) -> None:
        failures = 0
        while True:
            self._woken.clear()
            began = perf_counter()
            try:
                wait_s = await self._turn(group)
                failures = 0
            except KubeConflictError as error:
                TURNS.labels(outcome="Conflict").inc()
                log.debug("turn.dropped", extra={**self._context, "reason": str(error)})
                failures += 1
                wait_s = self._backoff_s(failures)
            except EvidenceLostError:
                # Look again: the planner asks, because it has no evidence any more.
                self._evidence = None
                failures += 1
                wait_s = self._backoff_s(failures)
            except KubeError as error:
                TURNS.labels(outcome="Error").inc()
                log.warning("turn.failed", extra={**self._context, "reason": str(error)})
                failures += 1
                wait_s = self._backoff_s(failures)
            # Many changes at once make one turn, and a large fleet cannot keep the loop to itself.
            await asyncio.sleep(max(_SHORTEST_PAUSE_S, min(1.0, 2 * (perf_counter() - began))))
            if failures:
                await asyncio.sleep(wait_s)
            else:
                await _wait(self._woken, wait_s)

    def _backoff_s(self, failures: int) -> float:
        pause_s = min(_LONGEST_BACKOFF_S, 0.1 * 2.0 ** min(failures, 10))
        return pause_s * (0.5 + self._shell.jitter())

    async def _turn(self, group: asyncio.TaskGroup) -> float:
        """Read, plan, write; return for how many seconds nothing will need doing."""
        shell = self._shell
        await shell.heartbeats.refresh()
        # No await from here to the plan: it is made from one instant.
        entry = shell.cache.get(MODEL_DEPLOYMENTS, namespace=self._namespace, name=self._name)
        if entry is None or entry.uid != self._uid:
            return shell.resync_s
        facts = facts_of(entry, DeploymentFacts)
        if isinstance(facts.spec, Invalid):
            return await self._say_invalid(entry, facts, facts.spec)
        picture = take_picture(shell.cache, shell.heartbeats, entry)
        began = perf_counter()
        made = plan(
            now=shell.clock(),
            deployment=picture.deployment,
            policy=picture.policy,
            resolved=self._resolved,
            revisions=picture.revisions,
            rollout=picture.rollout,
            nodes=picture.nodes,
            evidence=self._evidence,
        )
        PLAN_SECONDS.observe(perf_counter() - began)
        self.series.show(made)
        self._start_looks(made, picture, group)
        if made.writes:
            log.debug(
                "turn.writes",
                extra={**self._context, "writes": [type(each).__name__ for each in made.writes]},
            )
            await self._writer.carry_out(made.writes, picture.deployment)
            TURNS.labels(outcome="Wrote").inc()
            return 0.0
        TURNS.labels(outcome="Settled" if made.waiting_for is None else "Waiting").inc()
        return self._pause_s(made)

    def _pause_s(self, made: Plan) -> float:
        pauses_s = [self._shell.resync_s]
        if made.recheck_after is not None:
            pauses_s.append(max(0.0, made.recheck_after.total_seconds()))
        rollout = made.rollout_status
        running = rollout is not None and (rollout.phase is None or not rollout.phase.ended)
        if running or made.waiting_for is not None or made.deployment_status.nodes.deferred:
            pauses_s.append(self._shell.heartbeats.poll_s)
        return min(pauses_s)

    async def _say_invalid(self, entry: Entry, facts: DeploymentFacts, spec: Invalid) -> float:
        status = invalid_spec(
            spec.message,
            generation=entry.generation,
            before=facts.status,
            now=self._shell.clock(),
        )
        if status != facts.status:
            await self._writer.record_status(
                status, namespace=entry.namespace, name=entry.name, uid=entry.uid
            )
        return self._shell.resync_s

    def _start_looks(self, made: Plan, picture: Picture, group: asyncio.TaskGroup) -> None:
        self._wanted_source = made.look.resolve
        source = made.look.resolve
        if source is not None and self._resolving != source:
            self._resolving = source
            group.create_task(self._resolve(source), name="resolve")
        request = made.look.evidence
        if request is not None and not self._looking:
            assert isinstance(picture.policy, RolloutPolicySpec) or picture.rollout is not None
            policy = picture.rollout.spec.policy if picture.rollout is not None else picture.policy
            assert isinstance(policy, RolloutPolicySpec)
            self._looking = True
            group.create_task(self._look(request, picture.deployment, policy), name="look")

    async def _resolve(self, source: str) -> None:
        """Resolve ``source`` for as long as it is wanted; a failure is told and tried again."""
        pause_s = _FIRST_RESOLVE_PAUSE_S
        while self._wanted_source == source:
            try:
                digest = await self._shell.resolver.resolve(source)
            except SourceError as error:
                final = isinstance(error, SourceMalformedError)
                self._resolved = ResolveFailure(
                    source=source, message=f"{error}. {error.remedy}", final=final
                )
                self.wake()
                log.warning(
                    "source.unresolved",
                    extra={**self._context, "source": source, "reason": str(error)},
                )
                if final:
                    # It will not resolve better later; kept in `_resolving`, nobody asks again.
                    return
            else:
                self._resolved = Resolved(source=source, digest=digest)
                self.wake()
                log.info(
                    "source.resolved", extra={**self._context, "source": source, "digest": digest}
                )
                break
            await asyncio.sleep(pause_s * (0.5 + self._shell.jitter()))
            pause_s = min(_LONGEST_RESOLVE_PAUSE_S, pause_s * 2)
        if self._resolving == source:
            self._resolving = None

    async def _look(
        self, request: EvidenceRequest, deployment: DeploymentView, policy: RolloutPolicySpec
    ) -> None:
        looked = await self._looker.look(request, deployment=deployment, policy=policy)
        evidence = looked.evidence
        LOOKS.labels(verdict=evidence.verdict).inc()
        known = (request.rollout, request.step, evidence.verdict)
        log.log(
            logging.DEBUG if known == self._told else logging.INFO,
            "look.taken",
            extra={
                **self._context,
                "rollout": request.rollout,
                "step": request.step,
                "verdict": str(evidence.verdict),
                "reason": evidence.message,
            },
        )
        self._told = known
        if looked.record is not None:
            self._records[looked.record.sha256] = looked.record
            while len(self._records) > _RECORDS_KEPT:
                self._records.popitem(last=False)
        self._evidence = evidence
        self._looking = False
        self.wake()


def _is_ours(facts: DeploymentFacts) -> bool:
    """Return whether there is something to do: also while its nodes unload before it goes."""
    return not facts.deleting or UNLOAD_FINALIZER in facts.finalizers


def _may_end_an_order(resource: Resource, after: Entry | None) -> bool:
    """Return whether a change may end an order to unload; most changes cannot."""
    if resource is NODE_MODELS and after is not None:
        return facts_of(after, NodeModelFacts).spec.desired.state == "Absent"
    return resource in {NODES, MODEL_DEPLOYMENTS} and after is None


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
