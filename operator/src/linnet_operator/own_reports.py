"""What the nodes have said of themselves at each look, to hold it against the metrics (rule 16).

Rules:
- Metrics lag behind heartbeats by a scrape interval or two. A report that counts no more requests
  than they do, or that is much older than they are, they know all of: every request and every
  failure.
- What is remembered only makes the comparison exact; without it, as after a restart, the report of
  the first look serves.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from linnet_operator.planner.model import Candidate, Served

_OLD_ENOUGH: Final = timedelta(minutes=2)
_OLD_ENOUGH_INTERVALS: Final = 2
"""Twice the usual longest scrape interval, or what may be no fresh scrape any more."""


class OwnReports:
    """The reports of one rollout's candidates, by the times of the looks."""

    def __init__(self) -> None:
        self._said: list[tuple[datetime, dict[tuple[str, datetime], Served]]] = []

    def note(self, candidates: Sequence[Candidate], *, at: datetime) -> None:
        """Remember what the candidates say of themselves now."""
        said = {(one.node, one.since): one.own for one in candidates if one.own is not None}
        self._said.append((at, said))

    def known_by(
        self,
        requests: Mapping[str, float],
        *,
        until: datetime,
        interval: timedelta,
        candidates: Sequence[Candidate],
        started_at: datetime,
    ) -> dict[str, Served]:
        """Return each candidate's newest report that the metrics know all of, or else its oldest.

        What is older than can be needed is forgotten.

        Args:
            requests: Node name -> requests, as the metrics count them.
            until: The time of the metrics.
            interval: Between two looks.
            candidates: The nodes. One that serves the candidate since before the rollout is left
                out: it reports of another time than is measured.
            started_at: When the rollout began.
        """
        old = until - max(_OLD_ENOUGH, _OLD_ENOUGH_INTERVALS * interval)
        known = [index for index, (at, _) in enumerate(self._said) if at <= old]
        del self._said[: known[-1] if known else 0]
        found: dict[str, Served] = {}
        for one in candidates:
            if one.since < started_at:
                continue
            counted = requests.get(one.node, 0.0)
            for at, said in reversed(self._said):
                own = said.get((one.node, one.since))
                if own is None:
                    continue
                found[one.node] = own
                if own.requests <= counted or at <= old:
                    break
        return found
