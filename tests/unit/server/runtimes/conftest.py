"""A node with a GPU, real or made up, for the runtimes' tests."""

import sys
from pathlib import Path

import pytest

from linnet_server.errors import WrongVariantError
from linnet_server.runtimes import cuda, tensorrt

FAKES = Path(__file__).parent / "fake_gpu"
STAND_INS = ("tensorrt", "cuda", "cuda.bindings", "cuda.bindings.runtime")


class FakeGpu:
    """Puts `tensorrt` and `cuda` where this process, and its children, find them."""

    def __init__(self, site):
        self._site = site
        (site / "cuda" / "bindings").mkdir(parents=True)
        self.change()

    def change(self, *, tensorrt="", cuda=""):
        """Let the modules be the fakes, with these lines of Python at their end."""
        stand_in = "from fake_tensorrt import *\nimport fake_tensorrt as fake\n"
        version = "__version__ = fake.__version__\n"
        (self._site / "tensorrt.py").write_text(stand_in + version + tensorrt)
        stand_in = "from fake_cuda import *\nimport fake_cuda as fake\n"
        (self._site / "cuda" / "bindings" / "runtime.py").write_text(stand_in + cuda)
        for name in (*STAND_INS, "fake_tensorrt", "fake_cuda"):
            sys.modules.pop(name, None)


@pytest.fixture
def fake_gpu(tmp_path, monkeypatch):
    site = tmp_path / "site"
    gpu = FakeGpu(site)
    monkeypatch.syspath_prepend(str(FAKES))
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", f"{site}:{FAKES}")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a file may change within a second
    yield gpu
    for name in (*STAND_INS, "fake_tensorrt", "fake_cuda"):
        sys.modules.pop(name, None)


def require_gpu():
    """Skip, with the reason, where this machine cannot run an engine."""
    try:
        cuda.read_gpu(cuda.load_runtime())
        tensorrt.load_tensorrt()
    except WrongVariantError as error:
        pytest.skip(f"no GPU with TensorRT here: {error}")


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.gpu)])
def gpu(request):
    """What runs engines: both kinds keep the same contract."""
    if request.param == "real":
        require_gpu()
        return None
    return request.getfixturevalue("fake_gpu")
