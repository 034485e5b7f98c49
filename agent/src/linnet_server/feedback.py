"""The memory of recent answers, so that people and machines can say later whether they were right.

- Bounded: the oldest answer leaves when a new one comes; an answer of many bytes is boiled down at
  once.
- A verdict counts under the revision that gave the answer, and once: the second one for an id
  changes nothing.
- The label of an answer: its int64 output where there is one, else the argmax of its first float
  output, one for each row.
"""

import dataclasses
from collections import OrderedDict
from typing import Final

import numpy as np

from linnet_server.errors import BadRequestError, NotFoundError
from linnet_server.metrics import RevisionMetrics, Verdict
from linnet_server.tensors import Array

CAPACITY: Final = 4096
"""Answers kept for each deployment."""

_KEEP_BYTES: Final = 1024
"""Arrays up to this size are kept, and read when feedback comes: most answers never get any."""

_ROWS_LIMIT: Final = 64
"""An answer with more rows than this gets feedback by verdict only."""


@dataclasses.dataclass(slots=True)
class Answer:
    """What a revision answered to one request.

    Attributes:
        metrics: The series of the revision that answered.
        output: The output that the label is read from; None where there is none, or it has too many
            rows.
        verdict: What feedback has said; None until then.
    """

    metrics: RevisionMetrics
    output: Array | None
    verdict: Verdict | None = None


class RecentAnswers:
    """The answers of one deployment, across its revisions."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._answers: OrderedDict[str, Answer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def remember(self, request_id: str, metrics: RevisionMetrics, output: Array | None) -> None:
        """Keep the answer to ``request_id``; an earlier one with the same id is forgotten.

        Args:
            request_id: The id that the answer carries.
            metrics: The series of the revision that answered.
            output: The output that holds the label; None where the answer has none.
        """
        self._answers[request_id] = Answer(metrics, None if output is None else _shrink(output))
        self._answers.move_to_end(request_id)
        if len(self._answers) > self._capacity:
            self._answers.popitem(last=False)

    def judge(self, request_id: str, *, label: object, verdict: object) -> Verdict:
        """Count feedback for ``request_id`` and return what was counted, now or the first time.

        Args:
            request_id: The id that the answer carried.
            label: What would have been right, an integer or one for each row; None where
                ``verdict`` is given.
            verdict: `correct` or `wrong`; None where ``label`` is given.

        Raises:
            NotFoundError: No recent answer has that id.
            BadRequestError: The feedback does not fit the answer.
        """
        answer = self._answers.get(request_id)
        if answer is None:
            raise NotFoundError(
                f"no answer with id {request_id!r:.80} among the last {self._capacity}"
            )
        found = _compare(answer, label) if verdict is None else _read_verdict(label, verdict)
        if answer.verdict is None:
            answer.verdict = found
            answer.output = None
            answer.metrics.feedback[found].inc()
        return answer.verdict


def read_labels(output: Array) -> list[int]:
    """Return the labels in an output: integers as they are, the argmax of each row of floats."""
    if output.dtype.kind in "iu":
        return [int(label) for label in output.reshape(-1)]
    rows = output.reshape(output.shape[0], -1) if output.ndim > 1 else output.reshape(1, -1)
    return [int(label) for label in np.argmax(rows, axis=1)]


def _shrink(output: Array) -> Array | None:
    """Return what the labels of ``output`` can be read from, in few bytes; None without any."""
    if output.size == 0 or _count_rows(output) > _ROWS_LIMIT:
        return None
    if output.nbytes <= _KEEP_BYTES:
        return output.copy()  # an output of the runtime keeps its session's arena alive
    return np.array(read_labels(output), np.int64)


def _count_rows(output: Array) -> int:
    if output.dtype.kind in "iu":
        return output.size
    return int(output.shape[0]) if output.ndim > 1 else 1


def _compare(answer: Answer, label: object) -> Verdict:
    wanted = label if isinstance(label, list) else [label]
    if not wanted or not all(type(one) is int for one in wanted):
        raise BadRequestError("feedback needs 'label', an integer or one a row, or 'verdict'")
    if answer.verdict is not None:
        return answer.verdict
    if answer.output is None:
        raise BadRequestError("this answer has no label to compare with; send a 'verdict'")
    given = read_labels(answer.output)
    if len(given) != len(wanted):
        raise BadRequestError(f"the answer has {len(given)} rows, 'label' has {len(wanted)}")
    return Verdict.CORRECT if given == wanted else Verdict.WRONG


def _read_verdict(label: object, verdict: object) -> Verdict:
    if label is not None:
        raise BadRequestError("send 'label' or 'verdict', not both")
    try:
        return Verdict(str(verdict))
    except ValueError as exc:
        raise BadRequestError("'verdict' must be 'correct' or 'wrong'") from exc
