import json
import subprocess
import sys
from datetime import UTC, datetime

import pydantic
import pytest

from linnet_agent import __main__ as program
from linnet_agent.app import AlreadyRunningError, hold_directory
from linnet_agent.heartbeat import lease
from linnet_agent.hub import TokenFile
from linnet_agent.settings import read_settings


def test_flags_come_before_the_environment_and_that_before_defaults(tmp_path):
    environ = {"LINNET_AGENT_NODE": "from-env", "LINNET_AGENT_HEARTBEAT": "2s"}

    settings = read_settings({"node": "from-flag", "root": str(tmp_path)}, environ)

    assert (settings.node, settings.heartbeat, settings.retry_max) == ("from-flag", 2.0, 60.0)
    assert settings.socket == tmp_path / "run" / "server.sock"


@pytest.mark.parametrize(
    ("flags", "environ"),
    [
        ({"registry_mirrors": ["a.example=http://127.0.0.1:5001"]}, {}),
        ({}, {"LINNET_REGISTRY_MIRRORS": "a.example=http://127.0.0.1:5001"}),
    ],
)
def test_mirrors_come_from_the_flag_or_from_the_shared_variable(flags, environ):
    settings = read_settings({"node": "n", **flags}, environ)

    assert settings.registry_mirrors == {"a.example": "http://127.0.0.1:5001"}


@pytest.mark.parametrize(
    "flags", [{}, {"node": "n", "heartbeat": "0s"}, {"node": "n", "metrics": "nowhere"}]
)
def test_settings_out_of_bounds_are_refused(flags):
    with pytest.raises(pydantic.ValidationError):
        read_settings(flags, {})


def test_wrong_settings_are_one_sentence_each_and_exit_2(capsys, monkeypatch):
    monkeypatch.delenv("LINNET_AGENT_NODE", raising=False)

    assert program.main(["--heartbeat", "never"]) == 2

    said = capsys.readouterr().err.splitlines()
    assert any(line.startswith("linnet-agent: --node: ") for line in said)
    assert any(line.startswith("linnet-agent: --heartbeat: ") for line in said)


def test_the_effective_settings_are_printed(capsys):
    assert program.main(["--node", "edge-7", "--print-config"]) == 0

    assert json.loads(capsys.readouterr().out)["node"] == "edge-7"


def test_two_agents_never_share_a_directory(tmp_path):
    again = hold_directory(tmp_path)

    with hold_directory(tmp_path), pytest.raises(AlreadyRunningError, match="is for one agent"):
        again.__enter__()

    with hold_directory(tmp_path):
        pass


@pytest.mark.slow
def test_the_agent_loads_nothing_large_that_it_seldom_needs():
    code = (
        "import sys, linnet_agent.command; "
        "large = 'onnxruntime numpy kubernetes kopf yaml sigstore tuf uvloop'.split(); "
        "print([module for module in large if module in sys.modules])"
    )

    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert out.stdout.strip() == "[]"


def test_the_lease_outlives_three_lost_beats_and_carries_the_counts():
    noon = datetime(2026, 1, 1, 12, 0, 0, 250_000, tzinfo=UTC)

    made = lease("edge-1", beat_s=2.0, now=noon, served={"factory/defects/r1": [7, 1]})

    assert made["spec"]["leaseDurationSeconds"] == 8
    assert made["spec"]["renewTime"] == "2026-01-01T12:00:00.250000Z"
    assert json.loads(made["metadata"]["annotations"]["linnet.dev/served"]) == {
        "factory/defects/r1": [7, 1]
    }


def test_a_token_is_read_again_when_it_is_renewed_and_says_whose_it_is(tmp_path):
    path = tmp_path / "token"
    path.write_text("old\n")
    token = TokenFile(path)
    assert (token.read(), token.node_uid()) == ("old", None)

    claims = "eyJrdWJlcm5ldGVzLmlvIjp7Im5vZGUiOnsidWlkIjoibjEifX19"
    (tmp_path / "new").write_text(f"head.{claims}.sign")
    (tmp_path / "new").replace(path)

    assert token.node_uid() == "n1"
    path.unlink()
    assert token.node_uid() == "n1"
