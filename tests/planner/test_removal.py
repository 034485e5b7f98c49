"""What a deletion means for nodes: the turns of a deployment with ``removal: Unload``."""

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from linnet_api.model_deployment import ModelDeploymentSpec
from linnet_api.names import UNLOAD_FINALIZER
from linnet_api.node_model import Desired, NodeModelSpec, NodeModelStatus, NodeRef
from linnet_api.reasons import NodeReason, NodeState
from linnet_api.rollout_policy import BUILT_IN
from linnet_operator.planner.model import (
    DeploymentView,
    DropOrder,
    NodeView,
    Order,
    RecordDeployment,
    Resolved,
    SetFinalizers,
)
from linnet_operator.planner.plan import plan
from linnet_operator.planner.removal import is_over

NOW = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
DIGEST = f"sha256:{'1' * 64}"
SOURCE = "oci://r.test/m/digits:1"
ACTIVE = Desired(state="Active", revision="abcdefgh", number=1, source=SOURCE, artifact=DIGEST)
ABSENT = Desired(state="Absent")


def deployment(removal="Unload", *, deleting=True, finalizers=(UNLOAD_FINALIZER,), **spec):
    return DeploymentView(
        namespace="factory",
        name="defects",
        uid="uid-defects",
        generation=3,
        spec=ModelDeploymentSpec(
            source=SOURCE, nodes={"matchLabels": {"a": "b"}}, removal=removal, **spec
        ),
        resource_version="7",
        deleting=deleting,
        finalizers=finalizers,
    )


def node(name, desired=ACTIVE, *, state=NodeState.ACTIVE, seen=2, sequence=5, reason=None):
    """Return a node that has an order; ``seen``: seconds since its heartbeat; None: never."""
    return NodeView(
        name=name,
        uid=f"uid-{name}",
        runtimes=("Linnet",),
        heartbeat_at=None if seen is None else NOW - timedelta(seconds=seen),
        order=NodeModelSpec(
            deployment="defects",
            node=NodeRef(name=name, uid=f"uid-{name}"),
            sequence=5,
            desired=desired,
        ),
        report=NodeModelStatus(observed_sequence=sequence, state=state, reason=reason),
    )


def gone(name, **how):
    return node(name, ABSENT, state=NodeState.ABSENT, **how)


def turn(view, *nodes):
    return plan(
        now=NOW,
        deployment=view,
        policy=BUILT_IN,
        resolved=Resolved(SOURCE, DIGEST),
        revisions=(),
        rollout=None,
        nodes=nodes,
        evidence=None,
    )


def of(made, kind):
    return [write for write in made.writes if isinstance(write, kind)]


def test_with_keep_there_is_never_a_finalizer():
    kept = deployment("Keep", deleting=False, finalizers=())

    assert not of(turn(kept, node("edge-1")), SetFinalizers)
    assert turn(dataclasses.replace(kept, deleting=True), node("edge-1")).writes == ()


def test_with_unload_the_finalizer_stands_before_any_order_and_orders_lose_their_owner():
    made = turn(deployment(deleting=False, finalizers=("people.example/own",)), node("edge-1"))

    order, hold = made.writes
    assert (order.owned, order.spec.desired, order.spec.sequence) == (False, ACTIVE, 5)
    assert hold == SetFinalizers("defects", "7", ("people.example/own", UNLOAD_FINALIZER))


def test_a_new_order_under_unload_has_no_owner():
    made = turn(deployment(), node("edge-1"))

    assert [order.owned for order in of(made, Order)] == [False]


@pytest.mark.parametrize("deleting", [False, True])
def test_back_to_keep_takes_the_finalizer_away_and_tells_nobody(deleting):
    made = turn(deployment("Keep", deleting=deleting), node("edge-1"))

    order, free = made.writes
    assert (order.owned, order.spec.desired) == (True, ACTIVE)
    assert free == SetFinalizers("defects", "7", ())


def test_all_are_told_at_once_paused_or_not_connected_or_not():
    made = turn(deployment(paused=True), *(node(f"edge-{n}", seen=n * 100) for n in range(30)))

    orders = of(made, Order)
    assert len(orders) == 30
    assert {order.spec.desired.state for order in orders} == {"Absent"}
    assert all(order.spec.sequence > 5 for order in orders)
    assert not of(made, SetFinalizers)


@pytest.mark.parametrize(
    ("last", "waits"),
    [
        (gone("edge-2"), False),
        (gone("edge-2", sequence=4), True),  # an older Absent is no acknowledgement
        (node("edge-2", ABSENT), True),
        (node("edge-2", ABSENT, seen=599), True),  # away, but not for deferAfter
        (node("edge-2", ABSENT, seen=601), False),
        (node("edge-2", ABSENT, seen=None), False),
    ],
    ids=["absent", "stale", "serves", "away", "lost", "never seen"],
)
def test_it_waits_for_whom_it_can_hear(last, waits):
    made = turn(deployment(), gone("edge-1"), last)

    assert bool(of(made, SetFinalizers)) is not waits
    assert (made.waiting_for is not None) is waits
    if waits:
        assert made.waiting_for.reason == "Unloading"
        assert made.waiting_for.short == "1 of 2 unloaded"
        assert "waits for edge-2" in made.waiting_for.message
        assert made.recheck_after is not None


def test_who_is_lost_is_named_and_keeps_its_order():
    served = node("edge-2", ABSENT)
    waiting = turn(deployment(), gone("edge-1"), served, node("edge-9", ABSENT, seen=9999))
    assert "at first contact: edge-9" in waiting.waiting_for.message

    made = turn(deployment(), gone("edge-1"), node("edge-9", ABSENT, seen=9999))

    assert [drop.node for drop in of(made, DropOrder)] == ["edge-1"]
    assert isinstance(made.writes[-1], SetFinalizers)


def test_who_cannot_unload_is_named_with_its_reason():
    stuck = node("edge-2", ABSENT, state=NodeState.FAILED, reason=NodeReason.SERVER_UNAVAILABLE)

    made = turn(deployment(), stuck)

    assert "edge-2: ServerUnavailable" in made.waiting_for.message
    assert "removal: Keep lets it go" in made.waiting_for.message


def test_rule_11_waiting_writes_once():
    view, serving = deployment(), node("edge-2", ABSENT)
    (said,) = of(turn(view, serving), RecordDeployment)

    again = turn(dataclasses.replace(view, status=said.status), serving)

    assert again.writes == ()
    assert again.waiting_for is not None


def test_nobody_to_tell_lets_go_at_once():
    assert turn(deployment()).writes == (SetFinalizers("defects", "7", ()),)


@pytest.mark.parametrize(
    ("order", "exists", "uid", "over"),
    [
        (gone("edge-9"), False, "uid-edge-9", True),
        (gone("edge-9"), True, "uid-edge-9", False),
        (node("edge-9", ABSENT), False, "uid-edge-9", False),
        (node("edge-9", ABSENT), False, None, True),
        (node("edge-9", ABSENT), False, "uid-reinstalled", True),
        (node("edge-9"), False, None, False),
    ],
    ids=["done", "again wanted", "still to hear", "node gone", "reinstalled", "no order to unload"],
)
def test_when_an_order_that_outlived_its_deployment_is_over(order, exists, uid, over):
    assert is_over(order.order, order.report, deployment_exists=exists, node_uid=uid) is over
