"""The self-test's child, for real: every test starts one, so all are slow."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from linnet_agent.errors import (
    ContentRefusedError,
    NotOnnxError,
    SelfTestCrashedError,
    SelfTestFailedError,
    SelfTestTimeoutError,
)
from linnet_agent.selftest import _raise_verdict, run_self_test

pytestmark = pytest.mark.slow


def write(
    directory, nodes, *, shape=(1, 4), outputs=("y",), initializers=(), kind=TensorProto.FLOAT
):
    x = helper.make_tensor_value_info("x", kind, shape)
    ys = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "g", [x], ys, initializer=initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 10
    (directory / "model.onnx").write_bytes(model.SerializeToString())


def double(directory):
    two = numpy_helper.from_array(np.array(2, "f4"), "two")
    write(directory, [helper.make_node("Mul", ["x", "two"], ["y"])], initializers=[two])


def write_golden(directory, answer, **more):
    golden = {
        "inputs": {"x": {"datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}},
        "outputs": {"y": {"datatype": "FP32", "shape": [1, 4], "data": answer}},
    }
    (directory / "golden.json").write_text(json.dumps(golden | more))


async def test_a_good_model_passes(tmp_path):
    double(tmp_path)

    await run_self_test(tmp_path, "model.onnx", timeout_s=60)


async def test_golden_samples_are_compared_within_their_tolerance(tmp_path):
    double(tmp_path)
    write_golden(tmp_path, [2.0005, 4, 6, 8], tolerance=1e-2)
    await run_self_test(tmp_path, "model.onnx", timeout_s=60)

    write_golden(tmp_path, [2.5, 4, 6, 8], tolerance=1e-2)
    with pytest.raises(SelfTestFailedError, match="golden"):
        await run_self_test(tmp_path, "model.onnx", timeout_s=60)


@pytest.mark.parametrize("text", ["{", '{"inputs": {}}', '{"inputs": {"x": 1}, "outputs": {}}'])
async def test_a_golden_file_that_cannot_be_read_fails(tmp_path, text):
    double(tmp_path)
    (tmp_path / "golden.json").write_text(text)

    with pytest.raises(SelfTestFailedError, match=r"golden\.json"):
        await run_self_test(tmp_path, "model.onnx", timeout_s=60)


async def test_an_output_that_is_not_finite_fails(tmp_path):
    write(tmp_path, [helper.make_node("Log", ["x"], ["y"])])

    with pytest.raises(SelfTestFailedError, match="NaN or Inf"):
        await run_self_test(tmp_path, "model.onnx", timeout_s=60)


async def test_a_file_that_is_no_onnx_is_told_apart(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"GGUF" * 100)

    with pytest.raises(NotOnnxError):
        await run_self_test(tmp_path, "model.onnx", timeout_s=60)


async def test_an_operator_that_is_unknown_fails(tmp_path):
    write(tmp_path, [helper.make_node("Levitate", ["x"], ["y"])])

    with pytest.raises(SelfTestFailedError, match="cannot load"):
        await run_self_test(tmp_path, "model.onnx", timeout_s=60)


async def test_external_data_outside_the_model_is_never_opened(tmp_path):
    double(tmp_path)
    model = onnx.load(tmp_path / "model.onnx")
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())

    with pytest.raises(ContentRefusedError, match="secret"):
        await run_self_test(tmp_path, "model.onnx", timeout_s=60)


async def test_a_model_that_never_ends_is_given_up(tmp_path):
    condition = numpy_helper.from_array(np.array(1, "?"), "go")
    trips = numpy_helper.from_array(np.array(2**62, "i8"), "trips")
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["c"], ["c2"]),
            helper.make_node("Sin", ["v"], ["v2"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("c2", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v2", TensorProto.FLOAT, None),
        ],
    )
    loop = helper.make_node("Loop", ["trips", "go", "x"], ["y"], body=body)
    write(tmp_path, [loop], initializers=[condition, trips])

    with pytest.raises(SelfTestTimeoutError):
        await run_self_test(tmp_path, "model.onnx", timeout_s=2)


async def test_a_model_that_wants_the_machines_memory_fails_and_the_agent_lives(tmp_path):
    shape = numpy_helper.from_array(np.array([40_000, 1_000_000], "i8"), "shape")
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Expand", ["s", "shape"], ["y"]),
    ]
    write(tmp_path, nodes, initializers=[shape])

    with pytest.raises(SelfTestFailedError, match="fails when it is run"):
        await run_self_test(tmp_path, "model.onnx", timeout_s=60)


def test_a_child_that_a_signal_has_ended_has_crashed():
    with pytest.raises(SelfTestCrashedError, match="SIGSEGV"):
        _raise_verdict(-11, b"", b"")


def test_a_child_that_says_nothing_has_crashed():
    with pytest.raises(SelfTestCrashedError, match="out of memory"):
        _raise_verdict(1, b"", b"MemoryError\nout of memory\n")
