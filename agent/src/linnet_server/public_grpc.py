"""The public API over gRPC: the Open Inference Protocol v2, six methods, no streams.

- The same data plane as over REST: the same revisions, queues, counts and sentences.
- A client's deadline counts where it is shorter than the server's.
- Every answer names revision and model digest, in its parameters; an error in its trailing
  metadata.
- A message above the size of a body is refused by gRPC itself; connections that only idle, or ping
  without end, are closed.

The module `grpc` costs 10 MiB: it is imported where an address is given, and nowhere else.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from linnet_server import inference_pb2 as pb
from linnet_server.access import Access, TlsFiles
from linnet_server.access_log import log_grpc
from linnet_server.dataplane import DataPlane
from linnet_server.errors import BadRequestError, NotFoundError, NotReadyError, ServerError
from linnet_server.protocol import InferRequest, Signature, server_metadata
from linnet_server.protocol_grpc import (
    parse_infer_message,
    render_infer_message,
    render_metadata_message,
)
from linnet_server.revisions import LoadedRevision
from linnet_server.tensors import Array
from linnet_server.tracing import Trace, read_trace

log = logging.getLogger(__name__)

SERVICE: Final = "inference.GRPCInferenceService"

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

_FRAME_BYTES: Final = 64 << 10
"""What a message may have beside its tensors."""

Question = TypeVar("Question", bound=Message)
Context = Any
"""A ``grpc.aio.ServicerContext``; grpc has no types."""


class GrpcListener:
    """The gRPC address."""

    def __init__(
        self,
        plane: DataPlane,
        *,
        address: str,
        max_body_bytes: int,
        stopping: asyncio.Event,
        access: Access,
        access_log: bool,
    ) -> None:
        self._plane = plane
        self._catalog = plane.catalog
        self._stopping = stopping
        self._tokens = access.tokens
        self._log = log_grpc if access_log else None
        self._server = grpc.aio.server(
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
            )
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, self._methods()),)
        )
        self.port: Final[int] = _bind(self._server, address, access.tls)

    async def start(self) -> None:
        """Listen."""
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Take no new requests; those under way have ``grace_s`` seconds to end."""
        await self._server.stop(grace_s)

    def _methods(self) -> dict[str, Any]:
        return {
            "ServerLive": self._unary(pb.ServerLiveRequest, self._server_live, is_open=True),
            "ServerReady": self._unary(pb.ServerReadyRequest, self._server_ready, is_open=True),
            "ModelReady": self._unary(pb.ModelReadyRequest, self._model_ready),
            "ServerMetadata": self._unary(pb.ServerMetadataRequest, self._server_metadata),
            "ModelMetadata": self._unary(pb.ModelMetadataRequest, self._model_metadata),
            "ModelInfer": self._unary(pb.ModelInferRequest, self._model_infer),
        }

    def _unary(
        self,
        question: type[Question],
        answer: Callable[[Question, Context], Awaitable[Message]],
        *,
        is_open: bool = False,
    ) -> Any:  # noqa: ANN401 - grpc has no types
        """Return ``answer`` as a method whose errors are statuses with a sentence.

        Args:
            question: The message that it takes.
            answer: What answers it.
            is_open: Whether it needs no token.
        """
        name = question.DESCRIPTOR.name.removesuffix("Request")

        async def handle(raw: bytes, context: Context) -> Message:
            asked_at = monotonic()
            asked = dict(context.invocation_metadata() or ())
            trace = read_trace(_to_bytes(asked.get("traceparent")))
            if trace is not None:
                context.set_trailing_metadata(_trail(trace))
            code = "OK"
            try:
                if self._tokens is not None and not is_open:
                    self._tokens.check(_to_bytes(asked.get("authorization")))
                return await answer(_parse(question, raw), context)
            except ServerError as error:
                code = _CODES[error.status].name
                await context.abort(_CODES[error.status], str(error), _tell(error, trace))
            except Exception:
                code = "INTERNAL"
                log.exception("server.unexpected", extra={"path": name})
                await context.abort(
                    grpc.StatusCode.INTERNAL, "the server failed; its log says why", _trail(trace)
                )
            finally:
                if self._log is not None:
                    self._log(name, code, monotonic() - asked_at, trace)
            raise AssertionError("abort raises")

        # No deserializer: what it cannot read would be an error of the server's, with a traceback.
        return grpc.unary_unary_rpc_method_handler(handle, response_serializer=_serialize)

    async def _server_live(self, _: pb.ServerLiveRequest, __: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def _server_ready(self, _: pb.ServerReadyRequest, __: Context) -> pb.ServerReadyResponse:
        ready = self._catalog.ready and not self._stopping.is_set()
        return pb.ServerReadyResponse(ready=ready)

    async def _model_ready(
        self, question: pb.ModelReadyRequest, _: Context
    ) -> pb.ModelReadyResponse:
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
        self, question: pb.ModelMetadataRequest, _: Context
    ) -> pb.ModelMetadataResponse:
        loaded = self._catalog.pick(question.name, question.version or None)
        return render_metadata_message(loaded.metadata())

    async def _model_infer(
        self, question: pb.ModelInferRequest, context: Context
    ) -> pb.ModelInferResponse:
        def parse(signature: Signature) -> InferRequest:
            return parse_infer_message(question, signature)

        answer = self._plane.infer(
            question.model_name,
            question.model_version or None,
            parse=parse,
            render=_render,
            deadline_s=context.time_remaining(),
        )
        return answer if isinstance(answer, pb.ModelInferResponse) else await answer


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


def _to_bytes(value: str | bytes | None) -> bytes | None:
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
        raise OSError(f"cannot listen on {address} for gRPC: is the port taken?") from exc


def _open_credentials(tls: TlsFiles) -> object:
    return grpc.ssl_server_credentials(
        [(tls.key.read_bytes(), tls.certificate.read_bytes())],
        root_certificates=None if tls.client_ca is None else tls.client_ca.read_bytes(),
        require_client_auth=tls.client_ca is not None,
    )
