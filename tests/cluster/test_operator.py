"""The operator as a process, with its own service account, against a real API server and registry.

The nodes are played: what an agent would write, written by a thread, so that these tests are about
the operator alone.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from datetime import UTC, datetime

import httpx
import pytest

from linnet_testbed import TestbedError, ports
from linnet_testbed.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]

API = "/apis/linnet.dev/v1alpha1"
PINNED = "oci://registry.testbed/models/digits@sha256:"
ONE, TWO = "1" * 64, "2" * 64
FLEET = {"linnet.dev/fleet": "testbed"}
FAST = {
    "steps": [{"nodes": 1, "bake": "1s"}, {"nodes": "100%", "bake": "1s"}],
    "judge": {"compare": []},
}


def now(form):
    return datetime.now(UTC).strftime(form)  # noqa: TID251 - a played node has a clock of its own


class Api:
    """The API server as the administrator sees it, in plain JSON."""

    def __init__(self, client):
        self._client = client

    def get(self, path):
        answer = self._client.get(path)
        return None if answer.status_code == 404 else answer.raise_for_status().json()

    def items(self, path):
        return self.get(path)["items"]

    def merge(self, path, body):
        headers = {"Content-Type": "application/merge-patch+json"}
        return self._client.patch(path, json=body, headers=headers).raise_for_status().json()

    def create(self, path, body):
        answer = self._client.post(path, json=body)
        if answer.status_code != 409:
            answer.raise_for_status()

    def delete(self, path):
        self._client.delete(path)


class PlayedAgents(threading.Thread):
    """Every node: beats, and does at once what it is told, but for what ``refuses`` says."""

    def __init__(self, api, nodes, refuses=()):
        super().__init__(daemon=True)
        self._api, self._nodes, self._refuses = api, nodes, refuses
        self._end = threading.Event()
        self.orders = {}  # node -> the order of revisions that it was told, without repeats

    def run(self):
        for node in self._nodes:
            self._api.create(
                f"{API}/modelhosts",
                {
                    "apiVersion": "linnet.dev/v1alpha1",
                    "kind": "ModelHost",
                    "metadata": {"name": node},
                },
            )
            self._api.merge(
                f"{API}/modelhosts/{node}/status",
                {
                    "status": {
                        "observedGeneration": 0,
                        "runtimes": [{"name": "Linnet", "version": "1"}],
                    },
                },
            )
        while not self._end.wait(0.1):
            for node in self._nodes:
                self._beat(node)
            for order in self._api.items(f"{API}/nodemodels"):
                if order["spec"]["node"]["name"] in self._nodes:
                    self._obey(order)

    def stop(self):
        self._end.set()
        self.join()

    def _beat(self, node):
        leases = "/apis/coordination.k8s.io/v1/namespaces/linnet-agents/leases"
        spec = {
            "holderIdentity": node,
            "leaseDurationSeconds": 6,
            "renewTime": now("%Y-%m-%dT%H:%M:%S.%fZ"),
        }
        self._api.create(
            leases,
            {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": node, "namespace": "linnet-agents"},
                "spec": spec,
            },
        )
        self._api.merge(f"{leases}/{node}", {"spec": spec})

    def _obey(self, order):
        spec, status, metadata = order["spec"], order.get("status", {}), order["metadata"]
        if status.get("observedSequence", 0) >= spec["sequence"]:
            return
        desired = spec["desired"]
        told = self.orders.setdefault((metadata["namespace"], spec["node"]["name"]), [])
        if not told or told[-1] != desired.get("revision"):
            told.append(desired.get("revision"))
        refused = desired.get("artifact") in self._refuses
        new = {
            "observedGeneration": metadata["generation"],
            "observedSequence": spec["sequence"],
            "revision": desired.get("revision"),
            "state": "Refused" if refused else desired["state"],
            "reason": "BadSignature" if refused else desired["state"],
        }
        if not refused and desired["state"] == "Active":
            current = status.get("current") or {}
            if current.get("revision") != desired["revision"]:
                new["previous"] = current or None
                new["current"] = {
                    "revision": desired["revision"],
                    "artifact": desired["artifact"],
                    "modelDigest": desired["artifact"],
                    "servingName": desired["serving"]["name"],
                    "activatedAt": now("%Y-%m-%dT%H:%M:%SZ"),
                    "soaked": True,
                }
        path = f"{API}/namespaces/{metadata['namespace']}/nodemodels/{metadata['name']}/status"
        try:
            self._api.merge(path, {"status": new})
        except httpx.HTTPStatusError as error:
            if error.response.status_code not in {404, 409}:
                raise


class Operator:
    """The operator's process."""

    def __init__(self, bed, log_path):
        self._bed, self._log_path = bed, log_path
        self.port = ports.any_free()
        self._process = None

    def start(self):
        bed = self._bed
        argv = [
            sys.executable,
            "-m",
            "linnet_operator",
            "--kubeconfig",
            str(bed.directory / "operator.kubeconfig"),
            "--prometheus",
            f"http://127.0.0.1:{bed.state.ports['operator.prometheus']}",
            "--metrics",
            f"127.0.0.1:{self.port}",
            "--resync-s",
            "2",
            "--log-level",
            "debug",
        ]
        environment = {**os.environ, **bed.env}  # noqa: TID251 - a child's environment
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)
        until(self.healthy, timeout=30, what="the operator is healthy")

    def healthy(self):
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}/healthz", timeout=2
            ) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def metrics(self, name):
        """Return the samples of a metric, by series."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        rows = [line.rpartition(" ") for line in lines if line.startswith(name)]
        return {series: float(value) for series, _, value in rows}

    def writes(self):
        """Return how many writes it has made, by kind and verb."""
        return self.metrics("linnet_operator_writes_total{")

    def retries(self):
        return sum(self.metrics("linnet_operator_kube_retries_total{").values())

    def turns(self):
        return sum(self.metrics("linnet_operator_turns_total{").values())

    def kill(self):
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)

    def stop(self):
        if self._process is None or self._process.poll() is not None:
            return None
        self._process.terminate()
        return self._process.wait(20)


@pytest.fixture(scope="module")
def api(bed, connect):
    return Api(connect(bed))


@pytest.fixture(scope="module")
def agents(api):
    played = PlayedAgents(api, [f"edge-{n}" for n in (1, 2, 3)], refuses=(f"sha256:{'f' * 64}",))
    played.start()
    yield played
    played.stop()


@pytest.fixture(scope="module")
def process(bed, agents, tmp_path_factory):  # noqa: ARG001 - the nodes must be there first
    started = Operator(bed, tmp_path_factory.mktemp("operator") / "log")
    yield started
    started.stop()


@pytest.fixture
def operator(process):
    """One operator for all tests; started again where a test has ended it."""
    if not process.healthy():
        process.start()
    return process


@pytest.fixture
def namespace(bed, api, request):
    name = f"op-{hashlib.sha256(f'{os.getpid()} {request.node.name}'.encode()).hexdigest()[:8]}"
    bed.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    for plural in ("modeldeployments", "modelrollouts", "nodemodels", "rolloutpolicies"):
        api.delete(f"{API}/namespaces/{name}/{plural}")


def policy(namespace, name="fast", **spec):
    return {
        "apiVersion": "linnet.dev/v1alpha1",
        "kind": "RolloutPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {**FAST, **spec},
    }


def deployment(namespace, source, name="digits", **spec):
    return {
        "apiVersion": "linnet.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "source": source,
            "nodes": {"matchLabels": FLEET},
            "policyRef": {"name": "fast"},
            **spec,
        },
    }


class Story:
    """What one test reads of its namespace."""

    def __init__(self, api, namespace):
        self._api, self._root = api, f"{API}/namespaces/{namespace}"

    def deployment(self, name="digits"):
        return self._api.get(f"{self._root}/modeldeployments/{name}")

    def ready(self, name="digits"):
        conditions = self.deployment(name)["status"].get("conditions", [])
        return next((c for c in conditions if c["type"] == "Ready"), {})

    def reason(self, name="digits"):
        return self.ready(name).get("reason")

    def waiting(self, name="digits"):
        return self.deployment(name)["status"].get("waitingFor", {})

    def node_models(self):
        return self._api.items(f"{self._root}/nodemodels")

    def rollouts(self):
        return self._api.items(f"{self._root}/modelrollouts")

    def phases(self):
        return [each["status"].get("phase") for each in self.rollouts()]

    def wait_reason(self, wanted, timeout=60):
        try:
            until(lambda: self.reason() == wanted, timeout=timeout, what=wanted)
        except TestbedError as error:
            raise AssertionError(f"{error} {json.dumps(self.deployment()['status'])}") from None


@pytest.fixture
def story(api, namespace):
    return Story(api, namespace)


def push(bed, tag, content):
    """Push a manifest with one blob under ``tag``; return its digest."""
    base = f"{bed.registry_url}/v2/models/moving"
    with httpx.Client() as client:
        descriptors = []
        for blob in (b"{}", content):
            digest = f"sha256:{hashlib.sha256(blob).hexdigest()}"
            place = client.post(f"{base}/blobs/uploads/").raise_for_status().headers["Location"]
            joint = "&" if "?" in place else "?"
            client.put(f"{place}{joint}digest={digest}", content=blob).raise_for_status()
            descriptors.append(
                {"mediaType": "application/octet-stream", "digest": digest, "size": len(blob)}
            )
        kind = "application/vnd.oci.image.manifest.v1+json"
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": kind,
                "config": descriptors[0],
                "layers": descriptors[1:],
            }
        ).encode()
        client.put(
            f"{base}/manifests/{tag}", content=manifest, headers={"Content-Type": kind}
        ).raise_for_status()
    return f"sha256:{hashlib.sha256(manifest).hexdigest()}"


@pytest.mark.usefixtures("operator")
def test_a_first_rollout_reaches_every_node(bed, story, namespace):
    bed.apply([policy(namespace), deployment(namespace, PINNED + ONE)])

    story.wait_reason("Serving")

    assert story.phases() == ["Completed"]
    orders = story.node_models()
    assert {o["spec"]["node"]["name"] for o in orders} == {"edge-1", "edge-2", "edge-3"}
    assert all(o["spec"]["desired"]["artifact"] == f"sha256:{ONE}" for o in orders)
    owner = orders[0]["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["blockOwnerDeletion"]) == ("ModelDeployment", False)
    assert "finalizers" not in story.deployment()["metadata"]
    assert "linnet" not in json.dumps(story.deployment()["metadata"].get("annotations", {}))


def test_a_settled_fleet_causes_no_writes(bed, operator, story, namespace):
    bed.apply([policy(namespace), deployment(namespace, PINNED + ONE)])
    story.wait_reason("Serving")
    versions = sorted(each["metadata"]["resourceVersion"] for each in story.node_models())
    settled = operator.writes()
    turns = operator.turns()

    until(lambda: operator.turns() >= turns + 3, timeout=120, what="three more turns")

    assert operator.writes() == settled
    assert sorted(each["metadata"]["resourceVersion"] for each in story.node_models()) == versions


@pytest.mark.usefixtures("operator")
def test_a_policy_that_does_not_exist_moves_nothing(bed, story, namespace):
    bed.apply(deployment(namespace, PINNED + ONE, policyRef={"name": "nowhere"}))

    story.wait_reason("PolicyNotFound")

    assert "nowhere" in story.ready()["message"]
    assert story.node_models() == []

    bed.apply(policy(namespace, name="nowhere"))
    story.wait_reason("Serving")


@pytest.mark.usefixtures("operator")
def test_a_policy_that_cannot_be_used_says_why(bed, api, namespace):
    history = {"compare": [{"name": "errors", "signal": "Errors"}], "history": {"window": "1h"}}
    bed.apply(policy(namespace, name="odd", judge=history))
    path = f"{API}/namespaces/{namespace}/rolloutpolicies/odd"

    until(lambda: api.get(path)["status"].get("conditions"), timeout=30)

    ready = api.get(path)["status"]["conditions"][0]
    assert (ready["type"], ready["status"], ready["reason"]) == ("Ready", "False", "InvalidSpec")
    assert "longer than the shortest bake" in ready["message"]


@pytest.mark.usefixtures("operator")
def test_a_source_that_is_none_is_said(bed, story, namespace):
    bed.apply([policy(namespace), deployment(namespace, "oci://registry.testbed/models/digits")])

    story.wait_reason("InvalidSpec")

    assert "names no tag" in story.ready()["message"]
    assert story.node_models() == []


@pytest.mark.usefixtures("operator")
def test_a_source_that_does_not_resolve_is_a_condition_and_heals(bed, story, namespace):
    tag = f"late-{namespace}"
    source = f"oci://registry.testbed/models/moving:{tag}"
    bed.apply([policy(namespace), deployment(namespace, source)])

    story.wait_reason("SourceNotResolved")

    assert "404" in story.ready()["message"]
    assert story.node_models() == []

    push(bed, tag, b"late")
    story.wait_reason("Serving", timeout=120)


def test_a_tag_that_moves_later_changes_nothing(bed, operator, story, namespace):
    tag = f"moves-{namespace}"
    source = f"oci://registry.testbed/models/moving:{tag}"
    first = push(bed, tag, b"first")
    bed.apply([policy(namespace), deployment(namespace, source)])
    story.wait_reason("Serving")

    second = push(bed, tag, b"second")
    assert first != second
    operator.kill()
    operator.start()
    # Another generation of the same source, and a restart: neither asks the registry again.
    bed.apply([deployment(namespace, source, resources={"memory": "1Mi"})])
    generation = story.deployment()["metadata"]["generation"]
    until(lambda: story.deployment()["status"]["observedGeneration"] == generation, timeout=60)
    story.wait_reason("Serving")

    assert {o["spec"]["desired"]["artifact"] for o in story.node_models()} == {first}
    assert story.deployment()["status"]["stable"]["digest"] == first


def test_an_operator_killed_again_and_again_rolls_out_once(bed, operator, story, namespace, agents):
    bed.apply([policy(namespace), deployment(namespace, PINNED + ONE)])
    story.wait_reason("Serving")
    bed.apply([deployment(namespace, PINNED + TWO)])
    until(lambda: len(story.rollouts()) == 2, timeout=30)

    for _ in range(3):
        operator.kill()
        operator.start()
    until(lambda: story.phases()[-1] == "Completed", timeout=120, what="the second rollout")
    story.wait_reason("Serving")

    assert story.phases() == ["Completed", "Completed"]
    told = [revisions for (where, _), revisions in agents.orders.items() if where == namespace]
    assert [len(revisions) for revisions in told] == [2, 2, 2]
    decisions = [d["n"] for d in story.rollouts()[-1]["status"]["decisions"]]
    assert decisions == sorted(set(decisions))


@pytest.mark.usefixtures("operator")
def test_a_candidate_that_nodes_refuse_stops(bed, story, namespace):
    bed.apply([policy(namespace), deployment(namespace, PINNED + ONE)])
    story.wait_reason("Serving")

    bed.apply([deployment(namespace, PINNED + "f" * 64)])
    story.wait_reason("Refused")

    assert "BadSignature" in story.ready()["message"]
    assert story.phases()[-1] == "Refused"
    assert {o["status"]["current"]["artifact"] for o in story.node_models()} == {f"sha256:{ONE}"}


def test_an_api_server_that_is_away_ends_nothing(bed, operator, story, namespace):
    bed.apply([policy(namespace), deployment(namespace, PINNED + ONE)])
    story.wait_reason("Serving")

    bed.network("cut", "operator", ["api"])
    try:
        failed = operator.retries()
        bed.apply([deployment(namespace, PINNED + TWO)])
        until(lambda: operator.retries() > failed, timeout=60, what="a request without an answer")
    finally:
        bed.network("restore", "operator", ["api"])

    until(lambda: story.phases() == ["Completed", "Completed"], timeout=120)
    story.wait_reason("Serving")


@pytest.mark.usefixtures("operator")
def test_a_prometheus_that_is_away_holds_and_says_so(bed, story, namespace):
    limit = {"name": "up", "query": "vector(1)", "max": "1"}
    judge = {"compare": [], "thresholds": [limit], "interval": "1s"}
    bed.network("cut", "operator", ["prometheus"])
    try:
        bed.apply([policy(namespace, judge=judge), deployment(namespace, PINNED + ONE)])
        until(lambda: story.waiting().get("reason") == "NoData", timeout=60, what="NoData")
        message = story.waiting()["message"]
    finally:
        bed.network("restore", "operator", ["prometheus"])

    assert "/api/v1/query" in message
    assert story.phases() == ["Baking"]


def test_sigterm_ends_it_with_zero(operator):
    assert operator.stop() == 0
