"""The floor over gRPC: a bare grpc.aio service over the same runtime, no more."""

import sys

import grpc
import numpy as np
import uvloop

from bench.peers.runtime import open_session
from linnet_server.inference_pb2 import ModelInferRequest, ModelInferResponse


async def serve(port, path):
    session = open_session(path)

    async def infer(question, _context):
        x = np.frombuffer(question.raw_input_contents[0], np.float32)
        (y,) = session.run(["y"], {"x": x.reshape(question.inputs[0].shape)})
        answer = ModelInferResponse(model_name="m")
        answer.outputs.add(name="y", datatype="FP32", shape=y.shape)
        answer.raw_output_contents.append(y.tobytes())
        return answer

    handler = grpc.unary_unary_rpc_method_handler(
        infer,
        request_deserializer=ModelInferRequest.FromString,
        response_serializer=ModelInferResponse.SerializeToString,
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "inference.GRPCInferenceService", {"ModelInfer": handler}
            ),
        )
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve(*sys.argv[1:]))
