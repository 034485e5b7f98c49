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
from dataclasses import dataclass, field, replace
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
    variants: tuple[str, ...] = ()
    """In order of preference; empty: any."""
    serving_name: str = ""
    runtime: Runtime = "Linnet"
    threads: int = 1
    instances: int = 1
    baseline: str | None = None
    """The revision that stays on disk until the rollout has ended."""
    rollout: str | None = None
    """Uid of the rollout that gave the order."""
    rollout_number: int = 0
    """Its number in the deployment, from 1; 0: not known."""
    owner: str | None = None
    """Uid of the deployment; None: not said. A deployment that is made anew is another."""
    soak_s: int = 5
    memory_bytes: int | None = None
    """What one loaded revision may take; None: nobody has said."""
    latency_s: float | None = None
    """What one request may take; None: nobody has said."""
    replace: bool = False
    """True: what serves may be taken out first, where memory does not hold two."""

    def same_target(self, other: "Order | None") -> bool:
        """Tell whether both ask for the same state of the same revision."""
        return other is not None and self.goal is other.goal and self.revision == other.revision


class Standing(StrEnum):
    """Whether what was allowed once has been revoked since; nothing else takes away what serves."""

    GOOD = "Good"
    KEPT = "Kept"
    """Revoked by a policy that lets what is active serve on."""
    REVOKED = "Revoked"
    FORBIDDEN = "Forbidden"
    """Revoked by the node's own ceiling: it may not even be the last one."""


class SelfTested(StrEnum):
    """What a self-test could show of a model that is well; always on the CPU."""

    GOLDEN = "Golden"
    """It answers its golden samples as its publisher wrote them."""
    MADE_UP = "MadeUp"
    """It answers made-up inputs soundly, and alike when they come twice."""
    LOADED = "Loaded"
    """It can be loaded; no made-up input suited it."""

    @classmethod
    def of(cls, *, golden: bool, ran: bool) -> "SelfTested":
        """Return the word for what was done."""
        return cls.GOLDEN if golden else cls.MADE_UP if ran else cls.LOADED


@dataclass(frozen=True, slots=True)
class Known:
    """A revision that this node has, or had, complete and verified on its disk."""

    artifact: str
    model_digest: str
    serving_name: str = ""
    runtime: Runtime = "Linnet"
    counter: int | None = None
    policy_hash: str = ""
    """The trust under which it was judged last: it is judged again when that is another."""
    standing: Standing = Standing.GOOD
    why: str = ""
    """Of a standing that is not GOOD: the sentence."""
    tested: bool = False
    test: SelfTested | None = None
    """What its self-test showed; None: nothing, or nobody remembers."""
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
class Condemned:
    """An artifact that was taken back on this node, and who had asked for it."""

    artifact: str
    owner: str | None
    rollout: str | None
    rollout_number: int
    why: str


@dataclass(frozen=True, slots=True)
class Revert:
    """A way back that has begun; it is finished before any other order is looked at."""

    of: str
    """The revision that is left."""
    to: str | None
    """None: there is nothing to go back to, so the model is unloaded."""
    reason: NodeReason
    message: str
    state: NodeState = NodeState.REVERTED
    """Where it ends, if the order still wants what was left."""
    unload: bool = True
    """False: where there is nothing to go back to any more, it stays and serves on."""


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
    before_s: float = 0.0
    """Seconds that those requests took, in all."""
    revert: Revert | None = None
    judged: Judged | None = None
    floor: int | None = None
    """The lowest release counter that is still taken."""
    resumes: int = 0
    failures: tuple[Failure, ...] = ()
    condemned: tuple[Condemned, ...] = ()
    """The oldest first; it has a file of its own, which outlives a journal that rots."""
    reload: str | None = None
    """A revision whose files were replaced under the server: what is in memory may be the old."""
    told: str | None = None
    """The revision that a program of the user's own was told of last, where there is one to tell;
    None from before a swap on."""
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
    duration_s: float = 0.0
    """Seconds that those requests took, in all; 0: the server does not say."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is so, now; asked anew before each step."""

    now: datetime
    complete: frozenset[str] = frozenset()
    """Revisions that are complete and verified on disk."""
    corrupt: Mapping[str, str] = field(default_factory=dict)
    """Revisions whose files are no longer what was verified, and what is wrong with them."""
    current: str | None = None
    previous: str | None = None
    server: ServerFacts | None = None
    """None: the server does not answer."""
    server_gone_s: float = 0.0
    policy_hash: str = ""
    """The trust in force; empty: not known yet."""
    allowed: str | None = None
    """The revision whose manifest and bundles are at hand and were allowed under the trust in
    force."""
    vanished: bool = False
    """The NodeModel is gone. That is not an order."""
    hook: bool = False
    """A program of the user's own is to be told of swaps."""
    sick: str = ""
    """What is wrong with that program; empty: nothing, or nobody asked."""


class Step(StrEnum):
    """What can be done next."""

    REST = "Rest"
    WAIT = "Wait"
    REJUDGE = "Rejudge"
    """Ask today's trust about what was allowed before, from what is kept beside it."""
    VERIFY = "Verify"
    FETCH = "Fetch"
    REPAIR = "Repair"
    """Fetch the files of a revision again whose bytes have rotted."""
    SELF_TEST = "SelfTest"
    STAGE = "Stage"
    SWAP = "Swap"
    FLIP = "Flip"
    """Let the server serve it, or tell the program that uses the files."""
    SOAK = "Soak"
    COMMIT = "Commit"
    REVERT = "Revert"
    STAY = "Stay"
    """Give up a way back whose end is gone: what serves serves on."""
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
    fresh: bool = False
    """Of STAGE: load it although the server has a revision of that name."""


def to_json(journal: Journal) -> bytes:
    """Return the journal as it is written to disk, without what is condemned."""
    return _adapter().dump_json(replace(journal, condemned=()))


def condemned_to_json(condemned: tuple[Condemned, ...]) -> bytes:
    """Return what is condemned, as it is written to disk."""
    return _condemned_adapter().dump_json(condemned)


def condemned_from_json(raw: bytes) -> tuple[Condemned, ...]:
    """Return what ``condemned_to_json`` wrote.

    Raises:
        ValueError: It is no such list.
    """
    return _condemned_adapter().validate_json(raw)


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


@functools.cache
def _condemned_adapter() -> pydantic.TypeAdapter[tuple[Condemned, ...]]:
    return pydantic.TypeAdapter(tuple[Condemned, ...])
