"""The public API: Open Inference Protocol v2 over REST, feedback, metrics.

- A body is read to its end before a revision is picked: a slow client holds up no swap.
- Every answer names the revision and the model digest that it comes from, in `parameters` and in
  headers.
- Nothing here changes what is served: models come and go by the control socket alone.
- A request names models, never files: no path of a client's reaches the disk.
- Where there are tokens, all but liveness and readiness needs one.

Paths, all below `/v2`: `health/live`, `health/ready`, `models/{name}[/versions/{v}]` and below that
`/ready` and `/infer`, `models/{name}/feedback`; and `/metrics`.
A version is a revision or its number.
"""

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Final

from linnet_server.access import Tokens
from linnet_server.coding import inflate
from linnet_server.dataplane import DataPlane
from linnet_server.errors import (
    BadRequestError,
    MethodNotAllowedError,
    NotFoundError,
    NotReadyError,
    ServerError,
)
from linnet_server.exposition import CONTENT_TYPE
from linnet_server.http1 import (
    JSON,
    Request,
    Response,
    error_response,
    json_response,
    read_length,
    unexpected_response,
)
from linnet_server.metrics import Metrics
from linnet_server.protocol import (
    ID_LIMIT,
    InferRequest,
    Signature,
    parse_infer,
    parse_object,
    render_infer,
    server_metadata,
)
from linnet_server.revisions import LoadedRevision
from linnet_server.tensors import Array
from linnet_server.tracing import ANSWER_HEADER as TRACE_ANSWER_HEADER
from linnet_server.tracing import HEADER as TRACE_HEADER
from linnet_server.tracing import Span, Trace, read_trace

if TYPE_CHECKING:
    from linnet_server.span_export import SpanExport

_JSON_BYTES_HEADER: Final = b"inference-header-content-length"
_BINARY: Final = (b"content-type", b"application/octet-stream")
_OPEN_PATHS: Final = frozenset({"/v2/health/live", "/v2/health/ready"})
_METRICS: Final = (b"content-type", CONTENT_TYPE.encode())


class PublicApp:
    """Answers what comes in at the HTTP address."""

    def __init__(
        self,
        plane: DataPlane,
        metrics: Metrics,
        *,
        stopping: asyncio.Event,
        tokens: Tokens | None = None,
        spans: "SpanExport | None" = None,
    ) -> None:
        self._plane = plane
        self._catalog = plane.catalog
        self._metrics = metrics
        self._stopping = stopping
        self._tokens = tokens
        self._spans = spans
        self._server = server_metadata()

    def respond(self, request: Request) -> Response | Awaitable[Response]:
        """Answer one request, at once where that is possible."""
        if TRACE_HEADER in request.headers:
            trace = read_trace(request.headers[TRACE_HEADER])
            if trace is not None:
                return self._respond_traced(request, trace)
        answer = self._respond(request, None)
        return answer if isinstance(answer, Response) else _explain_later(request, answer)

    def _respond_traced(self, request: Request, trace: Trace) -> Response | Awaitable[Response]:
        """Answer with our span in the client's trace, and export it where somebody wants it."""
        span = None if self._spans is None else self._spans.begin(trace)

        def end(response: Response) -> Response:
            if self._spans is not None and span is not None:
                self._spans.end(span, status=response.status)
            return response._replace(
                headers=(*response.headers, (TRACE_ANSWER_HEADER, trace.answer))
            )

        async def end_later(later: Awaitable[Response]) -> Response:
            return end(await _explain_later(request, later))

        answer = self._respond(request, span)
        return end(answer) if isinstance(answer, Response) else end_later(answer)

    def _respond(self, request: Request, span: Span | None) -> Response | Awaitable[Response]:
        try:
            if self._tokens is not None and request.path not in _OPEN_PATHS:
                self._tokens.check(request.headers.get(b"authorization"))
            return self._route(request, span)
        except Exception as error:  # noqa: BLE001 - the outermost place; it is logged
            return _explain(request, error)

    def _route(self, request: Request, span: Span | None) -> Response | Awaitable[Response]:
        match request.path.split("/")[1:]:
            case ["v2", "models", name, "infer"]:
                _expect(request, "POST")
                return self._infer(request, name, None, span)
            case ["v2", "models", name, "versions", version, "infer"]:
                _expect(request, "POST")
                return self._infer(request, name, version, span)
            case ["v2", "models", name, "feedback"]:
                _expect(request, "POST")
                return self._take_feedback(request, name)
            case parts:
                answer = self._look_up(parts)
                _expect(request, "GET")
                return answer

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
                raise NotFoundError(f"no path '/{'/'.join(parts)[:80]}' here")

    def _say_ready(self, name: str, version: str | None) -> Response:
        try:
            loaded = self._catalog.pick(name, version)
        except NotReadyError as error:
            return error_response(error, name=name, ready=False)
        return json_response({"name": name, "ready": True}, headers=loaded.headers)

    def _infer(
        self, request: Request, name: str, version: str | None, span: Span | None
    ) -> Response | Awaitable[Response]:
        def parse(signature: Signature) -> InferRequest:
            json_bytes = read_length(request, _JSON_BYTES_HEADER)
            return parse_infer(_read_body(request), json_bytes=json_bytes, signature=signature)

        return self._plane.infer(name, version, parse=parse, render=_render, span=span)

    def _take_feedback(self, request: Request, name: str) -> Response:
        document: dict[str, Any] = parse_object(_read_body(request))
        request_id = document.get("id")
        if not isinstance(request_id, str) or not 0 < len(request_id) <= ID_LIMIT:
            raise BadRequestError("feedback needs the 'id' of an answer")
        answers = self._catalog.find(name).answers
        verdict = answers.judge(
            request_id, label=document.get("label"), verdict=document.get("verdict")
        )
        return json_response({"id": request_id, "verdict": verdict.value})


def _read_body(request: Request) -> bytes:
    coding = request.headers.get(b"content-encoding")
    return request.body if coding is None else inflate(request.body, coding)


async def _explain_later(request: Request, answer: Awaitable[Response]) -> Response:
    try:
        return await answer
    except Exception as error:  # noqa: BLE001 - the outermost place; it is logged
        return _explain(request, error)


def _explain(request: Request, error: Exception) -> Response:
    if isinstance(error, ServerError):
        return error_response(error)
    return unexpected_response(request.path, error)


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


def _expect(request: Request, method: str) -> None:
    if request.method != method and not (method == "GET" and request.method == "HEAD"):
        raise MethodNotAllowedError(f"use {method} here, not {request.method}")
