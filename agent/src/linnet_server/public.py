"""The public API: Open Inference Protocol v2 over REST, feedback, metrics.

- A body is read to its end before a revision is picked: a slow client holds up no swap.
- Every answer names the revision and the model digest that it comes from, in `parameters` and in
  headers.
- Nothing here changes what is served: models come and go by the control socket alone.

Paths, all below `/v2`: `health/live`, `health/ready`, `models/{name}[/versions/{v}]` and below that
`/ready` and `/infer`, `models/{name}/feedback`; and `/metrics`.
A version is a revision or its number.
"""

import asyncio
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
from linnet_server.catalog import LoadedRevision
from linnet_server.dataplane import DataPlane
from linnet_server.errors import (
    BadRequestError,
    MethodNotAllowedError,
    NotFoundError,
    NotReadyError,
    ServerError,
)
from linnet_server.metrics import CONTENT_TYPE, Metrics
from linnet_server.protocol import (
    ID_LIMIT,
    InferRequest,
    Signature,
    parse_infer,
    parse_object,
    render_infer,
    server_metadata,
)
from linnet_server.tensors import Array

_JSON_BYTES_HEADER: Final = b"inference-header-content-length"
_BINARY: Final = (b"content-type", b"application/octet-stream")
_METRICS: Final = (b"content-type", CONTENT_TYPE.encode())


class PublicApp:
    """The ASGI application of the HTTP address."""

    def __init__(
        self,
        plane: DataPlane,
        metrics: Metrics,
        *,
        max_body_bytes: int,
        stopping: asyncio.Event,
    ) -> None:
        self._plane = plane
        self._catalog = plane.catalog
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._stopping = stopping
        self._server = server_metadata()

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

        def parse(signature: Signature) -> InferRequest:
            return parse_infer(body, json_bytes=_read_json_bytes(scope), signature=signature)

        return await self._plane.infer(name, version, parse=parse, render=_render)

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


def _render(
    loaded: LoadedRevision, request_id: str, request: InferRequest, arrays: list[Array]
) -> Response:
    body, json_bytes = render_infer(
        loaded.head,
        request_id=request_id,
        signature=loaded.session.signature,
        wanted=request.wanted,
        arrays=arrays,
    )
    if json_bytes is None:
        return Response(200, body, (JSON, *loaded.headers))
    length = (_JSON_BYTES_HEADER, str(json_bytes).encode())
    return Response(200, body, (_BINARY, length, *loaded.headers))


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
