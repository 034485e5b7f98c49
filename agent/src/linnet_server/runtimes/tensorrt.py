"""TensorRT, without ONNX Runtime: an engine that was built on this node, run on its GPU.

- The engine is made and tried in a child (`tensorrt_engine`, `trial`); here it is only loaded.
- One execution context, with a stream and buffers, for each run that is under way; they are used
  again.
- A shape beyond the engine's profile is the client's fault, and is said with the profile.
- A run cannot be stopped midway: a deadline ends the request, not the work on the GPU.

Written against TensorRT 10 and 11: `python/src/infer/pyCore.cpp` of NVIDIA/TensorRT, 11.1; both
know all that is called here.
"""

import collections
import hashlib
import importlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from linnet_server.errors import (
    BadRequestError,
    LoadFailedError,
    ModelFailedError,
    WrongVariantError,
)
from linnet_server.protocol import Signature
from linnet_server.runtimes import cuda as cudas
from linnet_server.tensors import DTYPES, Array, TensorSpec

PLATFORM: Final = "tensorrt_plan"
OLDEST: Final = 10

_DATATYPES: Final = {
    "BOOL": "BOOL",
    "UINT8": "UINT8",
    "INT8": "INT8",
    "INT32": "INT32",
    "INT64": "INT64",
    "HALF": "FP16",
    "FLOAT": "FP32",
}
"""By the name of a `tensorrt.DataType`."""

_PROFILE: Final = 0
_LINES: Final = 8


def load_tensorrt() -> Any:  # noqa: ANN401 - tensorrt is optional and has no types here
    """Return the module `tensorrt`.

    Raises:
        WrongVariantError: It is not installed, or older than what this was written for.
    """
    try:
        trt = importlib.import_module("tensorrt")
    except (ImportError, OSError, RuntimeError) as exc:
        raise WrongVariantError(f"TensorRT is not installed beside the server ({exc})") from exc
    version = str(trt.__version__)
    major = version.partition(".")[0]
    if not major.isdecimal() or int(major) < OLDEST:
        raise WrongVariantError(f"TensorRT {version} is here; {OLDEST} or newer is needed")
    return trt


def make_logger(trt: Any) -> Any:  # noqa: ANN401 - tensorrt has no types here
    """Return a logger that keeps the last complaints in `lines`: TensorRT says why only there."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # its base comes at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: collections.deque[str] = collections.deque(maxlen=_LINES)

        def log(self, severity: Any, msg: str) -> None:  # noqa: ANN401 - tensorrt has no types
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.lines.append(" ".join(msg.split())[:300])

    return Logger()


class TensorRtModel:
    """An engine in memory."""

    platform = PLATFORM

    def __init__(self, trt: Any, cuda: Any, plan: bytes) -> None:  # noqa: ANN401 - no types here
        """Load ``plan``.

        Raises:
            LoadFailedError: TensorRT does not take it, or the protocol cannot carry its tensors.
        """
        self._trt = trt
        self._cuda = cuda
        self._logger = make_logger(trt)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise LoadFailedError(f"TensorRT does not take the engine: {self._complaints()}")
        self.signature = _describe(trt, self._engine)
        self._ranges = {
            name: _profile(self._engine, name)
            for name, spec in self.signature.inputs.items()
            if any(isinstance(dim, str) for dim in spec.shape)
        }
        self._idle: list[_Slot] = []
        self._lock = threading.Lock()

    def run(
        self,
        feeds: Mapping[str, Array],
        names: Sequence[str],
        options: Any = None,  # noqa: ANN401, ARG002 - this runtime cannot be stopped midway
    ) -> list[Array]:
        """Return the outputs ``names`` for ``feeds``.

        Raises:
            ModelFailedError: The runtime failed.
            BadRequestError: A shape is not within the engine's profile.
        """
        for name, (low, high) in self._ranges.items():
            shape = feeds[name].shape
            if not all(a <= dim <= b for a, dim, b in zip(low, shape, high, strict=True)):
                raise BadRequestError(
                    f"input '{name}': shape {list(shape)} is not within {list(low)} to "
                    f"{list(high)}, which its engine was built for"
                )
        try:
            slot = self._take()
        except (cudas.CudaError, RuntimeError) as exc:
            raise ModelFailedError(f"no room on the GPU for one more run: {exc}") from exc
        try:
            outputs = self._run_in(slot, feeds)
        except BaseException:
            slot.close()
            raise
        with self._lock:
            self._idle.append(slot)
        return [outputs[name] for name in names]

    def close(self) -> None:
        """Free the engine and all that was held for its runs."""
        for slot in self._idle:
            slot.close()
        self._idle.clear()
        self._engine = self._runtime = None

    def _take(self) -> "_Slot":
        with self._lock:
            if self._idle:
                return self._idle.pop()
        context = self._engine.create_execution_context()
        if context is None:
            raise RuntimeError(self._complaints())
        return _Slot(context, cudas.Stream(self._cuda))

    def _run_in(self, slot: "_Slot", feeds: Mapping[str, Array]) -> dict[str, Array]:
        try:
            return slot.run(feeds, self.signature)
        except (cudas.CudaError, RuntimeError) as exc:
            raise ModelFailedError(f"{exc}; {self._complaints()}") from exc

    def _complaints(self) -> str:
        return "; ".join(self._logger.lines) or "TensorRT does not say why"


class _Slot:
    """What one run needs for itself."""

    def __init__(self, context: Any, stream: cudas.Stream) -> None:  # noqa: ANN401 - no types here
        self._context = context
        self._stream = stream

    def run(self, feeds: Mapping[str, Array], signature: Signature) -> dict[str, Array]:
        """Return all outputs: an engine computes them all, and needs room for each."""
        held = {name: np.asarray(array, order="C") for name, array in feeds.items()}
        for name, array in held.items():
            if not self._context.set_input_shape(name, array.shape):
                raise RuntimeError(f"TensorRT does not take {list(array.shape)} for input '{name}'")
            address = self._bind(name, array.nbytes)
            self._stream.upload(address, array.ctypes.data, array.nbytes)
        if missing := self._context.infer_shapes():
            raise RuntimeError(f"TensorRT wants to know more of {', '.join(missing)}")
        outputs, addresses = {}, {}
        for name, spec in signature.outputs.items():
            shape = tuple(self._context.get_tensor_shape(name))
            if any(dim < 0 for dim in shape):
                raise RuntimeError(f"the shape of output '{name}' hangs on values, not on shapes")
            outputs[name] = np.empty(shape, DTYPES[spec.datatype])
            addresses[name] = self._bind(name, outputs[name].nbytes)
        if not self._context.execute_async_v3(self._stream.handle):
            raise RuntimeError("TensorRT did not run")
        for name, array in outputs.items():
            self._stream.download(array.ctypes.data, addresses[name], array.nbytes)
        self._stream.wait()
        return outputs

    def close(self) -> None:
        """Free it."""
        self._context = None
        self._stream.close()

    def _bind(self, name: str, size_bytes: int) -> int:
        address = self._stream.buffer(name, size_bytes)
        if not self._context.set_tensor_address(name, address):
            raise RuntimeError(f"TensorRT does not take an address for '{name}'")
        return address


def open_engine(path: Path, *, sha256: str) -> TensorRtModel:
    """Return the engine at ``path``, loaded; it has been tried before.

    Args:
        path: Where it lies.
        sha256: What it must be.

    Raises:
        WrongVariantError: TensorRT or CUDA is not here.
        LoadFailedError: It is not what was tried, or cannot be loaded.
    """
    plan = path.read_bytes()
    if hashlib.sha256(plan).hexdigest() != sha256:
        raise LoadFailedError(f"{path} is not the engine that was tried")
    return TensorRtModel(load_tensorrt(), cudas.load_runtime(), plan)


def _profile(engine: Any, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:  # noqa: ANN401 - no types here
    """Return the smallest and the largest shape that an input may have."""
    low, _, high = engine.get_tensor_profile_shape(name, _PROFILE)
    return tuple(low), tuple(high)


def _describe(trt: Any, engine: Any) -> Signature:  # noqa: ANN401 - tensorrt has no types here
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        if engine.is_shape_inference_io(name):
            raise LoadFailedError(f"'{name}' is a shape, not a tensor; that cannot be served")
        kind = engine.get_tensor_dtype(name).name
        datatype = _DATATYPES.get(kind)
        if datatype is None:
            raise LoadFailedError(f"'{name}' is of {kind}, which the protocol cannot carry")
        shape = tuple(
            dim if dim >= 0 else f"{name}[{axis}]"
            for axis, dim in enumerate(engine.get_tensor_shape(name))
        )
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        (inputs if is_input else outputs).append(TensorSpec(name, datatype, shape))
    return Signature(inputs, outputs)
