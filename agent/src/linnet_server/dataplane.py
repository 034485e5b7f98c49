"""The way of one inference request through the server, whatever transport brought it.

- Read to its end before a revision is picked; picked once, held to the end.
- A duration counts from the last byte of the request to the rendered answer.
- An error that a revision has caused, or was asked for, names it: failures are traceable too.
"""

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import TypeVar

from linnet_server.catalog import Catalog, LoadedRevision
from linnet_server.errors import ClientError, ServerError
from linnet_server.metrics import Outcome
from linnet_server.protocol import InferRequest, Signature
from linnet_server.tensors import Array

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

    async def infer(
        self,
        name: str,
        version: str | None,
        *,
        parse: Parse,
        render: Render[T],
        deadline_s: float | None = None,
    ) -> T:
        """Return the rendered answer of the revision that serves ``name`` now.

        Args:
            name: The model as the client calls it.
            version: The revision, or its number, that it must be at; None: whichever.
            parse: Reads the request.
            render: Writes the answer.
            deadline_s: Seconds that the client still waits; the server's own bound where None.

        Raises:
            ServerError: Why there is no answer; ``asked`` names the revision, where one was picked.
        """
        started_at = time.perf_counter()
        loaded = self.catalog.pick(name, version)
        loaded.hold()
        outcome: Outcome | None = Outcome.FAILURE
        try:
            request = parse(loaded.session.signature)
            arrays = await loaded.lane.run(
                request.feeds,
                request.wanted.names,
                elements=request.elements,
                deadline_s=(
                    self._deadline_s if deadline_s is None else min(deadline_s, self._deadline_s)
                ),
            )
            request_id = request.id or self._new_id()
            answer = render(loaded, request_id, request, arrays)
            label_at = request.wanted.label_at
            loaded.answers.remember(
                request_id, loaded.metrics, None if label_at is None else arrays[label_at]
            )
            outcome = Outcome.SUCCESS
        except ServerError as error:
            outcome = Outcome.REJECTED if isinstance(error, ClientError) else Outcome.FAILURE
            error.asked = loaded.headers
            raise
        except asyncio.CancelledError:
            outcome = None  # the server stops or the client is gone: nobody gets an answer
            raise
        finally:
            if outcome is not None:
                loaded.count(outcome, time.perf_counter() - started_at)
            loaded.release()
        return answer


def number_ids(prefix: str) -> Callable[[], str]:
    """Return a source of ids; a UUID for each would cost as much as a small model."""
    numbers = itertools.count(1)
    return lambda: f"{prefix}-{next(numbers)}"
