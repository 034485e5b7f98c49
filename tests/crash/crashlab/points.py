"""Where an agent can be disturbed: at each of its named steps, and at each of its system calls.

- A call is named by what it is called, by the path that it is about and by its number: strace
  counts, in each thread, the calls on that path alone (-P). So the same call is met in every run.
- The calls on the node's directory are looked at, and those that make a descriptor of another kind.
- Each has the named step that the agent was on its way to: the rows of the kill table.
"""

from collections import Counter
from typing import NamedTuple

from crashlab.log import Ack, Enter, Resize, Write

STEP, KILL = "kill at step", "kill at call"
ERRORS = ("ENOSPC", "EIO", "EROFS", "EMFILE")
AT_REST = "at rest"
"""What comes after the last named step."""

_OPENS = ("openat", "open")
_MAKES = ("mkdir", "mkdirat", "symlink", "symlinkat", "rename", "renameat", "renameat2")
_WRITES = ("write", "pwrite64", "ftruncate", "truncate", "fallocate", "fsync", "fdatasync")
_REMOVES = ("unlink", "unlinkat", "rmdir")
_MODES = ("chmod", "fchmod", "fchmodat")
READS = (
    *("read", "pread64", "readv", "getdents64", "readlink", "readlinkat"),
    *("newfstatat", "stat", "lstat", "statx"),
)
DESCRIPTORS = ("socket", "socketpair", "pipe2", "epoll_create1", "accept4", "eventfd2")
_FAILS = {
    "ENOSPC": (*_OPENS, *_MAKES, *_WRITES),
    "EIO": (*_OPENS, *_MAKES, *_WRITES, *_REMOVES, *_MODES, *READS),
    "EROFS": (*_OPENS, *_MAKES, "truncate", *_REMOVES, *_MODES),
    "EMFILE": (*_OPENS, *DESCRIPTORS),
}


class Point(NamedTuple):
    """One named step of an agent, or one of its system calls."""

    call: str
    """Empty: the step itself."""
    path: str | None
    """Below the root; strace looks at calls on it alone. None: it is about no path."""
    number: int
    step: str
    """The named step that the agent was on its way to, or has just done."""
    flags: str = ""
    """Of an open."""
    changes: bool = False
    """True where the tree is another one after it."""
    is_told: bool = True
    """False: an error changes nothing, for the call fails in any case; or it is of a network."""

    def __str__(self):
        where = "" if self.path is None else self.path or "."
        return f"{self.call}({where})#{self.number}" if self.call else f"{self.step}:{self.number}"


def steps_ahead(events):
    """Return for each event (a name where a step was done, else None) the step that comes next."""
    ahead, name = [], AT_REST
    for event in reversed(events):
        name = event or name
        ahead.append(name)
    return ahead[::-1]


def steps_of(log):
    """Return for each step of a log the named step that the agent was on its way to."""
    return steps_ahead([step.name if isinstance(step, Ack) else None for step in log.steps])


def named_points(log):
    """Return each time that the agent has done a named step."""
    counts, found = Counter(), []
    for step in log.steps:
        if isinstance(step, Ack):
            counts[step.name] += 1
            found.append(Point("", None, counts[step.name], step.name))
    return found


def changing_calls(log):
    """Return the identities of the calls that have changed the tree."""
    return {
        id(call)
        for step, call in zip(log.steps, log.calls, strict=True)
        if isinstance(step, Enter | Write | Resize)
    }


def call_points(calls, *, root, acknowledgements, changing=frozenset()):
    """Return the calls on ``root``, and those that make a descriptor, in order, each once.

    Args:
        calls: As recorded.
        root: The directory of the node.
        acknowledgements: The file that the agent writes the names of its steps to.
        changing: Identities of the calls that change the tree.
    """
    names = [
        call.arguments[1].decode().strip()
        if call.name == "write" and getattr(call.arguments[0], "path", None) == acknowledgements
        else None
        for call in calls
    ]
    counts, found = Counter(), {}
    for call, step in zip(calls, steps_ahead(names), strict=True):
        paths = [p for p in _paths(call) if p == root or p.startswith(root + "/")]
        for path in {*paths} if call.name not in DESCRIPTORS else {None}:
            counts[call.thread, call.name, path] += 1
        if (not paths and call.name not in DESCRIPTORS) or _asks_an_open_file(call):
            continue
        path = paths[0] if paths else None
        point = Point(
            call=call.name,
            path=path if path is None else path.removeprefix(root).removeprefix("/"),
            number=counts[call.thread, call.name, path],
            step=step,
            flags=next((a for a in call.arguments if isinstance(a, str) and "O_" in a), ""),
            changes=id(call) in changing,
            is_told=call.result >= 0 and call.name not in DESCRIPTORS,
        )
        key = (point.call, point.path, point.number)
        if key not in found or point.changes:
            found[key] = point
    return list(found.values())


def _asks_an_open_file(call):
    """Tell whether it is an fstat: the answer is in memory, and Python does without it."""
    return call.name == "newfstatat" and call.arguments[1] == b""


def _paths(call):
    """Return what strace compares with -P, in the order of the arguments."""
    for argument in call.arguments:
        if isinstance(argument, bytes) and call.name not in ("write", "pwrite64"):
            yield argument.decode(errors="surrogateescape")
        elif hasattr(argument, "path") and argument.number is not None:
            yield argument.path


def can_meet(point, fault):
    """Tell whether the fault is one of that point's: a file system may answer so, or it changes.

    fallocate with anything but ENOSPC says that the file system cannot reserve.
    """
    if not point.call or fault == STEP:
        return not point.call and fault == STEP
    if fault == KILL:
        return point.changes
    if point.call not in _FAILS[fault] or (point.call, fault) == ("fallocate", "EIO"):
        return False
    writes = any(flag in point.flags for flag in ("O_CREAT", "O_WRONLY", "O_RDWR", "O_TRUNC"))
    if point.call in _OPENS and fault in ("ENOSPC", "EROFS"):
        return writes if fault == "EROFS" else "O_CREAT" in point.flags
    return True
