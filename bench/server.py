"""`make bench-server`: linnet-server beside its peers, in one run, in turns, on the same cores.

- Peers: Triton (the server of the `nvidia-pytriton` wheel; that wheel has the Python backend only),
  MLServer and KServe's model server, each with the same ONNX Runtime session settings, one process
  or instance, in an environment of its own; and as floors a bare ASGI loop and a bare grpc.aio
  service over the same runtime, without validation, metrics, queue or swap.
- One client process drives all of them; it shares the cores with the server, as on an edge node.
- Medians of the rounds. Ratios travel; absolute figures are of this machine, now.
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import onnx
import uvloop
from onnx import TensorProto, helper, numpy_helper

from bench.environments import MissingPeerError, environment
from linnet_server.inference_pb2 import ModelInferRequest, ModelInferResponse

PEERS = ("linnet", "bare", "triton", "mlserver", "kserve")
GRPC_PEERS = ("linnet", "bare_grpc")
NAMES = {
    "linnet": "linnet-server",
    "bare": "bare ASGI",
    "triton": "Triton (Python backend)",
    "mlserver": "MLServer",
    "kserve": "KServe",
    "bare_grpc": "bare grpc.aio",
}
WORKLOADS = {
    "tiny model, JSON, 1 client": ("tiny", 1),
    "tiny model, JSON, 16 clients": ("tiny", 16),
    "600 KB binary tensor, 4 clients": ("image", 4),
    "convolutions on 600 KB, binary, 2 clients": ("conv", 2),
}
GRPC_WORKLOADS = {"tiny model, gRPC, 1 client": 1, "tiny model, gRPC, 16 clients": 16}


# --- models and requests


def save(path, nodes, shape, constants):
    graph = helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "M"])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, path)
    return path


def save_model(path):
    """A tiny perceptron: 4 floats in, 3 out."""
    rng = np.random.default_rng(7)
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["y"]),
    ]
    shapes = {"w1": (4, 16), "w2": (16, 3)}
    weights = {name: rng.standard_normal(shape).astype("f") for name, shape in shapes.items()}
    return save(path, nodes, ["N", 4], weights)


def save_image_model(path):
    """The mean of each channel: all the work is in moving the tensor."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    return save(path, nodes, ["N", 3, 224, 224], {})


def save_conv_model(path):
    """Eight convolutions of a residual network's kind, with two shortcuts."""
    rng = np.random.default_rng(7)
    nodes, constants, last, channels = [], {}, "x", 3
    for layer, (width, stride) in enumerate(
        ((32, 2), (32, 2), (32, 1), (32, 1), (64, 2), (64, 1), (64, 1), (128, 2))
    ):
        weight = f"w{layer}"
        scale = np.float32(1 / np.sqrt(channels * 9))
        constants[weight] = rng.standard_normal((width, channels, 3, 3)).astype("f") * scale
        pads = {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [stride] * 2}
        nodes.append(helper.make_node("Conv", [last, weight], [f"c{layer}"], **pads))
        summed = f"c{layer}"
        if stride == 1 and width == channels:
            summed = f"s{layer}"
            nodes.append(helper.make_node("Add", [f"c{layer}", last], [summed]))
        last, channels = f"r{layer}", width
        nodes.append(helper.make_node("Relu", [summed], [last]))
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["p"]))
    nodes.append(helper.make_node("Flatten", ["p"], ["y"]))
    return save(path, nodes, ["N", 3, 224, 224], constants)


SAVERS = {"tiny": save_model, "image": save_image_model, "conv": save_conv_model}
IMAGE = (1, 3, 224, 224)


def request(model, shape=IMAGE, more=""):
    """Return the HTTP request for ``model``, whole; ``more`` are header lines."""
    tensor = {"name": "x", "datatype": "FP32"}
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: x\r\n{more}"
    if model == "tiny":
        tensor |= {"shape": [1, 4], "data": [0.1, 0.2, 0.3, 0.4]}
        body = json.dumps({"inputs": [tensor]}).encode()
        head += "Content-Type: application/json\r\n"
    else:
        raw = np.random.default_rng(3).standard_normal(shape).astype("f").tobytes()
        tensor |= {"shape": shape, "parameters": {"binary_data_size": len(raw)}}
        document = json.dumps({"inputs": [tensor]}).encode()
        body = document + raw
        head += "Content-Type: application/octet-stream\r\n"
        head += f"Inference-Header-Content-Length: {len(document)}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


# --- clients


class Connection(asyncio.Protocol):
    """A connection that sends a request and hears its answer, whole, before the next one."""

    def connection_made(self, transport):
        self._transport = transport
        self._received = b""

    def send(self, message):
        self._received = b""
        self._transport.write(message)

    def data_received(self, data):
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        if len(body) >= length:
            self.answered(head, body)


class Client(Connection):
    """One connection that asks again as soon as it has its answer."""

    def __init__(self, message, stop_at, durations_s):
        self._message = message
        self._stop_at = stop_at
        self._durations_s = durations_s
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        super().connection_made(transport)
        self._ask()

    def answered(self, head, body):
        now = time.perf_counter()
        self._durations_s.append(now - self._asked_at)
        if not head.startswith(b"HTTP/1.1 200"):
            self._finish(RuntimeError((head + b"\n" + body)[:500].decode(errors="replace")))
        elif now < self._stop_at:
            self._ask()
        else:
            self._finish(None)

    def connection_lost(self, exc):
        self._finish(exc or RuntimeError("the server closed the connection"))

    def _finish(self, error):
        if not self.done.done():
            if error is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(error)
        self._transport.close()

    def _ask(self):
        self._asked_at = time.perf_counter()
        self.send(self._message)


async def load_http(port, model, *, clients, seconds):
    return await load_with(port, request(model), clients=clients, seconds=seconds)


async def load_with(port, message, *, clients, seconds):
    loop = asyncio.get_running_loop()
    durations_s = []
    started_at = time.perf_counter()
    protocols = [Client(message, started_at + seconds, durations_s) for _ in range(clients)]
    for protocol in protocols:
        await loop.create_connection(lambda protocol=protocol: protocol, "127.0.0.1", port)
    await asyncio.gather(*(protocol.done for protocol in protocols))
    return durations_s, time.perf_counter() - started_at


async def load_grpc(port, model, *, clients, seconds):
    message = ModelInferRequest(model_name=model)
    message.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    message.raw_input_contents.append(np.array([0.1, 0.2, 0.3, 0.4], "f").tobytes())
    durations_s = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=ModelInferRequest.SerializeToString,
            response_deserializer=ModelInferResponse.FromString,
        )
        started_at = time.perf_counter()

        async def ask():
            while not durations_s or time.perf_counter() - started_at < seconds:
                asked_at = time.perf_counter()
                answer = await infer(message)
                durations_s.append(time.perf_counter() - asked_at)
                assert answer.raw_output_contents, answer

        await asyncio.gather(*(ask() for _ in range(clients)))
        return durations_s, time.perf_counter() - started_at


# --- servers


class Server:
    """A peer that runs; ``flags`` are of linnet-server."""

    def __init__(self, name, models, flags=()):
        self.name = name
        self.port, self.grpc_port = free_port(), free_port()
        pairs = [f"{model}={path}" for model, path in models.items()]
        if name == "linnet":
            command = [sys.executable, "-m", "linnet_server", "--allow-unverified"]
            command += ["--http", f"127.0.0.1:{self.port}", "--grpc", f"127.0.0.1:{self.grpc_port}"]
            command += [word for pair in pairs for word in ("--model", pair)]
            command += flags
        elif name == "bare":
            command = [sys.executable, "-m", "bench.peers.bare_asgi", str(self.port), *pairs]
        elif name == "bare_grpc":
            path = str(models["tiny"])
            command = [sys.executable, "-m", "bench.peers.bare_grpc", str(self.grpc_port), path]
        else:
            module = f"bench.peers.{name}_server"
            command = [environment(name), "-m", module, str(self.port), *pairs]
        self.start(command)

    def start(self, command):
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait_ready(self, load, port, model="tiny"):
        return run(self.first_answer(partial(load, port, model, clients=1, seconds=0)))

    async def first_answer(self, ask):
        """Return what ``ask`` gives once it gives anything."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                return await ask()
            except (OSError, RuntimeError, IndexError, grpc.aio.AioRpcError):
                await asyncio.sleep(0.05)
        raise RuntimeError(f"{self.name} does not answer (exit code {self.process.poll()})")

    def usage(self):
        """Return CPU seconds and resident MiB of the process and its children."""
        ticks, pages = 0, 0
        for pid in descendants(self.process.pid):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGESIZE") / 2**20

    def stop(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, 15)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, 9)
            self.process.wait()


def descendants(pid):
    found = [pid]
    for parent in found:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def run(coroutine):
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)


# --- measuring


def measure(servers, model, *, clients, seconds, rounds, load, port_of):
    """Return the figures of each server, rounds in turns; a peer that cannot do it is left out."""
    samples = {server.name: [] for server in servers}
    able = list(servers)
    for server in servers:
        try:  # warm
            run(load(port_of(server), model, clients=clients, seconds=seconds / 3))
        except (RuntimeError, OSError):
            if server.process.poll() is not None:
                raise RuntimeError(f"{server.name} ended with {server.process.poll()}") from None
            able.remove(server)
    for _ in range(rounds):
        for server in able:
            before_s, _ = server.usage()
            durations_s, took_s = run(
                load(port_of(server), model, clients=clients, seconds=seconds)
            )
            cpu_s = server.usage()[0] - before_s
            durations_s.sort()
            count = len(durations_s)
            samples[server.name].append(
                {
                    "rps": count / took_s,
                    "p50_ms": durations_s[count // 2] * 1e3,
                    "p99_ms": durations_s[int(count * 0.99)] * 1e3,
                    "cpu_ms": cpu_s / count * 1e3,
                }
            )
    return {
        name: {figure: statistics.median(one[figure] for one in runs) for figure in runs[0]}
        for name, runs in samples.items()
        if runs
    }


def start_all(names, models, stack):
    servers = []
    for name in names:
        try:
            server = Server(name, models)
        except MissingPeerError as error:
            print(f"   left out: {error}")
            continue
        stack.callback(server.stop)
        servers.append(server)
    return servers


def measure_all(options):
    result = {"workloads": {}, "memory_mib": {}}
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        models = {name: saver(Path(directory) / f"{name}.onnx") for name, saver in SAVERS.items()}
        servers = start_all([name for name in PEERS if name in options.peers], models, stack)
        for server in servers:
            server.wait_ready(load_http, server.port)
            result["memory_mib"][server.name] = server.usage()[1]
        timing = {"seconds": options.seconds, "rounds": options.rounds}
        for workload, (model, clients) in WORKLOADS.items():
            print(f"   {workload} ...", flush=True)
            result["workloads"][workload] = measure(
                servers,
                model,
                clients=clients,
                load=load_http,
                port_of=lambda server: server.port,
                **timing,
            )
        (bare,) = start_all(["bare_grpc"], models, stack)
        bare.wait_ready(load_grpc, bare.grpc_port)
        ours = [server for server in servers if server.name == "linnet"]
        for workload, clients in GRPC_WORKLOADS.items():
            print(f"   {workload} ...", flush=True)
            result["workloads"][workload] = measure(
                [*ours, bare],
                "tiny",
                clients=clients,
                load=load_grpc,
                port_of=lambda server: server.grpc_port,
                **timing,
            )
    return result


def render(result):
    lines = []
    for workload, figures in result["workloads"].items():
        lines += ["", f"{workload:<44}{'rps':>8}{'p50 ms':>9}{'p99 ms':>9}{'CPU ms':>9}{'ours':>7}"]
        ours = figures.get("linnet", {}).get("rps")
        for name, row in figures.items():
            ratio = f"{ours / row['rps']:.2f}x" if ours else ""
            lines.append(
                f"  {NAMES[name]:<42}{row['rps']:>8.0f}{row['p50_ms']:>9.3f}{row['p99_ms']:>9.3f}"
                f"{row['cpu_ms']:>9.3f}{ratio:>7}"
            )
        missing = [name for name in result["memory_mib"] if name not in figures]
        if missing and "bare_grpc" not in figures:
            lines.append(f"  cannot do it: {', '.join(NAMES[name] for name in missing)}")
    lines += ["", "resident memory, three models loaded, MiB"]
    for name, mib in result["memory_mib"].items():
        lines.append(f"  {NAMES[name]:<42}{mib:>8.1f}")
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m bench.server", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each, in turns")
    parser.add_argument("--peers", default=",".join(PEERS), help="which, with commas")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args(argv)
    result = measure_all(options)
    print(json.dumps(result, indent=2) if options.json else render(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
