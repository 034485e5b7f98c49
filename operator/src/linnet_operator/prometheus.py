"""The metrics source: raw counters and thresholds from the Prometheus HTTP API.

Rules:
- Everything is asked for fixed times, so the same question has the same answer after a restart.
- Counters are read raw; ``rate()`` and ``increase()`` extrapolate and are never used.
- A look is a handful of queries, whatever the number of nodes: ``sum by (node, revision)``.
- What cannot be had is a sentence (with the address and what to do), not an exception, and never a
  number.
- A threshold gives one number at a time; none, several and NaN are no sample.
- Warnings of the source make its answer partial.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import isfinite
from types import TracebackType
from typing import Final, Protocol, Self

from linnet_operator.credentials import Credentials
from linnet_operator.judge.counters import Counts, Sample, usable_sample
from linnet_operator.judge.thresholds import ThresholdSample
from linnet_operator.presets import (
    DURATION_BUCKETS,
    CountQuery,
    Signal,
    Subject,
    count_query,
    edges_query,
    exported_metric,
    not_counted,
    scrape_metric,
)
from linnet_operator.promapi import Answer, NoAnswerError, PrometheusApi

_EDGE_TOLERANCE: Final = 1e-9
# A query at a time gives samples of that time and before.
_CLOCK_TOLERANCE_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """The samples of a threshold, or why there is no answer at all."""

    samples: tuple[ThresholdSample, ...] = ()
    no_data: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrapeTime:
    """The newest time for which all nodes that are scraped have a sample.

    Attributes:
        at: That time; None when nothing is scraped.
        behind: Nodes that are older than the others by more than was allowed; left out of ``at``.
        nodes: All nodes that report.
        no_data: Why there is no time, and what to do; empty when there is one.
    """

    at: datetime | None
    behind: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    no_data: str = ""


class MetricsSource(Protocol):
    """Where evidence comes from."""

    async def counts(
        self, signal: Signal, subject: Subject, *, times: Sequence[datetime]
    ) -> Counts:
        """Return the cumulative counters of a signal at fixed times, by node and revision."""
        ...

    async def samples(self, promql: str, times: Sequence[datetime]) -> Sampled:
        """Return the one value that a query gives at each time, or why there is none."""
        ...

    async def newest_common_time(
        self, subject: Subject, *, now: datetime, lag_limit: timedelta
    ) -> ScrapeTime:
        """Return the newest time for which all nodes have a sample."""
        ...


def fixed_times(*, start: datetime, end: datetime, step: timedelta) -> tuple[datetime, ...]:
    """Return ``end`` and the times before it at ``step``, down to ``start`` or just after it."""
    assert step > timedelta(0), step
    count = max(0, int((end - start) / step))
    return tuple(end - step * index for index in range(count, -1, -1))


def step_times(
    *, start: datetime, end: datetime, interval: timedelta, most: int = 120
) -> tuple[datetime, ...]:
    """Return the times of a look: even, from ``start`` to ``end`` (included), at most ``most``.

    They are close enough to see restarts between two looks, and few enough for a long bake.
    """
    assert interval > timedelta(0), interval
    assert most >= 2, most
    if end <= start:
        return (end,)
    pieces = min(most - 1, max(1, int((end - start) / interval)))
    width = timedelta(
        milliseconds=max(1, round((end - start) / pieces / timedelta(milliseconds=1)))
    )
    return tuple(end - width * index for index in range(pieces, -1, -1))


class PrometheusSource:
    """A Prometheus, or anything that speaks its HTTP API."""

    def __init__(
        self,
        url: str,
        *,
        timeout: timedelta = timedelta(seconds=10),
        credentials: Credentials | None = None,
    ) -> None:
        """Prepare a source; it connects when it is entered.

        Args:
            url: The address, with a path prefix if there is one.
            timeout: How long one query may take.
            credentials: What the server asks for; never logged.
        """
        self._api = PrometheusApi(url, timeout=timeout, credentials=credentials)
        # How the source writes an edge of a bucket; it does not change while we run.
        self._edges: dict[tuple[str, timedelta], str] = {}

    async def __aenter__(self) -> Self:
        """Open the connections."""
        await self._api.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        await self._api.close()

    async def counts(
        self, signal: Signal, subject: Subject, *, times: Sequence[datetime]
    ) -> Counts:
        """Return the cumulative counters of a signal at fixed times, by node and revision.

        Args:
            signal: What is counted.
            subject: Whose requests.
            times: Ascending. Evenly spaced ones cost one query, others one for each.

        Returns:
            The counters; where they cannot be had, ``no_data`` says why and what to do.
        """
        times_s = tuple(time.timestamp() for time in times)
        try:
            query = await self._count_query(signal, subject, times_s)
            answers = await self._api.at_times(query.text, times_s)
            cells = self._cells(answers, subject, query, count=len(times_s))
        except NoAnswerError as error:
            return Counts(times_s=times_s, by_node_revision={}, no_data=str(error))
        if signal.over and cells and not any(query.bad in row[-1] for row in cells.values()):
            # A Prometheus of another version writes edges otherwise; the next look asks.
            self._edges.clear()
        return Counts(
            times_s=times_s,
            by_node_revision={
                key: tuple(_sample(cell, signal.kind, query.bad) for cell in row)
                for key, row in sorted(cells.items())
            },
            warnings=tuple(dict.fromkeys(text for each in answers for text in each.warnings)),
            queries=(query.text,),
        )

    async def samples(self, promql: str, times: Sequence[datetime]) -> Sampled:
        """Return the one value that a query gives at each time, or why there is none.

        Args:
            promql: The query, all words filled in.
            times: Ascending. Evenly spaced ones cost one query, others one for each.
        """
        times_s = tuple(time.timestamp() for time in times)
        try:
            answers = await self._api.at_times(promql, times_s)
        except NoAnswerError as error:
            return Sampled(no_data=str(error))
        found: list[list[tuple[Mapping[str, str], float]]] = [[] for _ in times_s]
        for answer in answers:
            for series in answer.series:
                for index, value in series.values:
                    found[index].append((series.labels, value))
        warned = "; ".join(dict.fromkeys(text for answer in answers for text in answer.warnings))
        return Sampled(
            samples=tuple(
                _threshold_sample(at_s, values, warned=warned)
                for at_s, values in zip(times_s, found, strict=True)
            )
        )

    async def newest_common_time(
        self, subject: Subject, *, now: datetime, lag_limit: timedelta
    ) -> ScrapeTime:
        """Return the newest time for which all nodes have a sample.

        Args:
            subject: Whose requests.
            now: Where to look from; samples of the five minutes before it are seen.
            lag_limit: A node that is older than the newest by more is left out, and named.
        """
        query = f"max by (node) (timestamp({scrape_metric(subject)}))"
        try:
            answer = await self._api.instant(query, now.timestamp())
        except NoAnswerError as error:
            return ScrapeTime(at=None, no_data=str(error))
        scraped = {
            series.labels.get("node", ""): series.values[0][1]
            for series in answer.series
            if 0.0 <= series.values[0][1] <= now.timestamp() + _CLOCK_TOLERANCE_S
        }
        if not scraped:
            remedy = await self._why_nothing(subject, at_s=now.timestamp())
            problem = (
                f"{self._api.shown_url} has no {scrape_metric(subject)} in the last five "
                f"minutes; {remedy}"
            )
            return ScrapeTime(at=None, no_data=problem)
        oldest = max(scraped.values()) - lag_limit.total_seconds()
        behind = tuple(sorted(node for node, at in scraped.items() if at < oldest))
        newest = min(at for at in scraped.values() if at >= oldest)
        return ScrapeTime(
            at=datetime.fromtimestamp(newest, tz=UTC),
            behind=behind,
            nodes=tuple(sorted(scraped)),
        )

    async def _why_nothing(self, subject: Subject, *, at_s: float) -> str:
        """Return what to do where nothing is scraped under the labels of ``subject``."""
        remedy = "check that the nodes' servers are scraped, and under which labels"
        try:
            renamed = await self._api.instant(f"count({exported_metric(subject)})", at_s)
        except NoAnswerError:
            return remedy
        if not renamed.series:
            return remedy
        return (
            "it has it under exported_namespace: the scraper gives its targets a label "
            "`namespace`; drop that, as charts/linnet/monitoring/podmonitors.yaml does"
        )

    def _cells(
        self, answers: Sequence[Answer], subject: Subject, query: CountQuery, *, count: int
    ) -> dict[tuple[str, str], list[dict[str, float]]]:
        """Return the parts of each node and revision, at each of ``count`` times."""
        cells: dict[tuple[str, str], list[dict[str, float]]] = {}
        for series in (each for answer in answers for each in answer.series):
            key = (series.labels.get("node", ""), subject.revision_of(series.labels))
            row = cells.setdefault(key, [{} for _ in range(count)])
            part = series.labels.get(query.part, "")
            for index, value in series.values:
                if part in row[index]:
                    raise self._api.malformed("two samples where one sum was asked for")
                row[index][part] = value
        return cells

    async def _count_query(
        self, signal: Signal, subject: Subject, times_s: Sequence[float]
    ) -> CountQuery:
        refused = not_counted(subject.preset, signal.kind)
        if refused:
            raise NoAnswerError(f"{signal.kind} is not counted: {refused}")
        edge = ""
        if signal.over is not None:
            key = (edges_query(subject), signal.over)
            if key not in self._edges:
                self._edges[key] = await self._bucket_edge(*key, times_s[-1])
            edge = self._edges[key]
        return count_query(signal, subject, edge=edge)

    async def _bucket_edge(self, query: str, over: timedelta, at_s: float) -> str:
        """Return how the source writes the edge ``over``; sources differ (0.05, 5e-02, 1, 1.0)."""
        answer = await self._api.instant(query, at_s)
        try:
            edges = sorted(
                (float(series.labels["le"]), series.labels["le"])
                for series in answer.series
                if "le" in series.labels
            )
        except ValueError as error:
            raise self._api.malformed("edges of buckets that are no numbers") from error
        if not edges:
            raise NoAnswerError(
                f"{self._api.shown_url} has no {DURATION_BUCKETS} of this deployment; "
                "check that the nodes' servers are scraped"
            )
        for value, text in edges:
            if abs(value - over.total_seconds()) <= _EDGE_TOLERANCE:
                return text
        known = ", ".join(f"{value:g}s" for value, _ in edges if isfinite(value))
        raise NoAnswerError(
            f"over: {over.total_seconds():g}s is no edge of a bucket; take one of {known}"
        )


def _threshold_sample(
    at_s: float, found: Sequence[tuple[Mapping[str, str], float]], *, warned: str
) -> ThresholdSample:
    """Return the sample at one time: one number, or why there is none."""
    if not found:
        problem = "the query gave no series; check its labels, and that the target is scraped"
        return ThresholdSample(at_s=at_s, value=None, series=0, problem=problem)
    if len(found) > 1:
        first, second = (_shown_labels(labels) for labels, _ in found[:2])
        problem = f"the query gave {len(found)} series where one was expected: {first} and {second}"
        return ThresholdSample(at_s=at_s, value=None, series=len(found), problem=problem)
    value = found[0][1]
    if not isfinite(value):
        problem = f"the query gave {value}, which is no measurement"
        return ThresholdSample(at_s=at_s, value=None, series=1, problem=problem)
    return ThresholdSample(at_s=at_s, value=value, series=1, problem=warned)


def _sample(cell: Mapping[str, float], kind: str, bad: str) -> Sample:
    """Return (bad, all) of one node at one time from its parts; None where it does not report."""
    if not cell:
        return None
    if kind == "Slow":
        if bad not in cell or "+Inf" not in cell:
            return None
        return usable_sample(cell["+Inf"] - cell[bad], cell["+Inf"])
    return usable_sample(cell.get(bad, 0.0), sum(cell.values()))


def _shown_labels(labels: Mapping[str, str]) -> str:
    inside = ",".join(f'{name}="{value}"' for name, value in sorted(labels.items()))
    return "{" + inside[:120] + "}"
