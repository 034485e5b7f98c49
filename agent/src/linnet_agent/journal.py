"""What a node remembers about one model, and what it can see of it: plain data, and its JSON.

- The journal holds only what disk and server cannot tell: the highest order, what was committed,
  what failed, how long the soak has lasted. What they can tell is a fact, asked anew before each
  step (rule 8).
- State names are frozen: they stand in files on disks. One that is not known is begun again from
  Pending.
- What follows from all this is in ``table``.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal

import pydantic

from linnet_api.reasons import NodeReason, NodeState

Runtime = Literal["Linnet", "Files"]


class Goal(StrEnum):
    """What an order asks for; the words of ``NodeModel.spec.desired.state``."""

    STAGED = "Staged"
    ACTIVE = "Active"
    ABSENT = "Absent"


@dataclass(frozen=True, slots=True)
class Order:
    """What the hub wants of this node, for one model."""

    sequence: int
    goal: Goal
    revision: str | None = None
    """None only with ABSENT."""
    number: int = 0
    source: str = ""
    artifact: str = ""
    serving_name: str = ""
    runtime: Runtime = "Linnet"
    threads: int = 1
    instances: int = 1
    baseline: str | None = None
    """The revision that stays on disk until the rollout has ended."""
    rollout: str | None = None
    """Uid of the rollout that gave the order."""
    soak_s: int = 5
    memory_bytes: int | None = None
    """What one loaded revision may take; None: nobody has said."""
    latency_s: float | None = None
    """What one request may take; None: nobody has said."""

    def same_target(self, other: "Order | None") -> bool:
        """Tell whether both ask for the same state of the same revision."""
        return other is not None and self.goal is other.goal and self.revision == other.revision


@dataclass(frozen=True, slots=True)
class Known:
    """A revision that this node has, or had, complete and verified on its disk."""

    artifact: str
    model_digest: str
    serving_name: str = ""
    runtime: Runtime = "Linnet"
    counter: int | None = None
    policy_hash: str = ""
    """The trust under which it was allowed last."""
    tested: bool = False
    committed: bool = False
    """True once this node has soaked and committed to it."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What the node's trust said about the newest order."""

    revision: str
    allowed: bool
    reason: NodeReason
    message: str
    policy_hash: str
    at: datetime
    signer: str | None = None
    model: str | None = None
    counter: int | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A revision that failed here, and the rollout that had asked for it."""

    revision: str
    rollout: str | None
    state: NodeState
    reason: NodeReason
    message: str


@dataclass(frozen=True, slots=True)
class Revert:
    """A way back that has begun; it is finished before any other order is looked at."""

    of: str
    """The revision that failed."""
    to: str | None
    """None: there is nothing to go back to, so the model is unloaded."""
    reason: NodeReason
    message: str


@dataclass(frozen=True, slots=True)
class Journal:
    """The memory of one model on this node."""

    observed_sequence: int = 0
    order: Order | None = None
    state: NodeState = NodeState.PENDING
    reason: NodeReason = NodeReason.NONE
    message: str = ""
    committed: str | None = None
    """The revision that this node has committed to last: where a failed activation goes back to."""
    activated: str | None = None
    activated_at: datetime | None = None
    before: tuple[int, int] | None = None
    """Requests and failures of what served before the swap; None: nothing did, or nobody knows."""
    revert: Revert | None = None
    judged: Judged | None = None
    floor: int | None = None
    """The lowest release counter that is still taken."""
    resumes: int = 0
    failures: tuple[Failure, ...] = ()
    known: Mapping[str, Known] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What the server says about this model."""

    active: str | None = None
    loading: str | None = None
    """What it is loading at its start."""
    staged: str | None = None
    requests: int = 0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """What is so, now; asked anew before each step."""

    now: datetime
    complete: frozenset[str] = frozenset()
    """Revisions that are complete and verified on disk."""
    current: str | None = None
    previous: str | None = None
    server: ServerFacts | None = None
    """None: the server does not answer."""
    server_gone_s: float = 0.0
    policy_hash: str = ""
    """The trust in force."""
    allowed: str | None = None
    """The revision whose manifest and bundles are at hand and were allowed under the trust in
    force."""
    vanished: bool = False
    """The NodeModel is gone. That is not an order."""


class Step(StrEnum):
    """What can be done next."""

    REST = "Rest"
    WAIT = "Wait"
    VERIFY = "Verify"
    FETCH = "Fetch"
    SELF_TEST = "SelfTest"
    STAGE = "Stage"
    SWAP = "Swap"
    FLIP = "Flip"
    SOAK = "Soak"
    COMMIT = "Commit"
    REVERT = "Revert"
    GIVE_UP = "GiveUp"
    UNSTAGE = "Unstage"
    UNLOAD = "Unload"
    SETTLE = "Settle"


@dataclass(frozen=True, slots=True)
class Action:
    """One step, and what it is about."""

    step: Step
    revision: str | None = None
    state: NodeState | None = None
    """Of SETTLE: the state to settle in."""
    reason: NodeReason = NodeReason.NONE
    message: str = ""
    until: datetime | None = None
    """Of WAIT: when to look again at the latest; None: when something changes, or soon."""


def to_json(journal: Journal) -> bytes:
    """Return the journal as it is written to disk."""
    return _adapter().dump_json(journal)


def from_json(raw: bytes) -> Journal:
    """Return the journal that ``to_json`` wrote; an unknown state is Pending.

    Raises:
        ValueError: It is no journal.
    """
    document = json.loads(raw)
    if not isinstance(document, dict):
        raise ValueError("not a journal: no JSON object")  # noqa: TRY004 - a fault of the file, not of a caller
    if document.get("state") not in set(NodeState):
        document["state"] = NodeState.PENDING
    if document.get("reason") not in set(NodeReason):
        document["reason"] = NodeReason.WORKING
    return _adapter().validate_python(document)


@functools.cache
def _adapter() -> pydantic.TypeAdapter[Journal]:
    return pydantic.TypeAdapter(Journal)
