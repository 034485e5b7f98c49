"""The API server, as an agent needs it: a few calls over httpx, and list-then-watch.

- The token is read again when its file changes (projected tokens are renewed on disk), and when the
  server no longer knows it.
- What the server cannot do now is transient (``HubUnavailableError``); what it refuses is not
  (``HubRefusedError``).
- A watch ends for many reasons; whoever follows goes on where it was, for bookmarks keep the place.
  One that is silent for too long has ended: a lost connection says nothing.
- No answer is larger than its bound, none is read twice in two ways (a key that stands twice, JSON
  without end); a compromised hub costs an agent neither memory nor time.
- Each answer says what time it is there (``date``): who has no clock can ask.
"""

import base64
import email.utils
import json
import logging
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx

from linnet_agent.errors import HubRefusedError, HubUnavailableError
from linnet_agent.verify.strict_json import as_list, as_object, parse_json_object

log = logging.getLogger(__name__)

MERGE_PATCH: Final = "application/merge-patch+json"

_PAGE: Final = 20
"""A TrustPolicy with all its trust roots is a megabyte."""

_MAX_PAGES: Final = 200
_MAX_PAGE_BYTES: Final = 32 << 20
_MAX_LIST_BYTES: Final = 128 << 20
_MAX_OBJECT_BYTES: Final = 4 << 20
"""etcd takes 1.5 MiB; JSON may be a little more than that, and says what is no UTF-8 in more."""

_WATCH_S: Final = 280.0
"""A watch is asked to end by itself before proxies end it; API servers end theirs after 30 to 60
minutes."""

_SILENCE_S: Final = 150.0
"""Bookmarks come about once a minute."""

_BUSY: Final = frozenset({408, 425, 429})

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Listing:
    """All objects at one time, and that time."""

    items: tuple[Object, ...]
    version: str


@dataclass(frozen=True, slots=True)
class Change:
    """One event of a watch: ADDED, MODIFIED, DELETED, and BOOKMARK, which only says a version."""

    kind: str
    object: Object
    version: str


class WatchExpiredError(Exception):
    """The server no longer has what was after that version: list again."""


class Hub:
    """One API server."""

    def __init__(
        self,
        url: str,
        *,
        token_file: Path | None,
        ca_file: Path | None,
        timeout_s: float = 10.0,
        watch_s: float = _WATCH_S,
        silence_s: float = _SILENCE_S,
    ) -> None:
        verify: ssl.SSLContext | bool = False
        if url.startswith("https://"):
            verify = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
        self._token = TokenFile(token_file)
        self._timeout_s = timeout_s
        self._watch_s = watch_s
        self._silence_s = silence_s
        self.date: datetime | None = None
        """What the server's clock said in its last answer."""
        self._http = httpx.AsyncClient(
            base_url=url,
            verify=verify,
            timeout=httpx.Timeout(timeout_s, connect=5.0),
            trust_env=False,
            headers={"User-Agent": "linnet-agent", "Accept-Encoding": "identity"},
            limits=httpx.Limits(max_connections=8, max_keepalive_connections=4),
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Object:
        """Return one object.

        Raises:
            HubUnavailableError: No answer, or not now.
            HubRefusedError: The server says no.
        """
        return (await self._send("GET", path, params=params))[0]

    async def create(self, path: str, body: Object) -> Object:
        """Create an object; the errors are those of ``get``."""
        return (await self._send("POST", path, body=body))[0]

    async def merge(self, path: str, body: Object) -> Object:
        """Send a merge patch: null removes a field. The errors are those of ``get``."""
        answer, _ = await self._send(
            "PATCH",
            path,
            params={"fieldValidation": "Strict"},
            body=body,
            content_type=MERGE_PATCH,
        )
        return answer

    async def list(self, path: str, params: Mapping[str, str]) -> Listing:
        """Return all objects, page by page; the errors are those of ``get``."""
        items: list[Object] = []
        more = {"limit": str(_PAGE)}
        left_bytes = _MAX_LIST_BYTES
        for _ in range(_MAX_PAGES):
            page, size_bytes = await self._send(
                "GET", path, params={**params, **more}, max_bytes=min(_MAX_PAGE_BYTES, left_bytes)
            )
            left_bytes -= size_bytes
            items.extend(_sound_items(page))
            metadata = as_object(page.get("metadata")) or {}
            if not metadata.get("continue"):
                return Listing(tuple(items), str(metadata.get("resourceVersion", "")))
            more["continue"] = str(metadata["continue"])
        raise HubUnavailableError(f"the API server's list has more than {_MAX_PAGES} pages")

    async def watch(
        self, path: str, params: Mapping[str, str], *, version: str
    ) -> AsyncIterator[Change]:
        """Yield changes after ``version`` until the watch ends, or is silent for too long.

        Raises:
            WatchExpiredError: List again.
            HubUnavailableError: The connection broke.
            HubRefusedError: The server says no.
        """
        query = {
            **params,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(max(1, int(self._watch_s))),
        }
        timeout = httpx.Timeout(self._timeout_s, connect=5.0, read=self._silence_s)
        try:
            async with self._http.stream(
                "GET", path, params=query, headers=self._headers(), timeout=timeout
            ) as answer:
                self._note_date(answer)
                if not answer.is_success:
                    if answer.status_code == httpx.codes.UNAUTHORIZED:
                        self._token.forget()
                    body = await _read_bounded(answer, _MAX_OBJECT_BYTES)
                    if answer.status_code == httpx.codes.GONE:
                        raise WatchExpiredError(_message(body))
                    raise _refusal(answer.status_code, body)
                async for line in _lines(answer):
                    if (change := _read_change(line)) is not None:
                        yield change
        except httpx.ReadTimeout:
            log.info("watch.silent", extra={"path": path, "seconds": self._silence_s})
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise HubUnavailableError(f"the watch broke: {type(error).__name__}") from error

    async def _send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
        max_bytes: int = _MAX_OBJECT_BYTES,
    ) -> tuple[Object, int]:
        """Return the answer and its size; a token that is no longer known is read again, once."""
        content = None if body is None else json.dumps(body).encode()
        headers = self._headers()
        status, raw = await self._exchange(
            method, path, params, content, headers | {"Content-Type": content_type}, max_bytes
        )
        if status == httpx.codes.UNAUTHORIZED:
            self._token.forget()
            if (renewed := self._headers()) != headers:
                status, raw = await self._exchange(
                    method,
                    path,
                    params,
                    content,
                    renewed | {"Content-Type": content_type},
                    max_bytes,
                )
        if not httpx.codes.is_success(status):
            raise _refusal(status, raw)
        try:
            return parse_json_object(raw, max_bytes=max_bytes), len(raw)
        except ValueError as error:
            raise HubUnavailableError(f"the API server's answer is no object: {error}") from error

    async def _exchange(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        content: bytes | None,
        headers: Mapping[str, str],
        max_bytes: int,
    ) -> tuple[int, bytes]:
        try:
            async with self._http.stream(
                method, path, params=params, content=content, headers=headers
            ) as answer:
                self._note_date(answer)
                return answer.status_code, await _read_bounded(answer, max_bytes)
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise HubUnavailableError(
                f"the API server does not answer: {type(error).__name__}"
            ) from error

    def _headers(self) -> dict[str, str]:
        token = self._token.read()
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _note_date(self, answer: httpx.Response) -> None:
        try:
            said = email.utils.parsedate_to_datetime(answer.headers["date"])
        except (KeyError, ValueError, TypeError):
            return
        self.date = said.replace(tzinfo=UTC) if said.tzinfo is None else said.astimezone(UTC)


async def _read_bounded(answer: httpx.Response, max_bytes: int) -> bytes:
    """Return the body.

    Raises:
        HubUnavailableError: It is larger than ``max_bytes``.
    """
    body = bytearray()
    async for block in answer.aiter_raw():
        body += block
        if len(body) > max_bytes:
            raise HubUnavailableError(f"the API server's answer is larger than {max_bytes} bytes")
    return bytes(body)


async def _lines(answer: httpx.Response) -> AsyncIterator[bytes]:
    """Yield the lines of a body as they come.

    Raises:
        HubUnavailableError: One is larger than an object can be.
    """
    kept = bytearray()
    async for block in answer.aiter_raw():
        kept += block
        *whole, rest = kept.split(b"\n")
        kept = bytearray(rest)
        if len(kept) > _MAX_OBJECT_BYTES:
            raise HubUnavailableError(f"an event is larger than {_MAX_OBJECT_BYTES} bytes")
        for line in whole:
            if line.strip():
                yield bytes(line)


class TokenFile:
    """A bearer token in a file that is renewed in place."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._token = ""

    def read(self) -> str:
        """Return the token as it is now; the one before where the file cannot be read."""
        if self._path is None:
            return ""
        try:
            stat = self._path.stat()
            seen = (stat.st_mtime_ns, stat.st_ino)
            if seen != self._seen:
                self._token, self._seen = self._path.read_text(encoding="ascii").strip(), seen
        except (OSError, ValueError):
            return self._token
        return self._token

    def forget(self) -> None:
        """Read the file again at the next call, whether it seems to have changed or not."""
        self._seen = None

    def node_uid(self) -> str | None:
        """Return the uid of the Node that the token is bound to; None where it says none.

        The claim is read, not verified: it is what this process was given as its own identity.
        """
        try:
            claims = self.read().split(".")[1]
            document = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
            return str(document["kubernetes.io"]["node"]["uid"])
        except (IndexError, ValueError, KeyError, TypeError):
            return None


def _refusal(status: int, raw: bytes) -> HubRefusedError | HubUnavailableError:
    said = f"the API server answered {status}: {_message(raw)}"
    busy = status in _BUSY or status >= httpx.codes.INTERNAL_SERVER_ERROR
    # GONE is of a list whose pages took too long: the next one is another list.
    if busy or status == httpx.codes.GONE:
        return HubUnavailableError(said)
    return HubRefusedError(said, status=status)


def _message(raw: bytes) -> str:
    try:
        return str(parse_json_object(raw, max_bytes=_MAX_OBJECT_BYTES).get("message"))[:400]
    except ValueError:
        return raw[:200].decode(errors="replace")


def _sound_items(page: Object) -> list[Object]:
    items = as_list(page.get("items") or [])
    if items is None:
        raise HubUnavailableError("the API server's list has no items")
    sound = [item for item in items if is_sound(item)]
    if len(sound) < len(items):
        log.warning("hub.unsound", extra={"count": len(items) - len(sound)})
    return sound


def is_sound(item: object) -> bool:
    """Tell whether ``item`` is an object with a name, as every object of the API is."""
    document = as_object(item)
    metadata = as_object(document.get("metadata")) if document is not None else None
    if metadata is None:
        return False
    name, namespace = metadata.get("name"), metadata.get("namespace")
    return isinstance(name, str) and bool(name) and isinstance(namespace, str | None)


def _read_change(line: bytes) -> Change | None:
    try:
        event = parse_json_object(line, max_bytes=_MAX_OBJECT_BYTES)
        kind, body = str(event["type"]), as_object(event["object"])
        if body is None:
            raise ValueError("no object")  # noqa: TRY301 - as an event that cannot be read
    except (ValueError, KeyError) as error:
        raise HubUnavailableError(f"the watch sent no event: {error}") from error
    if kind == "ERROR":
        if body.get("code") == httpx.codes.GONE:
            raise WatchExpiredError(str(body.get("message"))[:400])
        raise HubUnavailableError(f"the watch ended: {str(body.get('message'))[:400]}")
    metadata = as_object(body.get("metadata")) or {}
    version = metadata.get("resourceVersion")
    if not isinstance(version, str) or (kind != "BOOKMARK" and not is_sound(body)):
        raise HubUnavailableError("the watch sent an object without a name or a version")
    return Change(kind, body, version)
