"""A node whose memory holds one model: it says so, or takes the old one out first where it may."""

import json
import re
import resource

import httpx
import numpy as np
import pytest
from agent_child import held_bytes
from crashlab.node import KEY, KILLED, Node, Publisher, wait_until
from onnx import TensorProto, helper, numpy_helper

from linnet_agent.selftest import run_self_test
from linnet_api.reasons import NodeReason, NodeState

pytestmark = [pytest.mark.slow, pytest.mark.crash]

TABLE_BYTES = 64 << 20
SPARE_BYTES = 100 << 20
"""Less than the server wants to load such a model (112 MiB); with what one holds, enough."""

R1, R2 = ("heavy-1", 2.0), ("heavy-2", 3.0)


def build_heavy(directory, factor):
    """Write a model that holds a table which it needs: y = x * table[x]."""
    directory.mkdir(parents=True)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])
    table = np.full(TABLE_BYTES // 4, factor, "f4")
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "i"], ["f"]),
        helper.make_node("Mul", ["x", "f"], ["y"]),
    ]
    weights = [numpy_helper.from_array(table, "table")]
    graph = helper.make_graph(nodes, "g", [x], [y], initializer=weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 10
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    golden = {
        "inputs": {"x": {"datatype": "FP32", "shape": [1], "data": [2]}},
        "outputs": {"y": {"datatype": "FP32", "shape": [1], "data": [2 * factor]}},
    }
    (directory / "golden.json").write_text(json.dumps(golden))


class HeavyPublisher(Publisher):
    """Its models are as large as a node can hold."""

    def build(self, directory, factor):
        build_heavy(directory, factor)


@pytest.fixture(scope="module")
def heavy(tmp_path_factory, registry):
    return HeavyPublisher(tmp_path_factory.mktemp("heavy"), registry)


@pytest.fixture
def node(tmp_path, heavy):
    """A node that serves r1; its server may hold no more than that and a little."""
    node = Node(tmp_path / "node", heavy)
    node.first = node.order(*R1, sequence=10)
    node.start_server()
    node.start_agent()
    node.wait_active(node.first)
    yield node
    node.stop()


def leave_to_the_server(node, spare_bytes):
    """Let the server's private memory grow by so much, and no more."""
    pid = node.server.pid
    _, hard = resource.prlimit(pid, resource.RLIMIT_DATA)
    resource.prlimit(pid, resource.RLIMIT_DATA, (held_bytes(pid) + spare_bytes, hard))


def change_order(node, **desired):
    """Add to the order on the disk, as another rollout gives it, and let the agent find it."""
    path = node.root / "desired" / f"{KEY}.json"
    item = json.loads(path.read_text())
    item["spec"]["desired"] |= desired
    name = f"digits-{item['spec']['sequence']}"
    item["spec"]["rollout"] = {"name": name, "uid": name, "step": 1}
    path.write_text(json.dumps(item))


def start_again(node, **how):
    if node.agent.poll() is None:
        node.agent.kill()
    node.agent.wait(timeout=30)
    return node.start_agent(**how)


def end_of(agent, node):
    """Return how the agent has ended."""
    wait_until(lambda: agent.poll() is not None, what=node.tail, timeout_s=60)
    return agent.poll()


def assert_gone_for_a_moment(node):
    """Whoever asks now is told to come back."""
    answer = node.ask([2.0])
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1"), answer.text
    ready = httpx.get(f"http://127.0.0.1:{node.port}/v2/health/ready", trust_env=False)
    assert ready.status_code == 503


def server_log(node):
    return (node.home / "linnet_server.log").read_text()


def test_two_that_do_not_fit_are_refused_without_a_word_that_allows_an_outage(node):
    leave_to_the_server(node, SPARE_BYTES)

    second = node.order(*R2, sequence=20, baseline=R1)
    start_again(node)
    node.wait_state(NodeState.FAILED, second)

    journal = node.journal()
    assert journal.reason is NodeReason.NO_MEMORY
    assert re.search(r"loading it takes up to 112 MiB; \d+ MiB can be had", journal.message)
    assert "spec.swap: Replace" in journal.message
    assert "linnet retry digits -n factory" in journal.message
    assert "server.replacing" not in server_log(node)
    assert node.answer(2.0) == (4.0, node.first)


def test_where_it_may_the_old_one_makes_room_and_clients_are_told_to_come_back(node):
    leave_to_the_server(node, SPARE_BYTES)

    second = node.order(*R2, sequence=20, baseline=R1)
    change_order(node, swap="Replace")
    assert end_of(start_again(node, crash_at="done.Stage:1"), node) == KILLED
    assert_gone_for_a_moment(node)
    node.start_agent()
    node.wait_active(second)

    assert node.answer(2.0) == (6.0, second)
    assert server_log(node).count("server.replacing") == 1


def test_an_order_back_that_comes_in_between_brings_the_old_one_back(node):
    leave_to_the_server(node, SPARE_BYTES)
    node.order(*R2, sequence=20, baseline=R1)
    change_order(node, swap="Replace")
    assert end_of(start_again(node, crash_at="done.Stage:1"), node) == KILLED
    assert_gone_for_a_moment(node)

    node.order(*R1, sequence=30)
    node.start_agent()

    node.wait_active(node.first)
    wait_until(lambda: node.ask([2.0]).status_code == 200, what=node.tail)
    assert node.answer(2.0) == (4.0, node.first)


async def needed_bytes(node, revision):
    """Return what a self-test of a revision measures."""
    model = node.directory.revision_path(revision) / "model"
    report = await run_self_test(model.resolve(), "model.onnx", timeout_s=120)
    return report.memory_bytes


async def short_of_memory(node, *, short_bytes):
    """Return the word to an agent's child: beside what serves, so much lacks for a self-test."""
    left = await needed_bytes(node, node.first) * 4 // 3 - short_bytes
    pid = node.server.pid
    return ("env", f"LINNET_CRASH_MEMORY={pid}:{(held_bytes(pid) + left) >> 20}")


async def test_where_not_even_the_self_test_fits_the_old_one_makes_room_for_that(node):
    little = await short_of_memory(node, short_bytes=TABLE_BYTES // 2)
    second = node.order(*R2, sequence=20, baseline=R1)
    start_again(node, tracer=little)
    node.wait_state(NodeState.FAILED, second)
    assert node.journal().reason is NodeReason.NO_MEMORY
    assert "that this node has left" in node.journal().message
    assert node.answer(2.0) == (4.0, node.first)

    second = node.order(*R2, sequence=30, baseline=R1)
    change_order(node, swap="Replace")
    agent = start_again(node, crash_at="done.SelfTest:1", tracer=little)
    assert end_of(agent, node) == KILLED
    assert_gone_for_a_moment(node)
    node.start_agent(tracer=little)
    node.wait_active(second)

    assert node.answer(2.0) == (6.0, second)


async def test_what_made_room_for_a_self_test_comes_back_where_that_was_not_enough(node):
    little = await short_of_memory(node, short_bytes=2 * TABLE_BYTES)

    second = node.order(*R2, sequence=20, baseline=R1)
    change_order(node, swap="Replace")
    start_again(node, tracer=little)
    node.wait_state(NodeState.FAILED, second)

    assert node.journal().reason is NodeReason.NO_MEMORY
    assert server_log(node).count("server.replacing") == 1
    assert node.answer(2.0) == (4.0, node.first)
