"""What a variant's name says about where it runs.

    onnx, onnx-int8, …         ONNX Runtime on the CPU
    onnx-cuda, onnx-cuda-fp16  ONNX Runtime on an NVIDIA GPU
    onnx-tensorrt, …           ONNX Runtime with TensorRT below it, the rest of the graph on CUDA
    tensorrt, tensorrt-fp16    TensorRT itself, by an engine that is built on the node

- The first word is the runtime, the second may be the device; all others are the publisher's.
- A variant that names a GPU never runs on a CPU instead: that is refused.
"""

from enum import StrEnum
from pathlib import Path
from typing import Final

from linnet_server.errors import WrongVariantError


class Target(StrEnum):
    """What a model runs on."""

    CPU = "onnx"
    CUDA = "onnx-cuda"
    ONNX_TENSORRT = "onnx-tensorrt"
    TENSORRT = "tensorrt"


GPU_FILES: Final = (Path("/dev/nvidiactl"), Path("/dev/nvhost-gpu"), Path("/dev/nvgpu"))
"""Device files of GPUs: of a card, and of Jetsons."""

_DEVICES: Final = {"cuda": Target.CUDA, "tensorrt": Target.ONNX_TENSORRT}


def read_variant(variant: str) -> Target:
    """Return what ``variant`` runs on.

    Raises:
        WrongVariantError: Nothing that this server knows.
    """
    runtime, _, rest = variant.partition("-")
    if runtime == "onnx":
        return _DEVICES.get(rest.partition("-")[0], Target.CPU)
    if runtime == "tensorrt":
        return Target.TENSORRT
    known = ", ".join(Target)
    raise WrongVariantError(f"variant '{variant[:80]}' names no runtime of this server ({known})")
