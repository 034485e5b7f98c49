"""Files that are either whole or not there, and a lock that leaves no file behind."""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from linnet_testbed.errors import TestbedError


def write(path: Path, content: str | bytes, mode: int = 0o600) -> None:
    """Replace `path` by `content` in one rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    temporary.replace(path)


def write_json(path: Path, value: object) -> None:
    """Replace `path` by `value` as JSON."""
    write(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> Any:  # noqa: ANN401 - JSON is whatever was written
    """Return the JSON value in `path`, or None where there is no such file."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


@contextmanager
def locked(
    directory: Path, what: str, timeout: float = 600, say: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold the only lock on `directory` (made if absent); it ends with its holder."""
    deadline = time.monotonic() + timeout
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it before may have removed the directory: then this lock guards nothing.
            if directory.exists() and directory.stat().st_ino == os.fstat(descriptor).st_ino:
                break
        except BlockingIOError:
            if say:
                say(f"waiting: another process is busy with {what}")
                say = None
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise TestbedError(
                    f"Another process has been busy with {what} for {timeout:.0f} s; "
                    "wait for it or end it."
                ) from None
        os.close(descriptor)
        time.sleep(0.1)
    try:
        yield
    finally:
        os.close(descriptor)
