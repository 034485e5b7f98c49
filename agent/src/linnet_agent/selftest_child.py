"""The self-test's child: the only process of the agent that ever parses a model.

- It gives up network, files and processes before it opens the model (``confine``), and its memory
  is bounded before it loads it.
- What the model reads besides itself is looked at before ONNX Runtime sees it.
- Outputs are of the declared types and shapes, finite unless the golden sample says otherwise, and
  the same in two runs; memory and the median latency are within what was given.
- On what was its standard output it says ``ready`` before it opens the model, then its verdict as
  one line of JSON; whatever else is printed goes to standard error. A child that ends before that
  word has met a fault of the node's.

Started by ``selftest.run_self_test`` as ``python -I -m linnet_agent.selftest_child PLAN``.
"""

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime

from linnet_agent import golden as samples
from linnet_agent.confine import confine, limit_data, read_status
from linnet_agent.errors import (
    ActivationError,
    BudgetExceededError,
    ContentRefusedError,
    NoMemoryError,
    NotDeterministicError,
    SelfTestFailedError,
)
from linnet_agent.golden import GOLDEN, Golden, Tensor, Tensors
from linnet_agent.made_up_inputs import Declared, choices, free_dimensions, larger, make_inputs
from linnet_agent.onnx_files import check_external_data

_ARENA: Final = 2
"""A growing arena may hold twice what it uses, in addresses that are not touched."""
_ARENA_BYTES: Final = 256 << 20

_RUNS: Final = 15
_RUNS_S: Final = 1.0
_OUT_OF_MEMORY: Final = ("bad_alloc", "Failed to allocate memory", "Available memory of")


@dataclass(frozen=True, slots=True)
class Plan:
    """What the parent asks for."""

    directory: str
    file: str
    parent: int
    threads: int
    cpu_s: int
    memory_bytes: int
    scarce: bool
    """True: that is what the node has left, not what somebody gave it."""
    latency_s: float | None


@dataclass(slots=True)
class Measured:
    """What there is to tell of a run that was well, or was ended by its budget."""

    confined: tuple[str, ...] = ()
    golden: bool = False
    ran: bool = False
    load_s: float = 0.0
    memory_bytes: int = 0
    latency_s: float = 0.0


def main(arguments: list[str]) -> int:
    """Run the self-test in this process and print the verdict as JSON."""
    plan = Plan(**json.loads(arguments[0]))
    told = os.dup(1)
    os.dup2(2, 1)
    verdict = judge(plan, ready=lambda: os.write(told, b"ready\n"))
    os.write(told, json.dumps(verdict).encode())
    os.close(told)
    os._exit(0)  # the runtime's destructors have no say in the verdict


def judge(plan: Plan, *, ready: Callable[[], object]) -> dict[str, Any]:
    """Confine this process, say ``ready``, test the model, and return the verdict as it is told."""
    directory, measured = Path(plan.directory).resolve(), Measured()
    reason, message = "", ""
    measured.confined = confine(
        parent=plan.parent,
        readable=_readable(directory),
        cpu_s=plan.cpu_s,
        new_user=os.geteuid() != 0 or directory.stat().st_uid == 0,
    )
    limit_data(_ARENA * plan.memory_bytes + _ARENA_BYTES)
    ready()
    try:
        check_external_data(directory, plan.file)
        _test(plan, directory, measured)
    except (ActivationError, ContentRefusedError) as error:
        reason, message = str(error.reason), str(error)[:600]
    except MemoryError:
        over = _over_memory(plan, f"it wants more than the {plan.memory_bytes >> 20} MiB")
        reason, message = str(over.reason), str(over)
    return {"reason": reason, "message": message, "measured": asdict(measured)}


def _readable(directory: Path) -> list[Path]:
    """Return what Python, its libraries and ONNX Runtime's look at the processor read."""
    system = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/sys/devices/system")
    kernel = ("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/dev/urandom", "/dev/null")
    prefixes = (sys.prefix, sys.base_prefix, *(path for path in sys.path if path))
    return [directory, *map(Path, (*system, *kernel, *prefixes))]


def _test(plan: Plan, directory: Path, measured: Measured) -> None:
    golden = _read_golden(directory / GOLDEN) if (directory / GOLDEN).is_file() else None
    before, began = read_status("VmRSS"), time.monotonic()
    session = _load(directory / plan.file, threads=plan.threads)
    measured.load_s = time.monotonic() - began
    model = _Model(session)
    if golden is not None:
        inputs: Tensors | None = golden.inputs
        model.check_golden(golden)
        measured.golden = True
    else:
        inputs = model.check_made_up()
    if inputs is not None:
        measured.ran = True
        measured.latency_s = model.latency(inputs)
    measured.memory_bytes = max(0, read_status("VmHWM") - before)
    _check_budget(plan, measured)


def _check_budget(plan: Plan, measured: Measured) -> None:
    if measured.memory_bytes > plan.memory_bytes:
        said = f"it takes {measured.memory_bytes >> 20} MiB beside its runtime, more than the "
        raise _over_memory(plan, f"{said}{plan.memory_bytes >> 20} MiB")
    if plan.latency_s is not None and measured.latency_s > plan.latency_s:
        raise BudgetExceededError(
            f"one request takes {measured.latency_s * 1000:.3g} ms (median); "
            f"it may take {plan.latency_s * 1000:.3g}"
        )


def _load(path: Path, *, threads: int) -> Any:  # noqa: ANN401 - onnxruntime has no types
    """Return a session made as linnet-server makes it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes derive from it alone
        _raise_if_out_of_memory(error)
        raise SelfTestFailedError(f"onnxruntime cannot load {path.name}: {error}") from error


def _read_golden(path: Path) -> Golden:
    if path.stat().st_size > samples.MAX_BYTES:
        raise SelfTestFailedError(f"{GOLDEN} is larger than {samples.MAX_BYTES} bytes")
    return samples.read_golden(path.read_bytes())


class _Model:
    """A loaded model that is asked one thing after the other."""

    def __init__(self, session: Any) -> None:  # noqa: ANN401 - onnxruntime has no types
        self._session = session
        self._inputs = [_declared(value) for value in session.get_inputs()]
        self._outputs = [_declared(value) for value in session.get_outputs()]
        for value in self._outputs:
            if not value.type.startswith("tensor("):
                raise SelfTestFailedError(
                    f"output {value.name!r} is {value.type}, not a tensor; export it without ZipMap"
                )
        for value in (*self._inputs, *self._outputs):
            _ = value.dtype

    def check_golden(self, golden: Golden) -> None:
        """Require the golden outputs, twice."""
        missing = golden.outputs.keys() - {value.name for value in self._outputs}
        if missing:
            raise SelfTestFailedError(f"{GOLDEN} names outputs that are not there: {missing}")

        def check(got: Tensors) -> None:
            samples.check_outputs(golden, got)
            _check_finite(got, expected=golden.outputs)

        self._run_twice(golden.inputs, check, deterministic=golden.deterministic)

    def check_made_up(self) -> Tensors | None:
        """Require sound outputs on made-up inputs; return inputs that the model takes."""
        free = free_dimensions(self._inputs)
        refusal: SelfTestFailedError | None = None
        for sizes in choices(free):
            inputs = make_inputs(self._inputs, sizes)
            try:
                self._run_twice(inputs, _check_finite)
            except _RefusedError as error:
                refusal = refusal or error
                continue
            if (more := larger(free, sizes)) is not None:
                self._check_larger(make_inputs(self._inputs, more), ambiguous=len(free) > 1)
            return inputs
        if refusal is not None and len(free) <= 1:
            raise refusal
        return None

    def _check_larger(self, inputs: Tensors, *, ambiguous: bool) -> None:
        try:
            self._run_twice(inputs, _check_finite)
        except _RefusedError:
            if not ambiguous:
                raise

    def _run_twice(
        self, inputs: Tensors, check: Callable[[Tensors], None], *, deterministic: bool = True
    ) -> None:
        """Require sound and equal outputs; they are never held twice, for they may be large."""
        prints = []
        for _ in range(2):
            outputs = self._run(inputs)
            check(outputs)
            prints.append({name: samples.fingerprint(got) for name, got in outputs.items()})
            del outputs
        differ = [name for name in prints[0] if prints[0][name] != prints[1][name]]
        if differ and deterministic:
            raise NotDeterministicError(
                f"output {differ[0]!r} differs between two runs on one input"
            )

    def latency(self, inputs: Tensors) -> float:
        """Return the median of some runs in seconds, waiting for a processor left out.

        Of each run counts the lesser of wall and CPU time: a busy node must not fail a model.
        """
        taken: list[float] = []
        ends = time.monotonic() + _RUNS_S
        while not taken or (len(taken) < _RUNS and time.monotonic() < ends):
            wall, cpu = time.perf_counter(), _cpu_s()
            self._run(inputs)
            taken.append(min(time.perf_counter() - wall, _cpu_s() - cpu))
        return statistics.median(taken)

    def _run(self, inputs: Tensors) -> dict[str, Tensor]:
        names = [value.name for value in self._outputs]
        try:
            outputs = self._session.run(names, dict(inputs))
        except Exception as error:  # onnxruntime's own classes derive from it alone
            _raise_if_out_of_memory(error)
            raise _RefusedError(f"the model fails when it is run: {error}") from error
        for value, output in zip(self._outputs, outputs, strict=True):
            _check_type(value, output)
        return dict(zip(names, outputs, strict=True))


class _RefusedError(SelfTestFailedError):
    """The model does not take these inputs."""


def _check_finite(outputs: Tensors, expected: Container[str] = ()) -> None:
    for name, got in outputs.items():
        if name in expected or got.dtype.kind != "f" or not got.size:
            continue
        if not np.isfinite(got.min()) or not np.isfinite(got.max()):  # both pass NaN on
            raise SelfTestFailedError(f"output {name!r} holds NaN or Inf")


def _declared(value: Any) -> Declared:  # noqa: ANN401 - onnxruntime has no types
    """Copy what is declared: whoever keeps onnxruntime's own object keeps the model."""
    return Declared(str(value.name), str(value.type), tuple(value.shape or ()))


def _cpu_s() -> float:
    """Return CPU seconds, fine; under a CPU limit ``process_time`` moves with the clock's ticks."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _check_type(declared: Declared, got: Tensor) -> None:
    sizes: Sequence[int | str | None] = declared.shape
    fits = not sizes or (
        len(sizes) == got.ndim
        and all(not isinstance(s, int) or s == n for s, n in zip(sizes, got.shape, strict=True))
    )
    if got.dtype != declared.dtype or not fits:
        raise SelfTestFailedError(
            f"output {declared.name!r} is {got.dtype}{list(got.shape)}, "
            f"declared as {declared.dtype}{list(sizes)}"
        )


def _raise_if_out_of_memory(error: Exception) -> None:
    if any(word in str(error) for word in _OUT_OF_MEMORY):
        raise MemoryError from error


def _over_memory(plan: Plan, said: str) -> ActivationError:
    if plan.scarce:
        return NoMemoryError(f"{said} that this node has left")
    return BudgetExceededError(f"{said} that it may take")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
