"""What a machine can run: asked of the driver in a child, and the CPU where that goes wrong."""

import pytest

from linnet_server.runtimes.abilities import Abilities, ask_driver, read_abilities

CPU = Abilities()


@pytest.fixture
def gpu_files(tmp_path):
    (tmp_path / "nvidiactl").touch()
    return [tmp_path / "nvidiactl"]


def test_without_a_device_file_it_is_the_cpu_and_nobody_is_asked(tmp_path):
    assert read_abilities([tmp_path / "nowhere"]) == CPU
    assert CPU.targets == ("onnx",)


@pytest.mark.slow
@pytest.mark.usefixtures("fake_gpu")
def test_a_gpu_is_named_with_its_capability(gpu_files):
    found = read_abilities(gpu_files)

    assert found.targets[0] == "onnx"
    assert "tensorrt" in found.targets
    assert found.accelerators == ("nvidia", "nvidia-sm87")
    assert found.gpu == "Fake Orin"


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"cuda": "import ctypes\nctypes.string_at(0)\n"}, id="a crash"),
        pytest.param({"cuda": "import os\nos._exit(0)\n"}, id="nothing said"),
        pytest.param({"cuda": "def cudaGetDeviceCount(): return 100, None\n"}, id="no GPU"),
        pytest.param({"cuda": "raise ImportError('no driver')\n"}, id="no driver"),
    ],
)
def test_a_driver_that_is_not_well_leaves_the_cpu(fake_gpu, gpu_files, change):
    fake_gpu.change(**change)

    assert read_abilities(gpu_files) == CPU


def test_what_runs_is_all_that_is_told(fake_gpu, monkeypatch):
    from linnet_server import ort  # noqa: PLC0415 - where the fakes are in place

    providers = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: providers)
    assert ask_driver().targets == ("onnx", "onnx-cuda", "onnx-tensorrt", "tensorrt")

    fake_gpu.change(tensorrt="raise ImportError('libnvinfer')\n")
    assert ask_driver().targets == ("onnx", "onnx-cuda", "onnx-tensorrt")
    assert ask_driver().accelerators == ("nvidia", "nvidia-sm87")


async def test_the_agent_can_ask(open_bench):
    async with open_bench() as bench:
        answer = await bench.agent.get("/control/runtimes")

        assert answer.status_code == 200
        assert answer.json()["targets"][0] == "onnx"
        assert (await bench.client.get("/control/runtimes")).status_code == 404
