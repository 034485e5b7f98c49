"""The contract on the real API server: what it refuses, in which words, and who may write what."""

import json
import subprocess
import uuid
from pathlib import Path

import pytest

from linnet_testbed.errors import TestbedError

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
EXAMPLES = Path(__file__).parents[2] / "examples"
DIGEST = "sha256:" + "a" * 64


@pytest.fixture(scope="module")
def namespace(bed):
    name = f"contract-{uuid.uuid4().hex[:6]}"
    bed.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    bed.kubectl("delete", "namespace", name, "--wait=false")


def deployment(namespace, **spec):
    return {
        "apiVersion": "linnet.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "defects", "namespace": namespace},
        "spec": {
            "source": "oci://registry.testbed/models/defects:1",
            "nodes": {"matchLabels": {"linnet.dev/fleet": "nobody"}},
        }
        | spec,
    }


def policy(namespace, **spec):
    return {
        "apiVersion": "linnet.dev/v1alpha1",
        "kind": "RolloutPolicy",
        "metadata": {"name": "careful", "namespace": namespace},
        "spec": {"steps": [{"nodes": 1}]} | spec,
    }


def rollout(namespace):
    revision = {"revision": "0123456789", "digest": DIGEST, "number": 1}
    return {
        "apiVersion": "linnet.dev/v1alpha1",
        "kind": "ModelRollout",
        "metadata": {"name": "defects-1", "namespace": namespace},
        "spec": {
            "deployment": {"name": "defects", "uid": "u"},
            "to": revision,
            "policy": {"steps": [{"nodes": 1}]},
        },
    }


def order(namespace, node):
    return {
        "apiVersion": "linnet.dev/v1alpha1",
        "kind": "NodeModel",
        "metadata": {"name": f"defects-{node['metadata']['name']}", "namespace": namespace},
        "spec": {
            "deployment": "defects",
            "node": {"name": node["metadata"]["name"], "uid": "another-machine"},
            "sequence": 7,
            "desired": {"state": "Absent"},
        },
    }


@pytest.mark.parametrize(
    ("make", "says"),
    [
        pytest.param(
            lambda n: deployment(n, colour="red"), 'unknown field "colour"', id="unknown field"
        ),
        pytest.param(
            lambda n: deployment(n, nodes={}),
            "nodes must name at least one label",
            id="empty selector",
        ),
        pytest.param(
            lambda n: deployment(n, nodes={"matchLabels": {}}),
            "nodes must name at least one label",
            id="selector of no labels",
        ),
        pytest.param(
            lambda n: deployment(n, source="https://models.local/defects"),
            "digest is required for https",
            id="https without digest",
        ),
        pytest.param(
            lambda n: deployment(n, source="ftp://x/y"), "spec.source", id="unknown scheme"
        ),
        pytest.param(
            lambda n: policy(n, steps=[{"nodes": "101%"}]),
            "spec.steps[0].nodes",
            id="percentage over 100",
        ),
        pytest.param(lambda n: policy(n, steps=[]), "spec.steps", id="no steps"),
        pytest.param(
            lambda n: policy(n, steps=[{"nodes": 1, "bake": "soon"}]),
            "spec.steps[0].bake",
            id="no duration",
        ),
        pytest.param(
            lambda n: policy(n, judge={"thresholds": [{"name": "t", "query": "up"}]}),
            "needs max, min, or both",
            id="threshold without limit",
        ),
        pytest.param(
            lambda n: policy(n, judge={"compare": [{"name": "s", "signal": "Slow"}]}),
            "over belongs to the signal Slow",
            id="slow without over",
        ),
    ],
)
def test_bad_yaml_is_refused_with_a_sentence(bed, namespace, make, says):
    with pytest.raises(TestbedError) as refused:
        bed.apply(make(namespace))

    assert says in str(refused.value)


def test_a_new_object_is_seeded_as_not_looked_at(bed, namespace):
    bed.apply(policy(namespace) | {"metadata": {"name": "seeded", "namespace": namespace}})
    bed.apply(rollout(namespace) | {"metadata": {"name": "seeded-1", "namespace": namespace}})

    found = bed.get("-n", namespace, "modelrollout", "seeded-1")

    assert found["status"]["observedGeneration"] == -1


def test_the_serving_name_is_immutable(bed, namespace):
    bed.apply(deployment(namespace, serving={"name": "defects"}))

    with pytest.raises(TestbedError, match=r"serving\.name is immutable"):
        bed.apply(deployment(namespace, serving={"name": "brakes"}))


def test_a_rollout_is_a_record_and_acts_are_append_only_and_signed(bed, namespace):
    bed.apply(rollout(namespace))
    me = json.loads(bed.kubectl("auth", "whoami", "-o", "json"))["status"]["userInfo"]["username"]

    def patch(spec):
        bed.kubectl(
            "-n",
            namespace,
            "patch",
            "modelrollout",
            "defects-1",
            "--type=merge",
            "-p",
            json.dumps({"spec": spec}),
        )

    with pytest.raises(TestbedError, match="immutable but for acts"):
        patch({"to": {"revision": "9999999999", "digest": DIGEST}})
    with pytest.raises(TestbedError, match="carries the name of who adds it"):
        patch({"acts": [{"id": "a1", "verb": "Abort", "by": "somebody-else"}]})
    patch({"acts": [{"id": "a1", "verb": "Abort", "by": me, "reason": "test"}]})
    with pytest.raises(TestbedError, match="append-only"):
        patch({"acts": []})


def agent_kubectl(node, *arguments, stdin=None):
    token = node.token_file.read_text().strip()
    argv = [
        "kubectl",
        f"--server={node.api_url}",
        f"--certificate-authority={node.etc / 'ca.crt'}",
        f"--token={token}",
        "--kubeconfig=/dev/null",
        *arguments,
    ]
    return subprocess.run(
        argv, input=stdin, capture_output=True, text=True, check=False, timeout=30
    )


def test_an_agent_may_report_for_its_own_node_only(bed, namespace):
    mine, other = bed.nodes[0], bed.nodes[1]
    for node in (mine, other):
        bed.apply(order(namespace, bed.get("node", node.name)))
    report = json.dumps({"status": {"observedSequence": 7, "state": "Absent"}})

    def patch(node):
        return agent_kubectl(
            mine,
            "-n",
            namespace,
            "patch",
            "nodemodel",
            f"defects-{node.name}",
            "--subresource=status",
            "--type=merge",
            "-p",
            report,
        )

    allowed, forged = patch(mine), patch(other)

    assert allowed.returncode == 0, allowed.stderr
    assert forged.returncode != 0
    assert "only report for the node that it runs on" in forged.stderr


def event(namespace, *, node, kind="NodeModel", api_version="linnet.dev/v1alpha1"):
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"generateName": "told-", "namespace": namespace},
        "eventTime": "2026-01-01T12:00:00.000000Z",
        "reportingController": "linnet.dev/agent",
        "reportingInstance": node,
        "action": "Activate",
        "reason": "Reverted",
        "type": "Warning",
        "regarding": {
            "apiVersion": api_version,
            "kind": kind,
            "namespace": namespace,
            "name": "defects-1",
        },
        "note": "a test",
    }


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({}, None, id="its own NodeModel"),
        pytest.param({"node": "edge-2"}, "for the node that it runs on", id="another node's name"),
        pytest.param({"kind": "Pod", "api_version": "v1"}, "about NodeModels only", id="a pod"),
    ],
)
def test_an_agent_may_write_events_about_its_node_models_only(bed, namespace, changes, says):
    node = bed.nodes[0]
    body = event(namespace, **{"node": node.name} | changes)

    done = agent_kubectl(node, "create", "-f", "-", stdin=json.dumps(body))

    assert (done.returncode == 0) is (says is None), done.stderr
    assert says is None or says in done.stderr


@pytest.mark.parametrize("verb", [("get",), ("delete", "--all")], ids=" ".join)
def test_an_agent_may_not_read_or_remove_events(bed, namespace, verb):
    done = agent_kubectl(bed.nodes[0], "-n", namespace, *verb, "events.events.k8s.io")

    assert done.returncode != 0
    assert "forbidden" in done.stderr.lower()


def test_an_agent_may_not_give_orders(bed, namespace):
    node = bed.nodes[0]

    done = agent_kubectl(
        node, "-n", namespace, "delete", "nodemodel", f"defects-{node.name}", "--wait=false"
    )

    assert done.returncode != 0
    assert "forbidden" in done.stderr.lower()


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_examples_are_valid(bed, file):
    text = file.read_text().replace("namespace: factory", "namespace: default")

    bed.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=text)


@pytest.mark.parametrize(
    "path",
    ["modeldeployment.spec.removal", "rolloutpolicy.spec.judge.detect", "nodemodel.spec.sequence"],
)
def test_explain_reads_like_documentation(bed, path):
    said = bed.kubectl("explain", path)

    assert "DESCRIPTION" in said
    assert "<empty>" not in said
