"""Deleting a deployment: with Keep its nodes serve on, with Unload they unload before it goes."""

import json
import urllib.request
import uuid

import pytest
from releases import Releases, linear

from linnet_api.names import UNLOAD_FINALIZER
from linnet_testbed import TestbedError
from linnet_testbed.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]

PATIENCE_S = 150
OPERATOR = "system:serviceaccount:linnet-system:linnet-operator"
POLICY = {
    "steps": [{"nodes": "100%", "bake": "1s"}],
    "judge": {"compare": []},
    "offline": {"deferAfter": "10s", "suspectAfter": "1h"},
}


class Story:
    """One deployment for all three nodes, in a namespace of its own."""

    def __init__(self, bed, namespace):
        self.bed, self.namespace, self.name = bed, namespace, "doomed"

    def want(self, source, digest, **spec):
        meta = {"namespace": self.namespace}
        self.bed.apply(
            [
                {
                    "apiVersion": "linnet.dev/v1alpha1",
                    "kind": "RolloutPolicy",
                    "metadata": {"name": "quick", **meta},
                    "spec": POLICY,
                },
                {
                    "apiVersion": "linnet.dev/v1alpha1",
                    "kind": "ModelDeployment",
                    "metadata": {"name": self.name, **meta},
                    "spec": {
                        "source": source,
                        "digest": digest,
                        "nodes": {"matchLabels": {"linnet.dev/fleet": "testbed"}},
                        "policyRef": {"name": "quick"},
                        **spec,
                    },
                },
            ]
        )

    def items(self, plural):
        return self.bed.get(plural, "-n", self.namespace)["items"]

    def deployment(self):
        return next(iter(self.items("modeldeployments")), None)

    def wait(self, condition, what):
        until(condition, timeout=PATIENCE_S, what=what)

    def wait_serving(self):
        self.wait(lambda: self.served() == [n.name for n in self.bed.nodes], "all nodes serve")
        self.wait(lambda: self.deployment()["status"].get("reason") == "Serving", "Serving")

    def served(self):
        """Return the nodes whose server answers for the model."""
        return [node.name for node in self.bed.nodes if self._answers(node)]

    def _answers(self, node):
        url = f"{node.server_url}/v2/models/{self.namespace}.{self.name}/ready"
        try:
            with urllib.request.urlopen(url, timeout=10):  # noqa: S310 - loopback
                return True
        except OSError:
            return False

    def patch(self, body, *more):
        what = ("modeldeployment", self.name, "-n", self.namespace)
        self.bed.kubectl("patch", *what, "--type=merge", "-p", json.dumps(body), *more)

    def delete(self, how="background"):
        self.bed.kubectl(
            *("delete", "modeldeployment", self.name, "-n", self.namespace),
            *("--wait=false", f"--cascade={how}"),
        )


@pytest.fixture
def story(fleet):
    namespace = f"removal-{uuid.uuid4().hex[:6]}"
    fleet.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    told = Story(fleet, namespace)
    yield told
    fleet.network("restore", None)
    if told.deployment() is not None:
        told.patch({"spec": {"removal": "Keep"}})
    fleet.kubectl("delete", "namespace", namespace, "--wait=false")
    fleet.kubectl("delete", "trustpolicy", namespace)


@pytest.fixture
def model(story, tmp_path):
    """Return source and digest of a signed model that every node trusts."""
    releases = Releases(story.bed, story.namespace)
    releases.trust()
    (tmp_path / "model.onnx").write_bytes(linear(2, note=story.namespace))
    digest = releases.release(tmp_path, story.name, 1, counter=1)
    return releases.source(story.name, 1), digest


def test_unload_waits_for_the_nodes_and_keep_takes_nothing_away(story, model):
    everyone = [node.name for node in story.bed.nodes]
    story.want(*model)
    story.wait_serving()
    assert "finalizers" not in story.deployment()["metadata"]
    assert all(item["metadata"]["ownerReferences"] for item in story.items("nodemodels"))

    story.delete()
    story.wait(lambda: not story.items("nodemodels"), "the NodeModels are collected")
    assert story.served() == everyone

    story.want(*model, removal="Unload")
    story.wait_serving()
    story.wait(
        lambda: story.deployment()["metadata"].get("finalizers") == [UNLOAD_FINALIZER], "held"
    )
    assert not any("ownerReferences" in item["metadata"] for item in story.items("nodemodels"))
    with pytest.raises(TestbedError, match="may not change what people want"):
        story.patch({"spec": {"paused": True}}, "--as", OPERATOR)
    # The way of Argo CD: what it owns is to go first. Its orders are not among that.
    story.delete("foreground")
    story.wait(lambda: story.deployment() is None, "it is gone")

    assert story.served() == []
    story.wait(lambda: not story.items("nodemodels"), "no order is left")


def test_a_node_that_is_lost_holds_nothing_up_and_unloads_when_it_is_back(story, model):
    story.want(*model, removal="Unload")
    story.wait_serving()
    lost = story.bed.nodes[0]
    lost.cut("api")
    story.delete()

    story.wait(lambda: story.served() == [lost.name], "the others unload")
    story.wait(lambda: story.deployment() is None, "it is gone without the lost node")
    (order,) = story.items("nodemodels")
    assert order["spec"]["node"]["name"] == lost.name
    assert order["spec"]["desired"]["state"] == "Absent"
    assert story.served() == [lost.name]

    lost.restore("api")
    story.wait(lambda: story.served() == [], "it unloads at first contact")
    story.wait(lambda: not story.items("nodemodels"), "its order is carried out, and goes")
