"""One ONNX Runtime session: loaded by path, warmed up, described as plain data.

- By path, never by bytes: bytes double the memory, and external data would be looked for in the
  working directory.
- No `NodeArg` outlives the load: a single one keeps the whole native session alive.
- The provider is asserted: ONNX Runtime falls back to the CPU with a mere warning.
- Spinning is off: an edge node has other work for its cores.
- A warm-up that fails does not fail the load: its inputs are made up, and a model may rightly
  refuse them. The agent's self-test, on samples of the publisher's, is what judges a model.

Everything here blocks; `lane.py` and `catalog.py` call it in threads.
"""

import ctypes
import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from linnet_server import ort
from linnet_server.errors import LoadFailedError, ModelFailedError, NotOnnxError
from linnet_server.protocol import Signature
from linnet_server.tensors import Array, TensorSpec, generate_example

log = logging.getLogger(__name__)

PLATFORM: Final = "onnx_onnxv1"

_DATATYPES: Final = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}

_PROVIDERS: Final = ("CPUExecutionProvider",)
_LOG_ERRORS_ONLY: Final = 3
_MESSAGE_LIMIT: Final = 600
_WARM_UP_RUNS: Final = 3


@dataclasses.dataclass(frozen=True, slots=True)
class WarmUp:
    """What the first runs showed.

    Attributes:
        best_s: The fastest run.
        elements: How many elements its inputs held.
    """

    best_s: float
    elements: int


class Session:
    """A loaded model. Runs may overlap; one that is under way outlives a `close`."""

    def __init__(
        self,
        native: Any,  # noqa: ANN401 - onnxruntime has no types
        signature: Signature,
    ) -> None:
        self._native = native
        self.signature: Final = signature

    def run(
        self,
        feeds: Mapping[str, Array],
        names: Sequence[str],
        options: Any = None,  # noqa: ANN401 - onnxruntime has no types
    ) -> list[Array]:
        """Return the outputs ``names`` for ``feeds``, which fit the model's inputs.

        Raises:
            ModelFailedError: The runtime raised.
        """
        try:
            outputs: list[Array] = self._native.run(names, feeds, options)
        except ort.ERRORS as exc:
            raise ModelFailedError(_sentence(exc)) from exc
        return outputs

    def warm_up(self) -> WarmUp | None:
        """Run the model on made-up inputs; None where it refused them."""
        feeds = {name: generate_example(spec) for name, spec in self.signature.inputs.items()}
        best_s = float("inf")
        try:
            for _ in range(_WARM_UP_RUNS):
                started_at = time.perf_counter()
                self.run(feeds, list(self.signature.outputs))
                best_s = min(best_s, time.perf_counter() - started_at)
        except ModelFailedError as exc:
            log.warning("server.warm_up.refused", extra={"reason": str(exc)})
            return None
        return WarmUp(best_s, sum(array.size for array in feeds.values()))

    def close(self) -> None:
        """Free the native session, once its last run has ended; the system gets the memory back."""
        self._native = None
        _trim()


def load_session(path: Path, *, variant: str, threads: int) -> Session:
    """Return the model at ``path``, loaded and not yet warmed up.

    Args:
        path: The real path of the file, no link.
        variant: The variant's name in the artifact; this server runs the `onnx` ones.
        threads: Threads of one run.

    Raises:
        NotOnnxError: It is no ONNX file.
        LoadFailedError: The runtime cannot load it, or the protocol cannot carry its tensors.
    """
    if path.suffix != ".onnx" or not variant.startswith("onnx"):
        raise NotOnnxError(f"{path.name} ({variant}) is not an ONNX file")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        native = ort.InferenceSession(str(path), options, providers=list(_PROVIDERS))
    except ort.ERRORS as exc:
        raise LoadFailedError(_sentence(exc)) from exc
    if tuple(native.get_providers()) != _PROVIDERS:
        raise LoadFailedError(f"runs on {native.get_providers()}, not on {list(_PROVIDERS)}")
    return Session(
        native,
        Signature(
            [_describe(arg, "input") for arg in native.get_inputs()],
            [_describe(arg, "output") for arg in native.get_outputs()],
        ),
    )


def _describe(arg: Any, what: str) -> TensorSpec:  # noqa: ANN401 - onnxruntime has no types
    name, kind = str(arg.name), str(arg.type)
    datatype = _DATATYPES.get(kind)
    if datatype is None:
        raise LoadFailedError(
            f"{what} '{name}' is a {kind}, which the protocol cannot carry "
            "(scikit-learn: convert with zipmap=False)"
        )
    # A dimension without a name is a dynamic one of its own.
    shape = tuple(
        dim if isinstance(dim, int) and dim >= 0 else str(dim or f"{name}[{axis}]")
        for axis, dim in enumerate(arg.shape)
    )
    return TensorSpec(name, datatype, shape)


def _sentence(exc: Exception) -> str:
    return " ".join(str(exc).split())[:_MESSAGE_LIMIT]


def _trim() -> None:
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):  # not glibc
        return
