import pytest

from linnet_agent.verify.strict_json import MAX_DEPTH, parse_json_object


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b'{"a":1,"a":1}', id="a key twice"),
        pytest.param(b'{"x":{"a":1,"\\u0061":2}}', id="a key twice, once escaped"),
        pytest.param(b"[]", id="not an object"),
        pytest.param(b'{"a":NaN}', id="NaN"),
        pytest.param(b'{"a":-Infinity}', id="Infinity"),
        pytest.param(b'{"a":1} x', id="something behind it"),
        pytest.param(b"\xff{}", id="not UTF-8"),
        pytest.param(b'{"a":' + b"9" * 5000 + b"}", id="an endless number"),
        pytest.param(b"", id="nothing"),
        pytest.param(b'{"a":' * 40 + b"1" + b"}" * 40, id="deep objects"),
        pytest.param(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", id="very deep lists"),
    ],
)
def test_documents_that_two_readers_could_see_differently_are_refused(raw):
    with pytest.raises(ValueError, match=r"."):
        parse_json_object(raw, max_bytes=1 << 20)


def test_size_is_bounded_before_parsing():
    assert parse_json_object(b'{"a": 1}', max_bytes=8) == {"a": 1}
    with pytest.raises(ValueError, match="9 bytes"):
        parse_json_object(b'{"a": 11}', max_bytes=8)


def test_depth_up_to_the_bound_is_read():
    raw = b'{"a":' * (MAX_DEPTH - 1) + b"1" + b"}" * (MAX_DEPTH - 1)

    assert parse_json_object(raw, max_bytes=1 << 20)
