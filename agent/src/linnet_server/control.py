"""The control API, on a Unix socket that only the agent can open.

- List, stage, vacate, activate, remove; and the repository extension.
- Every order is idempotent: an agent that died between sending and journalling sends it again.
- An order that cannot be carried out changes nothing, and its answer has a reason from a closed
  list.
"""

import asyncio
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from linnet_server.catalog import Catalog
from linnet_server.errors import BadRequestError, MethodNotAllowedError, NotFoundError, ServerError
from linnet_server.http1 import (
    Request,
    Response,
    error_response,
    json_response,
    unexpected_response,
)
from linnet_server.protocol import parse_object
from linnet_server.records import DeploymentKey, RevisionFiles
from linnet_server.repository import RepositoryApp
from linnet_server.runtimes.abilities import Abilities, read_abilities

BODY_LIMIT_BYTES: Final = 65536


class ControlApp:
    """Carries out what comes in at the control socket."""

    def __init__(self, catalog: Catalog, root: Path, bare: Sequence[RevisionFiles] = ()) -> None:
        self._catalog = catalog
        self._root = root
        self._repository = RepositoryApp(catalog, root, bare)
        self._abilities: Abilities | None = None

    async def respond(self, request: Request) -> Response:
        """Carry out one order."""
        self._catalog.hear()
        try:
            return await self._respond(request)
        except ServerError as error:
            return error_response(
                error, reason=error.reason, message=str(error), remedy=error.remedy
            )
        except Exception as error:  # noqa: BLE001 - the outermost place; it is logged
            return unexpected_response(request.path, error)

    async def _read_abilities(self) -> Abilities:
        if self._abilities is None:
            self._abilities = await asyncio.to_thread(read_abilities)
        return self._abilities

    async def _respond(self, request: Request) -> Response:
        match request.method, request.path.split("/")[1:]:
            case "GET", ["control", "models"]:
                return json_response(self._catalog.describe())
            case "GET", ["control", "runtimes"]:
                return json_response(dataclasses.asdict(await self._read_abilities()))
            case "PUT", ["control", "models", namespace, deployment, "staged"]:
                order = parse_object(request.body)
                staged = await self._catalog.stage(
                    DeploymentKey(namespace, deployment),
                    self._root,
                    Path(_field(order, "path")),
                    fresh=order.get("fresh") is True,
                    replace=_choice(order, "replace"),
                )
                return json_response(
                    {"revision": staged.record.revision, "loadSeconds": staged.load_s}
                )
            case "POST", ["control", "models", namespace, deployment, "activate"]:
                revision = _field(parse_object(request.body), "revision")
                active = await self._catalog.activate(
                    DeploymentKey(namespace, deployment), revision
                )
                return json_response({"revision": active.record.revision})
            case "POST", ["control", "models", namespace, deployment, "vacate"]:
                await self._catalog.vacate(DeploymentKey(namespace, deployment))
                return Response(204)
            case "DELETE", ["control", "models", namespace, deployment, "staged"]:
                await self._catalog.unstage(DeploymentKey(namespace, deployment))
                return Response(204)
            case "DELETE", ["control", "models", namespace, deployment]:
                await self._catalog.remove(DeploymentKey(namespace, deployment))
                return Response(204)
            case "POST", ["v2", "repository", *parts]:
                return await self._repository.respond(request, parts)
            case method, ["control", "models", *_]:
                raise MethodNotAllowedError(f"no order {method} {request.path[:200]}")
            case _:
                raise NotFoundError("no such path")


def _choice(order: dict[str, Any], name: str) -> bool | None:
    value = order.get(name)
    if value is None or isinstance(value, bool):
        return value
    raise BadRequestError(f"'{name}' is true or false")


def _field(order: dict[str, Any], name: str) -> str:
    value = order.get(name)
    if not isinstance(value, str) or not value:
        raise BadRequestError(f"the body needs a '{name}'")
    return value
