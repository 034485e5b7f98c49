"""Models for swaps: one that takes its time to load, and one that takes memory."""

import time

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, save

_SIDE = 1024


def save_slow(path, *, products, bias):
    """Save y = x + bias, whose constants the runtime multiplies ``products`` times at load."""
    spread = numpy_helper.from_array(np.array([1 / _SIDE], np.float32))
    nodes = [helper.make_node("ConstantOfShape", ["shape"], ["m0"], value=spread)]
    nodes += [helper.make_node("MatMul", [f"m{i}", "m0"], [f"m{i + 1}"]) for i in range(products)]
    nodes += [
        helper.make_node("ReduceMean", [f"m{products}"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["x", "nothing"], ["same"]),
        helper.make_node("Add", ["same", "bias"], ["y"]),
    ]
    constants = {
        "shape": np.array([_SIDE, _SIDE], np.int64),
        "zero": np.array(0, np.float32),
        "bias": np.array([bias], np.float32),
    }
    _save(path, nodes, constants, columns=4)


def save_heavy(path, *, mib, bias):
    """Save a model with ``mib`` MiB of weights, which loads in a moment."""
    rows = mib << 18
    rng = np.random.default_rng(int(bias))
    nodes = [  # which weight is taken hangs on x: else the runtime would keep that one alone
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["at"], to=TensorProto.INT64),
        helper.make_node("Gather", ["weights", "at"], ["some"]),
        helper.make_node("Add", ["x", "some"], ["y"]),
    ]
    weights = rng.standard_normal(rows, np.float32)
    weights[0] = bias
    _save(path, nodes, {"weights": weights}, columns=4)


def products_for(seconds, directory):
    """Return how many products take ``seconds`` to load on this machine, now."""
    probe, products = directory / "probe.onnx", 20
    save_slow(probe, products=products, bias=0)
    started = time.perf_counter()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    onnxruntime.InferenceSession(probe, options, providers=["CPUExecutionProvider"])
    return max(1, round(products * seconds / (time.perf_counter() - started)))


def _save(path, nodes, constants, *, columns):
    graph = helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", columns])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", columns])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    save(model, path)
