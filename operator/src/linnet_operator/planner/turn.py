"""The facts of one turn of a running rollout, worked out once and asked by everything after it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from linnet_api.durations import parse_duration
from linnet_api.model_rollout import ModelRolloutStatus, RevisionRef, StepStatus
from linnet_api.reasons import RolloutPhase, WaitReason
from linnet_api.rollout_policy import RolloutPolicySpec, Threshold
from linnet_operator.planner import acts, quotas
from linnet_operator.planner.budget import Room, room
from linnet_operator.planner.fleet import Fleet
from linnet_operator.planner.model import (
    DeploymentView,
    Evidence,
    NodeView,
    RevisionView,
    RolloutView,
)
from linnet_operator.planner.orders import wave
from linnet_operator.planner.wanted import Wanted
from linnet_operator.templates import asked

NO_BAKE_DECIDES_WITHIN = timedelta(hours=1)
BAKES_TO_DECIDE = 6


@dataclass(frozen=True, slots=True)
class Held:
    """Why nobody is sent on."""

    reason: WaitReason
    message: str


@dataclass(frozen=True, slots=True)
class Turn:
    """What is known at ``now`` about one running rollout."""

    now: datetime
    deployment: DeploymentView
    rollout: RolloutView
    revisions: Sequence[RevisionView]
    wanted: Wanted
    fleet: Fleet
    by_lot: tuple[NodeView, ...]
    evidence: Evidence | None
    policy_edited: bool = False
    """True where the policy in force is another than the one that the rollout began with."""
    waves: dict[tuple[RolloutPhase | None, int], tuple[NodeView, ...]] = field(
        default_factory=dict[tuple[RolloutPhase | None, int], tuple[NodeView, ...]], compare=False
    )
    """What `asked` has worked out: it is asked for many times in a turn."""

    @property
    def policy(self) -> RolloutPolicySpec:
        """The policy as it was at the start."""
        return self.rollout.spec.policy

    @property
    def candidate(self) -> RevisionRef:
        """What the rollout brings."""
        return self.rollout.spec.to

    @property
    def stable(self) -> RevisionRef | None:
        """What it started from; None in a first rollout."""
        return self.rollout.spec.from_

    @property
    def eligible_count(self) -> int:
        """Nodes that count."""
        return len(self.fleet.eligible)

    @property
    def control_count(self) -> int:
        """Nodes that move last."""
        return quotas.control_count(
            self.policy, eligible_count=self.eligible_count, first_rollout=self.stable is None
        )

    @property
    def room(self) -> Room:
        """What the budget leaves at this moment."""
        return room(
            self.policy.budget,
            self.fleet,
            now=self.now,
            had_model=self.stable is not None,
            swap=self.deployment.spec.swap,
        )

    def quota(self, step: int) -> int:
        """Return how many nodes may hold the candidate during ``step``."""
        return quotas.quota(
            self.policy,
            step,
            eligible_count=self.eligible_count,
            first_rollout=self.stable is None,
        )

    def merged_to(self, step: int) -> int:
        """Return the last of the steps that are one with ``step``; 0 before the first."""
        if step == 0:
            return 0
        together = quotas.merged(
            self.policy,
            step,
            eligible_count=self.eligible_count,
            first_rollout=self.stable is None,
        )
        return step + len(together) - 1

    def bake(self, step: int) -> timedelta:
        """Return the bake of ``step`` and of those that are one with it."""
        if step == 0:
            return timedelta()
        return quotas.longest_bake(self.policy.steps[step - 1 : self.merged_to(step)])

    def decide_within(self, step: int) -> timedelta:
        """Return how long the evidence may leave ``step`` undecided."""
        if self.policy.judge.decide_within is not None:
            return parse_duration(self.policy.judge.decide_within)
        return BAKES_TO_DECIDE * self.bake(step) or NO_BAKE_DECIDES_WITHIN

    def asked(self, status: ModelRolloutStatus) -> tuple[NodeView, ...]:
        """Return the nodes that shall have the candidate in the recorded phase and step."""
        key = (status.phase, status.step)
        known = self.waves.get(key)
        if known is None:
            known = self.waves[key] = self._asked(status)
        return known

    def _asked(self, status: ModelRolloutStatus) -> tuple[NodeView, ...]:
        match status.phase:
            case RolloutPhase.FINISHING:
                quota_nodes = self.eligible_count
            case RolloutPhase.STEPPING | RolloutPhase.BAKING | RolloutPhase.WAITING:
                quota_nodes = self.quota(status.step)
            case _:
                quota_nodes = 0
        return wave(self.by_lot, candidate=self.candidate.revision, quota_nodes=quota_nodes)

    @property
    def compares(self) -> bool:
        """True where there is a past to compare with."""
        return bool(self.policy.judge.compare) and self.stable is not None

    @property
    def limits(self) -> tuple[Threshold, ...]:
        """The thresholds that are asked: in a first rollout, those that name no baseline."""
        return asked(self.policy.judge.thresholds, first_rollout=self.stable is None)

    @property
    def measures(self) -> bool:
        """True where metrics judge this rollout, or would in a dry run."""
        return self.compares or bool(self.limits)

    def look_at(self, step: int) -> Evidence | None:
        """Return the newest look of this rollout at ``step``; None where there is none."""
        evidence = self.evidence
        if evidence is None or evidence.rollout_uid != self.rollout.uid or evidence.step != step:
            return None
        begun = step_status(self.rollout.status, step).started_at if step else None
        return None if begun is not None and evidence.at < begun else evidence

    @property
    def held(self) -> Held | None:
        """Why nobody may be sent on; None where nothing holds."""
        if self.deployment.spec.paused:
            note = "; its owner is Git: resume by the CLI does not lift it"
            return Held(WaitReason.PAUSED, f"spec.paused is true{note}")
        act = acts.pause(self.rollout)
        if act is not None:
            return Held(WaitReason.PAUSED, f"paused {acts.said(act)}; go on with: linnet resume")
        if self.wanted.revision is None:
            failure = self.wanted.failure
            said = failure.message if failure is not None else "asked the registry"
            return Held(
                WaitReason.SOURCE, f"the spec names {self.deployment.spec.source} now: {said}"
            )
        return None


def step_status(status: ModelRolloutStatus, step: int) -> StepStatus:
    """Return what is recorded of ``step``; an empty record where it has not begun."""
    return status.steps[step - 1] if 0 < step <= len(status.steps) else StepStatus()
