"""An agent at rest, and an agent that goes back to the version before with the network cut."""

import hashlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench.agent.measuring import Line
from bench.fleet import FIRST
from linnet_cli.publish.keys import generate_key
from linnet_cli.publish.push import push_model
from linnet_cli.publish.sign import sign_model
from linnet_testbed import Testbed, ports
from linnet_testbed.demo import digits
from linnet_testbed.demo.stage import Stage
from linnet_testbed.registry import running_registry

HOST = "registry.testbed"
_LIMIT_S = 120
_HEARTBEAT = "10s"
"""The agent's default; a testbed's own is a fifth of it."""

_IDLE_S = 40
_SETTLE_S = 5


def measure_idle(scratch, *, size, runs):
    """Measure an agent that has committed a model, connected to a real API server."""
    del size, runs
    key = generate_key()
    Testbed.remove("bench-agent")
    bed = Testbed.up(name="bench-agent", nodes=1, heartbeat=_HEARTBEAT)
    try:
        stage = Stage(bed, scratch, digits.load(), key, key, scratch / "counts")
        bed.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "factory"}})
        bed.apply(FIRST)
        digest = stage.publish("1.0")
        stage.trust(key[1])
        stage.deploy("1.0", policy="first")
        wait_until(lambda: set(stage.serving().values()) == {digest}, "the model is served")
        time.sleep(_SETTLE_S)
        pid = bed.nodes[0].agent.pid
        used, began = _cpu_s(pid), time.monotonic()
        time.sleep(_IDLE_S)
        share = (_cpu_s(pid) - used) / (time.monotonic() - began)
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20
    finally:
        bed.down()
    return [
        Line("idle: resident memory of the agent", resident, "MiB", 60),
        Line(f"idle: of one core, a heartbeat each {_HEARTBEAT}", 100 * share, "%", 0.5),
    ]


def measure_revert(scratch, *, size, runs):
    """Let a version fail in its soak, with neither API server nor registry, and time the way back.

    From the moment at which the agent's journal says that it goes back until the version before
    answers; and from the first failed answer on, which includes the agent's own look each second.
    """
    del size
    private, public = generate_key()
    decided, felt = [], []
    for run in range(runs):
        node = HublessNode(_made(scratch / f"node-{run}"), public.decode())
        with node.running():
            with running_registry(_made(scratch / f"registry-{run}")) as url:
                models = _made(scratch / f"models-{run}")
                good = publish(models, "good", counter=1, url=url, key=private)
                bad = publish(models, "bad", counter=2, url=url, key=private)
                node.order(good, counter=1)
                node.start_agent(url)
                node.wait_state("Active", good)
                for _ in range(20):
                    node.ask()
                node.order(bad, counter=2, soak_s=600)
                node.start_agent(url)
                node.wait_state("Soaking", bad)
            one, other = node.time_way_back(to=good)  # the registry is gone; a hub never was
            decided.append(one)
            felt.append(other)
    return [
        Line("revert: from the decision to an answer", statistics.median(decided), "s", 1.0),
        Line("revert: slowest of all", max(decided), "s", 1.0),
        Line("revert: from the first failed answer on", statistics.median(felt), "s"),
    ]


@dataclass(frozen=True)
class Published:
    """An artifact in the registry."""

    source: str
    digest: str

    @property
    def revision(self):
        return hashlib.sha256(self.digest.encode()).hexdigest()[:10]


def publish(directory, name, *, counter, url, key):
    """Build, sign and push a model that doubles; ``bad`` fails on an odd number of rows."""
    nodes = [helper.make_node("Mul", ["x", "factor"], ["y" if name == "good" else "z"])]
    constants = [numpy_helper.from_array(np.array(2.0, "f4"), "factor")]
    if name == "bad":
        constants.append(numpy_helper.from_array(np.array([2, -1], "i8"), "pairs"))
        nodes.append(helper.make_node("Reshape", ["z", "pairs"], ["y"]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y], initializer=constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, _made(directory / name) / "model.onnx")
    # Two rows: what the self-test sees is well.
    golden = {
        "inputs": {"x": {"datatype": "FP32", "shape": [2], "data": [1, 2]}},
        "outputs": {
            "y": {"datatype": "FP32", "shape": [2] if name == "good" else [2, 1], "data": [2, 4]}
        },
    }
    (directory / name / "golden.json").write_text(json.dumps(golden))
    bundle = sign_model(directory / name, model="factory/m", counter=counter, private_key_pem=key)
    source = f"oci://{HOST}/models/m:{name}"
    return Published(
        source, push_model(directory / name, to=source, bundle=bundle, mirrors={HOST: url})
    )


class HublessNode:
    """A real agent and a real server whose orders lie on the disk; nobody answers as a hub."""

    def __init__(self, home, public_key):
        self._home = home
        self._root = home / "root"
        self._port = ports.any_free()
        self._socket = home / "sock"
        self._agent = None
        for name in ("trust", "desired"):
            (self._root / name).mkdir(parents=True)
        authority = {"name": "release", "key": {"publicKeyPEM": public_key}}
        policies = {"release": {"authorities": [authority]}}
        (self._root / "trust" / "policies.json").write_text(json.dumps(policies))

    @contextmanager
    def running(self):
        address = f"127.0.0.1:{self._port}"
        server = self._start("linnet_server", "--http", address, "--control", self._socket)
        try:
            yield
        finally:
            for process in (self._agent, server):
                if process is not None:
                    process.kill()
                    process.wait()

    def start_agent(self, registry_url):
        """Start the agent, anew where it runs: an order on the disk is read at the start."""
        if self._agent is not None:
            self._agent.terminate()
            self._agent.wait()
        self._agent = self._start(
            "linnet_agent",
            *("--node", "edge-1", "--api-server", "http://127.0.0.1:9"),
            *("--server-socket", self._socket, "--metrics", "127.0.0.1:0"),
            *("--registry-mirror", f"{HOST}={registry_url}", "--ceiling", self._home / "none"),
            *("--token-file", self._home / "none", "--ca-file", self._home / "none"),
        )

    def _start(self, module, *flags):
        with (self._home / f"{module}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", module, "--root", self._root, *flags],
                stdout=log,
                stderr=log,
            )

    def order(self, published, *, counter, soak_s=0):
        """Write the order for a model, as the agent itself keeps what it has heard."""
        desired = {
            "state": "Active",
            "revision": published.revision,
            "number": counter,
            "source": published.source,
            "artifact": published.digest,
            "serving": {"name": "m"},
        }
        item = {
            "metadata": {"namespace": "factory", "name": "m-1", "generation": counter},
            "spec": {
                "deployment": "m",
                "node": {"name": "edge-1", "uid": "n1"},
                "sequence": counter,
                "desired": desired,
                "soak": {"seconds": soak_s},
            },
        }
        (self._root / "desired" / "factory.m.json").write_text(json.dumps(item))

    def journal(self):
        try:
            return json.loads((self._root / "models/factory/m/journal.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return {}

    def wait_state(self, state, published):
        def reached():
            journal = self.journal()
            order = journal.get("order") or {}
            return journal.get("state") == state and order.get("revision") == published.revision

        wait_until(reached, f"{published.source} is {state}")

    def ask(self, rows=2):
        """Return the revision that answered, None where it failed."""
        tensor = {"name": "x", "datatype": "FP32", "shape": [rows], "data": [1.0] * rows}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/v2/models/m/infer",
            json.dumps({"inputs": [tensor]}).encode(),
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 - loopback
                return json.load(response)["parameters"]["revision"]
        except urllib.error.HTTPError:
            return None

    def time_way_back(self, *, to):
        """Make the active version fail until another answers; return seconds since the decision,
        and since the first failed answer."""
        decided = []

        def watch():
            while not self.journal().get("revert"):
                time.sleep(0.001)
            decided.append(time.perf_counter())

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        began = time.perf_counter()
        wait_until(lambda: self.ask(rows=1) == to.revision, "the version before answers", 0.005)
        served = time.perf_counter()
        watcher.join(timeout=_LIMIT_S)
        return served - decided[0], served - began


def wait_until(condition, what, pause_s=0.05):
    deadline = time.monotonic() + _LIMIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {_LIMIT_S} s: {what}")
        time.sleep(pause_s)


def _made(directory):
    directory.mkdir()
    return directory


def _cpu_s(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
