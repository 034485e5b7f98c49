"""Conditions: one status grammar for all six kinds.

- Ready is always present; Reconciling or Stalled beside it, never both: kstatus, Flux, Argo CD
  and Helm 4 read them.
- Ready=False with Stalled=True means that nothing moves until a person does something.
- ``lastTransitionTime`` moves only when the status does.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from linnet_api.fields import ApiModel, Sentence, Time

READY = "Ready"
RECONCILING = "Reconciling"
STALLED = "Stalled"
PAUSED = "Paused"

ConditionStatus = Literal["True", "False", "Unknown"]


class Condition(ApiModel):
    """A metav1.Condition."""

    type: Annotated[
        str,
        Field(
            description="What the condition is about: Ready, Reconciling, Stalled or Paused.",
            max_length=64,
            pattern=r"^[A-Z][A-Za-z]*$",
        ),
    ]
    status: Annotated[ConditionStatus, Field(description="True, False or Unknown.")]
    reason: Annotated[
        str,
        Field(
            description="Why, one word of a closed list; match on this.",
            max_length=64,
            pattern=r"^[A-Za-z]+$",
        ),
    ]
    message: Annotated[
        Sentence, Field(description="The sentence for people: facts and what to do.")
    ] = ""
    last_transition_time: Annotated[Time, Field(description="When the status last changed.")]
    observed_generation: Annotated[
        int,
        Field(
            description="The metadata.generation that this condition speaks of.", ge=-1, le=2**53
        ),
    ] = -1


def settled(*, reason: str, message: str, generation: int) -> tuple[Condition, ...]:
    """Return the conditions of an object that is as it should be: Ready, nothing else."""
    return (_condition(READY, "True", reason, message, generation),)


def reconciling(*, reason: str, message: str, generation: int) -> tuple[Condition, ...]:
    """Return the conditions of an object that is on its way: Ready=Unknown, Reconciling."""
    return (
        _condition(READY, "Unknown", reason, message, generation),
        _condition(RECONCILING, "True", reason, message, generation),
    )


def stalled(*, reason: str, message: str, generation: int) -> tuple[Condition, ...]:
    """Return the conditions of an object that needs a person: Ready=False, Stalled."""
    return (
        _condition(READY, "False", reason, message, generation),
        _condition(STALLED, "True", reason, message, generation),
    )


def paused(*, reason: str, message: str, generation: int) -> Condition:
    """Return the extra condition of an object that waits for a person's word."""
    return _condition(PAUSED, "True", reason, message, generation)


def stamp(
    wanted: Iterable[Condition], *, before: Iterable[Condition], now: datetime
) -> tuple[Condition, ...]:
    """Return ``wanted`` with transition times: ``now`` only where the status has changed."""
    old = {c.type: c for c in before}
    return tuple(
        c.model_copy(
            update={
                "last_transition_time": old[c.type].last_transition_time
                if c.type in old and old[c.type].status == c.status
                else now
            }
        )
        for c in wanted
    )


def find(conditions: Iterable[Condition], kind: str) -> Condition | None:
    """Return the condition of that type, or None where there is none."""
    return next((c for c in conditions if c.type == kind), None)


_NEVER = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def _condition(
    kind: str, status: ConditionStatus, reason: str, message: str, generation: int
) -> Condition:
    return Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message[:2048],
        last_transition_time=_NEVER,
        observed_generation=generation,
    )
