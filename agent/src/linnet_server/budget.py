"""How many bytes of requests may be here at once, over all connections and both protocols.

- Over HTTP a byte counts from its arrival, over gRPC from the end of its message: what of a message
  is still under way is gRPC's own, and known to nobody else.
- The first `SMALL_BYTES` of a body count nothing: who asks little is answered when large bodies
  have taken all there is. How many of these there can be, the number of connections bounds.
- Whoever takes beyond the limit has taken all the same, and gives back in the end.
- Only the loop's thread counts.
"""

from typing import Final

HELD_BODIES: Final = 4
"""So many bodies of the largest size may be here at once."""
SMALL_BYTES: Final = 64 << 10
TOO_MANY: Final = "too many bytes of requests are here already"


def counted(size: int) -> int:
    """Return how many of a body's ``size`` bytes count."""
    return max(0, size - SMALL_BYTES)


class BodyBudget:
    """Bytes that are held, and how many may be.

    Attributes:
        held_bytes: Of all bodies that are not answered yet.
        limit_bytes: How many they may be.
    """

    def __init__(self, max_body_bytes: int) -> None:
        self.held_bytes = 0
        self.limit_bytes: Final = HELD_BODIES * max_body_bytes

    def take(self, count: int) -> bool:
        """Count ``count`` bytes more; False where they are too many."""
        self.held_bytes += count
        return self.held_bytes <= self.limit_bytes

    def give_back(self, count: int) -> None:
        """Count ``count`` bytes less."""
        self.held_bytes -= count
