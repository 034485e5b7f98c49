"""Three servers that can change a model while they serve it, each in its own best way.

- linnet-server, as its agent orders it: stage, rename `current`, activate.
- Triton in explicit mode: load the loaded model again, with another path in its configuration.
- MLServer: load the loaded model again at the same version (a new version answers 400 while it
  loads).
"""

import json
import sys
from functools import partial

from bench.environments import environment
from bench.server import Server as Process
from bench.server import free_port
from bench.swap.clients import MODEL, bias_now, call


class Server(Process):
    """A server that serves one model and can swap it."""

    def __init__(self, name, directory, models):
        self.name = name
        self.port = free_port()
        self.directory = directory
        self.models = models
        self.swaps = 0
        self.start(self.prepare())

    async def wait_up(self):
        """Return when the first model answers."""
        await self.first_answer(partial(bias_now, self.port))

    async def swap_to_next(self):
        """Change the model, and see that the other one answers."""
        self.swaps += 1
        bias = list(self.models)[self.swaps % len(self.models)]
        await self.swap(bias, self.models[bias])
        answered = await bias_now(self.port)
        if answered != bias:
            raise RuntimeError(f"{self.name} answers with {answered}, not {bias}")


class Linnet(Server):
    """linnet-server with the directory that an agent would write."""

    def prepare(self):
        self._model = self.directory / "models" / "bench" / MODEL
        for bias, path in self.models.items():
            store = self.directory / "store" / f"{int(bias):064x}"
            store.mkdir(parents=True)
            (store / "model.onnx").hardlink_to(path)
            revision = self._model / "revisions" / f"r{int(bias)}"
            revision.mkdir(parents=True)
            (revision / "model").symlink_to(f"../../../../../store/{store.name}")
            record = {"namespace": "bench", "deployment": MODEL, "servingName": MODEL}
            record |= {"revision": revision.name, "number": 1, "modelDigest": store.name}
            (revision / "serving.json").write_text(json.dumps(record))
        self._point_at(next(iter(self.models)))
        self._socket = self.directory / "run" / "server.sock"
        command = [sys.executable, "-m", "linnet_server", "--root", self.directory]
        return [*command, "--http", f"127.0.0.1:{self.port}"]

    async def swap(self, bias, _path):
        order = f"/control/models/bench/{MODEL}"
        directory = self._model / "revisions" / f"r{int(bias)}"
        await call("PUT", f"{order}/staged", {"path": str(directory)}, socket=self._socket)
        self._point_at(bias)
        body = {"revision": directory.name}
        await call("POST", f"{order}/activate", body, socket=self._socket)

    def _point_at(self, bias):
        draft = self._model / "current.tmp"
        draft.symlink_to(f"revisions/r{int(bias)}")
        draft.rename(self._model / "current")


class Triton(Server):
    """Triton with its Python backend."""

    def prepare(self):
        first = next(iter(self.models.values()))
        command = [environment("triton"), "-m", "bench.peers.triton_server"]
        return [*command, self.port, f"{MODEL}={first}"]

    async def swap(self, _bias, path):
        config = await call("GET", f"/v2/models/{MODEL}/config", port=self.port)
        config["parameters"]["path"]["string_value"] = str(path)
        body = {"parameters": {"config": json.dumps(config)}}
        await call("POST", f"/v2/repository/models/{MODEL}/load", body, port=self.port)


class MlServer(Server):
    """MLServer with a model repository on disk."""

    def prepare(self):
        self._write(next(iter(self.models.values())))
        command = [environment("mlserver"), "-m", "bench.peers.mlserver_repository"]
        return [*command, self.port, self.directory]

    async def swap(self, _bias, path):
        self._write(path)
        await call("POST", f"/v2/repository/models/{MODEL}/load", {}, port=self.port)

    def _write(self, path):
        settings = {"name": MODEL, "implementation": "bench.peers.mlserver_server.OnnxModel"}
        settings["parameters"] = {"uri": str(path)}
        draft = self.directory / "draft"
        draft.write_text(json.dumps(settings))
        draft.rename(self.directory / "model-settings.json")


SERVERS = {"linnet": Linnet, "triton": Triton, "mlserver": MlServer}
