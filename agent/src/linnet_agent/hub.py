"""The API server, as an agent needs it: a few calls over httpx, and list-then-watch.

- The token is read again when its file changes: projected tokens are renewed on disk.
- What the server cannot do now is transient (``HubUnavailableError``); what it refuses is not
  (``HubRefusedError``).
- A watch ends for many reasons; whoever follows lists again. Bookmarks keep the place meanwhile.
"""

import base64
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from linnet_agent.errors import HubRefusedError, HubUnavailableError

MERGE_PATCH: Final = "application/merge-patch+json"
_PAGE: Final = 500
_WATCH_S: Final = 280
"""A watch is asked to end by itself before proxies end it; API servers end theirs after 30 to 60
minutes."""

_BUSY: Final = frozenset({408, 425, 429})

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Listing:
    """All objects at one time, and that time."""

    items: tuple[Object, ...]
    version: str


@dataclass(frozen=True, slots=True)
class Change:
    """One event of a watch: ADDED, MODIFIED, DELETED."""

    kind: str
    object: Object


class WatchExpiredError(Exception):
    """The server no longer has what was after that version: list again."""


class Hub:
    """One API server."""

    def __init__(
        self, url: str, *, token_file: Path | None, ca_file: Path | None, timeout_s: float = 10.0
    ) -> None:
        verify: ssl.SSLContext | bool = False
        if url.startswith("https://"):
            verify = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
        self._token = TokenFile(token_file)
        self._timeout_s = timeout_s
        self._http = httpx.AsyncClient(
            base_url=url,
            verify=verify,
            timeout=httpx.Timeout(timeout_s, connect=5.0),
            trust_env=False,
            headers={"User-Agent": "linnet-agent"},
            limits=httpx.Limits(max_connections=8, max_keepalive_connections=4),
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Object:
        """Return one object or list.

        Raises:
            HubUnavailableError: No answer, or not now.
            HubRefusedError: The server says no.
        """
        return await self._send("GET", path, params=params)

    async def create(self, path: str, body: Object) -> Object:
        """Create an object; the errors are those of ``get``."""
        return await self._send("POST", path, body=body)

    async def merge(self, path: str, body: Object) -> Object:
        """Send a merge patch: null removes a field. The errors are those of ``get``."""
        return await self._send(
            "PATCH",
            path,
            params={"fieldValidation": "Strict"},
            body=body,
            content_type=MERGE_PATCH,
        )

    async def list(self, path: str, params: Mapping[str, str]) -> Listing:
        """Return all objects, page by page; the errors are those of ``get``."""
        items: list[Object] = []
        more = {"limit": str(_PAGE)}
        while True:
            page = await self.get(path, {**params, **more})
            items.extend(page.get("items") or [])
            metadata = page.get("metadata") or {}
            if not metadata.get("continue"):
                return Listing(tuple(items), str(metadata.get("resourceVersion", "")))
            more["continue"] = metadata["continue"]

    async def watch(
        self, path: str, params: Mapping[str, str], *, version: str
    ) -> AsyncIterator[Change]:
        """Yield changes after ``version`` until the server ends the watch.

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
            "timeoutSeconds": str(_WATCH_S),
        }
        timeout = httpx.Timeout(self._timeout_s, connect=5.0, read=_WATCH_S + 20.0)
        try:
            async with self._http.stream(
                "GET", path, params=query, headers=self._headers(), timeout=timeout
            ) as answer:
                if not answer.is_success:
                    await answer.aread()
                    raise _refusal(answer)
                async for line in answer.aiter_lines():
                    if line and (change := _read_change(line)) is not None:
                        yield change
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
    ) -> Object:
        headers = self._headers() | {"Content-Type": content_type}
        content = None if body is None else json.dumps(body).encode()
        try:
            answer = await self._http.request(
                method, path, params=params, content=content, headers=headers
            )
        except httpx.HTTPError as error:
            raise HubUnavailableError(
                f"the API server does not answer: {type(error).__name__}"
            ) from error
        if not answer.is_success:
            raise _refusal(answer)
        try:
            document: Object = answer.json()
        except ValueError as error:
            raise HubUnavailableError("the API server's answer is not JSON") from error
        return document

    def _headers(self) -> dict[str, str]:
        token = self._token.read()
        return {"Authorization": f"Bearer {token}"} if token else {}


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
                self._token, self._seen = self._path.read_text().strip(), seen
        except OSError:
            return self._token
        return self._token

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


def _refusal(answer: httpx.Response) -> HubRefusedError | HubUnavailableError | WatchExpiredError:
    status = answer.status_code
    try:
        message = str(answer.json().get("message"))[:400]
    except (ValueError, AttributeError):
        message = answer.text[:200]
    if status == httpx.codes.GONE:
        return WatchExpiredError(message)
    if status >= httpx.codes.INTERNAL_SERVER_ERROR or status in _BUSY:
        return HubUnavailableError(f"the API server answered {status}: {message}")
    return HubRefusedError(f"the API server answered {status}: {message}", status=status)


def _read_change(line: str) -> Change | None:
    try:
        event = json.loads(line)
        kind, body = event["type"], event["object"]
    except (ValueError, KeyError, TypeError) as error:
        raise HubUnavailableError(f"the watch sent no event: {line[:100]}") from error
    if kind == "ERROR":
        if body.get("code") == httpx.codes.GONE:
            raise WatchExpiredError(str(body.get("message")))
        raise HubUnavailableError(f"the watch ended: {body.get('message')}")
    return None if kind == "BOOKMARK" else Change(kind, body)
