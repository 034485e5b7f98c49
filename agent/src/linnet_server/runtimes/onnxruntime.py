"""ONNX Runtime: a session by path, on the CPU or on a GPU.

- By path, never by bytes: bytes double the memory, and external data would be looked for in the
  working directory.
- No `NodeArg` outlives the load: a single one keeps the whole native session alive.
- The provider is asserted: ONNX Runtime falls back to the CPU with a mere warning. One that this
  build of it has not is refused before the load.
- Spinning is off: an edge node has other work for its cores.
- What TensorRT builds below it is kept by digest: one directory for all models would mix them up
  (microsoft/onnxruntime#6455).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from linnet_server import ort
from linnet_server.errors import LoadFailedError, ModelFailedError, WrongVariantError
from linnet_server.protocol import Signature
from linnet_server.runtimes.interface import ModelFile, sentence
from linnet_server.runtimes.targets import Target
from linnet_server.tensors import Array, TensorSpec

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

_CPU: Final = "CPUExecutionProvider"
_CUDA: Final = "CUDAExecutionProvider"
_TENSORRT: Final = "TensorrtExecutionProvider"
_PROVIDERS: Final = {
    Target.CPU: (_CPU,),
    Target.CUDA: (_CUDA, _CPU),
    Target.ONNX_TENSORRT: (_TENSORRT, _CUDA, _CPU),
}
"""In order of preference: what the first cannot run of a graph, the next one does."""

_LOG_ERRORS_ONLY: Final = 3


class OnnxModel:
    """An ONNX Runtime session."""

    platform = PLATFORM

    def __init__(
        self,
        native: Any,  # noqa: ANN401 - onnxruntime has no types
        signature: Signature,
        *,
        bind_to: str | None = None,
    ) -> None:
        self._native = native
        self._bind_to = bind_to
        self.signature = signature

    def run(
        self,
        feeds: Mapping[str, Array],
        names: Sequence[str],
        options: Any = None,  # noqa: ANN401 - onnxruntime has no types
    ) -> list[Array]:
        """Return the outputs ``names`` for ``feeds``.

        Raises:
            ModelFailedError: The runtime raised.
        """
        try:
            if self._bind_to is not None and all(a.dtype.kind != "O" for a in feeds.values()):
                return self._run_bound(feeds, names, options, self._bind_to)
            outputs: list[Array] = self._native.run(names, feeds, options)
        except ort.ERRORS as exc:
            raise ModelFailedError(sentence(exc)) from exc
        return outputs

    def _run_bound(
        self,
        feeds: Mapping[str, Array],
        names: Sequence[str],
        options: Any,  # noqa: ANN401 - onnxruntime has no types
        device: str,
    ) -> list[Array]:
        binding = self._native.io_binding()
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, device))
        for name in names:
            binding.bind_output(name, device)
        self._native.run_with_iobinding(binding, options)
        outputs: list[Array] = binding.copy_outputs_to_cpu()
        return outputs

    def close(self) -> None:
        """Free the native session, once its last run has ended."""
        self._native = None


def open_onnx(model: ModelFile) -> OnnxModel:
    """Return the model, loaded.

    Raises:
        WrongVariantError: It asks for a GPU, and this node or this ONNX Runtime has none.
        LoadFailedError: The runtime cannot load it, or the protocol cannot carry its tensors.
    """
    wanted = _PROVIDERS[model.target]
    there = ort.get_available_providers()
    if wanted[0] not in there:
        raise WrongVariantError(
            f"variant {model.target} needs {wanted[0]}; this ONNX Runtime has {', '.join(there)}"
        )
    on_gpu = model.target is not Target.CPU
    if model.hints.strict and on_gpu:
        wanted = tuple(name for name in wanted if name != _CPU)
    try:
        native = ort.InferenceSession(
            str(model.path),
            _options(model, strict=model.hints.strict and on_gpu),
            providers=[(name, _provider_options(name, model)) for name in wanted],
        )
    except ort.ERRORS as exc:
        raise LoadFailedError(sentence(exc)) from exc
    got = native.get_providers()
    if got[0] != wanted[0]:
        raise WrongVariantError(
            f"variant {model.target} runs on {got[0]} here, not on {wanted[0]}: see the log for why"
        )
    return OnnxModel(
        native,
        Signature(
            [_describe(arg, "input") for arg in native.get_inputs()],
            [_describe(arg, "output") for arg in native.get_outputs()],
        ),
        bind_to="cuda" if on_gpu and model.hints.io_binding else None,
    )


def _options(model: ModelFile, *, strict: bool) -> Any:  # noqa: ANN401 - onnxruntime has no types
    options = ort.SessionOptions()
    options.intra_op_num_threads = model.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if strict:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options


def _provider_options(name: str, model: ModelFile) -> dict[str, str]:
    if name != _TENSORRT:
        return {}
    cache = model.cache / "onnxruntime" / model.digest.removeprefix("sha256:")
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    options = {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),
    }
    if model.hints.workspace_bytes is not None:
        options["trt_max_workspace_size"] = str(model.hints.workspace_bytes)
    if model.hints.optimization_level is not None:
        options["trt_builder_optimization_level"] = str(model.hints.optimization_level)
    for size in ("min", "opt", "max") if model.hints.profiles else ():
        options[f"trt_profile_{size}_shapes"] = ",".join(
            f"{tensor}:{'x'.join(map(str, getattr(profile, size)))}"
            for tensor, profile in model.hints.profiles.items()
        )
    return options


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
