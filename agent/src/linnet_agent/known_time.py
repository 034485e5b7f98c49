"""What time it is at least: a floor that no clock, hub or restart takes back.

- A clock that is more than ten minutes behind the floor is not trusted: then it is as late as the
  floor, and whoever needs to know better must wait.
- The floor rises with the clock: at once by a day at most, further only after the clock has run a
  day without a jump, or where the hub says the same. A clock that jumps ten years ahead and back
  has raised nothing.
- The hub alone raises it by a day between two starts, and with time as it passes: one that lies
  must not be able to end every key for good.
- A time that a log or a timestamp authority has signed, verified, raises it whatever it is.
- Two files are written in turn, so that a torn one costs minutes; no file, and the release of this
  version is the floor. A floor that is wrong all the same is cleared by removing both files.
"""

import hashlib
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from linnet_agent.durable import make_directory, write_file

log = logging.getLogger(__name__)

RELEASED: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""Nobody runs this before it was written."""

_TOLERANCE: Final = timedelta(minutes=10)
_STEP: Final = timedelta(days=1)
_UNCHALLENGED: Final = timedelta(days=1)
_WRITE_EVERY: Final = timedelta(minutes=10)
_LINE: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z) ([0-9a-f]{8})\n"
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What time it is."""

    now: datetime
    trusted: bool
    """False: the clock is behind what is known to have passed, and ``now`` is that."""


class KnownTime:
    """The floor, in memory and in ``<path>.0`` and ``<path>.1``."""

    def __init__(self, path: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Read the floor from the disk."""
        self._slots = (path.with_name(f"{path.name}.0"), path.with_name(f"{path.name}.1"))
        self._monotonic = monotonic
        on_disk = [_read(slot) for slot in self._slots]
        self._next = 0 if (on_disk[0] or RELEASED) <= (on_disk[1] or RELEASED) else 1
        self._floor = self._written = max(RELEASED, *(one or RELEASED for one in on_disk))
        self._runs_since: tuple[datetime, float] | None = None
        """Clock and monotonic seconds at the last jump of the clock, or the first look."""
        self._started = (self._floor, monotonic())

    @property
    def floor(self) -> datetime:
        """The latest time that is known to have passed."""
        return self._floor

    def now(self, system: datetime) -> Reading:
        """Return what time it is, where the clock says ``system``."""
        if system < self._floor - _TOLERANCE:
            self._runs_since = None
            return Reading(self._floor, trusted=False)
        unchallenged = self._run(system)
        if system - self._floor <= _STEP or unchallenged >= _UNCHALLENGED:
            self._raise(system)
        return Reading(max(system, self._floor), trusted=True)

    def note_hub(self, said: datetime, *, system: datetime) -> None:
        """Take what the API server says in its ``Date`` header while the clock says ``system``."""
        if abs(said - system) <= _TOLERANCE:
            self._raise(min(said, system))
            return
        self._runs_since = None
        floor, at = self._started
        if said <= floor + _STEP + timedelta(seconds=self._monotonic() - at):
            self._raise(said)

    def prove(self, moment: datetime) -> None:
        """Take a time that was signed by a log or timestamp authority, and verified."""
        self._raise(moment)

    def _run(self, system: datetime) -> timedelta:
        """Return for how long the clock has run without a jump."""
        at = self._monotonic()
        if self._runs_since is not None:
            began, began_at = self._runs_since
            ran = timedelta(seconds=at - began_at)
            if abs(system - began - ran) <= _TOLERANCE:
                return ran
        self._runs_since = (system, at)
        return timedelta()

    def _raise(self, moment: datetime) -> None:
        self._floor = max(self._floor, moment)
        if self._floor - self._written < _WRITE_EVERY:
            return
        slot = self._slots[self._next]
        text = self._floor.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        try:
            make_directory(slot.parent)
            write_file(slot, f"{text} {_checksum(text)}\n".encode(), mode=0o600)
        except OSError as error:  # a full disk: the floor stands in memory
            log.warning("time.unwritten", extra={"cause": str(error)})
            return
        self._written, self._next = self._floor, 1 - self._next


def _read(slot: Path) -> datetime | None:
    try:
        found = _LINE.fullmatch(slot.read_text(encoding="ascii"))
        if found is None or found[2] != _checksum(found[1]):
            log.warning("time.unreadable", extra={"file": slot.name})
            return None
        return datetime.fromisoformat(found[1])
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("time.unreadable", extra={"file": slot.name, "cause": str(error)})
        return None


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
