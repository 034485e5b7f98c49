"""A real agent, disturbed by strace at one system call: killed in it, or told that it has failed.

- A call is named by what it is called, by the path that it is about and by its number: strace
  counts only the calls on that path (-P). So the same call is met in every run.
- After a kill a second agent goes on. After an error the same one does; where it has ended, another
  one is started, as a DaemonSet would.
- It must come to where its order wants it, keep the rules on the way, leave nothing behind, and say
  what was wrong.
"""

import shutil
import signal
from collections import Counter
from typing import NamedTuple

from crashlab.log import Enter, Resize, Write
from crashlab.node import wait_until
from crashlab.scenarios import has_ended, why_not

KILL = "kill"
_SAID_S = 5.0
ERRORS = ("ENOSPC", "EIO", "EROFS", "EMFILE")

_OPENS = ("openat", "open")
_MAKES = ("mkdir", "mkdirat", "symlink", "symlinkat", "rename", "renameat", "renameat2")
_WRITES = ("write", "pwrite64", "ftruncate", "truncate", "fallocate", "fsync", "fdatasync")
_REMOVES = ("unlink", "unlinkat", "rmdir")
_MODES = ("chmod", "fchmod", "fchmodat")
_FAILS = {
    "ENOSPC": (*_OPENS, *_MAKES, *_WRITES),
    "EIO": (*_OPENS, *_MAKES, *_WRITES, *_REMOVES, *_MODES),
    "EROFS": (*_OPENS, *_MAKES, "truncate", *_REMOVES, *_MODES),
    "EMFILE": _OPENS,
}


class Point(NamedTuple):
    """One call of a recording."""

    call: str
    path: str
    """Below the root; strace looks at calls on it alone."""
    number: int
    flags: str
    """Of an open."""
    changes: bool
    """True where the tree is another one after it."""

    def __str__(self):
        return f"{self.call}({self.path or '.'})#{self.number}"


def points(recording):
    """Return the calls on the tree that have succeeded, in order."""
    root = recording.root
    changing = {
        id(call)
        for step, call in zip(recording.log.steps, recording.log.calls, strict=True)
        if isinstance(step, Enter | Write | Resize)
    }
    counts, found = Counter(), []
    for call in recording.calls:
        paths = {path for path in _paths(call) if path == root or path.startswith(root + "/")}
        for path in paths:
            counts[call.name, path] += 1
        if not paths or call.result < 0:
            continue
        path = next(path for path in _paths(call) if path in paths)
        flags = next((a for a in call.arguments if isinstance(a, str) and "O_" in a), "")
        found.append(
            Point(
                call=call.name,
                path=path.removeprefix(root).removeprefix("/"),
                number=counts[call.name, path],
                flags=flags,
                changes=id(call) in changing,
            )
        )
    return found


def _paths(call):
    """Return what strace compares with -P, in the order of the arguments."""
    for argument in call.arguments:
        if isinstance(argument, bytes) and call.name not in ("write", "pwrite64"):
            yield argument.decode(errors="surrogateescape")
        elif hasattr(argument, "path") and argument.number is not None:
            yield argument.path


def can_fail(point, error):
    """Tell whether a file system may answer the call with ``error``, and it is a fault.

    fallocate with anything but ENOSPC says that the file system cannot reserve.
    """
    if point.call not in _FAILS[error] or (point.call, error) == ("fallocate", "EIO"):
        return False
    writes = any(flag in point.flags for flag in ("O_CREAT", "O_WRONLY", "O_RDWR", "O_TRUNC"))
    if point.call in _OPENS and error in ("ENOSPC", "EROFS"):
        return writes if error == "EROFS" else "O_CREAT" in point.flags
    return True


class Outcome(NamedTuple):
    """What came of one disturbance."""

    point: Point
    fault: str
    hit: bool
    """False: the call did not come again in that run."""
    restarts: int
    wrong: tuple[str, ...]


def disturb(lab, recording, point, fault, *, mutant=None, patience_s=40.0):
    """Run the scenario of ``recording`` once more, disturbed at ``point``.

    Args:
        lab: Makes the node; it is removed where all went well.
        recording: The undisturbed run that the point is from.
        point: Where.
        fault: ``KILL``, or the name of an error.
        mutant: A mistake that the agent is to make.
        patience_s: So long may it take to get where its order wants it.
    """
    scenario = recording.scenario
    node = lab.make(scenario)
    assert scenario.give(node) == recording.revision
    effect = "signal=KILL" if fault == KILL else f"error={fault}"
    output = node.home / "fault.strace"
    tracer = [
        *("strace", "-D", "-f", "-P", str(node.root / point.path).removesuffix("/.")),
        *("-e", f"trace={point.call}", "-o", str(output)),
        *("-e", f"inject={point.call}:{effect}:when={point.number}"),
    ]
    if scenario.served:
        node.start_server()
    try:
        node.start_agent(mutant=mutant, tracer=tracer)
        restarts, wrong = _get_there(node, recording, fault, mutant, patience_s)
        hit = restarts > 0 if fault == KILL else "INJECTED" in output.read_text("ascii")
        if hit and fault != KILL and not wrong:
            wrong = _silence(node, fault)
    finally:
        node.stop()
    if not wrong:
        shutil.rmtree(node.home)
    return Outcome(point, fault, hit, restarts, tuple(wrong))


def _silence(node, fault):
    """Return that nothing was said of a fault; what is done may be seen before it is said."""
    try:
        wait_until(lambda: node.said(fault), what=lambda: f"{fault} is said", timeout_s=_SAID_S)
    except AssertionError:
        return [f"nothing is said of {fault}"]
    return []


def _get_there(node, recording, fault, mutant, patience_s):
    """Wait for the end of the story; return how often the agent was started again, and faults."""
    scenario, restarts = recording.scenario, 0

    def arrived():
        nonlocal restarts
        if (ended := node.agent.poll()) is not None:
            assert restarts < 2, f"the agent ends again and again: {ended} {node.tail()}"
            assert ended == -signal.SIGKILL or fault != KILL, f"it ended by itself: {node.tail()}"
            node.assert_rule_2()
            node.assert_rule_3(recording.baseline)
            restarts += 1
            node.start_agent(mutant=mutant)
        return has_ended(node, scenario, recording.revision)

    try:
        wait_until(arrived, what=lambda: why_not(node, scenario), timeout_s=patience_s)
        node.assert_rule_2()
        node.assert_rule_3(recording.baseline)
    except AssertionError as error:
        return restarts, [str(error)]
    return restarts, []
