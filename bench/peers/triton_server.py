"""Triton, as its wheel brings it: the server with the Python backend, one instance a model.

`python -m bench.peers.triton_server PORT NAME=PATH...`, in the peer's environment; it becomes the
server. The wheel has no ONNX Runtime backend, so each model runs in a Python stub process.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytriton

CONFIG = """name: "{name}"
backend: "python"
max_batch_size: 0
input [{{ name: "x" data_type: TYPE_FP32 dims: {dims} }}]
output [{{ name: "y" data_type: TYPE_FP32 dims: [-1, -1] }}]
instance_group [{{ count: 1 kind: KIND_CPU }}]
parameters {{ key: "path" value {{ string_value: "{path}" }} }}
"""

MODEL = """import json, sys
sys.path[:0] = {paths!r}
import triton_python_backend_utils as pb
from bench.peers.runtime import open_session

class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.session = open_session(config["parameters"]["path"]["string_value"])

    def execute(self, requests):
        answers = []
        for request in requests:
            x = pb.get_input_tensor_by_name(request, "x").as_numpy()
            (y,) = self.session.run(["y"], {{"x": x}})
            answers.append(pb.InferenceResponse([pb.Tensor("y", y)]))
        return answers
"""


def main(port, *models):
    server = Path(pytriton.__file__).parent / "tritonserver"
    place = Path(tempfile.mkdtemp(prefix="linnet-triton-"))
    # The stub for this Python must lie beside the backend; the wheel's own place is not ours.
    shutil.copytree(server / "backends", place / "backends")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy2(stub, place / "backends" / "python")
    packages = str(server.parents[1])
    for pair in models:
        name, path = pair.split("=", 1)
        model = place / "models" / name
        (model / "1").mkdir(parents=True)
        dims = "[-1, 4]" if name == "tiny" else "[-1, 3, 224, 224]"
        (model / "config.pbtxt").write_text(CONFIG.format(name=name, path=path, dims=dims))
        (model / "1" / "model.py").write_text(MODEL.format(paths=[packages, str(Path.cwd())]))
    environ = dict(os.environ)
    library = Path(sys.base_prefix) / "lib"
    environ["LD_LIBRARY_PATH"] = f"{server.parents[1] / 'nvidia_pytriton.libs'}:{library}"
    arguments = ["--model-repository", place / "models", "--backend-directory", place / "backends"]
    arguments += ["--http-port", port, "--allow-grpc=false", "--allow-metrics=false"]
    arguments += ["--model-control-mode=explicit", "--load-model=*"]
    binary = server / "bin" / "tritonserver"
    os.execve(binary, [str(one) for one in (binary, *arguments)], environ)  # noqa: S606 - it becomes the server


if __name__ == "__main__":
    main(*sys.argv[1:])
