"""KServe's own model server with a model of ours, in one process."""

import logging
import sys

from kserve import InferOutput, InferResponse, Model, ModelServer

from bench.peers.runtime import open_session


class OnnxModel(Model):
    def __init__(self, name, path):
        super().__init__(name)
        self._session = open_session(path)
        self.ready = True

    async def predict(self, payload, *_):
        (y,) = self._session.run(["y"], {"x": payload.inputs[0].as_numpy()})
        output = InferOutput(name="y", shape=list(y.shape), datatype="FP32")
        output.set_data_from_numpy(y, binary_data=False)
        return InferResponse(response_id="", model_name=self.name, infer_outputs=[output])


def main(port, *models):
    pairs = [pair.split("=", 1) for pair in models]
    server = ModelServer(http_port=int(port), enable_grpc=False, workers=1, access_log_format=None)
    server.start([OnnxModel(name, path) for name, path in pairs])


if __name__ == "__main__":
    logging.disable(logging.INFO)  # a line for each request would be measured too
    # Its own parser reads the command line when it is imported.
    arguments, sys.argv = sys.argv[1:], sys.argv[:1]
    main(*arguments)
