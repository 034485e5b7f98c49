"""What the node has served of each revision since its activation, over restarts of the node.

- The server counts from zero when it starts, and the metrics count on. Without the part from before
  a node's own report would not fit them any more (rule 16), and the rollout would stand still.
- A count that falls has begun anew, and what it was is kept. What was reported before this process
  began stands in the node's Lease; nothing is counted twice, or failures would seem to be hidden.
- Another revision that is active ends the count of the one before: one that comes back is counted
  from its new activation.
"""

from collections.abc import Mapping

from linnet_agent.verify.strict_json import as_list, parse_json_object

_MOST_BYTES = 1 << 18

Counts = Mapping[str, list[int]]
"""``<namespace>/<deployment>/<revision>`` -> requests and failures."""


class ServedTally:
    """The counts of the server, added up over its restarts."""

    def __init__(self) -> None:
        self._first: dict[str, list[int]] = {}
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
                self._first.pop(key, None)
        for key, newest in counts.items():
            self._first.setdefault(key, newest)
            last = self._newest.get(key, newest)
            if newest[0] < last[0] or newest[1] < last[1]:
                self._before[key] = _sum(self._before.get(key, [0, 0]), last)
            self._newest[key] = newest
        return self.of(counts)

    def of(self, counts: Counts) -> dict[str, list[int]]:
        """Return the counts since activation of what was added last."""
        return {key: _sum(self._before.get(key, [0, 0]), each) for key, each in counts.items()}

    def before(self, counts: Counts) -> dict[str, list[int]]:
        """Return the part of ``of`` that is from before the server's newest start."""
        return {key: self._before[key] for key in counts if key in self._before}

    def go_on_from(self, reported: Counts, before: Counts) -> None:
        """Go on from what was reported before this process began.

        Args:
            reported: The counts since activation.
            before: The part of them from before the server's newest start at that time. What is
                left is what the server itself said: where it says less now, it has started anew.
                (One that has served as much again by now is taken for the same: that much is lost.)
        """
        active = {key.rpartition("/")[0] for key in self._newest}
        for key, whole in reported.items():
            if key not in self._newest and key.rpartition("/")[0] in active:
                continue
            earlier = before.get(key, [0, 0])
            last = [max(0, a - b) for a, b in zip(whole, earlier, strict=True)]
            self._newest.setdefault(key, last)
            first = self._first.get(key, last)
            kept = whole if first[0] < last[0] or first[1] < last[1] else earlier
            if any(kept):
                self._before[key] = _sum(self._before.get(key, [0, 0]), kept)


def read_reported(annotation: object) -> dict[str, list[int]]:
    """Return the counts that a Lease carries; none where it carries nothing that can be read."""
    if not isinstance(annotation, str):
        return {}
    try:
        said = parse_json_object(annotation.encode(errors="replace"), max_bytes=_MOST_BYTES)
    except ValueError:
        return {}
    pairs = {key: as_list(value) for key, value in said.items()}
    return {key: pair for key, pair in pairs.items() if pair is not None and _are_counts(pair)}


def _are_counts(pair: list[object]) -> bool:
    return len(pair) == 2 and all(type(count) is int and 0 <= count < 2**62 for count in pair)


def _sum(one: list[int], other: list[int]) -> list[int]:
    return [a + b for a, b in zip(one, other, strict=True)]
