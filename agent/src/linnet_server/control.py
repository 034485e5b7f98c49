"""The control API, on a Unix socket that only the agent can open: list, stage, activate, remove.

- Every order is idempotent: an agent that died between sending and journalling sends it again.
- An order that cannot be carried out changes nothing, and its answer has a reason from a closed
  list.
"""

from pathlib import Path
from typing import Final

from linnet_server.asgi import (
    ClientGone,
    Receive,
    Response,
    Scope,
    Send,
    error_response,
    json_response,
    read_body,
    send_response,
    unexpected_response,
)
from linnet_server.catalog import Catalog
from linnet_server.errors import BadRequestError, MethodNotAllowedError, NotFoundError, ServerError
from linnet_server.protocol import parse_object
from linnet_server.records import DeploymentKey

_BODY_LIMIT_BYTES: Final = 65536


class ControlApp:
    """The ASGI application of the control socket."""

    def __init__(self, catalog: Catalog, root: Path) -> None:
        self._catalog = catalog
        self._root = root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Carry out one order."""
        assert scope["type"] == "http", scope["type"]
        try:
            response = await self._respond(scope, receive)
        except ClientGone:
            return
        except ServerError as error:
            response = error_response(
                error, reason=error.reason, message=str(error), remedy=error.remedy
            )
        except Exception as error:  # noqa: BLE001 - the outermost place; it is logged
            response = unexpected_response(scope["path"], error)
        await send_response(send, response)

    async def _respond(self, scope: Scope, receive: Receive) -> Response:
        match scope["method"], scope["path"].split("/")[1:]:
            case "GET", ["control", "models"]:
                return json_response(self._catalog.describe())
            case "PUT", ["control", "models", namespace, deployment, "staged"]:
                path = await _read_field(scope, receive, "path")
                staged = await self._catalog.stage(
                    DeploymentKey(namespace, deployment), self._root, Path(path)
                )
                return json_response(
                    {"revision": staged.record.revision, "loadSeconds": staged.load_s}
                )
            case "POST", ["control", "models", namespace, deployment, "activate"]:
                revision = await _read_field(scope, receive, "revision")
                active = await self._catalog.activate(
                    DeploymentKey(namespace, deployment), revision
                )
                return json_response({"revision": active.record.revision})
            case "DELETE", ["control", "models", namespace, deployment, "staged"]:
                await self._catalog.unstage(DeploymentKey(namespace, deployment))
                return Response(204)
            case "DELETE", ["control", "models", namespace, deployment]:
                await self._catalog.remove(DeploymentKey(namespace, deployment))
                return Response(204)
            case method, ["control", "models", *_]:
                raise MethodNotAllowedError(f"no order {method} {scope['path'][:200]}")
            case _:
                raise NotFoundError("no such path")


async def _read_field(scope: Scope, receive: Receive, name: str) -> str:
    body = await read_body(scope, receive, limit_bytes=_BODY_LIMIT_BYTES)
    value = parse_object(body).get(name)
    if not isinstance(value, str) or not value:
        raise BadRequestError(f"the body needs a '{name}'")
    return value
