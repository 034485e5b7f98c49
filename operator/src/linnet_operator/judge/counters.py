"""From raw counters at fixed times to counts: resets, gaps, births and strangers.

Rules:
- A counter that falls has restarted at zero: no delta is negative, and none is huge.
- Failures and requests restart together, since they live in one process.
- A gap is missing, not zero: the window that begins or ends in it is missing.
- A series is taken to begin at zero only where the caller knows that it was born in the range.
- The same samples give the same counts; nothing is extrapolated (as ``increase()`` would).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import fsum

from linnet_operator.judge.compare import NodeCount
from linnet_operator.judge.learned import CountPair, NodeHistory, is_usable

# One sample of a pair of counters: (failures, requests), cumulative; None where there is none.
Sample = CountPair | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Cumulative counters of one signal at fixed times.

    Attributes:
        times_s: The times, in seconds of the epoch, ascending.
        by_node_revision: (node, revision) -> one sample for each time.
        warnings: What the source said about its own answer; not empty means partial.
        no_data: Why there is no answer, and what to do; empty when there is one.
        queries: What was asked, for the record.
    """

    times_s: tuple[float, ...]
    by_node_revision: Mapping[tuple[str, str], tuple[Sample, ...]]
    warnings: tuple[str, ...] = ()
    no_data: str = ""
    queries: tuple[str, ...] = ()


def with_first(counts: Counts, before: Counts, *, revision: str) -> Counts:
    """Return ``counts`` with a missing first sample of ``revision`` taken from just before it.

    Args:
        counts: The counters in a range.
        before: The counters up to its first time; the last sample that there is counts.
        revision: Whose; other revisions' samples stay as they are.
    """
    last = {
        key: next((sample for sample in reversed(samples) if sample is not None), None)
        for key, samples in before.by_node_revision.items()
    }
    return replace(
        counts,
        by_node_revision={
            key: (last.get(key), *samples[1:])
            if key[1] == revision and samples[0] is None
            else samples
            for key, samples in counts.by_node_revision.items()
        },
        warnings=tuple(dict.fromkeys((*counts.warnings, *before.warnings))),
    )


def window_counts(samples: Sequence[Sample]) -> tuple[CountPair | None, ...]:
    """Return what was counted between each pair of neighbouring samples; None beside a gap."""
    return tuple(
        None if before is None or after is None else _delta(before, after)
        for before, after in pairwise(samples)
    )


def total_count(samples: Sequence[Sample], *, born_at_zero: bool) -> CountPair | None:
    """Return what was counted from the first to the last sample, across restarts and gaps.

    Args:
        samples: In the order of time.
        born_at_zero: The series did not exist before the range (the revision was activated in it),
            so what its first sample shows was counted in the range.

    Returns:
        The count, or None where the newest sample is missing: then it is not known.
    """
    if not samples or samples[-1] is None:
        return None
    present = [sample for sample in samples if sample is not None]
    starts_absent = samples[0] is None
    deltas = [_delta(before, after) for before, after in pairwise(present)]
    if born_at_zero and starts_absent:
        deltas.append(present[0])
    return fsum(x for x, _ in deltas), fsum(n for _, n in deltas)


def node_counts(
    counts: Counts, *, revision: str, seconds_by_node: Mapping[str, float], born_at_zero: bool
) -> tuple[NodeCount, ...]:
    """Return the count of each node under ``revision``; None where it does not report.

    Args:
        counts: The counters since the step began.
        revision: The candidate or the stable revision.
        seconds_by_node: The nodes that should report, and for how many seconds they have served.
        born_at_zero: See ``total_count``: True for a candidate that was activated in the range.
    """
    rows: list[NodeCount] = []
    for node, seconds in sorted(seconds_by_node.items()):
        samples = counts.by_node_revision.get((node, revision), ())
        total = total_count(samples, born_at_zero=born_at_zero)
        failures, requests = total if total is not None else (None, None)
        rows.append(NodeCount(node=node, failures=failures, requests=requests, seconds=seconds))
    return tuple(rows)


def node_histories(
    windows: Counts, recent: Counts | None, *, revision: str, nodes: Sequence[str]
) -> tuple[NodeHistory, ...]:
    """Return the history of each node under ``revision``.

    Args:
        windows: Counters at the edges of the history windows.
        recent: Counters at a finer step over the newest stretch, for bursts; or None.
        revision: The stable revision; other revisions' counts are not history.
        nodes: The nodes that serve it.
    """
    width = max(0, len(windows.times_s) - 1)
    histories: list[NodeHistory] = []
    for node in sorted(nodes):
        key = (node, revision)
        per_window = window_counts(windows.by_node_revision.get(key, ())) or (None,) * width
        fine = window_counts(recent.by_node_revision.get(key, ())) if recent else ()
        histories.append(
            NodeHistory(
                node=node,
                windows=per_window,
                recent=tuple(row for row in fine if row is not None),
            )
        )
    return tuple(histories)


def foreign_series(
    counts: Counts, holders: Mapping[str, Sequence[str]]
) -> tuple[tuple[str, str], ...]:
    """Return (node, revision) of series that grow on nodes that do not hold that revision.

    Args:
        counts: The counters.
        holders: Revision -> nodes that held it at any time in the range. A revision that is not
            named is nobody's. Counters outlive a swap in the server's process, so a series that
            does not grow is no stranger.
    """
    return tuple(
        (node, revision)
        for (node, revision), samples in sorted(counts.by_node_revision.items())
        if node not in holders.get(revision, ()) and _grows(samples)
    )


def say_foreign(foreign: Sequence[tuple[str, str]]) -> str:
    """Return the sentence about strangers; empty when there are none."""
    if not foreign:
        return ""
    node, revision = foreign[0]
    named = f"node {node!r}" if node else "a series without a node label"
    more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
    return (
        f"ForeignSeries: {named} reports revision {revision}, which it does not hold{more}; "
        "check that the scraper sets the node label, and who may write metrics"
    )


def _delta(before: CountPair, after: CountPair) -> CountPair:
    if after[0] < before[0] or after[1] < before[1]:
        return after
    return after[0] - before[0], after[1] - before[1]


def _grows(samples: Sequence[Sample]) -> bool:
    total = [pair for pair in window_counts(samples) if pair is not None]
    return any(requests > 0 for _, requests in total) or any(
        after is not None and before is None and after[1] > 0 and index > 0
        for index, (before, after) in enumerate(zip((None, *samples), samples, strict=False))
    )


def usable_sample(failures: float, requests: float) -> Sample:
    """Return a sample, or None where it cannot be one (NaN, more failures than requests)."""
    return (failures, requests) if is_usable(failures, requests) else None
