"""How many nodes a step may put on the candidate (rules 4 and 10).

- Percent is ceil over eligible nodes; a count is never more than there are; 0 holds.
- No step asks for fewer nodes than the one before; steps of equal quota merge, and bake as long as
  the longest.
- While there is a control group, no step takes its nodes: they move last, in Finishing.
"""

from collections.abc import Sequence
from datetime import timedelta

from linnet_api.durations import parse_duration, share_of
from linnet_api.rollout_policy import RolloutPolicySpec, Step

CONTROL_FROM_NODES = 3
FULL_CONTROL_FROM_NODES = 10


def control_count(policy: RolloutPolicySpec, *, eligible_count: int, first_rollout: bool) -> int:
    """Return how many nodes stay on the old revision until the last bake has passed."""
    share = share_of(policy.control, whole_count=eligible_count)
    if first_rollout or share == 0 or eligible_count < CONTROL_FROM_NODES:
        return 0
    if eligible_count < FULL_CONTROL_FROM_NODES:
        return 1
    return min(max(2, share), eligible_count - 1)


def quota(policy: RolloutPolicySpec, step: int, *, eligible_count: int, first_rollout: bool) -> int:
    """Return how many nodes may hold the candidate during ``step``.

    Args:
        policy: The rollout's policy.
        step: From 1; 0 is before the first.
        eligible_count: Nodes that count.
        first_rollout: True where there is no stable revision, so no control group either.

    Returns:
        A count of nodes, 0 to ``eligible_count``.
    """
    control = control_count(policy, eligible_count=eligible_count, first_rollout=first_rollout)
    own = (share_of(s.nodes, whole_count=eligible_count) for s in policy.steps[:step])
    return min(max(own, default=0), eligible_count - control)


def merged(
    policy: RolloutPolicySpec, step: int, *, eligible_count: int, first_rollout: bool
) -> Sequence[Step]:
    """Return ``step`` and the steps after it that have the same quota: they are one."""
    assert 1 <= step <= len(policy.steps), step
    own = quota(policy, step, eligible_count=eligible_count, first_rollout=first_rollout)
    last = step
    while last < len(policy.steps) and own == quota(
        policy, last + 1, eligible_count=eligible_count, first_rollout=first_rollout
    ):
        last += 1
    return policy.steps[step - 1 : last]


def longest_bake(steps: Sequence[Step]) -> timedelta:
    """Return the longest bake of the merged ``steps``."""
    return max((parse_duration(step.bake) for step in steps), default=timedelta())
