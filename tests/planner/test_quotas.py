"""How many nodes a step may ask for: integers, rounded up, never falling, never the control."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnet_api.rollout_policy import RolloutPolicySpec, Step
from linnet_operator.planner.quotas import control_count, longest_bake, merged, quota

shares = st.one_of(st.integers(0, 50), st.integers(0, 100).map(lambda percent: f"{percent}%"))
shapes = st.lists(shares, min_size=1, max_size=6)


def policy(*nodes, control="5%", bakes=None):
    bakes = bakes or ["10m"] * len(nodes)
    return RolloutPolicySpec(
        steps=tuple(Step(nodes=n, bake=b) for n, b in zip(nodes, bakes, strict=True)),
        control=control,
    )


@pytest.mark.parametrize(
    ("nodes", "eligible", "wanted"),
    [
        ("15%", 10, 2),
        ("1%", 3, 1),
        ("0%", 10, 0),
        (0, 10, 0),
        (1, 10, 1),
        (7, 3, 3),
        ("100%", 2, 2),
        ("50%", 0, 0),
    ],
)
def test_percent_is_ceil_and_zero_holds(nodes, eligible, wanted):
    got = quota(policy(nodes), 1, eligible_count=eligible, first_rollout=True)

    assert got == wanted


@pytest.mark.parametrize(
    ("control", "eligible", "wanted"),
    [
        ("5%", 2, 0),
        ("5%", 3, 1),
        ("5%", 9, 1),
        ("5%", 10, 2),
        ("5%", 40, 2),
        ("5%", 41, 3),
        ("5%", 1000, 50),
        (0, 1000, 0),
        ("0%", 1000, 0),
        (7, 40, 7),
        (100, 10, 9),
    ],
)
def test_control_group(control, eligible, wanted):
    got = control_count(
        policy("100%", control=control), eligible_count=eligible, first_rollout=False
    )

    assert got == wanted


def test_a_first_rollout_has_no_control_group():
    assert control_count(policy("100%"), eligible_count=100, first_rollout=True) == 0


def test_the_last_step_leaves_the_control_group_out():
    assert quota(policy(1, "100%"), 2, eligible_count=10, first_rollout=False) == 8


@given(shapes, st.integers(0, 200), st.booleans())
def test_rule_10_no_step_asks_for_fewer_nodes_than_the_one_before(nodes, eligible, first):
    steps = policy(*nodes)

    got = [
        quota(steps, step, eligible_count=eligible, first_rollout=first)
        for step in range(len(nodes) + 1)
    ]

    assert got == sorted(got)
    assert got[0] == 0
    assert all(0 <= count <= eligible for count in got)


@given(shapes, st.integers(1, 200))
def test_rule_13_a_control_group_is_left_by_every_step(nodes, eligible):
    steps = policy(*nodes)
    control = control_count(steps, eligible_count=eligible, first_rollout=False)

    last = quota(steps, len(nodes), eligible_count=eligible, first_rollout=False)

    assert last + control <= eligible
    assert (control > 0) == (eligible >= 3)


def test_equal_steps_are_one_and_bake_as_long_as_the_longest():
    steps = policy(1, "10%", "50%", bakes=["10m", "30m", "5m"])

    together = merged(steps, 1, eligible_count=10, first_rollout=False)

    assert together == steps.steps[:2]
    assert longest_bake(together).total_seconds() == 30 * 60


@given(shapes, st.integers(0, 60))
def test_merged_steps_cover_the_policy_without_a_gap(nodes, eligible):
    steps, at = policy(*nodes), 1
    while at <= len(nodes):
        at += len(merged(steps, at, eligible_count=eligible, first_rollout=False))

    assert at == len(nodes) + 1
