"""FleetSimulator: virtual agents around the real planner, in one process, on a clock of its own.

- One heap of due events, not a task for each node: a thousand nodes and weeks of time in seconds.
- Everything random comes from one seed; the same seed gives the same run.
- The operator's memory (evidence, resolved source) is lost when it is killed; objects are not.
- An object is stored as the API server would: through JSON, with a resourceVersion.
- The virtual agent keeps the contract of NodeModel: sequences, baseline, soak, commit or revert.
"""

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from time import perf_counter
from typing import Literal

from linnet_api.model_deployment import ModelDeploymentSpec, ModelDeploymentStatus
from linnet_api.model_rollout import Act, EvidenceRef, ModelRolloutSpec, ModelRolloutStatus
from linnet_api.node_model import Baseline, NodeModelSpec, NodeModelStatus, OnNode
from linnet_api.reasons import ActVerb, NodeReason, NodeState, RolloutPhase, Verdict
from linnet_api.rollout_policy import RolloutPolicySpec
from linnet_operator.planner.model import (
    CreateRollout,
    DeploymentView,
    DropOrder,
    DropRevision,
    Evidence,
    EvidenceRequest,
    KeepEvidence,
    LookKind,
    NodeView,
    Order,
    Plan,
    PolicyMissing,
    RecordDeployment,
    RecordRevision,
    RecordRollout,
    Resolved,
    ResolveFailure,
    RevisionView,
    RolloutView,
    Served,
    SetFinalizers,
    Write,
)
from linnet_operator.planner.plan import plan

START = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
HEARTBEAT = timedelta(seconds=2)
LEASE = timedelta(seconds=6)
_TURN_PAUSE = timedelta(milliseconds=100)
_LOOK_TAKES = timedelta(milliseconds=200)
_RESOLVE_TAKES = timedelta(milliseconds=300)
_RESYNC = timedelta(seconds=60)

Metrics = Literal["honest", "absent", "nan", "partial", "lying", "hiding", "trouble"]
"""How the virtual Prometheus answers. lying: it says Pass whatever the model does, with counts that
no node reports. hiding: its requests are the true ones, but none of them failed."""


def dice(seed: int) -> random.Random:
    """Return the source of everything random in one run."""
    return random.Random(seed)  # noqa: S311 - a simulation, not a secret


def digest_of(source: str) -> str:
    """Return the digest that the virtual registry has for ``source``."""
    return f"sha256:{sha256(source.encode()).hexdigest()}"


@dataclass(slots=True)
class VirtualNode:
    """A node with its agent: what it holds, what it serves, what it last heard and said.

    Attributes:
        name: Name of the Node.
        uid: Its uid.
        labels: Labels of the Node.
        online: False while its network is cut.
        seen_at: Its last heartbeat that arrived.
        rate: Requests a second that it serves.
        disk: Revisions that are complete on its disk.
        current: What it serves.
        previous: What it served before.
        order: The order that it works on.
        state: Where it is with it.
        reason: Why.
        served: Requests of ``current`` before its agent counted anew.
        epoch: Rises with every order: due events of an older one are void.
        unsaid: True while its newest report has not arrived.
    """

    name: str
    uid: str
    labels: Mapping[str, str] = field(default_factory=dict)
    online: bool = True
    seen_at: datetime = START
    rate: float = 5.0
    disk: set[str] = field(default_factory=set)
    current: OnNode | None = None
    previous: OnNode | None = None
    order: NodeModelSpec | None = None
    highest: int = 0
    state: NodeState | None = None
    reason: NodeReason = NodeReason.NONE
    message: str = ""
    epoch: int = 0
    unsaid: bool = False
    fetches: int = 0

    def requests(self, now: datetime) -> float:
        """Return how many requests it served since the activation of what it serves."""
        if self.current is None or self.current.activated_at is None:
            return 0.0
        return max(0.0, (now - self.current.activated_at).total_seconds() * self.rate)


class RuleBrokenError(AssertionError):
    """A rule of the design did not hold."""


class FleetSimulator:
    """A deployment, its nodes, its registry and its Prometheus.

    Attributes:
        now: The virtual time.
        metrics: How Prometheus answers.
        bad: Digests whose models are worse than the stable one.
        refused: Digests that every node's trust refuses.
        failing: Digests whose self-test fails.
        broken: Names of nodes on which every self-test fails, whatever the model.
        wary: Names of nodes whose own ceiling refuses everything.
        deadly: Digests that take the node off the network when they are activated.
        kill_chance: The chance that the operator is killed between two writes.
        kill_at: Before these writes, counted from 1 over the whole run, it is killed for sure.
        log: What happened, in words.
        counts: Writes by kind.
    """

    def __init__(
        self,
        *,
        seed: int,
        nodes: int,
        policy: RolloutPolicySpec,
        source: str = "oci://r.test/m/digits:1",
        on_write: Callable[["FleetSimulator", Write], None] | None = None,
    ) -> None:
        """Make a fleet at rest, with nothing deployed yet."""
        self.random = dice(seed)
        self.seed = seed
        self.now = START
        self.policy: RolloutPolicySpec | PolicyMissing = policy
        self.spec = ModelDeploymentSpec.model_validate(
            {"source": source, "nodes": {"matchLabels": {"fleet": "sim"}}}
        )
        self.generation = 1
        self.status = ModelDeploymentStatus()
        self.finalizers: tuple[str, ...] = ()
        self.revisions: dict[str, RevisionView] = {}
        self.rollouts: list[RolloutView] = []
        self.orders: dict[str, NodeModelSpec] = {}
        self.reports: dict[str, NodeModelStatus] = {}
        self.kept: dict[str, str] = {}
        self.nodes = {
            name: VirtualNode(name, f"uid-{name}")
            for name in (f"node-{index:04}" for index in range(nodes))
        }
        self.metrics: Metrics = "honest"
        self.registry: dict[str, str] = {}
        self.registry_down = False
        self.bad: set[str] = set()
        self.refused: set[str] = set()
        self.failing: set[str] = set()
        self.broken: set[str] = set()
        self.wary: set[str] = set()
        self.deadly: set[str] = set()
        self.kill_chance = 0.0
        self.kill_at: set[int] = set()
        self.kills = 0
        self.writes_tried = 0
        self.needed_requests = 60.0
        self.history_takes = timedelta(seconds=20)
        self.log: list[str] = []
        self.counts: Counter[str] = Counter()
        self.plan_seconds: list[float] = []
        self.on_write = on_write
        self.last: Plan | None = None
        self._evidence: Evidence | None = None
        self._resolved: Resolved | ResolveFailure | None = None
        self._looking = self._resolving = False
        self._heap: list[tuple[datetime, int, Callable[[], None]]] = []
        self._ticket = 0
        self._turn_at: datetime | None = None
        self._version = 0
        self._dirty()

    # ------------------------------------------------------------ what people and the world do

    @property
    def rollout(self) -> RolloutView | None:
        """The newest rollout."""
        return self.rollouts[-1] if self.rollouts else None

    @property
    def phase(self) -> RolloutPhase | None:
        """Where the newest rollout is."""
        return self.rollout.status.phase if self.rollout is not None else None

    def edit(self, **changes: object) -> None:
        """Change the deployment's spec as a person or Git would."""
        self.spec = ModelDeploymentSpec.model_validate(
            {**self.spec.model_dump(by_alias=False), **changes}
        )
        self.generation += 1
        self._dirty()

    def set_source(self, source: str) -> None:
        """Ask for another model."""
        self.edit(source=source)

    def act(self, verb: ActVerb, *, step: int | None = None) -> None:
        """Add an act to the newest rollout."""
        rollout = self.rollouts[-1]
        new = Act(id=f"a{len(rollout.spec.acts)}", verb=verb, step=step, by="ana", reason="sim")
        spec = rollout.spec.model_copy(update={"acts": (*rollout.spec.acts, new)})
        self.rollouts[-1] = replace(
            rollout, spec=spec, generation=rollout.generation + 1, resource_version=self._next()
        )
        self._dirty()

    def cut(self, name: str) -> None:
        """Cut the node's network."""
        node = self.nodes[name]
        if node.online:
            node.seen_at, node.online = self._beat(node), False
            self._dirty()

    def heal(self, name: str) -> None:
        """Give the node its network back; it reads its order and says what it has to say."""
        node = self.nodes[name]
        if not node.online:
            node.online = True
            node.seen_at = self.now
            if node.unsaid:
                self._report(node)
            self._hear(node)
            self._dirty()

    def restart_agent(self, name: str) -> None:
        """Kill the agent in whatever it does; its journal lets it begin that order anew."""
        node = self.nodes[name]
        if node.state is not None and not node.state.settled:
            node.epoch += 1
            self._work(node)

    def join(self, name: str, **labels: str) -> None:
        """Add a node."""
        self.nodes[name] = VirtualNode(name, f"uid-{name}", labels, seen_at=self.now)
        self._dirty()

    def remove(self, name: str) -> None:
        """Take a node out of the cluster, with its NodeModel."""
        self.nodes.pop(name).epoch += 1
        self.orders.pop(name, None)
        self.reports.pop(name, None)
        self._dirty()

    def kill_operator(self) -> None:
        """Kill the operator: its memory is gone, its objects are not."""
        self._evidence, self._resolved = None, None
        self._looking = self._resolving = False
        self.kills += 1
        self._dirty()

    # ------------------------------------------------------------ time

    def run_for(self, span: timedelta) -> None:
        """Let ``span`` pass."""
        for _ in self.events(self.now + span):
            pass

    def run_until(
        self, done: Callable[["FleetSimulator"], bool], *, limit: timedelta = timedelta(hours=2)
    ) -> bool:
        """Let time pass until ``done``; return whether it came to that within ``limit``."""
        if done(self):
            return True
        return any(done(self) for _ in self.events(self.now + limit))

    def events(self, until: datetime) -> Iterator[None]:
        """Do what is due up to ``until``, one event at a time."""
        while self._heap and self._heap[0][0] <= until:
            due, _, do = heapq.heappop(self._heap)
            self.now = max(self.now, due)
            do()
            yield
        self.now = until

    def after(self, span: timedelta, do: Callable[[], None]) -> None:
        """Do something in ``span``."""
        self._ticket += 1
        heapq.heappush(self._heap, (self.now + span, self._ticket, do))

    def is_quiet(self) -> bool:
        """Return True where the last plan wrote nothing and waits for nothing but lost nodes."""
        last = self.last
        return (
            last is not None
            and not last.writes
            and self.phase is not None
            and self.phase.ended
            and (last.waiting_for is None or last.waiting_for.reason == "DeferredNodes")
        )

    # ------------------------------------------------------------ the operator

    def view(self, node: VirtualNode) -> NodeView:
        """Return the node as the operator's cache has it."""
        counted_at = self._beat(node)
        served = {}
        if node.current is not None:
            requests = int(node.requests(counted_at))
            failing = node.current.artifact in self.bad
            served[node.current.revision] = Served(requests, requests // 3 if failing else 0)
        return NodeView(
            name=node.name,
            uid=node.uid,
            labels=node.labels,
            runtimes=("Linnet",),
            heartbeat_at=counted_at,
            lease=LEASE,
            served=served,
            order=self.orders.get(node.name),
            report=self.reports.get(node.name),
        )

    def make_plan(self) -> Plan:
        """Return what the planner says now; nothing is written."""
        began = perf_counter()
        made = plan(
            now=self.now,
            deployment=DeploymentView(
                namespace="sim",
                name="digits",
                uid="uid-digits",
                generation=self.generation,
                spec=self.spec,
                status=self.status,
                finalizers=self.finalizers,
            ),
            policy=self.policy,
            resolved=self._resolved,
            revisions=tuple(self.revisions.values()),
            rollout=self.rollout,
            nodes=[self.view(node) for node in self.nodes.values()],
            evidence=self._evidence,
        )
        self.plan_seconds.append(perf_counter() - began)
        return made

    def _dirty(self) -> None:
        self._turn_in(_TURN_PAUSE)

    def _turn_in(self, span: timedelta) -> None:
        due = self.now + span
        if self._turn_at is None or due < self._turn_at:
            self._turn_at = due
            self.after(span, self._turn)

    def _turn(self) -> None:
        if self._turn_at is None or self._turn_at > self.now:
            return
        self._turn_at = None
        made = self.last = self.make_plan()
        for write in made.writes:
            self.writes_tried += 1
            unlucky = self.kill_chance and self.random.random() < self.kill_chance
            if unlucky or self.writes_tried in self.kill_at:
                self.log.append(
                    f"{self.now:%H:%M:%S} operator killed before {type(write).__name__}"
                )
                self.kill_operator()
                return
            self._carry_out(write)
        self._fetch(made)
        if made.writes:
            self._dirty()
        else:
            self._turn_in(min(_RESYNC, made.recheck_after or _RESYNC))

    def _carry_out(self, write: Write) -> None:
        self.counts[type(write).__name__] += 1
        if self.on_write is not None:
            self.on_write(self, write)
        match write:
            case RecordRevision():
                self.revisions[write.revision.revision] = write.revision
            case CreateRollout():
                self._create(write)
            case KeepEvidence():
                self.kept.setdefault(write.ref.name, write.ref.sha256)
            case RecordRollout():
                self._record(write)
            case Order():
                self._give(write)
            case DropOrder():
                self.orders.pop(write.node, None)
                self.reports.pop(write.node, None)
            case DropRevision():
                del self.revisions[write.revision]
            case RecordDeployment():
                self.status = ModelDeploymentStatus.model_validate(write.status.to_dict())
            case SetFinalizers():
                self.finalizers = write.finalizers

    def _create(self, write: CreateRollout) -> None:
        if any(known.name == write.name for known in self.rollouts):
            return
        spec = ModelRolloutSpec.model_validate(write.spec.to_dict())
        number = len(self.rollouts) + 1
        view = RolloutView(write.name, f"{self.seed}-{write.name}", number, 1, self._next(), spec)
        self.rollouts.append(view)
        self.log.append(f"{self.now:%H:%M:%S} {write.name} created to {spec.to.revision}")

    def _record(self, write: RecordRollout) -> None:
        rollout = self.rollouts[-1]
        if (rollout.name, rollout.resource_version) != (write.name, write.resource_version):
            raise RuleBrokenError("a status was written on an old version of the rollout")
        status = ModelRolloutStatus.model_validate(write.status.to_dict())
        if (status.phase, status.step) != (rollout.status.phase, rollout.status.step):
            place = f"{status.phase} step {status.step} {status.reason or ''}".rstrip()
            self.log.append(f"{self.now:%H:%M:%S} {write.name} {place}")
        self.rollouts[-1] = replace(rollout, status=status, resource_version=self._next())

    def _give(self, write: Order) -> None:
        before = self.orders.get(write.node)
        if before is not None and write.spec.sequence <= before.sequence:
            raise RuleBrokenError(f"rule 7: the sequence of {write.node} did not rise")
        self.orders[write.node] = write.spec
        if write.node in self.nodes:
            self._hear(self.nodes[write.node])

    def _fetch(self, made: Plan) -> None:
        source = made.look.resolve
        if source is not None and not self._resolving:
            self._resolving = True
            self.after(_RESOLVE_TAKES, lambda: self._on_resolved(source))
        request = made.look.evidence
        if request is not None and not self._looking:
            self._looking = True
            self.after(_LOOK_TAKES, lambda: self._on_looked(request))

    def _on_resolved(self, source: str) -> None:
        self._resolving = False
        if self.registry_down:
            self._resolved = ResolveFailure(source, f"{source}: the registry does not answer")
        else:
            self._resolved = Resolved(source, self.registry.get(source, digest_of(source)))
        self._dirty()

    def _on_looked(self, request: EvidenceRequest) -> None:
        self._looking = False
        verdict, message, requests = self._assess(request)
        own = {one.node: one.own for one in request.candidates if one.own is not None}
        name = f"{request.rollout}-{int((self.now - START).total_seconds() * 1000)}"
        self._evidence = Evidence(
            rollout_uid=request.rollout_uid,
            step=request.step,
            at=self.now,
            verdict=verdict,
            message=message,
            requests=requests,
            failures=self._failures(request, requests),
            own={name: said for name, said in own.items() if name in requests},
            ref=EvidenceRef(name=name, sha256=sha256(name.encode()).hexdigest()),
        )
        self._dirty()

    def _assess(self, request: EvidenceRequest) -> tuple[Verdict, str, dict[str, float]]:
        if self.metrics in ("absent", "nan"):
            return Verdict.NO_DATA, f"Prometheus is {self.metrics}", {}
        if self.metrics == "partial":
            return Verdict.PARTIAL, "warnings in the answer", {}
        if self.metrics == "trouble":
            return Verdict.FLEET_TROUBLE, "the stable nodes fail as well", {}
        if request.kind is LookKind.HISTORY:
            known = self.now - request.started_at >= self.history_takes
            verdict = Verdict.NOT_MEASURED if known else Verdict.LEARNING
            return verdict, "history", {}
        nodes = [self.nodes[one.node] for one in request.candidates if one.node in self.nodes]
        counts = {node.name: node.requests(self.now) for node in nodes}
        if self.metrics == "lying":
            return Verdict.PASS, "all is well", {name: 5000.0 + n for name, n in counts.items()}
        total = sum(counts.values())
        if total < self.needed_requests:
            return Verdict.UNDECIDED, f"{total:.0f} of {self.needed_requests:.0f} requests", counts
        digest = self.rollouts[-1].spec.to.digest
        if digest in self.bad and self.metrics != "hiding":
            return Verdict.FAIL, f"wrong {total / 3:.0f} of {total:.0f}, expected 2.4", counts
        return Verdict.PASS, f"wrong 1 of {total:.0f}, expected 2.4", counts

    def _failures(
        self, request: EvidenceRequest, requests: Mapping[str, float]
    ) -> dict[str, float]:
        revision = self.revisions[request.candidate]
        fails = revision.artifact in self.bad and self.metrics not in ("lying", "hiding")
        return {name: count / 3 if fails else 0.0 for name, count in requests.items()}

    # ------------------------------------------------------------ the agents

    def _beat(self, node: VirtualNode) -> datetime:
        if not node.online:
            return node.seen_at
        return self.now - (self.now - node.seen_at) % HEARTBEAT

    def _hear(self, node: VirtualNode) -> None:
        order = self.orders.get(node.name)
        if not node.online or order is None or order == node.order:
            return
        if order.sequence < node.highest:
            node.reason = NodeReason.STALE_ORDER
            return
        same = (
            node.order is not None
            and node.order.desired == order.desired
            and node.state is not None
            and node.state.settled
        )
        node.order, node.highest = order, order.sequence
        self._collect(node)
        if same:
            self._report(node)
            return
        node.epoch += 1
        self._work(node)

    def _work(self, node: VirtualNode) -> None:
        assert node.order is not None
        desired = node.order.desired
        if desired.state == "Absent":
            node.current = node.previous = None
            self._set(node, NodeState.ABSENT, NodeReason.ABSENT)
            return
        assert desired.revision is not None
        if node.current is not None and node.current.revision == desired.revision:
            if node.current.soaked:
                self._set(node, NodeState.ACTIVE, NodeReason.ACTIVE)
            else:
                self._soak(node)
            return
        if desired.artifact in self.refused or node.name in self.wary:
            self._later(node, 0.3, lambda: self._refuse(node))
            return
        if desired.revision in node.disk:
            self._later(node, 0.3, lambda: self._self_test(node))
            return
        self._set(node, NodeState.FETCHING, NodeReason.WORKING)
        self._later(node, 2.0, lambda: self._fetched(node))

    def _refuse(self, node: VirtualNode) -> None:
        self._set(node, NodeState.REFUSED, NodeReason.UNTRUSTED_KEY, "signed by nobody we trust")

    def _fetched(self, node: VirtualNode) -> None:
        if not node.online or self.registry_down:
            self._later(node, 5.0, lambda: self._fetched(node))
            return
        assert node.order is not None
        assert node.order.desired.revision is not None
        node.fetches += 1
        node.disk.add(node.order.desired.revision)
        self._self_test(node)

    def _self_test(self, node: VirtualNode) -> None:
        assert node.order is not None
        if node.order.desired.artifact in self.failing or node.name in self.broken:
            self._set(node, NodeState.FAILED, NodeReason.SELF_TEST_FAILED, "output is NaN")
            return
        self._later(node, 0.5, lambda: self._activate(node))

    def _activate(self, node: VirtualNode) -> None:
        assert node.order is not None
        desired = node.order.desired
        assert desired.revision is not None
        assert desired.artifact is not None
        if node.current is not None:
            node.previous = node.current
        node.current = OnNode(
            revision=desired.revision,
            artifact=desired.artifact,
            model_digest=desired.artifact,
            activated_at=self.now.replace(microsecond=0),
        )
        self._soak(node)

    def _soak(self, node: VirtualNode) -> None:
        assert node.order is not None
        self._set(node, NodeState.SOAKING, NodeReason.WORKING)
        if node.order.desired.artifact in self.deadly:
            self._later(node, 1.0, lambda: self.cut(node.name))
            self._later(node, 60.0, lambda: self._revert(node))
            return
        self._later(node, float(node.order.soak.seconds), lambda: self._commit(node))

    def _commit(self, node: VirtualNode) -> None:
        assert node.current is not None
        node.current = node.current.model_copy(update={"soaked": True})
        self._set(node, NodeState.ACTIVE, NodeReason.ACTIVE)
        self._collect(node)

    def _revert(self, node: VirtualNode) -> None:
        node.current, node.previous = node.previous, None
        self._set(node, NodeState.REVERTED, NodeReason.SOAK_FAILED, "the node did not stay up")

    def _later(self, node: VirtualNode, seconds: float, do: Callable[[], None]) -> None:
        epoch = node.epoch
        span = timedelta(seconds=seconds * (0.5 + self.random.random()))
        self.after(span, lambda: do() if node.epoch == epoch else None)

    def _set(
        self, node: VirtualNode, state: NodeState, reason: NodeReason, message: str = ""
    ) -> None:
        node.state, node.reason, node.message = state, reason, message
        self._report(node)

    def _report(self, node: VirtualNode) -> None:
        if not node.online:
            node.unsaid = True
            return
        node.unsaid = False
        desired = node.order.desired if node.order is not None else None
        self.reports[node.name] = NodeModelStatus(
            observed_sequence=node.highest,
            state=node.state,
            revision=desired.revision if desired is not None else None,
            reason=node.reason,
            message=node.message,
            current=node.current,
            previous=node.previous,
            on_disk=tuple(sorted(node.disk)),
        )
        self._dirty()

    def _collect(self, node: VirtualNode) -> None:
        """Delete from the node's disk what no order, baseline or slot names (rule 3)."""
        order = node.order
        baseline: Baseline | None = order.baseline if order is not None else None
        keep = {slot.revision for slot in (node.current, node.previous) if slot is not None}
        if order is not None and order.desired.revision is not None:
            keep.add(order.desired.revision)
        if baseline is not None:
            keep.add(baseline.revision)
        node.disk &= keep

    def _next(self) -> str:
        self._version += 1
        return str(self._version)
