"""From a verdict to what follows."""

from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnet_api.node_model import NodeModelStatus, OnNode
from linnet_api.reasons import NodeState, Verdict, WaitReason
from linnet_api.rollout_policy import Judge
from linnet_operator.planner.gates import Action, Facts, misfit, pass_or_hold
from linnet_operator.planner.model import Evidence, NodeView, Served

NOW = datetime(2026, 1, 5, 8, tzinfo=UTC)
DIGEST = "sha256:" + "a" * 64
JUDGE = Judge(interval="10s")


def evidence(verdict, *, age=timedelta(), **rest):
    return Evidence(
        rollout_uid="r", step=1, at=NOW - age, verdict=verdict, message="31 of 80", **rest
    )


def facts(**rest):
    settings = {"measures": True, "baked": True, "all_in": True, "late": False, "misfit": None}
    return Facts(**{"may_go_unmeasured": False, **settings, **rest})


def gate(verdict, *, judge=JUDGE, age=timedelta(), needs_person=False, **rest):
    look = evidence(verdict, age=age, needs_person=needs_person)
    return pass_or_hold(look, facts(**rest), judge, now=NOW)


@given(
    verdict=st.sampled_from(Verdict),
    measures=st.booleans(),
    unmeasured=st.booleans(),
    baked=st.booleans(),
    all_in=st.booleans(),
    late=st.booleans(),
    said=st.sampled_from([None, "counts differ"]),
    age_s=st.integers(0, 300),
    on_undecided=st.sampled_from(["Hold", "Ask", "Rollback"]),
    on_no_data=st.sampled_from(["Hold", "Ask", "Rollback"]),
)
def test_rule_05_only_a_fresh_pass_that_fits_advances(
    verdict, measures, unmeasured, baked, all_in, late, said, age_s, on_undecided, on_no_data
):
    judge = Judge(interval="10s", on_undecided=on_undecided, on_no_data=on_no_data)
    known = facts(
        measures=measures,
        may_go_unmeasured=unmeasured,
        baked=baked,
        all_in=all_in,
        late=late,
        misfit=said,
    )

    got = pass_or_hold(evidence(verdict, age=timedelta(seconds=age_s)), known, judge, now=NOW)

    if got.action is Action.ADVANCE:
        assert baked
        assert all_in
        if measures:
            assert got.verdict is Verdict.PASS or (
                unmeasured and got.verdict is Verdict.NOT_MEASURED
            )
            assert said is None
            assert age_s <= 30
    if got.action is Action.ROLLBACK and verdict is not Verdict.FAIL:
        assert late
    if measures and verdict is Verdict.FAIL:
        assert got.action is Action.ROLLBACK


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        (Verdict.UNDECIDED, WaitReason.EVIDENCE),
        (Verdict.NO_DATA, WaitReason.NO_DATA),
        (Verdict.PARTIAL, WaitReason.PARTIAL_DATA),
        (Verdict.NOT_MEASURED, WaitReason.NO_DATA),
        (Verdict.FLEET_TROUBLE, WaitReason.FLEET_TROUBLE),
        (Verdict.LEARNING, WaitReason.LEARNING),
    ],
)
def test_what_is_no_pass_holds_and_says_why(verdict, reason):
    got = gate(verdict)

    assert (got.action, got.reason, got.verdict) == (Action.HOLD, reason, verdict)
    assert got.message == "31 of 80"


def test_a_fail_asks_where_it_rests_on_one_node():
    assert gate(Verdict.FAIL).action is Action.ROLLBACK
    assert gate(Verdict.FAIL, needs_person=True).action is Action.ASK
    assert gate(Verdict.FAIL, baked=False, all_in=False).action is Action.ROLLBACK


@pytest.mark.parametrize("said", ["Hold", "Ask", "Rollback", "Advance"])
def test_harm_that_is_seen_on_too_few_nodes_is_never_advanced_nor_taken_back_by_policy(said):
    judge = Judge(on_undecided=said)

    assert gate(Verdict.UNDECIDED, needs_person=True, judge=judge).action is Action.HOLD
    assert gate(Verdict.UNDECIDED, needs_person=True, judge=judge, late=True).action is Action.ASK


def test_trouble_of_the_whole_fleet_never_acts():
    for late, undecided in product([True, False], ["Ask", "Rollback", "Advance"]):
        judge = Judge(on_undecided=undecided, on_no_data="Rollback")
        assert gate(Verdict.FLEET_TROUBLE, late=late, judge=judge).action is Action.HOLD
        assert gate(Verdict.LEARNING, late=late, judge=judge).action is Action.HOLD


def test_a_stale_pass_is_partial():
    got = gate(Verdict.PASS, age=timedelta(seconds=31))

    assert (got.action, got.verdict) == (Action.HOLD, Verdict.PARTIAL)
    assert "31s old" in got.message


def test_undecided_in_time_may_advance_but_only_where_counts_fit():
    judge = Judge(on_undecided="Advance")

    assert gate(Verdict.UNDECIDED, judge=judge, late=True).action is Action.ADVANCE
    held = gate(Verdict.UNDECIDED, judge=judge, late=True, misfit="counts differ")
    assert (held.action, held.message) == (Action.HOLD, "counts differ")
    assert gate(Verdict.UNDECIDED, judge=judge, late=False).action is Action.HOLD


def test_before_the_first_look_it_waits():
    got = pass_or_hold(None, facts(), JUDGE, now=NOW)

    assert (got.action, got.reason) == (Action.HOLD, WaitReason.EVIDENCE)


def test_what_is_not_in_or_not_baked_is_what_it_waits_for():
    assert gate(Verdict.PASS, all_in=False).reason is WaitReason.ACTIVATING
    assert gate(Verdict.PASS, baked=False).reason is WaitReason.BAKING


# ---------------------------------------------------------------- rule 16


def node(*, requests, beat=NOW, since=NOW - timedelta(seconds=100), soaked=True):
    current = OnNode(
        revision="aaaaaaaaaa",
        artifact=DIGEST,
        model_digest=DIGEST,
        activated_at=since,
        soaked=soaked,
    )
    served = {} if requests is None else {"aaaaaaaaaa": Served(requests)}
    return NodeView(
        name="edge-1",
        uid="u",
        heartbeat_at=beat,
        served=served,
        report=NodeModelStatus(state=NodeState.ACTIVE, current=current),
    )


def fits(one, counted, *, now=NOW):
    look = evidence(Verdict.PASS, requests={"edge-1": counted} if counted is not None else {})
    return misfit([one], look, revision="aaaaaaaaaa", now=now) is None


@pytest.mark.parametrize(
    ("own", "counted", "fit"),
    [(100, 100, True), (90, 100, True), (85, 100, True), (84, 100, False), (0, 5, True)],
)
def test_rule_16_counts_fit_within_a_tenth_and_a_little(own, counted, fit):
    assert fits(node(requests=own), counted) is fit


def test_rule_16_who_reports_nothing_does_not_fit():
    assert not fits(node(requests=None), 100)


def test_rule_16_more_than_the_metrics_know_is_no_matter():
    assert fits(node(requests=10_000), 100)


def test_rule_16_an_older_heartbeat_covers_less():
    half = node(requests=45, beat=NOW - timedelta(seconds=50))

    assert fits(half, 100, now=NOW - timedelta(seconds=45))
    assert not fits(node(requests=30, beat=half.heartbeat_at), 100, now=NOW - timedelta(seconds=45))


def test_rule_16_who_is_not_counted_is_not_asked():
    assert fits(node(requests=0), None)
    assert fits(node(requests=0, soaked=False), 100)
    assert fits(node(requests=0), 100, now=NOW + timedelta(minutes=1))


def test_rule_16_without_a_time_of_activation_all_of_it_counts():
    assert not fits(node(requests=10, since=None), 100)
    assert fits(node(requests=10, since=NOW, beat=NOW - timedelta(seconds=1)), 100)


def counted(*rows, **rest):
    """Return a look at (failures, requests) by the metrics and by the node's own older report."""
    return evidence(
        Verdict.PASS,
        requests={f"edge-{i}": row[1] for i, (row, _) in enumerate(rows, 1)},
        failures={f"edge-{i}": row[0] for i, (row, _) in enumerate(rows, 1)},
        own={f"edge-{i}": Served(own[1], own[0]) for i, (_, own) in enumerate(rows, 1)},
        **rest,
    )


def said(*rows):
    return misfit([], counted(*rows), revision="aaaaaaaaaa", now=NOW)


def test_rule_16_failures_that_are_turned_into_successes_do_not_fit():
    assert said(((0, 1000), (47, 940))) == (
        "node reports do not fit: metrics count 0 failures in 1000 requests on edge-1, "
        "its own heartbeat 47 in 940"
    )


@pytest.mark.parametrize(
    ("metrics", "own", "fit"),
    [
        pytest.param((50, 1000), (47, 940), True, id="the metrics are later"),
        pytest.param((38, 1000), (47, 940), True, id="a tenth and five less"),
        pytest.param((37, 1000), (47, 940), False, id="less than that"),
        pytest.param((0, 950), (50, 1000), False, id="failures are hidden"),
        pytest.param((0, 600), (50, 1000), False, id="many of the rest as well"),
        pytest.param((50, 2000), (47, 940), True, id="the failures have ended"),
        pytest.param((400, 1000), (0, 940), True, id="the failures have begun since"),
        pytest.param((400, 1000), (47, 940), True, id="more than it knows"),
        pytest.param((0, 1000), (5, 940), True, id="a few"),
        pytest.param((9, 250), (60, 1000), True, id="chance, where the report is later"),
        pytest.param((0, 0), (60, 1000), True, id="nothing is counted yet"),
        pytest.param((0, 10), (5, 0), True, id="a report without requests and few failures"),
        pytest.param((0, 10), (70, 0), False, id="a report without requests and many"),
    ],
)
def test_rule_16_metrics_know_the_failures_that_were_reported(metrics, own, fit):
    assert (said((metrics, own)) is None) is fit


def test_rule_16_a_few_hidden_failures_on_many_nodes_are_many():
    hidden = ((0, 100), (4, 96))

    assert said(hidden) is None
    assert said(hidden, hidden, hidden, ((9, 100), (1, 96))) == (
        "node reports do not fit: metrics count 0 failures in 100 requests on edge-1, its own "
        "heartbeat 4 in 96 (and fewer than reported on 2 more)"
    )


def test_rule_16_hiding_half_of_the_requests_as_well_does_not_help():
    hidden = ((0, 50), (8, 100))

    assert said(hidden) is None
    assert said(*[hidden] * 20) is not None
    assert said(*[((4, 50), (8, 100))] * 20) is None


def test_rule_16_failures_of_a_node_that_the_metrics_do_not_count_are_not_compared():
    look = evidence(Verdict.PASS, own={"edge-1": Served(1000, 500)})

    assert misfit([], look, revision="aaaaaaaaaa", now=NOW) is None


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), max_size=40),
    st.integers(0, 40),
)
def test_rule_16_a_node_never_misfits_metrics_that_are_later_than_its_report(stretches, early):
    """However it fails, and whenever that begins and ends."""
    passed = [(failed, failed + good) for failed, good in stretches]
    before, all_of_it = (
        (sum(f for f, _ in rows), sum(n for _, n in rows)) for rows in (passed[:early], passed)
    )

    assert said((all_of_it, before)) is None


@pytest.mark.parametrize("action", ["Hold", "Ask", "Rollback"])
def test_a_threshold_that_gave_up_does_not_wait_for_decide_within(action):
    judge = Judge(interval="10s", on_no_data=action)

    waits = gate(Verdict.NO_DATA, judge=judge)
    acts = gate(Verdict.NO_DATA, judge=judge, gave_up=True)
    passes = gate(Verdict.PASS, judge=judge, gave_up=True)

    assert waits.action is Action.HOLD
    assert acts.action.value == action
    assert passes.action is Action.ADVANCE
