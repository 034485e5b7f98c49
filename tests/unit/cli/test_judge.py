"""``linnet judge``: a case file in, the judge's figures out, and sentences for bad data."""

import copy
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnet_cli.judging import SCHEMA_PATH, CaseError, judge_cases, read_cases, schema
from linnet_operator.judge.compare import Detect, NodeCount, look
from linnet_operator.judge.learned import NodeHistory, learn

ROOT = Path(__file__).parents[3]


def a_case(*, failures=3, candidates=2, nodes=10):
    """Return a case of two looks; each candidate fails ``failures`` of its first 100 requests."""
    return {
        "metric": "errors",
        "alpha": 0.01,
        "steps": 5,
        "detect": {"factor": 3, "floor": 0.01},
        "intervals": [5, 200],
        "nodes": [
            {
                "name": f"edge-{index}",
                "candidate": index < candidates,
                "history": [[2, 200], [3, 200], [1, 200], [2, 200]],
                "recent": [[0, 20], [1, 20], [0, 20]],
                "looks": [[failures, 100], [40 * failures, 4000]]
                if index < candidates
                else [[1, 100], [40, 4000]],
            }
            for index in range(nodes)
        ],
    }


def judged(case):
    answers = judge_cases(read_cases(json.dumps(case)))
    return (
        [each.model_dump(mode="json") for each in answers]
        if isinstance(answers, list)
        else answers.model_dump(mode="json")
    )


def run(linnet, case, *flags, tmp_path):
    path = tmp_path / "case.json"
    path.write_text(case if isinstance(case, str) else json.dumps(case), encoding="utf-8")
    return linnet("judge", "-f", str(path), *flags)


@pytest.fixture
def linnet(world, capsys):
    def call(*argv):
        from linnet_cli.app import main  # noqa: PLC0415 - what is called is the command line

        code = main(argv, world)
        return int(code), capsys.readouterr().out, world.err.getvalue()

    return call


@pytest.fixture
def world():
    from linnet_cli.world import World  # noqa: PLC0415

    def never(*_):
        raise AssertionError("a case needs neither a clock nor a cluster")

    return World("linnet", io.StringIO(), io.StringIO(), never, never, never, never, never)


def test_a_bad_model_fails_and_an_equal_one_passes(linnet, tmp_path):
    code, out, _ = run(linnet, a_case(failures=30), "-o", "json", tmp_path=tmp_path)
    bad = json.loads(out)
    _, out, _ = run(linnet, a_case(failures=1), "-o", "json", tmp_path=tmp_path)
    equal = json.loads(out)

    assert code == 0
    assert bad["metric"] == "errors"
    assert [each["verdict"] for each in bad["looks"]] == ["Fail", "Fail"]
    assert [each["verdict"] for each in equal["looks"]] == ["Undecided", "Pass"]
    assert equal["looks"][1]["excluded"] <= 3
    # Thirty times what was expected: no rise is said to be excluded.
    assert [each["excluded"] for each in bad["looks"]] == [None, None]
    assert set(bad["looks"][0]) == {"log_e", "fleet_factor", "excluded", "verdict"}


def test_a_list_of_cases_gives_a_list(linnet, tmp_path):
    cases = [a_case(), {**a_case(failures=30), "metric": "slow"}]

    _, out, _ = run(linnet, cases, "-o", "json", tmp_path=tmp_path)

    assert json.loads(out) == [judged(case) for case in cases]
    assert [each["metric"] for each in json.loads(out)] == ["errors", "slow"]
    assert judged([]) == []


def test_people_get_a_table(linnet, tmp_path):
    _, out, _ = run(linnet, a_case(failures=30), tmp_path=tmp_path)

    assert out.splitlines()[0] == "errors"
    assert out.splitlines()[-1].endswith("Fail")


def test_the_figures_are_those_of_a_rollout():
    case = a_case(failures=2)
    case["nodes"][0]["intervals"] = [3, 48]
    history = [
        NodeHistory(
            node=node["name"],
            windows=tuple(map(tuple, node["history"])),
            recent=tuple(map(tuple, node["recent"])),
        )
        for node in case["nodes"]
    ]
    rows = [
        NodeCount(
            node=node["name"],
            failures=node["looks"][1][0],
            requests=node["looks"][1][1],
            # Seconds, at a scrape interval of fifteen.
            seconds=15 * node.get("intervals", case["intervals"])[1],
        )
        for node in case["nodes"]
    ]
    learned = learn(history, interval_s=15, window_s=600)
    said = look(
        learned, rows[:2], rows[2:], alpha=0.01, steps=5, detect=Detect(factor=3, floor=0.01)
    )

    last = judged(case)["looks"][1]

    assert last == {
        "log_e": said.log_e,
        "fleet_factor": said.fleet_factor,
        "excluded": said.excluded,
        "verdict": said.verdict,
    }


def test_one_of_five_nodes_does_not_turn_a_fleet():
    case = a_case(failures=1, candidates=5)
    case["nodes"][0]["looks"] = [[60, 100], [600, 1000]]

    assert [each["verdict"] for each in judged(case)["looks"]] == ["Undecided", "Undecided"]


def test_harm_on_one_kind_of_node_is_looked_for_where_it_is_told():
    def log_e(*kinds):
        case = a_case(candidates=6, nodes=12)
        for index, node in enumerate(case["nodes"]):
            node["looks"] = [[9 if index in {0, 2} else 1, 100], [40, 4000]]
            node["domain"] = kinds[index % 2]
        return judged(case)["looks"][0]["log_e"]

    assert log_e("nano", "orin") > log_e("", "")


def test_without_history_it_says_that_it_learns():
    case = a_case(failures=30)
    for node in case["nodes"][:2]:
        node["history"] = []

    assert judged(case)["looks"][0]["verdict"] == "Learning"


def test_what_was_not_measured_is_null_and_never_a_pass():
    case = a_case(failures=1)
    case["nodes"][1]["looks"] = [[1, 100], None]
    silent = a_case(failures=1)
    for node in silent["nodes"][:2]:
        node["looks"] = [None, [0, 0]]

    assert judged(case)["looks"][1]["verdict"] == "Partial"
    assert [each["verdict"] for each in judged(silent)["looks"]] == ["NoData", "NoData"]


BAD = [
    ((), "alpha", 1, "alpha: Input should be less than 1"),
    ((), "steps", 0, "steps: Input should be greater than or equal to 1"),
    ((), "nodes", [], "nodes: List should have at least 1 item"),
    ((), "colour", "red", "colour: Extra inputs are not permitted"),
    ((), "intervals", [200, 5], "intervals[1]: 5 is less than the 200 before it"),
    (("detect",), "factor", 1, "detect.factor: Input should be greater than 1"),
    (("nodes", 3), "name", "edge-1", 'node "edge-1": name: there are two nodes of that name'),
    (("nodes", 3), "candidate", "no", 'node "edge-3": candidate: Input should be a valid boolean'),
    (("nodes", 3), "looks", [[1, 2]], 'node "edge-3": looks: there are 1, but 2 intervals'),
    (("nodes", 3), "intervals", [5], 'node "edge-3": intervals: there are 1, but 2 looks'),
    (("nodes", 3, "looks"), 1, [0, 90], 'node "edge-3": looks[1]: counts since the step began'),
    (("nodes", 3, "looks"), 1, [9, 8], 'node "edge-3": looks[1]: 9 failures of 8 requests'),
    (("nodes", 3, "looks"), 1, [-1, 8], 'node "edge-3": looks[1][0]: Input should be greater'),
    (("nodes", 3, "looks"), 1, [1], 'node "edge-3": looks[1][1]: Field required'),
    (("nodes", 3, "history"), 2, "1 of 2", 'node "edge-3": history[2]: Input should be a valid'),
    (("nodes", 3, "history"), 2, [1, 1e300], 'node "edge-3": history[2][1]: Input should be less'),
    (("nodes", 3, "recent"), 0, [3, 2], 'node "edge-3": recent[0]: 3 failures of 2 requests'),
    (("nodes",), 3, "edge-3", "nodes[3]: Input should be an object"),
]


@pytest.mark.parametrize(("place", "field", "value", "said"), BAD, ids=[bad[3] for bad in BAD])
def test_bad_data_end_with_the_node_and_the_field(place, field, value, said, linnet, tmp_path):
    case = a_case()
    part = case
    for step in place:
        part = part[step]
    part[field] = value

    code, out, err = run(linnet, case, tmp_path=tmp_path)
    _, _, of_list = run(linnet, [a_case(), case], tmp_path=tmp_path)

    assert (code, out) == (1, "")
    assert err.startswith(f"linnet: {said}")
    assert f"linnet: case 2: {said}" in of_list


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "this is not JSON"),
        ('{"alpha": NaN}', "NaN is no number; write null"),
        ("[-Infinity]", "-Infinity is no number"),
        ("7", "the case: Input should be an object"),
        ("{}", "metric: Field required"),
        ("[" * 100_000, "nested too deep"),
        ('{"metric": ' + "[" * 5000 + "]" * 5000 + "}", "nested too deep"),
        ('{"metric": ' + "[" * 300 + "]" * 300 + "}", "nested too deep"),
        ('{"metric": "\\ud800"}', "half a character"),
        ('{"alpha": 0.01, "alpha": 0.5}', "alpha: this field stands twice"),
        (
            '{"nodes": [{"name": "a\\nb", "looks": [], "looks": [[1, 2]]}]}',
            'node "a\\nb": looks: this field stands twice',
        ),
    ],
    ids=lambda text: text[:12],
)
def test_what_is_no_case_is_said(text, said, linnet, tmp_path):
    code, _, err = run(linnet, text, tmp_path=tmp_path)

    assert code == 1
    assert said in err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 100_000, "nested too deep"),
        (b"\xff{}", "stdin cannot be read: 'utf-8' codec"),
        (b"", "this is not JSON"),
    ],
    ids=["deep", "not UTF-8", "empty"],
)
def test_what_is_no_case_is_said_of_stdin_too(content, said, linnet, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))

    code, out, err = linnet("judge", "-f", "-")

    assert (code, out) == (1, "")
    assert said in err


def test_the_mark_that_some_editors_write_before_a_text_is_read(linnet, monkeypatch):
    content = b"\xef\xbb\xbf" + json.dumps(a_case()).encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))

    assert linnet("judge", "-f", "-")[0] == 0


def test_a_closed_stdin_is_said(linnet, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)

    assert linnet("judge", "-f", "-") == (1, "", "linnet: stdin cannot be read: it is closed\n")


def test_a_whole_number_may_be_written_with_a_point(linnet, tmp_path):
    plain = run(linnet, a_case(), "-o", "json", tmp_path=tmp_path)
    pointed = run(linnet, {**a_case(), "steps": 5.0}, "-o", "json", tmp_path=tmp_path)

    assert a_case()["steps"] == 5
    assert pointed == plain


@pytest.mark.slow
@pytest.mark.parametrize("form", ["table", "json"])
def test_a_name_that_the_terminal_cannot_show_is_no_reason_to_fail(form, tmp_path):
    path = tmp_path / "case.json"
    path.write_text(json.dumps({**a_case(), "metric": "\u2713"}), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "linnet_cli", "judge", "-f", str(path), "-o", form],
        capture_output=True,
        check=False,
        env={"PYTHONIOENCODING": "ascii"},
    )

    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\u2713" in done.stdout
    if form == "json":
        assert json.loads(done.stdout)["metric"] == "\u2713"


def test_no_escape_sequence_of_a_file_reaches_the_terminal(linnet, tmp_path):
    case = {**a_case(), "metric": "\x1b[31merrors"}
    _, out, _ = run(linnet, case, tmp_path=tmp_path)
    case["nodes"][0]["name"] = case["nodes"][1]["name"] = "\x1b[2J"
    _, _, err = run(linnet, case, tmp_path=tmp_path)

    assert out.startswith(" [31merrors\n")
    assert err.startswith('linnet: node "\\u001b[2J": name: there are two nodes')


def test_a_file_that_is_not_there_is_said(linnet):
    code, _, err = linnet("judge", "-f", "/nowhere/case.json")

    assert code == 1
    assert "/nowhere/case.json cannot be read" in err


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.floats(allow_nan=False), st.text(max_size=3)
)


@given(
    data=st.data(),
    value=st.one_of(
        SCALARS,
        st.lists(SCALARS, max_size=3),
        st.dictionaries(st.text(max_size=5), SCALARS, max_size=2),
    ),
)
def test_whatever_a_file_holds_it_is_a_case_or_an_error(data, value):
    case = copy.deepcopy(a_case(nodes=3))
    part = case
    while True:
        keys = list(part) if isinstance(part, dict) else list(range(len(part)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(part[key], dict | list) or not part[key] or data.draw(st.booleans()):
            break
        part = part[key]
    part[key] = value

    try:
        read = read_cases(json.dumps(case))
    except CaseError:
        return
    for each in judge_cases(read).looks:
        assert each.verdict


def test_the_schema_that_is_published_is_the_one_of_the_code():
    published = json.loads((ROOT / SCHEMA_PATH).read_text(encoding="utf-8"))

    assert published == schema(), f"write it again: linnet judge --schema > {SCHEMA_PATH}"


def test_the_example_of_the_reference_is_a_case():
    page = (ROOT / SCHEMA_PATH).with_name("judge-case.md").read_text(encoding="utf-8")
    example = page.partition("```json\n")[2].partition("```")[0]

    assert [each["verdict"] for each in judged(json.loads(example))["looks"]]
