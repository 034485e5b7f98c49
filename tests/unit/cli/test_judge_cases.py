"""``linnet judge``: what a case may hold, and what its verdicts rest on."""

import json
from argparse import Namespace

import pytest

from linnet_cli.commands import judge
from linnet_cli.errors import CaseError
from linnet_cli.judging import judge_cases, read_cases


def a_case(*, candidates=2, strangers=0, failures=1, looks=2):
    """Return a case of ten nodes; the first ``strangers`` have no history."""
    return {
        "metric": "errors",
        "alpha": 0.01,
        "steps": 5,
        "detect": {"factor": 3, "floor": 0.01},
        "intervals": [200] * looks,
        "nodes": [
            {
                "name": f"edge-{index}",
                "candidate": index < candidates,
                "history": [] if index < strangers else [[2, 200]] * 6,
                "looks": [[40 * (failures if index < candidates else 1), 4000]] * looks,
            }
            for index in range(10)
        ],
    }


def verdicts(case):
    return [each.verdict for each in judge_cases(read_cases(json.dumps(case))).looks]


def test_two_looks_at_one_time_with_the_same_counts_say_the_same():
    assert verdicts(a_case()) == ["Pass", "Pass"]


@pytest.mark.parametrize(
    ("strangers", "verdict"), [(0, "Pass"), (1, "Pass"), (2, "Learning"), (4, "Learning")]
)
def test_where_half_of_the_candidates_have_no_history_nothing_is_compared(strangers, verdict):
    """Not even where all is well: it is the same as in a rollout."""
    assert verdicts(a_case(candidates=4, strangers=strangers, looks=1)) == [verdict]


@pytest.mark.parametrize(
    "after", [[39, 5000], [41, 3999]], ids=["failures alone", "requests alone"]
)
def test_neither_failures_nor_requests_can_fall(after):
    case = a_case()
    case["nodes"][3]["looks"][1] = after

    with pytest.raises(CaseError, match=r'^node "edge-3": looks\[1\]: counts .* cannot fall'):
        read_cases(json.dumps(case))


def test_all_requests_may_fail():
    assert verdicts(a_case(failures=100, looks=1)) == ["Fail"]


@pytest.mark.parametrize(("steps", "verdict"), [(5, "Undecided"), (1, "Fail")])
def test_what_is_left_without_the_worst_node_is_measured_at_the_line_of_the_step(steps, verdict):
    case = {**a_case(candidates=5, looks=1), "steps": steps}
    for index, node in enumerate(case["nodes"][:5]):
        node["looks"] = [[68 if index else 2500, 4000]]

    assert verdicts(case) == [verdict]


def test_a_case_without_a_candidate_is_none():
    with pytest.raises(CaseError, match=r"^case 2: nodes: none is a candidate$"):
        read_cases(json.dumps([a_case(), a_case(candidates=0)]))


def test_the_table_has_each_figure_in_its_column(tmp_path, capsys):
    path = tmp_path / "case.json"
    path.write_text(json.dumps([a_case(looks=1), a_case(failures=90, looks=1)]))

    judge.run(Namespace(schema=False, file=str(path), output="table"))

    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    head, good, bad = rows[1], rows[2], rows[5]
    assert head == ["LOOK", "LOG", "E", "FLEET", "EXCLUDED", "VERDICT"]
    assert (good[0], good[2], good[4]) == ("1", "1.00", "Pass")
    assert float(good[1]) < 0
    assert good[3].startswith("x")
    assert (bad[2], bad[3], bad[4]) == ("1.00", "-", "Fail")
    assert float(bad[1]) > 100
