"""Durations and shares as people write them in YAML: ``1h30m``, ``50%``.

- A duration is one or more numbers with a unit: ms, s, m, h, d.
- A share is a count, or a percentage of something; percent rounds up, 0 holds (rule 10).
"""

import re
from datetime import timedelta
from functools import lru_cache
from typing import Final

DURATION_PATTERN: Final = r"^([0-9]{1,9}(ms|s|m|h|d))+$"
PERCENT_PATTERN: Final = r"^(100|[1-9]?[0-9])%$"

_PART = re.compile(r"([0-9]+)(ms|s|m|h|d)")
_UNITS: Final = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}


@lru_cache(maxsize=1024)
def parse_duration(text: str) -> timedelta:
    """Return the duration that ``text`` names, such as ``90s`` or ``1h30m``.

    Raises:
        ValueError: The text is no duration; the message shows one that is.
    """
    if re.fullmatch(DURATION_PATTERN, text) is None:
        raise ValueError(f"{text!r} is not a duration; write for example 30s, 10m, 1h30m or 7d")
    parts = _PART.findall(text)
    return sum((int(number) * _UNITS[unit] for number, unit in parts), timedelta())


def format_duration(value: timedelta) -> str:
    """Return ``value`` as people read it: ``18m``, ``1h30m``, ``45s``; at most two units."""
    total_s = int(value.total_seconds())
    if total_s < 0:
        return "0s"
    if value < timedelta(seconds=1):
        return "0s" if not value else f"{int(value / timedelta(milliseconds=1))}ms"
    words: list[str] = []
    left = total_s
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            words.append(f"{count}{unit}")
    return "".join(words[:2])


@lru_cache(maxsize=256)
def parse_percent(text: str) -> int:
    """Return the whole percentage (0 to 100) that ``text`` names, such as ``50%``.

    Raises:
        ValueError: The text is no percentage from 0% to 100%.
    """
    if re.fullmatch(PERCENT_PATTERN, text) is None:
        raise ValueError(f"{text!r} is not a percentage; write 0% to 100%, without decimals")
    return int(text.removesuffix("%"))


def share_of(share: int | str, *, whole_count: int) -> int:
    """Return how many of ``whole_count`` things ``share`` means, rounded up, at most all.

    Args:
        share: A count, or a percentage such as ``30%``.
        whole_count: How many there are, 0 or more.

    Returns:
        0 for ``0`` and ``0%`` (hold); at least 1 for any other share of one or more things.
    """
    if isinstance(share, int):
        return min(share, whole_count)
    return -(-parse_percent(share) * whole_count // 100)
