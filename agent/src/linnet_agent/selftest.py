"""The self-test: a throw-away child looks into a model for the first time.

- Nothing else of the agent ever parses a model: a native crash in the child is a verdict, not an
  outage.
- Every way to end has its own word: wrong (SelfTestFailed), never (SelfTestTimeout), crashed
  (SelfTestCrashed), too much (BudgetExceeded), not twice the same (NotDeterministic).
- A child that does not come as far as the model has said nothing of it: that is the node's fault,
  and passes (SelfTestUnavailable).
- It runs on the CPU. Of a variant for a GPU it shows that the graph is sound and its answers are
  right, not that it runs on the GPU, nor how fast: that is tried in a child of the server's.
- The child is watched: it is ended, with all that it may have started, when its time is up or its
  memory over; what it says is bounded, too.
- Where nobody has said what a model may take, it may take a generous multiple of its size; and
  never what the node has not (NoMemory).
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from linnet_agent.errors import (
    ActivationError,
    AgentError,
    BudgetExceededError,
    ContentRefusedError,
    NoMemoryError,
    NotDeterministicError,
    NotOnnxError,
    SelfTestCrashedError,
    SelfTestFailedError,
    SelfTestTimeoutError,
    SelfTestUnavailableError,
)
from linnet_agent.verify.strict_json import as_object, parse_json_object

_BASE_BYTES: Final = 1 << 30
_TIMES_SIZE: Final = 6
"""Weights, their packed copy, a growing arena: a float model measured 1.1 to 2.7 times its file."""

_RUNTIME_BYTES: Final = 160 << 20
"""What the child holds before it loads a model; measured 43 MiB."""

_READY: Final = b"ready\n"
"""What the child says first, before it opens the model."""

_LOOK_S: Final = 0.02
_MAX_VERDICT_BYTES: Final = 64 << 10
_MAX_LAST_WORDS_BYTES: Final = 8 << 10
_MAX_THREADS: Final = 16

_VERDICTS: Final[dict[str, type[AgentError]]] = {
    str(kind.reason): kind
    for kind in (
        NotOnnxError,
        SelfTestFailedError,
        NotDeterministicError,
        BudgetExceededError,
        NoMemoryError,
        ContentRefusedError,
    )
}


@dataclass(frozen=True, slots=True)
class Budget:
    """What a model may take; None: nobody has said."""

    memory_bytes: int | None = None
    latency_s: float | None = None


@dataclass(frozen=True, slots=True)
class SelfTestReport:
    """What was seen of a model that is well."""

    confined: tuple[str, ...]
    """What the child had given up; ``confine`` has the words."""
    golden: bool
    """True where golden samples were compared."""
    ran: bool
    """False: no made-up input suited it, so it was only loaded."""
    load_s: float
    memory_bytes: int
    """Beside the runtime, at its height."""
    latency_s: float
    """Median of some runs."""


async def run_self_test(
    directory: Path,
    file: str,
    *,
    timeout_s: float,
    budget: Budget = Budget(),
    threads: int = 1,
) -> SelfTestReport:
    """Let a child load and run ``file`` of the model in ``directory``; return where it is well.

    Raises:
        ActivationError: It is not an ONNX file, fails, takes too much, does not end in time, or
            crashes.
        ContentRefusedError: It reads files outside of the model.
        SelfTestUnavailableError: Nobody has looked at it: the child could not begin.
    """
    memory_bytes, scarce = await asyncio.to_thread(_allowance, directory, budget)
    threads = max(1, min(threads, _MAX_THREADS))
    plan = {
        "directory": str(directory),
        "file": file,
        "parent": os.getpid(),
        "threads": threads,
        "cpu_s": (int(timeout_s) + 1) * threads,
        "memory_bytes": memory_bytes,
        "scarce": scarce,
        "latency_s": budget.latency_s,
    }
    process = await _start(plan)
    watched = _Watched(process, limit_bytes=memory_bytes + _RUNTIME_BYTES)
    try:
        async with asyncio.timeout(timeout_s):
            said, last_words = await watched.listen()
    except TimeoutError as error:
        ended = f"the self-test did not end within {timeout_s:g} s"
        if not watched.ready:
            raise SelfTestUnavailableError(f"{ended}, and had not begun") from error
        raise SelfTestTimeoutError(ended) from error
    finally:
        await watched.end()
    if watched.over and watched.ready:
        over = f"it takes more than the {memory_bytes >> 20} MiB that"
        if scarce:
            raise NoMemoryError(f"{over} this node has left")
        raise BudgetExceededError(f"{over} it may take")
    assert process.returncode is not None
    return read_verdict(process.returncode, said, last_words)


async def _start(plan: dict[str, Any]) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-B",
            "-m",
            "linnet_agent.selftest_child",
            json.dumps(plan),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            cwd="/",
            env={
                "ORT_DISABLE_TELEMETRY": "1",
                "OPENBLAS_NUM_THREADS": "1",  # a second thread could not enter a user namespace
                "OMP_NUM_THREADS": "1",
                "HOME": "/nonexistent",
            },
        )
    except OSError as error:
        raise SelfTestUnavailableError(f"the self-test cannot be started: {error}") from error


class _Watched:
    """A child whose words and memory are bounded."""

    def __init__(self, process: asyncio.subprocess.Process, *, limit_bytes: int) -> None:
        self._process = process
        self._limit_bytes = limit_bytes
        self.over = False
        """True once it was ended for its memory."""
        self.ready = False
        """True once it has said that it comes to the model."""

    async def listen(self) -> tuple[bytes, bytes]:
        """Return the first of its words and the last of its complaints, once it has ended."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        async with asyncio.TaskGroup() as group:
            said = group.create_task(self._hear(self._process.stdout))
            last = group.create_task(_read(self._process.stderr, last=_MAX_LAST_WORDS_BYTES))
            watch = group.create_task(self._watch_memory())
            await self._process.wait()
            watch.cancel()
        return said.result(), last.result()

    async def _hear(self, stream: asyncio.StreamReader) -> bytes:
        try:
            begun = await stream.readexactly(len(_READY))
        except asyncio.IncompleteReadError as end:
            begun = end.partial
        self.ready = begun == _READY
        return begun + await _read(stream, first=_MAX_VERDICT_BYTES)

    async def end(self) -> None:
        """End it, with all of its group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()

    async def _watch_memory(self) -> None:
        page, path = os.sysconf("SC_PAGE_SIZE"), Path(f"/proc/{self._process.pid}/statm")
        while True:
            with contextlib.suppress(OSError, IndexError, ValueError):
                resident = int(_read_now(path).split()[1]) * page
                if resident > self._limit_bytes:
                    self.over = True
                    os.killpg(self._process.pid, signal.SIGKILL)
                    return
            await asyncio.sleep(_LOOK_S)


def _read_now(path: Path) -> bytes:
    """Read what the kernel makes up; that does not block."""
    return path.read_bytes()


async def _read(stream: asyncio.StreamReader, *, first: int = 0, last: int = 0) -> bytes:
    """Read to the end and keep the first, or the last, bytes; a flood costs nothing."""
    kept = b""
    while block := await stream.read(1 << 16):
        kept = (kept + block)[:first] if first else (kept + block)[-last:]
    return kept


def _allowance(directory: Path, budget: Budget) -> tuple[int, bool]:
    """Return what the model may take beside its runtime, and whether the node has no more."""
    available = available_bytes()
    if budget.memory_bytes is not None:
        given, left = budget.memory_bytes, available
    else:
        size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
        given = _BASE_BYTES + _TIMES_SIZE * size
        left = None if available is None else available * 3 // 4
    return (given, False) if left is None or given <= left else (left, True)


def available_bytes() -> int | None:
    """Return the memory that can be had on this node; None where the kernel does not say."""
    found = [size for size in (_machine_bytes(), _container_bytes()) if size is not None]
    return max(0, min(found)) if found else None


def is_boxed_in() -> bool:
    """Tell whether this container's own limit leaves less than the machine has.

    Nothing that another container gives up helps then.
    """
    own, machine = _container_bytes(), _machine_bytes()
    return own is not None and (machine is None or own < machine)


def _machine_bytes() -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return None


def _container_bytes() -> int | None:
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        return limit - int((group / "memory.current").read_text(encoding="ascii"))
    return None


def read_verdict(returncode: int, said: bytes, last_words: bytes) -> SelfTestReport:
    """Return what the child reports, or raise what it, or its end, says.

    Raises:
        ActivationError: The model is not well.
        ContentRefusedError: It reads files outside of the model.
        SelfTestUnavailableError: It ended before it came to the model.
    """
    last = last_words.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
    if not said.startswith(_READY):
        how = signal.Signals(-returncode).name if returncode < 0 else str(returncode)
        raise SelfTestUnavailableError(
            f"the self-test ended with {how} before it came to the model: {last[0][:300]}"
        )
    if returncode < 0:
        raise _how_it_ended(signal.Signals(-returncode), last[0])
    try:
        if returncode:
            raise ValueError("it failed")  # noqa: TRY301 - as a verdict that cannot be read
        verdict = parse_json_object(said.removeprefix(_READY), max_bytes=_MAX_VERDICT_BYTES)
        reason, message = str(verdict["reason"]), str(verdict["message"])
        report = _read_report(as_object(verdict["measured"]) or {})
    except (ValueError, KeyError, TypeError) as error:
        raise SelfTestCrashedError(
            f"the self-test ended with {returncode}: {last[0][:300]}"
        ) from error
    if reason:
        raise _VERDICTS.get(reason, SelfTestFailedError)(message)
    return report


def _how_it_ended(number: signal.Signals, last_words: str) -> ActivationError:
    if number is signal.SIGXCPU:
        return SelfTestTimeoutError("the self-test used up its CPU time")
    if number is signal.SIGKILL:
        return NoMemoryError("the kernel ended the self-test, as it does where memory runs out")
    if number is signal.SIGABRT and "bad_alloc" in last_words:
        return BudgetExceededError("it wants more memory than it may take")
    return SelfTestCrashedError(f"the self-test's process was ended by {number.name}")


def _read_report(measured: dict[str, Any]) -> SelfTestReport:
    return SelfTestReport(
        confined=tuple(map(str, measured["confined"])),
        golden=bool(measured["golden"]),
        ran=bool(measured["ran"]),
        load_s=float(measured["load_s"]),
        memory_bytes=int(measured["memory_bytes"]),
        latency_s=float(measured["latency_s"]),
    )
