"""Local health: whether what was just activated answers worse than what was there before."""

from typing import Final

from linnet_agent.journal import Facts, Journal

SOAK_FAILURES: Final = 5
SOAK_BAD_RATIO: Final = 0.5
SOAK_GOOD_RATIO: Final = 0.1
"""Local health is generous, because the fleet's judge decides: only what clearly fails, where the
revision before did not."""


def soak_fault(journal: Journal, facts: Facts) -> str | None:
    """Return the sentence that says why local health is bad; None where it is not."""
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
