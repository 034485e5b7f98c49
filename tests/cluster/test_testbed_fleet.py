"""The testbed's nodes run the real agent and server, and each part dies and comes back alone."""

import urllib.request

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from linnet_testbed import Testbed
from linnet_testbed.waiting import until

KEY = Ed25519PrivateKey.generate().public_key()
CEILING = yaml.safe_dump(
    {
        "apiVersion": "linnet.dev/v1alpha1",
        "kind": "TrustPolicy",
        "metadata": {"name": "site"},
        "spec": {
            "match": {"models": ["factory/*"]},
            "authorities": [
                {
                    "name": "release",
                    "key": {
                        "publicKeyPEM": KEY.public_bytes(
                            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
                        ).decode()
                    },
                }
            ],
        },
    }
)

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]


def heartbeat(fleet, name):
    return fleet.get("-n", "linnet-agents", "lease", name)["spec"]["renewTime"]


def scraped(fleet):
    rows = fleet.query('up{job=~"linnet-(server|agent)"}')
    return {(r["metric"]["job"], r["metric"]["node"]): r["value"][1] for r in rows}


def live(node):
    try:
        with urllib.request.urlopen(f"{node.server_url}/v2/health/live", timeout=2) as answer:  # noqa: S310 - loopback
            return answer.status == 200
    except OSError:
        return False


def test_every_node_beats_with_its_own_token_and_is_scraped(fleet):
    for node in fleet.nodes:
        until(lambda name=node.name: heartbeat(fleet, name))
        assert live(node)
    until(lambda: len(scraped(fleet)) == 6 and set(scraped(fleet).values()) == {"1"})


def test_a_cut_node_stops_beating_serves_on_and_beats_again(fleet):
    node, other = fleet.node("edge-2"), fleet.node("edge-1")
    node.cut()
    last, others = heartbeat(fleet, node.name), heartbeat(fleet, other.name)
    until(lambda: scraped(fleet)["linnet-agent", node.name] == "0")
    until(lambda: heartbeat(fleet, other.name) != others)
    assert heartbeat(fleet, node.name) == last
    assert live(node)
    node.restore()
    until(lambda: heartbeat(fleet, node.name) != last, 30)


def test_each_process_is_killed_and_started_by_itself(fleet):
    node = fleet.node("edge-3")
    before = {row["name"]: row["pid"] for row in fleet.status()}
    for process in (node.agent, node.server, fleet.operator):
        process.kill()
    after = {row["name"] for row in fleet.status() if row["state"] == "down"}
    assert after == {"edge-3.agent", "edge-3.server", "operator"}
    last = heartbeat(fleet, node.name)
    for process in (node.agent, node.server, fleet.operator):
        process.start()
    until(lambda: live(node), 30)
    until(lambda: heartbeat(fleet, node.name) != last, 30)
    changed = {row["name"] for row in fleet.status() if row["pid"] != before[row["name"]]}
    assert changed == after


def test_a_ceiling_is_provisioned_and_taken_away(fleet, settings):
    node = fleet.node("edge-1")
    before = node.agent.pid
    Testbed.up(fleet.name, ceiling=CEILING, settings=settings)
    assert (node.etc / "trust.yaml").read_text() == CEILING
    until(lambda: fleet.get("modelhost", node.name)["status"]["trust"]["ceiling"] is True)
    assert node.agent.pid not in {before, None}
    Testbed.up(fleet.name, ceiling="", settings=settings)
    until(lambda: fleet.get("modelhost", node.name)["status"]["trust"]["ceiling"] is False)
