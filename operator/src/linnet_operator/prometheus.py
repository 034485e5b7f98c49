"""The metrics source: raw counters and thresholds from the Prometheus HTTP API.

Rules:
- Everything is asked for fixed times, so the same question has the same answer after a restart.
- Counters are read raw; ``rate()`` and ``increase()`` extrapolate and are never used.
- A look is a handful of queries, whatever the number of nodes: ``sum by (node, revision)``.
- An answer that cannot be had is a sentence (with the address and what to do), not an exception,
  and never a number.
- Warnings of the source make its answer partial.
- The address in a sentence carries no credentials.
"""

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import isfinite
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import urlsplit, urlunsplit

import aiohttp

from linnet_operator.judge.counters import Counts, Sample, usable_sample
from linnet_operator.judge.thresholds import ThresholdSample

REQUESTS = "linnet_inference_requests_total"
FEEDBACK = "linnet_inference_feedback_total"
DURATION_BUCKETS = "linnet_inference_duration_seconds_bucket"
# Prometheus refuses a range of more points.
MOST_POINTS = 11_000
_MOST_BYTES = 256 * 1024 * 1024
_EDGE_TOLERANCE = 1e-9
_AT_ONCE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """What is compared: Errors, Wrong, or Slow (then ``over`` is an edge of a bucket)."""

    kind: str
    over: timedelta | None = None


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
        self, signal: Signal, *, namespace: str, deployment: str, times: Sequence[datetime]
    ) -> Counts:
        """Return the cumulative counters of a signal at fixed times, by node and revision."""
        ...

    async def query(self, promql: str, at: datetime) -> ThresholdSample:
        """Return the one value that a query gives at a fixed time, or why there is none."""
        ...

    async def newest_common_time(
        self, *, namespace: str, deployment: str, now: datetime, lag_limit: timedelta
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
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare a source; it connects when it is entered.

        Args:
            url: The address, with a path prefix if there is one.
            timeout: How long one query may take.
            headers: Sent with every query, such as Authorization; never logged.
        """
        self._url = url.rstrip("/")
        self._shown_url = _without_credentials(self._url)
        self._timeout = aiohttp.ClientTimeout(total=timeout.total_seconds())
        self._headers = dict(headers or {})
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def __aenter__(self) -> Self:
        """Open the connections."""
        self._session = aiohttp.ClientSession(timeout=self._timeout, headers=self._headers)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def counts(
        self, signal: Signal, *, namespace: str, deployment: str, times: Sequence[datetime]
    ) -> Counts:
        """Return the cumulative counters of a signal at fixed times, by node and revision.

        Args:
            signal: What is counted.
            namespace: Of the deployment.
            deployment: Its name.
            times: Ascending. Evenly spaced ones cost one query, others one for each.

        Returns:
            The counters; where they cannot be had, ``no_data`` says why and what to do.
        """
        times_s = tuple(time.timestamp() for time in times)
        selector = f'namespace="{_quoted(namespace)}",deployment="{_quoted(deployment)}"'
        try:
            query, label, bad = await self._count_query(signal, selector, times_s)
            answers = await self._at_times(query, times_s)
        except _NoAnswerError as error:
            return Counts(times_s=times_s, by_node_revision={}, no_data=str(error))
        warnings: list[str] = []
        cells: dict[tuple[str, str], list[dict[str, float]]] = {}
        for answer in answers:
            warnings += answer.warnings
            for series in answer.series:
                key = (series.labels.get("node", ""), series.labels.get("revision", ""))
                row = cells.setdefault(key, [{} for _ in times_s])
                for index, value in series.values:
                    row[index][series.labels.get(label, "")] = value
        return Counts(
            times_s=times_s,
            by_node_revision={
                key: tuple(_sample(cell, signal.kind, bad) for cell in row)
                for key, row in sorted(cells.items())
            },
            warnings=tuple(dict.fromkeys(warnings)),
            queries=(query,),
        )

    async def query(self, promql: str, at: datetime) -> ThresholdSample:
        """Return the one value that a query gives at a fixed time, or why there is none."""
        at_s = at.timestamp()
        try:
            answer = await self._instant(promql, at_s)
        except _NoAnswerError as error:
            return ThresholdSample(at_s=at_s, value=None, series=0, problem=str(error))
        count = len(answer.series)
        if count == 0:
            problem = "the query gave no series; check its labels, and that the target is scraped"
            return ThresholdSample(at_s=at_s, value=None, series=0, problem=problem)
        if count > 1:
            first, second = (_shown_labels(series.labels) for series in answer.series[:2])
            problem = f"the query gave {count} series where one was expected: {first} and {second}"
            return ThresholdSample(at_s=at_s, value=None, series=count, problem=problem)
        value = answer.series[0].values[0][1]
        problem = "; ".join(answer.warnings)
        if not isfinite(value):
            problem = f"the query gave {value}, which is no measurement"
        return ThresholdSample(
            at_s=at_s, value=value if isfinite(value) else None, series=1, problem=problem
        )

    async def newest_common_time(
        self, *, namespace: str, deployment: str, now: datetime, lag_limit: timedelta
    ) -> ScrapeTime:
        """Return the newest time for which all nodes have a sample.

        Args:
            namespace: Of the deployment.
            deployment: Its name.
            now: Where to look from; samples of the five minutes before it are seen.
            lag_limit: A node that is older than the newest by more is left out, and named.
        """
        selector = f'namespace="{_quoted(namespace)}",deployment="{_quoted(deployment)}"'
        query = f"max by (node) (timestamp({REQUESTS}{{{selector}}}))"
        try:
            answer = await self._instant(query, now.timestamp())
        except _NoAnswerError as error:
            return ScrapeTime(at=None, no_data=str(error))
        scraped = {
            series.labels.get("node", ""): series.values[0][1]
            for series in answer.series
            if isfinite(series.values[0][1])
        }
        if not scraped:
            problem = (
                f"{self._shown_url} has no {REQUESTS} of {namespace}/{deployment} in the last five "
                "minutes; check that the nodes' servers are scraped, and under which labels"
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

    async def _count_query(
        self, signal: Signal, selector: str, times_s: Sequence[float]
    ) -> tuple[str, str, str]:
        """Return the query of a signal, the label of its parts, and the value of the bad part."""
        if signal.kind == "Errors":
            matcher = f'{selector},outcome=~"success|failure"'
            return (
                f"sum by (node, revision, outcome) ({REQUESTS}{{{matcher}}})",
                "outcome",
                "failure",
            )
        if signal.kind == "Wrong":
            matcher = f'{selector},verdict=~"correct|wrong"'
            return f"sum by (node, revision, verdict) ({FEEDBACK}{{{matcher}}})", "verdict", "wrong"
        assert signal.kind == "Slow", signal
        assert signal.over is not None, signal
        matcher = f'{selector},outcome=~"success|failure"'
        edge = await self._bucket_edge(matcher, signal.over, times_s[-1])
        wanted = f"{re.escape(edge)}|\\+Inf"
        matcher += f',le=~"{_quoted(wanted)}"'
        return f"sum by (node, revision, le) ({DURATION_BUCKETS}{{{matcher}}})", "le", edge

    async def _bucket_edge(self, matcher: str, over: timedelta, at_s: float) -> str:
        """Return how the source writes the edge ``over``; sources differ (0.05, 5e-02, 1, 1.0)."""
        answer = await self._instant(f"group by (le) ({DURATION_BUCKETS}{{{matcher}}})", at_s)
        edges = sorted(
            (float(series.labels["le"]), series.labels["le"])
            for series in answer.series
            if "le" in series.labels
        )
        if not edges:
            raise _NoAnswerError(
                f"{self._shown_url} has no {DURATION_BUCKETS} of this deployment; "
                "check that the nodes' servers are scraped"
            )
        for value, text in edges:
            if abs(value - over.total_seconds()) <= _EDGE_TOLERANCE:
                return text
        known = ", ".join(f"{value:g}s" for value, _ in edges if isfinite(value))
        raise _NoAnswerError(
            f"over: {over.total_seconds():g}s is no edge of a bucket; take one of {known}"
        )

    async def _at_times(self, query: str, times_s: Sequence[float]) -> "list[_Answer]":
        """Return the answers at all times; values carry the index of their time."""
        if not times_s:
            return []
        step_s = _even_step(times_s)
        if step_s is not None:
            return [await self._range(query, times_s, step_s)]
        answers = await asyncio.gather(*(self._instant(query, at_s) for at_s in times_s))
        return [_moved(answer, index) for index, answer in enumerate(answers)]

    async def _instant(self, query: str, at_s: float) -> "_Answer":
        data, warnings = await self._post("query", {"query": query, "time": _shown_time(at_s)})
        kind, result = data.get("resultType"), data.get("result")
        if kind == "scalar" and isinstance(result, list):
            result = [{"metric": {}, "value": result}]
        elif kind != "vector" or not isinstance(result, list):
            raise self._malformed(f"a result of type {kind}; a query must give one number")
        try:
            series = tuple(
                _Series(labels=dict(each["metric"]), values=((0, float(each["value"][1])),))
                for each in result
                if "value" in each
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise self._malformed("an answer that is not a vector") from error
        return _Answer(series=series, warnings=warnings)

    async def _range(self, query: str, times_s: Sequence[float], step_s: float) -> "_Answer":
        assert len(times_s) <= MOST_POINTS, len(times_s)
        data, warnings = await self._post(
            "query_range",
            {
                "query": query,
                "start": _shown_time(times_s[0]),
                "end": _shown_time(times_s[-1]),
                "step": f"{step_s:.3f}",
            },
        )
        if data.get("resultType") != "matrix":
            raise self._malformed(f"a result of type {data.get('resultType')} for a range")
        count = len(times_s)
        try:
            series = []
            for each in data["result"]:
                indexed = (
                    (round((float(at) - times_s[0]) / step_s), float(value))
                    for at, value in each["values"]
                )
                values = tuple((index, value) for index, value in indexed if 0 <= index < count)
                series.append(_Series(labels=dict(each["metric"]), values=values))
        except (KeyError, TypeError, ValueError) as error:
            raise self._malformed("an answer that is not a matrix") from error
        return _Answer(series=tuple(series), warnings=warnings)

    async def _post(
        self, path: str, form: Mapping[str, str]
    ) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        """Return the data and the warnings of one query.

        Raises:
            _NoAnswerError: There is none; the message says why and what to do.
        """
        assert self._session is not None, "the source is used outside of its context"
        where = f"{self._shown_url}/api/v1/{path}"
        try:
            async with (
                self._slots,
                self._session.post(
                    f"{self._url}/api/v1/{path}", data=form, allow_redirects=False
                ) as response,
            ):
                status = response.status
                body = await _read(response)
        except TimeoutError as error:
            raise _NoAnswerError(
                f"{where} did not answer within {self._timeout.total:g}s; "
                "check Prometheus' load, or raise the timeout"
            ) from error
        except aiohttp.ClientError as error:
            raise _NoAnswerError(
                f"{where} cannot be reached ({type(error).__name__}); "
                "check that Prometheus is up, and the operator's --prometheus address"
            ) from error
        if body is None:
            raise self._malformed("more than 256 MiB; ask for fewer windows")
        try:
            answer = json.loads(body)
        except ValueError as error:
            raise _NoAnswerError(
                f"{where} answered {status} and no JSON; "
                "check that the operator's --prometheus address is that of a Prometheus"
            ) from error
        if not isinstance(answer, dict) or answer.get("status") != "success" or status >= 300:
            said = answer.get("error", "") if isinstance(answer, dict) else ""
            raise _NoAnswerError(
                f"{where} answered {status}: {str(said)[:300] or 'no reason given'}; "
                + ("check the query" if status in {400, 422} else "check Prometheus")
            )
        data = answer.get("data")
        if not isinstance(data, dict):
            raise self._malformed("an answer without data")
        warnings = [str(warning) for warning in answer.get("warnings") or ()]
        if answer.get("isPartial"):
            warnings.append("the source says that its answer is partial")
        return data, tuple(warnings)

    def _malformed(self, what: str) -> "_NoAnswerError":
        return _NoAnswerError(f"{self._shown_url} gave {what}")


class _NoAnswerError(Exception):
    """A query has no answer; the message is for people. Never leaves this module."""


@dataclass(frozen=True, slots=True)
class _Series:
    labels: Mapping[str, str]
    values: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class _Answer:
    series: tuple[_Series, ...]
    warnings: tuple[str, ...]


def _sample(cell: Mapping[str, float], kind: str, bad: str) -> Sample:
    """Return (bad, all) of one node at one time from its parts; None where it does not report."""
    if not cell:
        return None
    if kind == "Slow":
        if bad not in cell or "+Inf" not in cell:
            return None
        return usable_sample(cell["+Inf"] - cell[bad], cell["+Inf"])
    return usable_sample(cell.get(bad, 0.0), sum(cell.values()))


def _moved(answer: _Answer, index: int) -> _Answer:
    series = tuple(
        _Series(each.labels, tuple((index, value) for _, value in each.values))
        for each in answer.series
    )
    return _Answer(series=series, warnings=answer.warnings)


def _even_step(times_s: Sequence[float]) -> float | None:
    """Return the step in seconds when the times are evenly spaced to the millisecond."""
    if len(times_s) < 2:
        return None
    step_s = round((times_s[-1] - times_s[0]) / (len(times_s) - 1), 3)
    even = step_s > 0 and all(
        abs(at_s - times_s[0] - index * step_s) < 0.0005 for index, at_s in enumerate(times_s)
    )
    return step_s if even else None


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """Return the body, or None when it is larger than anything that we ask for."""
    body = bytearray()
    async for chunk in response.content.iter_chunked(1 << 20):
        body += chunk
        if len(body) > _MOST_BYTES:
            return None
    return bytes(body)


def _shown_time(at_s: float) -> str:
    return f"{at_s:.3f}"


def _shown_labels(labels: Mapping[str, str]) -> str:
    inside = ",".join(f'{name}="{value}"' for name, value in sorted(labels.items()))
    return "{" + inside[:120] + "}"


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))
