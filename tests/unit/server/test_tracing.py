"""Trace context: what is as specified is taken and handed back; all else is as good as none."""

import pytest

from linnet_server.tracing import read_trace

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{PARENT}-01"


def test_our_span_is_new_in_the_clients_trace():
    one, two = read_trace(GOOD.encode()), read_trace(GOOD.encode())

    assert (one.trace_id, one.parent_id, one.flags) == (TRACE, PARENT, "01")
    assert one.span_id not in (PARENT, two.span_id)
    assert one.answer.decode() == f"00-{TRACE}-{one.span_id}-01"


def test_a_later_version_may_have_more():
    assert read_trace(f"cc-{TRACE}-{PARENT}-01-what-else".encode()).trace_id == TRACE


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(None, id="none"),
        pytest.param("", id="empty"),
        pytest.param(GOOD.upper(), id="capitals"),
        pytest.param(f"ff-{TRACE}-{PARENT}-01", id="version ff"),
        pytest.param(f"{GOOD}-more", id="more than version 00 has"),
        pytest.param(f"00-{'0' * 32}-{PARENT}-01", id="no trace"),
        pytest.param(f"00-{TRACE}-{'0' * 16}-01", id="no parent"),
        pytest.param(f"00-{TRACE}-{PARENT}", id="no flags"),
        pytest.param(f"00-{TRACE[1:]}-{PARENT}-01", id="too short"),
        pytest.param(f" {GOOD}", id="a space"),
        pytest.param(f"{GOOD}\r\nx: y", id="a header in it"),
    ],
)
def test_what_is_not_as_specified_is_as_good_as_none(header):
    assert read_trace(None if header is None else header.encode()) is None


X = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}


@pytest.mark.parametrize(
    "inputs", [pytest.param([X], id="an answer"), pytest.param([], id="an error")]
)
async def test_an_answer_carries_it(node, models, open_bench, inputs):
    node.set_current(node.add(models.adder(1)))
    async with open_bench() as bench:
        path = "/v2/models/defects/infer"
        traced = await bench.client.post(
            path, json={"inputs": inputs}, headers={"traceparent": GOOD}
        )
        odd = await bench.client.post(path, json={"inputs": [X]}, headers={"traceparent": "me"})

    assert traced.headers["traceresponse"].startswith(f"00-{TRACE}-")
    assert odd.status_code == 200
    assert "traceresponse" not in odd.headers
