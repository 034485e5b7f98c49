"""What this machine can run: the agent asks, before it chooses among a model's variants.

- Without the device files of a GPU it is the CPU, and nothing is asked.
- With them a child asks the driver: a driver may take its process down. Then, too, it is the CPU.
"""

import dataclasses
import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from linnet_server.errors import WrongVariantError
from linnet_server.runtimes import cuda as cudas
from linnet_server.runtimes.targets import GPU_FILES, Target

log = logging.getLogger(__name__)

_TIMEOUT_S: Final = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Abilities:
    """What can be run, and on what.

    Attributes:
        targets: Runtimes and devices, as a variant's name begins.
        accelerators: Words that a variant may ask for: ``nvidia``, ``nvidia-sm87``.
        gpu: The GPU's name; empty: there is none.
    """

    targets: tuple[str, ...] = (str(Target.CPU),)
    accelerators: tuple[str, ...] = ()
    gpu: str = ""


def read_abilities(gpu_files: Sequence[Path] = GPU_FILES) -> Abilities:
    """Return what this machine can run; it blocks while a driver starts."""
    if not any(path.exists() for path in gpu_files):
        return Abilities()
    try:
        done = subprocess.run(  # noqa: S603 - this program's own module
            [sys.executable, "-P", "-B", "-m", __name__],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=True,
            cwd="/",
        )
        said = json.loads(done.stdout)
        return Abilities(tuple(said["targets"]), tuple(said["accelerators"]), said["gpu"])
    except (OSError, subprocess.SubprocessError, ValueError, TypeError, KeyError) as exc:
        log.warning("server.gpu.unknown", extra={"cause": str(exc)[:300]})
        return Abilities()


def ask_driver() -> Abilities:
    """Return what this machine can run; in a child only."""
    from linnet_server import ort  # noqa: PLC0415 - the parent may have it, or not
    from linnet_server.runtimes.tensorrt import load_tensorrt  # noqa: PLC0415

    targets = [Target.CPU]
    providers = ort.get_available_providers()
    if "CUDAExecutionProvider" in providers:
        targets.append(Target.CUDA)
    if "TensorrtExecutionProvider" in providers:
        targets.append(Target.ONNX_TENSORRT)
    accelerators, name = ["nvidia"], "NVIDIA"
    try:
        gpu = cudas.read_gpu(cudas.load_runtime())
        accelerators.append(f"nvidia-sm{gpu.sm.replace('.', '')}")
        name = gpu.name
        load_tensorrt()
        targets.append(Target.TENSORRT)
    except WrongVariantError as exc:
        log.warning("server.tensorrt.missing", extra={"cause": str(exc)})
    if targets == [Target.CPU]:
        return Abilities()
    return Abilities(tuple(map(str, targets)), tuple(accelerators), name)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(dataclasses.asdict(ask_driver())))
