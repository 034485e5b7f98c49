"""What a real process did to files, by strace: every call that can change one, in order.

- The calls are read in hexadecimal, so that no name and no content can be mistaken for syntax.
- Every file descriptor is resolved to its path by strace at the time of the call.
- A line that cannot be read is a fault of the recording, never left out.
"""

import re
import shutil
from typing import NamedTuple

CHANGING = (
    *("creat", "write", "pwrite64", "writev", "pwritev", "pwritev2", "ftruncate", "truncate"),
    *("fallocate", "rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat"),
    *("unlink", "unlinkat", "rmdir", "mkdir", "mkdirat", "fsync", "fdatasync", "sync", "syncfs"),
    *("chmod", "fchmod", "fchmodat", "sync_file_range", "copy_file_range", "sendfile"),
)
TRACED = ["openat", "open", *CHANGING]

_LINE = re.compile(r"(\d+)\s+(.*)", re.DOTALL)
_CALL = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+|\?)(.*)", re.DOTALL)
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)", re.DOTALL)
_ARGUMENT = re.compile(
    r'"(?P<text>(?:\\x[0-9a-f]{2})*)"(?P<cut>\.\.\.)?'
    r"|(?P<fd>\d+|AT_FDCWD)<(?P<path>(?:\\x[0-9a-f]{2})*)>(?:\([^)]*\))?"
    r"|(?P<plain>[^\",<>]+)"
)


class Fd(NamedTuple):
    """A descriptor and the path that it had at the time of the call; None where it is no file."""

    number: int | None
    path: str


class Call(NamedTuple):
    """One system call that has returned: what it was called with, and what came of it."""

    thread: int
    name: str
    arguments: tuple[object, ...]
    """bytes, ``Fd`` or the text that strace prints (flags, numbers)."""
    result: int
    returned: Fd | None
    injected: bool


def missing():
    """Return why nothing can be recorded here; None where it can."""
    return (
        None if shutil.which("strace") else "strace is not installed (Debian: apt install strace)"
    )


def tracer(output, *, more=()):
    """Return the command line that runs a program and records it into ``output``.

    Args:
        output: Where to.
        more: Calls that are recorded, too; of all of them only the beginning of a text is kept.
    """
    size = 4096 if more else 1 << 26
    return [
        *("strace", "-D", "-f", "-y", "-xx", "--seccomp-bpf", "-s", str(size)),
        *("-e", f"trace={','.join([*TRACED, *more])}", "-o", str(output)),
    ]


def read_calls(path, *, whole=True):
    """Return the calls of a recording that have returned, in the order of their return.

    Args:
        path: Where strace has written to.
        whole: What is read or written must be there in whole.
    """
    calls, begun = [], {}
    for line in path.read_text("ascii").splitlines():
        thread, rest = _LINE.fullmatch(line).groups()
        if rest.startswith(("+++", "---")):
            continue
        if rest.endswith("<unfinished ...>"):
            begun[thread] = rest.removesuffix("<unfinished ...>").rstrip()
            continue
        if resumed := _RESUMED.fullmatch(rest):
            start = begun.pop(thread)
            assert start.startswith(resumed[1] + "("), (start, line)
            rest = start + resumed[2]
        match = _CALL.fullmatch(rest)
        assert match is not None, f"not a call: {line[:300]}"
        name, arguments, result, tail = match.groups()
        if result == "?":
            continue  # the process was killed in it, or before it
        calls.append(
            Call(
                thread=int(thread),
                name=name,
                arguments=tuple(_read_arguments(arguments, whole=whole)),
                result=int(result),
                returned=_read_returned(result, tail),
                injected="INJECTED" in tail,
            )
        )
    return calls


def _read_arguments(text, *, whole):
    for match in _ARGUMENT.finditer(text):
        assert not (whole and match["cut"]), "a string was cut: -s is too small"
        if match["text"] is not None:
            yield _bytes(match["text"])
        elif match["fd"] is not None:
            number = None if match["fd"] == "AT_FDCWD" else int(match["fd"])
            yield Fd(number, _bytes(match["path"]).decode())
        elif plain := match["plain"].strip():
            yield plain


def _read_returned(result, tail):
    match = re.match(r"<((?:\\x[0-9a-f]{2})*)>", tail)
    return None if match is None else Fd(int(result), _bytes(match[1]).decode())


def _bytes(text):
    return bytes.fromhex(text.replace("\\x", ""))
