"""How many nodes may be sent on at once.

- maxUnavailable counts connected nodes whose model is out of service, and silent ones; it is at
  least one node.
- maxDownloads counts connected nodes that have an order and have not settled.
- With spec.swap Replace any node that is under way may go out of service: it counts as if it were.
- A node that is out of service already may always be sent on: it can only become better.
- Taking back costs nothing: the baseline lies on the disk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from linnet_api.durations import share_of
from linnet_api.model_deployment import Swap
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
    replaces: bool = False
    """True where a node may go out of service while it changes."""

    @property
    def spent(self) -> bool:
        """True where no node that serves may be sent on."""
        return self.unavailable >= self.limit

    @property
    def swaps(self) -> int:
        """How many nodes that serve may be sent on now."""
        left = max(0, self.limit - self.unavailable)
        return min(left, self.slots) if self.replaces or not left else self.slots

    @property
    def slots(self) -> int:
        """How many nodes may begin to fetch now."""
        return max(0, self.downloads_limit - self.downloads)


def room(budget: Budget, fleet: Fleet, *, now: datetime, had_model: bool, swap: Swap) -> Room:
    """Return what is left of the budget.

    Args:
        budget: The policy's.
        fleet: The nodes.
        now: The time of the turn.
        had_model: False in a first rollout: nothing was in service, so nothing can go out of it.
        swap: The deployment's.
    """
    replaces = had_model and swap == "Replace"
    out = sum(
        is_out_of_service(node, now=now) or (replaces and _is_under_way(node, now=now))
        for node in fleet.eligible
    )
    return Room(
        limit=unavailable_limit(budget, fleet),
        unavailable=(out if had_model else 0) + len(fleet.silent),
        downloads_limit=budget.max_downloads,
        downloads=sum(_is_under_way(node, now=now) for node in fleet.eligible),
        replaces=replaces,
    )


def _is_under_way(node: NodeView, *, now: datetime) -> bool:
    return node.order is not None and not is_settled(node) and node.connected(now)


def unavailable_limit(budget: Budget, fleet: Fleet) -> int:
    """Return how many nodes may be out of service at once, at least one."""
    return max(1, share_of(budget.max_unavailable, whole_count=len(fleet.eligible)))


def admit(nodes: Sequence[NodeView], left: Room, *, now: datetime) -> tuple[NodeView, ...]:
    """Return the first of ``nodes`` that may be sent on now, in their order."""
    allowed: list[NodeView] = []
    swaps = left.swaps
    for node in nodes:
        if not is_out_of_service(node, now=now):
            if swaps <= 0:
                continue
            swaps -= 1
        allowed.append(node)
    return tuple(allowed[: left.slots])
