"""When steps may begin: cron lines with a duration and a time zone.

- Five fields (minute, hour, day of month, month, day of week) with ``*``, lists, ranges, steps and
  names.
- Where both days are restricted either one counts, as in cron(8).
- No window means always. A rollback never asks here (rule 14).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from linnet_api.durations import parse_duration
from linnet_api.rollout_policy import Window

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
# A cron line that names 29 February matches once in eight years at worst (1896 to 1904).
_HORIZON_DAYS = 366 * 8


@dataclass(frozen=True, slots=True)
class Cron:
    """A parsed cron line; each field is the set of numbers that match."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either_day: bool

    def matches_day(self, day: datetime) -> bool:
        """Return True where the line names this day."""
        if day.month not in self.months:
            return False
        of_month, of_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return (of_month or of_week) if self.either_day else (of_month and of_week)


@lru_cache(maxsize=256)
def parse_cron(line: str) -> Cron:
    """Return the parsed line.

    Raises:
        ValueError: It is no cron line of five fields; the message says which field.
    """
    fields = line.split()
    if len(fields) != 5:
        raise ValueError(
            f"cron {line!r} has {len(fields)} fields, not 5; write for example 0 2 * * *"
        )
    minute, hour, day, month, weekday = fields
    return Cron(
        minutes=tuple(sorted(_numbers(minute, 0, 59, ()))),
        hours=tuple(sorted(_numbers(hour, 0, 23, ()))),
        days=frozenset(_numbers(day, 1, 31, ())),
        months=frozenset(_numbers(month, 1, 12, ("", *_MONTHS))),
        weekdays=frozenset(number % 7 for number in _numbers(weekday, 0, 7, _DAYS)),
        either_day=not day.startswith("*") and not weekday.startswith("*"),
    )


def check(windows: Sequence[Window]) -> str | None:
    """Return what is wrong with the windows in a sentence, or None where nothing is."""
    for window in windows:
        try:
            parse_cron(window.cron)
            ZoneInfo(window.time_zone)
        except (ValueError, KeyError, OSError) as error:
            return f"window {window.cron!r} in {window.time_zone!r}: {error}"
    return None


def is_open(windows: Sequence[Window], now: datetime) -> bool:
    """Return True where a step may begin now."""
    return not windows or any(
        start is not None and now - start < parse_duration(window.duration)
        for window in windows
        for start in (_last_start(window, now),)
    )


def next_open(windows: Sequence[Window], now: datetime) -> datetime | None:
    """Return when the next window opens, in UTC; None where none ever does."""
    starts = (_next_start(window, now) for window in windows)
    return min((start for start in starts if start is not None), default=None)


def _numbers(text: str, low: int, high: int, names: Sequence[str]) -> set[int]:
    found: set[int] = set()
    for part in text.lower().split(","):
        span, _, step_text = part.partition("/")
        step = int(step_text) if step_text.isdigit() else 1
        if (step_text and not step_text.isdigit()) or step < 1:
            raise ValueError(f"{part!r} is no cron field: the step is not a number above 0")
        if span == "*":
            first, last = low, high
        else:
            first_text, dash, last_text = span.partition("-")
            first = _number(first_text, names)
            last = _number(last_text, names) if dash else (high if step_text else first)
        if not low <= first <= last <= high:
            raise ValueError(f"{part!r} is no cron field: numbers are {low} to {high}, rising")
        found.update(range(first, last + 1, step))
    return found


def _number(text: str, names: Sequence[str]) -> int:
    if text and text in names:
        return names.index(text)
    if not text.isdigit():
        raise ValueError(f"{text!r} is no number in a cron line")
    return int(text)


def _last_start(window: Window, now: datetime) -> datetime | None:
    return next((start for start in _starts(window, now, back=True) if start <= now), None)


def _next_start(window: Window, now: datetime) -> datetime | None:
    return next((start for start in _starts(window, now, back=False) if start > now), None)


def _starts(window: Window, now: datetime, *, back: bool) -> Iterator[datetime]:
    cron, zone = parse_cron(window.cron), ZoneInfo(window.time_zone)
    local = now.astimezone(zone)
    midnight = datetime(local.year, local.month, local.day, tzinfo=zone)
    sign = -1 if back else 1
    # One day more than today: around midnight and shifts of summer time the next day may come
    # first.
    for offset in range(-1, _HORIZON_DAYS):
        day = midnight + timedelta(days=sign * offset)
        if cron.matches_day(day):
            times = [(hour, minute) for hour in cron.hours for minute in cron.minutes]
            for hour, minute in reversed(times) if back else times:
                yield day.replace(hour=hour, minute=minute).astimezone(now.tzinfo)
