"""Processes that outlive who started them, and are never mistaken for another.

Each runs in a session of its own and carries a mark in its environment: its bed's directory and
its name. A process is known by pid *and* start time, so that a reused pid is never killed; the
mark finds its children and whatever was started just before a record could be written.
"""

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from linnet_testbed import files
from linnet_testbed.errors import TestbedError

MARK = "LINNET_TESTBED_PROCESS"
_KEEP = ("HOME", "PATH", "LANG", "LC_ALL", "TMPDIR", "USER", "PYTHONPATH", "VIRTUAL_ENV", "TZ")


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/<pid>/stat after the command, or None."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def identity(pid: int) -> str | None:
    """Return what tells this process from a later one with its pid; None for a dead one."""
    fields = _stat(pid)
    if fields is None or fields[0] in "ZX":
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    return f"{boot}-{fields[19]}"


def marked(prefix: str) -> list[int]:
    """Return the living processes whose mark begins with `prefix`."""
    wanted = f"{MARK}={prefix}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if any(v.startswith(wanted) for v in environment.split(b"\0")) and identity(
            int(entry.name)
        ):
            found.append(int(entry.name))
    return found


def _signal(pid: int, number: int, is_wanted: Callable[[], bool]) -> int | None:
    """Send a signal to exactly the process that `is_wanted` approves; return its pidfd."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return None
    if not is_wanted():
        os.close(descriptor)
        return None
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(descriptor, number)
    return descriptor


def _wait(descriptors: Iterable[int], timeout: float) -> bool:
    """Wait until all these processes have ended."""
    deadline = time.monotonic() + timeout
    ended = True
    for descriptor in descriptors:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        ended = bool(poll.poll(max(0, int((deadline - time.monotonic()) * 1000)))) and ended
        os.close(descriptor)
    return ended


def _reap() -> None:
    """Collect our own dead children among those that we started."""
    for pid in list(_children):
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                continue
        _children.discard(pid)


_children: set[int] = set()


def kill_marked(prefix: str, number: int = signal.SIGKILL, timeout: float = 10) -> bool:
    """Send a signal to everything so marked; True when all of it has ended."""
    descriptors = []
    for pid in marked(prefix):
        before = identity(pid)
        sent = _signal(pid, number, lambda p=pid, b=before: identity(p) == b)  # type: ignore[misc]  # mypy cannot type defaults of a lambda
        if sent is not None:
            descriptors.append(sent)
    ended = _wait(descriptors, timeout)
    _reap()
    return ended


@dataclass(slots=True)
class Process:
    """One process of a bed: its name, how it is started, and where its record and log are."""

    name: str
    directory: Path
    argv: list[str]
    port: int | None = None
    environment: dict[str, str] = field(default_factory=dict)
    grace: float = 5.0

    @property
    def record(self) -> Path:
        """Where the pid and start time are written."""
        return self.directory / "run" / f"{self.name}.json"

    @property
    def log(self) -> Path:
        """Where its standard output and error go."""
        return self.directory / "log" / f"{self.name}.log"

    @property
    def mark(self) -> str:
        """What its environment says of it, and that of its children."""
        return f"{self.directory}:{self.name};"

    @property
    def pid(self) -> int | None:
        """Its pid while it runs."""
        _reap()
        record = files.read_json(self.record)
        if record and record["identity"] == identity(record["pid"]):
            return int(record["pid"])
        return None

    def start(self) -> None:
        """Start it, unless it runs."""
        if self.pid is not None:
            return
        self.kill()  # children of a dead one, and one that was never recorded
        self.log.parent.mkdir(parents=True, exist_ok=True)
        environment = {k: os.environ[k] for k in _KEEP if k in os.environ}
        environment |= {"NO_PROXY": "127.0.0.1,localhost", MARK: self.mark, **self.environment}
        pid = os.posix_spawn(
            self.argv[0],
            self.argv,
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (
                    os.POSIX_SPAWN_OPEN,
                    1,
                    str(self.log),
                    os.O_WRONLY | os.O_CREAT | os.O_APPEND,
                    0o600,
                ),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM],
        )
        _children.add(pid)
        record = {"pid": pid, "identity": identity(pid), "port": self.port, "argv": self.argv}
        files.write_json(self.record, record)

    def refresh(self) -> None:
        """Start it; start it anew where it runs with another command line."""
        if self.pid is not None and files.read_json(self.record).get("argv") != self.argv:
            self.stop()
        self.start()

    def stop(self) -> None:
        """Ask it to end, and make it after its grace."""
        pid = self.pid
        if pid is not None:
            asked = _signal(pid, signal.SIGTERM, lambda: self.pid == pid)
            if asked is not None:
                _wait([asked], self.grace)
        self.kill()

    def kill(self) -> None:
        """Kill it and its children, as a power cut would."""
        if not kill_marked(self.mark):
            raise TestbedError(f"{self.name} does not die; see {self.log}.")

    def signal(self, number: int) -> None:
        """Send a signal to it alone, such as SIGSTOP."""
        pid = self.pid
        if pid is not None:
            sent = _signal(pid, number, lambda: self.pid == pid)
            if sent is not None:
                os.close(sent)

    def restart(self) -> None:
        """Stop it and start it again."""
        self.stop()
        self.start()

    def wait(self, ready: Callable[[], bool], timeout: float) -> None:
        """Wait until `ready`; say why where it ends or takes too long."""
        deadline = time.monotonic() + timeout
        while not ready():
            if self.pid is None:
                raise TestbedError(f"{self.name} ended right after its start. {self.last_words()}")
            if time.monotonic() > deadline:
                raise TestbedError(
                    f"{self.name} is not ready after {timeout:.0f} s. {self.last_words()}"
                )
            time.sleep(0.05)

    def last_words(self, lines: int = 5) -> str:
        """Return the end of its log, and where the log is."""
        try:
            tail = self.log.read_text(errors="replace").splitlines()[-lines:]
        except OSError:
            tail = []
        return "\n".join([f"Its log is {self.log}, and ends:", *tail])


def python(module: str, *arguments: str) -> list[str]:
    """Return the command line of a module of ours under this interpreter."""
    return [sys.executable, "-P", "-m", module, *arguments]  # -P: our directories are no modules
