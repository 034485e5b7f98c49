"""MLServer with the models of a directory, in one process: its repository API can load them again.

`python -m bench.peers.mlserver_repository PORT DIRECTORY`, in the peer's environment.
"""

import asyncio
import sys

from mlserver import MLServer, Settings


async def serve(port, directory):
    settings = Settings(
        http_port=int(port),
        grpc_port=int(port) + 1,
        metrics_port=int(port) + 2,
        parallel_workers=0,
        host="127.0.0.1",
        debug=False,
        model_repository_root=directory,
    )
    server = MLServer(settings)
    await server.start(await server._model_repository.list())


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
