"""A directory that shall hold exactly a signed model.

- Plain files in plain directories: no symbolic link, no second hard link, no device, no FIFO.
- Nothing that others may write, nothing that is setuid or setgid, no directory without a file.
- Exactly the signed names with the signed digests: no extra file, none missing, ``.git`` included.
- Every file is opened without following links and read once, by as many threads as there are
  cores: hashlib lets go of the interpreter.
- What changes while it is being hashed is noticed: each file is looked at before and after, and the
  whole tree once more at the end. Only a private directory can promise more.
"""

import hashlib
import os
import stat
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from linnet_agent.errors import ContentRefusedError
from linnet_agent.verify.oms import Statement
from linnet_agent.verify.paths import names_fault

_CHUNK_BYTES: Final = 256 << 10
_BAD_MODE: Final = stat.S_ISUID | stat.S_ISGID | stat.S_IWGRP | stat.S_IWOTH
_MAX_DEPTH: Final = 64
_MAX_HASHERS: Final = 8


class _Mark(NamedTuple):
    """What a write, a swap or a new link cannot leave as it was; only root can forge ctime."""

    device: int
    inode: int
    mode: int
    links: int
    size: int
    mtime_ns: int
    ctime_ns: int


class _Entry(NamedTuple):
    """A file that was found, and how to open it: in the directory that was looked into."""

    name: str
    mark: _Mark
    directory: int


def hash_directory(root: Path, *, private: bool = True) -> dict[str, str]:
    """Return the digest of every file below ``root``: name to ``sha256:<hex>``.

    Args:
        root: The directory.
        private: True where nobody but its owner may be able to change it: modes, link counts and
            empty directories count. False for a publisher's working directory.

    Raises:
        ContentRefusedError: It holds something that a model may not hold, or it has changed
            meanwhile.
        OSError: It cannot be read.
    """
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        seen: dict[str, _Mark] = {}
        with closing(_walk(directory, private=private)) as entries:
            digests = _hash_all(entries, seen=seen, private=private)
        if (fault := names_fault(sorted(digests))) is not None:
            raise ContentRefusedError(fault)
        with closing(_walk(directory, private=private)) as entries:
            again = {entry.name: entry.mark for entry in entries}
    finally:
        os.close(directory)
    for name in sorted({*seen, *again}):
        if seen.get(name) != again.get(name):
            raise _changed(name)
    return digests


def hash_file(path: Path) -> str:
    """Return ``sha256:<hex>`` of one file of a publisher.

    Raises:
        ContentRefusedError: It is not a plain file, or it has changed meanwhile.
        OSError: It cannot be read.
    """
    directory = os.open(path.parent.resolve(), os.O_RDONLY | os.O_DIRECTORY)
    try:
        mark = _mark(os.lstat(path.name, dir_fd=directory))
        return _hash_entry(_Entry(path.name, mark, directory), _buffer(), private=False)
    finally:
        os.close(directory)


def verify_directory(root: Path, statement: Statement) -> None:
    """Check that ``root`` holds exactly what ``statement`` names.

    Raises:
        ContentRefusedError: It does not.
        OSError: It cannot be read.
    """
    found = hash_directory(root)
    if (fault := difference(found, statement.files)) is not None:
        raise ContentRefusedError(fault)


def difference(files: Mapping[str, str], signed: Mapping[str, str]) -> str | None:
    """Return the first difference between what is there and what was signed, or None."""
    for name in sorted({*files, *signed}):
        if name not in signed:
            return f"the file {name!r} is not signed"
        if name not in files:
            return f"the signed file {name!r} is missing"
        if files[name] != signed[name]:
            return f"the file {name!r} is {files[name]}, signed was {signed[name]}"
    return None


def _walk(
    directory: int, *, private: bool, prefix: str = "", depth: int = 0
) -> Generator[_Entry, None, None]:
    """Find every file; an entry can be opened until the next one is asked for."""
    if depth > _MAX_DEPTH:
        msg = f"{prefix!r} is nested deeper than {_MAX_DEPTH}"
        raise ContentRefusedError(msg)
    if private and os.fstat(directory).st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        msg = f"the directory {prefix or '.'!r} can be written by others"
        raise ContentRefusedError(msg)
    names = sorted(os.listdir(directory))
    if private and not names:
        msg = f"the directory {prefix or '.'!r} is empty"
        raise ContentRefusedError(msg)
    for entry in names:
        name = prefix + entry
        found = os.lstat(entry, dir_fd=directory)
        if stat.S_ISDIR(found.st_mode):
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            child = os.open(entry, flags, dir_fd=directory)
            try:
                yield from _walk(child, private=private, prefix=f"{name}/", depth=depth + 1)
            finally:
                os.close(child)
        else:
            _require_plain(found, name=name, private=private)
            yield _Entry(name, _mark(found), directory)


def _hash_all(
    entries: Iterator[_Entry], *, seen: dict[str, _Mark], private: bool
) -> dict[str, str]:
    """Hash what ``entries`` finds; whoever is free goes on with the walk and opens the next file.

    ``seen`` takes the marks of what was found.
    """
    lock = threading.Lock()
    digests: dict[str, str] = {}
    faults: list[BaseException] = []

    def work() -> None:
        buffer = _buffer()
        try:
            while True:
                with lock:
                    entry = None if faults else next(entries, None)
                    if entry is None:
                        return
                    seen[entry.name] = entry.mark
                    file = _open(entry)
                digests[entry.name] = _hash_and_close(file, entry, buffer, private=private)
        except BaseException as error:  # noqa: BLE001 - told by the thread that asked
            faults.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(_hashers() - 1)]
    for thread in threads:
        thread.start()
    work()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    return digests


def _hashers() -> int:
    return min(_MAX_HASHERS, len(os.sched_getaffinity(0)))


def _buffer() -> memoryview:
    return memoryview(bytearray(_CHUNK_BYTES))


def _hash_entry(entry: _Entry, buffer: memoryview, *, private: bool) -> str:
    return _hash_and_close(_open(entry), entry, buffer, private=private)


def _open(entry: _Entry) -> int:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    return os.open(entry.name.rpartition("/")[2], flags, dir_fd=entry.directory)


def _hash_and_close(file: int, entry: _Entry, buffer: memoryview, *, private: bool) -> str:
    """Judge the open file before and after: what is checked is what is read."""
    try:
        before = os.fstat(file)
        _require_plain(before, name=entry.name, private=private)
        digest = hashlib.sha256()
        size = 0
        while count := os.readv(file, [buffer]):
            digest.update(buffer[:count])
            size += count
        if not entry.mark == _mark(before) == _mark(os.fstat(file)) or size != before.st_size:
            raise _changed(entry.name)
        return "sha256:" + digest.hexdigest()
    finally:
        os.close(file)


def _require_plain(found: os.stat_result, *, name: str, private: bool) -> None:
    if not stat.S_ISREG(found.st_mode):
        msg = f"{name!r} is not a plain file"
        raise ContentRefusedError(msg)
    if private and found.st_nlink != 1:
        msg = f"{name!r} has {found.st_nlink} links: it can change under another name"
        raise ContentRefusedError(msg)
    if private and found.st_mode & _BAD_MODE:
        msg = f"{name!r} has mode {stat.S_IMODE(found.st_mode):o}"
        raise ContentRefusedError(msg)


def _mark(found: os.stat_result) -> _Mark:
    return _Mark(
        device=found.st_dev,
        inode=found.st_ino,
        mode=found.st_mode,
        links=found.st_nlink,
        size=found.st_size,
        mtime_ns=found.st_mtime_ns,
        ctime_ns=found.st_ctime_ns,
    )


def _changed(name: str) -> ContentRefusedError:
    return ContentRefusedError(f"{name!r} has changed while it was being hashed")
