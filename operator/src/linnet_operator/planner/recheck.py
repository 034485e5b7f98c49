"""When to turn again though nothing has changed: time itself moves nodes and clocks."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from linnet_api.durations import parse_duration
from linnet_api.rollout_policy import Offline
from linnet_operator.planner.fleet import Fleet

SOON = timedelta(milliseconds=50)
_MOMENT = timedelta(milliseconds=1)


def lease_times(
    fleet: Fleet, offline: Offline, *, now: datetime, moving: bool = True
) -> list[datetime]:
    """Return the first of each kind of time at which a node changes its place by itself.

    Args:
        fleet: The nodes.
        offline: When a node is deferred or silent.
        now: The time of the turn.
        moving: False where being connected is not asked for, only being deferred.
    """
    graces = [parse_duration(offline.defer_after)]
    if moving:
        graces.append(parse_duration(offline.suspect_after))
    times = [first for grace in graces if (first := _first(fleet, now, grace)) is not None]
    if moving:
        leases = (
            node.heartbeat_at + node.lease
            for node in fleet.eligible
            if node.heartbeat_at is not None and node.connected(now)
        )
        times += [first for first in (min(leases, default=None),) if first is not None]
    return times


def until(times: Iterable[datetime], now: datetime) -> timedelta | None:
    """Return how long it is to the first of ``times`` that lies ahead; None where none does."""
    # A time that is just reached was seen by this turn: turning again for it would never end.
    ahead = [time - now for time in times if time > now]
    return max(SOON, min(ahead) + _MOMENT) if ahead else None


def _first(fleet: Fleet, now: datetime, grace: timedelta) -> datetime | None:
    return min(
        (
            node.heartbeat_at + max(grace, node.lease)
            for node in fleet.eligible
            if node.heartbeat_at is not None and now - node.heartbeat_at <= max(grace, node.lease)
        ),
        default=None,
    )
