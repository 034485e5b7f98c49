"""What people decided about a rollout: acts, in the order in which they stand in its spec.

- An act takes effect in the write that records it as seen, so it takes effect once.
- The last of Pause, Resume and Promote counts; ``spec.paused`` of the deployment beats them all.
- An act that names another step than the one it is at has come too late, and changes nothing.
"""

from collections.abc import Collection

from linnet_api.model_rollout import Act
from linnet_api.reasons import ActVerb
from linnet_operator.planner.model import RolloutView


def unseen(rollout: RolloutView) -> tuple[Act, ...]:
    """Return the acts that were not taken up yet."""
    seen = {applied.id for applied in rollout.status.acts}
    return tuple(act for act in rollout.spec.acts if act.id not in seen)


def fresh(rollout: RolloutView, verb: ActVerb, *, step: int | None = None) -> Act | None:
    """Return the first new act of that verb; with ``step``, only one that means that step."""
    for act in unseen(rollout):
        if act.verb is verb and (step is None or act.step in (None, step)):
            return act
    return None


def pause(rollout: RolloutView) -> Act | None:
    """Return the act that holds the rollout, or None where none does."""
    last = None
    for act in rollout.spec.acts:
        if act.verb in (ActVerb.PAUSE, ActVerb.RESUME, ActVerb.PROMOTE):
            last = act
    return last if last is not None and last.verb is ActVerb.PAUSE else None


def approval(rollout: RolloutView, *, steps: Collection[int]) -> Act | None:
    """Return the act that lets one of ``steps`` begin, or None where none does."""
    new = {act.id for act in unseen(rollout)}
    for act in rollout.spec.acts:
        if act.verb is ActVerb.APPROVE and (
            act.step in steps or (act.step is None and act.id in new)
        ):
            return act
    return None


def said(act: Act) -> str:
    """Return who decided it and why, for a sentence."""
    return f"by {act.by}: {act.reason}" if act.reason else f"by {act.by}"
