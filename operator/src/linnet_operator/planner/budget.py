"""How many nodes may be sent on at once.

- maxUnavailable counts connected nodes whose model is out of service, and silent ones; it is at
  least one node.
- maxDownloads counts connected nodes that have an order and have not settled.
- A node that is out of service already may always be sent on: it can only become better.
- Taking back costs nothing: the baseline lies on the disk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from linnet_api.durations import share_of
from linnet_api.rollout_policy import Budget
from linnet_operator.planner.fleet import Fleet, is_out_of_service, is_settled
from linnet_operator.planner.model import NodeView


@dataclass(frozen=True, slots=True)
class Room:
    """What the budget leaves at this moment; counts of nodes."""

    limit: int
    unavailable: int
    downloads_limit: int
    downloads: int

    @property
    def spent(self) -> bool:
        """True where no node that serves may be sent on."""
        return self.unavailable >= self.limit

    @property
    def slots(self) -> int:
        """How many nodes may begin to fetch now."""
        return max(0, self.downloads_limit - self.downloads)


def room(budget: Budget, fleet: Fleet, *, now: datetime, had_model: bool) -> Room:
    """Return what is left of the budget.

    Args:
        budget: The policy's.
        fleet: The nodes.
        now: The time of the turn.
        had_model: False in a first rollout: nothing was in service, so nothing can go out of it.
    """
    out = sum(is_out_of_service(node, now=now) for node in fleet.eligible) if had_model else 0
    moving = sum(
        node.order is not None and not is_settled(node) and node.connected(now)
        for node in fleet.eligible
    )
    return Room(
        limit=unavailable_limit(budget, fleet),
        unavailable=out + len(fleet.silent),
        downloads_limit=budget.max_downloads,
        downloads=moving,
    )


def unavailable_limit(budget: Budget, fleet: Fleet) -> int:
    """Return how many nodes may be out of service at once, at least one."""
    return max(1, share_of(budget.max_unavailable, whole_count=len(fleet.eligible)))


def admit(nodes: Sequence[NodeView], left: Room, *, now: datetime) -> tuple[NodeView, ...]:
    """Return the first of ``nodes`` that may be sent on now, in their order."""
    allowed = [node for node in nodes if not left.spent or is_out_of_service(node, now=now)]
    return tuple(allowed[: left.slots])
