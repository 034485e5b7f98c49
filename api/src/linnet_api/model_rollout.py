"""ModelRollout: one attempt to go from one revision to another; the audit record.

- The spec is immutable but for acts, which people add and nobody takes away.
"""

from typing import Annotated

from pydantic import ConfigDict, Field

from linnet_api.conditions import Condition
from linnet_api.fields import (
    ATOMIC,
    ApiModel,
    Digest,
    MicroTime,
    ObjectName,
    Revision,
    Sentence,
    Time,
    Uid,
    WaitingFor,
    Word,
    map_list,
    rules,
)
from linnet_api.reasons import ActVerb, RolloutPhase, Verdict
from linnet_api.rollout_policy import RolloutPolicySpec


class DeploymentRef(ApiModel):
    """The ModelDeployment that a rollout belongs to."""

    name: Annotated[
        ObjectName, Field(description="Name of the ModelDeployment, in the same namespace.")
    ]
    uid: Annotated[Uid, Field(description="Its uid: a re-created one is another.")]


class RevisionRef(ApiModel):
    """A revision and its artifact."""

    revision: Annotated[Revision, Field(description="Hash of the revision's content.")]
    digest: Annotated[Digest, Field(description="Digest of the artifact.")]
    number: Annotated[
        int, Field(description="Running number for people, from 1.", ge=1, le=2**31 - 1)
    ] = 1


class Act(ApiModel):
    """What a person decided about this rollout."""

    id: Annotated[
        str,
        Field(
            description="Unique in the list; the CLI makes one.",
            min_length=1,
            max_length=40,
            pattern=r"^[a-z0-9-]+$",
        ),
    ]
    verb: Annotated[ActVerb, Field(description="Approve, Pause, Resume, Abort, Promote or Retry.")]
    step: Annotated[
        int | None,
        Field(description="The step that is meant, from 1. Absent: the one it is at.", ge=1, le=20),
    ] = None
    by: Annotated[
        str,
        Field(description="Who; must be the name of the requester.", min_length=1, max_length=256),
    ]
    reason: Annotated[str, Field(description="Why, for the record.", max_length=1024)] = ""


class ModelRolloutSpec(ApiModel):
    """From which revision to which, by which policy."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.deployment == oldSelf.deployment && self.to == oldSelf.to && self.policy == oldSelf.policy "
                "&& has(self.from) == has(oldSelf.from) && (!has(self.from) || self.from == oldSelf.from)",
                "a ModelRollout is a record: its spec is immutable but for acts",
            ),
            (
                "!has(oldSelf.acts) || (has(self.acts) && oldSelf.acts.all(o, self.acts.exists(a, a.id == o.id && a == o)))",
                "acts are append-only: what a person decided stays in the record",
            ),
        )
    )

    deployment: Annotated[
        DeploymentRef, Field(description="The ModelDeployment that it belongs to.")
    ]
    from_: Annotated[
        RevisionRef | None,
        Field(
            alias="from",
            description="The stable revision that it starts from. Absent in the first rollout.",
        ),
    ] = None
    to: Annotated[RevisionRef, Field(description="The candidate.")]
    policy: Annotated[
        RolloutPolicySpec,
        Field(
            description="The policy as it was at the start; an edit counts from the next rollout on."
        ),
    ]
    acts: Annotated[
        tuple[Act, ...],
        Field(
            description="What people decided, append-only, at most 64.",
            max_length=64,
            json_schema_extra=map_list("id"),
        ),
    ] = ()


class StepStatus(ApiModel):
    """What became of one step."""

    nodes: Annotated[
        int, Field(description="Nodes that hold the candidate now.", ge=0, le=10**6)
    ] = 0
    quota: Annotated[
        int, Field(description="Nodes that may hold it in this step.", ge=0, le=10**6)
    ] = 0
    control: Annotated[int, Field(description="Nodes held back as control.", ge=0, le=10**6)] = 0
    started_at: Annotated[MicroTime | None, Field(description="When the step began.")] = None
    baked_seconds: Annotated[
        int, Field(description="Connected, serving seconds of bake that are done.", ge=0, le=10**9)
    ] = 0
    baking_since: Annotated[
        MicroTime | None,
        Field(
            description="Since when the bake clock runs on top of bakedSeconds. Absent: it stands still."
        ),
    ] = None
    verdict: Annotated[Verdict, Field(description="The newest verdict.")] = Verdict.NOT_MEASURED
    message: Annotated[
        Sentence, Field(description="The newest look in a sentence, with numbers.")
    ] = ""


class EvidenceRef(ApiModel):
    """The ConfigMap that holds the evidence of a decision."""

    name: Annotated[ObjectName, Field(description="Name of the ConfigMap.")]
    sha256: Annotated[
        str,
        Field(
            description="Hex sha256 of the uncompressed evidence.",
            pattern=r"^[0-9a-f]{64}$",
            max_length=64,
        ),
    ]


class Decision(ApiModel):
    """One look that decided something."""

    n: Annotated[int, Field(description="Running number from 1.", ge=1, le=10_000)]
    at: Annotated[MicroTime, Field(description="The time that the look was made for.")]
    step: Annotated[int, Field(description="The step, from 1.", ge=0, le=20)]
    verdict: Annotated[Verdict, Field(description="What the look said.")]
    action: Annotated[
        Word,
        Field(
            description="What followed: Advance, Promote (a person said so), Rollback, Hold, Ask."
        ),
    ]
    message: Annotated[Sentence, Field(description="Why, with numbers.")]
    evidence: Annotated[
        EvidenceRef | None,
        Field(description="Where the evidence lies. Absent: no metrics were judged."),
    ] = None


class AppliedAct(ApiModel):
    """An act as the operator saw it."""

    id: Annotated[str, Field(description="The id of the act.", max_length=40)]
    seen_at: Annotated[MicroTime, Field(description="When the operator saw it.")]


class ModelRolloutStatus(ApiModel):
    """Where the rollout is, and how it came there."""

    observed_generation: Annotated[
        int,
        Field(
            description="The generation that this status speaks of; -1: nobody has looked yet.",
            ge=-1,
            le=2**53,
        ),
    ] = -1
    phase: Annotated[
        RolloutPhase | None, Field(description="Where it is. Absent: not looked at yet.")
    ] = None
    step: Annotated[
        int, Field(description="The step it is at, from 1; 0 before the first.", ge=0, le=20)
    ] = 0
    steps: Annotated[
        tuple[StepStatus, ...],
        Field(
            description="One entry for each step that has begun.",
            max_length=20,
            json_schema_extra=ATOMIC,
        ),
    ] = ()
    step_short: Annotated[
        str | None, Field(description="Step of steps, such as 2/4.", max_length=24)
    ] = None
    verdict: Annotated[Verdict, Field(description="The newest verdict.")] = Verdict.NOT_MEASURED
    decisions: Annotated[
        tuple[Decision, ...],
        Field(
            description="Every look that decided something.",
            max_length=100,
            json_schema_extra=map_list("n"),
        ),
    ] = ()
    acts: Annotated[
        tuple[AppliedAct, ...],
        Field(
            description="The acts that were taken up.",
            max_length=64,
            json_schema_extra=map_list("id"),
        ),
    ] = ()
    started_at: Annotated[MicroTime | None, Field(description="When it began.")] = None
    moved_at: Annotated[
        MicroTime | None,
        Field(description="When it last moved; progressDeadline counts from here."),
    ] = None
    ended_at: Annotated[Time | None, Field(description="When it ended. Absent: it has not.")] = None
    waited_s: Annotated[
        int, Field(description="Seconds spent waiting for a person.", ge=0, le=10**9)
    ] = 0
    evidence: Annotated[
        EvidenceRef | None, Field(description="The frozen history that the comparisons rest on.")
    ] = None
    conditions: Annotated[
        tuple[Condition, ...],
        Field(
            description="Ready, and Reconciling or Stalled.",
            max_length=8,
            json_schema_extra=map_list("type"),
        ),
    ] = ()
    waiting_for: Annotated[
        WaitingFor | None, Field(description="What it waits for. Absent: for nothing.")
    ] = None
    reason: Annotated[Word | None, Field(description="Why it ended or waits, one word.")] = None
    message: Annotated[Sentence | None, Field(description="The whole story in a sentence.")] = None
