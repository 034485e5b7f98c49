"""Compressed bodies: read where they are whole and bounded, refused where not."""

import gzip
import json
import zlib

import pytest

from linnet_server import coding
from linnet_server.coding import INFLATED_LIMIT_BYTES, inflate
from linnet_server.errors import BadRequestError, TooLargeError, UnsupportedCodingError

BODY = b'{"inputs": []}' * 100


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        pytest.param(b"gzip", gzip.compress(BODY), id="gzip"),
        pytest.param(b" GZip ", gzip.compress(BODY), id="capitals"),
        pytest.param(b"deflate", zlib.compress(BODY), id="deflate"),
        pytest.param(b"identity", BODY, id="identity"),
    ],
)
def test_what_is_read(name, raw):
    assert inflate(raw, name) == BODY


@pytest.mark.parametrize(
    ("name", "raw", "error"),
    [
        pytest.param(b"zstd", BODY, UnsupportedCodingError, id="another coding"),
        pytest.param(b"gzip, gzip", BODY, UnsupportedCodingError, id="twice"),
        pytest.param(b"gzip", BODY, BadRequestError, id="not gzip"),
        pytest.param(b"gzip", gzip.compress(BODY)[:-1], BadRequestError, id="truncated"),
        pytest.param(b"gzip", gzip.compress(BODY) + b"x", BadRequestError, id="more behind it"),
        pytest.param(b"gzip", b"", BadRequestError, id="empty"),
        pytest.param(b"deflate", gzip.compress(BODY), BadRequestError, id="another one's"),
    ],
)
def test_what_is_refused(name, raw, error):
    with pytest.raises(error):
        inflate(raw, name)


def test_a_bomb_is_not_inflated(monkeypatch):
    monkeypatch.setattr(coding, "INFLATED_LIMIT_BYTES", 1000)
    assert inflate(gzip.compress(b"a" * 1000), b"gzip") == b"a" * 1000
    with pytest.raises(TooLargeError):
        inflate(gzip.compress(b"a" * 1001), b"gzip")
    assert INFLATED_LIMIT_BYTES < 64 << 20


async def test_an_inference_request_may_come_compressed(node, models, open_bench):
    node.set_current(node.add(models.adder(1)))
    x = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
    raw = gzip.compress(json.dumps({"inputs": [x]}).encode())
    async with open_bench() as bench:
        path = "/v2/models/defects/infer"
        good = await bench.client.post(path, content=raw, headers={"Content-Encoding": "gzip"})
        odd = await bench.client.post(path, content=raw, headers={"Content-Encoding": "br"})

        assert good.json()["outputs"][0]["data"] == [2, 3, 4, 5]
        assert odd.status_code == 415
        assert odd.json()["error"].startswith("content coding 'br' is not read")
        assert await bench.outcomes() == {"success": 1, "failure": 0, "rejected": 1}


async def test_feedback_may_come_compressed(node, models, open_bench):
    node.set_current(node.add(models.adder(1)))
    x = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
    async with open_bench() as bench:
        model = "/v2/models/defects"
        await bench.client.post(f"{model}/infer", json={"id": "a", "inputs": [x]})
        raw = gzip.compress(json.dumps({"id": "a", "label": 3}).encode())

        said = await bench.client.post(
            f"{model}/feedback", content=raw, headers={"Content-Encoding": "gzip"}
        )

        assert said.json() == {"id": "a", "verdict": "correct"}
