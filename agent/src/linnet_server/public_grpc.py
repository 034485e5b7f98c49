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
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import Message

from linnet_server import inference_pb2 as pb
from linnet_server.catalog import LoadedRevision
from linnet_server.dataplane import DataPlane
from linnet_server.errors import NotReadyError, ServerError
from linnet_server.protocol import InferRequest, Signature, server_metadata
from linnet_server.protocol_grpc import (
    parse_infer_message,
    render_infer_message,
    render_metadata_message,
)
from linnet_server.tensors import Array

log = logging.getLogger(__name__)

SERVICE: Final = "inference.GRPCInferenceService"

_CODES: Final = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    404: grpc.StatusCode.NOT_FOUND,
    405: grpc.StatusCode.UNIMPLEMENTED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

_FRAME_BYTES: Final = 64 << 10
"""What a message may have beside its tensors."""

Question = TypeVar("Question", bound=Message)
Context = Any
"""A ``grpc.aio.ServicerContext``; grpc has no types."""


class GrpcListener:
    """The gRPC address."""

    def __init__(
        self, plane: DataPlane, *, address: str, max_body_bytes: int, stopping: asyncio.Event
    ) -> None:
        self._plane = plane
        self._catalog = plane.catalog
        self._stopping = stopping
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
            )
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, self._methods()),)
        )
        self.port: Final[int] = _bind(self._server, address)

    async def start(self) -> None:
        """Listen."""
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Take no new requests; those under way have ``grace_s`` seconds to end."""
        await self._server.stop(grace_s)

    def _methods(self) -> dict[str, Any]:
        return {
            "ServerLive": _unary(pb.ServerLiveRequest, self._server_live),
            "ServerReady": _unary(pb.ServerReadyRequest, self._server_ready),
            "ModelReady": _unary(pb.ModelReadyRequest, self._model_ready),
            "ServerMetadata": _unary(pb.ServerMetadataRequest, self._server_metadata),
            "ModelMetadata": _unary(pb.ModelMetadataRequest, self._model_metadata),
            "ModelInfer": _unary(pb.ModelInferRequest, self._model_infer),
        }

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
        except NotReadyError:
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


def _unary(
    question: type[Question], answer: Callable[[Question, Context], Awaitable[Message]]
) -> Any:  # noqa: ANN401 - grpc has no types
    """Return ``answer`` as a method whose errors are statuses with a sentence."""

    async def handle(message: Question, context: Context) -> Message:
        try:
            return await answer(message, context)
        except ServerError as error:
            trailing = [(name.decode(), value.decode()) for name, value in error.asked]
            if error.retry_after_s:
                trailing.append(("retry-after", str(error.retry_after_s)))
            await context.abort(_CODES[error.status], str(error), tuple(trailing))
        except Exception:
            log.exception("server.unexpected", extra={"path": answer.__name__.lstrip("_")})
            await context.abort(grpc.StatusCode.INTERNAL, "the server failed; its log says why")
        raise AssertionError("abort raises")

    return grpc.unary_unary_rpc_method_handler(
        handle,
        request_deserializer=question.FromString,
        response_serializer=_serialize,
    )


def _serialize(message: Message) -> bytes:
    return bytes(message.SerializeToString())


def _bind(server: Any, address: str) -> int:  # noqa: ANN401 - grpc has no types
    try:
        port: int = server.add_insecure_port(address)
    except RuntimeError as exc:
        raise OSError(f"cannot listen on {address} for gRPC: is the port taken?") from exc
    return port
