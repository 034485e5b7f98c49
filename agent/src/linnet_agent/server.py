"""The agent's side of linnet-server's control socket: list, stage, activate, remove.

- Every order is idempotent; one that cannot be carried out has changed nothing.
- A server that does not answer is transient: it serves, or starts, from what is on disk. One whose
  answer cannot be read is as one that does not answer: it speaks with strangers all day.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from linnet_agent.errors import (
    AgentError,
    BudgetExceededError,
    DiskFaultError,
    LoadFailedError,
    NoMemoryError,
    NotOnnxError,
    ServerUnavailableError,
    ServingNameTakenError,
    WrongVariantError,
)
from linnet_agent.journal import ServerFacts
from linnet_agent.store import ModelKey
from linnet_agent.verify.strict_json import parse_json_object

_LOAD_TIMEOUT_S: Final = 600.0
"""A large model may take minutes to load and warm up."""

_ASK_TIMEOUT_S: Final = 5.0
_PROBE_TIMEOUT_S: Final = 90.0
"""A driver may take a while to start."""

_MAX_ANSWER_BYTES: Final = 4 << 20

_REFUSALS: Final[Mapping[str, type[AgentError]]] = {
    "NotOnnx": NotOnnxError,
    "ServingNameTaken": ServingNameTakenError,
    "WrongVariant": WrongVariantError,
    "BudgetExceeded": BudgetExceededError,
    "NoMemory": NoMemoryError,
    "DiskFault": DiskFaultError,
}
"""By the server's word; any other is LoadFailed."""


@dataclass(frozen=True, slots=True)
class ServerView:
    """One answer of the server about all models."""

    models: Mapping[ModelKey, ServerFacts]

    def facts(self, key: ModelKey) -> ServerFacts:
        """Return what it says about one deployment; nothing is an answer, too."""
        return self.models.get(key, ServerFacts())

    def served(self) -> dict[str, list[int]]:
        """Return requests and failures by ``<namespace>/<deployment>/<revision>``."""
        return {
            f"{key.namespace}/{key.deployment}/{facts.active}": [facts.requests, facts.failures]
            for key, facts in sorted(self.models.items())
            if facts.active is not None
        }


@dataclass(frozen=True, slots=True)
class Abilities:
    """What the server can run."""

    runtimes: frozenset[str]
    """As a variant's name begins: ``onnx``, ``onnx-cuda``, ``tensorrt``."""
    accelerators: frozenset[str]
    gpu: str
    """Its name; empty: there is none."""


class ServerClient:
    """Talks to one server over its Unix socket."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._http = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(socket), verify=False),  # no TLS, no roots
            base_url="http://linnet-server",
            timeout=_ASK_TIMEOUT_S,
            trust_env=False,
        )

    async def aclose(self) -> None:
        """Close the connection."""
        await self._http.aclose()

    async def read(self) -> ServerView:
        """Return what the server serves and has staged.

        Raises:
            ServerUnavailableError: It does not answer.
        """
        raw = await self._ask("GET", "/control/models")
        try:
            return _read_view(parse_json_object(raw, max_bytes=_MAX_ANSWER_BYTES))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ServerUnavailableError(
                f"linnet-server's answer cannot be read: {error!r}"[:300]
            ) from error

    async def read_abilities(self) -> Abilities:
        """Return what the server can run.

        Raises:
            ServerUnavailableError: It does not answer.
        """
        raw = await self._ask("GET", "/control/runtimes", timeout_s=_PROBE_TIMEOUT_S)
        try:
            said = parse_json_object(raw, max_bytes=_MAX_ANSWER_BYTES)
            return Abilities(
                frozenset(map(str, said["targets"])),
                frozenset(map(str, said["accelerators"])),
                str(said["gpu"])[:128],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ServerUnavailableError(
                f"linnet-server's answer cannot be read: {error!r}"[:300]
            ) from error

    async def stage(
        self, key: ModelKey, directory: Path, *, fresh: bool = False, replace: bool = False
    ) -> None:
        """Let the server load the revision in ``directory`` (absolute) beside what it serves.

        Args:
            key: Whose revision it is.
            directory: Where it lies.
            fresh: Load it although it is loaded: its files were replaced by good ones.
            replace: Take what serves out first, where both do not fit into memory.

        Raises:
            AgentError: It cannot; nothing has changed.
            ServerUnavailableError: It does not answer.
        """
        await self._ask(
            "PUT",
            f"{_path(key)}/staged",
            body={"path": str(directory), "fresh": fresh, "replace": replace},
            timeout_s=_LOAD_TIMEOUT_S,
        )

    async def vacate(self, key: ModelKey) -> None:
        """Let the server take out what serves, until something is activated, or `unstage`."""
        await self._ask("POST", f"{_path(key)}/vacate", timeout_s=_LOAD_TIMEOUT_S)

    async def activate(self, key: ModelKey, revision: str) -> None:
        """Let the staged ``revision`` serve.

        Raises:
            ServerUnavailableError: It does not answer, or has lost what was staged: stage again.
        """
        await self._ask("POST", f"{_path(key)}/activate", body={"revision": revision})

    async def unstage(self, key: ModelKey) -> None:
        """Let the server free what is staged, and bring back what was taken out."""
        await self._ask("DELETE", f"{_path(key)}/staged", timeout_s=_LOAD_TIMEOUT_S)

    async def remove(self, key: ModelKey) -> None:
        """Let the server stop serving a deployment."""
        await self._ask("DELETE", _path(key))

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, object] | None = None,
        timeout_s: float = _ASK_TIMEOUT_S,
    ) -> bytes:
        content = None if body is None else json.dumps(body).encode()
        try:
            async with self._http.stream(
                method,
                path,
                content=content,
                headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
                timeout=timeout_s,
            ) as answer:
                raw = await _read_bounded(answer)
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise ServerUnavailableError(
                f"linnet-server does not answer on {self._socket}: {type(error).__name__}"
            ) from error
        if answer.is_success:
            return raw
        document = _json_or_empty(raw)
        message = str(document.get("message") or raw[:600].decode(errors="replace"))[:600]
        if answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
            raise _REFUSALS.get(str(document.get("reason")), LoadFailedError)(message)
        raise ServerUnavailableError(f"linnet-server answered {answer.status_code}: {message}")


async def _read_bounded(answer: httpx.Response) -> bytes:
    raw = bytearray()
    async for block in answer.aiter_raw():
        raw += block
        if len(raw) > _MAX_ANSWER_BYTES:
            raise ServerUnavailableError("linnet-server's answer has no end")
    return bytes(raw)


def _path(key: ModelKey) -> str:
    return f"/control/models/{key.namespace}/{key.deployment}"


def _json_or_empty(raw: bytes) -> dict[str, Any]:
    try:
        return parse_json_object(raw, max_bytes=_MAX_ANSWER_BYTES)
    except ValueError:
        return {}


def _read_view(document: Mapping[str, Any]) -> ServerView:
    models: dict[ModelKey, dict[str, Any]] = {}
    for item in document.get("models", ()):
        state = item.get("state")
        values = models.setdefault(_key(item), {})
        if state == "Ready":
            values["active"] = item["revision"]
            values["requests"], values["failures"] = int(item["requests"]), int(item["failures"])
            values["duration_s"] = float(item.get("durationSeconds", 0.0))
        elif state == "Loading":
            values["loading"] = item["revision"]
    for item in document.get("staged", ()):
        models.setdefault(_key(item), {})["staged"] = item["revision"]
    return ServerView({key: ServerFacts(**values) for key, values in models.items()})


def _key(item: Mapping[str, Any]) -> ModelKey:
    return ModelKey(item["namespace"], item["deployment"])
