"""The placebo: would the judge have taken back nodes that have not changed at all?

Rules:
- Groups of stable nodes, as large as the real one, are judged as if they had the candidate, beside
  the other stable nodes. Who is in a group is decided by lot.
- Their rate is the judge's own error rate on this very fleet; it must not be above the chance that
  the policy allows.
- The alarm rings when chance explains the count less than once in a thousand: it is about the judge
  and its history, not about a model.
- It decides nothing: no rollout waits for it, and no node moves.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import exp, fsum, lgamma, log, log1p
from typing import Final

from linnet_operator.judge.assess import MetricInputs, StepInputs, assess
from linnet_operator.judge.compare import combine, decision_line, look
from linnet_operator.judge.verdicts import Verdict

_MOST_GROUPS: Final = 4
# A look at a thousand nodes takes a tenth of a second: one group of such a fleet is enough.
_MANY_NODES: Final = 200
_RARE: Final = 0.001


def groups_by_lot(nodes: Sequence[str], *, size: int, lot: str) -> tuple[tuple[str, ...], ...]:
    """Return disjoint groups of ``size`` nodes; at least half of the nodes stay out of each.

    Args:
        nodes: The stable nodes.
        size: How many nodes the real group has; no group is more than half of the nodes.
        lot: What the order of the nodes is drawn from; the same lot, the same groups.
    """
    size = min(size, len(nodes) // 2)
    if size < 1:
        return ()
    drawn = sorted(nodes, key=lambda node: hashlib.sha256(f"{lot}/{node}".encode()).digest())
    most = _MOST_GROUPS if len(nodes) <= _MANY_NODES else 1
    return tuple(
        tuple(sorted(drawn[index * size : (index + 1) * size]))
        for index in range(min(most, len(nodes) // size))
    )


def judge_placebo(inputs: StepInputs, groups: Sequence[Sequence[str]]) -> tuple[bool | None, ...]:
    """Return for each group whether it would have been taken back; None where nothing was counted.

    Pure and picklable on both sides, so it runs in a worker process.
    """
    return tuple(_judge_group(inputs, frozenset(group)) for group in groups)


@dataclass(slots=True)
class PlaceboTally:
    """What placebo groups of one deployment did, since the process began.

    Attributes:
        alpha: The chance to take a good model back that the policy allows.
        judged: How many groups were judged; a group of a step counts once.
        taken_back: How many of them would have been taken back.
    """

    alpha: float
    judged: int = 0
    taken_back: int = 0
    _step: tuple[str, int] = ("", 0)
    _judged: set[int] = field(default_factory=set[int])
    _taken_back: set[int] = field(default_factory=set[int])

    def count(self, rollout: str, step: int, verdicts: Sequence[bool | None]) -> tuple[int, int]:
        """Count the groups of a look; return how many are new, and newly taken back."""
        if self._step != (rollout, step):
            self._step, self._judged, self._taken_back = (rollout, step), set(), set()
        judged = {index for index, verdict in enumerate(verdicts) if verdict is not None}
        taken_back = {index for index, verdict in enumerate(verdicts) if verdict}
        new = len(judged - self._judged), len(taken_back - self._taken_back)
        self._judged |= judged
        self._taken_back |= taken_back
        self.judged += new[0]
        self.taken_back += new[1]
        return new

    @property
    def alarm(self) -> bool:
        """True where chance alone hardly ever takes so many back."""
        return chance_of(self.taken_back, of=self.judged, alpha=self.alpha) < _RARE


def chance_of(taken_back: int, *, of: int, alpha: float) -> float:
    """Return the chance that at least so many are taken back where each is with ``alpha``."""
    # In logarithms: years of a judge gone wrong are more combinations than a float can hold.
    everything = lgamma(of + 1)
    below = fsum(
        exp(
            everything
            - lgamma(count + 1)
            - lgamma(of - count + 1)
            + count * log(alpha)
            + (of - count) * log1p(-alpha)
        )
        for count in range(taken_back)
    )
    return min(1.0, max(0.0, 1.0 - below))


def _judge_group(inputs: StepInputs, group: frozenset[str]) -> bool | None:
    swapped = [_swapped(metric, group) for metric in inputs.metrics if metric.learned is not None]
    looks = [
        look(
            metric.learned,
            metric.candidates,
            metric.stable,
            alpha=inputs.alpha,
            steps=inputs.steps,
            detect=inputs.detect,
        )
        for metric in swapped
        if metric.learned is not None
    ]
    counted = [each for each in looks if each.requests > 0.0]
    if not counted:
        return None
    line = decision_line(alpha=inputs.alpha, steps=inputs.steps)
    troubled = any(each.in_trouble for each in counted)
    if combine([each.log_e for each in looks]) < line and not any(each.all_fail for each in looks):
        return False
    if troubled and not any(each.all_fail for each in looks):
        return False
    said = assess(replace(inputs, metrics=tuple(swapped), thresholds=()))
    return said.verdict is Verdict.FAIL and not said.needs_person


def _swapped(metric: MetricInputs, group: frozenset[str]) -> MetricInputs:
    """Return the metric as if the stable nodes of ``group`` had the candidate, and no others."""
    return replace(
        metric,
        candidates=tuple(row for row in metric.stable if row.node in group),
        stable=tuple(row for row in metric.stable if row.node not in group),
        partial="",
    )
