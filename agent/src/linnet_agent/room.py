"""Room on the disk: what goes before a fetch begins, and the sentence where that is not enough.

- Only what nothing names goes: no link, no journal, no order.
- The oldest goes first, and no more than is needed.
- Where all of it would not be enough, nothing goes.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lot:
    """Something on the disk that takes room."""

    name: str
    size_bytes: int
    used_at: float
    """Seconds since the epoch: when it was put there."""
    pinned: bool
    """True where something names it: it stays."""


def choose_evictions(lots: Iterable[Lot], *, needed_bytes: int, free_bytes: int) -> tuple[Lot, ...]:
    """Return what must go so that ``needed_bytes`` are free; nothing where that cannot be had."""
    chosen: list[Lot] = []
    for lot in sorted(lots, key=lambda lot: (lot.used_at, lot.name)):
        if free_bytes >= needed_bytes:
            break
        if not lot.pinned:
            chosen.append(lot)
            free_bytes += lot.size_bytes
    return tuple(chosen) if free_bytes >= needed_bytes else ()


def say_no_room(lots: Iterable[Lot], *, needed_bytes: int, free_bytes: int) -> str:
    """Return the sentence that says what is missing, and what takes the room."""
    kept = [lot for lot in lots if lot.pinned]
    return (
        f"{needed_bytes} bytes are needed and {free_bytes} are free; "
        f"{sum(lot.size_bytes for lot in kept)} are taken by what serves, may be gone back to "
        f"or is being fetched ({len(kept)} models)"
    )
