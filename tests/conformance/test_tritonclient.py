"""Triton's own client, over HTTP and gRPC, cannot tell the difference."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tritonclient import grpc as triton_grpc
from tritonclient import http as triton_http
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.slow

DATATYPES = {
    "BOOL": (TensorProto.BOOL, np.array([[True, False, True]])),
    "UINT8": (TensorProto.UINT8, np.array([[0, 1, 255]], np.uint8)),
    "UINT16": (TensorProto.UINT16, np.array([[0, 1, 65_535]], np.uint16)),
    "UINT32": (TensorProto.UINT32, np.array([[0, 1, 2**32 - 1]], np.uint32)),
    "UINT64": (TensorProto.UINT64, np.array([[0, 1, 2**64 - 1]], np.uint64)),
    "INT8": (TensorProto.INT8, np.array([[-128, 0, 127]], np.int8)),
    "INT16": (TensorProto.INT16, np.array([[-32_768, 0, 32_767]], np.int16)),
    "INT32": (TensorProto.INT32, np.array([[-(2**31), 0, 2**31 - 1]], np.int32)),
    "INT64": (TensorProto.INT64, np.array([[-(2**63), 0, 2**63 - 1]], np.int64)),
    "FP16": (TensorProto.FLOAT16, np.array([[-1.5, 0, 65_504]], np.float16)),
    "FP32": (TensorProto.FLOAT, np.array([[-1.5, np.nan, np.inf]], np.float32)),
    "FP64": (TensorProto.DOUBLE, np.array([[-1.5, np.nan, -np.inf]], np.float64)),
    "BYTES": (TensorProto.STRING, np.array([["", "a", "ä€"]], np.object_)),
}


def echo_model(path):
    """One input and one output a datatype; what comes in goes out."""
    inputs, outputs, nodes = [], [], []
    for name, (kind, _) in DATATYPES.items():
        inputs.append(helper.make_tensor_value_info(f"in_{name}", kind, ["batch", 3]))
        outputs.append(helper.make_tensor_value_info(f"out_{name}", kind, ["batch", 3]))
        nodes.append(helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]))
    graph = helper.make_graph(nodes, "echo", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


@pytest.fixture(scope="module")
def ports(tmp_path_factory):
    place = tmp_path_factory.mktemp("triton")
    echo_model(place / "echo.onnx")
    command = [sys.executable, "-m", "linnet_server", "--model", f"echo={place / 'echo.onnx'}"]
    command += ["--allow-unverified", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"]
    command += ["--port-file", str(place / "ports")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if json.loads(line)["event"] == "server.booted":
                break
        http, grpc = (place / "ports").read_text().split()
        yield {"http": f"127.0.0.1:{http}", "grpc": f"127.0.0.1:{grpc}"}
        process.terminate()
        process.stderr.read()
        assert process.wait(20) == 0


@pytest.fixture(params=["http", "grpc"])
def triton(request, ports):
    module = {"http": triton_http, "grpc": triton_grpc}[request.param]
    with module.InferenceServerClient(ports[request.param]) as client:
        yield module, client


def make_inputs(module, **arrays):
    inputs = []
    for name, (_, array) in DATATYPES.items():
        data = arrays.get(name, array)
        inputs.append(module.InferInput(f"in_{name}", list(data.shape), name))
        inputs[-1].set_data_from_numpy(data)
    return inputs


def test_health_and_metadata(triton):
    _, client = triton
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("echo")
    assert client.is_model_ready("echo", "1")
    assert not client.is_model_ready("echo", "no-such-version")
    assert not client.is_model_ready("nobody")
    assert "binary_tensor_data" in str(client.get_server_metadata())
    assert "in_BYTES" in str(client.get_model_metadata("echo", "1"))


def test_every_datatype_comes_back_as_it_went(triton):
    module, client = triton
    answer = client.infer("echo", make_inputs(module), request_id="r1")
    for name, (_, array) in DATATYPES.items():
        found = answer.as_numpy(f"out_{name}")
        if name == "BYTES":
            assert [element.decode() for element in found.reshape(-1)] == list(array.reshape(-1))
        else:
            assert found.dtype == array.dtype
            np.testing.assert_array_equal(found, array)


def test_some_outputs_in_the_order_that_was_asked(triton):
    module, client = triton
    wanted = [module.InferRequestedOutput(f"out_{name}") for name in ("INT64", "BOOL")]
    answer = client.infer("echo", make_inputs(module), outputs=wanted)
    assert answer.as_numpy("out_FP32") is None
    assert answer.as_numpy("out_BOOL").shape == (1, 3)


def test_an_empty_batch(triton):
    module, client = triton
    empty = {name: array[:0] for name, (_, array) in DATATYPES.items()}
    answer = client.infer("echo", make_inputs(module, **empty))
    assert answer.as_numpy("out_FP32").shape == (0, 3)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_request_may_come_compressed(ports, coding):
    with triton_http.InferenceServerClient(ports["http"]) as client:
        answer = client.infer(
            "echo",
            make_inputs(triton_http),
            request_compression_algorithm=coding,
            response_compression_algorithm=coding,
        )
    np.testing.assert_array_equal(answer.as_numpy("out_INT64"), DATATYPES["INT64"][1])


def test_a_trace_may_come_along(triton):
    module, client = triton
    answer = client.infer(
        "echo", make_inputs(module), headers={"traceparent": f"00-{'4' * 32}-{'7' * 16}-01"}
    )
    assert answer.as_numpy("out_BOOL").shape == (1, 3)


def test_the_repository_is_not_on_the_network(triton):
    _, client = triton
    for ask in (client.get_model_repository_index, lambda: client.unload_model("echo")):
        with pytest.raises(InferenceServerException):
            ask()
    assert client.is_model_ready("echo")


def test_typed_json_goes_both_ways(ports):
    with triton_http.InferenceServerClient(ports["http"]) as client:
        inputs = []
        for name, (_, array) in DATATYPES.items():
            if name == "FP16":  # the client refuses to write it as JSON
                inputs.append(triton_http.InferInput(f"in_{name}", [1, 3], name))
                inputs[-1].set_data_from_numpy(array)
                continue
            finite = np.nan_to_num(array, posinf=0, neginf=0) if name[:2] == "FP" else array
            inputs.append(triton_http.InferInput(f"in_{name}", [1, 3], name))
            inputs[-1].set_data_from_numpy(finite, binary_data=False)
        wanted = [triton_http.InferRequestedOutput("out_INT64", binary_data=False)]
        answer = client.infer("echo", inputs, outputs=wanted)
        np.testing.assert_array_equal(answer.as_numpy("out_INT64"), DATATYPES["INT64"][1])


REFUSED = {
    "unknown model": ({"model_name": "nobody"}, "no model 'nobody'"),
    "unknown version": ({"model_version": "77"}, "not 77"),
    "unknown output": ({"outputs": ["nothing"]}, "no output 'nothing'"),
    "classification": ({"class_count": 1}, "does not have the extension 'classification'"),
    "missing input": ({"leave_out": "BOOL"}, "missing input 'in_BOOL'"),
    "wrong shape": ({"arrays": {"INT8": np.zeros((1, 4), np.int8)}}, "does not fit [-1, 3]"),
    "two batches": ({"arrays": {"INT8": np.zeros((2, 3), np.int8)}}, "'batch' is"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_client_did_wrong_is_said(triton, case):
    module, client = triton
    asked, sentence = REFUSED[case]
    inputs = make_inputs(module, **asked.get("arrays", {}))
    inputs = [one for one in inputs if one.name() != f"in_{asked.get('leave_out')}"]
    outputs = [module.InferRequestedOutput(name) for name in asked.get("outputs", ())]
    if "class_count" in asked:
        outputs = [module.InferRequestedOutput("out_FP32", class_count=asked["class_count"])]
    with pytest.raises(InferenceServerException) as caught:
        client.infer(
            asked.get("model_name", "echo"),
            inputs,
            model_version=asked.get("model_version", ""),
            outputs=outputs or None,
        )
    assert sentence in caught.value.message()
    statuses = {"400", "404", "StatusCode.INVALID_ARGUMENT", "StatusCode.NOT_FOUND"}
    assert caught.value.status() in statuses
