"""The floor of the server's benchmark: the same runtime, JSON library and HTTP stack, no more.

No validation, no metrics, no queue, no swap, no errors: what remains is what nobody can save.
"""

import os
import sys

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime
import orjson
import uvicorn


def main(path, port):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    async def app(_scope, receive, send):
        parts = []
        while True:
            message = await receive()
            parts.append(message["body"])
            if not message["more_body"]:
                break
        (tensor,) = orjson.loads(b"".join(parts))["inputs"]
        x = np.array(tensor["data"], np.float32).reshape(tensor["shape"])
        (y,) = session.run(["y"], {"x": x})
        body = orjson.dumps(
            {
                "model_name": "m",
                "outputs": [
                    {"name": "y", "datatype": "FP32", "shape": y.shape, "data": y.reshape(-1)}
                ],
            },
            option=orjson.OPT_SERIALIZE_NUMPY,
        )
        length = (b"content-length", str(len(body)).encode())
        headers = [(b"content-type", b"application/json"), length]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    uvicorn.run(
        app,
        port=int(port),
        loop="uvloop",
        http="httptools",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
