"""MLServer with a runtime of our own (it brings none for ONNX), in one process."""

import asyncio
import sys

from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceResponse

from bench.peers.runtime import open_session


class OnnxModel(MLModel):
    async def load(self):
        self._session = open_session(self.settings.parameters.uri)
        return True

    async def predict(self, payload):
        x = NumpyCodec.decode_input(payload.inputs[0])
        (y,) = self._session.run(["y"], {"x": x})
        output = NumpyCodec.encode_output("y", y)
        return InferenceResponse(model_name=self.name, outputs=[output])


def make_server(port, **more):
    ports = {
        name: int(port) + n for n, name in enumerate(("http_port", "grpc_port", "metrics_port"))
    }
    return MLServer(Settings(parallel_workers=0, host="127.0.0.1", debug=False, **ports, **more))


async def serve(port, *models):
    server = make_server(port, load_models_at_startup=True)
    await server.start(
        [
            ModelSettings(name=name, implementation=OnnxModel, parameters=ModelParameters(uri=path))
            for name, path in (pair.split("=", 1) for pair in models)
        ]
    )


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
