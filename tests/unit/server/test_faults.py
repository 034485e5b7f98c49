"""The process on a bad day: models that never load, never end, eat memory or crash; kill -9."""

import concurrent.futures
import contextlib
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

X = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0, 0, 0, 0]}
INFER = "/v2/models/defects/infer"
CONTROL = "/control/models/factory/defects"
ENDLESS = 10_000
"""Products of matrices that take some minutes to fold."""


def number(n):
    return {"inputs": [{"name": "n", "datatype": "INT64", "shape": [], "data": [n]}]}


def served(client):
    answer = client.post(INFER, json={"inputs": [X]})
    assert answer.status_code == 200, answer.text
    document = answer.json()
    return document["parameters"]["revision"], document["outputs"][0]["data"][0]


def swap(agent, node, directory):
    path = {"path": str(directory)}
    agent.put(f"{CONTROL}/staged", json=path).raise_for_status()
    node.set_current(directory)
    agent.post(f"{CONTROL}/activate", json={"revision": directory.name}).raise_for_status()


def resident_mib(server):
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def weights(mib, bias):
    """y = x + a weight that x chooses: all of them have to be there."""

    def build(path, models):
        values = np.full(mib << 18, bias, np.float32)
        models.save_model(
            path,
            [
                helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
                helper.make_node("Cast", ["most"], ["at"], to=TensorProto.INT64),
                helper.make_node("Gather", ["weights", "at"], ["some"]),
                helper.make_node("Add", ["x", "some"], ["y"]),
            ],
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
            [numpy_helper.from_array(values, "weights")],
        )

    return build


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "budget_mib"),
    [pytest.param([], 80, id="REST"), pytest.param(["--grpc", "127.0.0.1:0"], 90, id="gRPC")],
)
def test_an_idle_server_keeps_to_its_budget(node, models, start_server, flags, budget_mib):
    node.set_current(node.add(models.adder(1)))
    server = start_server(node.root, *flags)

    assert resident_mib(server) < budget_mib + 3  # a tiny model's session


@pytest.mark.slow
def test_swaps_give_their_memory_back(node, models, start_server):
    first, second = (
        node.add(lambda path, bias=bias: weights(16, bias)(path, models), revision=f"r{bias}")
        for bias in (1, 2)
    )
    node.set_current(first)
    server = start_server(node.root)
    sizes = []
    with server.client() as client, server.agent() as agent:
        for directory in [second, first] * 24:
            swap(agent, node, directory)
            assert served(client)[0] == directory.name  # feedback remembers it
            server.wait_for("server.freed")
            sizes.append(resident_mib(server))

    # A revision that anything holds on to costs 16 MiB a swap; its arena alone, 1 MiB.
    assert max(sizes[-8:]) - max(sizes[4:12]) < 12, sizes


@pytest.mark.slow
def test_a_model_that_never_loads_is_a_verdict_and_holds_up_neither_others_nor_the_end(
    node, models, start_server
):
    node.set_current(node.add(models.adder(1)))
    endless = node.add(models.slow_to_load(ENDLESS), revision="r2")
    other = node.add(models.adder(3), revision="r3")
    server = start_server(node.root, "--load-timeout-s", "1")
    with server.client() as client, server.agent() as agent:
        refused = agent.put(f"{CONTROL}/staged", json={"path": str(endless)})
        before = served(client)
        swap(agent, node, other)
        after = served(client)

    assert (refused.status_code, refused.json()["reason"]) == (422, "LoadFailed")
    assert (before, after) == (("r1", 1), ("r3", 3))
    assert server.stop() == 0


@pytest.mark.slow
def test_a_current_that_never_loads_is_reported_and_the_others_serve(node, models, start_server):
    node.set_current(node.add(models.slow_to_load(ENDLESS), deployment="aaa"))
    node.set_current(node.add(models.adder(1)))
    server = start_server(node.root, "--load-timeout-s", "1")
    with server.client() as client, server.agent() as agent:
        states = {m["deployment"]: m for m in agent.get("/control/models").json()["models"]}

        assert (states["aaa"]["state"], states["aaa"]["reason"]) == ("Failed", "LoadFailed")
        assert served(client) == ("r1", 1)


@pytest.mark.slow
def test_runs_that_never_end_hold_up_neither_another_deployment_nor_the_end(
    node, models, start_server
):
    node.set_current(node.add(models.looper, deployment="hog"))
    node.set_current(node.add(models.adder(1)))
    server = start_server(node.root, "--max-queue", "1", "--drain-s", "0.5")
    with (
        server.client() as client,
        concurrent.futures.ThreadPoolExecutor(3) as threads,
    ):
        asks = [
            threads.submit(httpx.post, f"{server.url}/v2/models/hog/infer", json=number(2**62))
            for _ in range(3)
        ]
        refused = next(concurrent.futures.as_completed(asks)).result()
        others = [served(client) for _ in range(50)]

        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert others == [("r1", 1)] * 50
        assert server.stop() == 0
        left = [ask for ask in asks if not isinstance(ask.exception(20), httpx.HTTPError)]
        assert [ask.result() for ask in left] == [refused]


@pytest.mark.slow
def test_a_model_that_eats_memory_gets_an_error_and_the_server_lives(node, models, start_server):
    node.set_current(node.add(models.eater))
    server = start_server(node.root, "--max-memory-bytes", str(1 << 30))
    n = {"name": "n", "datatype": "INT64", "shape": [1], "data": [1 << 29]}
    with server.client() as client:
        eats = [client.post(INFER, json={"inputs": [n]}).status_code for _ in range(3)]
        n["data"] = [1000]
        sane = client.post(INFER, json={"inputs": [n]})

    assert eats == [500] * 3
    assert sane.json()["outputs"][0]["data"] == [1000]


@pytest.mark.slow
def test_after_a_native_crash_the_others_are_back_and_the_culprit_is_named(
    node, models, start_server
):
    """Weights that lie beside the model are mapped: a file that shrinks is a SIGBUS."""

    def build(path):
        weights(8, 1)(path, models)
        model = onnx.load(path)
        onnx.save(model, path, save_as_external_data=True, location="weights.bin")

    node.set_current(node.add(models.adder(1)))
    broken = node.add(build, deployment="broken")
    node.set_current(broken)
    server = start_server(node.root)
    with (broken / "model" / "weights.bin").open("r+b") as file:
        file.truncate(0)
    with server.client() as client, pytest.raises(httpx.HTTPError):
        client.post("/v2/models/broken/infer", json={"inputs": [X]})

    assert server.process.wait(20) == -signal.SIGBUS
    again = start_server(node.root)
    with again.client() as client, again.agent() as agent:
        states = {m["deployment"]: m for m in agent.get("/control/models").json()["models"]}

        assert served(client) == ("r1", 1)
        assert (states["broken"]["state"], states["broken"]["reason"]) == ("Failed", "LoadFailed")


@pytest.mark.slow
def test_killed_under_load_it_is_back_and_ready_from_disk(node, models, start_server):
    node.set_current(node.add(models.adder(1)))
    server = start_server(node.root)
    answers, under_load = [], threading.Semaphore(0)

    def ask_until_it_is_gone():
        with server.client() as client:
            while True:
                try:
                    answer = client.post(INFER, json={"inputs": [X]})
                except httpx.HTTPError:
                    return
                answers.append((answer.status_code, answer.json()["outputs"][0]["data"]))
                under_load.release()

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        for _ in range(4):
            threads.submit(ask_until_it_is_gone)
        for _ in range(100):
            assert under_load.acquire(timeout=20)
        killed = server.stop(signal.SIGKILL)
    again = start_server(node.root)

    assert killed == -signal.SIGKILL
    assert all(answer == (200, [1, 1, 1, 1]) for answer in answers)
    with again.client() as client:
        assert client.get("/v2/health/ready").status_code == 200
        assert served(client) == ("r1", 1)


@pytest.mark.slow
def test_a_full_disk_below_its_log_does_not_stop_the_server(node, models, tmp_path):
    node.set_current(node.add(models.adder(1)))
    ports = tmp_path / "ports"
    command = [sys.executable, "-m", "linnet_server", "--root", str(node.root), "--access-log"]
    command += ["--http", "127.0.0.1:0", "--port-file", str(ports)]
    with Path("/dev/full").open("w") as full, subprocess.Popen(command, stderr=full) as process:
        try:
            asked_until = time.monotonic() + 60
            while not ports.exists() and time.monotonic() < asked_until:
                assert process.poll() is None
            url = f"http://127.0.0.1:{ports.read_text().strip()}"
            with httpx.Client(base_url=url, timeout=20) as client:
                while client.get("/v2/health/ready").status_code != 200:
                    assert process.poll() is None
                answers = [served(client) for _ in range(100)]
        finally:
            process.terminate()
        code = process.wait(20)

    assert answers == [("r1", 1)] * 100
    assert code == 0


@pytest.mark.slow
@pytest.mark.parametrize("place", ["/dev/full/ports", "/proc/ports"])
def test_a_port_file_that_cannot_be_written_is_a_sentence(tmp_path, place):
    command = [sys.executable, "-m", "linnet_server", "--root", str(tmp_path)]
    command += ["--http", "127.0.0.1:0", "--port-file", place]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert f"cannot write {place}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_out_of_file_descriptors_it_lives_and_serves_on_when_there_are_some(
    node, models, start_server
):
    node.set_current(node.add(models.adder(1)))
    server = start_server(node.root)
    taken = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
    limit = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(server.client())
        assert served(first) == ("r1", 1)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (taken + 8, limit[1]))
        port = int(server.ports[0])
        for _ in range(64):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
        assert [served(first) for _ in range(20)] == [("r1", 1)] * 20
    with server.client() as client:
        assert served(client) == ("r1", 1)
    assert server.stop() == 0
