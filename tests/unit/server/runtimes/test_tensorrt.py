"""Engines: built in a child, kept by all that they depend on, run beside each other.

The tests with `gpu` run against a made-up `tensorrt`, and the real one where there is a GPU.
"""

import concurrent.futures
import json

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from linnet_server.errors import (
    BadRequestError,
    EngineCacheError,
    LoadFailedError,
    ModelFailedError,
    WrongVariantError,
)
from linnet_server.runtimes import cuda, engine_cache, tensorrt_engine
from linnet_server.runtimes.engine_cache import EngineCache, EngineKey
from linnet_server.runtimes.hints import Hints
from linnet_server.runtimes.interface import ModelFile
from linnet_server.runtimes.targets import Target
from linnet_server.runtimes.trial import try_out
from linnet_server.sessions import _hash, load_session

pytestmark = pytest.mark.slow

KEY = EngineKey("sha256:ab", "m.onnx", "10.3.0", "Orin", "8.7", 12060, 12060, "{}")


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def load(path, cache, **more):
    return load_session(path, variant="tensorrt", threads=1, cache=cache, **more)


def as_file(path, cache, *, hints=None):
    return ModelFile(
        path=path,
        digest="sha256:ab",
        target=Target.TENSORRT,
        threads=1,
        hints=hints or Hints(),
        cache=cache,
    )


def two_open_dimensions(models):
    def build(path):
        models.save_model(
            path,
            [helper.make_node("Mul", ["x", "two"], ["y"])],
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "L"])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "L"])],
            [numpy_helper.from_array(np.array([2], np.float32), "two")],
        )

    return build


@pytest.mark.usefixtures("gpu")
def test_an_engine_answers_as_onnxruntime_does(models, tmp_path, cache):
    models.adder(3)(tmp_path / "m.onnx")
    session = load(tmp_path / "m.onnx", cache)
    expected = load_session(tmp_path / "m.onnx", variant="onnx", threads=1)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)

    got = session.run({"x": x}, ["label", "y"])

    want = expected.run({"x": x}, ["label", "y"])
    assert [list(array.ravel()) for array in got] == [list(array.ravel()) for array in want]
    assert [array.dtype for array in got] == [np.int64, np.float32]
    assert session.platform == "tensorrt_plan"
    assert [spec.metadata() for spec in session.signature.inputs.values()] == [
        spec.metadata() for spec in expected.signature.inputs.values()
    ]


@pytest.mark.usefixtures("gpu")
def test_the_second_load_takes_the_engine_that_is_there(models, tmp_path, cache):
    models.adder(3)(tmp_path / "m.onnx")

    first = try_out(as_file(tmp_path / "m.onnx", cache))
    again = try_out(as_file(tmp_path / "m.onnx", cache))

    assert (first["built"], again["built"]) == (True, False)
    assert again["sha256"] == first["sha256"]


@pytest.mark.usefixtures("gpu")
def test_a_batch_beyond_the_profile_is_the_clients_fault(models, tmp_path, cache):
    models.adder(0)(tmp_path / "m.onnx")
    session = load(tmp_path / "m.onnx", cache)

    with pytest.raises(BadRequestError, match=r"\[17, 4\] is not within \[1, 4\] to \[16, 4\]"):
        session.run({"x": np.zeros((17, 4), np.float32)}, ["y"])
    full = np.ones((16, 4), np.float32)
    assert (session.run({"x": full}, ["y"])[0] == full).all()


@pytest.mark.usefixtures("gpu")
def test_runs_may_overlap_and_grow_and_shrink(models, tmp_path, cache):
    models.adder(1)(tmp_path / "m.onnx")
    session = load(tmp_path / "m.onnx", cache)

    def run(number):
        x = np.full((1 + number % 16, 4), number, np.float32)
        y = session.run({"x": x}, ["y"])[0]
        return y.shape == x.shape and bool((y == number + 1).all())

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(run, range(200)))
    session.close()


@pytest.mark.usefixtures("gpu")
def test_a_profile_in_the_model_opens_more_dimensions(models, tmp_path, cache):
    two_open_dimensions(models)(tmp_path / "m.onnx")
    with pytest.raises(LoadFailedError, match=r"say which shapes it may have, in runtime\.json"):
        load(tmp_path / "m.onnx", cache)
    profile = {"min": [1, 2], "opt": [4, 8], "max": [4, 32]}
    (tmp_path / "runtime.json").write_text(json.dumps({"profiles": {"x": profile}}))

    session = load(tmp_path / "m.onnx", cache)

    assert session.warm_up().elements == 32
    x = np.ones((3, 31), np.float32)
    assert (session.run({"x": x}, ["y"])[0] == 2).all()
    with pytest.raises(BadRequestError, match="which its engine was built for"):
        session.run({"x": np.ones((1, 33), np.float32)}, ["y"])


@pytest.mark.usefixtures("gpu")
def test_a_scalar_stays_a_scalar(models, tmp_path, cache):
    models.identity(TensorProto.FLOAT, dims=())(tmp_path / "scalar.onnx")
    scalar = load(tmp_path / "scalar.onnx", cache)

    y = scalar.run({"x": np.array(7, np.float32)}, ["y"])[0]

    assert (y.shape, y.item()) == ((), 7)


@pytest.mark.usefixtures("gpu")
def test_garbage_is_a_verdict_with_the_parsers_words(tmp_path, cache):
    (tmp_path / "m.onnx").write_bytes(b"garbage")

    with pytest.raises(LoadFailedError, match=r"TensorRT cannot read it: .+"):
        load(tmp_path / "m.onnx", cache)


def test_external_data_of_a_bare_file_counts_for_its_digest(models, tmp_path):
    models.adder(1)(tmp_path / "m.onnx")
    raw = (tmp_path / "m.onnx").read_bytes()
    (tmp_path / "m.onnx").write_bytes(raw + b"weights.bin")
    first = _hash(tmp_path / "m.onnx")

    (tmp_path / "unrelated").write_bytes(b"1")
    assert _hash(tmp_path / "m.onnx") == first
    (tmp_path / "weights.bin").write_bytes(b"1")
    second = _hash(tmp_path / "m.onnx")
    (tmp_path / "weights.bin").write_bytes(b"2")

    assert len({first, second, _hash(tmp_path / "m.onnx")}) == 3


# --- the cache ------------------------------------------------------------------------------------


def damage(plan):
    raw = bytearray(plan.read_bytes())
    raw[len(raw) // 2] ^= 1
    plan.write_bytes(raw)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(damage, id="a flipped bit"),
        pytest.param(lambda plan: plan.write_bytes(plan.read_bytes()[:-1]), id="cut short"),
        pytest.param(lambda plan: plan.unlink(), id="gone"),
        pytest.param(lambda plan: plan.with_name("trying").touch(), id="it crashed when tried"),
        pytest.param(lambda plan: plan.with_name("engine.json").write_text("{"), id="torn facts"),
        pytest.param(lambda plan: plan.with_name("engine.json").write_text("[]"), id="no facts"),
    ],
)
@pytest.mark.usefixtures("fake_gpu")
def test_an_engine_that_is_not_what_was_built_is_built_again(models, tmp_path, cache, spoil):
    models.adder(3)(tmp_path / "m.onnx")
    model = as_file(tmp_path / "m.onnx", cache)
    prepared = tensorrt_engine.prepare_engine(model)
    spoil(prepared.engine.path)

    again = tensorrt_engine.prepare_engine(model)

    assert again.built
    assert not tensorrt_engine.prepare_engine(model).built


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"tensorrt": "fake.__version__ = __version__ = '11.1.0'\n"}, id="TensorRT"),
        pytest.param(
            {"cuda": "def cudaDeviceGetAttribute(a, d): return 0, {75: 9, 76: 0}[a]\n"}, id="sm"
        ),
        pytest.param({"cuda": "def cudaDriverGetVersion(): return 0, 13000\n"}, id="driver"),
        pytest.param({"cuda": "fake.Properties.name = b'Fake Thor'\n"}, id="GPU"),
    ],
)
def test_another_gpu_driver_or_tensorrt_is_another_engine(
    fake_gpu, models, tmp_path, cache, change
):
    models.adder(3)(tmp_path / "m.onnx")
    model = as_file(tmp_path / "m.onnx", cache)
    tensorrt_engine.prepare_engine(model)

    fake_gpu.change(**change)
    there = tensorrt_engine.prepare_engine(model)
    fake_gpu.change()

    assert there.built
    assert not tensorrt_engine.prepare_engine(model).built


@pytest.mark.usefixtures("fake_gpu")
def test_other_hints_are_another_engine(models, tmp_path, cache):
    models.adder(3)(tmp_path / "m.onnx")
    tensorrt_engine.prepare_engine(as_file(tmp_path / "m.onnx", cache))
    hints = Hints(optimization_level=5, workspace_bytes=1 << 20)

    assert tensorrt_engine.prepare_engine(as_file(tmp_path / "m.onnx", cache, hints=hints)).built


@pytest.mark.usefixtures("fake_gpu")
def test_what_builds_have_measured_is_used_again_and_garbage_is_not(models, tmp_path, cache):
    models.adder(3)(tmp_path / "m.onnx")
    tensorrt_engine.prepare_engine(as_file(tmp_path / "m.onnx", cache))
    (timing,) = (cache / "tensorrt").glob("*.timing")
    first = timing.read_bytes()
    timing.write_bytes(b"rot")
    (tmp_path / "n").mkdir()
    models.adder(4)(tmp_path / "n" / "other.onnx")

    tensorrt_engine.prepare_engine(as_file(tmp_path / "n" / "other.onnx", cache))

    assert timing.read_bytes() == first == b"measured"


def test_the_cache_is_bounded_and_the_oldest_goes(cache, monkeypatch):
    monkeypatch.setattr(engine_cache, "MAX_ENGINES", 2)
    engines = EngineCache(cache)
    keys = [
        EngineKey(f"sha256:{n}", "m.onnx", "10.3.0", "Orin", "8.7", 1, 1, "{}") for n in range(3)
    ]
    for key in keys:
        engines.write(key, memoryview(b"plan"))

    kept = [engines.read(key) is not None for key in keys]

    assert sum(kept) == 2
    assert kept[2]


@pytest.mark.usefixtures("fake_gpu")
def test_a_cache_that_cannot_be_written_is_said(models, tmp_path):
    models.adder(3)(tmp_path / "m.onnx")
    (tmp_path / "cache").write_text("a file")

    with pytest.raises(EngineCacheError, match="cannot be kept below"):
        load(tmp_path / "m.onnx", tmp_path / "cache")


def test_only_the_server_may_enter_the_cache(cache):
    engine = EngineCache(cache).write(KEY, memoryview(b"plan"))

    assert engine.path.parent.stat().st_mode & 0o077 == 0


# --- GPUs that are not, or are not well ----------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        pytest.param(
            {"cuda": "def cudaGetDeviceCount(): return 100, None\n"},
            WrongVariantError,
            r"no NVIDIA GPU: no CUDA-capable device is detected \(CUDA error 100\)",
            id="no GPU",
        ),
        pytest.param(
            {"cuda": "def cudaGetDeviceCount(): return 0, 0\n"},
            WrongVariantError,
            "shows the server no NVIDIA GPU",
            id="a driver, no GPU",
        ),
        pytest.param(
            {"cuda": "raise ImportError('libcudart.so.12: cannot open')\n"},
            WrongVariantError,
            "cuda-bindings is not installed beside the server .libcudart",
            id="no CUDA",
        ),
        pytest.param(
            {"tensorrt": "raise ImportError('libnvinfer.so.10: cannot open')\n"},
            WrongVariantError,
            "TensorRT is not installed beside the server .libnvinfer",
            id="no TensorRT",
        ),
        pytest.param(
            {"tensorrt": "__version__ = '8.6.1'\n"},
            WrongVariantError,
            r"TensorRT 8\.6\.1 is here; 10 or newer",
            id="an old TensorRT",
        ),
        pytest.param(
            {"tensorrt": "import ctypes\nfake.Builder.__init__ = lambda *_: ctypes.string_at(0)\n"},
            LoadFailedError,
            "it takes its process down .SIGSEGV",
            id="a native crash",
        ),
        pytest.param(
            {"tensorrt": "import os\nfake.Builder.__init__ = lambda *_: os.abort()\n"},
            LoadFailedError,
            "it takes its process down .SIGABRT",
            id="an abort",
        ),
        pytest.param(
            {"tensorrt": "import os\nfake.Builder.__init__ = lambda *_: os._exit(3)\n"},
            LoadFailedError,
            "its trial ended with 3",
            id="an exit without a word",
        ),
        pytest.param(
            {"tensorrt": "fake.Builder.build_serialized_network = lambda *_: None\n"},
            LoadFailedError,
            "TensorRT cannot build an engine: TensorRT does not say why",
            id="no engine",
        ),
        pytest.param(
            {"tensorrt": "fake.Context.execute_async_v3 = lambda *_: False\n"},
            LoadFailedError,
            "the engine does not run: TensorRT did not run",
            id="an engine that does not run",
        ),
        pytest.param(
            {"tensorrt": "fake.Engine.is_shape_inference_io = lambda *_: True\n"},
            LoadFailedError,
            "'x' is a shape, not a tensor",
            id="a shape for an input",
        ),
    ],
)
def test_what_is_wrong_with_a_gpu_is_a_verdict(
    fake_gpu, models, tmp_path, cache, change, error, words
):
    models.adder(3)(tmp_path / "m.onnx")
    fake_gpu.change(**change)

    with pytest.raises(error, match=words):
        load(tmp_path / "m.onnx", cache)


def test_a_crash_in_the_trial_of_a_kept_engine_has_it_built_again(
    fake_gpu, models, tmp_path, cache
):
    models.adder(3)(tmp_path / "m.onnx")
    model = as_file(tmp_path / "m.onnx", cache)
    try_out(model)
    crash = "import ctypes\nfake.Runtime.__init__ = lambda *_: ctypes.string_at(0)\n"
    fake_gpu.change(tensorrt=crash)
    with pytest.raises(LoadFailedError, match="SIGSEGV"):
        try_out(model)

    fake_gpu.change()

    assert try_out(model)["built"]


@pytest.mark.usefixtures("fake_gpu")
def test_doubles_are_not_carried(models, tmp_path, cache):
    models.identity(TensorProto.DOUBLE)(tmp_path / "m.onnx")

    with pytest.raises(LoadFailedError, match="'x' is of DOUBLE, which the protocol cannot carry"):
        load(tmp_path / "m.onnx", cache)


@pytest.mark.usefixtures("fake_gpu")
def test_a_gpu_that_is_full_fails_one_run_and_not_the_next(models, tmp_path, cache):
    models.adder(3)(tmp_path / "m.onnx")
    session = load(tmp_path / "m.onnx", cache)
    runtime = cuda.load_runtime()
    x = {"x": np.zeros((1, 4), np.float32)}
    real, runtime.cudaMalloc = runtime.cudaMalloc, lambda _: (2, None)

    with pytest.raises(ModelFailedError, match=r"out of memory \(CUDA error 2\)"):
        session.run(x, ["y"])
    runtime.cudaMalloc = real

    assert session.run(x, ["y"])[0].tolist() == [[3, 3, 3, 3]]


@pytest.mark.usefixtures("fake_gpu")
def test_closing_gives_back_all_memory_of_the_gpu(models, tmp_path, cache):
    models.adder(3)(tmp_path / "m.onnx")
    session = load(tmp_path / "m.onnx", cache)
    session.run({"x": np.zeros((4, 4), np.float32)}, ["y"])
    fake = cuda.load_runtime().fake
    assert fake.blocks
    assert fake.streams

    session.close()

    assert not fake.blocks
    assert not fake.streams
