"""The trial of what needs a GPU: a throw-away child opens it and runs it once, before the server.

- A GPU, a driver or an engine that takes its process down takes only the child: that is a verdict.
- Every way to end has its own sentence: what the child says, a crash by its signal, memory that ran
  out, time that was up.
- The child may be slow (an engine is built in it), and it steps back: requests go on meanwhile.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from linnet_server.errors import (
    BudgetExceededError,
    ControlError,
    EngineCacheError,
    LoadFailedError,
    WrongVariantError,
)
from linnet_server.runtimes.hints import Hints
from linnet_server.runtimes.interface import ModelFile
from linnet_server.runtimes.targets import Target

TIMEOUT_S: Final = 540.0
"""Less than the agent waits for an answer (600 s): it is to hear why. Engines took 8 to 109 s."""

_MAX_VERDICT_BYTES: Final = 64 << 10
_LAST_WORDS_BYTES: Final = 4 << 10
_VERDICTS: Final[Mapping[str, type[ControlError]]] = {
    kind.reason: kind for kind in (LoadFailedError, WrongVariantError, EngineCacheError)
}


def try_out(model: ModelFile, *, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """Return what a child found that could load and run ``model``.

    Raises:
        WrongVariantError: This node has not what it needs.
        LoadFailedError: It cannot be loaded or run, or it takes its process down.
        BudgetExceededError: Memory ran out, or the time.
        EngineCacheError: What is derived from it cannot be kept.
    """
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(  # noqa: S603 - this program's own module
            [sys.executable, "-P", "-B", "-m", f"{__package__}.trial_child", to_json(model)],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=complaints,
            start_new_session=True,
            cwd="/",
        )
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired as exc:
            raise BudgetExceededError(f"it was not loaded within {timeout_s:g} s") from exc
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said.seek(0)
        complaints.seek(max(0, complaints.seek(0, os.SEEK_END) - _LAST_WORDS_BYTES))
        return read_verdict(process.returncode, said.read(_MAX_VERDICT_BYTES), complaints.read())


def to_json(model: ModelFile) -> str:
    """Return ``model`` as the child reads it."""
    return json.dumps(
        {
            "path": str(model.path),
            "digest": model.digest,
            "target": model.target,
            "threads": model.threads,
            "hints": model.hints.model_dump(mode="json", by_alias=True),
            "cache": str(model.cache),
            "parent": os.getpid(),
        }
    )


def from_json(text: str) -> tuple[ModelFile, int]:
    """Return what ``to_json`` wrote, and the id of the process that did."""
    fields = json.loads(text)
    parent = fields.pop("parent")
    model = ModelFile(
        path=Path(fields.pop("path")),
        cache=Path(fields.pop("cache")),
        target=Target(fields.pop("target")),
        hints=Hints.model_validate_json(json.dumps(fields.pop("hints"))),
        **fields,
    )
    return model, parent


def read_verdict(returncode: int, said: bytes, last_words: bytes) -> dict[str, Any]:
    """Return what the child found, or raise what it, or its end, says.

    Raises:
        ControlError: The model cannot be run here.
    """
    last = last_words.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
    if -returncode == signal.SIGKILL:
        raise BudgetExceededError("its trial was killed, as the kernel does where memory runs out")
    if returncode < 0:
        name = signal.Signals(-returncode).name
        raise LoadFailedError(f"it takes its process down ({name}): {last[0][:300]}")
    try:
        verdict: dict[str, Any] = json.loads(said)
        reason, message = verdict.pop("reason"), str(verdict.pop("message"))
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise LoadFailedError(f"its trial ended with {returncode}: {last[0][:300]}") from exc
    if reason:
        raise _VERDICTS.get(reason, LoadFailedError)(message)
    return verdict
