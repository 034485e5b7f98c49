"""The same requests to a real Triton and to linnet-server, over HTTP and gRPC: what differs?

`python tests/conformance/triton_differential.py` prints every difference; `docs/open-inference-
protocol.md` lists each with its reason, and `test_triton_differential.py` holds the two together.

- Triton is that of the `nvidia-pytriton` wheel, in the bench's environment, with its Python backend
  over ONNX Runtime; its models are the very files that linnet-server has.
- Compared are status, form and tensors; never the words of an error, nor what every answer of
  Linnet names: revision and digest.
"""

import contextlib
import gzip
import http.client
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a script, `bench` is not there

import grpc
import numpy as np
import onnx
from bench.environments import MissingPeerError, environment
from onnx import TensorProto, helper, numpy_helper

from linnet_server import inference_pb2 as pb

JSON_LENGTH = "Inference-Header-Content-Length"
SERVICE = "/inference.GRPCInferenceService/"

TYPES = {
    "BOOL": (TensorProto.BOOL, "?", [True, False, True]),
    "UINT8": (TensorProto.UINT8, "u1", [0, 1, 255]),
    "UINT16": (TensorProto.UINT16, "u2", [0, 1, 65_535]),
    "UINT32": (TensorProto.UINT32, "u4", [0, 1, 2**32 - 1]),
    "UINT64": (TensorProto.UINT64, "u8", [0, 1, 2**64 - 1]),
    "INT8": (TensorProto.INT8, "i1", [-128, 0, 127]),
    "INT16": (TensorProto.INT16, "i2", [-(2**15), 0, 2**15 - 1]),
    "INT32": (TensorProto.INT32, "i4", [-(2**31), 0, 2**31 - 1]),
    "INT64": (TensorProto.INT64, "i8", [-(2**63), 0, 2**63 - 1]),
    "FP16": (TensorProto.FLOAT16, "f2", [-1.5, 0.0, 65_504.0]),
    "FP32": (TensorProto.FLOAT, "f4", [-1.5, 0.1, 3e38]),
    "FP64": (TensorProto.DOUBLE, "f8", [-1.5, 0.1, 1e300]),
    "BYTES": (TensorProto.STRING, "O", ["", "a", "ä€"]),
}
FIELDS = {"BOOL": "bool", "FP32": "fp32", "FP64": "fp64", "BYTES": "bytes", "UINT64": "uint64"}
FIELDS |= {"INT64": "int64"} | dict.fromkeys(("INT8", "INT16", "INT32"), "int")
FIELDS |= dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint")


# --- models


def save_models(place):
    """Write the models and return their paths by name."""
    paths = {}

    def save(name, nodes, inputs, outputs, constants=()):
        infos = [
            [helper.make_tensor_value_info(*one) for one in side] for side in (inputs, outputs)
        ]
        graph = helper.make_graph(nodes, name, *infos, list(constants))
        opset = [helper.make_opsetid("", 17)]
        paths[name] = place / f"{name}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), paths[name])

    for datatype, (kind, _, _) in TYPES.items():
        nodes = [helper.make_node("Identity", ["x"], ["y"])]
        shape = ["n", 3]
        save(f"echo_{datatype}", nodes, [("x", kind, shape)], [("y", kind, shape)])
    floats = TensorProto.FLOAT
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"])]
    nodes += [helper.make_node("Sub", ["a", "b"], ["difference"])]
    names = ("sum", "difference")
    pair = [(name, floats, ["n", 2]) for name in ("a", "b")]
    save("pair", nodes, pair, [(name, floats, ["n", 2]) for name in names])
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    free, words = ["n", "m"], TensorProto.STRING
    save("free", nodes, [("x", floats, free)], [("y", floats, free)])
    save("words", nodes, [("x", words, ["n"])], [("y", words, ["n"])])
    table = numpy_helper.from_array(np.arange(3, dtype="f"), "table")
    nodes = [helper.make_node("Gather", ["table", "i"], ["y"])]
    save("lookup", nodes, [("i", TensorProto.INT64, ["n"])], [("y", floats, ["n"])], [table])
    return paths


# --- HTTP requests


class Http:
    """One HTTP request."""

    def __init__(self, method, path, body=b"", **headers):
        self.method, self.path, self.headers = method, path, headers
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()

    def ask(self, ports):
        """Return what came back, as comparable facts."""
        connection = http.client.HTTPConnection("127.0.0.1", ports[0], timeout=30)
        headers = {name.replace("_", "-"): value for name, value in self.headers.items()}
        try:
            connection.request(self.method, self.path, self.body, headers)
            answer = connection.getresponse()
            facts = {"status": str(answer.status)}
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            return {"status": f"no answer ({type(error).__name__})"}
        finally:
            connection.close()
        coding = answer.getheader("content-encoding")
        if coding:
            facts["coding"] = coding
            body = gzip.decompress(body) if coding == "gzip" else zlib.decompress(body)
        length = answer.getheader(JSON_LENGTH)
        return facts | read_body(body, length)


def read_body(body, length):
    """Return the facts of an answer's body."""
    raw = b"" if length is None else body[int(length) :]
    try:
        document = json.loads(body if length is None else body[: int(length)])
    except ValueError:
        return {"body": "empty" if not body else "not JSON"}
    if not isinstance(document, dict):
        return {"body": f"a {type(document).__name__}"}
    if "error" in document:
        return {"body": "error"}
    facts = {"binary": "yes"} if length is not None else {}
    for key, value in document.items():
        if key in ("inputs", "outputs") and "platform" not in document:
            for tensor in value:
                facts |= read_tensor(tensor, raw)
                raw = raw[tensor.get("parameters", {}).get("binary_data_size", 0) :]
            facts["order"] = ",".join(tensor["name"] for tensor in value)
        elif key == "parameters":
            if set(value) - {"revision", "model_digest"}:
                facts[key] = ",".join(sorted(value))
        elif key in ("model_version", "versions", "version"):
            facts[key] = "there"
        elif key == "id":
            facts[key] = "one of its own" if re.fullmatch(r"[0-9a-f]{32}-\d+", value) else value
        else:
            facts[key] = json.dumps(value)
    return facts


def read_tensor(tensor, raw):
    """Return name, type, shape and values of an output."""
    size = tensor.get("parameters", {}).get("binary_data_size")
    data = tensor.get("data")
    if size is not None:
        values = read_raw(tensor["datatype"], raw[:size])
    elif data is not None:
        values = [values_of(tensor["datatype"], data)]
    else:
        values = "none"
    return {
        f"output {tensor['name']}": f"{tensor['datatype']} {tensor['shape']} {values}",
        f"form {tensor['name']}": "JSON" if size is None else "binary",
    }


def values_of(datatype, data):
    if not datatype.startswith("FP") or any(isinstance(one, str) for one in data):
        return data
    return [None if one is None else float(np.dtype(TYPES[datatype][1]).type(one)) for one in data]


def read_raw(datatype, raw):
    if datatype != "BYTES":
        return [np.frombuffer(raw, TYPES[datatype][1]).tolist()]
    elements = []
    while raw:
        size = int.from_bytes(raw[:4], "little")
        elements.append(raw[4 : 4 + size].decode())
        raw = raw[4 + size :]
    return [elements]


def encode(datatype, data):
    if datatype == "BYTES":
        return b"".join(frame(element) for element in data)
    return np.array(data, TYPES[datatype][1]).tobytes()


def frame(element):
    raw = element if isinstance(element, bytes) else element.encode()
    return len(raw).to_bytes(4, "little") + raw


def tensor(name, datatype, shape, data=None, **parameters):
    found = {"name": name, "datatype": datatype, "shape": shape}
    if data is not None:
        found["data"] = data
    return found | ({"parameters": parameters} if parameters else {})


def infer(model, document, raw=None, **headers):
    """Return an infer request; ``raw`` are the bytes behind its JSON."""
    head = document if isinstance(document, bytes) else json.dumps(document).encode()
    if raw is not None:
        headers = {"Inference_Header_Content_Length": str(len(head)), **headers}
    return Http("POST", f"/v2/models/{model}/infer", head + (raw or b""), **headers)


def raw_request(model, raw):
    """Return a request that is nothing but the bytes of its one input."""
    return infer(model, b"", raw, Inference_Header_Content_Length="0")


def http_cases():
    """Return all HTTP requests by name."""
    cases = {
        "live": Http("GET", "/v2/health/live"),
        "ready": Http("GET", "/v2/health/ready"),
        "server metadata": Http("GET", "/v2"),
        "server metadata, slash": Http("GET", "/v2/"),
        "no such path": Http("GET", "/v3"),
        "metadata": Http("GET", "/v2/models/pair"),
        "metadata of a version": Http("GET", "/v2/models/pair/versions/1"),
        "metadata, unknown": Http("GET", "/v2/models/nobody"),
        "metadata, unknown version": Http("GET", "/v2/models/pair/versions/9"),
        "metadata, version in words": Http("GET", "/v2/models/pair/versions/abc"),
        "model ready": Http("GET", "/v2/models/pair/ready"),
        "model ready, version": Http("GET", "/v2/models/pair/versions/1/ready"),
        "model ready, unknown": Http("GET", "/v2/models/nobody/ready"),
        "model ready, unknown version": Http("GET", "/v2/models/pair/versions/9/ready"),
        "infer by GET": Http("GET", "/v2/models/pair/infer"),
        "metadata by POST": Http("POST", "/v2/models/pair"),
        "live by POST": Http("POST", "/v2/health/live"),
        "config": Http("GET", "/v2/models/pair/config"),
        "stats": Http("GET", "/v2/models/pair/stats"),
        "repository index": Http("POST", "/v2/repository/index", b"{}"),
        "repository load": Http("POST", "/v2/repository/models/pair/load", b"{}"),
        "infer, unknown": infer("nobody", {"inputs": []}),
        "infer, unknown version": infer("pair/versions/9", pair_of()),
        "infer, version": infer("pair/versions/1", pair_of()),
        "infer, percent in name": infer("p%61ir", pair_of()),
        "infer, query": Http("POST", "/v2/models/pair/infer?x=1", pair_of()),
    }
    for datatype, (_, _, values) in TYPES.items():
        cases |= {f"{datatype}: {name}": case for name, case in per_type(datatype, values).items()}
    return cases | good_cases() | bad_cases()


def per_type(datatype, values):
    model = f"echo_{datatype}"
    raw = encode(datatype, values)
    bare = tensor("x", datatype, [1, 3])
    flat = bare | {"data": values}
    nested = bare | {"data": [values]}
    binary = bare | {"parameters": {"binary_data_size": len(raw)}}
    wanted = {"outputs": [{"name": "y", "parameters": {"binary_data": True}}]}
    found = {
        "flat": infer(model, {"inputs": [flat]}),
        "nested": infer(model, {"inputs": [nested]}),
        "binary in": infer(model, {"inputs": [binary]}, raw),
        "binary out": infer(model, {"inputs": [flat]} | wanted),
        "binary in and out": infer(model, {"inputs": [binary]} | wanted, raw),
        "no rows": infer(model, {"inputs": [tensor("x", datatype, [0, 3], [])]}),
        "no rows, binary": infer(
            model, {"inputs": [tensor("x", datatype, [0, 3], binary_data_size=0)]}, b""
        ),
        "a byte less": infer(
            model,
            {"inputs": [tensor("x", datatype, [1, 3], binary_data_size=len(raw) - 1)]},
            raw[:-1],
        ),
        "raw request": raw_request(model, raw),
    }
    for name, wrong in WRONG_VALUES.items():
        data = [wrong, values[1], values[1]]
        found[f"{name} as a value"] = infer(model, {"inputs": [bare | {"data": data}]})
    return found


WRONG_VALUES = {
    "a string": "1",
    "null": None,
    "a boolean": True,
    "one": 1,
    "a fraction": 1.5,
    "minus one": -1,
    "ten to the 30th": 10**30,
    "1e39": 1e39,
    "a list": [1],
}


def pair_of(**more):
    a = tensor("a", "FP32", [1, 2], [1, 2])
    return {"inputs": [a, tensor("b", "FP32", [1, 2], [3, 5])]} | more


def good_cases():
    raw = encode("FP32", [1, 2])
    a_binary = tensor("a", "FP32", [1, 2], binary_data_size=8)
    b_binary = tensor("b", "FP32", [1, 2], binary_data_size=8)
    b = tensor("b", "FP32", [1, 2], [3, 5])
    plain = json.dumps(pair_of()).encode()
    named = [{"name": "difference"}, {"name": "sum"}]
    mixed = [{"name": "difference", "parameters": {"binary_data": True}}, {"name": "sum"}]
    all_binary = {"binary_data_output": True}
    not_binary = [{"name": "sum", "parameters": {"binary_data": False}}, {"name": "difference"}]
    nan = encode("FP32", [float("nan"), float("inf")])
    return {
        "id": infer("pair", pair_of(id="a7")),
        "no id": infer("pair", pair_of()),
        "empty id": infer("pair", pair_of(id="")),
        "inputs in another order": infer("pair", {"inputs": pair_of()["inputs"][::-1]}),
        "mixed input": infer("pair", {"inputs": [a_binary, b]}, raw),
        "both binary": infer("pair", {"inputs": [b_binary, a_binary]}, raw + raw),
        "one output": infer("pair", pair_of(outputs=[{"name": "sum"}])),
        "outputs in another order": infer("pair", pair_of(outputs=named)),
        "mixed outputs": infer("pair", pair_of(outputs=mixed)),
        "no outputs in a list": infer("pair", pair_of(outputs=[])),
        "all binary": infer("pair", pair_of(parameters=all_binary)),
        "all binary, but one": infer("pair", pair_of(parameters=all_binary, outputs=not_binary)),
        "unknown parameter": infer("pair", pair_of(parameters={"mine": 1})),
        "priority and timeout": infer("pair", pair_of(parameters={"priority": 1, "timeout": 9**6})),
        "sequence": infer("pair", pair_of(parameters={"sequence_id": 7, "sequence_start": True})),
        "unknown key": infer("pair", pair_of(mine=1)),
        "as text": Http("POST", "/v2/models/pair/infer", plain, Content_Type="text/plain"),
        "gzip request": infer("pair", gzip.compress(plain), Content_Encoding="gzip"),
        "deflate request": infer("pair", zlib.compress(plain), Content_Encoding="deflate"),
        "gzip answer": infer("pair", plain, Accept_Encoding="gzip"),
        "deflate answer": infer("pair", plain, Accept_Encoding="deflate"),
        "unknown coding": infer("pair", plain, Content_Encoding="zstd"),
        "gzip that is none": infer("pair", plain, Content_Encoding="gzip"),
        "NaN out, JSON": infer(
            "pair", {"inputs": [a_binary, tensor("b", "FP32", [1, 2], [0, 0])]}, nan
        ),
        "NaN out, binary": infer("pair", {"inputs": [a_binary, b], "parameters": all_binary}, nan),
        "binary, but no header": infer("pair", {"inputs": [a_binary, b]}),
        "header, but no binary": infer("pair", pair_of(), b""),
        "raw request, two inputs": raw_request("pair", raw),
        "raw request, two free dimensions": raw_request("free", raw),
        "raw request, no rows": raw_request("echo_FP32", b""),
        "raw request, a string": raw_request("words", b"hello"),
        "id twice": infer("pair", plain[:-1] + b', "id": "a", "id": "b"}'),
    }


def bad_cases():
    ok = pair_of()
    a, b = ok["inputs"]
    plain = json.dumps(ok).encode()
    deep = b"[" * 100_000 + b"]" * 100_000
    raw = encode("FP32", [1, 2])
    documents = {
        "empty body": b"",
        "not JSON": b"hello",
        "truncated JSON": plain[:-5],
        "JSON and more": plain + b"x",
        "a list": b"[1, 2]",
        "null": b"null",
        "NaN in JSON": plain.replace(b"[3, 5]", b"[NaN, 5]"),
        "Infinity in JSON": plain.replace(b"[3, 5]", b"[Infinity, 5]"),
        "not UTF-8": b'{"id": "\xff", ' + plain[1:],
        "a lone surrogate": b'{"id": "\\ud800", ' + plain[1:],
        "deep nesting": b'{"inputs": ' + deep + b"}",
        "deep data": plain.replace(b"[3, 5]", deep),
        "no inputs": {},
        "inputs is null": {"inputs": None},
        "inputs is an object": {"inputs": {"a": 1}},
        "no input at all": {"inputs": []},
        "an input is a number": {"inputs": [7]},
        "an input without a name": {"inputs": [{"shape": [1, 2]}]},
        "a name is a number": {"inputs": [a | {"name": 7}, b]},
        "missing input": {"inputs": [a]},
        "unknown input": {"inputs": [a, b, a | {"name": "c"}]},
        "input twice": {"inputs": [a, b, a]},
        "10,000 inputs": {"inputs": [a | {"name": f"x{n}"} for n in range(10_000)]},
        "10,000 times the same input": {"inputs": [a] * 10_000 + [b]},
        "wrong datatype": {"inputs": [a | {"datatype": "INT32"}, b]},
        "unknown datatype": {"inputs": [a | {"datatype": "float"}, b]},
        "datatype is a number": {"inputs": [a | {"datatype": 7}, b]},
        "no datatype": {"inputs": [{"name": "a", "shape": [1, 2], "data": [1, 2]}, b]},
        "no shape": {"inputs": [{"name": "a", "datatype": "FP32", "data": [1, 2]}, b]},
        "shape is a string": {"inputs": [a | {"shape": "1,2"}, b]},
        "a fraction in the shape": {"inputs": [a | {"shape": [1.5, 2]}, b]},
        "a string in the shape": {"inputs": [a | {"shape": ["1", 2]}, b]},
        "negative shape": {"inputs": [a | {"shape": [-1, 2]}, b]},
        "two negatives": {"inputs": [a | {"shape": [-1, -2]}, b]},
        "wrong rank": {"inputs": [a | {"shape": [2]}, b]},
        "wrong fixed size": {"inputs": [a | {"shape": [2, 1]}, b]},
        "an overflowing shape": {"inputs": [a | {"shape": [2**62, 2]}, b]},
        "a shape that overflows to the right size": {"inputs": [a | {"shape": [2**63 + 1, 2]}, b]},
        "10,000 dimensions": {"inputs": [a | {"shape": [1] * 9_999 + [2]}, b]},
        "no rows of many": {"inputs": [a | {"shape": [0, 2**62], "data": []}, b]},
        "two sizes for one symbol": {
            "inputs": [tensor("a", "FP32", [2, 2], [1] * 4), tensor("b", "FP32", [1, 2], [1, 1])]
        },
        "too few values": {"inputs": [a | {"data": [1]}, b]},
        "too many values": {"inputs": [a | {"data": [1, 2, 3]}, b]},
        "wrong nesting": {"inputs": [a | {"data": [[1], [2]]}, b]},
        "ragged nesting": {"inputs": [a | {"data": [[1, 2], [3]]}, b]},
        "data is a number": {"inputs": [a | {"data": 1}, b]},
        "data is an object": {"inputs": [a | {"data": {"0": 1}}, b]},
        "no data": {"inputs": [tensor("a", "FP32", [1, 2]), b]},
        "id is a number": pair_of(id=7),
        "long id": pair_of(id="x" * 10_000),
        "parameters is a list": pair_of(parameters=[1]),
        "a parameter is an object": pair_of(parameters={"mine": {"x": 1}}),
        "outputs is an object": pair_of(outputs={"name": "sum"}),
        "an output without a name": pair_of(outputs=[{}]),
        "unknown output": pair_of(outputs=[{"name": "product"}]),
        "output twice": pair_of(outputs=[{"name": "sum"}, {"name": "sum"}]),
        "10,000 outputs": pair_of(outputs=[{"name": f"x{n}"} for n in range(10_000)]),
        "classification": pair_of(outputs=[{"name": "sum", "parameters": {"classification": 1}}]),
        "shared memory": pair_of(
            outputs=[{"name": "sum", "parameters": {"shared_memory_region": "r"}}]
        ),
        "binary_data is a string": pair_of(
            outputs=[{"name": "sum", "parameters": {"binary_data": "yes"}}]
        ),
    }
    cases = {name: infer("pair", document) for name, document in documents.items()}
    sizes = {
        "fewer bytes than the shape": (4, raw[:4]),
        "more bytes than the shape": (12, raw + raw[:4]),
        "the body ends early": (8, raw[:4]),
        "bytes left over": (8, raw + raw),
        "a claim of 2 GB": (2**31, raw),
        "a negative size": (-8, raw),
        "a size in words": ("8", raw),
        "a size as a fraction": (8.5, raw),
    }
    for name, (size, tail) in sizes.items():
        one = tensor("a", "FP32", [1, 2], binary_data_size=size)
        cases[name] = infer("pair", {"inputs": [one, b]}, tail)
    lengths = {"a header too long": "9999", "a header in words": "x", "a negative header": "-1"}
    for name, value in lengths.items():
        cases[name] = infer("pair", ok, b"", Inference_Header_Content_Length=value)
    strings = {
        "invalid UTF-8": frame(b"\xff\xfe") + frame("") + frame("a"),
        "a length of 2 GB": (2**31 - 1).to_bytes(4, "little") + b"a" * 20,
        "fewer strings than the shape": frame("a"),
        "more strings than the shape": frame("a") * 4,
    }
    for name, data in strings.items():
        x = tensor("x", "BYTES", [1, 3], binary_data_size=len(data))
        cases[f"BYTES: {name}"] = infer("echo_BYTES", {"inputs": [x]}, data)
    two = tensor("x", "BOOL", [1, 3], binary_data_size=3)
    cases["BOOL: two as a byte"] = infer("echo_BOOL", {"inputs": [two]}, b"\0\1\2")
    index = tensor("i", "INT64", [1], [7])
    cases["the model raises"] = infer("lookup", {"inputs": [index]})
    return cases


# --- gRPC requests


class Grpc:
    """One call."""

    def __init__(self, method, message, answer=None):
        self.method, self.answer = method, answer
        self.raw = message if isinstance(message, bytes) else message.SerializeToString()

    def ask(self, ports):
        """Return what came back, as comparable facts."""
        with grpc.insecure_channel(f"127.0.0.1:{ports[1]}") as channel:
            call = channel.unary_unary(SERVICE + self.method)
            try:
                raw = call(self.raw, timeout=30)
            except grpc.RpcError as error:
                return {"status": error.code().name}
        return {"status": "OK"} | (read_message(self.answer.FromString(raw)) if self.answer else {})


def read_message(answer):
    """Return the facts of an answer."""
    facts = {}
    for field, value in answer.ListFields():
        if field.name == "outputs" and isinstance(answer, pb.ModelInferResponse):
            for number, one in enumerate(value):
                raw = answer.raw_output_contents[number]
                values = read_raw(one.datatype, raw)
                facts[f"output {one.name}"] = f"{one.datatype} {list(one.shape)} {values}"
            facts["order"] = ",".join(one.name for one in value)
        elif field.name in ("inputs", "outputs"):
            facts[field.name] = " ".join(f"{one.name} {list(one.shape)}" for one in value)
        elif field.name == "parameters":
            if set(value) - {"revision", "model_digest"}:
                facts[field.name] = ",".join(sorted(value))
        elif field.name in ("model_version", "versions", "version"):
            facts[field.name] = "there"
        elif field.name == "extensions":
            facts[field.name] = json.dumps(list(value))
        elif field.name != "raw_output_contents":
            facts[field.name] = json.dumps(value)
    return facts


def message(model="pair", *, raw=None, outputs=(), **fields):
    """Return an infer message with ``inputs``: name to (datatype, shape, values or None)."""
    inputs = fields.pop("inputs", None)
    if inputs is None:
        inputs = {"a": ("FP32", [1, 2], [1, 2]), "b": ("FP32", [1, 2], [3, 5])}
    found = pb.ModelInferRequest(model_name=model, **fields)
    for name, (datatype, shape, values) in inputs.items():
        one = found.inputs.add(name=name, datatype=datatype, shape=shape)
        if values is not None:
            contents = getattr(one.contents, f"{FIELDS[datatype]}_contents")
            contents.extend(
                [value.encode() if isinstance(value, str) else value for value in values]
            )
    found.raw_input_contents.extend(raw or ())
    for name in outputs:
        found.outputs.add(name=name)
    return found


def grpc_cases():
    """Return all calls by name."""
    ready, described = pb.ModelReadyResponse, pb.ModelMetadataResponse
    cases = {
        "live": Grpc("ServerLive", b"", pb.ServerLiveResponse),
        "ready": Grpc("ServerReady", b"", pb.ServerReadyResponse),
        "server metadata": Grpc("ServerMetadata", b"", pb.ServerMetadataResponse),
        "no such method": Grpc("Guess", b""),
        "not a message": Grpc("ModelInfer", b"\xff" * 100),
        "empty": Grpc("ModelInfer", b""),
        "repository index": Grpc("RepositoryIndex", b""),
        "config": Grpc("ModelConfig", pb.ModelMetadataRequest(name="pair")),
        "stats": Grpc("ModelStatistics", pb.ModelMetadataRequest(name="pair")),
        "stream": Grpc("ModelStreamInfer", message()),
    }
    for name, asked in {
        "": {"name": "pair"},
        ", version": {"name": "pair", "version": "1"},
        ", unknown": {"name": "nobody"},
        ", unknown version": {"name": "pair", "version": "9"},
    }.items():
        cases[f"model ready{name}"] = Grpc("ModelReady", pb.ModelReadyRequest(**asked), ready)
        asking = pb.ModelMetadataRequest(**asked)
        cases[f"metadata{name}"] = Grpc("ModelMetadata", asking, described)
    messages = {}
    for datatype, (_, _, values) in TYPES.items():
        model = f"echo_{datatype}"
        x = {"x": (datatype, [1, 3], None)}
        messages[f"{datatype}: raw"] = message(model, inputs=x, raw=[encode(datatype, values)])
        messages[f"{datatype}: a byte less"] = message(
            model, inputs=x, raw=[encode(datatype, values)[:-1]]
        )
        messages[f"{datatype}: no rows"] = message(
            model, inputs={"x": (datatype, [0, 3], None)}, raw=[b""]
        )
        if datatype in FIELDS:
            messages[f"{datatype}: typed"] = message(
                model, inputs={"x": (datatype, [1, 3], values)}
            )
    messages |= grpc_messages()
    for name, asked in messages.items():
        cases[name] = Grpc("ModelInfer", asked, pb.ModelInferResponse)
    return cases


def grpc_messages():
    raw = encode("FP32", [1, 2])
    bare = {"a": ("FP32", [1, 2], None), "b": ("FP32", [1, 2], None)}
    full = {"a": ("FP32", [1, 2], [1, 2]), "b": ("FP32", [1, 2], [3, 5])}
    both = message(inputs=full, raw=[raw, raw])
    twice = message()
    twice.inputs.add().CopyFrom(twice.inputs[0])
    wrong_field = message(inputs=bare | {"b": full["b"]})
    wrong_field.inputs[0].contents.fp64_contents.extend([1, 2])
    classes = message(outputs=["sum"])
    classes.outputs[0].parameters["classification"].int64_param = 1
    mine = message()
    mine.parameters["mine"].int64_param = 1
    half = message("echo_INT8", inputs={"x": ("INT8", [1, 3], [300, 0, 0])})
    return {
        "id": message(id="a7"),
        "long id": message(id="x" * 10_000),
        "version": message(model_version="1"),
        "unknown version": message(model_version="9"),
        "unknown model": message("nobody"),
        "raw": message(inputs=bare, raw=[raw, raw]),
        "one output": message(outputs=["sum"]),
        "outputs in another order": message(outputs=["difference", "sum"]),
        "unknown parameter": mine,
        "both raw and typed": both,
        "one raw of two": message(inputs=bare, raw=[raw]),
        "three raw of two": message(inputs=bare, raw=[raw] * 3),
        "neither raw nor typed": message(inputs=bare),
        "wrong field": wrong_field,
        "no inputs": message(inputs={}),
        "missing input": message(inputs={"a": full["a"]}),
        "unknown input": message(inputs=full | {"c": full["a"]}),
        "input twice": twice,
        "10,000 inputs": message(inputs={f"x{n}": full["a"] for n in range(10_000)}),
        "wrong datatype": message(inputs=full | {"a": ("INT32", [1, 2], [1, 2])}),
        "unknown datatype": message(inputs=bare | {"a": ("float", [1, 2], None)}, raw=[raw, raw]),
        "negative shape": message(inputs=bare | {"a": ("FP32", [-1, 2], None)}, raw=[raw, raw]),
        "wrong rank": message(inputs=bare | {"a": ("FP32", [2], None)}, raw=[raw, raw]),
        "an overflowing shape": message(
            inputs=bare | {"a": ("FP32", [2**62, 2], None)}, raw=[raw, raw]
        ),
        "too few values": message(inputs=full | {"a": ("FP32", [1, 2], [1])}),
        "a value beyond INT8": half,
        "unknown output": message(outputs=["product"]),
        "output twice": message(outputs=["sum", "sum"]),
        "classification": classes,
        "invalid UTF-8": message(
            "echo_BYTES",
            inputs={"x": ("BYTES", [1, 3], None)},
            raw=[frame(b"\xff") + frame("") * 2],
        ),
        "the model raises": message("lookup", inputs={"i": ("INT64", [1], [7])}),
    }


# --- servers


class Peer:
    """A server that is started again where a request has ended it."""

    def __init__(self, command, find_ports):
        self._command, self._find_ports = command, find_ports
        self._process = None
        self.start()

    def start(self):
        self._process = subprocess.Popen(
            self._command,
            cwd=Path(__file__).parents[2],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.ports = self._find_ports()
        wait_for(self.is_ready)

    def ask(self, case):
        """Return what came back, as comparable facts."""
        facts = case.ask(self.ports)
        ended = "the model ends" if self.is_live() else "the process ends"
        if not self.is_ready():
            self.stop()
            self.start()
            return {"status": ended}
        return facts

    def is_live(self):
        return Http("GET", "/v2/health/live").ask(self.ports)["status"] == "200"

    def is_ready(self):
        """Tell whether the model that most requests are for still answers."""
        return infer("pair", pair_of()).ask(self.ports)["status"] == "200"

    def stop(self):
        self._process.terminate()
        self._process.wait(60)


@contextlib.contextmanager
def start_both(place, *, install):
    """Yield Triton and linnet-server, both ready.

    Args:
        place: A directory of their own.
        install: Whether to install Triton where it is not.

    Raises:
        MissingPeerError: Triton is not to be had here.
    """
    pairs = [f"{name}={path}" for name, path in save_models(place).items()]
    http_port, grpc_port = free_port(), free_port()
    triton = [environment("triton", install=install), "-m", "bench.peers.triton_server"]
    triton += [str(http_port), "--grpc", str(grpc_port), *pairs]
    ours = [sys.executable, "-m", "linnet_server", "--allow-unverified"]
    ours += ["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--port-file", place / "ports"]
    ours += [word for pair in pairs for word in ("--model", pair)]

    def find_ours():
        wait_for((place / "ports").exists)
        return tuple(int(port) for port in (place / "ports").read_text().split())

    with contextlib.ExitStack() as stack:
        peers = []
        for command, find_ports in ((triton, lambda: (http_port, grpc_port)), (ours, find_ours)):
            peers.append(Peer(command, find_ports))
            stack.callback(peers[-1].stop)
        yield tuple(peers)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def wait_for(there):
    deadline = time.monotonic() + 180
    while not there():
        if time.monotonic() > deadline:
            raise MissingPeerError("a server is not ready after three minutes")
        time.sleep(0.1)


# --- comparing


def compare(triton, linnet):
    """Return the differences: (case, fact, Triton's, Linnet's)."""
    found = []
    kinds = (("HTTP", http_cases()), ("gRPC", grpc_cases()))
    for kind, cases in kinds:
        for name, case in cases.items():
            theirs, ours = triton.ask(case), linnet.ask(case)
            if "id" not in name.split():
                theirs.pop("id", None), ours.pop("id", None)
            if theirs == ours:
                continue
            differing = ["status"] if theirs["status"] != ours["status"] else theirs | ours
            found += [
                (f"{kind} {name}", fact, short(theirs.get(fact, "-")), short(ours.get(fact, "-")))
                for fact in differing
                if theirs.get(fact) != ours.get(fact)
            ]
    return found


def short(text):
    text = text.replace("|", "/")
    return text if len(text) <= 60 else f"{text[:57]}..."


def count_cases():
    """Return how many requests are asked."""
    return len(http_cases()) + len(grpc_cases())


def main():
    with (
        tempfile.TemporaryDirectory() as directory,
        start_both(Path(directory), install=True) as peers,
    ):
        found = compare(*peers)
    for case, fact, theirs, ours in found:
        print(f"{case} | {fact} | {theirs} | {ours}")
    print(f"{len(found)} differences in {count_cases()} requests", file=sys.stderr)


if __name__ == "__main__":
    main()
