"""Triton, as its wheel brings it: the server with the Python backend, one instance a model.

`python -m bench.peers.triton_server HTTP_PORT [--grpc PORT] NAME=PATH...`, in the peer's
environment; it becomes the server. The wheel has no ONNX Runtime backend, so each model runs in a
Python stub process; what a model takes and gives is read from its ONNX file.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytriton

from bench.peers.runtime import open_session

CONFIG = """name: "{name}"
backend: "python"
max_batch_size: 0
input [{inputs}]
output [{outputs}]
instance_group [{{ count: 1 kind: KIND_CPU }}]
parameters {{ key: "path" value {{ string_value: "{path}" }} }}
"""

TYPES = {
    "tensor(bool)": "BOOL",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "STRING",
}

MODEL = """import json, sys
sys.path[:0] = {paths!r}
import numpy as np
import triton_python_backend_utils as pb
from bench.peers.runtime import open_session

class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.session = open_session(config["parameters"]["path"]["string_value"])
        self.inputs, self.outputs = (
            [one["name"] for one in config[side]] for side in ("input", "output")
        )

    def execute(self, requests):
        answers = []
        for request in requests:
            feeds = {{}}
            for name in self.inputs:
                array = pb.get_input_tensor_by_name(request, name).as_numpy()
                if array.dtype == np.object_:
                    flat = [element.decode() for element in array.reshape(-1)]
                    array = np.array(flat, np.object_).reshape(array.shape)
                feeds[name] = array
            asked = request.requested_output_names()
            wanted = [name for name in self.outputs if name in asked]
            answers.append(pb.InferenceResponse([
                pb.Tensor(name, array)
                for name, array in zip(wanted, self.session.run(wanted, feeds))
            ]))
        return answers
"""


def main(port, *words):
    grpc = ["--allow-grpc=false"]
    if words[0] == "--grpc":
        grpc, words = ["--grpc-port", words[1]], words[2:]
    server = Path(pytriton.__file__).parent / "tritonserver"
    place = Path(tempfile.mkdtemp(prefix="linnet-triton-"))
    # The stub for this Python must lie beside the backend; the wheel's own place is not ours.
    shutil.copytree(server / "backends", place / "backends")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy2(stub, place / "backends" / "python")
    packages = str(server.parents[1])
    for pair in words:
        name, path = pair.split("=", 1)
        model = place / "models" / name
        (model / "1").mkdir(parents=True)
        (model / "config.pbtxt").write_text(configure(name, path))
        (model / "1" / "model.py").write_text(MODEL.format(paths=[packages, str(Path.cwd())]))
    environ = dict(os.environ)
    library = Path(sys.base_prefix) / "lib"
    environ["LD_LIBRARY_PATH"] = f"{server.parents[1] / 'nvidia_pytriton.libs'}:{library}"
    arguments = ["--model-repository", place / "models", "--backend-directory", place / "backends"]
    arguments += ["--http-port", port, *grpc, "--allow-metrics=false"]
    arguments += ["--model-control-mode=explicit", "--load-model=*"]
    binary = server / "bin" / "tritonserver"
    os.execve(binary, [str(one) for one in (binary, *arguments)], environ)  # noqa: S606 - it becomes the server


def configure(name, path):
    session = open_session(path)
    sides = (session.get_inputs(), session.get_outputs())
    inputs, outputs = (", ".join(tensor(arg) for arg in side) for side in sides)
    return CONFIG.format(name=name, path=path, inputs=inputs, outputs=outputs)


def tensor(arg):
    kind = TYPES.get(arg.type) or arg.type.removeprefix("tensor(").rstrip(")").upper()
    dims = [dim if isinstance(dim, int) else -1 for dim in arg.shape]
    return f'{{ name: "{arg.name}" data_type: TYPE_{kind} dims: {dims} }}'


if __name__ == "__main__":
    main(*sys.argv[1:])
