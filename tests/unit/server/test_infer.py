"""The public API on real models: answers, what is the client's fault, what is the model's."""

import json
import math

import numpy as np
import pytest
from onnx import TensorProto

X = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
INFER = "/v2/models/defects/infer"


@pytest.fixture
async def bench(node, models, open_bench):
    node.set_current(node.add(models.adder(10)))
    async with open_bench() as bench:
        yield bench


async def test_an_answer_names_its_revision_and_digest(bench):
    answer = await bench.client.post(INFER, json={"id": "a7", "inputs": [X]})

    document = answer.json()
    digest = document["parameters"]["model_digest"]
    assert answer.status_code == 200
    assert document == {
        "model_name": "defects",
        "model_version": "r1",
        "parameters": {"revision": "r1", "model_digest": digest},
        "id": "a7",
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [1, 4], "data": [11.0, 12.0, 13.0, 14.0]},
            {"name": "label", "datatype": "INT64", "shape": [1], "data": [3]},
        ],
    }
    assert answer.headers["linnet-revision"] == "r1"
    assert answer.headers["linnet-model-digest"] == digest
    assert digest.startswith("sha256:")


async def test_a_request_without_an_id_gets_one(bench):
    first = (await bench.client.post(INFER, json={"inputs": [X]})).json()
    second = (await bench.client.post(INFER, json={"inputs": [X]})).json()

    assert first["id"]
    assert first["id"] != second["id"]


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/v2/models/defects/infer", id="the serving name"),
        pytest.param("/v2/models/factory.defects/infer", id="namespace and serving name"),
        pytest.param("/v2/models/defects/versions/r1/infer", id="a revision"),
        pytest.param("/v2/models/defects/versions/1/infer", id="a revision's number"),
    ],
)
async def test_a_model_is_reached_by(bench, path):
    assert (await bench.client.post(path, json={"inputs": [X]})).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        pytest.param("GET", "/v2/models/cats", 404, id="unknown model"),
        pytest.param("GET", "/v2/models/cats/ready", 404, id="unknown model, ready"),
        pytest.param("POST", "/v2/models/cats/infer", 404, id="unknown model, infer"),
        pytest.param("POST", "/v2/models/cats/feedback", 404, id="unknown model, feedback"),
        pytest.param("GET", "/v2/models/defects/versions/9", 404, id="unknown version"),
        pytest.param("POST", "/v2/models/defects/versions/r9/infer", 404, id="unknown revision"),
        pytest.param("GET", "/v2/models/defects/infer", 405, id="infer is POST"),
        pytest.param("POST", "/v2/models/defects", 405, id="metadata is GET"),
        pytest.param("GET", "/v1/models/defects", 404, id="unknown path"),
        pytest.param("GET", "/control/models", 404, id="the control API is not public"),
    ],
)
async def test_what_is_not_there(bench, method, path, status):
    answer = await bench.client.request(method, path, json={"id": "x", "verdict": "wrong"})

    assert answer.status_code == status
    assert answer.json()["error"]


BAD = [
    ("no JSON", b'{"inputs": ['),
    ("NaN", b'{"inputs": [{"name":"x","datatype":"FP32","shape":[1,4],"data":[NaN,1,1,1]}]}'),
    ("not an object", b"[1, 2]"),
    ("empty", b""),
    ("no inputs", {}),
    ("inputs is no list", {"inputs": {"x": 1}}),
    ("input is no object", {"inputs": [7]}),
    ("missing input", {"inputs": []}),
    ("unknown input", {"inputs": [X | {"name": "z"}]}),
    ("input twice", {"inputs": [X, X]}),
    ("wrong datatype", {"inputs": [X | {"datatype": "FP64"}]}),
    ("unknown datatype", {"inputs": [X | {"datatype": "float"}]}),
    ("datatype is no string", {"inputs": [X | {"datatype": [1]}]}),
    ("no shape", {"inputs": [{"name": "x", "datatype": "FP32", "data": [1, 2, 3, 4]}]}),
    ("wrong rank", {"inputs": [X | {"shape": [4]}]}),
    ("wrong fixed size", {"inputs": [X | {"shape": [2, 2]}]}),
    ("negative size", {"inputs": [X | {"shape": [-1, 4]}]}),
    ("size is true", {"inputs": [X | {"shape": [True, 4]}]}),
    ("fewer values than the shape", {"inputs": [X | {"shape": [2, 4]}]}),
    ("a shape of a trillion rows", {"inputs": [X | {"shape": [10**12, 4]}]}),
    ("a shape that wraps around to the right size", {"inputs": [X | {"shape": [2**62 + 1, 4]}]}),
    ("a size beyond 64 bits", {"inputs": [X | {"shape": [2**70, 4]}]}),
    ("a size beyond signed 64 bits", {"inputs": [X | {"shape": [2**63, 4]}]}),
    ("10,000 dimensions", {"inputs": [X | {"shape": [1] * 10_000}]}),
    ("10,000 inputs", {"inputs": [X | {"name": f"x{n}"} for n in range(10_000)]}),
    ("10,000 times the same input", {"inputs": [X] * 10_000}),
    ("10,000 outputs", {"inputs": [X], "outputs": [{"name": f"y{n}"} for n in range(10_000)]}),
    ("100,000 brackets", b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ("1,000 brackets", b'{"inputs": ' + b"[" * 1000 + b"]" * 1000 + b"}"),
    ("data in 70 brackets", {"inputs": [X | {"data": json.loads("[" * 70 + "]" * 70)}]}),
    ("not UTF-8", b'{"id": "\xff", "inputs": []}'),
    ("a lone surrogate", b'{"id": "\\ud800", "inputs": []}'),
    ("JSON and more", b'{"inputs": []} x'),
    ("a boolean among numbers", {"inputs": [X | {"data": [1, 2, True, 4]}]}),
    ("a boolean deep among numbers", {"inputs": [X | {"data": [[1, 2, False, 4]]}]}),
    ("a parameter is an object", {"inputs": [X], "parameters": {"mine": {}}}),
    ("a flag is a string", {"inputs": [X], "parameters": {"binary_data_output": "yes"}}),
    (
        "an output's flag is a number",
        {"inputs": [X], "outputs": [{"name": "y", "parameters": {"binary_data": 1}}]},
    ),
    (
        "classification",
        {"inputs": [X], "outputs": [{"name": "y", "parameters": {"classification": 1}}]},
    ),
    ("wrong nesting", {"inputs": [X | {"data": [[1, 2], [3, 4]]}]}),
    ("ragged nesting", {"inputs": [X | {"data": [[1, 2, 3], [4]]}]}),
    ("data is no list", {"inputs": [X | {"data": "1234"}]}),
    ("no data", {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4]}]}),
    ("strings for numbers", {"inputs": [X | {"data": ["1", "2", "3", "4"]}]}),
    ("null for a number", {"inputs": [X | {"data": [1, 2, 3, None]}]}),
    ("booleans for numbers", {"inputs": [X | {"data": [True, False, True, True]}]}),
    ("a number beyond FP32", {"inputs": [X | {"data": [1e39, 2, 3, 4]}]}),
    ("unknown output", {"inputs": [X], "outputs": [{"name": "q"}]}),
    ("output twice", {"inputs": [X], "outputs": [{"name": "y"}, {"name": "y"}]}),
    ("outputs is no list", {"inputs": [X], "outputs": "y"}),
    ("id is a number", {"inputs": [X], "id": 7}),
    ("id without end", {"inputs": [X], "id": "x" * 300}),
    ("parameters is no object", {"inputs": [X], "parameters": 7}),
    ("binary without its header", {"inputs": [X | {"parameters": {"binary_data_size": 16}}]}),
]


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in BAD])
async def test_a_bad_request_is_the_clients_fault(bench, body):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    answer = await bench.client.post(INFER, content=content)

    assert answer.status_code == 400
    assert answer.json()["error"]
    assert await bench.outcomes() == {"success": 0, "failure": 0, "rejected": 1}
    models = (await bench.agent.get("/control/models")).json()["models"]
    assert (models[0]["requests"], models[0]["failures"]) == (0, 0)


async def test_what_the_runtime_raises_is_the_models_fault(node, models, open_bench):
    node.set_current(node.add(models.lookup(3)))
    async with open_bench() as bench:
        good = {"name": "i", "datatype": "INT64", "shape": [1], "data": [2]}
        await bench.client.post(INFER, json={"inputs": [good]})

        answer = await bench.client.post(INFER, json={"inputs": [good | {"data": [7]}]})

        assert answer.status_code == 500
        assert "out of data bounds" in answer.json()["error"]
        assert answer.headers["linnet-revision"] == "r1", "a failure is traceable too"
        assert await bench.outcomes() == {"success": 1, "failure": 1, "rejected": 0}
        model = (await bench.agent.get("/control/models")).json()["models"][0]
        assert (model["requests"], model["failures"]) == (2, 1)


KINDS = [
    ("BOOL", TensorProto.BOOL, [True, False]),
    ("UINT8", TensorProto.UINT8, [0, 255]),
    ("UINT16", TensorProto.UINT16, [0, 65535]),
    ("UINT32", TensorProto.UINT32, [0, 2**32 - 1]),
    ("UINT64", TensorProto.UINT64, [0, 2**64 - 1]),
    ("INT8", TensorProto.INT8, [-128, 127]),
    ("INT16", TensorProto.INT16, [-(2**15), 2**15 - 1]),
    ("INT32", TensorProto.INT32, [-(2**31), 2**31 - 1]),
    ("INT64", TensorProto.INT64, [-(2**63), 2**63 - 1]),
    ("FP16", TensorProto.FLOAT16, [0.5, -2.0]),
    ("FP32", TensorProto.FLOAT, [0.5, -3.0]),
    ("FP64", TensorProto.DOUBLE, [0.1, -1e300]),
    ("BYTES", TensorProto.STRING, ["Käse", ""]),
]


@pytest.mark.parametrize(("datatype", "kind", "data"), [pytest.param(*k, id=k[0]) for k in KINDS])
async def test_every_datatype_comes_back_as_it_went(node, models, open_bench, datatype, kind, data):
    node.set_current(node.add(models.identity(kind)))
    x = {"name": "x", "datatype": datatype, "shape": [2], "data": data}
    async with open_bench() as bench:
        answer = await bench.client.post(INFER, json={"inputs": [x]})

        assert answer.status_code == 200, answer.text
        assert answer.json()["outputs"] == [x | {"name": "y"}]
        described = (await bench.client.get("/v2/models/defects")).json()
        assert described["inputs"] == [{"name": "x", "datatype": datatype, "shape": [-1]}]


@pytest.mark.parametrize(
    ("datatype", "kind", "data"),
    [
        pytest.param("UINT8", TensorProto.UINT8, [-1], id="below an unsigned byte"),
        pytest.param("UINT8", TensorProto.UINT8, [256], id="above an unsigned byte"),
        pytest.param("INT64", TensorProto.INT64, [2**63], id="above 64 bits"),
        pytest.param("INT64", TensorProto.INT64, [1.5], id="a fraction for an integer"),
        pytest.param("INT64", TensorProto.INT64, [True], id="a boolean for an integer"),
        pytest.param("BOOL", TensorProto.BOOL, [1], id="an integer for a boolean"),
        pytest.param("BYTES", TensorProto.STRING, [1], id="an integer for a string"),
        pytest.param("FP16", TensorProto.FLOAT16, [70000.0], id="beyond half precision"),
    ],
)
async def test_a_value_that_the_datatype_cannot_hold_is_refused(
    node, models, open_bench, datatype, kind, data
):
    node.set_current(node.add(models.identity(kind)))
    x = {"name": "x", "datatype": datatype, "shape": [1], "data": data}
    async with open_bench() as bench:
        assert (await bench.client.post(INFER, json={"inputs": [x]})).status_code == 400


async def test_nested_data_and_an_empty_batch_are_fine(bench):
    nested = X | {"shape": [2, 4], "data": [[1, 2, 3, 4], [5, 6, 7, 8.5]]}
    empty = X | {"shape": [0, 4], "data": []}

    two = (await bench.client.post(INFER, json={"inputs": [nested]})).json()
    none = (await bench.client.post(INFER, json={"inputs": [empty]})).json()

    assert two["outputs"][0]["data"] == [11, 12, 13, 14, 15, 16, 17, 18.5]
    assert none["outputs"][0] == {"name": "y", "datatype": "FP32", "shape": [0, 4], "data": []}


async def test_only_the_outputs_that_are_asked_for_come_back(bench):
    answer = await bench.client.post(INFER, json={"inputs": [X], "outputs": [{"name": "label"}]})

    assert [output["name"] for output in answer.json()["outputs"]] == ["label"]


async def test_nan_in_an_answer_is_null_in_json_and_itself_in_binary(node, models, open_bench):
    node.set_current(node.add(models.identity(TensorProto.FLOAT)))
    raw = np.array([math.nan, math.inf, 1.0], np.float32).tobytes()
    head = {
        "name": "x",
        "datatype": "FP32",
        "shape": [3],
        "parameters": {"binary_data_size": len(raw)},
    }
    async with open_bench() as bench:
        as_json = await post_binary(bench, {"inputs": [head]}, raw)
        as_binary = await post_binary(
            bench, {"inputs": [head], "parameters": {"binary_data_output": True}}, raw
        )

    assert as_json.json()["outputs"][0]["data"] == [None, None, 1.0]
    assert read_binary(as_binary)[1] == raw


async def test_binary_strings_come_back_as_they_went(node, models, open_bench):
    node.set_current(node.add(models.identity(TensorProto.STRING)))
    raw = b"".join(len(e).to_bytes(4, "little") + e for e in ("Käse".encode(), b"", b"x"))
    head = {
        "name": "x",
        "datatype": "BYTES",
        "shape": [3],
        "parameters": {"binary_data_size": len(raw)},
    }
    wanted = [{"name": "y", "parameters": {"binary_data": True}}]
    async with open_bench() as bench:
        answer = await post_binary(bench, {"inputs": [head], "outputs": wanted}, raw)

    document, tail = read_binary(answer)
    assert document["outputs"][0]["parameters"] == {"binary_data_size": len(raw)}
    assert tail == raw


@pytest.mark.parametrize(
    ("size", "tail", "json_bytes"),
    [
        pytest.param(12, 12, None, id="fewer bytes than the shape"),
        pytest.param(16, 12, None, id="the body ends early"),
        pytest.param(16, 20, None, id="bytes left over"),
        pytest.param(-1, 16, None, id="negative size"),
        pytest.param("16", 16, None, id="size is a string"),
        pytest.param(True, 16, None, id="size is true"),
        pytest.param(2**31, 16, None, id="a claim of 2 GB"),
        pytest.param(2**63, 16, None, id="a claim beyond 63 bits"),
        pytest.param(16, 16, "-1", id="header is negative"),
        pytest.param(16, 16, "9" * 5000, id="header without end"),
        pytest.param(16, 16, "10000", id="JSON longer than the body"),
        pytest.param(16, 16, "0", id="no JSON"),
        pytest.param(16, 16, "x", id="header is no number"),
    ],
)
async def test_a_bad_binary_request_is_the_clients_fault(bench, size, tail, json_bytes):
    head = X | {"parameters": {"binary_data_size": size}}

    answer = await post_binary(bench, {"inputs": [head]}, b"\0" * tail, json_bytes=json_bytes)

    assert answer.status_code == 400, answer.text


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\xff\xff\xff\x7f" + b"a" * 20, id="a length of 2 GB"),
        pytest.param(b"\1\0\0\0\xff" * 2, id="not UTF-8"),
        pytest.param(b"\1\0\0\0a", id="one of two"),
        pytest.param(b"\1\0\0\0a" * 3, id="three of two"),
        pytest.param(b"\1\0\0\0a\1\0\0", id="half a length"),
    ],
)
async def test_bad_strings_are_the_clients_fault(node, models, open_bench, raw):
    node.set_current(node.add(models.identity(TensorProto.STRING)))
    parameters = {"binary_data_size": len(raw)}
    head = {"name": "x", "datatype": "BYTES", "shape": [2], "parameters": parameters}
    async with open_bench() as bench:
        assert (await post_binary(bench, {"inputs": [head]}, raw)).status_code == 400


async def test_no_rows_of_more_than_numpy_can_count(node, models, open_bench):
    node.set_current(node.add(models.identity(TensorProto.FLOAT, ("N", "M", "K"))))
    async with open_bench() as bench:
        for shape in ([0, 2**62, 1], [0, 2**40, 2**40], [2**31, 0, 1]):
            x = {"name": "x", "datatype": "FP32", "shape": shape}
            as_json = await bench.client.post(INFER, json={"inputs": [x | {"data": []}]})
            x["parameters"] = {"binary_data_size": 0}
            as_binary = await post_binary(bench, {"inputs": [x]}, b"")

            assert (as_json.status_code, as_binary.status_code) == (400, 400), shape


async def test_a_body_may_be_the_one_input_and_nothing_else(bench):
    raw = np.arange(8, dtype=np.float32).tobytes()

    document, tail = read_binary(await post_binary(bench, b"", raw, json_bytes="0"))

    assert document["outputs"][0]["shape"] == [2, 4]
    assert np.frombuffer(tail[:32], np.float32).tolist() == [10, 11, 12, 13, 14, 15, 16, 17]


@pytest.mark.parametrize(
    ("kind", "dims", "raw"),
    [
        pytest.param(TensorProto.FLOAT, ("N", 4), b"\0" * 20, id="no whole row"),
        pytest.param(TensorProto.FLOAT, ("N", 4), b"\0" * 18, id="no whole number"),
        pytest.param(TensorProto.FLOAT, ("N", "M"), b"\0" * 16, id="two free dimensions"),
        pytest.param(TensorProto.FLOAT, (2, 4), b"\0" * 16, id="too few"),
        pytest.param(TensorProto.STRING, (2,), b"a", id="two strings"),
    ],
)
async def test_a_body_that_tells_no_shape_is_refused(node, models, open_bench, kind, dims, raw):
    node.set_current(node.add(models.identity(kind, dims)))
    async with open_bench() as bench:
        assert (await post_binary(bench, b"", raw, json_bytes="0")).status_code == 400


async def test_more_json_than_is_read_is_too_large(bench):
    spaces = b" " * (16 << 20)
    body = json.dumps({"inputs": [X]}).encode()

    assert (await bench.client.post(INFER, content=body + spaces)).status_code == 413
    assert (await bench.client.post(INFER, content=body + spaces[: -len(body)])).status_code == 200


async def test_health_and_metadata(bench):
    live = await bench.client.get("/v2/health/live")
    ready = await bench.client.get("/v2/health/ready")
    server = (await bench.client.get("/v2")).json()
    model = (await bench.client.get("/v2/models/defects/versions/1")).json()

    assert (live.status_code, live.json()) == (200, {"live": True})
    assert (ready.status_code, ready.json()) == (200, {"ready": True})
    assert server["name"] == "linnet"
    assert "binary_tensor_data" in server["extensions"]
    assert model["name"] == "defects"
    assert model["versions"] == ["r1"]
    assert model["platform"] == "onnx_onnxv1"
    assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]


async def test_a_server_that_stops_is_not_ready(bench):
    bench.stopping.set()

    assert (await bench.client.get("/v2/health/ready")).status_code == 503
    assert (await bench.client.get("/v2/health/live")).status_code == 200


async def test_every_outcome_and_verdict_starts_at_zero(bench):
    samples = await bench.samples()

    def value(metric, *labels):
        labels = ('deployment="defects"', 'namespace="factory"', 'revision="r1"', *labels)
        (found,) = (
            value
            for name, value in samples.items()
            if name.startswith(metric + "{") and all(label in name for label in labels)
        )
        return float(found)

    for outcome in ("success", "failure", "rejected"):
        label = f'outcome="{outcome}"'
        assert value("linnet_inference_requests_total", label) == 0
        for edge in ("0.0001", "0.05", "10.0"):
            bucket = "linnet_inference_duration_seconds_bucket"
            assert value(bucket, label, f'le="{edge}"') == 0
    for verdict in ("correct", "wrong"):
        assert value("linnet_inference_feedback_total", f'verdict="{verdict}"') == 0
    assert value("linnet_model_info", 'digest="sha256:') == 1


async def post_binary(bench, document, raw, *, json_bytes=None):
    head = document if isinstance(document, bytes) else json.dumps(document).encode()
    headers = {"Inference-Header-Content-Length": json_bytes or str(len(head))}
    return await bench.client.post(INFER, content=head + raw, headers=headers)


def read_binary(answer):
    assert answer.status_code == 200, answer.text
    size = int(answer.headers["inference-header-content-length"])
    return json.loads(answer.content[:size]), answer.content[size:]
