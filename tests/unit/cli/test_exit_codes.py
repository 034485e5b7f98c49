"""The exit codes of DESIGN, section 5: one for each way that a rollout can go."""

import pytest

from linnet_cli.app import COMMANDS
from linnet_cli.exits import Exit


@pytest.mark.parametrize(
    ("situation", "goal", "code"),
    [
        pytest.param("completed-without-two", "completed", 0, id="completed is 0"),
        pytest.param("completed-without-two", "ended", 0, id="an end is what was asked for"),
        pytest.param(
            "completed-without-two", "rolledback", 1, id="completed though a rollback was wanted"
        ),
        pytest.param("rolled-back", "completed", 3, id="taken back is 3"),
        pytest.param("rolled-back", "rolledback", 0, id="taken back as wanted"),
        pytest.param("rolled-back", "ended", 0, id="taken back is an end too"),
        pytest.param("first-rollout", "completed", 4, id="still under way is 4"),
        pytest.param("baking", "ended", 4, id="baking is still under way"),
        pytest.param("refused", "completed", 5, id="refused by trust is 5"),
        pytest.param("refused", "rolledback", 5, id="refused is no rollback"),
        pytest.param("waiting-for-approval", "completed", 6, id="waits for a person is 6"),
    ],
)
def test_wait_ends_with(situation, goal, code, stories, linnet):
    outcome = linnet(
        stories[situation]().kube(), "wait", "digits", "--for", goal, "--timeout", "3s"
    )

    assert outcome.code == code
    assert outcome.out.count("\n") == 1, "the end is one line of data"


def test_an_old_end_is_no_answer_to_a_new_spec(stories, linnet):
    fleet = stories["completed-without-two"]()
    fleet.objects["modeldeployments", "factory", "digits"]["metadata"]["generation"] = 3

    outcome = linnet(fleet.kube(), "wait", "digits", "--timeout", "2s")

    assert outcome.code == Exit.TIMEOUT


def test_an_old_end_is_no_answer_while_a_new_candidate_is_on_its_way(stories, linnet):
    fleet = stories["completed-without-two"]()
    deployment = fleet.objects["modeldeployments", "factory", "digits"]
    deployment["status"]["candidate"] = {
        "revision": "9d2c4e8f70",
        "number": 3,
        "digest": "sha256:9",
    }

    assert linnet(fleet.kube(), "wait", "digits", "--timeout", "2s").code == Exit.TIMEOUT


def test_an_old_end_is_no_answer_while_a_new_source_is_resolved(stories, linnet, waits):
    fleet = stories["completed-without-two"]()
    status = fleet.objects["modeldeployments", "factory", "digits"]["status"]
    status["waitingFor"] = waits("Source", "source", "2.0 is being resolved").to_dict()
    status["conditions"][0] |= {"status": "Unknown"}
    status["conditions"].append(status["conditions"][0] | {"type": "Reconciling", "status": "True"})

    assert linnet(fleet.kube(), "wait", "digits", "--timeout", "2s").code == Exit.TIMEOUT


def test_a_bad_state_that_passes_within_a_look_is_no_end(stories, linnet):
    kube = stories["rolled-back"]().kube()
    moved_on = stories["completed-without-two"]()

    outcome = linnet(kube, "wait", "digits", sleep=lambda _s: kube.objects.update(moved_on.objects))

    assert outcome.code == Exit.OK


def test_wait_follows_a_rollout_to_its_end(stories, linnet):
    kube = stories["baking"]().kube()
    ended = stories["rolled-back"]()

    outcome = linnet(kube, "wait", "digits", sleep=lambda _s: kube.objects.update(ended.objects))

    assert outcome.code == Exit.TAKEN_BACK
    assert "Baking" in outcome.err
    assert outcome.out.startswith("digits-3: RolledBack. ")


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        pytest.param(("frobnicate",), 2, "there is no command 'frobnicate'", id="no such command"),
        pytest.param(("statsu",), 2, "did you mean status?", id="a misspelt command"),
        pytest.param(("wait",), 2, "", id="a name is missing"),
        pytest.param(
            ("status", "--watch", "-o", "json"),
            2,
            "--watch draws trees",
            id="flags that do not fit",
        ),
        pytest.param(
            ("status", "rolloutpolicy/x"), 2, "is not a ModelDeployment", id="another kind"
        ),
        pytest.param(
            ("wait", "digits", "--timeout", "soon"), 2, "'soon' is not a duration", id="no duration"
        ),
        pytest.param(
            ("status", "nope"), 1, "there is no ModelDeployment nope", id="no such deployment"
        ),
        pytest.param((), 0, "", id="no command is help"),
        pytest.param(("help", "wait"), 0, "", id="help with a command"),
        pytest.param(("--version",), 0, "", id="version"),
    ],
)
def test_command_lines_end_with(argv, code, words, stories, linnet):
    outcome = linnet(stories["baking"]().kube(), *argv)

    assert outcome.code == code
    assert words in outcome.err
    assert outcome.err.count("\n") <= 1, "an error is one sentence"


def test_the_table_in_the_help_is_the_enum(linnet, fleet):
    page = " ".join(linnet(fleet.kube(), "--help").out.split())

    for code, word in (
        (0, "ok"),
        (1, "error"),
        (2, "usage"),
        (3, "taken back"),
        (4, "timeout"),
        (5, "refused"),
    ):
        assert f"{code} {word}" in page
        assert code in set(Exit)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, linnet, fleet, capsys):
    assert linnet(fleet.kube(), name, "--help").code == 0
    assert capsys.readouterr().out.startswith(f"usage: linnet {name} ")
