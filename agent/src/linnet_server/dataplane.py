"""The way of one inference request through the server, whatever transport brought it.

- Read to its end before a revision is picked; picked once, held to the end.
- A duration counts from the last byte of the request to the rendered answer.
- A run that is known to be short is done at once; what comes back is then the answer itself, and
  else something to await.
- An error that a revision has caused, or was asked for, names it: failures are traceable too.
- A client that gives up, by its deadline or by hanging up, counts as a failure: a model that has
  become too slow for its clients would else look like one that nobody asks.
"""

import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from linnet_server.catalog import Catalog
from linnet_server.errors import ClientError, ServerError
from linnet_server.metrics import Outcome
from linnet_server.protocol import InferRequest, Signature
from linnet_server.revisions import LoadedRevision
from linnet_server.tensors import Array
from linnet_server.tracing import Span

Parse = Callable[[Signature], InferRequest]
"""Reads the request against the model's signature; raises a ClientError where it does not fit."""

T = TypeVar("T")
Render = Callable[[LoadedRevision, str, InferRequest, list[Array]], T]
"""Writes the answer: revision, request id, request, and the arrays of its wanted outputs."""


class DataPlane:
    """Answers inference requests out of the catalog."""

    def __init__(self, catalog: Catalog, *, deadline_s: float, new_id: Callable[[], str]) -> None:
        self.catalog = catalog
        self._deadline_s = deadline_s
        self._new_id = new_id

    def infer(
        self,
        name: str,
        version: str | None,
        *,
        parse: Parse,
        render: Render[T],
        deadline_s: float | None = None,
        span: Span | None = None,
    ) -> T | Awaitable[T]:
        """Return the rendered answer of the revision that serves ``name`` now, or what will be it.

        Args:
            name: The model as the client calls it.
            version: The revision, or its number, that it must be at; None: whichever.
            parse: Reads the request.
            render: Writes the answer.
            deadline_s: Seconds that the client still waits; the server's own bound where None.
            span: Is told what was asked; None where nobody records it.

        Raises:
            ServerError: Why there is no answer; ``asked`` names the revision, where one was picked.
        """
        if span is not None:
            span.model, span.version = name, version
        call = _Call(self.catalog.pick(name, version), self._new_id, render)
        if span is not None:
            span.record = call.loaded.record
        try:
            request = parse(call.loaded.session.signature)
            arrays = call.loaded.lane.run_now(
                request.feeds, request.wanted.names, elements=request.elements
            )
            if arrays is not None:
                return call.succeed(request, arrays)
        except BaseException as error:
            call.fail(error)
            raise
        limits_s = (self._deadline_s, deadline_s, request.timeout_s)
        limit_s = min(limit_s for limit_s in limits_s if limit_s is not None)
        return _infer_in_thread(call, request, limit_s)


async def _infer_in_thread(call: "_Call[T]", request: InferRequest, deadline_s: float) -> T:
    try:
        arrays = await call.loaded.lane.run(
            request.feeds, request.wanted.names, elements=request.elements, deadline_s=deadline_s
        )
        return call.succeed(request, arrays)
    except BaseException as error:
        call.fail(error)
        raise


class _Call(Generic[T]):
    """One request that holds a revision, from the pick to the count."""

    __slots__ = ("_new_id", "_render", "_started_at", "loaded")

    def __init__(
        self, loaded: LoadedRevision, new_id: Callable[[], str], render: Render[T]
    ) -> None:
        self._started_at = time.perf_counter()
        self._new_id = new_id
        self._render = render
        self.loaded = loaded
        loaded.hold()

    def succeed(self, request: InferRequest, arrays: list[Array]) -> T:
        """Render, remember and count the answer."""
        loaded = self.loaded
        request_id = request.id or self._new_id()
        answer = self._render(loaded, request_id, request, arrays)
        label_at = request.wanted.label_at
        loaded.answers.remember(
            request_id, loaded.metrics, None if label_at is None else arrays[label_at]
        )
        self._end(Outcome.SUCCESS)
        return answer

    def fail(self, error: BaseException) -> None:
        """Count the failure by whose fault it is."""
        if isinstance(error, ServerError):
            error.asked = self.loaded.headers
        rejected = isinstance(error, ClientError)
        self._end(Outcome.REJECTED if rejected else Outcome.FAILURE)

    def _end(self, outcome: Outcome) -> None:
        self.loaded.count(outcome, time.perf_counter() - self._started_at)
        self.loaded.release()


def number_ids(prefix: str) -> Callable[[], str]:
    """Return a source of ids; a UUID for each would cost as much as a small model."""
    numbers = itertools.count(1)
    return lambda: f"{prefix}-{next(numbers)}"
