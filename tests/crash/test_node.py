"""One node through good and bad days, with a real server and a real registry, and no hub."""

import contextlib
import os
import shutil
import subprocess

import httpx
import pytest

from linnet_api.reasons import NodeReason, NodeState

pytestmark = [pytest.mark.slow, pytest.mark.crash]

R1, R2 = ("r1", 2.0), ("r2", 3.0)


def test_an_order_on_the_disk_is_carried_out_without_a_hub(node):
    revision = node.order(*R1, sequence=10)
    node.start_server()
    node.start_agent()

    node.wait_active(revision)

    assert node.answer(5.0) == (10.0, revision)


def test_a_second_agent_on_the_same_directory_ends_with_a_sentence(settled, make_node):
    node = make_node("shared", copy_of=settled)
    first = node.start_agent()
    node.wait_started()

    second = node.start_agent()

    assert second.wait(timeout=30) == 1
    assert "another linnet-agent is at work" in node.tail()
    assert first.poll() is None
    first.kill()
    first.wait(timeout=30)


def test_of_two_agents_that_start_at_once_one_works_and_the_other_says_why_it_does_not(
    make_node, settled, wait_until
):
    node = make_node("shared", copy_of=settled)
    revision = node.order(*R2, sequence=20, baseline=R1)
    node.start_server()
    both = [node.start_agent(), node.start_agent()]

    wait_until(lambda: any(agent.poll() is not None for agent in both), what=node.tail)
    [works] = [agent for agent in both if agent.poll() is None]
    node.agent = works

    node.wait_active(revision)
    assert node.answer(5.0) == (15.0, revision)
    assert sorted(agent.poll() or 0 for agent in both) == [0, 1]
    assert "another linnet-agent is at work" in (node.home / "agent.log").read_text()


def test_what_somebody_unloads_by_hand_is_loaded_again_and_said(make_node, settled, wait_until):
    node = make_node(copy_of=settled)
    node.start_server()
    revision = node.order(*R1, sequence=10)
    node.start_agent()
    node.wait_active(revision)

    def serves():
        with contextlib.suppress(httpx.HTTPError):  # it is still starting
            return node.ask([1.0]).status_code == 200

    wait_until(serves, what=node.tail)

    with httpx.Client(transport=httpx.HTTPTransport(uds=str(node.socket))) as local:
        local.post("http://server/v2/repository/models/digits/unload").raise_for_status()
    assert node.ask([1.0]).status_code == 404

    wait_until(serves, what=node.tail)
    assert node.answer(5.0) == (10.0, revision)
    assert '"agent.restored"' in (node.home / "agent.log").read_text()


def test_sigterm_ends_an_agent_cleanly(make_node, settled):
    node = make_node(copy_of=settled)
    node.start_agent()
    node.wait_started()

    node.agent.terminate()

    assert node.agent.wait(timeout=30) == 0


def test_the_server_starts_from_the_disk_without_an_agent(make_node, settled, wait_until):
    node = make_node(copy_of=settled)
    node.start_server()
    url = f"http://127.0.0.1:{node.port}/v2/health/ready"

    def ready():
        try:
            return httpx.get(url, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    wait_until(ready, what=lambda: "the server is ready")

    assert node.answer(5.0) == (10.0, node.directory.read_current())


def test_a_revision_that_fails_its_requests_is_taken_back_by_the_node_itself(
    make_node, settled, wait_until
):
    node = make_node(copy_of=settled)
    good = node.directory.read_current()
    node.start_server()
    node.start_agent()
    node.wait_active(good)
    bad = node.order("odd", 4.0, sequence=30, baseline=R1, soak_s=600, odd_rows_fail=True)
    node.agent.kill()
    node.agent.wait(timeout=30)
    node.start_agent()
    node.wait_state(NodeState.SOAKING, bad)

    def taken_back():
        node.ask([1.0, 2.0, 3.0])
        return node.state() is NodeState.REVERTED

    wait_until(taken_back, what=node.tail)

    journal = node.journal()
    assert journal.reason is NodeReason.SOAK_FAILED
    assert journal.committed == good == node.directory.read_current()
    assert node.answer(5.0) == (10.0, good)


def test_a_model_whose_bytes_rot_on_the_disk_is_fetched_again_at_the_next_start(make_node, settled):
    node = make_node(copy_of=settled)
    revision = node.directory.read_current()
    weights = node.directory.revision_path(revision) / "model" / "model.onnx"
    weights.chmod(0o644)
    with weights.open("r+b") as file:
        file.seek(30)
        file.write(b"\xff\xff")
    weights.chmod(0o444)

    node.start_agent()
    node.start_server()
    node.wait_passed("admit.renamed")
    node.wait_active(revision)

    node.assert_rule_2()
    node.wait_tidy()


def test_a_journal_that_rots_is_set_aside_and_what_is_current_is_adopted(make_node, settled):
    node = make_node(copy_of=settled)
    revision = node.directory.read_current()
    (node.directory.path / "journal.json").write_bytes(b"\0" * 512)
    node.start_server()
    node.start_agent()
    node.wait_active(revision)

    assert node.journal().committed == revision
    assert node.answer(5.0)[1] == revision


def test_a_registry_that_is_gone_is_waited_for_and_what_serves_serves_on(
    make_node, settled, publisher
):
    node = make_node(copy_of=settled)
    old = node.directory.read_current()
    revision = node.order(*R2, sequence=20, baseline=R1)
    node.publisher = publisher.offline()
    node.start_server()
    node.start_agent()
    node.wait_reason(NodeReason.REGISTRY_UNAVAILABLE, revision)
    assert node.answer(5.0) == (10.0, old)

    node.agent.kill()
    node.agent.wait(timeout=30)
    node.publisher = publisher
    node.start_agent()

    node.wait_active(revision)
    assert node.answer(5.0) == (15.0, revision)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 MiB; a fetch leaves 16 of them free."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", mount]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield mount
    subprocess.run(["umount", "-l", mount], check=False)


def test_a_full_disk_is_said_and_waited_out_and_what_serves_serves_on(
    make_node, settled, small_disk
):
    root = small_disk / "root"
    shutil.copytree(settled.root, root, symlinks=True)
    node = make_node(root=root)
    old = node.directory.read_current()
    revision = node.order("big", 5.0, sequence=20, baseline=R1, padding_bytes=16 << 20)
    filler = small_disk / "filler"
    filler.write_bytes(b"\0" * (40 << 20))
    node.start_server()
    node.start_agent()
    node.wait_reason(NodeReason.DISK_FULL, revision)
    assert node.answer(5.0) == (10.0, old)

    filler.unlink()

    node.wait_active(revision)
    assert node.answer(2.0) == (10.0, revision)
    node.assert_rule_2()
