import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from linnet_agent.errors import ContentRefusedError, NotOnnxError
from linnet_agent.onnx_files import check_external_data, read_locations


def external(name, location):
    tensor = numpy_helper.from_array(np.zeros(4, "f4"), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


def graph(*initializers, nodes=()):
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    nodes = nodes or [helper.make_node("Identity", ["x"], ["y"])]
    return helper.make_graph(nodes, "g", [value], [answer], initializer=initializers)


def write(path, *initializers, nodes=()):
    model = helper.make_model(graph(*initializers, nodes=nodes))
    path.write_bytes(model.SerializeToString())


def hidden_in_a_constant(location):
    return [helper.make_node("Constant", [], ["y"], value=external("c", location))]


def hidden_in_a_branch(location):
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    constant = helper.make_node("Constant", [], ["y"], value=external("c", location))
    branch = helper.make_graph([constant], "b", [], [answer])
    return [helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)]


def hidden_in_a_list(location):
    node = helper.make_node("Identity", ["x"], ["y"])
    node.attribute.append(helper.make_attribute("values", [external("c", location)]))
    return [node]


@pytest.mark.parametrize(
    "nodes",
    [
        pytest.param(hidden_in_a_constant, id="constant"),
        pytest.param(hidden_in_a_branch, id="branch of an If"),
        pytest.param(hidden_in_a_list, id="list of tensors"),
    ],
)
def test_every_place_that_can_name_a_file_is_looked_at(tmp_path, nodes):
    write(tmp_path / "model.onnx", nodes=nodes("../secret"))

    assert set(read_locations(tmp_path / "model.onnx")) == {"../secret"}


def test_an_initializer_and_a_local_function_are_looked_at(tmp_path):
    function = helper.make_function(
        "local", "F", [], ["y"], hidden_in_a_constant("../b"), [helper.make_opsetid("", 17)]
    )
    model = helper.make_model(graph(external("w", "../a")), functions=[function])
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())

    assert read_locations(tmp_path / "model.onnx") == ["../a", "../b"]


def test_a_file_that_is_there_may_be_read(tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"\0" * 16)
    write(tmp_path / "model.onnx", external("w", "weights.bin"))

    check_external_data(tmp_path, "model.onnx")


@pytest.mark.parametrize(
    "location", ["../weights.bin", "/etc/passwd", "a/../../x", "", "a\\b", "missing.bin"]
)
def test_a_file_outside_or_missing_is_refused(tmp_path, location):
    write(tmp_path / "model.onnx", external("w", location))

    with pytest.raises(ContentRefusedError):
        check_external_data(tmp_path, "model.onnx")


def test_a_link_is_refused(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (tmp_path / "secret").write_bytes(b"\0" * 16)
    (model / "weights.bin").symlink_to(tmp_path / "secret")
    write(model / "model.onnx", external("w", "weights.bin"))

    with pytest.raises(ContentRefusedError):
        check_external_data(model, "model.onnx")


def test_a_directory_that_is_a_link_is_refused(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "real").mkdir()
    (model / "real" / "weights.bin").write_bytes(b"\0" * 16)
    (model / "data").symlink_to("real")
    write(model / "model.onnx", external("w", "data/weights.bin"))

    with pytest.raises(ContentRefusedError, match="link"):
        check_external_data(model, "model.onnx")


def test_a_second_name_of_a_file_elsewhere_is_refused(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (tmp_path / "secret").write_bytes(b"\0" * 16)
    (model / "weights.bin").hardlink_to(tmp_path / "secret")
    write(model / "model.onnx", external("w", "weights.bin"))

    with pytest.raises(ContentRefusedError, match="second name"):
        check_external_data(model, "model.onnx")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"not onnx at all", id="text"),
        pytest.param(bytes(range(256)) * 20, id="noise"),
        pytest.param(b"\x08\x07", id="no graph"),
        pytest.param(b"\x3a\xff\xff\xff\x0f", id="longer than the file"),
        pytest.param(b"\xff" * 64, id="number without end"),
    ],
)
def test_what_is_no_onnx_file_is_said_to_be_none(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)

    with pytest.raises(NotOnnxError):
        check_external_data(tmp_path, "model.onnx")


def test_a_bomb_of_nested_graphs_ends(tmp_path):
    inner = b""
    for _ in range(2000):
        node = b"\x2a" + _len(b"\x32" + _len(inner) + inner) + b"\x32" + _len(inner) + inner
        inner = b"\x0a" + _len(node) + node
    (tmp_path / "model.onnx").write_bytes(b"\x3a" + _len(inner) + inner)

    with pytest.raises(NotOnnxError, match="nested"):
        read_locations(tmp_path / "model.onnx")


def _len(data):
    size, out = len(data), b""
    while True:
        byte, size = size & 0x7F, size >> 7
        if not size:
            return out + bytes([byte])
        out += bytes([byte | 0x80])


def test_a_real_model_reads_nothing_else(tmp_path):
    write(tmp_path / "model.onnx")
    onnx.checker.check_model(str(tmp_path / "model.onnx"))

    check_external_data(tmp_path, "model.onnx")
