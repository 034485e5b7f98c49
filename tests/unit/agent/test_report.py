from dataclasses import replace
from datetime import UTC, datetime

import pytest

from linnet_agent.activate import Problem, WorkerView
from linnet_agent.journal import Goal, Journal, Judged, Known, Order, SelfTested
from linnet_agent.model_host import in_steps
from linnet_agent.report import merge_patch, node_model_status
from linnet_agent.selftest import Budget
from linnet_agent.steps import Progress, budget_of
from linnet_agent.table import Alarm
from linnet_api.model_host import Capacity
from linnet_api.node_model import NodeModelStatus
from linnet_api.reasons import NodeReason, NodeState

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
KNOWN = Known(
    artifact="sha256:" + "a" * 64, model_digest="sha256:" + "b" * 64, serving_name="defects"
)


def view(state=NodeState.ACTIVE, reason=NodeReason.ACTIVE, *, problem=None, progress=None, **more):
    journal = Journal(
        observed_sequence=9,
        order=Order(sequence=9, goal=Goal.ACTIVE, revision="r2r2r2r2r2"),
        state=state,
        reason=reason,
        committed="r1r1r1r1r1",
        activated="r2r2r2r2r2",
        activated_at=NOON,
        known={"r1r1r1r1r1": KNOWN, "r2r2r2r2r2": KNOWN},
        **more,
    )
    return WorkerView(
        journal=journal,
        problem=problem,
        current="r2r2r2r2r2",
        previous="r1r1r1r1r1",
        complete=frozenset({"r1r1r1r1r1", "r2r2r2r2r2"}),
        progress=progress,
    )


def status(shown, before=()):
    return node_model_status(shown, generation=4, before=before, now=NOON)


def conditions(told):
    return {c.type: c.status for c in told.conditions}


def test_a_settled_order_is_ready_and_nothing_else():
    told = status(view())

    assert conditions(told) == {"Ready": "True"}
    assert (told.observed_generation, told.observed_sequence) == (4, 9)
    assert (told.state, told.revision) == (NodeState.ACTIVE, "r2r2r2r2r2")
    assert told.on_disk == ("r1r1r1r1r1", "r2r2r2r2r2")


def test_current_says_since_when_and_whether_the_node_has_committed_to_it():
    told = status(view(NodeState.SOAKING, NodeReason.WORKING))

    assert (told.current.activated_at, told.current.soaked) == (NOON, False)
    assert (told.previous.activated_at, told.previous.soaked) == (None, True)


def test_current_says_what_its_self_test_could_show():
    told = status(view())
    assert told.current.self_test is None

    shown = view()
    known = {
        name: replace(known, test=SelfTested.of(golden=False, ran=True))
        for name, known in shown.journal.known.items()
    }
    told = status(replace(shown, journal=replace(shown.journal, known=known)))
    assert told.current.self_test == "MadeUp"


@pytest.mark.parametrize(
    ("variant", "latency_s"),
    [
        ("onnx", 0.05),
        ("onnx-int8", 0.05),
        ("onnx-cuda", None),
        ("onnx-tensorrt-fp16", None),
        ("tensorrt", None),
    ],
)
def test_nobody_measures_on_a_cpu_how_fast_a_gpu_is(variant, latency_s):
    order = Order(sequence=1, goal=Goal.ACTIVE, memory_bytes=1 << 20, latency_s=0.05)

    assert budget_of(order, variant) == Budget(memory_bytes=1 << 20, latency_s=latency_s)


@pytest.mark.parametrize(
    ("state", "reason", "expected"),
    [
        (NodeState.FETCHING, NodeReason.WORKING, {"Ready": "Unknown", "Reconciling": "True"}),
        (
            NodeState.FETCHING,
            NodeReason.REGISTRY_UNAVAILABLE,
            {"Ready": "Unknown", "Reconciling": "True"},
        ),
        (NodeState.REFUSED, NodeReason.UNSIGNED, {"Ready": "False", "Stalled": "True"}),
        (NodeState.REVERTED, NodeReason.SOAK_FAILED, {"Ready": "False", "Stalled": "True"}),
        (
            NodeState.ACTIVE,
            NodeReason.SERVER_UNAVAILABLE,
            {"Ready": "Unknown", "Reconciling": "True"},
        ),
        (NodeState.STAGED, NodeReason.STAGED, {"Ready": "True"}),
        (NodeState.ABSENT, NodeReason.ABSENT, {"Ready": "True"}),
    ],
)
def test_every_state_has_its_place_in_the_status_grammar(state, reason, expected):
    assert conditions(status(view(state, reason))) == expected


def test_an_order_that_is_not_taken_up_is_told_beside_the_state_that_goes_on():
    problem = Problem(NodeReason.STALE_ORDER, "order 3 is older than 9")

    told = status(view(problem=problem))

    assert (told.state, told.reason) == (NodeState.ACTIVE, NodeReason.STALE_ORDER)
    assert conditions(told) == {"Ready": "False", "Stalled": "True"}


def test_the_verification_of_the_newest_order_is_told_with_its_facts():
    judged = Judged("r2r2r2r2r2", False, NodeReason.UNTRUSTED_KEY, "none", "f" * 64, NOON)

    told = status(view(NodeState.REFUSED, NodeReason.UNTRUSTED_KEY, judged=judged))

    assert told.verification.decision == "Refused"
    assert told.verification.reason == "UntrustedKey"
    assert told.verification.policy_hash == "f" * 64


def test_progress_is_told_while_fetching_only():
    progress = Progress(5, 10, 3, 2)
    fetching = status(view(NodeState.FETCHING, NodeReason.WORKING, progress=progress))
    testing = status(view(NodeState.SELF_TESTING, NodeReason.WORKING, progress=progress))

    assert (fetching.progress_bytes, fetching.total_bytes) == (5, 10)
    assert (fetching.progress_seconds, fetching.progress_bytes_per_second) == (3, 2)
    assert testing.progress_bytes is None


def test_rule_11_the_same_view_gives_the_same_status_later_on():
    first = status(view())
    read = NodeModelStatus.model_validate(first.to_dict())

    again = node_model_status(
        view(), generation=4, before=read.conditions, now=datetime(2027, 1, 1, tzinfo=UTC)
    )

    assert merge_patch(again.to_dict(), first.to_dict()) == {}


def test_a_merge_patch_removes_what_is_no_longer_so():
    before = {"state": "Refused", "message": "no", "current": {"revision": "r1", "soaked": True}}
    wanted = {"state": "Active", "current": {"revision": "r2"}}

    assert merge_patch(wanted, before) == {
        "state": "Active",
        "message": None,
        "current": {"revision": "r2", "soaked": None},
    }


@pytest.mark.parametrize(
    ("free", "told"),
    [
        pytest.param(500, 500, id="as it was"),
        pytest.param(460, 500, id="less than a step below"),
        pytest.param(590, 500, id="less than a step above its own"),
        pytest.param(440, 400, id="more than a step below"),
        pytest.param(610, 600, id="more than a step above"),
    ],
)
def test_rule_11_free_space_is_told_in_steps_that_do_not_flap(free, told):
    before = Capacity(total_bytes=1000, free_bytes=500)

    assert in_steps(total=1000, free=free, before=before).free_bytes == told


REVOKED = Alarm(NodeReason.REVOKED, "it was revoked")
CORRUPT = Alarm(NodeReason.CORRUPT, "it has rotted")


@pytest.mark.parametrize(
    ("alarm", "reason", "expected"),
    [
        pytest.param(REVOKED, "Revoked", {"Ready": "False", "Stalled": "True"}, id="revoked"),
        pytest.param(CORRUPT, "Corrupt", {"Ready": "Unknown", "Reconciling": "True"}, id="rotten"),
    ],
)
def test_an_alarm_is_told_of_what_serves(alarm, reason, expected):
    told = status(replace(view(), alarm=alarm))

    assert (told.state, told.reason, told.message) == (NodeState.ACTIVE, reason, alarm.message)
    assert conditions(told) == expected


def test_what_an_order_waits_for_is_told_before_an_alarm():
    told = status(replace(view(NodeState.FETCHING, NodeReason.DISK_FULL), alarm=CORRUPT))

    assert told.reason is NodeReason.DISK_FULL
