"""The public API over gRPC: the Open Inference Protocol v2, six methods, no streams.

- The same data plane as over REST: the same revisions, queues, counts and sentences.
- A client's deadline counts where it is shorter than the server's.
- Every answer names revision and model digest, in its parameters; an error in its trailing
  metadata.
- A message above the size of a body is refused by gRPC itself, and so are more calls at once than
  `MAX_CALLS`; connections that only idle, or ping without end, are closed.
- The messages that are here at once share one budget with the bodies that come over HTTP. A message
  that is still arriving is not in it: gRPC tells nobody of one before it is whole. Hence a token is
  looked at before.

The module `grpc` costs 10 MiB: it is imported where an address is given, and nowhere else.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from linnet_server import inference_pb2 as pb
from linnet_server.access import Access, TlsFiles, Tokens
from linnet_server.access_log import log_grpc
from linnet_server.budget import TOO_MANY, BodyBudget, counted
from linnet_server.dataplane import DataPlane
from linnet_server.errors import (
    BadRequestError,
    NotFoundError,
    NotReadyError,
    OverloadedError,
    ServerError,
)
from linnet_server.protocol import InferRequest, Signature, server_metadata
from linnet_server.protocol_grpc import (
    parse_infer_message,
    render_infer_message,
    render_metadata_message,
)
from linnet_server.revisions import LoadedRevision
from linnet_server.tensors import Array
from linnet_server.tracing import Span, Trace, read_trace

if TYPE_CHECKING:
    from linnet_server.span_export import SpanExport

log = logging.getLogger(__name__)

SERVICE: Final = "inference.GRPCInferenceService"
_OPEN_METHODS: Final = frozenset({"ServerLive", "ServerReady"})

_CODES: Final = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    404: grpc.StatusCode.NOT_FOUND,
    405: grpc.StatusCode.UNIMPLEMENTED,
    401: grpc.StatusCode.UNAUTHENTICATED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

CONNECTION_AGE_S: Final = 600
CONNECTION_GRACE_S: Final = 120
"""A connection is asked to end after the one, and ended after the other: a call that has begun and
never says its message to the end would stay for ever. Clients connect again by themselves."""

MAX_CALLS: Final = 4096
"""As many as there may be connections over HTTP; one more is RESOURCE_EXHAUSTED, by gRPC itself."""

_FRAME_BYTES: Final = 64 << 10
"""What a message may have beside its tensors."""

Question = TypeVar("Question", bound=Message)
Context = Any
"""A ``grpc.aio.ServicerContext``; grpc has no types."""


class _Call(NamedTuple):
    """What a method may need to know beside its message."""

    context: Context
    span: Span | None


class GrpcListener:
    """The gRPC address."""

    def __init__(
        self,
        plane: DataPlane,
        *,
        address: str,
        max_body_bytes: int,
        budget: BodyBudget,
        stopping: asyncio.Event,
        access: Access,
        access_log: bool,
        spans: "SpanExport | None" = None,
    ) -> None:
        self._plane = plane
        self._catalog = plane.catalog
        self._stopping = stopping
        self._budget = budget
        self._tokens = access.tokens
        self._spans = spans
        self._log = log_grpc if access_log else None
        self._server = grpc.aio.server(
            maximum_concurrent_rpcs=MAX_CALLS,
            options=(
                ("grpc.max_receive_message_length", max_body_bytes + _FRAME_BYTES),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
                ("grpc.max_concurrent_streams", 1024),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.http2.max_ping_strikes", 2),
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_timeout_ms", 20_000),
                ("grpc.max_connection_idle_ms", 600_000),
                ("grpc.max_connection_age_ms", CONNECTION_AGE_S * 1000),
                ("grpc.max_connection_age_grace_ms", CONNECTION_GRACE_S * 1000),
            ),
        )
        self._server.add_generic_rpc_handlers((self._methods(),))
        self.port: Final[int] = _bind(self._server, address, access.tls)

    async def start(self) -> None:
        """Listen."""
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Take no new requests; those under way have ``grace_s`` seconds to end."""
        await self._server.stop(grace_s)

    def _methods(self) -> "_Methods":
        ours = (
            self._unary(pb.ServerLiveRequest, self._server_live),
            self._unary(pb.ServerReadyRequest, self._server_ready),
            self._unary(pb.ModelReadyRequest, self._model_ready),
            self._unary(pb.ServerMetadataRequest, self._server_metadata),
            self._unary(pb.ModelMetadataRequest, self._model_metadata),
            self._unary(pb.ModelInferRequest, self._model_infer),
        )
        return _Methods(dict(ours), self._tokens, self._refuse)

    def _unary(
        self, question: type[Question], answer: Callable[[Question, _Call], Awaitable[Message]]
    ) -> tuple[str, object]:
        """Return ``answer`` as a method, with its name."""
        name = question.DESCRIPTOR.name.removesuffix("Request")

        async def handle(raw: bytes, context: Context) -> Message:
            fits = self._budget.take(counted(len(raw)))

            async def parse_and_answer(call: _Call) -> Message:
                if not fits:
                    raise OverloadedError(TOO_MANY)
                return await answer(_parse(question, raw), call)

            try:
                return await self._respond(name, context, parse_and_answer)
            finally:
                self._budget.give_back(counted(len(raw)))

        # No deserializer: what it cannot read would be an error of the server's, with a traceback.
        return name, grpc.unary_unary_rpc_method_handler(handle, response_serializer=_serialize)

    def _refuse(self, name: str, error: ServerError) -> object:
        """Return a method that refuses with ``error`` and reads no message."""

        async def handle(_: object, context: Context) -> Message:
            async def refuse(_: _Call) -> Message:
                raise error

            return await self._respond(name, context, refuse)

        return grpc.stream_unary_rpc_method_handler(handle, response_serializer=_serialize)

    async def _respond(
        self, name: str, context: Context, answer: Callable[[_Call], Awaitable[Message]]
    ) -> Message:
        """Return what ``answer`` returns; what it raises is a status with a sentence."""
        asked_at = monotonic()
        trace = read_trace(_find(context.invocation_metadata(), "traceparent"))
        span: Span | None = None
        if trace is not None:
            context.set_trailing_metadata(_trail(trace))
            span = None if self._spans is None else self._spans.begin(trace)
        code, status = grpc.StatusCode.OK, 200
        try:
            return await answer(_Call(context, span))
        except ServerError as error:
            code, status = _CODES[error.status], error.status
            await context.abort(code, str(error), _tell(error, trace))
        except asyncio.CancelledError:
            code, span = grpc.StatusCode.CANCELLED, None  # nobody gets an answer
            raise
        except Exception:
            code, status = grpc.StatusCode.INTERNAL, 500
            log.exception("server.unexpected", extra={"path": name})
            await context.abort(code, "the server failed; its log says why", _trail(trace))
        finally:
            if self._spans is not None and span is not None:
                self._spans.end(span, status=status, grpc_code=code.value[0])
            if self._log is not None:
                self._log(name, code.name, monotonic() - asked_at, trace)
        raise AssertionError("abort raises")

    async def _server_live(self, _: pb.ServerLiveRequest, __: _Call) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def _server_ready(self, _: pb.ServerReadyRequest, __: _Call) -> pb.ServerReadyResponse:
        ready = self._catalog.ready and not self._stopping.is_set()
        return pb.ServerReadyResponse(ready=ready)

    async def _model_ready(self, question: pb.ModelReadyRequest, _: _Call) -> pb.ModelReadyResponse:
        try:
            self._catalog.pick(question.name, question.version or None)
        except (NotReadyError, NotFoundError):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def _server_metadata(
        self, _: pb.ServerMetadataRequest, __: Context
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(**server_metadata())

    async def _model_metadata(
        self, question: pb.ModelMetadataRequest, _: _Call
    ) -> pb.ModelMetadataResponse:
        loaded = self._catalog.pick(question.name, question.version or None)
        return render_metadata_message(loaded.metadata())

    async def _model_infer(
        self, question: pb.ModelInferRequest, call: _Call
    ) -> pb.ModelInferResponse:
        def parse(signature: Signature) -> InferRequest:
            return parse_infer_message(question, signature)

        answer = self._plane.infer(
            question.model_name,
            question.model_version or None,
            parse=parse,
            render=_render,
            deadline_s=call.context.time_remaining(),
            span=call.span,
        )
        return answer if isinstance(answer, pb.ModelInferResponse) else await answer


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Finds the method of a call, by its head: before a byte of its message is taken."""

    def __init__(
        self,
        methods: Mapping[str, object],
        tokens: Tokens | None,
        refuse: Callable[[str, ServerError], object],
    ) -> None:
        self._methods = methods
        self._tokens = tokens
        self._refuse = refuse

    def service(self, details: Any) -> object:  # noqa: ANN401 - grpc has no types
        """Return the method; None where there is none of that name."""
        service, _, name = details.method.removeprefix("/").partition("/")
        method = self._methods.get(name) if service == SERVICE else None
        if method is None or self._tokens is None or name in _OPEN_METHODS:
            return method
        try:
            self._tokens.check(_find(details.invocation_metadata, "authorization"))
        except ServerError as error:
            return self._refuse(name, error)
        return method


def _render(
    loaded: LoadedRevision, request_id: str, request: InferRequest, arrays: list[Array]
) -> pb.ModelInferResponse:
    return render_infer_message(
        loaded.head,
        request_id=request_id,
        signature=loaded.session.signature,
        wanted=request.wanted,
        arrays=arrays,
    )


def _tell(error: ServerError, trace: Trace | None) -> tuple[tuple[str, str], ...]:
    """Return what stands beside the sentence of ``error``."""
    trailing = [(name.decode(), value.decode()) for name, value in error.asked]
    if error.retry_after_s:
        trailing.append(("retry-after", str(error.retry_after_s)))
    return (*trailing, *_trail(trace))


def _trail(trace: Trace | None) -> tuple[tuple[str, str], ...]:
    return () if trace is None else (("traceresponse", trace.answer.decode()),)


def _find(metadata: Iterable[tuple[str, str | bytes]] | None, name: str) -> bytes | None:
    value = dict(metadata or ()).get(name)
    return value.encode() if isinstance(value, str) else value


def _parse(question: type[Question], raw: bytes) -> Question:
    try:
        message: Question = question.FromString(raw)
    except DecodeError as exc:
        raise BadRequestError(f"this is no {question.DESCRIPTOR.name}") from exc
    return message


def _serialize(message: Message) -> bytes:
    return bytes(message.SerializeToString())


def _bind(server: Any, address: str, tls: TlsFiles | None) -> int:  # noqa: ANN401 - grpc has no types
    try:
        if tls is None:
            return int(server.add_insecure_port(address))
        return int(server.add_secure_port(address, _open_credentials(tls)))
    except RuntimeError as exc:
        raise OSError(f"cannot listen on {address} for gRPC: {_why_not(address)}") from exc


def _why_not(address: str) -> str:
    """Return why nobody can listen on ``address``; gRPC itself does not say."""
    try:
        socket.getaddrinfo(address.rpartition(":")[0].strip("[]"), None)
    except OSError as exc:
        return str(exc.strerror)
    return "the port is taken, or the address is none of this machine's"


def _open_credentials(tls: TlsFiles) -> object:
    return grpc.ssl_server_credentials(
        [(tls.key.read_bytes(), tls.certificate.read_bytes())],
        root_certificates=None if tls.client_ca is None else tls.client_ca.read_bytes(),
        require_client_auth=tls.client_ca is not None,
    )
