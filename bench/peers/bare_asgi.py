"""The floor: a bare ASGI loop over the same runtime, JSON library and HTTP parser, no more.

No validation, no metrics, no queue, no swap, no errors.
"""

import sys

import numpy as np
import orjson
import uvicorn

from bench.peers.runtime import open_session


def main(port, *models):
    sessions = {}
    for pair in models:
        name, path = pair.split("=", 1)
        sessions[f"/v2/models/{name}/infer"] = open_session(path)

    async def app(scope, receive, send):
        parts = []
        while True:
            message = await receive()
            parts.append(message["body"])
            if not message["more_body"]:
                break
        body = b"".join(parts)
        length = dict(scope["headers"]).get(b"inference-header-content-length")
        document = orjson.loads(body if length is None else body[: int(length)])
        (tensor,) = document["inputs"]
        if length is None:
            x = np.array(tensor["data"], np.float32).reshape(tensor["shape"])
        else:
            x = np.frombuffer(body, np.float32, offset=int(length)).reshape(tensor["shape"])
        (y,) = sessions[scope["path"]].run(["y"], {"x": x})
        output = {"name": "y", "datatype": "FP32", "shape": y.shape, "data": y.reshape(-1)}
        answer = orjson.dumps(
            {"model_name": "m", "outputs": [output]}, option=orjson.OPT_SERIALIZE_NUMPY
        )
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(answer)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

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
