"""Results that wait for a connection: a queue on disk that no kill, power cut or full disk breaks.

- One record is one line with its checksum, synced before ``append`` returns; a torn line is dropped
  and counted, and nothing is ever appended behind one.
- Segment files, each removed whole once its records are done: the queue never needs room to shrink
  (SQLite cannot even delete on a full disk).
- Bounded in bytes and age; the oldest segment goes first, on a full disk, too. Where that makes no
  room, or the disk is broken, the record is kept in memory only.
- In order; a record that was sent but not yet noted as done is sent again after a kill, so whoever
  takes it must know it by its ``id``.
"""

import errno
import hashlib
import json
import logging
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from linnet_agent.durable import make_directory, remove_file, sync_directory
from linnet_agent.verify.strict_json import parse_json_object

log = logging.getLogger(__name__)

MAX_BYTES: Final = 1 << 20
SEGMENT_BYTES: Final = 64 << 10
MAX_AGE: Final = timedelta(days=90)
_MAX_RECORD_BYTES: Final = 16 << 10
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_SUFFIX: Final = ".results"


@dataclass(frozen=True, slots=True)
class Result:
    """One record, with the time at which it came about."""

    at: datetime
    content: Mapping[str, Any]

    @property
    def id(self) -> str:
        """What it is known by, before and after a restart."""
        return hashlib.sha256(_to_json(self)).hexdigest()[:16]


@dataclass(slots=True)
class _Segment:
    path: Path
    size_bytes: int = 0
    results: list[Result] = field(default_factory=list)


class ResultQueue:
    """A queue in one directory, for one process."""

    def __init__(
        self,
        directory: Path,
        *,
        max_bytes: int = MAX_BYTES,
        segment_bytes: int = SEGMENT_BYTES,
        max_age: timedelta = MAX_AGE,
    ) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._segment_bytes = segment_bytes
        self._max_age = max_age
        self._segments: list[_Segment] = []
        self._in_memory: list[Result] = []
        """What there was no room for; the newest, so last in order."""
        self._open: _Segment | None = None
        self._number = 0
        self.dropped = 0
        """How many were lost: too old, too many, torn, or no room."""

    def load(self) -> None:
        """Take up what a run before has left; a segment of its own is begun for what is new."""
        try:
            for path in sorted(self._directory.glob(f"*{_SUFFIX}")):
                self._number = max(self._number, _number_of(path))
                self._load_segment(path)
        except OSError as error:
            log.warning("results.unreadable", extra={"cause": str(error)})

    def append(self, content: Mapping[str, Any], *, at: datetime) -> None:
        """Add a record; it is on the disk when this returns, where the disk takes it."""
        result = Result(at, content)
        line = _to_line(result)
        if len(line) > _MAX_RECORD_BYTES:
            self._drop(1, "size")
            return
        while True:
            try:
                self._write(line, result)
                break
            except OSError as error:
                if error.errno not in _FULL or not self._drop_oldest(str(error)):
                    log.warning("results.unwritten", extra={"cause": str(error)})
                    self._keep_in_memory(result)
                    break
        while sum(segment.size_bytes for segment in self._segments) > self._max_bytes:
            if not self._drop_oldest("bytes"):
                break

    def pending(self, *, now: datetime) -> list[Result]:
        """Return what waits, oldest first; what is too old is dropped."""
        for segment in list(self._segments):
            newest = max((result.at for result in segment.results), default=now)
            if now - newest > self._max_age:
                self._drop(len(segment.results), "age")
                self._remove(segment)
        return [*self._all(), *self._in_memory]

    def done(self, result: Result) -> None:
        """Forget a record that has arrived."""
        if result in self._in_memory:
            self._in_memory.remove(result)
            return
        for segment in list(self._segments):
            if result in segment.results:
                segment.results.remove(result)
                if not segment.results:
                    self._remove(segment)
                return

    def _all(self) -> Iterator[Result]:
        for segment in self._segments:
            yield from segment.results

    def _write(self, line: bytes, result: Result) -> None:
        segment = self._open
        if segment is None or segment.size_bytes + len(line) > self._segment_bytes:
            segment = self._open = self._begin()
        descriptor = os.open(segment.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            view = memoryview(line)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        except OSError:
            self._open = None  # it may be torn: nothing is added behind that
            with suppress(OSError):
                os.ftruncate(descriptor, segment.size_bytes)
            if not segment.results:
                self._remove(segment)
            raise
        finally:
            os.close(descriptor)
        segment.size_bytes += len(line)
        segment.results.append(result)

    def _begin(self) -> _Segment:
        make_directory(self._directory)
        self._number += 1
        path = self._directory / f"{self._number:012d}{_SUFFIX}"
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        sync_directory(self._directory)
        segment = _Segment(path)
        self._segments.append(segment)
        return segment

    def _load_segment(self, path: Path) -> None:
        segment = _Segment(path)
        try:
            raw = path.read_bytes()
        except OSError as error:
            log.warning("results.unreadable", extra={"file": path.name, "cause": str(error)})
            return
        segment.size_bytes = len(raw)
        *lines, torn = raw.split(b"\n")
        read = [_from_line(line) for line in lines]
        segment.results = [result for result in read if result is not None]
        self._drop(len(read) - len(segment.results) + bool(torn), "torn")
        self._segments.append(segment)
        if not segment.results:
            self._remove(segment)

    def _drop_oldest(self, why: str) -> bool:
        """Make room; the segment that is being written is the last to go."""
        others = [segment for segment in self._segments if segment is not self._open]
        if not others:
            return False
        self._drop(len(others[0].results), why)
        self._remove(others[0])
        return True

    def _keep_in_memory(self, result: Result) -> None:
        self._in_memory.append(result)
        most = self._max_bytes // _MAX_RECORD_BYTES
        if len(self._in_memory) > most:
            self._drop(1, "memory")
            del self._in_memory[0]

    def _remove(self, segment: _Segment) -> None:
        self._segments.remove(segment)
        if self._open is segment:
            self._open = None
        try:
            remove_file(segment.path)
        except OSError as error:  # it is read again at the next start, and sent again
            log.warning("results.unremoved", extra={"file": segment.path.name, "cause": str(error)})

    def _drop(self, count: int, why: str) -> None:
        if count:
            self.dropped += count
            log.warning("results.dropped", extra={"count": count, "cause": why})


def _number_of(path: Path) -> int:
    stem = path.name.removesuffix(_SUFFIX)
    return int(stem) if stem.isdecimal() else 0


def _to_json(result: Result) -> bytes:
    document = {"at": result.at.isoformat(), "content": result.content}
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _to_line(result: Result) -> bytes:
    body = _to_json(result)
    return f"{zlib.crc32(body):08x} ".encode() + body + b"\n"


def _from_line(line: bytes) -> Result | None:
    """Return the record; None where the line is not what was written."""
    checksum, _, body = line.partition(b" ")
    try:
        if int(checksum, 16) != zlib.crc32(body):
            return None
        document = parse_json_object(body, max_bytes=_MAX_RECORD_BYTES)
        return Result(datetime.fromisoformat(document["at"]), document["content"])
    except (ValueError, KeyError, TypeError):
        return None
