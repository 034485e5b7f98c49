"""The self-test: a child process that looks into a model for the first time.

- Nothing else of the agent ever parses a model: a native crash here is a verdict, not an outage.
- The child has a timeout, limits on memory and files, no network where it may give it up, and dies
  with its parent.
- With ``golden.json`` the outputs must be those, within its tolerance; else made-up inputs must
  give finite outputs.
- Made-up inputs with more than one free dimension may be refused by the model: that says nothing
  about it.

The parent calls ``run_self_test``; the child is ``python -m linnet_agent.selftest DIRECTORY FILE``.
"""

import asyncio
import contextlib
import ctypes
import json
import resource
import signal
import sys
from pathlib import Path
from typing import Any, Final

from linnet_agent.errors import (
    ActivationError,
    AgentError,
    ContentRefusedError,
    NotOnnxError,
    SelfTestCrashedError,
    SelfTestFailedError,
    SelfTestTimeoutError,
)
from linnet_agent.onnx_files import check_external_data

GOLDEN: Final = "golden.json"
_MAX_GOLDEN_BYTES: Final = 64 << 20

_BASE_ADDRESS_SPACE: Final = 6 << 30
"""ONNX Runtime and its thread stacks reserve gigabytes that they never touch; measured 1.3 GiB for
a tiny model."""

_CLONE_NEWNET: Final = 0x40000000
_PR_SET_PDEATHSIG: Final = 1

_VERDICTS: Final[dict[str, type[AgentError]]] = {
    str(kind.reason): kind for kind in (NotOnnxError, SelfTestFailedError, ContentRefusedError)
}


async def run_self_test(directory: Path, file: str, *, timeout_s: float) -> None:
    """Let a child load and run ``file`` of the model in ``directory``; return where it is well.

    Raises:
        ActivationError: It is not an ONNX file, fails, does not end in time, or crashes.
        ContentRefusedError: It reads files outside of the model.
    """
    size = await asyncio.to_thread(_size_of, directory)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "linnet_agent.selftest",
        str(directory),
        file,
        str(_BASE_ADDRESS_SPACE + 6 * size),
        str(int(timeout_s) + 1),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={
            "ORT_DISABLE_TELEMETRY": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "HOME": "/nonexistent",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
    )
    try:
        async with asyncio.timeout(timeout_s):
            stdout, stderr = await process.communicate()
    except TimeoutError as error:
        raise SelfTestTimeoutError(f"the self-test did not end within {timeout_s:g} s") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    assert process.returncode is not None
    _raise_verdict(process.returncode, stdout, stderr)


def _size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _raise_verdict(returncode: int, stdout: bytes, stderr: bytes) -> None:
    if returncode < 0:
        name = signal.Signals(-returncode).name
        raise SelfTestCrashedError(f"the self-test's process was ended by {name}")
    try:
        verdict = json.loads(stdout)
        reason, message = str(verdict["reason"]), str(verdict["message"])
    except (ValueError, KeyError, TypeError) as error:
        last = stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise SelfTestCrashedError(
            f"the self-test ended with {returncode}: {last[0][:300]}"
        ) from error
    if reason:
        raise _VERDICTS.get(reason, SelfTestFailedError)(message)


# --- the child ------------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """Run the self-test in this process and print the verdict as JSON."""
    directory, file, address_space, cpu_s = arguments
    _limit(address_space_bytes=int(address_space), cpu_s=int(cpu_s))
    verdict = {"reason": "", "message": ""}
    try:
        check_external_data(Path(directory), file)
        _run_model(Path(directory), file)
    except (ActivationError, ContentRefusedError) as error:
        verdict = {"reason": str(error.reason), "message": str(error)[:600]}
    sys.stdout.write(json.dumps(verdict))
    sys.stdout.flush()
    return 0


def _limit(*, address_space_bytes: int, cpu_s: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.unshare(_CLONE_NEWNET)  # only root may; anyone else goes on with the network it has
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    cores = 64  # CPU seconds add up over threads; this only ends what spins for ever
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s * cores, cpu_s * cores))
    resource.setrlimit(resource.RLIMIT_AS, (address_space_bytes, address_space_bytes))


def _run_model(directory: Path, file: str) -> None:
    import numpy as np  # noqa: PLC0415 - only the child pays for it
    import onnxruntime as ort  # noqa: PLC0415 - only the child parses models

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(
            str(directory / file), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's own classes derive from it alone
        raise SelfTestFailedError(f"onnxruntime cannot load {file}: {error}") from error
    for value in session.get_outputs():
        if not value.type.startswith("tensor("):
            raise SelfTestFailedError(
                f"output {value.name!r} is {value.type}, not a tensor; export it without ZipMap"
            )
    golden = directory / GOLDEN
    if golden.is_file():
        _check_golden(session, golden, np)
    else:
        _check_finite(session, np)


def _check_golden(session: Any, path: Path, np: Any) -> None:  # noqa: ANN401 - no types
    try:
        if path.stat().st_size > _MAX_GOLDEN_BYTES:
            raise SelfTestFailedError(f"{GOLDEN} is larger than {_MAX_GOLDEN_BYTES} bytes")
        document = json.loads(path.read_bytes())
        inputs = {name: _read_tensor(item, np) for name, item in document["inputs"].items()}
        wanted = {name: _read_tensor(item, np) for name, item in document["outputs"].items()}
        tolerance = float(document.get("tolerance", 1e-3))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SelfTestFailedError(f"{GOLDEN} cannot be read: {error!r}") from error
    outputs = _run(session, inputs, list(wanted))
    for (name, want), got in zip(wanted.items(), outputs, strict=True):
        if got.shape != want.shape:
            raise SelfTestFailedError(f"output {name!r} is {got.shape}, golden is {want.shape}")
        if want.dtype.kind in "fc":
            if not np.allclose(got, want, rtol=tolerance, atol=tolerance, equal_nan=False):
                off = float(np.nanmax(np.abs(got.astype("f8") - want.astype("f8"))))
                raise SelfTestFailedError(
                    f"output {name!r} is off its golden value by {off:.3g}, over {tolerance:g}"
                )
        elif not np.array_equal(got, want):
            raise SelfTestFailedError(f"output {name!r} is not its golden value")


def _check_finite(session: Any, np: Any) -> None:  # noqa: ANN401 - no types
    inputs, free = {}, 0
    for value in session.get_inputs():
        shape = [size if isinstance(size, int) and size > 0 else 1 for size in value.shape]
        free = max(free, sum(not isinstance(size, int) for size in value.shape))
        dtype = _dtype_of(value.type, np)
        inputs[value.name] = (
            np.full(shape, "", dtype=object) if dtype is object else np.zeros(shape, dtype=dtype)
        )
    names = [value.name for value in session.get_outputs()]
    try:
        outputs = _run(session, inputs, names)
    except SelfTestFailedError:
        if free > 1:
            return
        raise
    for name, got in zip(names, outputs, strict=True):
        if got.dtype.kind == "f" and not np.isfinite(got).all():
            raise SelfTestFailedError(f"output {name!r} holds NaN or Inf on made-up inputs")


def _run(session: Any, inputs: dict[str, Any], names: list[str]) -> list[Any]:  # noqa: ANN401
    try:
        outputs: list[Any] = session.run(names, inputs)
    except Exception as error:  # onnxruntime's own classes derive from it alone
        raise SelfTestFailedError(f"the model fails when it is run: {error}") from error
    return outputs


_DATATYPES: Final = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "u2",
    "UINT32": "u4",
    "UINT64": "u8",
    "INT8": "i1",
    "INT16": "i2",
    "INT32": "i4",
    "INT64": "i8",
    "FP16": "f2",
    "FP32": "f4",
    "FP64": "f8",
    "BYTES": "O",
}

_ONNX_TYPES: Final = {
    "bool": "?",
    "uint8": "u1",
    "uint16": "u2",
    "uint32": "u4",
    "uint64": "u8",
    "int8": "i1",
    "int16": "i2",
    "int32": "i4",
    "int64": "i8",
    "float16": "f2",
    "float": "f4",
    "double": "f8",
    "string": "O",
}


def _read_tensor(item: Any, np: Any) -> Any:  # noqa: ANN401 - JSON in, numpy out
    dtype = _DATATYPES[item["datatype"]]
    return np.array(item["data"], dtype=dtype).reshape(item["shape"])


def _dtype_of(onnx_type: str, np: Any) -> Any:  # noqa: ANN401 - no types
    name = onnx_type.removeprefix("tensor(").removesuffix(")")
    if name not in _ONNX_TYPES:
        raise SelfTestFailedError(f"an input is {onnx_type}, which cannot be served")
    code = _ONNX_TYPES[name]
    return object if code == "O" else np.dtype(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
