"""The staging directory: files that are being fetched, and how they survive a kill.

- A file grows under its final name; its size is how far it has come: a restart
  needs no notes.
- Blocks are reserved for all files before the first byte, without changing sizes.
- What a former attempt has left is hashed again before it is built upon.
- A finished file is fsynced and 0444; a finished directory holds the artifact's files and no other.
- No link is followed; whoever closes a file waits for a write that is under way.
- What is written is on its way to the disk at once: memory does not fill with it, and the fsync at
  the end is short.
"""

import asyncio
import contextlib
import ctypes
import errno
import functools
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar, cast

from linnet_agent.errors import DiskFullError
from linnet_agent.verify.manifest import Layer

_CHUNK_BYTES: Final = 1 << 20
_MARGIN_BYTES: Final = 16 << 20
_KEEP_SIZE: Final = 1
_WRITE_BACK_BYTES: Final = 8 << 20
_START_WRITE_BACK: Final = 2
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

_Result = TypeVar("_Result")


class PartialFile:
    """One file on its way: appended to, hashed on the way; safe to close from another thread."""

    def __init__(self, path: Path, *, size_bytes: int) -> None:
        _make_writable(path)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._path = path
        self._lock = threading.Lock()
        self._closed = False
        self._hash = hashlib.sha256()
        self._written_back = 0
        self.size_bytes = size_bytes
        self.have_bytes = 0

    def resume(self) -> int:
        """Hash what is there and return how much; blocking."""
        with self._lock:
            if os.fstat(self._fd).st_size > self.size_bytes:
                os.ftruncate(self._fd, 0)
            self._hash = hashlib.sha256()
            self.have_bytes = 0
            buffer = memoryview(bytearray(_CHUNK_BYTES))
            while not self._closed and (count := os.preadv(self._fd, [buffer], self.have_bytes)):
                self._hash.update(buffer[:count])
                self.have_bytes += count
            return self.have_bytes

    def append(self, chunk: bytes | bytearray | memoryview) -> None:
        """Write and hash; blocking.

        Raises:
            DiskFullError: There is no room.
        """
        with self._lock:
            if self._closed:
                return
            rest = memoryview(chunk)
            while rest:
                try:
                    written = os.pwrite(self._fd, rest, self.have_bytes)
                except OSError as error:
                    raise _room_error(error, self._path) from error
                self._hash.update(rest[:written])
                self.have_bytes += written
                rest = rest[written:]
            if self.have_bytes - self._written_back >= _WRITE_BACK_BYTES:
                _start_write_back(self._fd, self._written_back, self.have_bytes)
                self._written_back = self.have_bytes

    def restart(self) -> None:
        """Forget everything and begin anew; blocking."""
        with self._lock:
            if not self._closed:
                os.ftruncate(self._fd, 0)
            self._hash = hashlib.sha256()
            self._written_back = self.have_bytes = 0

    def digest(self) -> str:
        """Return ``sha256:<hex>`` of what is there."""
        return "sha256:" + self._hash.hexdigest()

    def seal(self) -> None:
        """Make it durable and read-only; blocking.

        Raises:
            DiskFullError: There is no room after all.
        """
        with self._lock:
            try:
                os.fchmod(self._fd, 0o444)
                os.fsync(self._fd)
            except OSError as error:
                raise _room_error(error, self._path) from error

    def close(self) -> None:
        """Close; waits for the operation that is under way."""
        self._closed = True
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1


async def off_loop(work: Callable[[], _Result]) -> _Result:
    """Run a call to the disk in a thread; it has ended when this returns or raises.

    A caller who is cancelled waits for the call: nobody writes behind its back.
    """
    future = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({future})
        _ = future.exception()  # seen
        raise


def prepare_staging(into: Path, layers: Sequence[Layer]) -> None:
    """Make ``into`` ready: directories, nothing foreign, and room for every byte; blocking.

    Raises:
        DiskFullError: There is no room; what was reserved is given back.
    """
    into.mkdir(mode=0o755, parents=True, exist_ok=True)
    _remove_foreign(into, {layer.name for layer in layers})
    for layer in layers:
        (into / layer.name).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    missing = sum(layer.size_bytes - _size(into / layer.name) for layer in layers)
    room = os.statvfs(into)
    free = room.f_bavail * room.f_frsize
    if missing > 0 and free < missing + _MARGIN_BYTES:
        msg = f"{into} has room for {free} bytes; {missing} and {_MARGIN_BYTES} spare are needed"
        raise DiskFullError(msg)
    try:
        for layer in layers:
            _reserve(into / layer.name, layer.size_bytes)
    except DiskFullError:
        for layer in layers:
            _give_back(into / layer.name)
        raise


def seal_staging(into: Path) -> None:
    """Make the directories themselves durable; blocking."""
    for directory, _, _ in os.walk(into, topdown=False, onerror=_fail):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_foreign(into: Path, names: set[str]) -> None:
    for directory, subdirectories, files in os.walk(into, topdown=False, onerror=_fail):
        for path in (Path(directory, entry) for entry in (*files, *subdirectories)):
            known = path.relative_to(into).as_posix() in names
            found = path.lstat()
            if stat.S_ISDIR(found.st_mode):
                if known or not any(path.iterdir()):
                    path.rmdir()
            elif not known or not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                path.unlink()


def _fail(error: OSError) -> NoReturn:
    """Raise what ``os.walk`` would pass over: a directory that was not looked into, nor synced."""
    raise error


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def _reserve(path: Path, size_bytes: int) -> None:
    if _size(path) >= size_bytes:
        return
    _make_writable(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fault = _fallocate(descriptor, size_bytes)
        if fault in _NO_ROOM:
            msg = f"no room for the {size_bytes} bytes of {path.name}: {os.strerror(fault)}"
            raise DiskFullError(msg)
        # Any other fault: the file system cannot reserve; the check of free space has to do.
    finally:
        os.close(descriptor)


def _give_back(path: Path) -> None:
    """Free the blocks behind the end of the file: what truncating to the same size does."""
    if _size(path):
        _make_writable(path)
        os.truncate(path, _size(path))
    else:
        path.unlink(missing_ok=True)


def _make_writable(path: Path) -> None:
    """Give back what sealing took: a finished file of a former attempt is 0444."""
    if path.is_file() and not path.is_symlink():
        path.chmod(0o600)


def _fallocate(descriptor: int, size_bytes: int) -> int:
    """Reserve blocks and leave the size as it is; returns the errno, 0 where it worked.

    ``os.posix_fallocate`` would change the size, which is how far the file has come.
    """
    function = _libc_function("fallocate64", "iill") or _libc_function("fallocate", "iill")
    if function is None:
        return errno.EOPNOTSUPP
    return 0 if function(descriptor, _KEEP_SIZE, 0, size_bytes) == 0 else ctypes.get_errno()


def _start_write_back(descriptor: int, start: int, end: int) -> None:
    """Let the kernel begin to write; where it cannot, the fsync at the end does it all."""
    function = _libc_function("sync_file_range", "illi")
    if function is not None:
        function(descriptor, start, end - start, _START_WRITE_BACK)


@functools.cache
def _libc_function(name: str, arguments: str) -> Callable[..., int] | None:
    """Return a function of the C library; ``i`` is an int, ``l`` 64 bits."""
    function: Any = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is None:
        return None
    kinds = {"i": ctypes.c_int, "l": ctypes.c_int64}
    function.argtypes = [kinds[one] for one in arguments]
    return cast("Callable[..., int]", function)


def _room_error(error: OSError, path: Path) -> Exception:
    if error.errno in _NO_ROOM:
        return DiskFullError(f"no room while writing {path.name}: {error.strerror}")
    return error
