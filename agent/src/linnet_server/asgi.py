"""The few lines of ASGI that the server needs: read a body with a limit, answer, name errors.

- No framework: for a model that takes 50 microseconds, one would be most of the bill.
- Every error is `{"error": "<sentence>"}`, as the protocol says; an unexpected one is
  logged once, here, and is a 500.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, Final, NamedTuple

import orjson

from linnet_server.errors import BadRequestError, ServerError, TooLargeError

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Header = tuple[bytes, bytes]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

JSON: Final[Header] = (b"content-type", b"application/json")
_SERVER_ERROR: Final = 500


class Response(NamedTuple):
    """A whole answer."""

    status: int
    body: bytes = b""
    headers: tuple[Header, ...] = ()


class ClientGone(Exception):  # noqa: N818 - not an error: nobody waits for an answer
    """The client has closed the connection before its request was complete."""


def json_response(
    document: Mapping[str, Any], status: int = 200, headers: Iterable[Header] = ()
) -> Response:
    """Return ``document`` as an answer."""
    return Response(status, orjson.dumps(document), (JSON, *headers))


def error_response(
    error: ServerError,
    **facts: Any,  # noqa: ANN401 - JSON
) -> Response:
    """Return ``error`` as an answer.

    Args:
        error: What went wrong.
        facts: What stands beside the sentence.
    """
    headers = list(error.asked)
    if error.retry_after_s:
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    if isinstance(error, TooLargeError):
        headers.append((b"connection", b"close"))  # the rest of the body is of no use
    return json_response({"error": str(error), **facts}, error.status, headers)


def unexpected_response(path: str, error: Exception) -> Response:
    """Log ``error``, which nobody has foreseen, and return a 500."""
    log.error("server.unexpected", extra={"path": path}, exc_info=error)
    return json_response({"error": "the server failed; its log says why"}, _SERVER_ERROR)


def find_header(scope: Scope, name: bytes) -> bytes | None:
    """Return the first header of that name, which is in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


async def read_body(scope: Scope, receive: Receive, *, limit_bytes: int) -> bytes:
    """Return the whole body.

    Raises:
        TooLargeError: It is longer than ``limit_bytes``.
        BadRequestError: Its content-length is no number.
        ClientGone: The connection closed before its end.
    """
    declared = find_header(scope, b"content-length")
    if declared is not None:
        if not declared.isdigit():
            raise BadRequestError("content-length is not a number")
        if int(declared) > limit_bytes:
            raise TooLargeError(
                f"the body has {int(declared)} bytes; at most {limit_bytes} are taken"
            )
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        size += len(part)
        if size > limit_bytes:
            raise TooLargeError(f"the body has more than {limit_bytes} bytes")
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def send_response(send: Send, response: Response) -> None:
    """Send ``response`` in one piece."""
    length = (b"content-length", str(len(response.body)).encode())
    await send(
        {
            "type": "http.response.start",
            "status": response.status,
            "headers": [*response.headers, length],
        }
    )
    await send({"type": "http.response.body", "body": response.body})
