"""Events: one for each decision, for `kubectl describe` and `kubectl get events`.

Rules:
- The name is a function of the decision: a restarted operator does not say it twice.
- An event is a courtesy: that it cannot be written stops nothing.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from linnet_api.conditions import READY, STALLED, find
from linnet_api.model_deployment import ModelDeploymentStatus
from linnet_api.model_rollout import ModelRolloutStatus
from linnet_api.names import GROUP
from linnet_api.reasons import RolloutPhase
from linnet_operator.kube import MODEL_DEPLOYMENTS, MODEL_ROLLOUTS, Body, Resource

_LONGEST_NOTE: Final = 1024
_BAD_ENDS: Final = frozenset(
    {RolloutPhase.ROLLED_BACK, RolloutPhase.REFUSED, RolloutPhase.ABORTED, RolloutPhase.ABANDONED}
)


@dataclass(frozen=True, slots=True)
class About:
    """The object that an event is about."""

    resource: Resource
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Decided:
    """Something that was decided, worth an event.

    Attributes:
        about: The object.
        key: What tells it from other events about this object.
        reason: One word.
        note: The sentence.
        kind: Normal, or Warning where a person may want to look.
    """

    about: About
    key: str
    reason: str
    note: str
    kind: Literal["Normal", "Warning"] = "Normal"


def rollout_decisions(
    about: About, before: ModelRolloutStatus, after: ModelRolloutStatus
) -> list[Decided]:
    """Return what a new status of a ModelRollout has decided beyond the one before."""
    known = {decision.n for decision in before.decisions}
    found = [
        Decided(
            about=about,
            key=f"decision-{decision.n}",
            reason=decision.action,
            note=decision.message,
            kind="Warning" if decision.action in {"Rollback", "Ask"} else "Normal",
        )
        for decision in after.decisions
        if decision.n not in known
    ]
    if after.phase is not None and after.phase.ended and before.phase != after.phase:
        bad = after.phase in _BAD_ENDS
        note = after.message or f"The rollout has ended: {after.phase}."
        found.append(
            Decided(
                about=about,
                key="ended",
                reason=after.phase,
                note=note,
                kind="Warning" if bad else "Normal",
            )
        )
    return found


def deployment_decisions(
    about: About, before: ModelDeploymentStatus, after: ModelDeploymentStatus
) -> list[Decided]:
    """Return an event where a ModelDeployment has come to a stop that needs a person."""
    ready = find(after.conditions, READY)
    if ready is None or find(after.conditions, STALLED) is None:
        return []
    old = find(before.conditions, READY)
    if (
        find(before.conditions, STALLED) is not None
        and old is not None
        and old.reason == ready.reason
    ):
        return []
    return [
        Decided(
            about=about,
            key=f"stalled-{after.observed_generation}-{ready.reason}-{after.rollout or ''}",
            reason=ready.reason,
            note=ready.message,
            kind="Warning",
        )
    ]


def event_body(decided: Decided, *, now: datetime, reporter: str) -> Body:
    """Return the events.k8s.io/v1 Event for ``decided``."""
    about = decided.about
    unique = hashlib.sha256(f"{about.uid}\0{decided.key}".encode()).hexdigest()[:16]
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{about.name[:200]}.{unique}", "namespace": about.namespace},
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": f"{GROUP}/operator",
        "reportingInstance": reporter[:128],
        "action": "Decide",
        "reason": decided.reason,
        "type": decided.kind,
        "note": decided.note[:_LONGEST_NOTE],
        "regarding": {
            "apiVersion": about.resource.api_version,
            "kind": about.resource.kind,
            "namespace": about.namespace,
            "name": about.name,
            "uid": about.uid,
        },
    }


def about_rollout(*, namespace: str, name: str, uid: str) -> About:
    """Return the ModelRollout as the object of events."""
    return About(resource=MODEL_ROLLOUTS, namespace=namespace, name=name, uid=uid)


def about_deployment(*, namespace: str, name: str, uid: str) -> About:
    """Return the ModelDeployment as the object of events."""
    return About(resource=MODEL_DEPLOYMENTS, namespace=namespace, name=name, uid=uid)


Poster = Callable[[Decided], None]
