"""Spans of real requests, taken by a collector that speaks real OTLP; collectors that do not."""

import http.server
import json
import queue
import socket
import subprocess
import sys
import threading
import time

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Sent
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from linnet_server import span_export
from linnet_server.inference_pb2 import ModelInferRequest
from linnet_server.metrics import Metrics, SpanFate
from linnet_server.settings import read_settings
from linnet_server.span_export import SpanExport
from linnet_server.tracing import read_trace

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
UNSAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
X = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
INFER = "/v2/models/defects/infer"


class Collector:
    """Takes spans as OTLP over HTTP, and gives them out one by one."""

    def __init__(self):
        taken = self._taken = queue.Queue()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                assert self.path == "/v1/traces", self.path
                assert self.headers["content-type"] == "application/x-protobuf"
                body = self.rfile.read(int(self.headers["content-length"]))
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for scope in resource.scope_spans:
                        for span in scope.spans:
                            taken.put((span, facts(resource.resource), scope.scope.name))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def take(self):
        return self._taken.get(timeout=30)

    @property
    def is_empty(self):
        return self._taken.empty()

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def facts(holder):
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in holder.attributes
    }


@pytest.fixture
def collector():
    collector = Collector()
    yield collector
    collector.close()


def fates(client):
    lines = client.get("/metrics").text.splitlines()
    name = "linnet_trace_spans_total{"
    ours = [line.removeprefix(name).rsplit(" ", 1) for line in lines if line.startswith(name)]
    return {labels.split('"')[1]: int(float(value)) for labels, value in ours}


@pytest.mark.slow
def test_a_request_of_a_recorded_trace_is_a_span_of_it(node, models, start_server, collector):
    node.set_current(node.add(models.adder(1), number=7))
    server = start_server(node.root, "--otlp-endpoint", collector.url)
    before = time.time_ns()
    with server.client() as client:
        client.post(INFER, json={"inputs": [X]})
        client.post(INFER, json={"inputs": [X]}, headers=UNSAMPLED)
        client.get("/v2/models/defects", headers=SAMPLED)
        answer = client.post(INFER, json={"inputs": [X]}, headers=SAMPLED)
        span, resource, scope = collector.take()
        deadline = time.monotonic() + 30
        while not (counted := fates(client))["exported"] and time.monotonic() < deadline:
            pass  # the collector has it before its answer is read

    assert counted == {"exported": 1, "dropped": 0, "failed": 0}
    assert collector.is_empty, "neither what nobody records nor what asks no model"
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert answer.headers["traceresponse"] == f"00-{TRACE}-{span.span_id.hex()}-01"
    assert (span.kind, span.name) == (Sent.SPAN_KIND_SERVER, "POST /v2/models/{name}/infer")
    assert before < span.start_time_unix_nano < span.end_time_unix_nano < time.time_ns()
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert facts(span) == {
        "http.request.method": "POST",
        "http.route": "/v2/models/{name}/infer",
        "http.response.status_code": 200,
        "linnet.model": "defects",
        "linnet.outcome": "success",
        "linnet.namespace": "factory",
        "linnet.deployment": "defects",
        "linnet.revision": "r1",
        "linnet.number": 7,
        "linnet.variant": "onnx",
        "linnet.model_digest": answer.headers["linnet-model-digest"],
    }
    assert (resource["service.name"], scope) == ("linnet-server", "linnet_server")


@pytest.mark.slow
def test_errors_are_spans_and_only_the_servers_own_are_failures(
    node, models, start_server, collector
):
    node.set_current(node.add(models.lookup(3)))
    server = start_server(node.root, "--otlp-endpoint", collector.url)
    beyond = {"name": "i", "datatype": "INT64", "shape": [1], "data": [99]}
    with server.client() as client:
        for path, inputs in (
            ("/v2/models/defects/versions/1/infer", [beyond]),
            (INFER, []),
            ("/v2/models/cats/infer", [X]),
        ):
            client.post(path, json={"inputs": inputs}, headers=SAMPLED)
        failed, refused, unknown = (collector.take()[0] for _ in range(3))

    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert failed.name == "POST /v2/models/{name}/versions/{version}/infer"
    for span, status, outcome in (
        (failed, 500, "failure"),
        (refused, 400, "rejected"),
        (unknown, 404, "rejected"),
    ):
        told = facts(span)
        assert (told["http.response.status_code"], told["linnet.outcome"]) == (status, outcome)
    assert {span.status.code for span in (refused, unknown)} == {Status.STATUS_CODE_UNSET}
    assert facts(unknown)["linnet.model"] == "cats"
    assert "linnet.revision" not in facts(unknown)


@pytest.mark.slow
def test_a_stranger_leaves_no_span(node, models, start_server, collector, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("a-token-that-is-long-enough-to-be-one\n")
    node.set_current(node.add(models.adder(1)))
    server = start_server(node.root, "--otlp-endpoint", collector.url, "--token-file", str(tokens))
    with server.client() as client:
        stranger = client.post(INFER, json={"inputs": [X]}, headers=SAMPLED)
        known = {"authorization": f"Bearer {tokens.read_text().strip()}"}
        client.post(INFER, json={"inputs": []}, headers=SAMPLED | known)
        span, _, _ = collector.take()

    assert stranger.status_code == 401
    assert stranger.headers["traceresponse"].split("-")[1] == TRACE
    assert facts(span)["http.response.status_code"] == 400
    assert collector.is_empty


@pytest.mark.slow
def test_grpc_too(node, models, start_server, collector):
    node.set_current(node.add(models.adder(1)))
    server = start_server(node.root, "--otlp-endpoint", collector.url, "--grpc", "127.0.0.1:0")
    message = ModelInferRequest(model_name="defects")
    x = message.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    x.contents.fp32_contents.extend([1, 2, 3, 4])
    with grpc.insecure_channel(f"127.0.0.1:{server.ports[1]}") as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        _, call = infer.with_call(
            message.SerializeToString(), metadata=list(SAMPLED.items()), timeout=20
        )
        good, _, _ = collector.take()
        infer.with_call(message.SerializeToString(), metadata=list(UNSAMPLED.items()), timeout=20)
        message.inputs[0].shape[0] = 2
        with pytest.raises(grpc.RpcError):
            infer(message.SerializeToString(), metadata=list(SAMPLED.items()), timeout=20)
        bad, _, _ = collector.take()

    assert good.name == "inference.GRPCInferenceService/ModelInfer"
    assert (good.trace_id.hex(), good.parent_span_id.hex()) == (TRACE, PARENT)
    assert dict(call.trailing_metadata())["traceresponse"].split("-")[2] == good.span_id.hex()
    told, wrong = facts(good), facts(bad)
    assert (told["rpc.system"], told["rpc.grpc.status_code"]) == ("grpc", 0)
    assert (told["linnet.revision"], told["linnet.outcome"]) == ("r1", "success")
    assert (wrong["rpc.grpc.status_code"], wrong["linnet.outcome"]) == (3, "rejected")
    assert collector.is_empty


@pytest.mark.slow
def test_what_waits_at_the_end_is_sent(node, models, start_server, collector):
    node.set_current(node.add(models.adder(1)))
    server = start_server(node.root, "--otlp-endpoint", collector.url)
    with server.client() as client:
        for _ in range(20):
            client.post(INFER, json={"inputs": [X]}, headers=SAMPLED)

    assert server.stop() == 0
    assert len({collector.take()[0].span_id for _ in range(20)}) == 20


@pytest.mark.slow
@pytest.mark.parametrize("listens", [True, False], ids=["silent", "gone"])
def test_a_dead_collector_costs_spans_and_no_request(node, models, start_server, listens):
    node.set_current(node.add(models.adder(1)))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        if not listens:
            silent.close()
        server = start_server(node.root, "--otlp-endpoint", url)
        with server.client() as client:
            answers = [
                client.post(INFER, json={"inputs": [X]}, headers=SAMPLED) for _ in range(200)
            ]
        server.process.terminate()
        started_at = time.monotonic()
        assert server.process.wait(30) == 0
        took_s = time.monotonic() - started_at
        lines = [json.loads(line) for line in server.process.stderr]

    assert {answer.status_code for answer in answers} == {200}
    assert took_s < span_export.FLUSH_S + 10, "the flush is bounded"
    said = [line["event"] for line in lines if line["level"] == "warning"]
    assert said.count("server.spans.left") == 1
    assert set(said) <= {"server.spans.left", "server.spans.lost"}, "none of the library's lines"


async def test_a_full_queue_drops_and_counts(monkeypatch):
    monkeypatch.setattr(span_export, "MAX_WAITING", 8)
    monkeypatch.setattr(span_export, "BATCH", 1)
    monkeypatch.setattr(span_export, "FLUSH_S", 0.01)
    counts = Metrics().bind_spans()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        spans = SpanExport(
            f"http://127.0.0.1:{silent.getsockname()[1]}", fates=counts, clock_ns=time.time_ns
        )
        spans.start()
        finish(spans)
        client, _ = silent.accept()  # the first one is under way
        with client:
            for _ in range(20):
                finish(spans)
            assert counts[SpanFate.DROPPED].value == 12
            await spans.stop()


@pytest.mark.slow
def test_what_a_collector_refuses_is_counted_and_said_once(caplog, monkeypatch):
    monkeypatch.setattr(span_export, "BATCH", 1)
    counts = Metrics().bind_spans()

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            self.send_error(400)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        spans = SpanExport(
            f"http://127.0.0.1:{server.server_port}", fates=counts, clock_ns=time.time_ns
        )
        for _ in range(5):
            finish(spans)
        spans._stopping = True  # work what waits, and end
        spans.start()
        spans._thread.join(30)
        server.shutdown()
        thread.join()

    assert {fate.value: count.value for fate, count in counts.items()} == {
        "exported": 0,
        "dropped": 0,
        "failed": 5,
    }
    (line,) = (  # an earlier test's thread may still have something to say
        record
        for record in caplog.records
        if record.name == span_export.__name__ and record.thread == spans._thread.ident
    )
    assert line.getMessage() == "server.spans.lost"
    assert "400" in line.reason


def finish(spans):
    span = spans.begin(read_trace(SAMPLED["traceparent"].encode()))
    span.model = "defects"
    spans.end(span, status=200)


# --- what is installed and configured


@pytest.mark.slow
def test_without_the_extra_the_start_says_what_to_install(tmp_path):
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from linnet_server.__main__ import main\n"
        "sys.exit(main(['--root', sys.argv[1], '--http', '127.0.0.1:0',"
        " '--otlp-endpoint', 'http://127.0.0.1:4318']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert "pip install 'linnet[agent,tracing]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_where_no_collector_is_named_the_library_is_not_imported():
    code = (
        "import sys, linnet_server.app, linnet_server.public_grpc\n"
        "sys.exit('opentelemetry' in sys.modules or 'requests' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


STANDARD = "OTEL_EXPORTER_OTLP_ENDPOINT"
OURS = "LINNET_SERVER_OTLP_ENDPOINT"


@pytest.mark.parametrize(
    ("flags", "environ", "endpoint"),
    [
        pytest.param({}, {}, None, id="nowhere"),
        pytest.param({}, {STANDARD: "http://a:4318"}, "http://a:4318", id="the standard"),
        pytest.param(
            {}, {STANDARD: "http://a:4318", OURS: "http://b:4318"}, "http://b:4318", id="ours"
        ),
        pytest.param(
            {"otlp_endpoint": "https://[::1]:4318/in"},
            {STANDARD: "http://a:4318", OURS: "http://b:4318"},
            "https://[::1]:4318/in",
            id="the flag",
        ),
    ],
)
def test_where_spans_go(flags, environ, endpoint):
    assert read_settings(flags, environ).otlp_endpoint == endpoint


@pytest.mark.parametrize(
    "endpoint",
    ["127.0.0.1:4318", "ftp://a", "http://", "http://me:secret@a", "http://a/?b", "http://a b"],
)
def test_what_is_no_base_url_is_refused(endpoint):
    with pytest.raises(ValueError, match="otlp_endpoint"):
        read_settings({"otlp_endpoint": endpoint}, {})
