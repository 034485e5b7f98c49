"""NodeModel: one model on one node. The operator writes the spec, that node's agent the status."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from linnet_api.conditions import Condition
from linnet_api.fields import (
    ATOMIC,
    ApiModel,
    Digest,
    ObjectName,
    Revision,
    Sentence,
    ShortName,
    Time,
    Uid,
    map_list,
    rules,
)
from linnet_api.model_deployment import Resources, Serving, Swap
from linnet_api.reasons import NodeReason, NodeState


class NodeRef(ApiModel):
    """The node that is meant: name and uid, because a reinstalled node is another."""

    name: Annotated[ObjectName, Field(description="Name of the Node.")]
    uid: Annotated[Uid, Field(description="Its uid.")]


class Desired(ApiModel):
    """What the node shall do."""

    state: Annotated[
        Literal["Staged", "Active", "Absent"],
        Field(
            description="Staged: on disk, verified; agents obey it, the operator does not order it yet. Active: serving. "
            "Absent: unload; the only order that takes a model away."
        ),
    ]
    revision: Annotated[
        Revision | None, Field(description="The revision. Absent only with Absent.")
    ] = None
    number: Annotated[int, Field(description="Its number for people.", ge=0, le=2**31 - 1)] = 0
    source: Annotated[
        str | None,
        Field(description="Where it lies, as in ModelDeployment.spec.source.", max_length=512),
    ] = None
    artifact: Annotated[
        Digest | None, Field(description="Digest of the artifact; nothing else is fetched.")
    ] = None
    serving: Annotated[
        Serving, Field(description="How it is served; name is always filled in.")
    ] = Serving()
    resources: Annotated[
        Resources, Field(description="What it may take; the self-test holds it to that.")
    ] = Resources()
    swap: Annotated[
        Swap,
        Field(
            description="Replace: where memory does not hold both, the old revision is taken out first, 503 meanwhile. Beside "
            "(default): it never is."
        ),
    ] = "Beside"
    variants: Annotated[
        tuple[Annotated[str, Field(max_length=63)], ...],
        Field(
            description="Variants in order of preference; the node takes the first that it can run.",
            max_length=16,
            json_schema_extra=ATOMIC,
        ),
    ] = ()


class Baseline(ApiModel):
    """What stays on the node's disk until the rollout has ended (rule 3)."""

    revision: Annotated[Revision, Field(description="The revision to keep.")]
    artifact: Annotated[Digest, Field(description="Its artifact.")]


class RolloutRef(ApiModel):
    """The rollout that gave the order."""

    name: Annotated[ObjectName, Field(description="Name of the ModelRollout.")]
    uid: Annotated[Uid, Field(description="Its uid.")]
    step: Annotated[int, Field(description="The step, from 1.", ge=0, le=20)] = 0


class Soak(ApiModel):
    """How long the node watches a fresh activation before it commits."""

    seconds: Annotated[int, Field(description="Seconds, 0 to 86400.", ge=0, le=86_400)] = 5


class NodeModelSpec(ApiModel):
    """An order to one node."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.node == oldSelf.node",
                "node is immutable: a NodeModel belongs to one node for ever",
            ),
            ("self.deployment == oldSelf.deployment", "deployment is immutable"),
            (
                "self.sequence >= oldSelf.sequence",
                "sequence may not fall: an agent refuses a lower order",
            ),
            (
                "self.desired.state == 'Absent' || (has(self.desired.revision) && has(self.desired.artifact) && "
                "has(self.desired.source))",
                "an order to stage or activate names revision, artifact and source",
            ),
        )
    )

    deployment: Annotated[
        ObjectName, Field(description="The ModelDeployment, in the same namespace.")
    ]
    node: Annotated[NodeRef, Field(description="The node; immutable.")]
    sequence: Annotated[
        int,
        Field(
            description="Order number, never falls. An agent refuses a lower one (StaleOrder): a hub restored from a backup "
            "moves nobody.",
            ge=1,
            le=2**53,
        ),
    ]
    desired: Annotated[Desired, Field(description="What the node shall do.")]
    baseline: Annotated[
        Baseline | None,
        Field(
            description="What stays on disk until the rollout has ended. Absent: only current and previous stay."
        ),
    ] = None
    rollout: Annotated[RolloutRef | None, Field(description="The rollout that gave the order.")] = (
        None
    )
    soak: Annotated[Soak, Field(description="How the node watches a fresh activation.")] = Soak()


class OnNode(ApiModel):
    """A revision as a node has it."""

    revision: Annotated[Revision, Field(description="The revision.")]
    artifact: Annotated[Digest, Field(description="Digest of the artifact.")]
    model_digest: Annotated[
        Digest,
        Field(description="sha256 of the signed statement's payload: what exactly is served."),
    ]
    serving_name: Annotated[
        ShortName | None, Field(description="Name under which it is served.")
    ] = None
    activated_at: Annotated[Time | None, Field(description="When it began to serve.")] = None
    soaked: Annotated[bool, Field(description="True once the node has committed to it.")] = False
    self_test: Annotated[
        Literal["Golden", "MadeUp", "Loaded"] | None,
        Field(
            description="What the node's self-test showed, always on the CPU: Golden: it answers its golden samples rightly. "
            "MadeUp: sound answers to made-up inputs. Loaded: no more than that, for no made-up input suited it. A variant for "
            "a GPU is run there once by the server, on made-up inputs, before it is loaded. Absent: with the runtime Files, or "
            "nobody remembers."
        ),
    ] = None


class Verification(ApiModel):
    """What the node's trust said about the newest order."""

    decision: Annotated[Literal["Allowed", "Refused"], Field(description="Allowed or Refused.")]
    reason: Annotated[str, Field(description="One word of the closed list.", max_length=64)]
    message: Annotated[Sentence, Field(description="The sentence: which step failed, on what.")] = (
        ""
    )
    signer: Annotated[
        str | None,
        Field(description="Authority and key id, or identity, that signed.", max_length=512),
    ] = None
    model: Annotated[str | None, Field(description="The signed model name.", max_length=512)] = None
    counter: Annotated[
        int | None, Field(description="The signed release counter.", ge=0, le=2**53)
    ] = None
    policy_hash: Annotated[
        str | None,
        Field(description="Hash over the policies and the ceiling that were asked.", max_length=64),
    ] = None
    at: Annotated[Time, Field(description="When it was decided.")]


class NodeModelStatus(ApiModel):
    """What the node has done."""

    observed_generation: Annotated[
        int, Field(description="The generation that was taken up; -1: none yet.", ge=-1, le=2**53)
    ] = -1
    observed_sequence: Annotated[
        int, Field(description="The highest sequence that the node has taken up.", ge=0, le=2**53)
    ] = 0
    state: Annotated[NodeState | None, Field(description="Where the node is with its order.")] = (
        None
    )
    revision: Annotated[
        Revision | None, Field(description="The revision that 'state' speaks of.")
    ] = None
    reason: Annotated[NodeReason | None, Field(description="Why, one word of a closed list.")] = (
        None
    )
    message: Annotated[
        Sentence | None, Field(description="The sentence: facts and what to do.")
    ] = None
    current: Annotated[OnNode | None, Field(description="What it serves. Absent: nothing.")] = None
    previous: Annotated[
        OnNode | None, Field(description="What it served before and still has.")
    ] = None
    on_disk: Annotated[
        tuple[Revision, ...],
        Field(
            description="Revisions that are complete and verified on disk.",
            max_length=32,
            json_schema_extra=ATOMIC,
        ),
    ] = ()
    verification: Annotated[
        Verification | None, Field(description="What the node's trust said about the newest order.")
    ] = None
    progress_bytes: Annotated[
        int | None,
        Field(description="Bytes fetched of the newest order, while Fetching.", ge=0, le=2**53),
    ] = None
    total_bytes: Annotated[
        int | None, Field(description="Bytes to fetch in all, while Fetching.", ge=0, le=2**53)
    ] = None
    progress_seconds: Annotated[
        int | None,
        Field(
            description="Seconds that the fetch has taken since it began or went on, while Fetching.",
            ge=0,
            le=2**53,
        ),
    ] = None
    progress_bytes_per_second: Annotated[
        int | None,
        Field(description="Its rate on average over these seconds.", ge=0, le=2**53),
    ] = None
    conditions: Annotated[
        tuple[Condition, ...],
        Field(
            description="Ready, and Reconciling or Stalled.",
            max_length=8,
            json_schema_extra=map_list("type"),
        ),
    ] = ()
