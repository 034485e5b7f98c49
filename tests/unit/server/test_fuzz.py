"""Whatever bytes come: the decoders refuse with a sentence or give what fits; nothing else escapes.

Bounded: `FUZZ_EXAMPLES` examples each, new ones in every run; a failure prints its input.
"""

import asyncio
import contextlib
import json

import hypothesis
import numpy as np
import orjson
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from linnet_server.coding import inflate
from linnet_server.errors import ClientError
from linnet_server.http1 import HttpListener, Response, _Connection
from linnet_server.inference_pb2 import ModelInferRequest
from linnet_server.protocol import Signature, parse_infer, render_infer
from linnet_server.protocol_grpc import parse_infer_message
from linnet_server.tensors import DTYPES, TensorSpec, decode_binary, encode_binary
from linnet_server.tracing import read_trace

FUZZ_EXAMPLES = 100

pytestmark = pytest.mark.slow
fuzz = hypothesis.settings(
    max_examples=FUZZ_EXAMPLES,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize=False,
)

SPECS = [
    TensorSpec("x", "FP32", ("n", 2)),
    TensorSpec("h", "FP16", ("n",)),
    TensorSpec("i", "INT8", ("n",)),
    TensorSpec("u", "UINT64", ("n",)),
    TensorSpec("b", "BOOL", ()),
    TensorSpec("s", "BYTES", ("n", "m")),
]
SIGNATURE = Signature(SPECS, [TensorSpec("y", "FP32", ("n",)), TensorSpec("l", "INT64", ("n",))])
ONE = [Signature([spec], [TensorSpec("y", "FP32", ("n",))]) for spec in SPECS]


def check_feeds(request, signature):
    """What is let through is exactly what the model takes."""
    assert request.feeds.keys() == signature.inputs.keys()
    sizes = {}
    for name, array in request.feeds.items():
        spec = signature.inputs[name]
        assert array.dtype == DTYPES[spec.datatype]
        assert array.ndim == len(spec.shape)
        for size, wanted in zip(array.shape, spec.shape, strict=True):
            assert size == (wanted if isinstance(wanted, int) else sizes.setdefault(wanted, size))
        if array.dtype.kind == "O":
            assert all(isinstance(element, str) for element in array.reshape(-1))
    assert request.elements == sum(array.size for array in request.feeds.values())


def refused_or_fits(signature, parse, *arguments, **more):
    """Whatever is asked is refused with a sentence, or fits the model."""
    try:
        request = parse(*arguments, signature=signature, **more)
    except ClientError as error:
        sentence = str(error)
    else:
        sentence = "fits"
        check_feeds(request, signature)
    hypothesis.event(sentence[:20])
    assert 0 < len(sentence) < 2000


# --- JSON and binary tensors

numbers = (
    st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from([0, -1, 1, 2**31, 2**62, 1e39])
)
words = st.sampled_from(["x", "y", "FP32", "BYTES", "INT8", ""]) | st.text(max_size=8)
anything = st.recursive(
    st.none() | st.booleans() | numbers | words,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(words, inner),
    max_leaves=12,
)
values = {
    "FP32": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "FP16": st.sampled_from([0.0, -1.5, 65_504]),
    "INT8": st.integers(-128, 127),
    "UINT64": st.integers(0, 2**64 - 1),
    "BOOL": st.booleans(),
    "BYTES": st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
}


@st.composite
def good_requests(draw, signature):
    """A document that fits, and the raw tensors behind it."""
    sizes = {symbol: draw(st.integers(0, 3)) for symbol in "nm"}
    tensors, tail = [], b""
    for spec in draw(st.permutations(list(signature.inputs.values()))):
        shape = [sizes.get(dim, dim) for dim in spec.shape]
        count = int(np.prod(shape))
        data = draw(st.lists(values[spec.datatype], min_size=count, max_size=count))
        tensor = {"name": spec.name, "datatype": spec.datatype, "shape": shape}
        if draw(st.booleans()):
            raw = encode_binary(np.array(data, DTYPES[spec.datatype]))
            tensor["parameters"] = {"binary_data_size": len(raw)}
            tail += raw
        else:
            tensor["data"] = data
        tensors.append(tensor)
    document = {"inputs": tensors}
    if draw(st.booleans()):
        parameters = {"binary_data": draw(st.booleans())}
        document["outputs"] = [{"name": "y", "parameters": parameters}]
    if draw(st.booleans()):
        document |= {"id": "a", "parameters": {"binary_data_output": True}}
    return document, tail


def places(node):
    """Yield every (holder, key) below ``node``."""
    keys = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for key in list(keys):
        yield node, key
        yield from places(node[key])


@st.composite
def near_misses(draw):
    """A good request with nothing, one thing or two in it changed."""
    signature = draw(st.sampled_from([SIGNATURE, *ONE]))
    document, tail = draw(good_requests(signature))
    for _ in range(draw(st.integers(0, 2))):
        holder, key = draw(st.sampled_from(list(places(document))))
        if draw(st.booleans()) or isinstance(holder, list):
            holder[key] = draw(anything)
        else:
            del holder[key]
        if not list(places(document)):
            break
    if draw(st.integers(0, 4)) == 0:
        tail = tail[: draw(st.integers(0, len(tail)))] + draw(st.binary(max_size=6))
    return signature, document, tail


def to_json(document):
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")


@fuzz
@given(near_misses(), st.sampled_from([0, 0, 0, 0, 0, -1, 1, 10_000]))
def test_a_request_is_refused_or_fits(asked, shift):
    signature, document, tail = asked
    head = to_json(document)
    length = len(head) + shift if tail or shift else None
    refused_or_fits(signature, parse_infer, head + tail, json_bytes=length)


@fuzz
@given(
    st.sampled_from([SIGNATURE, *ONE]).flatmap(lambda s: st.tuples(st.just(s), good_requests(s)))
)
def test_a_good_request_fits(asked):
    signature, (document, tail) = asked
    head = to_json(document)
    check_feeds(parse_infer(head + tail, json_bytes=len(head), signature=signature), signature)


@fuzz
@given(anything, st.sampled_from([SIGNATURE, *ONE]))
def test_any_json_is_refused_or_fits(document, signature):
    refused_or_fits(signature, parse_infer, to_json(document), json_bytes=None)


@fuzz
@given(
    good=st.sampled_from(ONE),
    body=st.binary(max_size=300),
    json_bytes=st.none() | st.integers(0, 300),
)
def test_noise_is_refused_or_fits(good, body, json_bytes):
    refused_or_fits(good, parse_infer, body, json_bytes=json_bytes)


@fuzz
@given(st.data())
def test_a_truncated_request_is_refused(data):
    raw = np.ones((1, 2), np.float32).tobytes()
    head = to_json(
        {
            "inputs": [
                {
                    "name": "x",
                    "datatype": "FP32",
                    "shape": [1, 2],
                    "parameters": {"binary_data_size": len(raw)},
                }
            ]
        }
    )
    body = head + raw
    assert parse_infer(body, json_bytes=len(head), signature=ONE[0])
    cut = data.draw(st.integers(1, len(body) - 1))
    with pytest.raises(ClientError):
        parse_infer(body[:cut], json_bytes=min(len(head), cut), signature=ONE[0])


arrays = {
    "BOOL": st.booleans(),
    "BYTES": st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
    **{
        name: st.integers(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
        for name, dtype in DTYPES.items()
        if dtype.kind in "iu"
    },
    **{
        name: st.floats(width=dtype.itemsize * 8)
        for name, dtype in DTYPES.items()
        if dtype.kind == "f"
    },
}


@fuzz
@given(st.data())
@pytest.mark.parametrize("datatype", DTYPES)
def test_what_goes_out_comes_in_again(datatype, data):
    """Our answer is a request that means the same, in both forms, for every datatype."""
    rows = data.draw(st.integers(0, 3))
    values = data.draw(st.lists(arrays[datatype], min_size=2 * rows, max_size=2 * rows))
    spec = TensorSpec("x", datatype, ("n", 2))
    array = np.array(values, DTYPES[datatype]).reshape(rows, 2)

    again = decode_binary(spec, array.shape, memoryview(encode_binary(array)))
    assert again.dtype == array.dtype
    np.testing.assert_array_equal(again, array)

    signature = Signature([spec], [spec])
    for binary in (False, True):
        if array.dtype.kind == "f" and not binary and not np.isfinite(array).all():
            continue  # JSON has neither
        body, json_bytes = render_infer(
            {},
            request_id="a",
            signature=signature,
            wanted=signature.want_all(binary=binary),
            arrays=[array],
        )
        head = orjson.loads(body if json_bytes is None else body[:json_bytes])
        question = to_json({"inputs": head["outputs"]})
        tail = b"" if json_bytes is None else body[json_bytes:]
        length = None if json_bytes is None else len(question)
        request = parse_infer(question + tail, json_bytes=length, signature=signature)
        np.testing.assert_array_equal(request.feeds["x"], array)


# --- gRPC


@fuzz
@given(st.binary(max_size=400))
def test_a_message_of_noise_is_refused_or_fits(raw):
    with contextlib.suppress(DecodeError):
        refused_or_fits(SIGNATURE, parse_infer_message, ModelInferRequest.FromString(raw))


FIELDS = {"FP32": "fp32", "BOOL": "bool", "BYTES": "bytes", "UINT64": "uint64", "INT8": "int"}


@fuzz
@given(near_misses(), st.booleans(), st.data())
def test_a_message_is_refused_or_fits(asked, raw, data):
    """The same near misses, as far as the message's types let them in."""
    signature, document, tail = asked
    message = ModelInferRequest()
    wrong = contextlib.suppress(TypeError, ValueError, AttributeError, KeyError, UnicodeError)
    tensors = document.get("inputs") if isinstance(document, dict) else None
    for tensor in tensors if isinstance(tensors, list) else ():
        one = message.inputs.add()
        with wrong:
            one.name = tensor["name"]
            one.datatype = tensor["datatype"]
            one.shape.extend(tensor["shape"])
        with wrong:
            field = getattr(one.contents, f"{FIELDS[tensor['datatype']]}_contents")
            field.extend([v.encode() if isinstance(v, str) else v for v in tensor["data"]])
        with wrong:
            size = tensor["parameters"]["binary_data_size"]
            message.raw_input_contents.append(tail[:size])
            tail = tail[size:]
    if raw:
        message.raw_input_contents.extend(data.draw(st.lists(st.binary(max_size=8), max_size=2)))
    refused_or_fits(signature, parse_infer_message, message)


@fuzz
@given(st.data())
def test_a_good_message_fits(data):
    signature = data.draw(st.sampled_from([SIGNATURE, *ONE]))
    sizes = {symbol: data.draw(st.integers(0, 3)) for symbol in "nm"}
    message = ModelInferRequest()
    for spec in signature.inputs.values():
        shape = [sizes.get(dim, dim) for dim in spec.shape]
        count = int(np.prod(shape))
        found = data.draw(st.lists(values[spec.datatype], min_size=count, max_size=count))
        message.inputs.add(name=spec.name, datatype=spec.datatype, shape=shape)
        message.raw_input_contents.append(encode_binary(np.array(found, DTYPES[spec.datatype])))
    check_feeds(parse_infer_message(message, signature), signature)


# --- HTTP/1.1


class Pipe(asyncio.Transport):
    """The other end of a connection; it keeps what was written."""

    def __init__(self):
        super().__init__()
        self.written = b""
        self.ended = False

    def write(self, data):
        assert not self.ended
        self.written += data

    def writelines(self, parts):
        self.write(b"".join(parts))

    def can_write_eof(self):
        return True

    def write_eof(self):
        self.ended = True

    def close(self):
        self.ended = True

    abort = close

    def is_closing(self):
        return self.ended

    def pause_reading(self):
        pass

    resume_reading = pause_reading


def converse(pieces):
    """Return what the parser made of ``pieces``: the requests, and what was written."""
    asked = []

    def respond(request):
        asked.append((request.method, request.path, request.body))
        return Response(200, b"%d" % len(asked))

    listener = HttpListener(respond, None, max_body_bytes=200)
    listener.join = lambda _: True
    connection = _Connection(listener)
    pipe = Pipe()
    connection.connection_made(pipe)
    for piece in pieces:
        if pipe.ended:
            break
        connection.data_received(piece)
    return asked, pipe.written


def read_answers(written):
    """Return the statuses in ``written``, each answer checked for its form."""
    statuses = []
    while written:
        head, separator, rest = written.partition(b"\r\n\r\n")
        assert separator
        assert head.startswith(b"HTTP/1.1 ")
        status = int(head.split()[1])
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        length = 0 if status == 100 else int(fields[b"content-length"])
        assert len(rest) >= length or status == 200  # the answer to HEAD has no body
        written = rest[length:]
        statuses.append(status)
    return statuses


LINES = (
    rb"""GET / HTTP/1.1
POST /a HTTP/1.1
POST /a HTTP/1.0
GET  / HTTP/1.1
GET /smuggled HTTP/1.1
Host: x
host:y
Content-Length: 3
Content-Length: 0
Content-Length: 3, 3
Content-Length: -1
Content-Length: 201
Content-Length:
Transfer-Encoding: chunked
Transfer-Encoding: identity
Transfer-Encoding: chunked, chunked
Transfer-Encoding: \x0bchunked
Expect: 100-continue
Connection: close
Connection: upgrade
Upgrade: h2c
 folded
X: \0
3
3;x=y
0
ffffffffffffffffff
abc""".decode("unicode_escape")
    .encode()
    .splitlines()
)
lines = st.sampled_from([line + b"\r\n" for line in LINES] + [b"\r\n", b"\n", b"\r", b"abc"])
lines |= st.binary(max_size=12)


@fuzz
@given(parts=st.lists(lines, max_size=14), data=st.data())
def test_bytes_mean_the_same_however_they_are_cut(parts, data):
    raw = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=5)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True) if a < b]

    asked, written = converse([raw] if raw else [])
    asked_cut, written_cut = converse(pieces)
    asked_single, _ = converse([raw[at : at + 1] for at in range(len(raw))])

    statuses = read_answers(written_cut)
    assert all(status in (100, 200, 400, 413, 431, 503) for status in statuses)
    assert asked_cut == asked_single
    assert asked == asked_cut[: len(asked)], "in one piece, a refusal may come before an answer"
    assert len(statuses) >= len(asked_cut)
    read_answers(written)


@fuzz
@given(body=st.binary(max_size=60), behind=st.binary(max_size=60))
def test_a_body_is_never_taken_for_a_request(body, behind):
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    inside = body + smuggled + behind
    head = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    asked, _ = converse([head % len(inside) + inside])
    assert asked == [("POST", "/a", inside)]


# --- small ones


@fuzz
@given(
    st.binary(max_size=80) | st.from_regex(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
)
def test_a_trace_is_read_or_not(header):
    trace = read_trace(header)
    assert trace is None or (len(trace.trace_id), len(trace.span_id)) == (32, 16)


@fuzz
@given(st.binary(max_size=80), st.sampled_from([b"gzip", b"deflate", b"identity", b"\xff"]))
def test_a_coding_is_undone_or_refused(body, coding):
    with contextlib.suppress(ClientError):
        assert isinstance(inflate(body, coding), bytes)
