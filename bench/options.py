"""What options of linnet-server gain or cost: dynamic batching, spans for a collector.

- Each way is a server of its own; they take turns, medians of the rounds.
- Batching: a perceptron of 16 MB, whose weights a single row reads as often as sixteen do. A row is
  a request of 4 KB, binary; 16 clients.
- Spans: the tiny model over JSON, where a span weighs most. The collector runs beside it, decodes
  nothing, and shares the cores.
"""

import argparse
import contextlib
import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import numpy as np
from onnx import helper

from bench.server import Server, free_port, load_with, measure, request, save, save_model

WIDTH, HIDDEN = 1024, 2048
CLIENTS = 16
SPAN_CLIENTS = (1, 16)
BATCHING = {
    "off": (),
    "16 rows, no delay": ("--max-batch", "16"),
    "16 rows, 1 ms": ("--max-batch", "16", "--batch-delay-s", "0.001"),
    "16 rows, 2 ms": ("--max-batch", "16", "--batch-delay-s", "0.002"),
}
TRACED = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{}\r\n"
SPANS = {
    "no traceparent": ("", False),
    "traceparent, no export": (TRACED.format("01"), False),
    "export on, not sampled": (TRACED.format("00"), True),
    "export on, every request": (TRACED.format("01"), True),
}
COLLECTOR = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def save_wide_model(path):
    """A perceptron whose weights do not fit into a core's own cache."""
    rng = np.random.default_rng(7)
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["y"]),
    ]
    shapes = {"w1": (WIDTH, HIDDEN), "w2": (HIDDEN, WIDTH)}
    weights = {name: rng.standard_normal(shape).astype("f") for name, shape in shapes.items()}
    return save(path, nodes, ["N", WIDTH], weights)


def start(models, flags, label, stack):
    server = Server("linnet", models, flags)
    server.name = label
    stack.callback(server.stop)
    return server


def scrape(server):
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as answer:
        return answer.read().decode()


def rows_of(server):
    """Return the mean rows of a batch; 1 where there are no batches."""
    text = scrape(server)
    figures = [re.search(rf"linnet_batch_rows_{one}{{.*}} (\S+)", text) for one in ("sum", "count")]
    rows, batches = (float(figure[1]) if figure else 0.0 for figure in figures)
    return rows / batches if batches else 1.0


def measure_batching(directory, timing):
    message = request("wide", (1, WIDTH))
    with contextlib.ExitStack() as stack:
        models = {"wide": save_wide_model(directory / "wide.onnx")}
        servers = [start(models, flags, label, stack) for label, flags in BATCHING.items()]
        load = sender({server.port: message for server in servers})
        for server in servers:
            server.wait_ready(load, server.port)
        figures = measure(
            servers, "", clients=CLIENTS, load=load, port_of=lambda one: one.port, **timing
        )
        for server in servers:
            figures[server.name]["rows"] = rows_of(server)
    return figures


def measure_spans(directory, timing):
    with contextlib.ExitStack() as stack:
        port = free_port()
        collector = subprocess.Popen([sys.executable, "-c", COLLECTOR, str(port)])
        stack.callback(collector.wait)
        stack.callback(collector.terminate)
        models = {"tiny": save_model(directory / "tiny.onnx")}
        flags = ("--otlp-endpoint", f"http://127.0.0.1:{port}")
        messages, servers = {}, []
        for label, (header, is_exported) in SPANS.items():
            server = start(models, flags if is_exported else (), label, stack)
            messages[server.port] = request("tiny", more=header)
            servers.append(server)
        load = sender(messages)
        for server in servers:
            server.wait_ready(load, server.port)
        figures = {
            clients: measure(
                servers, "", clients=clients, load=load, port_of=lambda one: one.port, **timing
            )
            for clients in SPAN_CLIENTS
        }
        for server in servers:
            figures[SPAN_CLIENTS[-1]][server.name]["mib"] = server.usage()[1]
        print(re.sub(r"(?m)^(?!linnet_trace).*\n", "", scrape(servers[-1])))
    return figures


def sender(messages):
    """Return a load like `load_http`, that sends each port its own message."""

    async def load(port, _, *, clients, seconds):
        return await load_with(port, messages[port], clients=clients, seconds=seconds)

    return load


def render(title, figures):
    columns = list(next(iter(figures.values())))
    lines = ["", f"{title:<40}" + "".join(f"{column:>10}" for column in columns)]
    lines += [
        f"  {name:<38}" + "".join(f"{row[column]:>10.3f}" for column in columns)
        for name, row in figures.items()
    ]
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m bench.options", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each, in turns")
    options = parser.parse_args(argv)
    timing = {"seconds": options.seconds, "rounds": options.rounds}
    with tempfile.TemporaryDirectory() as name:
        figures = measure_batching(Path(name), timing)
        print(render(f"batching, {CLIENTS} clients", figures), flush=True)
        for clients, row in measure_spans(Path(name), timing).items():
            print(render(f"spans, {clients} clients", row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
