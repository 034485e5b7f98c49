"""What makes a look partial: warnings, old scrapes, and nodes that report what they do not hold.

Rules:
- Partial data may condemn, but never clear.
- A node that held a revision may go on counting for it: labels come hours late. One that never held
  it is a stranger: another fleet's data, or somebody who may write metrics.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from linnet_api.durations import format_duration
from linnet_operator.cache import Entry, NodeModelFacts, facts_of
from linnet_operator.judge.counters import Counts, foreign_series, say_foreign
from linnet_operator.prometheus import ScrapeTime

_STALE_AT_LEAST: Final = timedelta(seconds=30)
_STALE_INTERVALS: Final = 3


def say_partial(
    counts: Counts,
    scrape: ScrapeTime,
    *,
    now: datetime,
    interval: timedelta,
    candidates: Sequence[str],
    holders: Mapping[str, Sequence[str]],
) -> str:
    """Return why what was measured is not complete; empty when it is.

    Args:
        counts: What was measured.
        scrape: The time that it was measured for, and who was behind.
        now: The time of the look.
        interval: How often the policy looks.
        candidates: The nodes that are judged.
        holders: Revision -> nodes that hold it.
    """
    assert scrape.at is not None, scrape
    problems = list(counts.warnings)
    age = now - scrape.at
    if age > max(_STALE_AT_LEAST, _STALE_INTERVALS * interval):
        problems.append(f"the newest scrape is {format_duration(age)} old; check Prometheus")
    behind = sorted(set(candidates).intersection(scrape.behind))
    if behind:
        problems.append(f"no fresh scrape of {', '.join(behind[:3])}")
    foreign = foreign_series(counts, holders)
    if foreign:
        problems.append(say_foreign(foreign))
    return "; ".join(problems)


def holders_of(orders: Iterable[Entry]) -> dict[str, list[str]]:
    """Return revision -> nodes that were told to hold it, or report that they do."""
    holders: dict[str, set[str]] = {}
    for entry in orders:
        facts = facts_of(entry, NodeModelFacts)
        order, report = facts.spec, facts.status
        held = [order.desired.revision, report.revision, *report.on_disk]
        held += [order.baseline.revision] if order.baseline is not None else []
        held += [each.revision for each in (report.current, report.previous) if each]
        for revision in held:
            if revision is not None:
                holders.setdefault(revision, set()).add(order.node.name)
    return {revision: sorted(nodes) for revision, nodes in sorted(holders.items())}
