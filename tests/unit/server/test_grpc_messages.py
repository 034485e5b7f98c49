"""The messages of the protocol over gRPC: what fits becomes arrays, the rest a sentence."""

import numpy as np
import pytest

from linnet_server.errors import BadRequestError
from linnet_server.inference_pb2 import ModelInferRequest
from linnet_server.protocol import Signature
from linnet_server.protocol_grpc import parse_infer_message
from linnet_server.tensors import TensorSpec

SIGNATURE = Signature(
    [TensorSpec("x", "FP32", ("n", 2)), TensorSpec("t", "INT8", ("n",))],
    [TensorSpec("y", "FP32", ("n",)), TensorSpec("z", "INT64", ("n",))],
)


def typed(*, x=(1.0, 2.0), t=(7,), shape=(1, 2)):
    message = ModelInferRequest(model_name="m")
    message.inputs.add(name="x", datatype="FP32", shape=shape).contents.fp32_contents.extend(x)
    message.inputs.add(name="t", datatype="INT8", shape=[shape[0]]).contents.int_contents.extend(t)
    return message


ONES = np.ones((1, 2), np.float32).tobytes()


def raw(x=ONES, t=b"\x07"):
    message = ModelInferRequest(model_name="m", raw_input_contents=[x, t])
    message.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    message.inputs.add(name="t", datatype="INT8", shape=[1])
    return message


def strings(*elements, shape):
    message = ModelInferRequest(model_name="m")
    tensor = message.inputs.add(name="s", datatype="BYTES", shape=shape)
    tensor.contents.bytes_contents.extend(elements)
    return parse_infer_message(message, Signature([TensorSpec("s", "BYTES", ("n",))], []))


def test_typed_and_raw_contents_are_the_same():
    for message in (typed(x=(1.0, 1.0)), raw()):
        request = parse_infer_message(message, SIGNATURE)
        np.testing.assert_array_equal(request.feeds["x"], np.ones((1, 2), np.float32))
        np.testing.assert_array_equal(request.feeds["t"], np.array([7], np.int8))
        assert request.wanted.names == ("y", "z")
        assert request.wanted.label_at == 1
        assert request.elements == 3


def test_strings_are_text():
    assert strings(b"a", "ä".encode(), shape=[2]).feeds["s"].tolist() == ["a", "ä"]


def test_no_rows_at_all():
    assert parse_infer_message(typed(x=(), t=(), shape=(0, 2)), SIGNATURE).feeds["t"].shape == (0,)


def _without_contents():
    message = typed()
    message.inputs[0].ClearField("contents")
    return message


def _both():
    message = raw()
    message.inputs[0].contents.fp32_contents.append(1.0)
    return message


def _one_raw_of_two():
    message = raw()
    del message.raw_input_contents[1]
    return message


def _wrong_field():
    message = typed()
    message.inputs[1].contents.fp64_contents.append(1.0)
    return message


def _shared_memory():
    message = typed()
    message.inputs[0].parameters["shared_memory_region"].string_param = "r"
    return message


def _twice():
    message = typed()
    message.inputs.add().CopyFrom(message.inputs[0])
    return message


def _output_twice():
    message = typed()
    message.outputs.add(name="y")
    message.outputs.add(name="y")
    return message


def _ten_thousand_inputs():
    message = typed()
    for number in range(10_000):
        message.inputs.add(name=f"x{number}", datatype="FP32", shape=[1, 2])
    return message


REFUSED = {
    "10,000 inputs": (_ten_thousand_inputs, "x0"),
    "no contents": (_without_contents, "needs 2 values; there are 0"),
    "contents and raw": (_both, "has contents and raw_input_contents"),
    "one raw of two": (_one_raw_of_two, "all inputs are raw, or none is"),
    "wrong field": (_wrong_field, "belongs into int_contents, not fp64_contents"),
    "shared memory": (_shared_memory, "does not have the extension 'shared_memory_region'"),
    "twice": (_twice, "is there twice"),
    "output twice": (_output_twice, "asked for twice"),
    "too small": (lambda: raw(x=b"1234567"), "needs 8 bytes; there are 7"),
    "beyond the range": (lambda: typed(t=(128,)), "not of INT8, or beyond its range"),
    "negative": (lambda: typed(x=(), t=(), shape=(-1, 2)), "must be a list of sizes"),
    "huge": (lambda: typed(shape=(2**62, 2)), "needs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_said(case):
    make, sentence = REFUSED[case]
    with pytest.raises(BadRequestError, match=sentence):
        parse_infer_message(make(), SIGNATURE)


def test_bytes_that_are_not_text():
    with pytest.raises(BadRequestError, match="element 1 is not UTF-8"):
        strings(b"a", b"\xff", shape=[2])


def test_fp16_has_no_typed_field():
    message = ModelInferRequest()
    message.inputs.add(name="h", datatype="FP16", shape=[1])
    with pytest.raises(BadRequestError, match="send raw_input_contents"):
        parse_infer_message(message, Signature([TensorSpec("h", "FP16", ("n",))], []))
