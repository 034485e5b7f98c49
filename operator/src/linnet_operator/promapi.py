"""The Prometheus HTTP API: instant and range queries, over whatever the credentials say.

Rules:
- What cannot be had is NoAnswerError: a sentence with the address and what to do.
- An answer may hold anything: what is not shaped as asked for, or is of other times, is none.
- The address in a sentence carries no credentials; no redirect is followed, which would.
- At most four queries are under way at once, each with its timeout, and no answer is larger than
  256 MiB.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import aiohttp

from linnet_operator.credentials import Credentials, CredentialsError
from linnet_operator.settings import without_credentials

# Prometheus refuses a range of more points.
MOST_POINTS = 11_000
_MOST_BYTES = 256 * 1024 * 1024
_AT_ONCE = 4
_NOT_ALLOWED = frozenset({401, 403})
_SHAPE_ERRORS = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)
_MOST_WARNINGS = 8
# Times are asked for in whole milliseconds.
_TIME_TOLERANCE_S = 0.005


class NoAnswerError(Exception):
    """A query has no answer; the message is for people."""


@dataclass(frozen=True, slots=True)
class Series:
    """One series: its labels, and (index of the time, value) of each sample."""

    labels: Mapping[str, str]
    values: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; not empty ``warnings`` mean that it is partial."""

    series: tuple[Series, ...]
    warnings: tuple[str, ...]


class PrometheusApi:
    """A Prometheus, or anything that speaks its HTTP API; it connects when it is entered."""

    def __init__(
        self, url: str, *, timeout: timedelta, credentials: Credentials | None = None
    ) -> None:
        self._url = url.rstrip("/")
        self.shown_url = without_credentials(self._url)
        self._timeout = aiohttp.ClientTimeout(total=timeout.total_seconds())
        self._credentials = credentials
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def open(self) -> None:
        """Make ready to connect."""
        self._session = aiohttp.ClientSession(timeout=self._timeout)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def at_times(self, query: str, times_s: Sequence[float]) -> list[Answer]:
        """Return the answers at all times; values carry the index of their time.

        Evenly spaced times cost one query, others one for each.
        """
        if not times_s:
            return []
        step_s = _even_step(times_s)
        if step_s is not None:
            return [await self._range(query, times_s, step_s)]
        answers = await asyncio.gather(*(self.instant(query, at_s) for at_s in times_s))
        return [_moved(answer, index) for index, answer in enumerate(answers)]

    async def instant(self, query: str, at_s: float) -> Answer:
        """Return the answer at one time; a scalar is one series without labels.

        Raises:
            NoAnswerError: There is none.
        """
        data, warnings = await self._post("query", {"query": query, "time": _shown_time(at_s)})
        kind, result = data.get("resultType"), data.get("result")
        if kind == "scalar" and isinstance(result, list):
            result = [{"metric": {}, "value": result}]
        elif kind != "vector" or not isinstance(result, list):
            raise self.malformed(f"a result of type {kind}; a query must give one number")
        try:
            series = tuple(
                Series(labels=_labels(each["metric"]), values=((0, float(each["value"][1])),))
                for each in result
                if "value" in each
            )
        except _SHAPE_ERRORS as error:
            raise self.malformed("an answer that is not a vector") from error
        return Answer(series=series, warnings=warnings)

    async def _range(self, query: str, times_s: Sequence[float], step_s: float) -> Answer:
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
            raise self.malformed(f"a result of type {data.get('resultType')} for a range")
        try:
            series = tuple(
                Series(
                    labels=_labels(each["metric"]),
                    values=tuple(
                        (_index(float(at) - times_s[0], step_s), float(value))
                        for at, value in each["values"]
                    ),
                )
                for each in data["result"]
            )
        except _SHAPE_ERRORS as error:
            raise self.malformed("an answer that is not a matrix") from error
        indexes = {index for each in series for index, _ in each.values}
        if not indexes <= set(range(len(times_s))):
            raise self.malformed(
                "samples of other times than were asked for; let nothing on the way align queries"
            )
        return Answer(series=series, warnings=warnings)

    async def _post(
        self, path: str, form: Mapping[str, str]
    ) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        """Return the data and the warnings of one query.

        Raises:
            NoAnswerError: There is none; the message says why and what to do.
        """
        assert self._session is not None, "the source is used outside of its context"
        where = f"{self.shown_url}/api/v1/{path}"
        try:
            headers = self._credentials.headers() if self._credentials else {}
            encrypted = self._credentials is not None and self._url.startswith("https://")
            tls = self._credentials.tls() if self._credentials and encrypted else True
            async with (
                self._slots,
                self._session.post(
                    f"{self._url}/api/v1/{path}",
                    data=form,
                    headers=headers,
                    ssl=tls,
                    allow_redirects=False,
                ) as response,
            ):
                status = response.status
                body = await _read(response)
        except CredentialsError as error:
            raise NoAnswerError(f"{where} was not asked: {error}") from error
        except TimeoutError as error:
            raise NoAnswerError(
                f"{where} did not answer within {self._timeout.total:g}s; "
                "check Prometheus' load, or raise the timeout"
            ) from error
        except (aiohttp.ClientError, ValueError) as error:
            # ValueError: an address that cannot be asked, such as one with two credentials.
            besides = ", and the certificates on both sides" if where.startswith("https:") else ""
            raise NoAnswerError(
                f"{where} cannot be reached ({type(error).__name__}); "
                f"check that Prometheus is up, and the operator's --prometheus address{besides}"
            ) from error
        if status in _NOT_ALLOWED:
            raise NoAnswerError(
                f"{where} answered {status}; check the credentials of --prometheus-auth"
            )
        if body is None:
            raise self.malformed("more than 256 MiB; ask for fewer windows")
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise NoAnswerError(
                f"{where} answered {status} and no JSON; "
                "check that the operator's --prometheus address is that of a Prometheus"
            ) from error
        if not isinstance(answer, dict) or answer.get("status") != "success" or status >= 300:
            said = answer.get("error", "") if isinstance(answer, dict) else ""
            raise NoAnswerError(
                f"{where} answered {status}: {_shown(said) or 'no reason given'}; "
                + ("check the query" if status in {400, 422} else "check Prometheus")
            )
        data = answer.get("data")
        if not isinstance(data, dict):
            raise self.malformed("an answer without data")
        return data, tuple(_warnings(answer))

    def malformed(self, what: str) -> NoAnswerError:
        """Return the error for an answer that is not what was asked for."""
        return NoAnswerError(f"{self.shown_url} gave {what}")


def _labels(value: Mapping[str, Any]) -> dict[str, str]:
    """Return the labels of a series.

    Raises:
        ValueError: They are none: no names and values, or not text that can be written down.
    """
    labels = dict(value.items())
    for text in (*labels, *labels.values()):
        if not isinstance(text, str):
            raise ValueError(f"{type(text).__name__} is no label")  # noqa: TRY004 - a bad answer
        text.encode()
    return labels


def _index(after_s: float, step_s: float) -> int:
    """Return which of the times asked for lies so long after the first; -1: none."""
    index = round(after_s / step_s)
    return index if abs(after_s - index * step_s) <= _TIME_TOLERANCE_S else -1


def _warnings(answer: Mapping[str, Any]) -> list[str]:
    found = answer.get("warnings") or []
    warnings = [_shown(each) for each in (found if isinstance(found, list) else [found])]
    if len(warnings) > _MOST_WARNINGS:
        warnings[_MOST_WARNINGS:] = [f"{len(warnings) - _MOST_WARNINGS} more warnings"]
    if answer.get("isPartial"):
        warnings.append("the source says that its answer is partial")
    return warnings


def _shown(said: object) -> str:
    """Return what a source says in words of its own, so that it can be written down."""
    return str(said)[:300].encode(errors="replace").decode()


def _moved(answer: Answer, index: int) -> Answer:
    series = tuple(
        Series(each.labels, tuple((index, value) for _, value in each.values))
        for each in answer.series
    )
    return Answer(series=series, warnings=answer.warnings)


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
