"""Documents and files of a web server that is not trusted: redirects, challenges, retries.

- A redirect keeps its scheme, never leads to addresses of a node's own machinery, and never
  carries credentials to another host.
- Only the host that was named may ask who we are; a stranger's challenge is not answered.
- What may pass is tried again with a growing, jittered pause; a failed attempt that got further
  than any before it begins the count anew.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPMessage
from typing import Final, Protocol, TypeVar
from urllib.parse import urljoin, urlsplit

from linnet_agent.errors import (
    DigestMismatchError,
    RegistryUnavailableError,
    SourceNotFoundError,
)
from linnet_agent.fetch.patience import AGAIN, Retry, read_retry_after
from linnet_agent.fetch.transport import Answer, TransientError, Transport
from linnet_agent.fetch.wire import split_url

log = logging.getLogger(__name__)

_MAX_HOPS: Final = 6
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

_Result = TypeVar("_Result")


class AbsentError(SourceNotFoundError):
    """404."""


class RangeRefusedError(SourceNotFoundError):
    """416."""


class Guard(Protocol):
    """Who we are at a host, and how it is asked for."""

    def headers(self) -> Mapping[str, str]:
        """Return what to send along."""

    async def answer(self, challenge: str, place: "Place", *, loopback: bool) -> bool:
        """Return true where, after this challenge, it is worth asking again with new headers.

        Raises:
            SourceNotFoundError: Whoever says who we are does not know us.
            TransientError: It could not be asked.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Something to be had by GET.

    Attributes:
        url: Where.
        what: How it is called in sentences.
        guard: Who we are there; None: nobody.
        anywhere: True where the node's owner named the host: any address will do.
    """

    url: str
    what: str
    guard: Guard | None = None
    anywhere: bool = False


@dataclass(frozen=True, slots=True)
class Document:
    """A small thing that was read whole."""

    content: bytes
    url: str
    headers: HTTPMessage


@dataclass(frozen=True, slots=True)
class _Elsewhere:
    """An answer that is not the last one."""

    status: int
    location: str
    challenge: str
    loopback: bool


class Web:
    """Asks for places, patiently.

    Args:
        transport: Sends.
        retry: How patient.
        jitter: Returns 0 to 1; pass ``random.random`` so that nodes spread.
    """

    def __init__(
        self, transport: Transport, *, retry: Retry, jitter: Callable[[], float] = lambda: 1.0
    ) -> None:
        self.transport = transport
        self._retry = retry
        self._jitter = jitter

    async def read(self, place: Place, *, accept: str, max_bytes: int) -> Document:
        """Return a document.

        Raises:
            AbsentError: There is none.
            SourceNotFoundError: The server says no, or the document is larger.
            RegistryUnavailableError: It did not answer in all attempts.
        """

        async def once() -> Document:
            def receive(answer: Answer) -> Document:
                return Document(answer.read_all(max_bytes=max_bytes), place.url, answer.headers)

            return await self.ask(place, headers={"Accept": accept}, receive=receive)

        return await self.patiently(once, what=place.what)

    async def patiently(
        self,
        once: Callable[[], Awaitable[_Result]],
        *,
        what: str,
        progress: Callable[[], int] = lambda: 0,
    ) -> _Result:
        """Return what ``once`` gives, trying again where that may help.

        Args:
            once: One attempt.
            what: How it is called in sentences.
            progress: How far the attempts got; one that got further than any before counts as
                the first failure again.

        Raises:
            RegistryUnavailableError: It failed in all attempts.
        """
        failures, best = 0, progress()
        while True:
            try:
                return await once()
            except TransientError as error:
                failures = failures + 1 if progress() <= best else 1
                best = max(best, progress())
                if failures >= self._retry.attempts:
                    msg = f"{what}: {error} ({failures} attempts)"
                    raise RegistryUnavailableError(msg) from error
                facts = {"what": what, "failures": failures, "error": str(error)[:200]}
                log.info("fetch.retry", extra=facts)
                pause = self._retry.pause_s(failures, self._jitter(), asked_s=error.retry_after_s)
                await asyncio.sleep(pause)

    async def ask(
        self,
        place: Place,
        *,
        headers: Mapping[str, str],
        receive: Callable[[Answer], _Result],
        pulse: Callable[[], None] | None = None,
    ) -> _Result:
        """Send one GET through challenges and redirects; ``receive`` reads what is found there.

        Raises:
            TransientError: It failed, and may not the next time.
            SourceNotFoundError: The server says no.
            DigestMismatchError: Something on the way has packed the bytes.
        """
        url, loopback, answered = place.url, True, False

        def look(answer: Answer) -> _Result | _Elsewhere:
            if answer.status in _REDIRECTS or answer.status == HTTPStatus.UNAUTHORIZED:
                return _Elsewhere(
                    answer.status,
                    answer.headers.get("Location", ""),
                    answer.headers.get("WWW-Authenticate", ""),
                    answer.peer_is_loopback,
                )
            _require_success(answer, what=place.what)
            return receive(answer)

        for _ in range(_MAX_HOPS):
            at_home = same_origin(url, place.url)
            guard = place.guard if at_home else None
            found = await self.transport.send(
                url,
                headers={**headers, **(guard.headers() if guard else {})},
                receive=look,
                anywhere=place.anywhere and at_home,
                loopback=loopback,
                pulse=pulse,
            )
            if not isinstance(found, _Elsewhere):
                return found
            if found.status == HTTPStatus.UNAUTHORIZED:
                if (
                    guard is None
                    or answered
                    or not await guard.answer(found.challenge, place, loopback=found.loopback)
                ):
                    msg = f"{urlsplit(url).hostname} does not let this node read {place.what} (401)"
                    raise SourceNotFoundError(msg)
                answered = True
                continue
            url = _redirected(url, found.location)
            loopback = found.loopback
        msg = f"{urlsplit(place.url).hostname} redirects without end for {place.what}"
        raise SourceNotFoundError(msg)


def same_origin(one: str, other: str) -> bool:
    """Return true where two addresses are of one scheme, host and port."""
    return split_url(one)[0] == split_url(other)[0]


async def side_by_side(tasks: Iterable[Coroutine[None, None, _Result]]) -> list[_Result]:
    """Return what the tasks return, in their order; the first that fails ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(task) for task in tasks]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in running]


def require_status(answer: Answer, *, what: str) -> None:
    """Raise what a status means, unless it is a success.

    Raises:
        TransientError: It may pass.
        SourceNotFoundError: It is final.
    """
    status = answer.status
    if status in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
        return
    fact = f"the server answers {status}"
    msg = f"{fact} for {what}"
    if status == HTTPStatus.NOT_FOUND:
        raise AbsentError(msg)
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        raise RangeRefusedError(msg)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in AGAIN or status < HTTPStatus.OK:
        raise TransientError(fact, retry_after_s=read_retry_after(answer.headers))
    raise SourceNotFoundError(msg)


def _require_success(answer: Answer, *, what: str) -> None:
    require_status(answer, what=what)
    packed = answer.headers.get("Content-Encoding", "identity").strip().lower()
    if packed not in {"", "identity"}:
        msg = f"{what} comes packed ({packed[:20]}) though it was asked for as it is"
        raise DigestMismatchError(msg)


def _redirected(url: str, location: str) -> str:
    try:
        target = urljoin(url, location)
    except ValueError:
        target = location
    source, led = split_url(url)[0], split_url(target)[0]
    if led.scheme != source.scheme or not location:
        msg = f"{source.host} leads to {target[:200]!r}: refused"
        raise SourceNotFoundError(msg)
    return target
