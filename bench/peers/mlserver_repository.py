"""MLServer with the models of a directory, in one process: its repository API can load them again.

`python -m bench.peers.mlserver_repository PORT DIRECTORY`, in the peer's environment.
"""

import asyncio
import sys

from bench.peers.mlserver_server import make_server


async def serve(port, directory):
    server = make_server(port, model_repository_root=directory)
    await server.start(await server._model_repository.list())


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
