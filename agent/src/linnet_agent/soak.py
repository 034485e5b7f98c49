"""Local health: whether what was just activated is clearly worse than what was there before.

- Generous on purpose: the fleet's judge compares with statistics, this only stops what a person at
  the machine would stop, and it needs no network.
- What was there before is the measure: a node whose requests failed or took long already is not
  held against the revision that came.
"""

from typing import Final

from linnet_agent.journal import Facts, Journal

SOAK_FAILURES: Final = 5
SOAK_BAD_RATIO: Final = 0.5
SOAK_GOOD_RATIO: Final = 0.1
"""More than half of at least five requests fail, where less than a tenth did before."""

SOAK_REQUESTS: Final = 20
"""Of both revisions: the first requests fill caches, and one slow one moves a mean of twenty by a
twentieth of it."""

SOAK_SLOW_FACTOR: Final = 5.0
SOAK_SLOW_FLOOR_S: Final = 0.25
"""Slow is five times the mean and a quarter of a second more: a swap that doubles a latency is for
the judge to weigh, and five times one millisecond is nobody's harm."""


def soak_fault(journal: Journal, facts: Facts) -> str | None:
    """Return the sentence that says why local health is bad; None where it is not."""
    return _error_fault(journal, facts) or _latency_fault(journal, facts)


def _error_fault(journal: Journal, facts: Facts) -> str | None:
    server = facts.server
    if server is None or server.failures < SOAK_FAILURES:
        return None
    ratio = server.failures / max(server.requests, 1)
    before_requests, before_failures = journal.before or (0, 0)
    before_ratio = before_failures / before_requests if before_requests else 0.0
    if ratio <= SOAK_BAD_RATIO or before_ratio >= SOAK_GOOD_RATIO:
        return None
    return (
        f"{server.failures} of {server.requests} requests failed since the activation; "
        f"{before_failures} of {before_requests} before it"
    )


def _latency_fault(journal: Journal, facts: Facts) -> str | None:
    server = facts.server
    before_requests = journal.before[0] if journal.before else 0
    if server is None or min(server.requests, before_requests) < SOAK_REQUESTS:
        return None
    before_s = journal.before_s / before_requests
    mean_s = server.duration_s / server.requests
    if before_s <= 0.0 or mean_s <= max(SOAK_SLOW_FACTOR * before_s, before_s + SOAK_SLOW_FLOOR_S):
        return None
    return (
        f"{server.requests} requests took {mean_s:.3f} s on average since the activation; "
        f"{before_requests} took {before_s:.3f} s before it"
    )
