"""A directory that shall hold exactly a signed model.

- Plain files in plain directories: no symbolic link, no second hard link, no device, no FIFO.
- No file that others may write, none that is setuid or setgid.
- Exactly the signed names with the signed digests: no extra file, none missing, ``.git`` included.
- Every file is opened without following links and read once.
"""

import hashlib
import os
import stat
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from linnet_agent.errors import ContentRefusedError
from linnet_agent.verify.oms import Statement
from linnet_agent.verify.paths import names_fault

_CHUNK_BYTES: Final = 1 << 20
_BAD_MODE: Final = stat.S_ISUID | stat.S_ISGID | stat.S_IWGRP | stat.S_IWOTH
_MAX_DEPTH: Final = 64
_HASHERS: Final = 2


def hash_directory(root: Path, *, private: bool = True) -> dict[str, str]:
    """Return the digest of every file below ``root``: name to ``sha256:<hex>``.

    Args:
        root: The directory.
        private: True where nobody but its owner may be able to change it: modes and link counts
            count. False for a publisher's working directory.

    Raises:
        ContentRefusedError: It holds something that a model may not hold.
        OSError: It cannot be read.
    """
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    # hashlib and readv drop the GIL: two threads are twice as fast. The slots bound open files.
    slots = threading.BoundedSemaphore(2 * _HASHERS)
    try:
        with ThreadPoolExecutor(_HASHERS) as pool:
            pending = {
                name: pool.submit(_digest_and_close, file, slots)
                for name, file in _walk(directory, prefix="", depth=0, private=private)
                if slots.acquire()
            }
    finally:
        os.close(directory)
    digests = {name: future.result() for name, future in pending.items()}
    if (fault := names_fault(digests)) is not None:
        raise ContentRefusedError(fault)
    return digests


def hash_file(path: Path) -> str:
    """Return ``sha256:<hex>`` of one file of a publisher.

    Raises:
        ContentRefusedError: It is not a plain file.
        OSError: It cannot be read.
    """
    directory = os.open(path.parent.resolve(), os.O_RDONLY | os.O_DIRECTORY)
    try:
        file = _open_file(path.name, directory=directory, name=path.name, private=False)
        return _digest_and_close(file)
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


def _walk(directory: int, *, prefix: str, depth: int, private: bool) -> Iterator[tuple[str, int]]:
    if depth > _MAX_DEPTH:
        msg = f"directories are nested deeper than {_MAX_DEPTH}"
        raise ContentRefusedError(msg)
    with os.scandir(directory) as entries:
        names = sorted(entry.name for entry in entries)
    for entry in names:
        name = prefix + entry
        found = os.lstat(entry, dir_fd=directory)
        if stat.S_ISDIR(found.st_mode):
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            child = os.open(entry, flags, dir_fd=directory)
            try:
                yield from _walk(child, prefix=f"{name}/", depth=depth + 1, private=private)
            finally:
                os.close(child)
        elif stat.S_ISREG(found.st_mode):
            yield name, _open_file(entry, directory=directory, name=name, private=private)
        else:
            msg = f"{name!r} is not a plain file"
            raise ContentRefusedError(msg)


def _open_file(entry: str, *, directory: int, name: str, private: bool) -> int:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    file = os.open(entry, flags, dir_fd=directory)
    try:
        _require_plain(os.fstat(file), name=name, private=private)
    except ContentRefusedError:
        os.close(file)
        raise
    return file


def _require_plain(found: os.stat_result, *, name: str, private: bool) -> None:
    """Judge the open file: what is checked is what is read."""
    if not stat.S_ISREG(found.st_mode):
        msg = f"{name!r} is not a plain file"
        raise ContentRefusedError(msg)
    if private and found.st_nlink != 1:
        msg = f"{name!r} has {found.st_nlink} links: it can change under another name"
        raise ContentRefusedError(msg)
    if private and found.st_mode & _BAD_MODE:
        msg = f"{name!r} has mode {stat.S_IMODE(found.st_mode):o}"
        raise ContentRefusedError(msg)


def _digest_and_close(file: int, slots: threading.BoundedSemaphore | None = None) -> str:
    try:
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(_CHUNK_BYTES))
        while count := os.readv(file, [buffer]):
            digest.update(buffer[:count])
        return "sha256:" + digest.hexdigest()
    finally:
        os.close(file)
        if slots is not None:
            slots.release()
