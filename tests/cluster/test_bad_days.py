"""Bad input and bad days, end to end: real API server, registry, Prometheus, operator and agents.

- Every case ends in a condition with a reason and a sentence that says what to do.
- What was serving serves on: a visitor asks the node's server all the time, and loses no request.
- Where the world mends, the rollout goes on by itself; where it does not, nothing passes.

Each test has a deployment of its own; all first rollouts are made at once, before the first test.
"""

import contextlib
import dataclasses
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import uuid
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pytest
from releases import Releases, golden_sample, linear

from linnet_testbed import TestbedError
from linnet_testbed.ports import is_open
from linnet_testbed.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]

API = "/apis/linnet.dev/v1alpha1"
LINNET = Path(sys.executable).with_name("linnet")
PATIENCE_S = 150
"""Both cores may be busy; what is waited for comes within seconds on a quiet machine."""

ENDED = {"Completed", "RolledBack", "Refused", "Superseded", "Aborted", "Abandoned"}
NOT_COMPARED = {"compare": []}
QUICK = {"steps": [{"nodes": "100%", "bake": "1s"}], "judge": NOT_COMPARED}
GUARDED = {
    "steps": [
        {"nodes": 1, "bake": "1s"},
        {"nodes": "100%", "bake": "1s", "approval": "BeforeStep"},
    ],
    "control": 0,
    "judge": NOT_COMPARED,
}
COMPARED = {
    "steps": [{"nodes": "100%", "bake": "2s"}],
    "judge": {
        "interval": "1s",
        "history": {"window": "2s", "windows": 8, "required": 4},
        "compare": [{"name": "errors", "signal": "Errors"}],
    },
}


def limited(**queries):
    """Return a policy with thresholds: each of these queries gives at most 0.5."""
    limits = [{"name": name, "query": query, "max": "0.5"} for name, query in queries.items()]
    judge = {"interval": "1s", "compare": [], "thresholds": limits}
    return {"steps": [{"nodes": "100%", "bake": "1s"}], "judge": judge}


FAILED, ASKED = (
    f'sum(increase(linnet_inference_requests_total{{namespace="{{{{namespace}}}}",'
    f'revision="{{{{revision}}}}"{more}}}[5s])) or vector(0)'
    for more in (',outcome="failure"', "")
)
POLICIES = {
    "quick": QUICK,
    "guarded": GUARDED,
    "compared": COMPARED,
    # The share of failed requests: 0/0, so NaN, while nobody asks.
    "share-of-failures": limited(share=f"({FAILED}) / ({ASKED})"),
    "no-answers": limited(empty="vector(0) unless vector(0)", wrong="sum by node up"),
    "zero": limited(zero="vector(0)"),
}

BEGINNINGS = {}
"""Test -> name of its deployment, and the nodes that it is for."""


def serving(name, *nodes):
    """Give a test a deployment that serves its version 1 on these nodes when it begins."""

    def note(test):
        BEGINNINGS[test.__name__] = (name, nodes)
        return test

    return note


def ask(url, name, x=1.0):
    """Return what a server answers to ``x``; an error of the HTTP library where it does not."""
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [x]}]}
    request = urllib.request.Request(  # noqa: S310 - loopback
        f"{url}/v2/models/{name}/infer",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - loopback
        return json.load(answer)["outputs"][0]["data"][0]


class Visitor(threading.Thread):
    """Asks the servers of all nodes of a deployment, all the time, and keeps count."""

    def __init__(self, urls, name):
        super().__init__(daemon=True)
        self._urls, self._name = urls, name
        self._end = threading.Event()
        self.answers, self.lost = set(), []

    def run(self):
        while not self._end.wait(0.1):
            for url in self._urls:
                try:
                    self.answers.add(ask(url, self._name))
                except OSError as error:
                    self.lost.append(f"{url}: {error!r}")

    def stop(self):
        self._end.set()
        self.join()


class Bad500(http.server.BaseHTTPRequestHandler):
    """A registry that has lost its mind."""

    def do_GET(self):
        self.send_error(500)

    def log_message(self, *_):
        """Say nothing."""


class Hub:
    """The API server as the administrator sees it, and the namespace of these tests."""

    def __init__(self, bed, client, namespace):
        self.bed, self._client, self.namespace = bed, client, namespace
        self.releases = Releases(bed, namespace)

    def get(self, path):
        """Return an object; None where there is none. An API server that starts is waited for."""
        answers = []

        def answered():
            with contextlib.suppress(httpx.TransportError):
                answers.append(self._client.get(path))
            return answers and answers[-1].status_code not in {429, 500, 503}

        until(answered, 60, path)
        return None if answers[-1].status_code == 404 else answers[-1].raise_for_status().json()

    def is_ready(self):
        try:
            return self._client.get("/readyz").status_code == 200
        except httpx.HTTPError:
            return False

    def beat(self, node):
        """Return when a node has last renewed its Lease."""
        path = "/apis/coordination.k8s.io/v1/namespaces/linnet-agents/leases"
        return datetime.fromisoformat(self.get(f"{path}/{node}")["spec"]["renewTime"])

    def delete(self, path):
        self._client.delete(path).raise_for_status()

    def list(self, plural):
        return self.get(f"{API}/namespaces/{self.namespace}/{plural}")["items"]

    def apply_policy(self, name, spec):
        self.bed.apply(
            {
                "apiVersion": "linnet.dev/v1alpha1",
                "kind": "RolloutPolicy",
                "metadata": {"name": name, "namespace": self.namespace},
                "spec": spec,
            }
        )


class Story:
    """One deployment: what its people do, and what they see."""

    def __init__(self, hub, name, nodes, workdir):
        # A node serves on what was deleted, so another run's names may be taken.
        self.hub, self.name, self.bed = hub, f"{name}-{hub.namespace[-4:]}", hub.bed
        self.nodes = [hub.bed.node(node) for node in nodes]
        self._workdir = workdir / self.name
        self._counter = 0

    # -- what people do

    def publish(self, tag, content=None, *, factor=None, signed_as=None, golden=None, **more):
        """Sign and push a model; return its artifact digest."""
        directory = self._workdir / tag
        directory.mkdir(parents=True, exist_ok=True)
        self._counter += 1
        note = f"{self.hub.namespace} {self.name} {tag} {self._counter}"
        factor = float(tag) if factor is None else factor
        raw = linear(factor, note=note, **more) if content is None else content
        (directory / "model.onnx").write_bytes(raw)
        if golden is not None:
            (directory / "golden.json").write_text(golden_sample(golden))
        return self.hub.releases.release(
            directory, self.name, tag, counter=self._counter, signed_as=signed_as
        )

    def wanted(self, tag, *, policy="quick", **spec):
        """Return the ModelDeployment with that tag."""
        names = [node.name for node in self.nodes]
        one = {"key": "kubernetes.io/hostname", "operator": "In", "values": names}
        return {
            "apiVersion": "linnet.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": self.name, "namespace": self.hub.namespace},
            "spec": {
                "source": self.hub.releases.source(self.name, tag),
                "nodes": {"matchExpressions": [one]},
                "policyRef": {"name": policy},
                **spec,
            },
        }

    def deploy(self, tag, **spec):
        self.bed.apply(self.wanted(tag, **spec))

    def retry(self):
        """Try what has ended again, and wait until a new rollout does."""
        ended = self.rollout()["metadata"]["name"]
        self.linnet("retry")
        self.wait(lambda: self.rollout()["metadata"]["name"] != ended, "a new rollout")

    def linnet(self, *argv):
        """Run the CLI about this deployment."""
        env = {**os.environ, **self.bed.env}  # noqa: TID251 - a child's environment
        done = subprocess.run(
            [LINNET, argv[0], self.name, "-n", self.hub.namespace, *argv[1:]],
            capture_output=True,
            text=True,
            env=env,
            check=False,
        )
        assert done.returncode == 0, done.stderr or done.stdout
        return done.stdout

    # -- what people see

    def deployment(self):
        return self.hub.get(self._path("modeldeployments", self.name))

    def ready(self):
        found = (self.deployment() or {}).get("status", {}).get("conditions", [])
        return next((c for c in found if c["type"] == "Ready"), {})

    def rollout(self):
        """Return the newest rollout."""
        mine = [
            r
            for r in self.hub.list("modelrollouts")
            if r["spec"]["deployment"]["name"] == self.name
        ]
        return max(mine, key=lambda r: int(r["metadata"]["name"].rpartition("-")[2]), default={})

    def phase(self):
        return self.rollout().get("status", {}).get("phase")

    def node_models(self):
        """Return the NodeModels by node."""
        return {
            item["spec"]["node"]["name"]: item
            for item in self.hub.list("nodemodels")
            if item["spec"]["deployment"] == self.name
        }

    def reports(self):
        """Return what the nodes say, by node."""
        return {node: item.get("status", {}) for node, item in self.node_models().items()}

    def have_taken_up(self, digest):
        """Tell whether every node has heard the order for ``digest``."""
        models = self.node_models().values()
        return all(
            item["spec"]["desired"].get("artifact") == digest
            and item.get("status", {}).get("observedSequence") == item["spec"]["sequence"]
            for item in models
        )

    def answers(self):
        """Return what each node's server answers now; None where it answers nothing."""
        return [self._answer(node) for node in self.nodes]

    def _answer(self, node):
        try:
            return ask(node.server_url, f"{self.hub.namespace}.{self.name}")
        except OSError:
            return None

    def visitor(self):
        return Visitor([n.server_url for n in self.nodes], f"{self.hub.namespace}.{self.name}")

    def _path(self, plural, name):
        return f"{API}/namespaces/{self.hub.namespace}/{plural}/{name}"

    # -- waiting

    def wait(self, condition, what, timeout=PATIENCE_S):
        """Wait for a condition; say how everything stands where it does not come."""
        try:
            until(condition, timeout=timeout, what=what)
        except TestbedError as error:
            now = {
                "deployment": (self.deployment() or {}).get("status"),
                "rollout": self.rollout().get("status"),
                "nodes": self.reports(),
            }
            raise AssertionError(f"{error}\n{json.dumps(now, indent=1)}") from None

    def wait_reason(self, reason):
        """Wait until the deployment's Ready condition has that reason; return its sentence."""
        self.wait(lambda: self.ready().get("reason") == reason, reason)
        return self.ready()["message"]

    def wait_phase(self, digest, *phases):
        """Wait until the rollout to ``digest`` is in one of the phases; return its status."""

        seen = []

        def there():
            found = self.rollout()
            seen[:] = [found.get("status", {})]
            right = found.get("spec", {}).get("to", {}).get("digest") == digest
            return right and seen[0].get("phase") in phases

        self.wait(there, " or ".join(phases))
        return seen[0]

    def wait_waiting(self, reason, *words):
        """Wait until the rollout waits for that, in a sentence with these words; return it."""

        def waiting():
            said = self.rollout().get("status", {}).get("waitingFor") or {}
            return said.get("reason") == reason and all(w in said["message"] for w in words)

        self.wait(waiting, f"waits for {reason}: {', '.join(words)}")
        return self.rollout()["status"]["waitingFor"]["message"]

    def wait_report(self, node, reason):
        """Wait until a node reports that reason, in its conditions too; return its sentence."""

        def said():
            report = self.reports().get(node, {})
            conditions = {c["reason"] for c in report.get("conditions", [])}
            return report.get("reason") == reason and reason in conditions

        self.wait(said, f"{node} says {reason}")
        return self.reports()[node]["message"]

    def wait_completed(self, digest, answer):
        """Wait until the rollout to ``digest`` has completed and every node answers so."""
        status = self.wait_phase(digest, *ENDED)
        assert status["phase"] == "Completed", status["message"]
        self.wait_reason("Serving")
        assert self.answers() == [answer] * len(self.nodes)


@pytest.fixture(scope="module")
def hub(fleet, connect):
    """A namespace, its policies, and a key that every node trusts for it."""
    namespace = f"bad-{uuid.uuid4().hex[:6]}"
    made = Hub(fleet, connect(fleet), namespace)
    fleet.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    for name, spec in POLICIES.items():
        made.apply_policy(name, spec)
    made.releases.trust()
    yield made
    for item in made.list("modeldeployments"):
        made.delete(f"{API}/namespaces/{namespace}/modeldeployments/{item['metadata']['name']}")
    fleet.kubectl("delete", "namespace", namespace, "--wait=false")
    fleet.kubectl("delete", "trustpolicy", namespace)


@pytest.fixture(scope="module")
def stories(request, hub, tmp_path_factory):
    """All deployments of the chosen tests, each serving its version 1."""
    workdir = tmp_path_factory.mktemp("models")
    chosen = {
        BEGINNINGS[item.originalname]
        for item in request.session.items
        if item.module is request.module and item.originalname in BEGINNINGS
    }
    found = {name: Story(hub, name, nodes, workdir) for name, nodes in sorted(chosen)}
    for story in found.values():
        story.publish("1")
    hub.bed.apply([story.wanted("1") for story in found.values()])
    for story in found.values():
        story.wait_reason("Serving")
        assert story.answers() == [1.0] * len(story.nodes)
    return found


@pytest.fixture
def story(request, stories):
    """The test's own deployment, with a visitor that must not lose one request."""
    name, _ = BEGINNINGS[request.node.originalname]
    told = stories[name]
    visitor = told.visitor()
    visitor.start()
    yield told
    visitor.stop()
    assert visitor.lost == []
    if told.deployment() is not None:
        told.hub.delete(f"{API}/namespaces/{told.hub.namespace}/modeldeployments/{told.name}")


@pytest.fixture
def mended(fleet):
    """The bed's network, registry and Prometheus as they should be, after the test."""
    yield fleet
    fleet.network("restore", None)
    for process in (fleet.registry, fleet.prometheus):
        process.start()
        until(lambda port=process.port: is_open(port), 60)


# ---------------------------------------------------------------- what people write


@serving("no-policy", "edge-1")
def test_a_policy_that_does_not_exist(story):
    digest = story.publish("2")
    story.deploy("2", policy="nowhere")

    said = story.wait_reason("PolicyNotFound")

    assert "nowhere" in said
    assert story.answers() == [1.0]
    story.hub.apply_policy("nowhere", QUICK)
    story.wait_completed(digest, 2.0)


@serving("no-source", "edge-2")
def test_a_source_that_does_not_resolve(story):
    for source, said in (
        ("oci://registry.testbed/nobody/nothing:7", "has no nobody/nothing:7 (404)"),
        ("oci://registry.invalid/models/digits:1", "registry.invalid cannot be reached"),
    ):
        story.deploy("1", source=source)
        story.wait(lambda words=said: words in story.ready().get("message", ""), said)
        assert story.ready()["reason"] == "SourceNotResolved"
        assert story.ready()["message"].count(". ") >= 1  # what to do comes after what is wrong

    assert story.answers() == [1.0]
    story.deploy("1")
    story.wait_reason("Serving")


@serving("moving-tag", "edge-1")
def test_a_tag_that_moves_changes_nothing(story):
    before = story.deployment()["status"]["stable"]["digest"]
    moved = story.publish("1", factor=9.0)
    assert moved != before
    node = story.nodes[0]

    # Whatever might ask again: a new generation, a new agent, a new order.
    story.deploy("1", resources={"memory": "1Mi"})
    node.agent.kill()
    node.agent.start()
    order = story.node_models()[node.name]["metadata"]
    story.hub.delete(f"{API}/namespaces/{story.hub.namespace}/nodemodels/{order['name']}")
    story.wait(
        lambda: (
            story.node_models().get(node.name, {}).get("metadata", order)["uid"] != order["uid"]
            and story.reports()[node.name].get("state") == "Active"
        ),
        "a new order, carried out",
    )
    story.wait_reason("Serving")

    assert story.node_models()[node.name]["spec"]["desired"]["artifact"] == before
    assert story.deployment()["status"]["stable"]["digest"] == before
    assert story.answers() == [1.0]


@serving("named", "edge-2")
def test_two_deployments_that_claim_one_serving_name(story, tmp_path):
    rival = Story(story.hub, "rival", [node.name for node in story.nodes], tmp_path)
    digest = rival.publish("2", signed_as=story.name)
    rival.deploy("2", serving={"name": story.name})

    said = rival.wait_report("edge-2", "ServingNameTaken")

    assert story.name in said
    assert "spec.serving.name" in said
    rival.wait(lambda: "ServingNameTaken" in rival.ready().get("message", ""), "the deployment too")
    assert story.answers() == [1.0]
    assert rival.phase() not in ENDED
    rival.linnet("abort", "--reason", "the name is taken")
    rival.wait_phase(digest, "Aborted")
    rival.hub.delete(f"{API}/namespaces/{rival.hub.namespace}/modeldeployments/{rival.name}")
    assert story.answers() == [1.0]


# ---------------------------------------------------------------- what publishers push


@serving("bad-models", "edge-2")
def test_models_that_cannot_be_run_are_taken_back_and_the_third_asks(story):
    secret = story.nodes[0].root / "store" / "secret"
    secret.write_bytes(np.float32(7).tobytes())
    digest = story.publish("2", b"these bytes are signed, and still no model" * 100)
    story.deploy("2")
    status = story.wait_phase(digest, *ENDED)
    assert status["phase"] == "RolledBack"
    assert "NotOnnx on edge-2" in status["message"]
    assert f"linnet retry {story.name}" in story.wait_reason("RolledBack")
    assert story.answers() == [1.0]

    digest = story.publish("3", linear(3.0, note="outside", secret=True))
    story.deploy("3")
    status = story.wait_phase(digest, *ENDED)
    assert status["phase"] == "RolledBack"
    assert "ContentRefused on edge-2" in status["message"]
    assert "'../secret', outside of the model" in status["message"]
    assert story.answers() == [1.0]

    digest = story.publish("4", golden=5.0)
    story.deploy("4")
    said = story.wait_waiting("Decision", "SelfTestFailed on edge-2", "2 automatic rollbacks")
    assert f"linnet abort {story.name}" in said
    story.linnet("abort")
    story.wait_phase(digest, "Aborted")
    secret.unlink(missing_ok=True)
    assert story.answers() == [1.0]


@serving("neighbour", "edge-1")
def test_a_first_model_that_is_bad_leaves_nothing_behind(story, tmp_path):
    first = Story(story.hub, "first", ["edge-1"], tmp_path)
    digest = first.publish("1", b"no model either" * 100)
    first.deploy("1")

    status = first.wait_phase(digest, *ENDED)

    assert status["phase"] == "RolledBack"
    assert "nothing to go back to" in status["message"]
    first.wait_reason("RolledBack")
    assert first.answers() == [None]
    digest = first.publish("2")
    first.deploy("2")
    first.wait_completed(digest, 2.0)
    first.hub.delete(f"{API}/namespaces/{first.hub.namespace}/modeldeployments/{first.name}")


@serving("torn-blob", "edge-3")
def test_a_blob_that_is_not_what_the_manifest_says(story):
    digest = story.publish("2")
    place = blob_of(story, digest)
    good = place.read_bytes()
    place.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    story.deploy("2")

    said = story.wait_report("edge-3", "DigestMismatch")

    assert "model.onnx" in said
    assert "push the artifact again" in said
    story.wait_waiting("Activating", "edge-3: DigestMismatch")
    assert story.answers() == [1.0]

    place.write_bytes(good)
    story.linnet("abort", "--reason", "the registry is repaired")
    story.wait_phase(digest, "Aborted")
    assert f"linnet retry {story.name}" in story.wait_reason("Aborted")
    story.retry()
    story.wait_completed(digest, 2.0)


@serving("lost-blob", "edge-3")
def test_a_blob_that_the_registry_has_lost(story):
    digest = story.publish("2")
    place = blob_of(story, digest)
    place.rename(place.with_name("kept"))
    story.deploy("2")

    said = story.wait_report("edge-3", "SourceNotFound")

    assert "model.onnx" in said
    story.wait_waiting("Activating", "edge-3: SourceNotFound")
    assert story.answers() == [1.0]
    place.with_name("kept").rename(place)
    story.deploy("1")  # what is stable, named again
    story.wait_phase(digest, "Superseded")
    story.wait_reason("Serving")
    story.deploy("2")
    story.wait_completed(digest, 2.0)


def blob_of(story, digest):
    """Return where the registry keeps the model file of an artifact."""
    url = f"{story.bed.registry_url}/v2/{story.hub.namespace}/{story.name}/manifests/{digest}"
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = httpx.get(url, headers={"Accept": kind}).raise_for_status().json()
    (blob,) = (layer["digest"].removeprefix("sha256:") for layer in manifest["layers"])
    root = story.bed.directory / "registry" / "docker" / "registry" / "v2" / "blobs" / "sha256"
    return root / blob[:2] / blob / "data"


# ---------------------------------------------------------------- what breaks on the way


@serving("bad-registry", "edge-1")
def test_a_registry_that_answers_500_is_down_or_breaks_off(story, mended):
    digest = story.publish("2", padding=150_000)
    node = story.nodes[0]
    mended.registry.kill()
    with broken_registry(mended.registry.port):
        story.deploy("2", digest=digest)  # pinned: only the nodes ask

        said = story.wait_report("edge-1", "RegistryUnavailable")

        assert "500" in said
        assert "tries again by itself" in said
        story.wait_waiting("Activating", "edge-1: RegistryUnavailable")
    # Now nobody listens there; and when somebody does, every connection breaks off.
    assert story.phase() == "Stepping"
    assert story.answers() == [1.0]
    node.break_after(150_000)
    seen = len(node.agent.log.read_text())
    mended.registry.start()

    story.wait_completed(digest, 2.0)
    log = node.agent.log.read_text()[seen:]
    assert sum("fetch.retry" in line and "model.onnx" in line for line in log.splitlines()) >= 3


@serving("registry-down", "edge-2")
def test_a_registry_that_the_operator_cannot_ask(story, mended):
    digest = story.publish("2")
    mended.registry.kill()
    story.deploy("2")

    said = story.wait_reason("SourceNotResolved")

    assert "registry.testbed" in said
    assert story.answers() == [1.0]
    mended.registry.start()
    story.wait_completed(digest, 2.0)


@contextlib.contextmanager
def broken_registry(port):
    """Answer 500 to everything on the registry's port."""
    http.server.ThreadingHTTPServer.allow_reuse_address = True
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Bad500) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def small_disk(fleet):
    """Give a node a disk of 64 MiB: a tmpfs that only its processes see, in their mount namespace.

    Yields:
        A function that fills the disk to the last byte, and one that frees it.
    """
    unshare, nsenter = shutil.which("unshare"), shutil.which("nsenter")
    if os.geteuid() or not unshare or not nsenter:
        pytest.skip("a small disk needs root, unshare and nsenter")
    node = fleet.node("edge-3")
    copy = node.home / "copy"

    def restart():
        node.kill()
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(node.root, copy, symlinks=True)
        script = 'mount -t tmpfs -o size=64m linnet "$0" && cp -a "$1/." "$0" && shift && exec "$@"'
        argv = [unshare, "-m", "sh", "-c", script, str(node.root), str(copy), *node.server.argv]
        server = dataclasses.replace(node.server, argv=argv)
        server.start()
        server.wait(lambda: is_open(server.port), 60)
        argv = [nsenter, "-t", str(server.pid), "-m", *node.agent.argv]
        dataclasses.replace(node.agent, argv=argv).start()
        return Path(f"/proc/{server.pid}/root{node.root}")

    disk = restart()

    def fill():
        with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))

    yield fill, (disk / "filler").unlink
    node.kill()
    node.start()
    node.server.wait(lambda: is_serving(node), 60)
    shutil.rmtree(copy)


def is_serving(node):
    """Tell whether a server has loaded what it served before."""
    try:
        with urllib.request.urlopen(f"{node.server_url}/v2/health/ready", timeout=5):  # noqa: S310 - loopback
            return True
    except OSError:
        return False


@serving("full-disk", "edge-3")
def test_a_disk_that_is_full(stories, small_disk):
    story = stories["full-disk"]
    fill, free = small_disk
    story.wait(lambda: story.answers() == [1.0], "it serves from the small disk")
    with asked_by(story.visitor()):
        digest = story.publish("2")
        fill()
        story.deploy("2")

        said = story.wait_report("edge-3", "DiskFull")

        assert "tries again by itself" in said
        story.wait_waiting("Activating", "edge-3: DiskFull")
        story.linnet("abort", "--reason", "not now")  # an order that cannot be written down either
        story.wait_waiting("Reverting", "edge-3: DiskFull")
        free()
        story.wait_phase(digest, "Aborted")
        story.wait_reason("Aborted")
        assert story.answers() == [1.0]
        story.retry()
        story.wait_completed(digest, 2.0)


# ---------------------------------------------------------------- evidence


@serving("no-traffic", "edge-1", "edge-2")
def test_no_traffic_at_all_never_advances(stories):
    story = stories["no-traffic"]
    digest = story.publish("2")
    story.deploy("2", policy="compared")

    story.wait(lambda: story.rollout().get("status", {}).get("waitingFor"), "it waits")
    said = watch_looks(story, digest, "Learning")

    assert said["reason"] in {"NoData", "Learning"}
    assert said["message"]
    assert story.answers() == [1.0, 1.0]
    story.linnet("promote", "--reason", "nobody asks this model yet")
    story.wait_phase(digest, "Stepping", "Baking")
    said = watch_looks(story, digest, "Stepping", "Baking")
    assert said["reason"] in {"NoData", "Learning", "Baking"}
    story.linnet("abort", "--reason", "enough")
    story.wait_phase(digest, "Aborted")
    assert story.answers() == [1.0, 1.0]


@serving("nan", "edge-2")
def test_nan_is_never_a_pass(stories):
    story = stories["nan"]
    story.answers()
    digest = story.publish("2")
    story.deploy("2", policy="share-of-failures")

    story.wait_waiting("NoData", "share: the query gave nan", "no measurement")
    said = watch_looks(story, digest, "Baking")

    assert said["reason"] == "NoData"
    with asked_by(story.visitor()):
        story.wait_completed(digest, 2.0)


@serving("empty", "edge-3")
def test_an_empty_answer_and_a_query_that_is_none_are_never_a_pass(story):
    digest = story.publish("2")
    story.deploy("2", policy="no-answers")

    said = story.wait_waiting("NoData", "empty: the query gave no series", "parse error")

    assert "check its labels" in said
    assert "check the query" in said
    assert watch_looks(story, digest, "Baking")["reason"] == "NoData"
    story.linnet("abort", "--reason", "the queries are wrong")
    story.wait_phase(digest, "Aborted")
    assert story.answers() == [1.0]


@serving("no-prometheus", "edge-1")
def test_a_prometheus_that_is_gone_and_then_slow(story, mended):
    digest = story.publish("2")
    mended.prometheus.kill()
    story.deploy("2", policy="zero")

    said = story.wait_waiting("NoData", "/api/v1/query")
    assert watch_looks(story, digest, "Baking")["reason"] == "NoData"
    mended.network("faults", "operator", ["prometheus"], faults={"delay": 6.0})
    mended.prometheus.start()
    assert story.wait_waiting("NoData", "did not answer") != said
    assert story.phase() == "Baking"

    mended.network("restore", "operator", ["prometheus"])
    mended.network("reset", "operator", ["prometheus"])
    story.wait_completed(digest, 2.0)


@contextlib.contextmanager
def asked_by(visitor):
    visitor.start()
    try:
        yield
    finally:
        visitor.stop()
    assert visitor.lost == []


def watch_looks(story, digest, *phases):
    """Wait until three more looks were taken, in which it stayed; return what it waits for."""
    before = looks(story)
    story.wait(lambda: looks(story) >= before + 3, "three more looks")
    now = story.rollout()
    assert now["spec"]["to"]["digest"] == digest
    assert now["status"]["phase"] in phases, now["status"]
    return now["status"]["waitingFor"]


def looks(story):
    """Return how many looks the operator has taken; only one test at a time has it look."""
    with urllib.request.urlopen(
        f"http://127.0.0.1:{story.bed.operator.port}/metrics", timeout=10
    ) as answer:
        lines = answer.read().decode().splitlines()
    name = "linnet_operator_looks_total{"
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


# ---------------------------------------------------------------- what people delete


@serving("deleted", "edge-1", "edge-2")
def test_a_deleted_deployment_is_served_on_and_adopted_again(story):
    before = {node: report["current"] for node, report in story.reports().items()}
    story.hub.delete(f"{API}/namespaces/{story.hub.namespace}/modeldeployments/{story.name}")
    story.wait(lambda: not story.node_models(), "no NodeModel is left")
    assert story.answers() == [1.0, 1.0]
    story.nodes[0].agent.kill()
    story.nodes[0].agent.start()

    story.deploy("1")
    story.wait_reason("Serving")

    after = {node: report["current"] for node, report in story.reports().items()}
    assert after == before  # the time of the activation included: nothing has moved
    assert story.answers() == [1.0, 1.0]


@serving("deleted-midway", "edge-1", "edge-2", "edge-3")
def test_a_deployment_deleted_midway_and_made_again_ends_as_it_says(story):
    story.publish("2")
    story.deploy("2", policy="guarded")
    story.wait_waiting("Approval", "--step 2")
    story.hub.delete(f"{API}/namespaces/{story.hub.namespace}/modeldeployments/{story.name}")
    story.wait(lambda: not story.node_models(), "no NodeModel is left")
    assert sorted(story.answers()) == [1.0, 1.0, 2.0]

    story.deploy("1")

    story.wait_reason("Serving")
    assert story.answers() == [1.0, 1.0, 1.0]


@serving("no-trust", "edge-2")
def test_a_trust_policy_that_is_taken_away(story):
    hub = story.hub
    digest = story.publish("2")
    hub.delete(f"{API}/trustpolicies/{hub.namespace}")
    story.deploy("2")

    status = story.wait_phase(digest, *ENDED)

    assert status["phase"] == "Refused"
    assert "NoTrustPolicy" in status["message"]
    assert f"linnet retry {story.name}" in story.wait_reason("Refused")
    assert story.answers() == [1.0]
    hub.releases.trust()
    story.retry()
    story.wait_completed(digest, 2.0)


@serving("nobody", "edge-1")
def test_a_selector_that_matches_no_node(story):
    story.publish("2")
    story.deploy("2", nodes={"matchLabels": {"kubernetes.io/hostname": "edge-99"}})

    said = story.wait_reason("NoNodes")

    assert "no node matches spec.nodes" in said
    assert story.answers() == [1.0]  # deselected is not unloaded


# ---------------------------------------------------------------- what people decide


@serving("decided", "edge-1", "edge-2", "edge-3")
def test_pause_resume_and_abort_move_a_rollout(story):
    digest = story.publish("2")
    story.deploy("2", policy="guarded")
    story.wait_waiting("Approval", f"linnet approve {story.name} --step 2")
    assert sorted(story.answers()) == [1.0, 1.0, 2.0]

    story.linnet("pause", "--reason", "lunch")
    story.wait_waiting("Paused", "lunch")
    story.linnet("approve", "--step", "2")
    story.wait(lambda: len(story.rollout()["status"].get("acts", [])) == 2, "both acts are seen")
    assert sorted(story.answers()) == [1.0, 1.0, 2.0]
    assert story.phase() == "Waiting"
    story.linnet("resume")
    story.wait_completed(digest, 2.0)

    digest = story.publish("3")
    story.deploy("3", policy="guarded")
    story.wait_waiting("Approval", "--step 2")
    assert sorted(story.answers()) == [2.0, 2.0, 3.0]
    story.linnet("abort", "--reason", "second thoughts")
    status = story.wait_phase(digest, "Aborted")
    assert "second thoughts" in status["message"]
    assert story.answers() == [2.0, 2.0, 2.0]
    assert f"linnet retry {story.name}" in story.wait_reason("Aborted")


# ---------------------------------------------------------------- what is killed


@serving("killed", "edge-1", "edge-2", "edge-3")
def test_operator_and_agents_killed_in_the_middle_roll_out_once(story):
    digest = story.publish("2")
    before = {n: item["metadata"]["generation"] for n, item in story.node_models().items()}
    story.deploy("2")
    busy = {"Verifying", "Fetching", "SelfTesting", "Activating", "Soaking"}

    def midway():
        return [n.name for n in story.nodes if story.reports()[n.name].get("state") in busy]

    story.wait(midway, "a node in the middle of its activation")
    victims = [story.bed.node(name) for name in midway()]
    story.bed.operator.kill()
    for node in victims:
        node.agent.kill()
    for node in victims:
        node.agent.start()
    story.bed.operator.start()

    story.wait_completed(digest, 2.0)
    orders = {n: item["metadata"]["generation"] for n, item in story.node_models().items()}
    # To the candidate, and, when the rollout has ended, the baseline cleared: never twice.
    assert {node: orders[node] - count for node, count in before.items()} == dict.fromkeys(
        before, 2
    )
    numbers = [decision["n"] for decision in story.rollout()["status"]["decisions"]]
    assert numbers == sorted(set(numbers))


@serving("lost-node", "edge-1", "edge-2", "edge-3")
@pytest.mark.usefixtures("mended")
def test_a_candidate_on_a_node_that_is_lost_goes_back_at_first_contact(story):
    digest = story.publish("2")
    story.deploy("2", policy="guarded")
    story.wait_waiting("Approval", "--step 2")
    (holder,) = (n for n, a in zip(story.nodes, story.answers(), strict=True) if a == 2.0)
    holder.cut()
    other = next(node.name for node in story.nodes if node.name != holder.name)
    lease = timedelta(seconds=7)
    story.wait(lambda: story.hub.beat(other) - story.hub.beat(holder.name) > lease, "it is missed")
    story.linnet("abort", "--reason", "it is lost")

    status = story.wait_phase(digest, "Aborted")

    assert "1 offline return at first contact" in status["message"]
    assert sorted(story.answers()) == [1.0, 1.0, 2.0]
    holder.restore()
    story.wait(lambda: story.answers() == [1.0, 1.0, 1.0], "it is back on version 1")


@serving("no-hub", "edge-1", "edge-2")
def test_the_api_server_is_killed_in_the_middle(story):
    digest = story.publish("2")
    (server,) = (p for p in story.bed.processes if p.name == "kube-apiserver")
    story.deploy("2")
    story.wait(lambda: story.have_taken_up(digest), "the nodes have their orders")
    server.kill()
    until(lambda: story.answers() == [2.0, 2.0], PATIENCE_S, "orders that came are carried out")
    server.start()

    until(story.hub.is_ready, 90, "the API server is back")
    story.wait_completed(digest, 2.0)
