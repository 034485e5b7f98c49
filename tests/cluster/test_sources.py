"""One agent with the real API server: models from a stick, a web server, and in variants."""

import itertools
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import httpx
import pytest
from releases import Releases, linear

from linnet_agent.verify.envelope import parse_bundle
from linnet_agent.verify.manifest import digest_of
from linnet_api.model_deployment import Serving
from linnet_api.names import node_model_name
from linnet_api.revisions import revision_of
from linnet_cli.publish.modelpack import pack
from linnet_cli.publish.push import publish, publish_variants
from linnet_testbed.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]

NODE, DEPLOYMENT, WEB = "edge-1", "digits", "models.testbed"
NUMBERS = itertools.count(1)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    """A web server that gives out files, and knows no ranges."""
    directory = tmp_path_factory.mktemp("web")
    handler = partial(Quiet, directory=str(directory))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield SimpleNamespace(directory=directory, url=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


@pytest.fixture(scope="module")
def site(lone, web):
    """The node, which finds the web server under its name."""
    (lone.node(NODE).etc / "mirrors").write_text(f"{WEB}={web.url}\n")
    lone.node(NODE).start()
    return lone


class Hub:
    """Gives orders to one node for one model, and reads what it says."""

    def __init__(self, bed, namespace, directory):
        self.bed, self.namespace, self.directory = bed, namespace, directory
        self.releases = Releases(bed, namespace)
        self.node = bed.node(NODE)
        self._name = node_model_name(node=NODE, namespace=namespace, deployment=DEPLOYMENT)
        self._uid = bed.get("node", NODE)["metadata"]["uid"]
        self._sequence = 1000

    def sign(self, directory, factor):
        """Build a model that multiplies, and return what the release has signed over it."""
        directory.mkdir(parents=True)
        (directory / "model.onnx").write_bytes(linear(factor, note=DEPLOYMENT))
        return self.releases.sign(directory, f"{self.namespace}/{DEPLOYMENT}", counter=1)

    def pack(self, name, factor):
        bundle = self.sign(self.directory / name, factor)
        return pack(self.directory / name, bundle=bundle)

    def order(self, source=None, artifact=None, *, variants=()):
        serving = Serving(name=DEPLOYMENT)
        desired = {
            "state": "Active",
            "revision": revision_of(artifact=artifact, variants=tuple(variants), serving=serving),
            "number": 1,
            "source": source,
            "artifact": artifact,
            "variants": list(variants),
            "serving": serving.to_dict(),
        }
        self._send(desired)

    def unload(self):
        self._send({"state": "Absent"})
        self.wait("Absent")

    def _send(self, desired):
        self._sequence += 1
        spec = {
            "deployment": DEPLOYMENT,
            "node": {"name": NODE, "uid": self._uid},
            "sequence": self._sequence,
            "desired": desired,
            "soak": {"seconds": 0},
        }
        self.bed.apply(
            {
                "apiVersion": "linnet.dev/v1alpha1",
                "kind": "NodeModel",
                "metadata": {"name": self._name, "namespace": self.namespace},
                "spec": spec,
            }
        )

    def status(self):
        found = self.bed.get("-n", self.namespace, "nodemodel", self._name)
        return found.get("status", {})

    def wait(self, state=None, *, reason=None):
        def there():
            status = self.status()
            return (
                status.get("observedSequence") == self._sequence
                and state in {None, status.get("state")}
                and reason in {None, status.get("reason")}
            )

        until(there, 60, f"{state} {reason}")
        return self.status()

    def answer(self):
        tensor = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]}
        url = f"{self.node.server_url}/v2/models/{self.namespace}.{DEPLOYMENT}/infer"
        response = httpx.post(url, json={"inputs": [tensor]}, trust_env=False)
        return response.json()["outputs"][0]["data"][0] if response.is_success else None

    def variants_in_metrics(self):
        text = httpx.get(f"{self.node.server_url}/metrics", trust_env=False).text
        mine = [line for line in text.splitlines() if f'namespace="{self.namespace}"' in line]
        return {line.split('variant="')[1].split('"')[0] for line in mine if "variant=" in line}


@pytest.fixture
def hub(site, tmp_path):
    namespace = f"site-{next(NUMBERS)}"
    site.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    made = Hub(site, namespace, tmp_path)
    made.releases.trust()
    yield made
    made.unload()


def test_a_stick_is_waited_for_and_its_model_served(hub):
    packed = hub.pack("model", 5)
    source = f"file://{hub.node.media}/{hub.namespace}/digits-1.0"
    hub.order(source, packed.digest)
    assert f"{hub.namespace}/digits-1.0" in hub.wait(reason="SourceUnavailable")["message"]

    publish(packed, to=source, mirrors={})

    hub.wait("Active")
    assert hub.answer() == 5.0


def test_a_web_server_gives_what_model_signing_has_left_there(hub, web):
    directory = web.directory / hub.namespace / "digits-1.0"
    bundle = hub.sign(directory, 6)
    (directory / "model.sig").write_bytes(bundle)
    artifact = digest_of(parse_bundle(bundle).payload)

    hub.order(f"https://{WEB}/{hub.namespace}/digits-1.0", artifact)

    current = hub.wait("Active")["current"]
    assert current["artifact"] == current["modelDigest"] == artifact
    assert hub.answer() == 6.0


def test_a_node_takes_the_first_variant_that_it_can_run(hub):
    names = {"tensorrt-fp16": 7, "onnx-int8": 8, "onnx": 9}
    packed = {name: hub.pack(name, factor) for name, factor in names.items()}
    source = hub.releases.source("variants", 1)
    artifact = publish_variants(packed, to=source, mirrors=hub.releases.mirrors)

    for wanted, name in ((["tensorrt-fp16", "onnx"], "onnx"), ([], "onnx-int8")):
        hub.order(source, artifact, variants=wanted)
        hub.wait("Active")
        assert hub.answer() == names[name]
        assert name in hub.variants_in_metrics()

    hub.order(source, artifact, variants=["tensorrt-fp16"])
    assert "needs the runtime tensorrt" in hub.wait("Failed", reason="WrongVariant")["message"]
    assert hub.answer() == names["onnx-int8"]
