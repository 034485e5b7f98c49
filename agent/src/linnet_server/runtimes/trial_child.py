"""The trial's child: opens a model that needs a GPU, and runs it once. It may well crash.

Started by `trial.try_out` as ``python -m linnet_server.runtimes.trial_child MODEL``; it says its
verdict as one line of JSON on what was its standard output.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, Final

from linnet_server.errors import ControlError, ModelFailedError
from linnet_server.runtimes.interface import ModelFile, generate_examples, sentence
from linnet_server.runtimes.targets import Target
from linnet_server.runtimes.trial import from_json

_SET_PDEATHSIG: Final = 1


def main(arguments: list[str]) -> None:
    """Try the model that ``arguments`` name, and print the verdict."""
    told = os.dup(1)
    os.dup2(2, 1)  # whatever else is printed is no verdict
    model, parent = from_json(arguments[0])
    _step_back(parent)
    verdict: dict[str, Any] = {"reason": "", "message": ""}
    try:
        verdict |= _try(model)
    except ControlError as exc:
        verdict |= {"reason": exc.reason, "message": str(exc)}
    except Exception as exc:  # noqa: BLE001 - the outermost place: whatever it is, it is said
        verdict |= {"reason": "LoadFailed", "message": f"{type(exc).__name__}: {sentence(exc)}"}
    os.write(told, json.dumps(verdict).encode())
    os._exit(0)  # a driver's destructors have no say in the verdict


def _try(model: ModelFile) -> dict[str, Any]:
    if model.target is Target.TENSORRT:
        from linnet_server.runtimes.tensorrt_engine import prepare_engine  # noqa: PLC0415 - GPUs only

        prepared = prepare_engine(model)
        engine = prepared.engine
        return {"plan": str(engine.path), "sha256": engine.sha256, "built": prepared.built}
    from linnet_server.runtimes.onnxruntime import open_onnx  # noqa: PLC0415 - GPUs only

    opened = open_onnx(model)
    with contextlib.suppress(ModelFailedError):  # made-up inputs: it may rightly refuse them
        opened.run(generate_examples(opened.signature, model.hints), list(opened.signature.outputs))
    return {}


def _step_back(parent: int) -> None:
    """End with the server, and let it have the processor, and the memory where there is little."""
    ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    os.nice(5)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


if __name__ == "__main__":
    main(sys.argv[1:])
