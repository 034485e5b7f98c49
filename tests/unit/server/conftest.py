"""Real ONNX models, real directories, real processes for the server's tests."""

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from linnet_server.catalog import AGENT_SILENCE_S, Catalog
from linnet_server.control import ControlApp
from linnet_server.dataplane import DataPlane, number_ids
from linnet_server.http1 import Request, Response
from linnet_server.loading import Loader
from linnet_server.metrics import Metrics
from linnet_server.public import PublicApp


def save_model(path, nodes, inputs, outputs, constants=()):
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, path)


def adder(bias):
    """y = x + bias, and label: the row's argmax, for x of 4 floats a row."""

    def build(path):
        save_model(
            path,
            [
                helper.make_node("Add", ["x", "b"], ["y"]),
                helper.make_node("ArgMax", ["y"], ["label"], axis=1, keepdims=0),
            ],
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
            [
                helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4]),
                helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
            ],
            [numpy_helper.from_array(np.array([bias], np.float32), "b")],
        )

    return build


def identity(kind, dims=("N",)):
    """y = x, for one ONNX element type."""

    def build(path):
        save_model(
            path,
            [helper.make_node("Identity", ["x"], ["y"])],
            [helper.make_tensor_value_info("x", kind, list(dims))],
            [helper.make_tensor_value_info("y", kind, list(dims))],
        )

    return build


def lookup(rows):
    """y = table[i]: an index beyond ``rows`` fits the metadata and makes the runtime raise."""

    def build(path):
        save_model(
            path,
            [helper.make_node("Gather", ["table", "i"], ["y"])],
            [helper.make_tensor_value_info("i", TensorProto.INT64, ["N"])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])],
            [numpy_helper.from_array(np.arange(rows, dtype=np.float32), "table")],
        )

    return build


def looper(path):
    """y = x multiplied n times by a 64 x 64 matrix: n says how long it takes."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["m_in", "w"], ["m_out"]),
            helper.make_node("Identity", ["cond_in"], ["cond_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("k", TensorProto.INT64, []),
            helper.make_tensor_value_info("cond_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("m_in", TensorProto.FLOAT, [64, 64]),
        ],
        [
            helper.make_tensor_value_info("cond_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("m_out", TensorProto.FLOAT, [64, 64]),
        ],
    )
    save_model(
        path,
        [
            helper.make_node("Loop", ["n", "", "w"], ["m"], body=body),
            helper.make_node("ReduceSum", ["m"], ["y"], keepdims=0),
        ],
        [helper.make_tensor_value_info("n", TensorProto.INT64, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(np.eye(64, dtype=np.float32), "w")],
    )


def slow_to_load(products, bias=1):
    """y = x + bias, and ``products`` of 1024 x 1024 matrices that the runtime folds at load."""

    def build(path):
        size = 1024
        eye = numpy_helper.from_array(np.array([1 / size], np.float32))
        save_model(
            path,
            [
                helper.make_node("ConstantOfShape", ["shape"], ["m0"], value=eye),
                *(
                    helper.make_node("MatMul", [f"m{i}", "m0"], [f"m{i + 1}"])
                    for i in range(products)
                ),
                helper.make_node("ReduceMean", [f"m{products}"], ["mean"], keepdims=0),
                helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
                helper.make_node("Add", ["x", "nothing"], ["same"]),
                helper.make_node("Add", ["same", "b"], ["y"]),
            ],
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
            [
                numpy_helper.from_array(np.array([size, size], np.int64), "shape"),
                numpy_helper.from_array(np.array(0, np.float32), "zero"),
                numpy_helper.from_array(np.array([bias], np.float32), "b"),
            ],
        )

    return build


def eater(path):
    """y = the sum of n floats: n says how much memory it takes."""
    one = numpy_helper.from_array(np.array([1], np.float32))
    save_model(
        path,
        [
            helper.make_node("ConstantOfShape", ["n"], ["m"], value=one),
            helper.make_node("ReduceSum", ["m"], ["y"], keepdims=0),
        ],
        [helper.make_tensor_value_info("n", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
    )


@dataclasses.dataclass
class NodeRoot:
    """The directory of a node, written as the agent writes it."""

    root: Path

    def add(
        self,
        build,
        *,
        revision="r1",
        number=1,
        deployment="defects",
        namespace="factory",
        serving_name=None,
        file="model.onnx",
        **more,
    ):
        draft = self.root / "store" / "draft"
        draft.mkdir(parents=True)
        build(draft / file)
        digest = hashlib.sha256((draft / file).read_bytes()).hexdigest()
        store = self.root / "store" / digest
        if store.exists():
            (draft / file).unlink()
            draft.rmdir()
        else:
            draft.rename(store)
        directory = self.root / "models" / namespace / deployment / "revisions" / revision
        directory.mkdir(parents=True)
        (directory / "model").symlink_to(f"../../../../../store/{digest}")
        record = {
            "namespace": namespace,
            "deployment": deployment,
            "revision": revision,
            "number": number,
            "modelDigest": f"sha256:{digest}",
            "artifactDigest": "sha256:" + "0" * 64,
            "servingName": serving_name or deployment,
            "runtime": "Linnet",
            "threads": 1,
            "instances": 1,
            "variant": "onnx",
            "file": file,
            **more,
        }
        (directory / "serving.json").write_text(json.dumps(record))
        return directory

    def set_current(self, directory):
        link = directory.parent.parent / "current"
        draft = link.with_name("current.tmp")
        draft.symlink_to(f"revisions/{directory.name}")
        draft.rename(link)


class Server:
    """A `linnet-server` process."""

    def __init__(self, root, tmp_path, *flags):
        self.control = root / "run" / "server.sock"
        self._port_file = tmp_path / "port"
        self._port_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "linnet_server", "--root", str(root)]
        command += ["--http", "127.0.0.1:0", "--port-file", str(self._port_file), *flags]
        self.process = subprocess.Popen(
            ["env", f"HOME={tmp_path}", *command], stderr=subprocess.PIPE, text=True
        )
        self.log = []
        self.wait_for("server.booted")
        self.ports = self._port_file.read_text().split()
        self.url = f"http://127.0.0.1:{self.ports[0]}"

    def wait_for(self, event):
        for line in self.process.stderr:
            self.log.append(json.loads(line))
            if self.log[-1]["event"] == event:
                return self.log[-1]
        raise AssertionError(f"no {event}; the server said {self.log}")

    def client(self):
        return httpx.Client(base_url=self.url, timeout=20)

    def agent(self):
        transport = httpx.HTTPTransport(uds=str(self.control))
        return httpx.Client(base_url="http://server", transport=transport, timeout=20)

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        code = self.process.wait(20)
        self.process.stderr.close()
        return code


class Direct(httpx.AsyncBaseTransport):
    """Hands a request to an application without a socket."""

    def __init__(self, respond):
        self._respond = respond

    async def handle_async_request(self, request):
        headers = {name.lower(): value for name, value in request.headers.raw}
        body = await request.aread()
        answer = self._respond(Request(request.method, request.url.path, headers, body))
        if not isinstance(answer, Response):
            answer = await answer
        return httpx.Response(answer.status, headers=list(answer.headers), content=answer.body)


@dataclasses.dataclass
class Bench:
    """Both applications in this process, without sockets."""

    catalog: Catalog
    client: httpx.AsyncClient
    agent: httpx.AsyncClient
    stopping: asyncio.Event

    async def activate(self, directory):
        path = f"/control/models/{directory.parents[2].name}/{directory.parents[1].name}"
        staged = await self.agent.put(f"{path}/staged", json={"path": str(directory)})
        assert staged.status_code == 200, staged.text
        answer = await self.agent.post(f"{path}/activate", json={"revision": directory.name})
        assert answer.status_code == 200, answer.text

    async def samples(self):
        text = (await self.client.get("/metrics")).text
        return dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")

    async def outcomes(self, revision="r1"):
        samples = await self.samples()
        return {
            outcome: float(value)
            for outcome in ("success", "failure", "rejected")
            for name, value in samples.items()
            if name.startswith("linnet_inference_requests_total")
            and f'revision="{revision}"' in name
            and f'outcome="{outcome}"' in name
        }


@pytest.fixture
def models():
    return sys.modules[__name__]


@pytest.fixture
def node(tmp_path):
    return NodeRoot(tmp_path / "linnet")


@pytest.fixture
def start_server(tmp_path):
    servers = []

    def start(root, *flags):
        place = tmp_path / f"server{len(servers)}"
        place.mkdir()
        servers.append(Server(root, place, *flags))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
        server.process.stderr.close()


@pytest.fixture
def open_bench(node):
    @contextlib.asynccontextmanager
    async def bench(
        *,
        max_queue=16,
        deadline_s=10.0,
        drain_s=5.0,
        load_timeout_s=60.0,
        batch=None,
        available=lambda: None,
        silence_s=AGENT_SILENCE_S,
        extra=(),
    ):
        metrics = Metrics()
        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            loader = Loader(
                max_threads=2,
                max_queue=max_queue,
                timeout_s=load_timeout_s,
                batch=batch,
                available=available,
            )
            catalog = Catalog(
                metrics,
                loader,
                spawn=tasks.create_task,
                drain_s=drain_s,
                silence_s=silence_s,
            )
            plane = DataPlane(catalog, deadline_s=deadline_s, new_id=number_ids("bench"))
            public = PublicApp(plane, metrics, stopping=stopping)
            control = ControlApp(catalog, node.root)
            await catalog.boot(node.root, list(extra))
            async with (
                httpx.AsyncClient(
                    transport=Direct(public.respond), base_url="http://server"
                ) as client,
                httpx.AsyncClient(
                    transport=Direct(control.respond), base_url="http://server"
                ) as agent,
            ):
                yield Bench(catalog, client, agent, stopping)
            await catalog.close()

    return bench
