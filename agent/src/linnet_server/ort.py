"""The only place that imports ONNX Runtime.

- Telemetry is off before the import: from 1.29 on the wheel writes below `~/.cache/Microsoft` when
  it is imported and has an uploader; `disable_telemetry_events()` comes too late for both
  (microsoft/onnxruntime#27379).
"""

import os
from typing import Any, Final

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # noqa: TID251 - a native library reads it

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as native

InferenceSession: Final[Any] = onnxruntime.InferenceSession
SessionOptions: Final[Any] = onnxruntime.SessionOptions
RunOptions: Final[Any] = onnxruntime.RunOptions
OrtValue: Final[Any] = onnxruntime.OrtValue
get_available_providers: Final[Any] = onnxruntime.get_available_providers

ERRORS: Final[tuple[type[Exception], ...]] = (
    native.Fail,
    native.InvalidArgument,
    native.InvalidGraph,
    native.InvalidProtobuf,
    native.ModelLoaded,
    native.NoModel,
    native.NoSuchFile,
    native.NotImplemented,
    native.RuntimeException,
    native.EngineError,
    native.EPFail,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What ONNX Runtime raises; its own classes derive from Exception alone."""
