"""What the node has served of each revision since its activation, over restarts of the server.

- The server counts from zero when it starts, and the metrics count on. Without the part from before
  a node's own report would not fit them any more (rule 16), and the rollout would stand still.
- A count that falls has begun anew, and what it was is kept; it is lost with this process.
- Another revision that is active ends the count of the one before: one that comes back is counted
  from its new activation.
"""

from collections.abc import Mapping

Counts = Mapping[str, list[int]]
"""``<namespace>/<deployment>/<revision>`` -> requests and failures."""


class ServedTally:
    """The counts of the server, added up over its restarts."""

    def __init__(self) -> None:
        self._newest: dict[str, list[int]] = {}
        self._before: dict[str, list[int]] = {}

    def add(self, counts: Counts) -> dict[str, list[int]]:
        """Return the counts since activation.

        Args:
            counts: What the server says now of what is active; nothing while it is away or loads,
                which ends no count.
        """
        active = {key.rpartition("/")[0] for key in counts}
        for key in [each for each in self._newest if each not in counts]:
            if key.rpartition("/")[0] in active:
                del self._newest[key]
                self._before.pop(key, None)
        for key, newest in counts.items():
            last = self._newest.get(key, newest)
            if newest[0] < last[0] or newest[1] < last[1]:
                self._before[key] = _sum(self._before.get(key, [0, 0]), last)
            self._newest[key] = newest
        return {key: _sum(self._before.get(key, [0, 0]), each) for key, each in counts.items()}


def _sum(one: list[int], other: list[int]) -> list[int]:
    return [a + b for a, b in zip(one, other, strict=True)]
