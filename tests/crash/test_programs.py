"""A real node whose models are files: a program is told of each swap, and may say no."""

import json
import signal

import httpx
import pytest

from linnet_api.reasons import NodeReason, NodeState

pytestmark = [pytest.mark.slow, pytest.mark.crash]

R1, R2 = ("r1", 2.0), ("r2", 3.0)
PATIENCE_S = 240.0


@pytest.fixture
def told(make_node, tmp_path):
    """A node with a program: what it was told of, and a file that lets it say no."""
    return Told(make_node("files"), tmp_path)


class Told:
    def __init__(self, node, home):
        self.node, self.log = node, home / "told"
        self.sick = home / "sick"
        self.log.touch()
        node.runtime = "Files"
        self.programs = home / "programs.yaml"
        self.write(
            f"echo $LINNET_REVISION $(ls $LINNET_MODEL/) >> {self.log}; ! test -e {self.sick}"
        )

    def write(self, script, **health):
        entry = {"model": "factory/digits", "reload": {"command": ["/bin/sh", "-c", script]}}
        self.programs.write_text(json.dumps([entry | ({"health": health} if health else {})]))
        self.programs.chmod(0o600)

    def start(self, **more):
        self.node.start_agent(flags=("--programs", self.programs), **more)

    def wait_active(self, revision):
        self.node.wait_active(revision, timeout_s=PATIENCE_S)

    def revisions(self):
        return [line.split()[0] for line in self.log.read_text().splitlines()]


def test_a_program_is_told_and_finds_the_files(told):
    revision = told.node.order(*R1, sequence=10)
    told.start()
    told.wait_active(revision)

    assert told.revisions() == [revision]
    assert "model.onnx" in told.log.read_text()


def test_a_program_that_says_no_gets_the_old_files_back(told):
    first = told.node.order(*R1, sequence=10)
    told.start()
    told.wait_active(first)
    told.node.agent.kill()
    told.node.agent.wait(timeout=30)
    note = f'echo "$LINNET_REVISION" >> {told.log}'
    told.write(f'{note}; echo cannot read it; test "$LINNET_REVISION" = {first}')

    second = told.node.order(*R2, sequence=20, baseline=R1)
    told.start()
    told.node.wait_state(NodeState.REVERTED, second, timeout_s=PATIENCE_S)

    journal = told.node.journal()
    assert journal.reason is NodeReason.HOOK_FAILED
    assert "ended with 1: cannot read it" in journal.message
    assert told.node.directory.read_current() == journal.committed == first
    assert told.revisions() == [first, second, first]


def test_a_program_that_is_sick_when_its_soak_ends_gets_the_old_files_back(told):
    first = told.node.order(*R1, sequence=10)
    told.start()
    told.wait_active(first)
    told.node.agent.kill()
    told.node.agent.wait(timeout=30)
    told.write(
        f"echo $LINNET_REVISION >> {told.log}",
        command=["/bin/sh", "-c", "echo out of memory; exit 1"],
    )

    second = told.node.order(*R2, sequence=20, baseline=R1, soak_s=1)
    told.start()
    told.node.wait_state(NodeState.REVERTED, second, timeout_s=PATIENCE_S)

    assert told.node.journal().reason is NodeReason.SOAK_FAILED
    assert "out of memory" in told.node.journal().message
    assert told.revisions()[-1] == first == told.node.directory.read_current()


def test_an_agent_that_dies_between_swap_and_hook_runs_it_at_its_next_start(told):
    revision = told.node.order(*R1, sequence=10)
    told.start(crash_at="done.Swap:1")
    assert told.node.agent.wait(timeout=60) == 137
    assert told.node.directory.read_current() == revision
    assert told.revisions() == []

    told.start()
    told.wait_active(revision)

    assert told.revisions() == [revision]


def test_an_agent_that_is_killed_while_the_hook_runs_runs_it_again(told, wait_until):
    told.write(f"echo $LINNET_REVISION >> {told.log}; test -e {told.sick} || sleep 60")
    revision = told.node.order(*R1, sequence=10)
    told.start()
    wait_until(lambda: told.revisions() == [revision], what=told.node.tail)
    told.node.agent.send_signal(signal.SIGKILL)
    told.node.agent.wait(timeout=30)
    told.sick.touch()

    told.start()
    told.wait_active(revision)

    assert told.revisions() == [revision, revision]


def test_a_deployment_that_becomes_files_leaves_the_server(told, wait_until):
    node = told.node
    node.runtime = "Linnet"
    served = node.order(*R1, sequence=10)
    node.start_server()
    told.start()
    told.wait_active(served)
    node.agent.kill()
    node.agent.wait(timeout=30)
    node.runtime = "Files"

    revision = node.order(*R2, sequence=20)
    told.start()
    told.wait_active(revision)

    url = f"http://127.0.0.1:{node.port}/v2/models/digits/ready"
    assert httpx.get(url, trust_env=False).status_code == 404
    assert told.revisions() == [revision]
    node.server.kill()
    node.server.wait(timeout=30)
    node.start_server()
    health = f"http://127.0.0.1:{node.port}/v2/health/ready"

    def ready():
        try:
            return httpx.get(health, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    wait_until(ready, what=lambda: "the server is ready without the files", timeout_s=PATIENCE_S)
