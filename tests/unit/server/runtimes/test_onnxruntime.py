"""ONNX Runtime: what it runs on is asserted, nothing is told to anybody, tensors may be bound."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

import linnet_server
from linnet_server import ort
from linnet_server.errors import (
    LoadFailedError,
    NoMemoryError,
    NotOnnxError,
    WrongHintsError,
    WrongVariantError,
)
from linnet_server.runtimes import trial
from linnet_server.runtimes.hints import Hints, Profile, read_hints
from linnet_server.runtimes.interface import ModelFile
from linnet_server.runtimes.onnxruntime import OnnxModel, _provider_options, open_onnx
from linnet_server.runtimes.targets import Target, read_variant
from linnet_server.sessions import load_session


@pytest.fixture
def model(models, tmp_path):
    models.adder(1)(tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def as_file(path, target=Target.CPU, **hints):
    return ModelFile(path, "sha256:ab", target, 1, Hints(**hints), path.parent / "cache")


@pytest.mark.parametrize(
    ("variant", "target"),
    [
        ("onnx", Target.CPU),
        ("onnx-int8", Target.CPU),
        ("onnx-cudalike", Target.CPU),
        ("onnx-cuda", Target.CUDA),
        ("onnx-cuda-fp16", Target.CUDA),
        ("onnx-tensorrt-fp16", Target.ONNX_TENSORRT),
        ("tensorrt", Target.TENSORRT),
        ("tensorrt-int8", Target.TENSORRT),
    ],
)
def test_a_variants_name_says_what_it_runs_on(variant, target):
    assert read_variant(variant) is target


@pytest.mark.parametrize("variant", ["", "openvino", "onnxfoo", "cuda-onnx", "x" * 300])
def test_a_variant_of_another_runtime_is_refused(variant, model):
    with pytest.raises(WrongVariantError, match="names no runtime of this server"):
        load_session(model, variant=variant, threads=1)


def test_a_plan_is_refused(tmp_path):
    (tmp_path / "model.plan").write_bytes(b"")

    with pytest.raises(NotOnnxError):
        load_session(tmp_path / "model.plan", variant="tensorrt", threads=1)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["onnx-cuda", "onnx-tensorrt"])
def test_a_variant_for_a_gpu_never_runs_on_a_cpu_instead(variant, model, tmp_path):
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this ONNX Runtime is built for GPUs")

    with pytest.raises(WrongVariantError, match=f"variant {variant} needs .*ExecutionProvider; "):
        load_session(model, variant=variant, threads=1, cache=tmp_path / "cache")


def test_a_fallback_that_onnxruntime_takes_silently_is_refused(model, monkeypatch):
    """It says which providers it has, and then does not use the first: a driver that is too old."""
    real = ort.InferenceSession
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(
        ort,
        "InferenceSession",
        lambda path, options, **_: real(path, options, providers=["CPUExecutionProvider"]),
    )

    with pytest.raises(WrongVariantError, match="runs on CPUExecutionProvider here, not on CUDA"):
        open_onnx(as_file(model, Target.CUDA))


def test_a_provider_that_fails_to_start_is_a_verdict(model, monkeypatch):
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])

    with (
        pytest.warns(UserWarning, match="not in available provider names"),
        pytest.raises((WrongVariantError, LoadFailedError)),
    ):
        open_onnx(as_file(model, Target.CUDA))


def test_bound_tensors_give_the_same_answers(model):
    plain = open_onnx(as_file(model))
    bound = OnnxModel(plain._native, plain.signature, bind_to="cpu")
    feeds = {"x": np.arange(8, dtype=np.float32).reshape(2, 4)}

    got = bound.run(feeds, ["label", "y"])

    want = plain.run(feeds, ["label", "y"])
    assert [array.tolist() for array in got] == [array.tolist() for array in want]


def test_strings_cannot_be_bound_and_are_run_as_ever(models, tmp_path):
    models.identity(TensorProto.STRING)(tmp_path / "s.onnx")
    plain = open_onnx(as_file(tmp_path / "s.onnx"))
    bound = OnnxModel(plain._native, plain.signature, bind_to="cpu")

    assert bound.run({"x": np.array(["a", "b"], object)}, ["y"])[0].tolist() == ["a", "b"]


def test_what_tensorrt_builds_is_kept_apart_by_digest(model):
    profile = Profile(min=(1, 4), opt=(2, 4), max=(8, 4))
    one = as_file(model, Target.ONNX_TENSORRT, profiles={"x": profile}, optimization_level=4)

    options = _provider_options("TensorrtExecutionProvider", one)

    assert options["trt_engine_cache_enable"] == "1"
    assert Path(options["trt_engine_cache_path"]) == model.parent / "cache" / "onnxruntime" / "ab"
    assert options["trt_profile_min_shapes"] == "x:1x4"
    assert options["trt_profile_max_shapes"] == "x:8x4"
    assert options["trt_builder_optimization_level"] == "4"
    assert _provider_options("CUDAExecutionProvider", one) == {}


@pytest.mark.slow
def test_importing_the_server_tells_nobody_and_leaves_no_file(tmp_path):
    """From 1.29 on the wheel writes a device id and a database, and has an uploader."""
    source = str(Path(linnet_server.__file__).parents[1])
    code = "import linnet_server.sessions"

    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        timeout=60,
        env={"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": source},
    )

    assert list(tmp_path.iterdir()) == []


def test_nothing_spins_while_nobody_asks(model):
    native = open_onnx(as_file(model))._native
    options = native.get_session_options()

    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.inter_op.allow_spinning") == "0"


# --- hints ----------------------------------------------------------------------------------------


def test_no_hints_are_nothing_said(tmp_path):
    assert read_hints(tmp_path) == Hints()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("{", "Invalid JSON", id="no JSON"),
        pytest.param("[]", "runtime.json: ", id="a list"),
        pytest.param('{"profile": {}}', "profile: Extra inputs", id="a word that is not known"),
        pytest.param('{"optimizationLevel": 6}', "optimizationLevel", id="beyond the range"),
        pytest.param('{"ioBinding": "yes"}', "ioBinding", id="a word for a flag"),
        pytest.param('{"workspaceBytes": 1e9}', "workspaceBytes", id="a float for bytes"),
        pytest.param(
            '{"profiles": {"x": {"min": [2], "opt": [1], "max": [3]}}}', "shrink", id="shrinks"
        ),
        pytest.param(
            '{"profiles": {"x": {"min": [1], "opt": [1, 1], "max": [3]}}}', "as many", id="ranks"
        ),
        pytest.param(
            '{"profiles": {"x": {"min": [-1], "opt": [1], "max": [3]}}}', "min", id="negative"
        ),
        pytest.param(
            '{"profiles": {"x": {"min": [1], "opt": [1], "max": [9999999999]}}}', "max", id="huge"
        ),
        pytest.param(
            '{"profiles": {"x": {"min": [1, 1], "opt": [8193, 8192], "max": [9000, 9000]}}}',
            "first runs have: at most",
            id="a best shape that nobody can run",
        ),
        pytest.param('{"profiles":' * 500, "JSON", id="deep"),
        pytest.param(" " * (1 << 20) + "{}", "larger than", id="large"),
    ],
)
def test_hints_that_cannot_be_read_are_refused(tmp_path, text, words):
    (tmp_path / "runtime.json").write_text(text)

    with pytest.raises(LoadFailedError, match=words):
        read_hints(tmp_path)


def test_the_first_runs_have_the_publishers_best_shape(model):
    plain = load_session(model, variant="onnx", threads=1)
    profile = {"min": [1, 4], "opt": [8, 4], "max": [32, 4]}
    (model.parent / "runtime.json").write_text(json.dumps({"profiles": {"x": profile}}))
    hinted = load_session(model, variant="onnx", threads=1)

    assert plain.warm_up().elements == 4
    assert hinted.warm_up().elements == 32
    beyond = np.zeros((33, 4), np.float32)
    assert hinted.run({"x": beyond}, ["y"])[0].shape == (33, 4)


def test_hints_that_cannot_be_read_are_refused_on_a_cpu_too(model):
    (model.parent / "runtime.json").write_text('{"nonsense": 1}')

    with pytest.raises(WrongHintsError, match="nonsense: Extra inputs"):
        load_session(model, variant="onnx", threads=1)


def test_shapes_that_no_memory_holds_are_a_verdict(models, tmp_path):
    models.identity(TensorProto.FLOAT, dims=(1 << 24, 1 << 24))(tmp_path / "m.onnx")

    with pytest.raises(NoMemoryError, match="inputs of its shapes"):
        load_session(tmp_path / "m.onnx", variant="onnx", threads=1)


def test_hints_come_to_the_child_as_they_are(model):
    profile = Profile(min=(1, 4), opt=(2, 4), max=(8, 4))
    sent = as_file(model, Target.CUDA, profiles={"x": profile}, io_binding=True, strict=True)

    got, parent = trial.from_json(trial.to_json(sent))

    assert got == sent
    assert parent > 1
    assert json.loads(trial.to_json(sent))["hints"]["ioBinding"] is True


# --- on a GPU -------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("variant", ["onnx-cuda", "onnx-tensorrt"])
@pytest.mark.parametrize("bound", [False, True], ids=["plain", "bound"])
def test_a_gpu_answers_as_a_cpu_does(variant, bound, model, tmp_path):
    provider = {"onnx-cuda": "CUDA", "onnx-tensorrt": "Tensorrt"}[variant]
    if f"{provider}ExecutionProvider" not in ort.get_available_providers():
        pytest.skip(f"this ONNX Runtime has no {provider} provider")
    (tmp_path / "runtime.json").write_text(json.dumps({"ioBinding": bound}))
    cpu = load_session(model, variant="onnx", threads=1)
    gpu = load_session(model, variant=variant, threads=1, cache=tmp_path / "cache")
    feeds = {"x": np.arange(8, dtype=np.float32).reshape(2, 4)}

    assert [array.tolist() for array in gpu.run(feeds, ["y", "label"])] == [
        array.tolist() for array in cpu.run(feeds, ["y", "label"])
    ]
