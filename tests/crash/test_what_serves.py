"""What takes away what serves, and what does not: revocations and rot, on a real node offline.

There is no hub and, but for where a file is fetched again, no registry: policies and ceiling are
files, a bit is flipped in the store.
"""

import base64
import json
import re

import httpx
import pytest
from crashlab.node import Node, stop

from linnet_agent.journal import Standing
from linnet_agent.store import Store
from linnet_agent.verify.keys import load_public_key
from linnet_api.names import API_VERSION
from linnet_api.reasons import NodeReason, NodeState
from linnet_cli.publish.keys import generate_key

pytestmark = [pytest.mark.slow, pytest.mark.crash]

R1, R2 = ("r1", 2.0), ("r2", 3.0)
OFTEN = ("--rehash-interval", "1s")


@pytest.fixture(scope="module")
def updated_once(tmp_path_factory, publisher):
    """A node that serves r2 and has r1 to go back to, at rest; to be copied."""
    node = Node(tmp_path_factory.mktemp("updated"), publisher)
    node.start_server()
    for sequence, (model, more) in enumerate([(R1, {}), (R2, {"baseline": R1})], 10):
        revision = node.order(*model, sequence=sequence, **more)
        node.start_agent()
        node.wait_active(revision)
        stop(node.agent)
    node.stop()
    return node


@pytest.fixture
def updated(make_node, updated_once):
    return make_node(copy_of=updated_once)


def revisions(node):
    """What serves, and what was there before."""
    return node.directory.read_current(), node.directory.read_previous()


def set_ceiling(node, *names):
    digests = [node.publisher.publish(*name)[1] for name in names]
    ceiling = {
        "apiVersion": API_VERSION,
        "kind": "TrustPolicy",
        "metadata": {"name": "ceiling"},
        "spec": node.policy(digests=digests),
    }
    file = node.home / "none.new"
    file.write_text(json.dumps(ceiling))
    file.rename(node.home / "none")


def metric(node, name):
    port = re.findall(r'"metrics_port": (\d+)', (node.home / "agent.log").read_text())[-1]
    lines = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text.splitlines()
    return [line for line in lines if line.startswith(name)]


def start(node, *, flags=()):
    node.start_server()
    node.start_agent(flags=flags)
    node.wait_started()


def test_what_was_revoked_is_left_at_the_next_start_for_the_last_good_one_without_a_network(
    updated, publisher
):
    r2, r1 = revisions(updated)
    updated.revoke(R2)
    updated.publisher = publisher.offline()

    start(updated)

    updated.wait_state(NodeState.REFUSED, r2)
    assert updated.journal().reason is NodeReason.REVOKED
    assert updated.answer(5.0) == (10.0, r1)
    assert updated.journal().known[r1].standing is Standing.GOOD
    assert metric(updated, 'linnet_agent_reverts_total{reason="Revoked"}')[0].endswith(" 1.0")


def test_a_revoked_key_that_has_left_the_policies_is_known_by_what_was_kept(
    make_node, settled, wait_until
):
    node = make_node(copy_of=settled)
    r1 = node.directory.read_current()
    assert node.directory.read_evidence(r1).keys == (node.publisher.public,)
    kept = node.directory.revision_path(r1) / "evidence.json"
    document = json.loads(kept.read_text())
    document["bundles"] = [_nameless(bundle) for bundle in document["bundles"]]
    kept.write_text(json.dumps(document))
    gone, other = load_public_key(node.publisher.public).key_id, generate_key()[1].decode()
    found = {"authorities": [{"name": "other", "key": {"publicKeyPEM": other}}]}
    found["revoked"] = {"keyIds": [gone]}
    (node.root / "trust" / "policies.json").write_text(json.dumps({"release": found}))

    start(node)

    wait_until(lambda: metric(node, "linnet_agent_alarm{"), what=node.tail)
    assert 'reason="Revoked"' in metric(node, "linnet_agent_alarm{")[0]
    assert node.answer(5.0) == (10.0, r1)  # there is nothing to go back to
    quiet = [line for line in metric(node, "linnet_agent_trust_alarm{") if line.endswith(" 0.0")]
    assert len(quiet) == 3  # what is trusted is as it should be


def _nameless(bundle):
    """Return a bundle, as base64, that does not say whose signature it holds."""
    document = json.loads(base64.b64decode(bundle))
    document["verificationMaterial"] = {"publicKey": {}}
    return base64.b64encode(json.dumps(document).encode()).decode()


def test_what_the_hub_revokes_serves_on_where_it_is_the_last_one_and_an_alarm_is_told(
    make_node, settled, wait_until
):
    node = make_node(copy_of=settled)
    r1 = node.directory.read_current()
    node.revoke(R1)

    start(node)

    wait_until(lambda: metric(node, "linnet_agent_alarm{"), what=node.tail)
    assert 'reason="Revoked"' in metric(node, "linnet_agent_alarm{")[0]
    assert node.answer(5.0) == (10.0, r1)
    assert node.state() is NodeState.ACTIVE


def test_a_policy_may_let_what_is_active_serve_on(updated, wait_until):
    r2, _ = revisions(updated)
    updated.revoke(R2, onActive="KeepServing")

    start(updated)

    wait_until(lambda: metric(updated, "linnet_agent_alarm{"), what=updated.tail)
    assert updated.answer(5.0) == (15.0, r2)


def test_what_the_nodes_own_ceiling_revokes_is_unloaded_while_it_serves(
    make_node, settled, wait_until
):
    node = make_node(copy_of=settled)
    r1 = node.directory.read_current()
    start(node)
    node.wait_active(r1)
    assert node.answer(5.0) == (10.0, r1)

    set_ceiling(node, R1)

    node.wait_state(NodeState.REFUSED, r1)
    wait_until(lambda: node.ask([5.0]).status_code == 404, what=node.tail)
    assert node.directory.read_current() is None
    assert "the node's own ceiling" in node.journal().message


def test_a_ceiling_that_revokes_nothing_that_serves_takes_nothing_away(updated, wait_until):
    r2, r1 = revisions(updated)
    start(updated)
    updated.wait_active(r2)

    set_ceiling(updated, R1)

    wait_until(
        lambda: updated.journal().known[r1].standing is Standing.FORBIDDEN, what=updated.tail
    )
    assert updated.answer(5.0) == (15.0, r2)


def test_a_bit_that_flips_while_it_serves_is_found_left_and_fetched_again(updated, wait_until):
    r2, r1 = revisions(updated)
    start(updated, flags=OFTEN)
    updated.wait_active(r2)

    updated.flip_a_bit(r2)

    updated.wait_passed("done.Repair")
    wait_until(lambda: updated.answer(5.0) == (15.0, r2), what=updated.tail)
    updated.wait_active(r2)
    assert metric(updated, 'linnet_agent_reverts_total{reason="Corrupt"}')[0].endswith(" 1.0")
    assert metric(updated, "linnet_agent_corruptions_total")[0].endswith(" 1.0")
    updated.assert_rule_2()
    updated.wait_tidy()
    assert r1 in updated.directory.read_records()


def test_a_bit_that_flips_is_left_for_the_good_copy_although_nothing_can_be_fetched(
    updated, publisher, wait_until
):
    r2, r1 = revisions(updated)
    updated.publisher = publisher.offline()
    start(updated, flags=OFTEN)
    updated.wait_active(r2)

    updated.flip_a_bit(r2)

    wait_until(lambda: updated.answer(5.0) == (10.0, r1), what=updated.tail)
    updated.assert_rule_2()


def test_a_bit_that_flips_in_the_only_copy_is_told_and_what_is_in_memory_serves_on(
    make_node, settled, publisher, wait_until
):
    node = make_node(copy_of=settled)
    r1 = node.directory.read_current()
    node.publisher = publisher.offline()
    start(node, flags=OFTEN)
    node.wait_active(r1)

    node.flip_a_bit(r1)

    wait_until(lambda: metric(node, "linnet_agent_alarm{"), what=node.tail)
    assert 'reason="Corrupt"' in metric(node, "linnet_agent_alarm{")[0]
    assert node.answer(5.0) == (10.0, r1)

    node.agent.kill()
    node.agent.wait(timeout=30)
    node.publisher = publisher
    node.start_agent(flags=OFTEN)
    node.wait_passed("done.Repair")
    node.wait_passed("done.Flip")
    node.wait_active(r1)
    assert node.answer(5.0) == (10.0, r1)
    node.assert_rule_2()
    node.wait_tidy()


def test_a_file_that_vanishes_is_rot(make_node, settled, wait_until):
    node = make_node(copy_of=settled)
    r1 = node.directory.read_current()
    start(node, flags=OFTEN)
    node.wait_active(r1)
    record = node.directory.read_records()[r1]

    (Store(node.root).path_of(record.model_digest) / "golden.json").unlink()

    node.wait_passed("done.Repair")
    node.wait_active(r1)
    wait_until(lambda: not metric(node, "linnet_agent_alarm{"), what=node.tail)
    node.assert_rule_2()


def test_a_deployment_made_anew_does_not_try_again_what_failed_here(make_node, settled, wait_until):
    node = make_node(copy_of=settled)
    r1 = node.directory.read_current()
    bad = node.order("odd", 4.0, sequence=30, baseline=R1, soak_s=600, odd_rows_fail=True)
    rule(node, owner="d1", rollout="u1", number=4)
    start(node)
    node.wait_state(NodeState.SOAKING, bad)

    def taken_back():
        node.ask([1.0, 2.0, 3.0])
        return node.state() is NodeState.REVERTED

    wait_until(taken_back, what=node.tail)
    condemned = (node.directory.path / "condemned.json").read_text()
    assert json.loads(condemned)[0]["rollout"] == "u1"
    node.stop()
    # Even the journal is lost: the list of the condemned is not.
    (node.directory.path / "journal.json").write_bytes(b"\0")
    node.order("odd", 4.0, sequence=31, baseline=R1, odd_rows_fail=True)
    rule(node, owner="d2", rollout="u9", number=1)

    start(node)

    node.wait_state(NodeState.FAILED, bad)
    assert node.journal().reason is NodeReason.LOOP_BREAKER
    assert node.answer(5.0) == (10.0, r1)

    # A person says: linnet retry.
    node.stop()
    node.order("odd", 4.0, sequence=32, baseline=R1, soak_s=0, odd_rows_fail=True)
    rule(node, owner="d2", rollout="u10", number=2)
    start(node)
    node.wait_active(bad)


def rule(node, *, owner, rollout, number):
    """Write into the order on the disk whose it is, and by which rollout it was given."""
    path = next((node.root / "desired").iterdir())
    item = json.loads(path.read_text())
    item["metadata"]["ownerReferences"] = [{"kind": "ModelDeployment", "uid": owner}]
    item["spec"]["rollout"] = {"name": f"digits-{number}", "uid": rollout}
    path.write_text(json.dumps(item))
