"""Who goes first is decided by lot."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from linnet_api.names import CANARY_LABEL
from linnet_api.node_model import NodeModelStatus
from linnet_api.reasons import NodeState
from linnet_operator.planner.cohort import bucket, by_lot
from linnet_operator.planner.model import NodeView

ZONE = "topology.kubernetes.io/zone"
uids = st.lists(st.text("abcdef0123456789", min_size=1, max_size=8), unique=True, max_size=30)


def node(uid, **labels):
    return NodeView(name=f"n-{uid}", uid=uid, labels=labels)


def names(nodes):
    return [one.name for one in nodes]


@given(uids, st.randoms())
def test_rule_13_the_lot_knows_neither_order_nor_health(found, shuffle):
    nodes = [node(uid) for uid in found]
    sick = [
        replace(
            one,
            heartbeat_at=datetime(2026, 1, 1, tzinfo=UTC),
            report=NodeModelStatus(state=NodeState.FAILED),
        )
        for one in nodes
    ]
    shuffle.shuffle(sick)

    assert names(by_lot(nodes, rollout_uid="r")) == names(by_lot(sick, rollout_uid="r"))


@given(uids, st.text("abc", min_size=1, max_size=4))
def test_a_late_joiner_moves_nobody(found, joiner):
    nodes = [node(uid) for uid in found]
    late = node(f"late-{joiner}")

    after = by_lot([*nodes, late], rollout_uid="r")

    assert [one for one in after if one is not late] == list(by_lot(nodes, rollout_uid="r"))


def test_another_rollout_draws_another_lot():
    nodes = [node(str(index)) for index in range(30)]

    assert by_lot(nodes, rollout_uid="a") != by_lot(nodes, rollout_uid="b")


def test_labelled_canaries_go_first():
    plain = [node(str(index)) for index in range(20)]
    canary = node("chosen", **{CANARY_LABEL: "preferred"})
    other = node("other", **{CANARY_LABEL: "no"})

    order = by_lot([*plain, canary, other], rollout_uid="r")

    assert order[0] is canary
    assert order[1] is not other or len(order) == 2 or bucket("r", "other") < 1


def test_every_prefix_is_spread_over_the_domains():
    nodes = [node(f"{zone}-{index}", **{ZONE: zone}) for zone in "abcd" for index in range(25)]

    order = by_lot(nodes, rollout_uid="r", spread_by=[ZONE])

    assert len(order) == 100
    for count in (4, 10, 20, 40):
        shares = Counter(one.labels[ZONE] for one in order[:count])
        assert max(shares.values()) - min(shares.get(zone, 0) for zone in "abcd") <= 2


def test_domains_of_unequal_size_are_spread_by_their_share():
    nodes = [node(f"big-{index}", **{ZONE: "big"}) for index in range(90)]
    nodes += [node(f"small-{index}", **{ZONE: "small"}) for index in range(10)]

    order = by_lot(nodes, rollout_uid="r", spread_by=[ZONE])

    small = sum(one.labels[ZONE] == "small" for one in order[:50])
    assert 4 <= small <= 6


def test_buckets_are_even():
    drawn = [bucket("r", str(index)) for index in range(1000)]

    assert all(0 <= lot < 1 for lot in drawn)
    assert 430 < sum(lot < 0.5 for lot in drawn) < 570


def test_the_lot_is_the_same_under_every_hash_seed():
    code = (
        "from linnet_operator.planner.cohort import by_lot\n"
        "from linnet_operator.planner.model import NodeView\n"
        "nodes = {NodeView(str(i), str(i)).name: NodeView(str(i), str(i)) for i in range(50)}\n"
        "print([n.name for n in by_lot((nodes[k] for k in set(nodes)), rollout_uid='r')])"
    )

    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }

    assert len(said) == 1
