"""Models that the tests of this tier release: built here, signed, pushed to the bed's registry."""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from linnet_cli.publish.keys import generate_key
from linnet_cli.publish.push import push_model
from linnet_cli.publish.sign import sign_model

REGISTRY = "registry.testbed"


def linear(factor, *, note, padding=0, secret=False):
    """Return an ONNX model that answers ``factor * x``.

    Args:
        factor: What tells a version from another in its answers.
        note: What makes the file differ from all others.
        padding: So many random numbers besides, 4 bytes each.
        secret: True adds a tensor whose data lie outside of the model.
    """
    dice = np.random.default_rng(list(note.encode()))
    constants = [numpy_helper.from_array(np.float32(factor), "factor")]
    if padding:
        constants.append(numpy_helper.from_array(dice.random(padding, np.float32), "padding"))
    if secret:
        outside = TensorProto(name="secret", data_type=TensorProto.FLOAT, dims=[1])
        outside.data_location = TensorProto.EXTERNAL
        outside.external_data.add(key="location", value="../secret")
        constants.append(outside)
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], doc_string=note)
    model.ir_version = 9
    if not secret:
        onnx.checker.check_model(model)
    return model.SerializeToString()


def golden_sample(answer):
    """Return a golden sample as JSON: to 1 the model answers that."""
    one, other = ({"datatype": "FP32", "shape": [1], "data": [x]} for x in (1.0, answer))
    return json.dumps({"inputs": {"x": one}, "outputs": {"y": other}, "tolerance": 1e-3})


class Releases:
    """The releases of one namespace: the key that signs them, and where they are pushed."""

    def __init__(self, bed, namespace):
        self.bed, self.namespace = bed, namespace
        self.mirrors = {REGISTRY: bed.registry_url}
        self.private_key, self.public_key = generate_key()

    def trust(self, *public_keys):
        """Let these keys sign the namespace's models; without any, its own."""
        authorities = [
            {"name": f"a{number}", "key": {"publicKeyPEM": key.decode()}}
            for number, key in enumerate(public_keys or [self.public_key])
        ]
        self.bed.apply(
            {
                "apiVersion": "linnet.dev/v1alpha1",
                "kind": "TrustPolicy",
                "metadata": {"name": self.namespace},
                "spec": {
                    "match": {"models": [f"{self.namespace}/*"]},
                    "authorities": authorities,
                },
            }
        )

    def source(self, name, tag):
        return f"oci://{REGISTRY}/{self.namespace}/{name}:{tag}"

    def sign(self, directory, model, *, counter):
        """Return what the key has signed over a directory, as a model of that whole name."""
        return sign_model(directory, model=model, counter=counter, private_key_pem=self.private_key)

    def push(self, directory, name, tag, *, bundle):
        """Push what is in a directory; return its artifact digest."""
        return push_model(directory, to=self.source(name, tag), bundle=bundle, mirrors=self.mirrors)

    def release(self, directory, name, tag, *, counter, signed_as=None):
        """Sign and push what is in a directory; return its artifact digest."""
        model = f"{self.namespace}/{signed_as or name}"
        bundle = self.sign(directory, model, counter=counter)
        return self.push(directory, name, tag, bundle=bundle)
