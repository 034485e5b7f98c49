"""What goes into a plan and what comes out of it: frozen values, no behaviour but small questions.

- Time is an argument; nothing here reads a clock, the network or the disk.
- A plan is a list of writes in the order in which they must be made, and what to look at before the
  next turn.
- Where `linnet_api` has a type for a thing, that type is used.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from linnet_api.fields import WaitingFor
from linnet_api.model_deployment import (
    ModelDeploymentSpec,
    ModelDeploymentStatus,
    Serving,
)
from linnet_api.model_rollout import EvidenceRef, ModelRolloutSpec, ModelRolloutStatus
from linnet_api.names import UNLOAD_FINALIZER
from linnet_api.node_model import NodeModelSpec, NodeModelStatus
from linnet_api.reasons import Verdict

# ---------------------------------------------------------------- what goes in


@dataclass(frozen=True, slots=True)
class DeploymentView:
    """The ModelDeployment as the cache has it.

    Attributes:
        namespace: Its namespace.
        name: Its name.
        uid: Its uid.
        generation: Generation of its spec.
        spec: What people want.
        status: What the operator has said.
        resource_version: The version that this view is of.
        deleting: True once it has been deleted and only finalizers hold it.
        finalizers: All of them, other people's too.
    """

    namespace: str
    name: str
    uid: str
    generation: int
    spec: ModelDeploymentSpec
    status: ModelDeploymentStatus = field(default_factory=ModelDeploymentStatus)
    resource_version: str = ""
    deleting: bool = False
    finalizers: tuple[str, ...] = ()

    @property
    def held(self) -> bool:
        """True where a deletion waits until the nodes have unloaded."""
        return UNLOAD_FINALIZER in self.finalizers

    @property
    def serving(self) -> Serving:
        """How the model is served, with its name filled in."""
        if self.spec.serving.name is not None:
            return self.spec.serving
        return self.spec.serving.model_copy(update={"name": self.name})


@dataclass(frozen=True, slots=True)
class Resolved:
    """The artifact that ``source`` names."""

    source: str
    digest: str


@dataclass(frozen=True, slots=True)
class ResolveFailure:
    """The source could not be resolved; ``message`` says what the registry said.

    Attributes:
        source: The source.
        message: What the registry said, and what to do.
        final: True where only a person can help (it does not exist); False where a retry may.
    """

    source: str
    message: str
    final: bool = False


@dataclass(frozen=True, slots=True)
class PolicyMissing:
    """The policy that the spec names does not exist, or cannot be used."""

    message: str


@dataclass(frozen=True, slots=True)
class RevisionView:
    """A revision as its ControllerRevision records it.

    Attributes:
        revision: Hash of the content.
        number: For people, from 1.
        artifact: Digest of the artifact.
        sources: Every source that was resolved to it, the first one first; a tag is resolved once.
        variants: In order of preference.
        serving: With its name filled in.
    """

    revision: str
    number: int
    artifact: str
    sources: tuple[str, ...]
    variants: tuple[str, ...]
    serving: Serving


@dataclass(frozen=True, slots=True)
class RolloutView:
    """The newest ModelRollout of the deployment, running or ended."""

    name: str
    uid: str
    number: int
    generation: int
    resource_version: str
    spec: ModelRolloutSpec
    status: ModelRolloutStatus = field(default_factory=ModelRolloutStatus)


@dataclass(frozen=True, slots=True)
class Served:
    """What a node says of one revision over its own token, counted since activation."""

    requests: int
    failures: int = 0


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node: a Node that the selector matches, or one that has a NodeModel of this deployment.

    Attributes:
        name: Name of the Node.
        uid: Uid of the Node; a reinstalled node is another.
        labels: Labels of the Node.
        matched: False for a node that has a NodeModel, but that the selector matches no more.
        runtimes: Names of its runtimes from the ModelHost; None where it has no ModelHost.
        heartbeat_at: When its Lease was last renewed; None: never.
        lease: How long a renewal counts.
        served: Revision -> counts, from the Lease.
        order: Spec of its NodeModel; None: it has none.
        report: Status of its NodeModel; None: it has none.
    """

    name: str
    uid: str
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    matched: bool = True
    runtimes: tuple[str, ...] | None = None
    heartbeat_at: datetime | None = None
    lease: timedelta = timedelta(seconds=10)
    served: Mapping[str, Served] = field(default_factory=dict[str, Served])
    order: NodeModelSpec | None = None
    report: NodeModelStatus | None = None

    def connected(self, now: datetime) -> bool:
        """Return True where the Lease is renewed in time."""
        return self.heartbeat_at is not None and now - self.heartbeat_at <= self.lease


@dataclass(frozen=True, slots=True)
class Evidence:
    """One look, as the judge assessed it.

    Attributes:
        rollout_uid: The rollout that it belongs to; evidence of another is ignored.
        step: The step that it judges; 0: the history before the first step.
        at: The time that the look was made for.
        verdict: Of the whole step. At step 0 Learning means that history is lacking; NoData that
            there is none to be had.
        message: The sentence with numbers.
        short: The same in at most 40 characters.
        needs_person: True where the evidence of harm rests on too few nodes: a Fail asks at once,
            Undecided when its time is over.
        gave_up: True where more samples are missing in a row than the policy tolerates: onNoData
            acts, without waiting for decideWithin.
        requests: Node name -> requests of the candidate since its activation, as the metrics count
            them (rule 16).
        failures: Node name -> how many of them failed, likewise.
        own: Node name -> what the node itself had reported by then of the same time: a report that
            is old enough for the metrics to know all of it, where there is one.
        ref: Name and sha256 of the ConfigMap that the shell can write from this look; None: nothing
            to keep.
    """

    rollout_uid: str
    step: int
    at: datetime
    verdict: Verdict
    message: str
    short: str = ""
    needs_person: bool = False
    gave_up: bool = False
    requests: Mapping[str, float] = field(default_factory=dict[str, float])
    failures: Mapping[str, float] = field(default_factory=dict[str, float])
    own: Mapping[str, Served] = field(default_factory=dict[str, Served])
    ref: EvidenceRef | None = None


# ---------------------------------------------------------------- what comes out


@dataclass(frozen=True, slots=True)
class RecordRevision:
    """Apply the ControllerRevision ``name``; where it exists only its sources have grown."""

    name: str
    revision: RevisionView


@dataclass(frozen=True, slots=True)
class CreateRollout:
    """Create the ModelRollout; that it is there already is success."""

    name: str
    spec: ModelRolloutSpec


@dataclass(frozen=True, slots=True)
class KeepEvidence:
    """Create the ConfigMap of the look that decided; that it is there already is success."""

    ref: EvidenceRef


@dataclass(frozen=True, slots=True)
class RecordRollout:
    """Write the whole status of the ModelRollout, with ``resource_version`` as precondition.

    On a conflict the turn is dropped: nothing after it is written.
    """

    name: str
    uid: str
    resource_version: str
    status: ModelRolloutStatus


@dataclass(frozen=True, slots=True)
class Order:
    """Apply the spec of the NodeModel ``name``.

    Attributes:
        name: Name of the NodeModel.
        node: Name of the node.
        spec: The order.
        owned: False where it must outlive its deployment (``removal: Unload``).
    """

    name: str
    node: str
    spec: NodeModelSpec
    owned: bool = True


@dataclass(frozen=True, slots=True)
class DropOrder:
    """Delete the NodeModel ``name``: its node was reinstalled, or has unloaded. Never an order."""

    name: str
    node: str


@dataclass(frozen=True, slots=True)
class DropRevision:
    """Delete the ControllerRevision ``name``: the history is longer than its limit."""

    name: str
    revision: str


@dataclass(frozen=True, slots=True)
class RecordDeployment:
    """Write the whole status of the ModelDeployment."""

    name: str
    status: ModelDeploymentStatus


@dataclass(frozen=True, slots=True)
class SetFinalizers:
    """Write the finalizers of the ModelDeployment, with ``resource_version`` as precondition.

    On a conflict the turn is dropped: nothing after it is written.
    """

    name: str
    resource_version: str
    finalizers: tuple[str, ...]


Write = (
    RecordRevision
    | CreateRollout
    | KeepEvidence
    | RecordRollout
    | Order
    | DropOrder
    | DropRevision
    | RecordDeployment
    | SetFinalizers
)


class LookKind(StrEnum):
    """What a look is for."""

    HISTORY = "History"
    STEP = "Step"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node whose candidate is judged.

    Attributes:
        node: Its name.
        since: Since when it serves the candidate.
        domain: Where ``spreadBy`` puts it.
        own: What its newest heartbeat says of the candidate; None: nothing.
    """

    node: str
    since: datetime
    domain: str = ""
    own: Served | None = None


@dataclass(frozen=True, slots=True)
class EvidenceRequest:
    """A look that is due now.

    Attributes:
        kind: History: is there enough, before the first step. Step: how do the candidates fare.
        rollout: Name of the ModelRollout.
        rollout_uid: Its uid.
        step: From 1; 0 for History.
        candidate: Revision that is judged.
        baseline: Revision that it is compared with; None in a first rollout (thresholds only).
        candidates: Nodes that serve the candidate, committed, with the time of activation. Empty
            for History.
        stable: Names of the nodes that serve the baseline.
        started_at: When the rollout began: history ends there.
        bake: The bake of the step.
    """

    kind: LookKind
    rollout: str
    rollout_uid: str
    step: int
    candidate: str
    baseline: str | None
    candidates: tuple[Candidate, ...]
    stable: tuple[str, ...]
    started_at: datetime
    bake: timedelta


@dataclass(frozen=True, slots=True)
class Look:
    """What the shell fetches before the next turn; None: nothing.

    Attributes:
        resolve: The source whose digest is wanted; cache the answer until it asks for another.
        evidence: The look that is due.
    """

    resolve: str | None = None
    evidence: EvidenceRequest | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What one turn decides.

    Attributes:
        writes: In this order; stop at the first that fails, the next turn goes on from what is
            written.
        deployment_status: As it should be; it stands in ``writes`` only where it differs.
        rollout_status: As it should be; None where there is no rollout.
        recheck_after: When to turn again at the latest, though nothing changed; None: only the
            resync.
        waiting_for: What it waits for (rule 9); None: settled.
        look: What to fetch.
    """

    writes: tuple[Write, ...]
    deployment_status: ModelDeploymentStatus
    rollout_status: ModelRolloutStatus | None
    recheck_after: timedelta | None
    waiting_for: WaitingFor | None
    look: Look
