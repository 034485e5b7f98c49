"""Spans for a collector: one for each inference request in a trace that its client records.

- Off the way of requests: the loop puts a note into a bounded queue, a thread of its own makes
  spans of the notes and sends them, as OTLP over HTTP.
- A collector that is slow or dead costs spans, never a request: what finds the queue full is
  dropped, what is not taken is lost. Both are counted.
- The client decides: without a `traceparent` there is no trace, and one that is not sampled is not
  exported. A request that never gets an answer, because its client is gone, has no span.
- What the library has to say becomes one line a minute.
- At the end, what waits has `FLUSH_S` to get away.

The modules of OpenTelemetry cost 8 MiB: they are imported where an endpoint is given, and nowhere
else.

Source: OpenTelemetry's specification 1.x: OTLP, semantic conventions for HTTP and RPC.
"""

import asyncio
import collections
import logging
import threading
from collections.abc import Callable, Mapping
from time import monotonic, perf_counter_ns
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from linnet_server.exposition import Counter
from linnet_server.metrics import Outcome, SpanFate
from linnet_server.tracing import Span, Trace

log = logging.getLogger(__name__)

MAX_WAITING: Final = 4096
BATCH: Final = 512
DELAY_S: Final = 1.0
"""A span waits so long for others, unless they are a batch."""
FLUSH_S: Final = 3.0
SAY_S: Final = 60.0

_SCOPE: Final = InstrumentationScope("linnet_server")
_REASON_CHARACTERS: Final = 300
_FAILURE: Final = Status(StatusCode.ERROR)
_NO_FAILURE: Final = Status(StatusCode.UNSET)


class SpanExport:
    """The way of spans to the collector; `begin` and `end` are the loop's."""

    def __init__(
        self, endpoint: str, *, fates: Mapping[SpanFate, Counter], clock_ns: Callable[[], int]
    ) -> None:
        """Prepare, without a connection.

        Args:
            endpoint: The collector's base URL; `/v1/traces` is below it. Headers, timeout,
                compression and certificates are the library's, by `OTEL_EXPORTER_OTLP_*`.
            fates: Where spans are counted.
            clock_ns: Nanoseconds since the epoch.
        """
        self._exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        # Whoever runs the server may name it otherwise, by OTEL_RESOURCE_ATTRIBUTES.
        own = Resource({"service.name": "linnet-server"})
        self._resource = own.merge(OTELResourceDetector().detect())
        self._fates = fates
        self._clock_ns = clock_ns
        self._waiting: collections.deque[Span] = collections.deque()
        self._awake = threading.Event()
        self._stopping = False
        self._said_at = -SAY_S
        self._complaint = _FirstWord()
        library = logging.getLogger("opentelemetry")
        library.addHandler(self._complaint)
        library.propagate = False
        self._thread = threading.Thread(target=self._work, name="linnet-spans", daemon=True)

    def start(self) -> None:
        """Send what comes, from now on."""
        self._thread.start()

    def begin(self, trace: Trace) -> Span | None:
        """Return a new span in ``trace``; None where its client does not record it."""
        if not trace.is_sampled:
            return None
        return Span(trace, self._clock_ns(), perf_counter_ns())

    def end(self, span: Span, *, status: int, grpc_code: int | None = None) -> None:
        """Send ``span`` away, where a model was asked."""
        if not span.model:
            return
        span.took_ns = perf_counter_ns() - span.began_ns
        span.status, span.grpc_code = status, grpc_code
        if len(self._waiting) >= MAX_WAITING:
            self._fates[SpanFate.DROPPED].inc()
            return
        self._waiting.append(span)
        if len(self._waiting) >= BATCH and not self._awake.is_set():
            self._awake.set()

    async def stop(self) -> None:
        """Send what waits; whatever has not gone after ``FLUSH_S`` stays."""
        self._stopping = True
        self._awake.set()
        await asyncio.to_thread(self._thread.join, FLUSH_S)
        if self._thread.is_alive():
            log.warning("server.spans.left", extra={"spans": len(self._waiting)})
            self._exporter.shutdown()  # type: ignore[no-untyped-call]  # the library's

    def _work(self) -> None:
        stopping = False
        while not stopping:
            self._awake.wait(DELAY_S)
            self._awake.clear()
            stopping = self._stopping  # before the look: what comes later comes after the end
            while self._waiting:
                count = min(BATCH, len(self._waiting))
                self._send([self._waiting.popleft() for _ in range(count)])
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # the library's

    def _send(self, spans: list[Span]) -> None:
        self._complaint.text = ""
        try:
            result = self._exporter.export([_render(span, self._resource) for span in spans])
        except Exception as error:  # noqa: BLE001 - a library's; the thread goes on
            result = SpanExportResult.FAILURE
            self._complaint.text = repr(error)
        taken = result is SpanExportResult.SUCCESS
        self._fates[SpanFate.EXPORTED if taken else SpanFate.FAILED].value += len(spans)
        if not taken and monotonic() - self._said_at >= SAY_S:
            self._said_at = monotonic()
            log.warning(
                "server.spans.lost",
                extra={
                    **{fate.value: int(self._fates[fate].value) for fate in SpanFate},
                    "reason": self._complaint.text[:_REASON_CHARACTERS],
                },
            )


def _render(span: Span, resource: Resource) -> ReadableSpan:
    trace = span.trace
    trace_id, flags = int(trace.trace_id, 16), TraceFlags(int(trace.flags, 16))
    outcome = _outcome_of(span.status)
    name, attributes = _describe_call(span)
    attributes |= {"linnet.model": span.model, "linnet.outcome": outcome.value}
    if span.record is not None:
        attributes |= {
            "linnet.namespace": span.record.namespace,
            "linnet.deployment": span.record.deployment,
            "linnet.revision": span.record.revision,
            "linnet.number": span.record.number,
            "linnet.variant": span.record.variant,
            "linnet.model_digest": span.record.model_digest,
        }
    return ReadableSpan(
        name=name,
        context=SpanContext(trace_id, int(trace.span_id, 16), is_remote=False, trace_flags=flags),
        parent=SpanContext(trace_id, int(trace.parent_id, 16), is_remote=True, trace_flags=flags),
        resource=resource,
        attributes=attributes,
        kind=SpanKind.SERVER,
        status=_FAILURE if outcome is Outcome.FAILURE else _NO_FAILURE,
        start_time=span.started_ns,
        end_time=span.started_ns + span.took_ns,
        instrumentation_scope=_SCOPE,
    )


def _describe_call(span: Span) -> tuple[str, dict[str, str | int]]:
    """Return the span's name and what it says about the transport."""
    if span.grpc_code is not None:
        return "inference.GRPCInferenceService/ModelInfer", {
            "rpc.system": "grpc",
            "rpc.service": "inference.GRPCInferenceService",
            "rpc.method": "ModelInfer",
            "rpc.grpc.status_code": span.grpc_code,
        }
    version = "" if span.version is None else "/versions/{version}"
    route = f"/v2/models/{{name}}{version}/infer"
    return f"POST {route}", {
        "http.request.method": "POST",
        "http.route": route,
        "http.response.status_code": span.status,
    }


def _outcome_of(status: int) -> Outcome:
    if status < 400:
        return Outcome.SUCCESS
    return Outcome.REJECTED if status < 500 else Outcome.FAILURE


class _FirstWord(logging.Handler):
    """Keeps the first thing that the library said of a batch, in place of its lines."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Take one of its lines."""
        self.text = self.text or record.getMessage()
