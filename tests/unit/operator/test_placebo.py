"""The placebo: nodes that have not changed are hardly ever taken back, and if so it is told."""

import pytest

from linnet_operator.judge.assess import MetricInputs, StepInputs
from linnet_operator.judge.compare import Detect, NodeCount
from linnet_operator.judge.learned import NodeHistory, learn
from linnet_operator.placebo import PlaceboTally, chance_of, groups_by_lot, judge_placebo

NODES = tuple(f"edge-{number:02}" for number in range(20))


def step(failures_of, *, requests=1000.0):
    """A step whose stable nodes had 1 % failures, and now have what ``failures_of`` says."""
    past = [
        NodeHistory(node=node, windows=((10.0, 1000.0),) * 24, recent=((1.0, 100.0),) * 24)
        for node in NODES
    ]
    rows = tuple(
        NodeCount(node=node, failures=failures_of(node), requests=requests, seconds=600.0)
        for node in NODES
    )
    metric = MetricInputs(
        name="errors",
        signal="Errors",
        learned=learn(past, interval_s=30.0, window_s=600.0),
        candidates=(NodeCount(node="new", failures=0.0, requests=10.0, seconds=60.0),),
        stable=rows,
    )
    return StepInputs(
        metrics=(metric,),
        alpha=0.01,
        steps=4,
        detect=Detect(factor=3.0, floor=0.01),
        required_windows=6,
    )


def test_groups_are_as_large_as_the_real_one_disjoint_and_drawn_by_lot():
    groups = groups_by_lot(NODES, size=4, lot="r1/1")

    assert [len(group) for group in groups] == [4, 4, 4, 4]
    assert len({node for group in groups for node in group}) == 16
    assert groups == groups_by_lot(NODES[::-1], size=4, lot="r1/1")
    assert groups != groups_by_lot(NODES, size=4, lot="r2/1")


@pytest.mark.parametrize(
    ("nodes", "size", "sizes"),
    [(20, 50, [10, 10]), (3, 2, [1, 1, 1]), (1, 1, []), (0, 3, []), (1000, 30, [30])],
)
def test_half_of_the_nodes_stay_beside_every_group(nodes, size, sizes):
    names = [f"n{number}" for number in range(nodes)]

    assert [len(group) for group in groups_by_lot(names, size=size, lot="x")] == sizes


def test_nodes_that_go_on_as_before_are_not_taken_back():
    groups = groups_by_lot(NODES, size=4, lot="r1/1")

    assert judge_placebo(step(lambda _: 10.0), groups) == (False,) * 4


def test_a_group_that_fails_without_a_change_is_found():
    groups = groups_by_lot(NODES, size=4, lot="r1/1")
    bad = frozenset(groups[1])

    verdicts = judge_placebo(step(lambda node: 200.0 if node in bad else 10.0), groups)

    assert verdicts[1] is True


def test_a_whole_fleet_in_trouble_is_no_error_of_the_judge():
    groups = groups_by_lot(NODES, size=4, lot="r1/1")

    assert judge_placebo(step(lambda _: 60.0), groups) == (False,) * 4


def test_nothing_counted_is_not_judged():
    groups = groups_by_lot(NODES, size=4, lot="r1/1")

    assert judge_placebo(step(lambda _: 0.0, requests=0.0), groups) == (None,) * 4


def test_a_group_counts_once_a_step():
    tally = PlaceboTally(alpha=0.01)

    assert tally.count("r", 1, [False, False, None]) == (2, 0)
    assert tally.count("r", 1, [True, False, False]) == (1, 1)
    assert tally.count("r", 1, [True, False, False]) == (0, 0)
    assert tally.count("r", 2, [False]) == (1, 0)


@pytest.mark.parametrize(
    ("taken_back", "judged", "rings"),
    [(0, 0, False), (0, 500, False), (1, 4, False), (2, 200, False), (3, 10, True), (9, 200, True)],
)
def test_the_alarm_rings_when_chance_explains_it_no_more(taken_back, judged, rings):
    tally = PlaceboTally(alpha=0.01)
    for number in range(judged):
        tally.count("r", number, [number < taken_back])

    assert tally.alarm is rings


def test_the_chance_is_that_of_a_binomial():
    # A binomial's upper tail, from a table: 20 trials of 0.1, four or more; 10 of 0.5, eight.
    assert chance_of(4, of=20, alpha=0.1) == pytest.approx(0.13295, abs=1e-5)
    assert chance_of(8, of=10, alpha=0.5) == pytest.approx(56 / 1024)
    assert chance_of(0, of=20, alpha=0.1) == 1.0


def test_years_of_a_judge_gone_wrong_can_still_be_counted():
    assert chance_of(300, of=3000, alpha=0.01) < 1e-9
    assert chance_of(3000, of=300_000, alpha=0.01) == pytest.approx(0.5, abs=0.01)
