"""The public API: Open Inference Protocol v2 over REST, feedback, metrics.

- A body is read to its end before a revision is picked: a slow client holds up no swap.
- A duration counts from the last byte of the request to the rendered answer.
- Every answer names the revision and the model digest that it comes from, in `parameters` and in
  headers.
- Nothing here changes what is served: models come and go by the control socket alone.

Paths, all below `/v2`: `health/live`, `health/ready`, `models/{name}[/versions/{v}]` and below that
`/ready` and `/infer`, `models/{name}/feedback`; and `/metrics`.
A version is a revision or its number.
"""

import asyncio
import itertools
import time
import uuid
from collections.abc import Callable
from importlib import metadata
from typing import Any, Final

from linnet_server.asgi import (
    JSON,
    ClientGone,
    Receive,
    Response,
    Scope,
    Send,
    error_response,
    find_header,
    json_response,
    read_body,
    send_response,
    unexpected_response,
)
from linnet_server.catalog import Catalog, LoadedRevision
from linnet_server.errors import (
    BadRequestError,
    ClientError,
    MethodNotAllowedError,
    NotFoundError,
    NotReadyError,
    ServerError,
)
from linnet_server.metrics import CONTENT_TYPE, Metrics, Outcome
from linnet_server.protocol import (
    EXTENSIONS,
    ID_LIMIT,
    InferRequest,
    parse_infer,
    parse_object,
    render_infer,
)
from linnet_server.tensors import Array

_JSON_BYTES_HEADER: Final = b"inference-header-content-length"
_BINARY: Final = (b"content-type", b"application/octet-stream")
_METRICS: Final = (b"content-type", CONTENT_TYPE.encode())


class PublicApp:
    """The ASGI application of the HTTP address."""

    def __init__(
        self,
        catalog: Catalog,
        metrics: Metrics,
        *,
        deadline_s: float,
        max_body_bytes: int,
        stopping: asyncio.Event,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        self._catalog = catalog
        self._metrics = metrics
        self._deadline_s = deadline_s
        self._max_body_bytes = max_body_bytes
        self._stopping = stopping
        self._new_id = new_id or _number_ids(uuid.uuid4().hex)
        self._server = {
            "name": "linnet",
            "version": metadata.version("linnet"),
            "extensions": list(EXTENSIONS),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        assert scope["type"] == "http", scope["type"]
        try:
            response = await self._respond(scope, receive)
        except ClientGone:
            return
        except ServerError as error:
            response = error_response(error)
        except Exception as error:  # noqa: BLE001 - the outermost place; it is logged
            response = unexpected_response(scope["path"], error)
        await send_response(send, response)

    async def _respond(self, scope: Scope, receive: Receive) -> Response:
        match scope["path"].split("/")[1:]:
            case ["v2", "models", name, "infer"]:
                _expect(scope, "POST")
                return await self._infer(scope, receive, name, None)
            case ["v2", "models", name, "versions", version, "infer"]:
                _expect(scope, "POST")
                return await self._infer(scope, receive, name, version)
            case ["v2", "models", name, "feedback"]:
                _expect(scope, "POST")
                return await self._take_feedback(scope, receive, name)
            case parts:
                _expect(scope, "GET")
                return self._look_up(parts)

    def _look_up(self, parts: list[str]) -> Response:
        match parts:
            case ["v2"] | ["v2", ""]:
                return json_response(self._server)
            case ["v2", "health", "live"]:
                return json_response({"live": True})
            case ["v2", "health", "ready"]:
                ready = self._catalog.ready and not self._stopping.is_set()
                return json_response({"ready": ready}, 200 if ready else 503)
            case ["v2", "models", name]:
                return json_response(self._catalog.pick(name).metadata())
            case ["v2", "models", name, "versions", version]:
                return json_response(self._catalog.pick(name, version).metadata())
            case ["v2", "models", name, "ready"]:
                return self._say_ready(name, None)
            case ["v2", "models", name, "versions", version, "ready"]:
                return self._say_ready(name, version)
            case ["metrics"]:
                return Response(200, self._metrics.render(), (_METRICS,))
            case _:
                raise NotFoundError("no such path")

    def _say_ready(self, name: str, version: str | None) -> Response:
        try:
            loaded = self._catalog.pick(name, version)
        except NotReadyError as error:
            return error_response(error, name=name, ready=False)
        return json_response({"name": name, "ready": True}, headers=loaded.headers)

    async def _infer(
        self, scope: Scope, receive: Receive, name: str, version: str | None
    ) -> Response:
        body = await read_body(scope, receive, limit_bytes=self._max_body_bytes)
        started_at = time.perf_counter()
        loaded = self._catalog.pick(name, version)
        loaded.hold()
        outcome: Outcome | None = Outcome.FAILURE
        try:
            response = await self._answer(loaded, scope, body)
            outcome = Outcome.SUCCESS
        except ServerError as error:
            outcome = Outcome.REJECTED if isinstance(error, ClientError) else Outcome.FAILURE
            response = error_response(error, traced=loaded.headers)
        except asyncio.CancelledError:
            outcome = None  # the server stops, and nobody gets an answer
            raise
        finally:
            if outcome is not None:
                loaded.count(outcome, time.perf_counter() - started_at)
            loaded.release()
        return response

    async def _answer(self, loaded: LoadedRevision, scope: Scope, body: bytes) -> Response:
        session = loaded.session
        request = parse_infer(
            body,
            json_bytes=_read_json_bytes(scope),
            signature=session.signature,
        )
        arrays = await loaded.lane.run(
            request.feeds,
            request.wanted.names,
            elements=request.elements,
            deadline_s=self._deadline_s,
        )
        return self._render(loaded, request, arrays)

    def _render(
        self, loaded: LoadedRevision, request: InferRequest, arrays: list[Array]
    ) -> Response:
        request_id = request.id or self._new_id()
        body, json_bytes = render_infer(
            loaded.head,
            request_id=request_id,
            signature=loaded.session.signature,
            wanted=request.wanted,
            arrays=arrays,
        )
        label_at = request.wanted.label_at
        output = None if label_at is None else arrays[label_at]
        loaded.answers.remember(request_id, loaded.metrics, output)
        if json_bytes is None:
            return Response(200, body, (JSON, *loaded.headers))
        length = (_JSON_BYTES_HEADER, str(json_bytes).encode())
        return Response(200, body, (_BINARY, length, *loaded.headers))

    async def _take_feedback(self, scope: Scope, receive: Receive, name: str) -> Response:
        body = await read_body(scope, receive, limit_bytes=self._max_body_bytes)
        document: dict[str, Any] = parse_object(body)
        request_id = document.get("id")
        if not isinstance(request_id, str) or not 0 < len(request_id) <= ID_LIMIT:
            raise BadRequestError("feedback needs the 'id' of an answer")
        answers = self._catalog.find(name).answers
        verdict = answers.judge(
            request_id, label=document.get("label"), verdict=document.get("verdict")
        )
        return json_response({"id": request_id, "verdict": verdict.value})


def _number_ids(prefix: str) -> Callable[[], str]:
    """Return a source of ids; a UUID for each would cost as much as a small model."""
    numbers = itertools.count(1)
    return lambda: f"{prefix}-{next(numbers)}"


def _expect(scope: Scope, method: str) -> None:
    if scope["method"] != method and not (method == "GET" and scope["method"] == "HEAD"):
        raise MethodNotAllowedError(f"use {method} here, not {scope['method']}")


def _read_json_bytes(scope: Scope) -> int | None:
    value = find_header(scope, _JSON_BYTES_HEADER)
    if value is None:
        return None
    if not value.isdigit():
        raise BadRequestError("Inference-Header-Content-Length is not a number")
    return int(value)
