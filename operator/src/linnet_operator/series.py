"""The series of one deployment in the operator's own metrics: where they begin, and that they end.

Rules:
- What is counted is there, at zero, before it is counted: what a series begins with is lost to
  ``increase()``.
- A deployment that is gone leaves no series behind: neither an alarm that nobody can end, nor a
  series for every name that there ever was.
"""

from typing import Final

from linnet_api.reasons import RolloutPhase
from linnet_operator.metrics import (
    PLACEBO,
    PLACEBO_ALARM,
    PLACEBO_ALLOWED,
    ROLLOUT_NODES,
    ROLLOUT_STEP,
    ROLLOUT_WAITING,
    ROLLOUTS_ENDED,
)
from linnet_operator.planner.model import Plan

_ALL: Final = (
    PLACEBO,
    PLACEBO_ALARM,
    PLACEBO_ALLOWED,
    ROLLOUT_NODES,
    ROLLOUT_STEP,
    ROLLOUT_WAITING,
    ROLLOUTS_ENDED,
)


class DeploymentSeries:
    """What the metrics say of one deployment."""

    def __init__(self, namespace: str, deployment: str) -> None:
        """Let its counters begin at zero."""
        self._of = (namespace, deployment)
        self._waits_for = ""
        self._shows_step = False
        for outcome in ("Judged", "TakenBack"):
            PLACEBO.labels(*self._of, outcome)
        PLACEBO_ALLOWED.labels(*self._of)
        for phase in RolloutPhase:
            if phase.ended:
                ROLLOUTS_ENDED.labels(*self._of, phase)

    def show(self, made: Plan) -> None:
        """Show where the nodes are, at which step a rollout is, and what is waited for."""
        counts = made.deployment_status.nodes
        ROLLOUT_NODES.labels(*self._of, "eligible").set(counts.eligible)
        ROLLOUT_NODES.labels(*self._of, "onCandidate").set(counts.on_candidate)
        ROLLOUT_NODES.labels(*self._of, "deferred").set(counts.deferred)
        ROLLOUT_NODES.labels(*self._of, "silent").set(counts.silent)
        ROLLOUT_NODES.labels(*self._of, "refused").set(counts.refused)
        rollout = made.rollout_status
        if rollout is not None and (rollout.phase is None or not rollout.phase.ended):
            ROLLOUT_STEP.labels(*self._of).set(rollout.step)
            self._shows_step = True
        elif self._shows_step:
            ROLLOUT_STEP.remove(*self._of)
            self._shows_step = False
        waiting = made.deployment_status.waiting_for
        self._show_waiting(waiting.reason if waiting is not None else "")

    def forget(self) -> None:
        """Take them all away: the deployment is gone."""
        for metric in _ALL:
            samples = [sample for family in metric.collect() for sample in family.samples]
            for labels in {tuple(sample.labels.values()) for sample in samples}:
                if labels[:2] == self._of:
                    metric.remove(*labels)

    def _show_waiting(self, reason: str) -> None:
        if reason == self._waits_for:
            return
        if self._waits_for:
            ROLLOUT_WAITING.remove(*self._of, self._waits_for)
        if reason:
            ROLLOUT_WAITING.labels(*self._of, reason).set(1)
        self._waits_for = reason
