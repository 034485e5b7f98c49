"""The bake clock of a step: connected, serving time.

- It runs while at least nine of ten nodes of the step are connected and serve the candidate.
- It is a pair of recorded facts (seconds done, running since), so it survives the operator and
  needs no ticks.
- Seconds are rounded down: uncertainty makes it slower, never faster.
"""

from datetime import datetime, timedelta

from linnet_api.model_rollout import StepStatus

MISSING_ONE_OF = 10
"""The clock stands still where more than one of so many nodes is missing."""


def may_run(*, node_count: int, missing_count: int) -> bool:
    """Return True where enough of the step's nodes serve."""
    return node_count > 0 and missing_count * MISSING_ONE_OF <= node_count


def served(step: StepStatus, now: datetime) -> timedelta:
    """Return how long the step has baked; a clock that went backwards adds nothing."""
    done = timedelta(seconds=step.baked_seconds)
    if step.baking_since is None:
        return done
    return done + max(timedelta(), now - step.baking_since)


def set_running(step: StepStatus, *, running: bool, now: datetime) -> StepStatus:
    """Return the step with its clock started or stopped; itself where nothing changes."""
    if running == (step.baking_since is not None):
        return step
    if running:
        return step.model_copy(update={"baking_since": now})
    return step.model_copy(
        update={"baked_seconds": int(served(step, now).total_seconds()), "baking_since": None}
    )
