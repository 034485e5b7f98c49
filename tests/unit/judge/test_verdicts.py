"""One look at one metric: which verdict its figures give, the first rule that holds."""

from dataclasses import replace

import pytest

from linnet_operator.judge.compare import Detect, DomainLook, MetricLook, _in_trouble, _verdict
from linnet_operator.judge.verdicts import Verdict

LINE = 6.0
# Nothing speaks against it, and the named rise is excluded.
WELL = MetricLook(
    verdict=Verdict.UNDECIDED, line=LINE, log_e=-1.0, log_excluding=LINE, stable_nodes=4
)
NODES = tuple(f"edge-{number}" for number in range(9))


def domain(log_e):
    return DomainLook(domain="nano", log_e=log_e, failures=0.0, requests=9.0, expected=0.0)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        pytest.param({}, Verdict.PASS, id="excluded at the line"),
        pytest.param({"log_excluding": LINE - 1e-6}, Verdict.UNDECIDED, id="just not excluded"),
        pytest.param({"log_e": LINE}, Verdict.FAIL, id="harm at the line"),
        pytest.param({"log_e": LINE - 1e-6}, Verdict.UNDECIDED, id="harm just below it"),
        pytest.param({"log_e": LINE / 2}, Verdict.UNDECIDED, id="half of the line speaks against"),
        pytest.param({"log_e": LINE / 2 - 1e-6}, Verdict.PASS, id="less than half"),
        pytest.param(
            {"domains": (domain(0.0), domain(LINE / 2))}, Verdict.UNDECIDED, id="half, in a domain"
        ),
        pytest.param({"domains": (domain(LINE / 2 - 1e-6),)}, Verdict.PASS, id="less, in a domain"),
        pytest.param({"all_fail": True}, Verdict.FAIL, id="all requests fail"),
        pytest.param({"in_trouble": True}, Verdict.FLEET_TROUBLE, id="the fleet is in trouble"),
        pytest.param(
            {"in_trouble": True, "log_e": 99.0}, Verdict.FLEET_TROUBLE, id="harm beside trouble"
        ),
        pytest.param(
            {"in_trouble": True, "all_fail": True}, Verdict.FAIL, id="all fail beside trouble"
        ),
        pytest.param({"missing": NODES[:1]}, Verdict.PARTIAL, id="one node is missing"),
        pytest.param(
            {"missing": NODES[:1], "log_e": LINE}, Verdict.FAIL, id="what is partial may condemn"
        ),
        pytest.param({"missing": NODES[:1], "in_trouble": True}, Verdict.FLEET_TROUBLE, id="both"),
        pytest.param({"absent_stable": NODES[:4]}, Verdict.PASS, id="half of the control absent"),
        pytest.param({"absent_stable": NODES[:5]}, Verdict.PARTIAL, id="more than half"),
        pytest.param({"stable_nodes": 0}, Verdict.PASS, id="there is no control"),
        pytest.param({"idle": NODES[:3]}, Verdict.PASS, id="half of the candidates idle"),
        pytest.param({"idle": NODES[:4]}, Verdict.UNDECIDED, id="more than half idle"),
    ],
)
def test_the_first_rule_that_holds_is_the_verdict(changes, verdict):
    assert _verdict(replace(WELL, **changes), candidates=6) is verdict


@pytest.mark.parametrize(
    ("factor", "usual", "floor", "troubled"),
    [
        pytest.param(2.0, 0.1, 0.01, False, id="not more than twice"),
        pytest.param(2.1, 0.1, 0.01, True, id="more than twice, and that matters"),
        pytest.param(10.0, 0.001, 0.01, False, id="ten times next to nothing"),
        pytest.param(2.5, 0.006, 0.01, False, id="above the floor, but by less than the floor"),
        pytest.param(2.5, 0.007, 0.01, True, id="by more than the floor"),
        pytest.param(2.5, 0.007, 0.1, False, id="a floor of its own"),
        pytest.param(0.2, 0.9, 0.01, False, id="better than ever"),
    ],
)
def test_trouble_is_twice_the_usual_and_more_by_what_matters(factor, usual, floor, troubled):
    detect = Detect(factor=3.0, floor=floor)

    assert _in_trouble(factor, expected_ratio=factor * usual, detect=detect) is troubled


@pytest.mark.parametrize(
    ("failures", "requests", "past", "all_fail"),
    [
        pytest.param(20.0, 20.0, 2.0, True, id="all"),
        pytest.param(19.0, 19.0, 2.0, False, id="of too few"),
        pytest.param(900.0, 1000.0, 2.0, True, id="nine in ten"),
        pytest.param(899.0, 1000.0, 2.0, False, id="fewer"),
        pytest.param(1000.0, 1000.0, 180.0, False, id="where most failed before"),
    ],
)
def test_nearly_all_requests_fail_where_few_were_expected_to(
    fleet, failures, requests, past, all_fail
):
    stable = [fleet.count(index, 5 * past, 1000.0) for index in range(1, 10)]

    said = fleet.look(
        [fleet.count(0, failures, requests)], stable, learned=fleet.learned(failures=past)
    )

    assert said.all_fail is all_fail


def test_the_figures_of_a_look_are_rounded_so_that_the_last_bit_decides_nothing(fleet):
    candidates = [
        fleet.count(index, 3.0 + index, 310.0, domain="ab"[index % 2]) for index in range(4)
    ]
    stable = [fleet.count(index, 4.0, 330.0) for index in range(4, 10)]

    said = fleet.look(candidates, stable)

    figures = [said.log_e, said.line, said.log_excluding, said.rise, said.fleet_factor]
    figures += [said.expected, *(each.log_e for each in said.domains)]
    figures += [each.expected for each in (*said.domains, *said.candidates)]
    assert figures == [round(figure, 6) for figure in figures]


def test_some_candidates_that_report_and_none_that_serves_is_partial(fleet):
    stable = [fleet.count(index, 3.0, 300.0) for index in range(2, 10)]

    some = fleet.look([fleet.count(0, None, None), fleet.count(1, 0.0, 0.0)], stable)
    none = fleet.look([fleet.count(0, None, None), fleet.count(1, None, None)], stable)

    assert (some.verdict, some.missing) == (Verdict.PARTIAL, ("edge-00",))
    assert (none.verdict, none.missing) == (Verdict.NO_DATA, ("edge-00", "edge-01"))
