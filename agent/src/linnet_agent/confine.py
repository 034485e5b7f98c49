"""What a throw-away child gives up before it looks at bytes that nobody has looked at before.

- Called first of all, before there is a second thread: only then can it be given up for good.
- Network: none, neither a namespace with interfaces nor a socket to be had.
- Files: only what is named can be read; nothing can be written, made, renamed or removed, but in
  one directory where that is named; nothing can be given other rights.
- Processes: none can be started, traced, signalled or limited but itself; it dies with its parent.
- Each layer is taken where this kernel and its administrator allow it, and said; the limits always
  hold. Where neither a namespace nor a filter can be had, Python itself refuses sockets.

Linux only. Sources: ``unshare(2)``, ``landlock(7)``, ``seccomp(2)``, ``prctl(2)``.
"""

import ctypes
import os
import platform
import resource
import signal
import stat
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

USER_NAMESPACE: Final = "user namespace"
NETWORK_NAMESPACE: Final = "network namespace"
LANDLOCK: Final = "landlock"
SECCOMP: Final = "seccomp"
AUDIT_HOOK: Final = "audit hook"

_NEWUSER, _NEWNET, _NEWIPC = 0x10000000, 0x40000000, 0x08000000
_SET_PDEATHSIG, _SET_SECCOMP, _SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER: Final = 2

_libc = ctypes.CDLL(None, use_errno=True)


def confine(
    *,
    parent: int,
    readable: Iterable[Path],
    cpu_s: int,
    new_user: bool = True,
    scratch: Path | None = None,
    file_bytes: int = 0,
) -> tuple[str, ...]:
    """Give up all that a parser of foreign bytes does not need; return the layers in force.

    Args:
        parent: Process id of who started this one; where it is gone already, this one ends.
        readable: Files and directories that may be read from now on, with all below them.
        cpu_s: CPU seconds of all threads together; then SIGXCPU, a little later SIGKILL.
        new_user: False where root must go on to read what is not root's.
        scratch: A directory in which files may be made, changed and removed; None: none.
        file_bytes: How large a file may become.
    """
    _step_back()
    _limit(cpu_s=cpu_s, file_bytes=file_bytes)
    layers = [*_leave_namespaces(new_user=new_user)]
    # Only now: a process whose credentials change is no longer told of its parent's death.
    _libc.prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() not in (parent, 0):  # 0: seen from inside a namespace that it is not in
        os._exit(1)
    if _libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
        layers += [LANDLOCK] * _restrict_files(readable, scratch)
        layers += [SECCOMP] * _filter_calls()
    if not {NETWORK_NAMESPACE, SECCOMP} & set(layers):
        sys.addaudithook(_refuse_sockets)
        layers.append(AUDIT_HOOK)
    return tuple(layers)


def limit_data(more_bytes: int) -> None:
    """Let private memory grow by at most ``more_bytes`` from now on.

    ``RLIMIT_AS`` would be too coarse: a runtime reserves gigabytes of addresses that it never
    touches.
    """
    held = read_status("VmData")
    resource.setrlimit(resource.RLIMIT_DATA, (held + more_bytes, held + more_bytes))


def read_status(name: str) -> int:
    """Return a size of this process in bytes, such as ``VmHWM``, as the kernel knows it."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) << 10
    raise KeyError(name)


def _step_back() -> None:
    """Let everybody else have the processor, and the memory where there is too little."""
    with suppress(OSError):
        os.nice(5)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _limit(*, cpu_s: int, file_bytes: int) -> None:
    for what, soft, hard in (
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_FSIZE, file_bytes, file_bytes),
        (resource.RLIMIT_NOFILE, 256, 256),
        (resource.RLIMIT_NPROC, 1024, 1024),  # threads count, and those of its user's other work
        (resource.RLIMIT_CPU, cpu_s, cpu_s + 5),
    ):
        _, most = resource.getrlimit(what)
        hard = hard if most == resource.RLIM_INFINITY else min(hard, most)  # noqa: PLW2901 - no higher than it is
        resource.setrlimit(what, (min(soft, hard), hard))


def _leave_namespaces(*, new_user: bool) -> Sequence[str]:
    """Leave the network; a user namespace of its own takes the rights of root with it, too."""
    if new_user and _libc.unshare(_NEWUSER | _NEWNET | _NEWIPC) == 0:
        return (USER_NAMESPACE, NETWORK_NAMESPACE)
    return (NETWORK_NAMESPACE,) if _libc.unshare(_NEWNET) == 0 else ()


def _refuse_sockets(event: str, _arguments: object) -> None:
    if event.startswith("socket."):
        raise PermissionError("this process has no network")


# --- landlock: which files ------------------------------------------------------------------------

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PATH_BENEATH: Final = 1
_EXECUTE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 2, 1 << 3
_CHANGES: Final = sum(1 << n for n in (1, 4, 5, 7, 8, 12, 13, 14))
"""Write, remove directories and files, make both and links, move, cut."""
_MOVES_SINCE: Final = 2
"""Before, nothing could be moved from one directory to another by whoever is restricted."""
_FILE_RIGHTS: Final[Mapping[int, int]] = {1: 13, 2: 14, 3: 15, 5: 16}
"""By version: how many rights over files there are; all are taken away but those to read."""


def _restrict_files(readable: Iterable[Path], scratch: Path | None) -> bool:
    version = _libc.syscall(_CREATE_RULESET, None, 0, 1)
    if version < (1 if scratch is None else _MOVES_SINCE):
        return False
    rights = (1 << max(n for v, n in _FILE_RIGHTS.items() if v <= version)) - 1
    words = [rights]
    if version >= 4:
        words.append(0b11)  # TCP: bind, connect
    if version >= 6:
        words.append(0b11)  # to others: abstract sockets, signals
    attributes = struct.pack(f"{len(words)}Q", *words)
    ruleset = _libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        return False
    try:
        for path in readable:
            _allow(ruleset, path)
        if scratch is not None:
            _allow(ruleset, scratch, more=_CHANGES & words[0])
        return bool(_libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, *, more: int = 0) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there need not be read
    try:
        rights = _READ_FILE | _EXECUTE | more
        if stat.S_ISDIR(os.fstat(opened).st_mode):
            rights |= _READ_DIR
        rule = struct.pack("=Qi", rights, opened)
        _libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
    finally:
        os.close(opened)


# --- seccomp: which calls -------------------------------------------------------------------------

_GENERIC: Final[dict[str, int]] = {
    "socket": 198,
    "execve": 221,
    "execveat": 281,
    "clone": 220,
    "ptrace": 117,
    "process_vm_readv": 270,
    "process_vm_writev": 271,
    "unshare": 97,
    "setns": 268,
    "mount": 40,
    "bpf": 280,
    "userfaultfd": 282,
    "keyctl": 219,
    "add_key": 217,
    "request_key": 218,
    "tkill": 130,
    "rt_sigqueueinfo": 138,
    "rt_tgsigqueueinfo": 240,
    "kill": 129,
    "tgkill": 131,
    "prlimit64": 261,
    "fchmod": 52,
    "fchmodat": 53,
    "fchownat": 54,
    "fchown": 55,
    "setxattr": 5,
    "lsetxattr": 6,
    "fsetxattr": 7,
}
_X86_64: Final[dict[str, int]] = {
    "socket": 41,
    "fork": 57,
    "vfork": 58,
    "execve": 59,
    "execveat": 322,
    "clone": 56,
    "ptrace": 101,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "unshare": 272,
    "setns": 308,
    "mount": 165,
    "bpf": 321,
    "userfaultfd": 323,
    "keyctl": 250,
    "add_key": 248,
    "request_key": 249,
    "tkill": 200,
    "rt_sigqueueinfo": 129,
    "rt_tgsigqueueinfo": 297,
    "kill": 62,
    "tgkill": 234,
    "prlimit64": 302,
    "chmod": 90,
    "fchmod": 91,
    "chown": 92,
    "fchown": 93,
    "lchown": 94,
    "fchownat": 260,
    "fchmodat": 268,
    "setxattr": 188,
    "lsetxattr": 189,
    "fsetxattr": 190,
}
_EVERYWHERE: Final[dict[str, int]] = {
    "fchmodat2": 452,
    "io_uring_setup": 425,
    "pidfd_open": 434,
    "pidfd_getfd": 438,
    "pidfd_send_signal": 424,
}
_CLONE3: Final = 435

_ARCHITECTURES: Final[Mapping[str, tuple[int, Mapping[str, int]]]] = {
    "x86_64": (0xC000003E, _X86_64 | _EVERYWHERE),
    "aarch64": (0xC00000B7, _GENERIC | _EVERYWHERE),
    "riscv64": (0xC00000F3, _GENERIC | _EVERYWHERE),
}
"""By ``uname -m``: the kernel's word for it, and its call numbers (``asm/unistd.h``)."""

_ONLY_ITSELF: Final = frozenset({"kill", "tgkill", "prlimit64"})
_CLONE_THREAD: Final = 0x10000
_LOAD, _EQUAL, _AT_LEAST, _HAS_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_AT_NUMBER, _AT_ARCHITECTURE, _AT_ARGUMENT = 0, 4, 16
_ALLOW: Final = 0x7FFF0000
_NO_SUCH_CALL, _REFUSED = 0x50000 | 38, 0x50000 | 1  # the call fails with ENOSYS, with EPERM


def _filter_calls() -> bool:
    """A machine that is not known goes without: its call numbers are others."""
    machine = _ARCHITECTURES.get(platform.machine())
    if machine is None:
        return False
    program = _program(*machine, own=os.getpid())
    code = ctypes.create_string_buffer(b"".join(program))
    filter_ = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    return bool(_libc.prctl(_SET_SECCOMP, _SECCOMP_MODE_FILTER, filter_, 0, 0) == 0)


def _program(architecture: int, numbers: Mapping[str, int], *, own: int) -> list[bytes]:
    """Return the filter: for each call that is looked at, what to do; all others are allowed."""
    program = [
        _line(_LOAD, _AT_ARCHITECTURE),
        _line(_EQUAL, architecture, yes=1),
        _line(_RETURN, _NO_SUCH_CALL),
        _line(_LOAD, _AT_NUMBER),
        _line(_AT_LEAST, 0x40000000, no=1),  # x32: the same calls under other numbers
        _line(_RETURN, _NO_SUCH_CALL),
    ]
    for name, number in numbers.items():
        if name in _ONLY_ITSELF:
            answer = [
                _line(_LOAD, _AT_ARGUMENT),
                _line(_EQUAL, 0, yes=1),
                _line(_EQUAL, own, no=1),
                _line(_RETURN, _ALLOW),
                _line(_RETURN, _REFUSED),
            ]
        elif name == "clone":  # a thread, yes; a process, no
            answer = [
                _line(_LOAD, _AT_ARGUMENT),
                _line(_HAS_BIT, _CLONE_THREAD, no=1),
                _line(_RETURN, _ALLOW),
                _line(_RETURN, _REFUSED),
            ]
        else:
            answer = [_line(_RETURN, _REFUSED)]
        program += [_line(_EQUAL, number, no=len(answer)), *answer]
    # Its flags lie in memory, out of the filter's sight; without it libc takes clone.
    program += [_line(_EQUAL, _CLONE3, no=1), _line(_RETURN, _NO_SUCH_CALL)]
    return [*program, _line(_RETURN, _ALLOW)]


def _line(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    """Return one instruction; ``yes`` and ``no`` say how many to leap over."""
    return struct.pack("=HBBI", code, yes, no, value)
