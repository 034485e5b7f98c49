"""Status: forms, folding, watching, and errors that say what to do."""

import io
import json
from datetime import UTC, datetime

import pytest
import yaml

from linnet_cli.app import main
from linnet_cli.errors import UnreachableError
from linnet_cli.exits import Exit
from linnet_cli.paint import Cell, Paint, columns, wrap
from linnet_cli.reading import source_label
from linnet_cli.story import natural, parse_span
from linnet_cli.world import World

NOW = datetime(2026, 3, 1, 9, tzinfo=UTC)


def test_json_and_yaml_say_the_same(stories, linnet):
    kube = stories["baking"]().kube()

    as_json = json.loads(linnet(kube, "status", "digits", "-o", "json").out)
    as_yaml = yaml.safe_load(linnet(kube, "status", "digits", "-o", "yaml").out)

    assert as_json == as_yaml
    assert as_json["apiVersion"] == "cli.linnet.dev/v1alpha1"
    item = as_json["items"][0]
    assert item["rollout"]["phase"] == "Baking"
    assert item["rollout"]["steps"][1]["bakedSeconds"] == 12
    assert {node["role"] for node in item["nodes"]} == {"candidate", "stable"}


@pytest.mark.parametrize(("swap", "said"), [("Beside", False), ("Replace", True)])
def test_explain_says_where_a_swap_may_cost_an_outage(stories, linnet, swap, said):
    story = stories["baking"]()
    story.objects["modeldeployments", story.namespace, "digits"]["spec"]["swap"] = swap

    out = linnet(story.kube(), "explain", "digits").out

    assert ("clients get 503" in " ".join(out.split())) is said


def test_ascii_is_ascii(stories, linnet):
    assert linnet(stories["a-thousand"]().kube(), "status", "digits", "--ascii").out.isascii()


def test_every_node_is_listed_on_demand(stories, linnet):
    out = linnet(stories["a-thousand"]().kube(), "status", "digits", "--all-nodes").out

    assert sum("edge-" in line for line in out.splitlines()) == 1000


def test_without_a_name_every_deployment_is_told_and_one_alone_in_full(stories, linnet):
    fleet = stories["baking"]()
    one = linnet(fleet.kube(), "status").out
    fleet.name = "brakes"
    fleet.deployment(wanted="1.0", observed=-1)
    two = linnet(fleet.kube(), "status", "-A").out

    assert "edge-10" in one
    assert "edge-10" not in two
    assert two.index("brakes") < two.index("digits")
    assert "is it running?" in two, "nobody has looked at brakes yet"


def test_an_empty_namespace_is_no_error(fleet, linnet):
    outcome = linnet(fleet.kube(), "status", "-n", "office")

    assert (outcome.code, outcome.out) == (Exit.OK, "")
    assert "no ModelDeployments in office" in outcome.err


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        pytest.param(("nope",), "there are: digits", id="others exist here"),
        pytest.param(
            ("digits", "-n", "office"),
            "there is one in factory: add -n factory",
            id="it is elsewhere",
        ),
        pytest.param(
            ("nope", "-n", "office"), "there are: digits (-n factory)", id="others exist elsewhere"
        ),
    ],
)
def test_a_name_that_does_not_exist_lists_those_that_do(argv, sentence, stories, linnet):
    outcome = linnet(stories["baking"]().kube(), "status", *argv)

    assert outcome.code == Exit.ERROR
    assert sentence in outcome.err


def test_a_cluster_without_linnet_says_how_to_install_it(fleet, linnet):
    outcome = linnet(fleet.kube(installed=False), "status", "digits")

    assert outcome.code == Exit.ERROR
    assert "install Linnet's CRDs" in outcome.err


def test_flags_before_the_command_count(stories, linnet):
    kube = stories["baking"]().kube(namespace="office")

    assert linnet(kube, "-n", "factory", "status", "digits").code == Exit.OK
    assert linnet(kube, "status", "digits").code == Exit.ERROR


def interrupt_after(*steps):
    """Return what stands in for sleeping: it takes the steps one by one, then interrupts."""
    left = iter(steps)

    def sleep(_seconds):
        step = next(left, None)
        if step is None:
            raise KeyboardInterrupt
        step()

    return sleep


def test_a_watch_in_a_pipe_prints_what_changed_and_nothing_else(stories, linnet):
    kube = stories["baking"]().kube()
    first = linnet(kube, "status", "digits", "--watch", sleep=interrupt_after()).out
    ended = stories["rolled-back"]()

    outcome = linnet(
        kube,
        "status",
        "digits",
        "--watch",
        sleep=interrupt_after(
            lambda: None, lambda: kube.objects.update(ended.objects), lambda: None
        ),
    )

    assert outcome.code == Exit.INTERRUPTED
    assert outcome.out.startswith(first)
    changed = outcome.out.removeprefix(first).splitlines()
    assert any("rollout digits-3: RolledBack, verdict Fail" in line for line in changed)
    assert any("node edge-3: Active, serves 1.1" in line for line in changed)
    assert not any("node edge-2:" in line for line in changed), "edge-2 did not change"
    assert all(line.startswith("09:00:00  factory/digits") or "Stalled" in line for line in changed)


def test_a_watch_outlives_an_api_server_that_goes_away(stories, linnet):
    kube = stories["baking"]().kube()
    answer, gone = kube.get, UnreachableError("connection refused at https://fake")

    def refuse(_path):
        raise gone

    outcome = linnet(
        kube,
        "status",
        "digits",
        "--watch",
        sleep=interrupt_after(
            lambda: setattr(kube, "get", refuse), lambda: None, lambda: setattr(kube, "get", answer)
        ),
    )

    assert outcome.code == Exit.INTERRUPTED
    assert outcome.err.count("connection refused") == 1, "said once, not at every look"


@pytest.mark.parametrize(
    ("source", "label"),
    [
        pytest.param("oci://registry.testbed:5000/models/digits:1.0", "1.0", id="a tag"),
        pytest.param("oci://r/digits@sha256:" + "ab" * 32, "abababababab", id="a digest"),
        pytest.param(
            "oci://r/digits:1.0@sha256:" + "ab" * 32, "abababababab", id="a digest beats a tag"
        ),
        pytest.param("https://example.org/digits.tar", "digits.tar", id="a file"),
    ],
)
def test_a_source_is_called_by_its_tag(source, label):
    assert source_label(source) == label


def test_columns_line_up_and_the_last_one_is_not_padded():
    rows = [["a", "", Cell("long", "good"), "x"], ["abc", "", "b", ""]]

    assert columns(rows, paint=Paint()) == ["a    long  x", "abc  b"]


def test_colours_carry_no_width_and_no_meaning_of_their_own():
    rows = [[Cell("a", "good"), "x"], ["abc", "y"]]

    plain, colored = columns(rows, paint=Paint()), columns(rows, paint=Paint(color=True))

    assert colored[0].replace("\x1b[32m", "").replace("\x1b[0m", "") == plain[0]


def test_control_characters_of_others_never_reach_the_terminal():
    assert "\x1b" not in Paint().clean("evil \x1b[2J text\n")


def test_sentences_are_cut_between_words():
    assert wrap("aa bb cc dddddd", width=5) == ["aa bb", "cc", "dddddd"]
    assert wrap("", width=5) == []


def test_names_sort_as_people_count():
    assert sorted(["edge-10", "edge-2", "b7", "b"], key=natural) == ["b", "b7", "edge-2", "edge-10"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("20s", 20), ("1h30m", 5400), ("500ms", 0), ("2d", 172800)]
)
def test_spans_of_the_api_are_read(text, seconds):
    assert parse_span(text) == seconds


def test_on_a_terminal_a_watch_redraws_within_the_screen(stories):
    out = io.StringIO()
    kube = stories["a-thousand"]().kube()
    world = World(
        prog="linnet",
        out=out,
        err=io.StringIO(),
        now=lambda: NOW,
        monotonic=lambda: 0.0,
        sleep=interrupt_after(lambda: None),
        token=lambda: "",
        connect=lambda _args: kube,
        terminal=True,
        color=True,
        size=lambda: (80, 24),
    )

    with pytest.raises(KeyboardInterrupt):
        main(["status", "digits", "--watch"], world)

    frames = out.getvalue().split("\x1b[?7l")[1:]
    assert len(frames) == 2
    assert all(frame.startswith("\x1b[H") and frame.count("\n") <= 23 for frame in frames)
    assert "more lines" in frames[0]
    assert "\x1b[33m" in frames[0]
