"""The trace that a request belongs to: taken from its `traceparent`, handed back, written to logs.

- A header that is not as the specification has it is as good as none: it fails no request.
- The server is a span of its own in the trace. `span_export.py` sends it to a collector, where one
  is configured and the client records the trace.

Source: W3C Trace Context, level 1, section 3.2; `traceresponse` of level 2's draft.
"""

import dataclasses
import re
import secrets
from typing import Final, NamedTuple

from linnet_server.records import ServingRecord

HEADER: Final = b"traceparent"
ANSWER_HEADER: Final = b"traceresponse"

_FORM: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_FIRST_VERSION: Final = b"00"
_NO_VERSION: Final = b"ff"
_SAMPLED: Final = 1


class Trace(NamedTuple):
    """Our span in a client's trace.

    Attributes:
        trace_id: 32 hexadecimal digits, not all zero.
        parent_id: The client's span: 16 digits, not all zero.
        span_id: Ours.
        flags: As the client set them: two digits, the last bit says that it records the trace.
    """

    trace_id: str
    parent_id: str
    span_id: str
    flags: str

    @property
    def answer(self) -> bytes:
        """What the client gets back."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}".encode()

    @property
    def is_sampled(self) -> bool:
        """Whether the client records the trace."""
        return bool(int(self.flags, 16) & _SAMPLED)


@dataclasses.dataclass(slots=True, eq=False)
class Span:
    """One request on its way to the collector; only one that asked a model gets there.

    Attributes:
        trace: Where it belongs.
        started_ns: Nanoseconds since the epoch.
        began_ns: The same moment by the clock that measures ``took_ns``.
        took_ns: Until its answer was there.
        model: The name that the client has asked for.
        version: The version, where it has asked for one.
        record: The revision that was picked; None where none was.
        status: As HTTP has it.
        grpc_code: The status as gRPC has it; None over HTTP.
    """

    trace: Trace
    started_ns: int
    began_ns: int
    took_ns: int = 0
    model: str = ""
    version: str | None = None
    record: ServingRecord | None = None
    status: int = 0
    grpc_code: int | None = None


def read_trace(header: bytes | None) -> Trace | None:
    """Return our span in the trace that ``header`` names; None where it names none."""
    found = _FORM.fullmatch(header or b"")
    if found is None:
        return None
    version, trace_id, parent_id, flags, more = found.groups()
    if version == _NO_VERSION or (version == _FIRST_VERSION and more):
        return None
    if not (trace_id.strip(b"0") and parent_id.strip(b"0")):
        return None
    return Trace(trace_id.decode(), parent_id.decode(), secrets.token_hex(8), flags.decode())
