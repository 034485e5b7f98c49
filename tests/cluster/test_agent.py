"""One agent against the real API server and registry; the orders are written by hand, as the hub.

- Every test has a namespace, and so a model, of its own; the node, its server and network are real.
"""

import contextlib
import copy
import itertools
import json
import subprocess
import threading

import httpx
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from releases import Releases, golden_sample, linear

from linnet_api.model_deployment import Serving
from linnet_api.names import node_model_name
from linnet_api.revisions import revision_of
from linnet_testbed.waiting import answers, until

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]

NODE, DEPLOYMENT = "edge-1", "digits"
NUMBERS = itertools.count(1)


FRAGILE = 1000
"""The factor of a model that divides by its input: 0 makes a request fail."""


def build(directory, factor):
    directory.mkdir(parents=True)
    if factor == FRAGILE:
        build_fragile(directory)
    else:
        (directory / "model.onnx").write_bytes(linear(factor, note=DEPLOYMENT))


def build_fragile(directory):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])
    dividend = numpy_helper.from_array(np.array(FRAGILE, "i8"), "dividend")
    nodes = [
        helper.make_node("Cast", ["x"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Div", ["dividend", "whole"], ["quotient"]),
        helper.make_node("Cast", ["quotient"], ["y"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], initializer=[dividend])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 10
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    (directory / "golden.json").write_text(golden_sample(float(FRAGILE)))


class Hub:
    """Gives orders to one node for one model, and reads what it says."""

    def __init__(self, bed, namespace, directory):
        self.bed = bed
        self.namespace = namespace
        self._directory = directory
        # The release, and one that nobody trusts.
        self._signers = Releases(bed, namespace), Releases(bed, namespace)
        self.name = node_model_name(node=NODE, namespace=namespace, deployment=DEPLOYMENT)
        self._uid = bed.get("node", NODE)["metadata"]["uid"]
        self._artifacts = {}
        self.sequence = 1000

    def publish(self, factor, *, counter=1, signer=0, model=None):
        if factor not in self._artifacts:
            directory = self._directory / str(factor)
            build(directory, factor)
            bundle = None
            if signer is not None:
                model = model or f"{self.namespace}/{DEPLOYMENT}"
                bundle = self._signers[signer].sign(directory, model, counter=counter)
            release = self._signers[0]
            digest = release.push(directory, DEPLOYMENT, factor, bundle=bundle)
            serving = Serving(name=DEPLOYMENT)
            revision = revision_of(artifact=digest, variants=(), serving=serving)
            self._artifacts[factor] = {
                "state": "Active",
                "revision": revision,
                "number": factor,
                "source": release.source(DEPLOYMENT, factor),
                "artifact": digest,
                "serving": serving.to_dict(),
            }
        return self._artifacts[factor]

    def order(self, factor, *, sequence=None, soak_s=1, uid=None, **more):
        desired = {"state": "Absent"} if factor is None else self.publish(factor, **more)
        self.sequence = sequence or self.sequence + 1
        spec = {
            "deployment": DEPLOYMENT,
            "node": {"name": NODE, "uid": uid or self._uid},
            "sequence": self.sequence,
            "desired": desired,
            "soak": {"seconds": soak_s},
        }
        self.bed.apply(
            {
                "apiVersion": "linnet.dev/v1alpha1",
                "kind": "NodeModel",
                "metadata": {"name": self.name, "namespace": self.namespace},
                "spec": spec,
            }
        )
        return desired.get("revision")

    def trust(self, *signers):
        self._signers[0].trust(*(self._signers[number].public_key for number in signers))

    def object(self):
        return self.bed.get("-n", self.namespace, "nodemodel", self.name)

    def status(self):
        return self.object().get("status", {})

    def wait(self, state, *, reason=None, revision=None, timeout=30):
        def there():
            status = self.status()
            return (
                status.get("observedSequence") == self.sequence
                and status.get("state") == state
                and (reason is None or status.get("reason") == reason)
                and (revision is None or status["current"]["revision"] == revision)
            )

        until(there, timeout, f"{state} {reason}")
        return self.status()

    def wait_reason(self, reason):
        until(lambda: self.status().get("reason") == reason, 30, reason)
        return self.status()

    def answer(self, x=1.0):
        tensor = {"name": "x", "datatype": "FP32", "shape": [1], "data": [x]}
        url = f"{self.bed.node(NODE).server_url}/v2/models/{self.namespace}.{DEPLOYMENT}/infer"
        response = httpx.post(url, json={"inputs": [tensor]}, trust_env=False)
        return response.json()["outputs"][0]["data"][0] if response.is_success else None


@pytest.fixture
def hub(lone, tmp_path):
    namespace = f"factory-{next(NUMBERS)}"
    lone.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    made = Hub(lone, namespace, tmp_path)
    made.trust(0)
    yield made
    # The serving name is the node's, and the next test wants it.
    lone.node(NODE).restore()
    made.order(None)
    made.wait("Absent")


def ready(status):
    return next(c["status"] for c in status["conditions"] if c["type"] == "Ready")


def test_an_order_is_carried_out_and_told(hub):
    revision = hub.order(2)

    status = hub.wait("Active", revision=revision)

    assert ready(status) == "True"
    assert status["current"]["soaked"] is True
    assert status["verification"]["decision"] == "Allowed"
    assert status["verification"]["model"] == f"{hub.namespace}/{DEPLOYMENT}"
    assert status["onDisk"] == [revision]
    assert hub.answer() == 2.0


def test_an_update_and_the_way_back_without_a_registry(hub):
    first = hub.order(2)
    hub.wait("Active", revision=first)
    second = hub.order(3, counter=2)
    hub.wait("Active", revision=second)
    assert hub.answer() == 3.0
    hub.bed.node(NODE).cut("registry")

    hub.order(2)

    hub.wait("Active", revision=first)
    assert hub.answer() == 2.0


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        pytest.param({"signer": None}, "Unsigned", id="unsigned"),
        pytest.param({"signer": 1}, "UntrustedKey", id="a key that nobody trusts"),
        pytest.param({"model": "cats/digits"}, "WrongModelName", id="another model's name"),
        pytest.param({"counter": 1}, "CounterTooLow", id="an older release"),
    ],
)
def test_what_trust_refuses_is_not_fetched_and_what_serves_serves_on(hub, bad, reason):
    good = hub.order(2, counter=5)
    hub.wait("Active", revision=good)

    hub.order(3, **({"counter": 6} | bad))

    status = hub.wait("Refused", reason=reason)
    assert status["verification"]["reason"] == reason
    assert ready(status) == "False"
    assert status["current"]["revision"] == good
    assert status["onDisk"] == [good]
    assert hub.answer() == 2.0


def test_a_refused_order_is_judged_again_when_trust_changes(hub):
    hub.order(2, signer=1)
    hub.wait("Refused", reason="UntrustedKey")

    hub.trust(0, 1)

    hub.wait("Active")
    host = hub.bed.get("modelhost", NODE)
    assert host["status"]["trust"]["loosened"] is True


def test_rule_7_an_older_order_and_one_for_another_node_move_nobody(hub):
    good = hub.order(2)
    hub.wait("Active", revision=good)
    newest = hub.sequence
    hub.bed.kubectl("-n", hub.namespace, "delete", "nodemodel", hub.name)

    hub.order(3, sequence=10)
    status = hub.wait_reason("StaleOrder")
    assert status["observedSequence"] == newest
    assert status["current"]["revision"] == good
    hub.bed.kubectl("-n", hub.namespace, "delete", "nodemodel", hub.name)

    hub.order(3, sequence=newest + 1, uid="0000")
    status = hub.wait_reason("WrongNode")
    assert status["current"]["revision"] == good
    assert hub.answer() == 2.0
    hub.bed.kubectl("-n", hub.namespace, "delete", "nodemodel", hub.name)


def test_rule_7_a_node_model_that_vanishes_is_an_orphan_that_serves_on(hub):
    hub.order(2)
    hub.wait("Active")
    orphan = f"{hub.namespace}.{DEPLOYMENT}"

    def orphans():
        return hub.bed.get("modelhost", NODE)["status"].get("orphans", [])

    hub.bed.kubectl("-n", hub.namespace, "delete", "nodemodel", hub.name)
    until(lambda: orphan in orphans(), 30, "it is an orphan")
    assert hub.answer() == 2.0

    hub.order(2)
    hub.wait("Active")
    until(lambda: orphan not in orphans(), 30, "it is none any more")


def test_absent_is_acknowledged_and_leaves_nothing(hub):
    hub.order(2)
    hub.wait("Active")

    hub.order(None)

    status = hub.wait("Absent")
    assert "current" not in status
    assert ready(status) == "True"
    assert hub.answer() is None


def test_a_node_that_was_away_finds_its_order_at_first_contact(hub):
    first = hub.order(2)
    hub.wait("Active", revision=first)
    node = hub.bed.node(NODE)
    node.cut()
    second = hub.order(3, counter=2)
    assert hub.answer() == 2.0

    node.restore()

    hub.wait("Active", revision=second)
    assert hub.answer() == 3.0


@contextlib.contextmanager
def recorded(hub):
    """Yield what the API server tells of the NodeModel's status while the body runs, in order."""
    words = "{.status.observedSequence} {.status.state} {.status.reason}{'\\n'}"
    argv = [
        hub.bed._binaries.kubectl(),
        f"--kubeconfig={hub.bed.kubeconfig}",
        *("-n", hub.namespace, "get", "nodemodel", hub.name, "-w", "-o", f"jsonpath={words}"),
    ]
    told = []
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as watch:
        reader = threading.Thread(target=lambda: told.extend(iter(watch.stdout.readline, "")))
        reader.start()
        try:
            until(lambda: told, 30, "the watch tells what is so now")
            yield told
        finally:
            watch.kill()
            reader.join()


def test_a_revert_needs_no_network_and_a_node_reports_before_it_takes_orders(hub):
    """Reverting with the network cut, by local health; then weeks of silence, as if."""
    node = hub.bed.node(NODE)
    first = hub.order(2)
    hub.wait("Active", revision=first)
    fragile = hub.order(FRAGILE, counter=2, soak_s=600)
    hub.wait("Soaking", revision=fragile)
    soaking = hub.sequence
    newest = hub.publish(5, counter=3)["revision"]
    node.cut()

    for _ in range(8):
        hub.answer(0.0)
    journal = node.root / "models" / hub.namespace / DEPLOYMENT / "journal.json"
    until(lambda: json.loads(journal.read_bytes())["state"] == "Reverted", 60, "it has gone back")
    assert hub.answer() == 2.0
    until(lambda: list((node.root / "results").glob("*.results")), 60, "it is kept to be told")
    assert (hub.status()["state"], hub.status()["observedSequence"]) == ("Soaking", soaking)

    with recorded(hub) as told:
        hub.order(5)
        node.restore()
        hub.wait("Active", revision=newest)
        until(lambda: any(f"{hub.sequence} Active" in line for line in told), 30, "it is told")
        lines = [line.split() for line in told]

    reported = lines.index([str(soaking), "Reverted", "SoakFailed"])
    taken = next(n for n, line in enumerate(lines) if line[0] == str(hub.sequence))
    assert reported < taken
    assert hub.answer() == 5.0

    def histories():
        events = hub.bed.get("-n", hub.namespace, "events.events.k8s.io")["items"]
        return [e["reason"] for e in events if e["reportingController"] == "linnet.dev/agent"]

    until(lambda: histories() == ["SoakFailed"], 60, "what came to pass meanwhile is an Event")


def test_a_status_is_written_once_a_change(hub):
    hub.order(2)
    hub.wait("Active")

    with recorded(hub) as told:
        before = len(told)
        hub.order(3, counter=2)
        hub.wait("Active")
        until(lambda: f"{hub.sequence} Active Active\n" in told, 30, "it is told")
        lines = told[before:]

    assert 2 <= len(lines) <= 12  # the order itself, and at most one for each state and reason


def test_a_node_that_is_killed_at_work_and_starts_without_a_network_finishes(hub):
    first = hub.order(2)
    hub.wait("Active", revision=first)
    node = hub.bed.node(NODE)
    second = hub.order(3, counter=2, soak_s=2)
    until(lambda: hub.status().get("state") in {"SelfTesting", "Activating", "Soaking"})
    node.kill()
    node.cut()
    node.start()
    journal = node.root / "models" / hub.namespace / DEPLOYMENT / "journal.json"
    until(lambda: json.loads(journal.read_bytes())["state"] == "Active", 60, "it is active")
    assert hub.status()["state"] != "Active"

    node.restore()

    hub.wait("Active", revision=second)


def test_a_server_that_dies_is_told_and_comes_back_by_itself(hub):
    first = hub.order(2)
    hub.wait("Active", revision=first)
    node = hub.bed.node(NODE)
    node.server.kill()
    second = hub.order(3, counter=2)
    hub.wait_reason("ServerUnavailable")

    node.start()

    hub.wait("Active", revision=second)
    assert hub.answer() == 3.0


def test_rule_11_a_settled_node_writes_nothing_but_its_lease(hub):
    hub.order(2)
    hub.wait("Active")
    lease = ("-n", "linnet-agents", "lease", NODE)

    def beats():
        return hub.bed.get(*lease)["spec"]["renewTime"]

    seen = set()
    before = copy.deepcopy((hub.object(), hub.bed.get("modelhost", NODE)))
    until(lambda: seen.add(beats()) or len(seen) > 4, 60, "four heartbeats have passed")

    assert (hub.object(), hub.bed.get("modelhost", NODE)) == before


def test_the_heartbeat_carries_what_was_served_since_the_activation(hub):
    revision = hub.order(2)
    hub.wait("Active")
    for _ in range(3):
        hub.answer()

    def counts():
        lease = hub.bed.get("-n", "linnet-agents", "lease", NODE)
        served = json.loads(lease["metadata"]["annotations"]["linnet.dev/served"])
        return served.get(f"{hub.namespace}/{DEPLOYMENT}/{revision}")

    until(lambda: counts() == [3, 0], 30, "three requests")

    # The metrics go on over a restart of the node as well, and both must fit (rule 16).
    node = hub.bed.node(NODE)
    for fallen, answered, served in ((node.server,), 2, 5), ((node.agent, node.server), 1, 6):
        for process in fallen:
            process.kill()
        node.start()
        until(lambda: answers(f"{node.server_url}/v2/health/ready"), 60, "the server has come back")
        for _ in range(answered):
            hub.answer()

        until(lambda wanted=[served, 0]: counts() == wanted, 60, f"{served} requests")
