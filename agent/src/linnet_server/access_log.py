"""One line for each request, where somebody wants it: what, how it ended, how long, which trace.

- Off by default: at thousands of requests a second it is the larger half of the work.
- Never a body, a header's value or a query: they may hold what is nobody's business.
"""

import logging
from typing import Final

from linnet_server.http1 import Request, Response
from linnet_server.tracing import ANSWER_HEADER, Trace, read_trace

log = logging.getLogger(__name__)

_PATH_CHARACTERS: Final = 400


def log_http(request: Request, response: Response, took_s: float) -> None:
    """Write the line of a request over HTTP."""
    answered = dict(response.headers)
    # Our span stands in the answer where the client's stands in a request.
    trace = read_trace(answered.get(ANSWER_HEADER))
    facts: dict[str, object] = {
        "method": request.method,
        "path": request.path[:_PATH_CHARACTERS],
        "status": response.status,
        "bytes_in": len(request.body),
        "bytes_out": len(response.body),
        "duration_s": round(took_s, 6),
    }
    if trace is not None:
        facts |= {"trace_id": trace.trace_id, "span_id": trace.parent_id}
    if b"linnet-revision" in answered:
        facts["revision"] = answered[b"linnet-revision"].decode()
    log.info("server.request", extra=facts)


def log_grpc(method: str, status: str, took_s: float, trace: Trace | None) -> None:
    """Write the line of a request over gRPC."""
    facts: dict[str, object] = {
        "method": method,
        "status": status,
        "duration_s": round(took_s, 6),
    }
    if trace is not None:
        facts |= {"trace_id": trace.trace_id, "span_id": trace.span_id}
    log.info("server.request", extra=facts)
