"""The self-test's child, for real: nearly every test starts one, so all are slow."""

import asyncio
import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from linnet_agent import selftest
from linnet_agent.confine import NETWORK_NAMESPACE, SECCOMP
from linnet_agent.errors import (
    BudgetExceededError,
    ContentRefusedError,
    NoMemoryError,
    NotDeterministicError,
    NotOnnxError,
    SelfTestCrashedError,
    SelfTestFailedError,
    SelfTestTimeoutError,
    SelfTestUnavailableError,
)
from linnet_agent.selftest import Budget, read_verdict, run_self_test
from linnet_testbed.waiting import until

pytestmark = pytest.mark.slow

READY = b"ready\n"


def write(
    directory,
    nodes,
    *,
    shape=(1, 4),
    answer=None,
    initializers=(),
    kind=TensorProto.FLOAT,
    answer_kind=TensorProto.FLOAT,
):
    x = helper.make_tensor_value_info("x", kind, shape)
    ys = [helper.make_tensor_value_info("y", answer_kind, answer)]
    graph = helper.make_graph(nodes, "g", [x], ys, initializer=initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 10
    (directory / "model.onnx").write_bytes(model.SerializeToString())


def double(directory):
    two = numpy_helper.from_array(np.array(2, "f4"), "two")
    write(directory, [helper.make_node("Mul", ["x", "two"], ["y"])], initializers=[two])


def write_golden(directory, answer, **more):
    golden = {
        "inputs": {"x": {"datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}},
        "outputs": {"y": {"datatype": "FP32", "shape": [1, 4], "data": answer}},
    }
    (directory / "golden.json").write_text(json.dumps(golden | more))


def constant(name, value, dtype):
    return numpy_helper.from_array(np.array(value, dtype), name)


async def run(directory, **more):
    return await run_self_test(directory, "model.onnx", **{"timeout_s": 60} | more)


async def refused(directory, error, match, **more):
    with pytest.raises(error, match=match):
        await run(directory, **more)


# --- what is well


async def test_a_good_model_passes_and_is_measured(tmp_path):
    double(tmp_path)

    report = await run(tmp_path)

    assert (report.ran, report.golden) == (True, False)
    assert {NETWORK_NAMESPACE, SECCOMP} & set(report.confined)
    assert 0 < report.load_s < 60
    assert 0 <= report.latency_s < 1
    assert 0 <= report.memory_bytes < 64 << 20


async def test_free_dimensions_are_tried_in_two_sizes(tmp_path):
    write(tmp_path, [helper.make_node("Relu", ["x"], ["y"])], shape=["n", 4], answer=["n", 4])
    assert (await run(tmp_path)).ran

    three = constant("s", [1, 4], "i8")
    write(
        tmp_path,
        [helper.make_node("Reshape", ["x", "s"], ["y"])],
        shape=["n", 4],
        initializers=[three],
    )
    await refused(tmp_path, SelfTestFailedError, "fails when it is run")


async def test_a_model_that_wants_room_gets_it(tmp_path):
    pool = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[16, 16])
    write(tmp_path, [pool], shape=["n", 1, "h", "w"])

    assert (await run(tmp_path)).ran


async def test_a_model_that_no_made_up_input_suits_is_loaded_only(tmp_path):
    seven = constant("s", [7, 7], "i8")
    write(
        tmp_path,
        [helper.make_node("Reshape", ["x", "s"], ["y"])],
        shape=["a", "b"],
        initializers=[seven],
    )

    assert not (await run(tmp_path)).ran


@pytest.mark.parametrize(
    "kind", [TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL, TensorProto.FLOAT16]
)
async def test_inputs_of_other_types_are_made_up(tmp_path, kind):
    write(tmp_path, [helper.make_node("Identity", ["x"], ["y"])], kind=kind, answer_kind=kind)

    assert (await run(tmp_path)).ran


# --- golden samples


async def test_golden_samples_are_compared_within_their_tolerance(tmp_path):
    double(tmp_path)
    write_golden(tmp_path, [2.0005, 4, 6, 8], tolerance=1e-2)
    assert (await run(tmp_path)).golden

    write_golden(tmp_path, [2.5, 4, 6, 8], tolerance=1e-2)
    await refused(tmp_path, SelfTestFailedError, "off its golden value by 0.5")


async def test_a_golden_sample_may_say_that_an_output_is_not_finite(tmp_path):
    write(tmp_path, [helper.make_node("Log", ["x"], ["y"])])
    golden = {
        "inputs": {"x": {"datatype": "FP32", "shape": [1, 4], "data": [1, 0, -1, 1]}},
        "outputs": {"y": {"datatype": "FP32", "shape": [1, 4], "data": [0, "-Infinity", "NaN", 0]}},
    }
    (tmp_path / "golden.json").write_text(json.dumps(golden))

    assert (await run(tmp_path)).golden


async def test_golden_outputs_that_the_model_does_not_have_fail(tmp_path):
    double(tmp_path)
    write_golden(tmp_path, [2, 4, 6, 8])
    text = (tmp_path / "golden.json").read_text()
    (tmp_path / "golden.json").write_text(text.replace('"y"', '"z"'))

    await refused(tmp_path, SelfTestFailedError, "not there")


# --- what is wrong


@pytest.mark.parametrize("text", ["{", '{"inputs": {}}', '{"inputs": {"x": 1}, "outputs": {}}'])
async def test_a_golden_file_that_cannot_be_read_fails(tmp_path, text):
    double(tmp_path)
    (tmp_path / "golden.json").write_text(text)

    await refused(tmp_path, SelfTestFailedError, r"golden\.json")


async def test_an_output_that_is_not_finite_fails(tmp_path):
    nodes = [helper.make_node("Neg", ["x"], ["n"]), helper.make_node("Sqrt", ["n"], ["y"])]
    write(tmp_path, nodes)

    await refused(tmp_path, SelfTestFailedError, "NaN or Inf")


async def test_an_output_that_is_not_as_declared_fails(tmp_path):
    write(tmp_path, [helper.make_node("Identity", ["x"], ["y"])], shape=[4, "n"], answer=["m", 7])

    await refused(tmp_path, SelfTestFailedError, "declared as float32")


async def test_a_file_that_is_no_onnx_is_told_apart(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"GGUF" * 100)

    await refused(tmp_path, NotOnnxError, "not an ONNX file")


async def test_an_operator_that_is_unknown_fails(tmp_path):
    write(tmp_path, [helper.make_node("Levitate", ["x"], ["y"])])

    await refused(tmp_path, SelfTestFailedError, "cannot load")


async def test_external_data_outside_the_model_is_never_opened(tmp_path):
    double(tmp_path)
    model = onnx.load(tmp_path / "model.onnx")
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())

    await refused(tmp_path, ContentRefusedError, "secret")


async def test_a_model_that_answers_otherwise_each_time_is_told_apart(tmp_path):
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["r"]),
        helper.make_node("Add", ["x", "r"], ["y"]),
    ]
    write(tmp_path, nodes)
    await refused(tmp_path, NotDeterministicError, "differs between two runs")

    write_golden(tmp_path, [0, 0, 0, 0], tolerance=100, deterministic=False)
    assert (await run(tmp_path)).golden


# --- crash, endless loop, too much: each its own word, and the agent lives


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86 traps what overflows")
async def test_a_model_that_crashes_its_process_is_a_verdict(tmp_path):
    least, minus = constant("least", -(2**63), "i8"), constant("minus", -1, "i8")
    nodes = [
        helper.make_node("Sub", ["x", "x"], ["zero"]),
        helper.make_node("Add", ["zero", "least"], ["a"]),
        helper.make_node("Add", ["zero", "minus"], ["b"]),
        helper.make_node("Div", ["a", "b"], ["y"]),
    ]
    kind = TensorProto.INT64
    write(tmp_path, nodes, kind=kind, answer_kind=kind, initializers=[least, minus])

    await refused(tmp_path, SelfTestCrashedError, "SIGFPE")


def endless(directory):
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["c"], ["c2"]),
            helper.make_node("Sin", ["v"], ["v2"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("c2", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v2", TensorProto.FLOAT, None),
        ],
    )
    loop = helper.make_node("Loop", ["trips", "go", "x"], ["y"], body=body)
    write(directory, [loop], initializers=[constant("go", 1, "?"), constant("trips", 2**62, "i8")])


async def test_a_model_that_never_ends_is_given_up(tmp_path, born):
    endless(tmp_path)

    await refused(tmp_path, SelfTestTimeoutError, "within 2 s", timeout_s=2)
    assert not born()


def expand(directory, elements):
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Expand", ["s", "shape"], ["y"]),
    ]
    write(directory, nodes, initializers=[constant("shape", [elements], "i8")])


async def test_a_model_that_wants_the_machines_memory_at_once_is_over_its_budget(tmp_path):
    expand(tmp_path, 40_000_000_000)

    await refused(tmp_path, BudgetExceededError, "wants more than the")


async def test_a_model_that_fills_memory_is_over_its_budget(tmp_path, born):
    expand(tmp_path, 150_000_000)
    assert (await run(tmp_path)).memory_bytes > 600_000_000

    await refused(tmp_path, BudgetExceededError, "256 MiB", budget=Budget(memory_bytes=256 << 20))
    assert not born()


async def test_a_little_over_the_memory_is_over(tmp_path):
    expand(tmp_path, 20_000_000)

    await refused(
        tmp_path, BudgetExceededError, "beside its runtime", budget=Budget(memory_bytes=64 << 20)
    )


async def test_a_model_that_is_too_slow_is_over_its_budget(tmp_path):
    expand(tmp_path, 1_000_000)

    await refused(tmp_path, BudgetExceededError, "median", budget=Budget(latency_s=1e-6))
    assert (await run(tmp_path, budget=Budget(latency_s=60))).latency_s > 1e-6


@pytest.fixture
def born():
    """Return what tells the children that this process has got since the test began."""
    before = set(children())
    return lambda: [child for child in children() if child not in before]


def children(pid=None):
    pid = pid or os.getpid()
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


# --- what the child says


def test_a_signal_has_its_word():
    with pytest.raises(SelfTestCrashedError, match="SIGSEGV"):
        read_verdict(-signal.SIGSEGV, READY, b"")
    with pytest.raises(SelfTestTimeoutError, match="CPU"):
        read_verdict(-signal.SIGXCPU, READY, b"")
    with pytest.raises(NoMemoryError, match="kernel"):
        read_verdict(-signal.SIGKILL, READY, b"")
    with pytest.raises(BudgetExceededError, match="memory"):
        read_verdict(-signal.SIGABRT, READY, b"terminate called: std::bad_alloc\n")


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"{",
        b"[]",
        b'{"reason": ""}',
        b'{"reason": "", "message": "", "measured": 1}',
        b"x" * 70_000,
    ],
)
def test_a_child_that_says_nothing_sound_has_crashed(said):
    with pytest.raises(SelfTestCrashedError, match="last words"):
        read_verdict(0, READY + said, b"first\nlast words\n")


def test_a_child_that_fails_has_crashed_whatever_it_has_said():
    with pytest.raises(SelfTestCrashedError):
        read_verdict(1, READY + b'{"reason": "", "message": "", "measured": {}}', b"")


# --- what is not the model's fault


@pytest.mark.parametrize(
    ("code", "words"),
    [(1, "ended with 1 "), (-signal.SIGSEGV, "SIGSEGV"), (-signal.SIGKILL, "SIGKILL")],
)
@pytest.mark.parametrize("said", [b"", b"read"])
def test_a_child_that_ends_before_it_comes_to_the_model_says_nothing_of_it(code, words, said):
    with pytest.raises(SelfTestUnavailableError, match=words) as caught:
        read_verdict(code, said, b"ImportError: cannot map the library\n")

    assert "cannot map the library" in str(caught.value)
    assert caught.value.transient


async def test_a_node_that_can_start_no_process_has_said_nothing_of_the_model(tmp_path):
    double(tmp_path)
    code = (
        "import asyncio, pathlib, resource, sys\n"
        "from linnet_agent.selftest import run_self_test\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9))\n"
        "asyncio.run(run_self_test(pathlib.Path(sys.argv[1]), 'model.onnx', timeout_s=60))\n"
    )
    agent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, str(tmp_path)), stderr=asyncio.subprocess.PIPE
    )
    _, said = await agent.communicate()

    assert b"SelfTestUnavailableError: the self-test cannot be started: " in said, said.decode()
    assert b"Too many open files" in said


def instead_of_python(tmp_path, monkeypatch, script):
    path = tmp_path / "instead"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(path))


async def test_a_child_that_has_no_memory_to_load_its_libraries_blames_nobody(
    tmp_path, monkeypatch
):
    double(tmp_path)
    instead_of_python(tmp_path, monkeypatch, f'ulimit -v 60000; exec {sys.executable} "$@"')

    await refused(tmp_path, SelfTestUnavailableError, "before it came to the model")


async def test_without_its_interpreter_the_test_is_not_the_models_fault(tmp_path, monkeypatch):
    double(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))

    await refused(tmp_path, SelfTestUnavailableError, "cannot be started: .*No such file")


async def test_a_child_that_never_comes_to_the_model_is_no_slow_model(tmp_path, monkeypatch):
    double(tmp_path)
    instead_of_python(tmp_path, monkeypatch, "exec sleep 600")

    await refused(tmp_path, SelfTestUnavailableError, "had not begun", timeout_s=0.5)


async def test_a_model_that_takes_what_the_node_has_left_is_told_apart(tmp_path, monkeypatch):
    expand(tmp_path, 150_000_000)
    monkeypatch.setattr(selftest, "available_bytes", lambda: 256 << 20)

    await refused(tmp_path, NoMemoryError, "192 MiB that this node has left")
    budget = Budget(memory_bytes=1 << 30)
    await refused(tmp_path, NoMemoryError, "256 MiB that this node has left", budget=budget)


def test_a_child_dies_with_the_agent(tmp_path):
    endless(tmp_path)
    code = (
        "import asyncio, pathlib, sys; from linnet_agent.selftest import run_self_test; "
        "asyncio.run(run_self_test(pathlib.Path(sys.argv[1]), 'model.onnx', timeout_s=600))"
    )
    agent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    until(lambda: children(agent.pid), 60, "it has a child")
    child = children(agent.pid)[0]
    until(lambda: b"selftest_child" in Path(f"/proc/{child}/cmdline").read_bytes(), 60)
    until(lambda: confined(child), 60, "the child has given up what it has")

    agent.kill()
    agent.wait()

    until(lambda: not alive(child), 30, "the child is gone")


def confined(pid):
    return "Seccomp:\t2" in Path(f"/proc/{pid}/status").read_text()


def alive(pid):
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


async def test_a_self_test_that_is_cancelled_leaves_nothing_behind(tmp_path, born):
    endless(tmp_path)
    task = asyncio.ensure_future(run(tmp_path, timeout_s=600))
    await asyncio.to_thread(until, born, 60, "it has a child")

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not born()
