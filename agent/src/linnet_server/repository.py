"""The repository extension: what is here, load it, unload it; on the control socket alone.

- What can be loaded is what `current` names on disk, or `--model` named at the start: a request
  names a model, never a file or a configuration.
- `load` loads beside and flips, like every swap; what cannot be loaded leaves what serves.
- The agent has the last word: it loads again what its orders want.

Source: Triton's `extension_model_repository.md`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from linnet_server.catalog import Catalog
from linnet_server.errors import BadRequestError, ControlError, NotFoundError
from linnet_server.http1 import JSON, Request, Response
from linnet_server.protocol import parse_object
from linnet_server.records import RevisionFiles, list_current, read_revision

_STATES: Final = {"Ready": "READY", "Loading": "LOADING"}
_HARMLESS: Final = frozenset({"unload_dependents"})
"""Clients send it always."""


class RepositoryApp:
    """Answers what is below `/v2/repository`.

    Args:
        catalog: What is loaded.
        root: The node's directory.
        bare: The files that `--model` names; with them, the directory counts for nothing.
    """

    def __init__(self, catalog: Catalog, root: Path, bare: Sequence[RevisionFiles]) -> None:
        self._catalog = catalog
        self._root = root
        self._bare = bare

    async def respond(self, request: Request, parts: list[str]) -> Response:
        """Answer ``parts`` of the path, a POST.

        Raises:
            ServerError: It cannot be done; nothing has changed.
        """
        document = parse_object(request.body) if request.body else {}
        match parts:
            case ["index"]:
                models = self._list(ready_only=document.get("ready") is True)
                return Response(200, orjson.dumps(models), (JSON,))
            case ["models", name, "load"]:
                _refuse_parameters(document)
                files = self._find(name)
                loaded = await self._catalog.stage_files(files, fresh=True)
                await self._catalog.activate(files.record.key, loaded.record.revision)
            case ["models", name, "unload"]:
                _refuse_parameters(document)
                await self._catalog.remove(self._catalog.find(name).key)
            case _:
                raise NotFoundError("no such path")
        return Response(200, b"{}", (JSON,))

    def _list(self, *, ready_only: bool) -> list[dict[str, Any]]:
        found = {
            files.record.serving_name: _state(files.record.revision, "UNAVAILABLE", "unloaded")
            for files in self._read_all()
        }
        for model in self._catalog.describe()["models"]:
            state = _STATES.get(model["state"], "UNAVAILABLE")
            name = model["servingName"] or f"{model['namespace']}/{model['deployment']}"
            found[name] = _state(model["revision"], state, model.get("message", ""))
        return [
            {"name": name, **state}
            for name, state in sorted(found.items())
            if state["state"] == "READY" or not ready_only
        ]

    def _find(self, name: str) -> RevisionFiles:
        for files in self._read_all():
            if name in files.record.names:
                return files
        raise NotFoundError(f"no model '{name[:80]}' on this node")

    def _read_all(self) -> Iterator[RevisionFiles]:
        if self._bare:
            yield from self._bare
            return
        for key, link in list_current(self._root):
            try:
                files = read_revision(self._root, key, link)
            except ControlError:
                continue  # the catalog says what is wrong with it
            if files.record.is_served_here:
                yield files


def _state(version: str | None, state: str, reason: str) -> dict[str, Any]:
    return {"version": version or "", "state": state, "reason": reason}


def _refuse_parameters(document: dict[str, Any]) -> None:
    parameters = document.get("parameters") or {}
    if not isinstance(parameters, dict) or parameters.keys() - _HARMLESS:
        raise BadRequestError("what is loaded is what is on disk: there are no parameters")
