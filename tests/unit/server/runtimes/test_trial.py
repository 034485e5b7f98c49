"""The trial's verdicts: every way to end has its own sentence, and nothing is left behind."""

import json
import os
import signal

import pytest

from linnet_server.errors import (
    BudgetExceededError,
    ControlError,
    EngineCacheError,
    LoadFailedError,
    WrongVariantError,
)
from linnet_server.runtimes import trial
from linnet_server.runtimes.hints import Hints
from linnet_server.runtimes.interface import ModelFile
from linnet_server.runtimes.targets import Target


def tensorrt_model(path):
    return ModelFile(path, "sha256:ab", Target.TENSORRT, 1, Hints(), path.parent / "cache")


def verdict(reason, message="why"):
    return json.dumps({"reason": reason, "message": message, "plan": "/p"}).encode()


@pytest.mark.parametrize(
    ("returncode", "said", "error", "words"),
    [
        pytest.param(0, verdict("LoadFailed"), LoadFailedError, "why", id="it cannot be loaded"),
        pytest.param(0, verdict("WrongVariant"), WrongVariantError, "why", id="no GPU"),
        pytest.param(0, verdict("DiskFault"), EngineCacheError, "why", id="no room"),
        pytest.param(0, verdict("Whatever"), LoadFailedError, "why", id="an unknown word"),
        pytest.param(0, b"", LoadFailedError, "ended with 0: last", id="nothing said"),
        pytest.param(0, b"[]", LoadFailedError, "ended with 0", id="no verdict"),
        pytest.param(0, b"{}", LoadFailedError, "ended with 0", id="half a verdict"),
        pytest.param(1, b"", LoadFailedError, "ended with 1: last words", id="an exit"),
        pytest.param(-11, b"", LoadFailedError, "down .SIGSEGV.: last words", id="a crash"),
        pytest.param(-7, b"", LoadFailedError, "down .SIGBUS", id="a file that shrank"),
        pytest.param(-9, b"", BudgetExceededError, "memory runs out", id="out of memory"),
    ],
)
def test_every_end_has_its_sentence(returncode, said, error, words):
    with pytest.raises(error, match=words):
        trial.read_verdict(returncode, said, b"first\nlast words\n")


def test_what_the_child_found_comes_back():
    assert trial.read_verdict(0, verdict(""), b"") == {"plan": "/p"}


@pytest.mark.slow
def test_without_a_gpu_the_child_says_so(models, tmp_path):
    """A real child on this machine; where it has a GPU, the engine is built."""
    models.adder(1)(tmp_path / "m.onnx")
    try:
        found = trial.try_out(tensorrt_model(tmp_path / "m.onnx"))
    except WrongVariantError as error:
        found = {"said": str(error)}

    assert "plan" in found or "this node" in found["said"] or "not installed" in found["said"]


@pytest.mark.slow
def test_a_trial_that_does_not_end_is_ended(fake_gpu, models, tmp_path):
    models.adder(1)(tmp_path / "m.onnx")
    pid_file = tmp_path / "pid"
    endless = (
        "import os, pathlib, threading\n"
        f"pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()))\n"
        "threading.Event().wait()\n"
    )
    fake_gpu.change(cuda=endless)

    with pytest.raises(BudgetExceededError, match="not loaded within 3 s"):
        trial.try_out(tensorrt_model(tmp_path / "m.onnx"), timeout_s=3)

    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


@pytest.mark.slow
def test_a_child_that_is_killed_is_out_of_memory(fake_gpu, models, tmp_path):
    models.adder(1)(tmp_path / "m.onnx")
    fake_gpu.change(cuda="import os\nos.kill(os.getpid(), 9)\n")

    with pytest.raises(BudgetExceededError, match="as the kernel does where memory runs out"):
        trial.try_out(tensorrt_model(tmp_path / "m.onnx"))


@pytest.mark.slow
def test_a_child_that_talks_without_end_costs_nothing(fake_gpu, models, tmp_path):
    models.adder(1)(tmp_path / "m.onnx")
    fake_gpu.change(cuda="print('x' * 5_000_000, flush=True)\nraise ImportError('enough')\n")

    with pytest.raises(WrongVariantError, match="enough"):
        trial.try_out(tensorrt_model(tmp_path / "m.onnx"))


@pytest.mark.slow
def test_the_child_steps_back_and_ends_with_its_parent(fake_gpu, models, tmp_path):
    models.adder(1)(tmp_path / "m.onnx")
    seen = tmp_path / "seen"
    look = (
        "import ctypes, os, pathlib\n"
        "number = ctypes.c_int()\n"
        "ctypes.CDLL(None).prctl(2, ctypes.byref(number), 0, 0, 0)\n"
        "score = pathlib.Path('/proc/self/oom_score_adj').read_text().strip()\n"
        f"pathlib.Path({str(seen)!r}).write_text(f'{{number.value}} {{os.nice(0)}} {{score}}')\n"
    )
    nice = os.nice(0)
    fake_gpu.change(cuda=look)

    trial.try_out(tensorrt_model(tmp_path / "m.onnx"))

    signalled, niceness, score = map(int, seen.read_text().split())
    assert signalled == signal.SIGKILL
    assert niceness == min(nice + 5, 19)
    assert score == 1000


def test_every_verdict_is_a_control_error():
    assert all(issubclass(kind, ControlError) for kind in trial._VERDICTS.values())
