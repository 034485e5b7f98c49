"""What the server costs above a bare ASGI loop over the same runtime: `python -m bench.server`.

Both run side by side in one run, in turns, on the same machine, with the same client, one model of
four floats. The figures are ratios first; absolute ones are of this machine, whose cores the client
shares with the server.
"""

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import uvloop
from onnx import TensorProto, helper, numpy_helper

BODY = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0.1, 0.2, 0.3, 0.4]}]}
).encode()


class Client(asyncio.Protocol):
    """One connection that asks again as soon as it has its answer."""

    def __init__(self, path, stop_at, durations_s):
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(BODY)}\r\n\r\n"
        self._request = head.encode() + BODY
        self._stop_at = stop_at
        self._durations_s = durations_s
        self._answer = b""
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self._transport = transport
        self._ask()

    def data_received(self, data):
        self._answer += data
        head, separator, body = self._answer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        if len(body) < length:
            return
        now = time.perf_counter()
        self._durations_s.append(now - self._asked_at)
        if not head.startswith(b"HTTP/1.1 200"):
            self.done.set_exception(RuntimeError(self._answer.decode()))
        elif now < self._stop_at:
            self._ask()
        else:
            self._transport.close()
            self.done.set_result(None)

    def connection_lost(self, exc):
        if not self.done.done():
            self.done.set_exception(exc or RuntimeError("the server closed the connection"))

    def _ask(self):
        self._answer = b""
        self._asked_at = time.perf_counter()
        self._transport.write(self._request)


async def load(port, path, *, clients, seconds):
    """Return requests a second, p50 and p99 in milliseconds."""
    loop = asyncio.get_running_loop()
    durations_s = []
    started_at = time.perf_counter()
    protocols = [Client(path, started_at + seconds, durations_s) for _ in range(clients)]
    for protocol in protocols:
        await loop.create_connection(lambda protocol=protocol: protocol, "127.0.0.1", port)
    await asyncio.gather(*(protocol.done for protocol in protocols))
    took_s = time.perf_counter() - started_at
    durations_s.sort()
    p50, p99 = (durations_s[int(len(durations_s) * share)] * 1000 for share in (0.5, 0.99))
    return len(durations_s) / took_s, p50, p99


def save_model(path):
    rng = np.random.default_rng(7)
    shapes = {"w1": (4, 16), "w2": (16, 3)}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w1"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "w2"], ["y"]),
        ],
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [
            numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
            for name, shape in shapes.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, path)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def wait_listening(process, port):
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
            continue
        try:
            return run(load(port, "/v2/models/m/infer", clients=1, seconds=0))
        except RuntimeError:  # it loads
            time.sleep(0.02)
    raise RuntimeError(f"{process.args} ended with {process.returncode}")


def resident_mib(process):
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m bench.server", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each, in turns")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as directory:
        model = Path(directory) / "m.onnx"
        save_model(model)
        result = measure(model, seconds=options.seconds, rounds=options.rounds)
    print(json.dumps(result, indent=2) if options.json else render(result))
    return 0


def measure(model, *, seconds, rounds):
    ports = {"linnet": free_port(), "bare": free_port()}
    server = ["-m", "linnet_server", "--model", f"m={model}", "--allow-unverified"]
    commands = {
        "linnet": [*server, "--http", f"127.0.0.1:{ports['linnet']}"],
        "bare": ["-m", "bench.bare_asgi", str(model), str(ports["bare"])],
    }
    processes = {
        name: subprocess.Popen([sys.executable, *command], stderr=subprocess.DEVNULL)
        for name, command in commands.items()
    }
    try:
        result = {name: {} for name in commands}
        for name, process in processes.items():
            wait_listening(process, ports[name])
            run(load(ports[name], "/v2/models/m/infer", clients=16, seconds=seconds / 3))
        for clients in (1, 16):
            samples = {name: [] for name in commands}
            for _ in range(rounds):
                for name in commands:
                    figures = load(
                        ports[name], "/v2/models/m/infer", clients=clients, seconds=seconds
                    )
                    samples[name].append(run(figures))
            for name, runs in samples.items():
                rps, p50_ms, p99_ms = (
                    statistics.median(column) for column in zip(*runs, strict=True)
                )
                result[name][f"c{clients}"] = {"rps": rps, "p50_ms": p50_ms, "p99_ms": p99_ms}
        for name, process in processes.items():
            result[name]["rss_mib"] = resident_mib(process)
        return result
    finally:
        for process in processes.values():
            process.terminate()
            process.wait()


def run(coroutine):
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)


def render(result):
    rows = [("", "linnet-server", "bare ASGI", "ratio")]
    for clients in ("c1", "c16"):
        for figure, unit in (("rps", "requests/s"), ("p50_ms", "p50 ms"), ("p99_ms", "p99 ms")):
            ours, bare = (result[name][clients][figure] for name in ("linnet", "bare"))
            digits = 0 if figure == "rps" else 3
            rows.append(row(f"{clients[1:]} clients, {unit}", ours, bare, digits))
    rows.append(row("RSS, MiB", result["linnet"]["rss_mib"], result["bare"]["rss_mib"], 1))
    return "\n".join(f"{a:<24}{b:>15}{c:>12}{d:>8}" for a, b, c, d in rows)


def row(name, ours, bare, digits):
    return name, f"{ours:.{digits}f}", f"{bare:.{digits}f}", f"{ours / bare:.2f}"


if __name__ == "__main__":
    sys.exit(main())
