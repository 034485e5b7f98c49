"""The testbed itself: idempotent, several at once, leaves nothing, cuts for real."""

import json
import os
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from linnet_testbed import Settings, Testbed, TestbedError
from linnet_testbed.__main__ import main
from linnet_testbed.objects import LABEL
from linnet_testbed.ports import is_free
from linnet_testbed.processes import marked
from linnet_testbed.tokens import claims
from linnet_testbed.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

CONFIG_MAP = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "kept", "namespace": "default"},
    "data": {"a": "b"},
}


def bed_name(what):
    return f"pytest-{os.getpid()}-{what}"


def pids(bed):
    return {row["name"]: row["pid"] for row in bed.status()}


@pytest.fixture(scope="module")
def spare(up):
    """A bed that these tests may hurt."""
    return up("spare", nodes=1, agents=False, operator=False)


def test_up_twice_changes_nothing(spare, settings):
    before = (pids(spare), spare.state.ports, spare.kubeconfig.read_text())
    again = Testbed.up(spare.name, settings=settings)
    assert None not in before[0].values()
    assert (pids(again), again.state.ports, again.kubeconfig.read_text()) == before


def test_up_after_kill_9_of_everything(spare, settings):
    spare.apply(CONFIG_MAP)
    before, ports = pids(spare), spare.state.ports
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    until(lambda: set(pids(spare).values()) == {None})
    again = Testbed.up(spare.name, settings=settings)
    after = pids(again)
    assert None not in after.values()
    assert not set(after.values()) & set(before.values())
    assert again.state.ports == ports
    assert again.get("configmap", "kept")["data"] == {"a": "b"}


def test_up_and_down_after_up_itself_was_killed(up, settings, monkeypatch):
    bed = up("killed", bare=True)
    bed.down()
    command = [sys.executable, "-m", "linnet_testbed", "up", "--name", bed.name, "--no-agents"]
    command += ["--no-operator", "--nodes", "1"]
    monkeypatch.delenv("LINNET_KUBECONFIG", raising=False)
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        until(lambda: any("kube-apiserver" in command_line(p) for p in marked(f"{bed.directory}:")))
        process.kill()
    mended = Testbed.up(bed.name, settings=settings)
    assert None not in pids(mended).values()
    mended.down()
    assert_nothing_left(mended)


def test_down_leaves_nothing_behind(up):
    bed = up("gone", nodes=2, agents=False, operator=False)
    ports = set(bed.state.ports.values())
    bed.down()
    assert_nothing_left(bed)
    assert all(is_free(port) for port in ports)
    bed.down()


def test_two_beds_side_by_side(up, spare):
    other = up("other", nodes=1, agents=False, operator=False)
    assert not set(other.state.ports.values()) & set(spare.state.ports.values())
    other.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "only-here"}})
    assert other.get("namespace", "only-here")["metadata"]["labels"][LABEL] == other.name
    with pytest.raises(TestbedError, match="not found"):
        spare.get("namespace", "only-here")
    other.down()
    assert None not in pids(spare).values()


def test_fewer_nodes_is_refused_and_more_are_added(spare, settings):
    proxy = spare.proxy.pid
    more = Testbed.up(spare.name, nodes=2, settings=settings)
    assert [n["metadata"]["name"] for n in more.get("nodes")["items"]] == ["edge-1", "edge-2"]
    assert more.proxy.pid != proxy
    with pytest.raises(TestbedError, match="take it down first"):
        Testbed.up(spare.name, nodes=1, settings=settings)


def test_an_offered_cluster_is_used_with_care_and_given_back(up, settings):
    bare = up("bare", bare=True)
    context = bare.kubectl("config", "current-context").strip()
    offered = Settings(
        settings.state_home, settings.cache_home, bare.kubeconfig, frozenset({context})
    )
    before = inventory(bare)
    bed = up("guest", nodes=2, agents=False, operator=False, settings=offered)
    assert [p.name for p in bed.processes] == ["prometheus", "registry", "proxy", "tokens"]
    assert status_of(bed.node("edge-2"), "/apis/linnet.dev/v1alpha1/nodemodels") == 200
    bed.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "factory"}})
    assert Testbed.up(bed.name, settings=offered).state.nodes == 2
    with pytest.raises(TestbedError, match="already has Namespace linnet-"):
        up("second-guest", nodes=1, agents=False, operator=False, settings=offered)
    assert not settings.directory(bed_name("second-guest")).exists()
    bed.down()
    assert_nothing_left(bed)
    assert inventory(bare) == before


def test_an_offered_cluster_must_be_allowed_by_name(up, settings):
    bare = up("bare", bare=True)
    offered = Settings(settings.state_home, settings.cache_home, bare.kubeconfig, frozenset({"x"}))
    with pytest.raises(TestbedError, match="LINNET_ALLOW_CONTEXT names x"):
        up("guest", nodes=1, settings=offered)
    assert not bare.get("namespaces", "-l", LABEL)["items"]


def test_tokens_are_bound_to_their_node_and_renewed(bed):
    node = bed.node("edge-2")
    token = node.token_file.read_text()
    said = claims(token)
    assert said["sub"] == "system:serviceaccount:linnet-agents:linnet-agent"
    assert said["kubernetes.io"]["node"]["name"] == "edge-2"
    os.utime(node.token_file, (0, 0))
    until(lambda: node.token_file.read_text() != token)
    assert status_of(node, "/apis/linnet.dev/v1alpha1/nodemodels") == 200


def test_the_operator_is_no_administrator(bed):
    config = bed.directory / "operator.kubeconfig"
    asked = ["kubectl", f"--kubeconfig={config}", "auth", "can-i"]
    able = {
        what: subprocess.run([*asked, *what.split()], capture_output=True, check=False).returncode
        for what in ("list nodemodels.linnet.dev", "get secrets", "delete namespaces")
    }
    assert able == {"list nodemodels.linnet.dev": 0, "get secrets": 1, "delete namespaces": 1}


def test_a_cut_node_reaches_nothing_and_is_not_reached(bed):
    node = bed.node("edge-3")
    path = "/apis/linnet.dev/v1alpha1/nodemodels"
    assert status_of(node, path) == 200
    assert registry_status(node) == 200
    node.cut()
    assert status_of(node, path) is TimeoutError
    assert registry_status(node) is TimeoutError
    assert all(link["cut"] for link in bed.network("status", node.name))
    assert status_of(bed.node("edge-1"), path) == 200
    node.restore()
    assert status_of(node, path) == 200
    assert registry_status(node) == 200


def test_prometheus_names_the_node_of_each_target(bed):
    def names():
        rows = bed.query('up{job=~"linnet-(server|agent)"}')
        return {(row["metric"]["job"], row["metric"]["node"]) for row in rows}

    jobs, nodes = ("linnet-server", "linnet-agent"), ("edge-1", "edge-2", "edge-3")
    until(lambda: names() == {(job, node) for job in jobs for node in nodes})


def test_the_registry_takes_a_blob_and_lets_it_be_deleted(bed):
    bed.registry.restart()
    until(lambda: registry_status(bed.node("edge-1")) == 200)
    digest = "sha256:" + "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    started = send("POST", f"{bed.registry_url}/v2/models/x/blobs/uploads/")
    location = started.headers["Location"]
    put = send("PUT", f"{location}&digest={digest}", b"hello")
    assert put.status == 201
    blob = f"{bed.node('edge-1').registry_url}/v2/models/x/blobs/{digest}"
    assert send("GET", blob).read() == b"hello"
    assert send("DELETE", blob).status == 202


def test_status_says_what_is_down(bed, capsys):
    bed.registry.kill()
    assert main(["status", "--name", bed.name, "-o", "json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert [p["name"] for p in shown["processes"] if p["state"] == "down"] == ["registry"]
    assert shown["env"]["KUBECONFIG"] == str(bed.kubeconfig)
    bed.registry.start()
    until(lambda: registry_status(bed.node("edge-1")) == 200)


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def assert_nothing_left(bed):
    assert not bed.directory.exists()
    assert marked(f"{bed.directory}:") == []


def inventory(bed):
    kinds = "crd,namespaces,nodes,clusterroles,clusterrolebindings"
    kinds += ",validatingadmissionpolicies,validatingadmissionpolicybindings"
    return sorted(bed.kubectl("get", kinds, "-o", "name").split())


def send(method, url, body=None, headers=None, cafile=None):
    context = ssl.create_default_context(cafile=cafile) if cafile else None
    request = urllib.request.Request(url, body, headers or {}, method=method)  # noqa: S310 - loopback
    if body is not None:
        request.add_header("Content-Type", "application/octet-stream")
    return urllib.request.urlopen(request, timeout=1, context=context)  # noqa: S310 - loopback


def outcome(*args, **kwargs):
    try:
        with send("GET", *args, **kwargs) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except urllib.error.URLError as error:
        return type(error.reason)
    except OSError as error:
        return type(error)


def status_of(node, path):
    headers = {"Authorization": f"Bearer {node.token_file.read_text()}"}
    return outcome(node.api_url + path, headers=headers, cafile=str(node.etc / "ca.crt"))


def registry_status(node):
    return outcome(f"{node.registry_url}/v2/")
