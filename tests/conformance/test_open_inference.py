"""Open Inference Protocol v2 against a real server process; no request fails in a swap.

The models are made here: y = x + bias, where the bias is the number of the revision, so that every
answer shows whether it comes from the revision that it names.
"""

import concurrent.futures
import hashlib
import json
import re
import subprocess
import sys
import threading

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

SWAPS = 20
CLIENTS = 8
ROOT = "/v2/models/digits"


def add_revision(root, number, *, ballast=0):
    """Write a revision as the agent does; ``ballast`` floats make it slower to load."""
    constants = [numpy_helper.from_array(np.array([number], np.float32), "b")]
    constants.append(numpy_helper.from_array(np.ones(ballast + 1, np.float32), "w"))
    nodes = [
        helper.make_node("Add", ["x", "b"], ["s"]),
        helper.make_node("ReduceMin", ["w"], ["one"], keepdims=0),
        helper.make_node("Mul", ["s", "one"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    payload = model.SerializeToString()
    digest = hashlib.sha256(payload).hexdigest()
    store = root / "store" / digest
    store.mkdir(parents=True)
    (store / "model.onnx").write_bytes(payload)
    directory = root / "models" / "vision" / "digits" / "revisions" / f"rev{number}"
    directory.mkdir(parents=True)
    (directory / "model").symlink_to(f"../../../../../store/{digest}")
    record = {
        "namespace": "vision",
        "deployment": "digits",
        "revision": directory.name,
        "number": number,
        "modelDigest": f"sha256:{digest}",
        "servingName": "digits",
        "file": "model.onnx",
    }
    (directory / "serving.json").write_text(json.dumps(record))
    return directory


def set_current(directory):
    link = directory.parents[1] / "current"
    draft = link.with_name("current.tmp")
    draft.symlink_to(f"revisions/{directory.name}")
    draft.rename(link)


@pytest.fixture
def root(tmp_path):
    set_current(add_revision(tmp_path / "linnet", 1))
    return tmp_path / "linnet"


@pytest.fixture
def url(root, tmp_path):
    port_file = tmp_path / "port"
    command = [sys.executable, "-m", "linnet_server", "--root", str(root)]
    command += ["--http", "127.0.0.1:0", "--port-file", str(port_file)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if json.loads(line)["event"] == "server.booted":
                break
        yield f"http://127.0.0.1:{port_file.read_text().strip()}"
        process.terminate()
        process.stderr.read()
        assert process.wait(20) == 0


@pytest.fixture
def client(url):
    with httpx.Client(base_url=url, timeout=20) as client:
        yield client


@pytest.fixture
def agent(root, url):
    assert url
    transport = httpx.HTTPTransport(uds=str(root / "run" / "server.sock"))
    with httpx.Client(base_url="http://server", transport=transport, timeout=60) as agent:
        yield agent


def swap_to(agent, directory):
    path = "/control/models/vision/digits"
    agent.put(f"{path}/staged", json={"path": str(directory)}).raise_for_status()
    set_current(directory)
    agent.post(f"{path}/activate", json={"revision": directory.name}).raise_for_status()


def request(rows):
    x = {"name": "x", "datatype": "FP32", "shape": [rows, 4], "data": [0.5] * 4 * rows}
    return {"inputs": [x]}


def check_answer(answer):
    """Return the revision that answered, after checking that the numbers are its own."""
    assert answer.status_code == 200, answer.text
    document = answer.json()
    revision = document["parameters"]["revision"]
    bias = int(revision.removeprefix("rev"))
    assert set(document["outputs"][0]["data"]) == {0.5 + bias}
    assert answer.headers["linnet-revision"] == revision
    assert document["model_version"] == revision
    return revision


@pytest.mark.slow
def test_the_endpoints_of_the_protocol(client):
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert set(client.get("/v2").json()) == {"name", "version", "extensions"}
    assert client.get(f"{ROOT}/ready").json() == {"name": "digits", "ready": True}
    assert client.get(f"{ROOT}/versions/rev1/ready").status_code == 200
    metadata = client.get(ROOT).json()
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert metadata["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}]
    assert check_answer(client.post(f"{ROOT}/infer", json=request(2))) == "rev1"


@pytest.mark.slow
def test_errors_have_the_form_of_the_protocol(client):
    for path, body, status in (
        (f"{ROOT}/infer", b"{", 400),
        (f"{ROOT}/infer", b"{}", 400),
        ("/v2/models/none/infer", b"{}", 404),
        (f"{ROOT}/versions/none/infer", b"{}", 404),
    ):
        answer = client.post(path, content=body)

        assert answer.status_code == status
        assert set(answer.json()) == {"error"}
        assert answer.headers["content-type"] == "application/json"


@pytest.mark.slow
def test_binary_tensors_go_both_ways(client):
    raw = np.full((3, 4), 0.5, np.float32).tobytes()
    tensor = {
        "name": "x",
        "datatype": "FP32",
        "shape": [3, 4],
        "parameters": {"binary_data_size": len(raw)},
    }
    head = json.dumps(
        {"inputs": [tensor], "outputs": [{"name": "y", "parameters": {"binary_data": True}}]}
    ).encode()

    answer = client.post(
        f"{ROOT}/infer",
        content=head + raw,
        headers={"Inference-Header-Content-Length": str(len(head))},
    )

    size = int(answer.headers["inference-header-content-length"])
    document = json.loads(answer.content[:size])
    assert document["outputs"][0]["parameters"]["binary_data_size"] == len(raw)
    assert np.frombuffer(answer.content[size:], np.float32).tolist() == [1.5] * 12


@pytest.mark.slow
def test_metrics_are_well_formed_and_count_what_was_asked(client):
    for _ in range(3):
        client.post(f"{ROOT}/infer", json=request(1))
    client.post(f"{ROOT}/infer", content=b"{")

    text = client.get("/metrics").text

    labels = 'deployment="digits",namespace="vision",outcome="{}",revision="rev1",variant="onnx"'
    for outcome, count in (("success", 3), ("failure", 0), ("rejected", 1)):
        series = labels.format(outcome)
        assert f"linnet_inference_requests_total{{{series}}} {count}.0" in text
        assert f"linnet_inference_duration_seconds_count{{{series}}} {count}.0" in text
    names = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    assert names == {
        "linnet_inference_requests_total",
        "linnet_inference_duration_seconds",
        "linnet_inference_feedback_total",
        "linnet_model_info",
        "linnet_model_memory_bytes",
        "linnet_queue_depth",
        "linnet_batch_rows",
        "linnet_swap_duration_seconds",
        "linnet_swap_stall_seconds",
        "linnet_trace_spans_total",
    }


@pytest.mark.slow
def test_no_request_fails_in_twenty_swaps_and_every_answer_is_of_the_revision_it_names(
    root, url, agent
):
    revisions = [add_revision(root, number, ballast=2_000_000) for number in range(2, 2 + SWAPS)]
    done = threading.Event()
    asked = threading.Barrier(CLIENTS + 1)

    def ask(rows):
        seen = []
        with httpx.Client(base_url=url, timeout=20) as client:
            asked.wait(20)
            while not done.is_set():
                seen.append(check_answer(client.post(f"{ROOT}/infer", json=request(rows))))
        return seen

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as threads:
        # One row runs on the server's loop, a thousand go through its threads.
        answers = [threads.submit(ask, 1 if n % 2 else 1000) for n in range(CLIENTS)]
        asked.wait(20)
        try:
            for directory in revisions:
                swap_to(agent, directory)
        finally:
            done.set()
        seen = [answer.result() for answer in answers]

    counts = [len(one) for one in seen]
    assert min(counts) > 0, counts
    for one in seen:
        numbers = [int(revision.removeprefix("rev")) for revision in one]
        assert numbers == sorted(numbers)
    assert len({revision for one in seen for revision in one}) > SWAPS // 2
    totals = count_totals(httpx.get(f"{url}/metrics").text)
    assert totals == {"success": sum(counts), "failure": 0, "rejected": 0}


@pytest.mark.slow
def test_a_swap_back_serves_the_old_answers_again(root, client, agent):
    first = root / "models" / "vision" / "digits" / "revisions" / "rev1"
    swap_to(agent, add_revision(root, 2))
    there = check_answer(client.post(f"{ROOT}/infer", json=request(1)))

    swap_to(agent, first)

    assert (there, check_answer(client.post(f"{ROOT}/infer", json=request(1)))) == ("rev2", "rev1")


def count_totals(text):
    totals = {"success": 0, "failure": 0, "rejected": 0}
    for line in text.splitlines():
        if line.startswith("linnet_inference_requests_total"):
            outcome = re.search(r'outcome="(\w+)"', line)[1]
            totals[outcome] += int(float(line.rsplit(" ", 1)[1]))
    return totals


def test_the_models_of_this_file_are_valid(tmp_path):
    directory = add_revision(tmp_path, 3)

    onnx.checker.check_model(str(directory / "model" / "model.onnx"))
