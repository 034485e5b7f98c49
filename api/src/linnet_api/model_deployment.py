"""ModelDeployment: the wanted model, and for which nodes. People write the spec, the operator the status."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from linnet_api.conditions import Condition
from linnet_api.fields import (
    ATOMIC,
    ApiModel,
    Digest,
    Duration,
    NodeSelector,
    ObjectName,
    Quantity,
    Ref,
    Revision,
    Sentence,
    ShortName,
    Time,
    WaitingFor,
    Word,
    map_list,
    rules,
)

Swap = Literal["Beside", "Replace"]
"""What a change of revision may cost where memory does not hold two."""

Variant = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=63)]


class Serving(ApiModel):
    """How the model is served on each node."""

    name: Annotated[
        ShortName | None,
        Field(
            description="Name under which clients ask for the model; immutable. Absent: metadata.name. The model is always "
            "served as <namespace>.<name> too. Where two deployments want one name on a node, who serves keeps it and the "
            "other reports ServingNameTaken; one that was deleted with removal: Keep serves on, and keeps its name."
        ),
    ] = None
    runtime: Annotated[
        Literal["Linnet", "Files"],
        Field(
            description="Linnet: linnet-server answers the Open Inference Protocol. Files: verified files and an atomic "
            "'current' for a program of your own; nobody counts its requests, so comparisons find no data: name a policy with "
            "'compare: []', and thresholds on what your program measures."
        ),
    ] = "Linnet"
    threads: Annotated[
        int,
        Field(description="Threads of one inference session, 1 to 256. Default 1.", ge=1, le=256),
    ] = 1
    instances: Annotated[
        int, Field(description="Inference sessions side by side, 1 to 64. Default 1.", ge=1, le=64)
    ] = 1


class Resources(ApiModel):
    """What the model needs on a node."""

    memory: Annotated[
        Quantity | None,
        Field(
            description="Memory of one loaded revision beside its runtime, such as 512Mi. The node's self-test ends a revision "
            "that takes more (BudgetExceeded). Absent: a generous multiple of its size, and never what the node has not."
        ),
    ] = None
    latency: Annotated[
        Duration | None,
        Field(
            description="How long one request may take on the node, such as 50ms: the median of the self-test's runs, alone, "
            "on golden or made-up inputs. Absent: any time. A node that measures more refuses the revision (BudgetExceeded). Not "
            "measured of variants that run on a GPU: the self-test has none."
        ),
    ] = None
    disk: Annotated[
        Quantity | None,
        Field(
            description="Disk of one revision, such as 2Gi. Recorded in each order; not checked yet: a node reserves what "
            "the sizes in the manifest say, and reports DiskFull before it fetches."
        ),
    ] = None


class ModelDeploymentSpec(ApiModel):
    """The wanted model, and for which nodes."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.source.startsWith('oci://') || has(self.digest)",
                "digest is required for https and file sources: nothing else says which bytes are meant",
            ),
            (
                "(has(self.serving) && has(self.serving.name)) == (has(oldSelf.serving) && has(oldSelf.serving.name)) "
                "&& (!has(self.serving) || !has(self.serving.name) || self.serving.name == oldSelf.serving.name)",
                "serving.name is immutable: clients ask for it; make a second ModelDeployment and move them over",
            ),
        )
    )

    source: Annotated[
        str,
        Field(
            description="Where the model lies: oci://registry/path:tag, oci://registry/path@sha256:..., a directory "
            "https://host/path of a web server, or file:///path on each node, such as a USB stick's, below what its agent "
            "allows (--file-roots); a stick that is not in is waited for. A tag is resolved once, when the revision is cut; a "
            "tag that moves later changes nothing. What lies on a web server or in a directory must stay there under its "
            "path while a rollout may need it: use a new path for each version.",
            pattern=r"^(oci|https|file)://[^\s]+$",
            min_length=8,
            max_length=512,
        ),
    ]
    digest: Annotated[
        Digest | None,
        Field(
            description="Digest of the artifact, sha256:<64 hex>. Required for https and file; pins the tag of an oci source."
        ),
    ] = None
    nodes: Annotated[
        NodeSelector,
        Field(description="Which Nodes shall have the model; a label selector, not empty."),
    ]
    policy_ref: Annotated[
        Ref | None,
        Field(
            description="RolloutPolicy in the same namespace. Absent: the built-in policy (one node, 10 %, 50 %, 100 %; errors "
            "compared with each node's own history; roll back)."
        ),
    ] = None
    serving: Annotated[Serving, Field(description="How the model is served on each node.")] = (
        Serving()
    )
    resources: Annotated[Resources, Field(description="What the model needs on a node.")] = (
        Resources()
    )
    variants: Annotated[
        tuple[Variant, ...],
        Field(
            description="Variants in order of preference, such as onnx-int8, onnx. Each node takes the first that the artifact "
            "has and the node can run: an OCI index names its variants by the annotation linnet.dev/variant and by platform; an "
            "artifact that is no index is one variant, onnx where its annotation does not say. A node that can run none of "
            "them says WrongVariant, serves on what it has and counts as incompatible, as a node without the runtime does: "
            "publish a variant for it, or let spec.nodes leave it out. Empty: any variant, in the index's order. Another list "
            "makes another revision.",
            max_length=16,
            json_schema_extra=ATOMIC,
        ),
    ] = ()
    swap: Annotated[
        Swap,
        Field(
            description="What a node may do whose memory does not hold two revisions. Beside (default): the new one is always "
            "loaded beside the old, and where both do not fit it is refused (NoMemory) and the old one serves on: never an "
            "outage. Replace: where both do not fit, and only there, the old one is taken out first, and clients get 503 with "
            "Retry-After until the new one is loaded, or the old one is back; no more nodes than budget.maxUnavailable are sent "
            "on at a time, but all go back at once. Of no effect with the runtime Files. No part of the revision: it counts "
            "from the next order on."
        ),
    ] = "Beside"
    paused: Annotated[
        bool,
        Field(
            description="Git's brake: true stops every new move; what is active stays. It beats the CLI's resume. A rollback "
            "goes on all the same. Default false."
        ),
    ] = False
    removal: Annotated[
        Literal["Keep", "Unload"],
        Field(
            description="What a deletion of this object means for nodes. Keep (default): they serve on, under its name, until it is "
            "made anew and deleted with Unload. Unload: all that have an "
            "order are told to unload, paused or not, and the deletion waits (finalizer linnet.dev/unload) until each has "
            "reported Absent. A node not seen for the policy's offline.deferAfter is named and not waited for: its NodeModel "
            "stays, and it unloads at first contact. Without a running operator the deletion waits. Changing it to Keep lets "
            "go at once. Deleting the whole namespace takes the orders away too: who has not heard by then serves on."
        ),
    ] = "Keep"
    revision_history_limit: Annotated[
        int,
        Field(
            description="How many old ControllerRevisions are kept, 1 to 100, default 10. One that a NodeModel names is never "
            "deleted.",
            ge=1,
            le=100,
        ),
    ] = 10


class RevisionStatus(ApiModel):
    """A revision and what it names."""

    revision: Annotated[
        Revision, Field(description="Hash of the revision's content; also the metric label.")
    ]
    number: Annotated[
        int, Field(description="Running number for people, from 1.", ge=1, le=2**31 - 1)
    ]
    digest: Annotated[Digest, Field(description="Digest of the artifact (OCI manifest or index).")]


class Condemned(ApiModel):
    """A digest that was taken back, and is not tried again by itself."""

    digest: Annotated[Digest, Field(description="Digest of the artifact that was judged bad.")]
    rollout: Annotated[ObjectName, Field(description="The ModelRollout that judged it.")]
    reason: Annotated[Sentence, Field(description="Why, in a sentence.")]
    at: Annotated[Time, Field(description="When it was condemned.")]
    earlier: Annotated[
        Time | None,
        Field(
            description="When it had been condemned before, where somebody had it tried again. Absent: never."
        ),
    ] = None


class NodeCounts(ApiModel):
    """How many nodes are where; every number is a count of nodes."""

    matched: Annotated[int, Field(description="Nodes that match the selector.", ge=0, le=10**6)] = 0
    eligible: Annotated[
        int,
        Field(
            description="Matched nodes with a ModelHost that are neither deferred nor incompatible.",
            ge=0,
            le=10**6,
        ),
    ] = 0
    on_candidate: Annotated[
        int, Field(description="Nodes that are active on the newest revision.", ge=0, le=10**6)
    ] = 0
    deferred: Annotated[
        int,
        Field(
            description="Nodes not seen for a while; they catch up by themselves.", ge=0, le=10**6
        ),
    ] = 0
    silent: Annotated[
        int, Field(description="Nodes that took the candidate and were lost since.", ge=0, le=10**6)
    ] = 0
    refused: Annotated[
        int, Field(description="Nodes whose trust refused the newest revision.", ge=0, le=10**6)
    ] = 0
    incompatible: Annotated[
        int, Field(description="Nodes that cannot run any variant.", ge=0, le=10**6)
    ] = 0


class ModelDeploymentStatus(ApiModel):
    """Where the deployment is."""

    observed_generation: Annotated[
        int,
        Field(
            description="The generation that this status speaks of; -1: nobody has looked yet.",
            ge=-1,
            le=2**53,
        ),
    ] = -1
    conditions: Annotated[
        tuple[Condition, ...],
        Field(
            description="Ready is always present; Reconciling or Stalled beside it; Paused where a person is waited for.",
            max_length=8,
            json_schema_extra=map_list("type"),
        ),
    ] = ()
    stable: Annotated[
        RevisionStatus | None,
        Field(description="The revision that the fleet goes back to. Absent: none yet."),
    ] = None
    candidate: Annotated[
        RevisionStatus | None,
        Field(description="The revision that is being rolled out. Absent: none."),
    ] = None
    rollout: Annotated[
        ObjectName | None,
        Field(description="The newest ModelRollout, running or ended. Absent: none yet."),
    ] = None
    condemned: Annotated[
        tuple[Condemned, ...],
        Field(
            description="Digests that were taken back. They are not tried again until the spec names another or a person "
            "says retry.",
            max_length=64,
            json_schema_extra=map_list("digest"),
        ),
    ] = ()
    nodes: Annotated[NodeCounts, Field(description="How many nodes are where.")] = NodeCounts()
    nodes_short: Annotated[
        str | None,
        Field(
            description="Nodes on the newest revision of those eligible, such as 12/40.",
            max_length=24,
        ),
    ] = None
    step_short: Annotated[
        str | None,
        Field(description="Step of steps, such as 2/4. Absent: no rollout runs.", max_length=24),
    ] = None
    waiting_for: Annotated[
        WaitingFor | None, Field(description="What it waits for. Absent: for nothing.")
    ] = None
    reason: Annotated[Word | None, Field(description="The reason of Ready, for short.")] = None
