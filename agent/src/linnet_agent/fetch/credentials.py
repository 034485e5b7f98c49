"""What the node knows of registries' users: Docker's config file, mounted from outside.

- ``auths`` by host or by path (``registry.local/team``); the longest path that fits counts.
- The file is read again when it has changed; one that became unreadable leaves what was known.
- A credential helper is never run: where one is named for a host, a sentence says so.
- Neither users nor passwords are ever shown.
"""

import base64
import binascii
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from linnet_agent.errors import SourceNotFoundError

log = logging.getLogger(__name__)

_CHALLENGE: Final = re.compile(r'([A-Za-z_]+)=(?:"([^"]*)"|([^\s,"]+))')
_DOCKER_HUB: Final = frozenset({"docker.io", "registry-1.docker.io", "index.docker.io"})
_MAX_CONFIG_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, repr=False)
class Credential:
    """A user name and a password, or a token that stands for both; never shown."""

    username: str
    password: str
    identity_token: str | None = None

    @property
    def header(self) -> str:
        """Return the value of an Authorization header."""
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode()


@dataclass(frozen=True, slots=True)
class KnownCredentials:
    """Credentials by host or by path, as they were read."""

    auths: Mapping[str, Credential] = field(default_factory=dict)
    helpers: Mapping[str, str] = field(default_factory=dict)
    """Host to the helper that is named for it; ``*`` for all."""

    def find(self, host: str, repository: str) -> Credential | None:
        """Return who the node is at a repository, None where it is nobody.

        Raises:
            SourceNotFoundError: A credential helper would have to be asked.
        """
        host = "index.docker.io" if host in _DOCKER_HUB else host
        path = f"{host}/{repository}"
        while path:
            if (credential := self.auths.get(path)) is not None:
                return credential
            path = path.rpartition("/")[0]
        if (helper := self.helpers.get(host)) is not None:
            msg = (
                f"the credentials for {host} are with the helper docker-credential-{helper}, and "
                "agents run no helpers: put a user and password under auths"
            )
            raise SourceNotFoundError(msg)
        return None


class DockerConfig:
    """A Docker config file that may change, appear and vanish while the agent runs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._known: KnownCredentials | None = KnownCredentials()

    def find(self, host: str, repository: str) -> Credential | None:
        """Return who the node is at a repository, None where it is nobody.

        Raises:
            SourceNotFoundError: The file cannot be read, or names a credential helper.
        """
        self._refresh()
        if self._known is None:
            msg = f"{self._path}, which holds the registry credentials, cannot be read"
            raise SourceNotFoundError(msg)
        return self._known.find(host, repository)

    def _refresh(self) -> None:
        try:
            found = self._path.stat()
            stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
            if stamp == self._stamp:
                return
            self._known = read_docker_config(self._path)
            self._stamp = stamp
        except FileNotFoundError:
            self._known, self._stamp = KnownCredentials(), None
        except (OSError, ValueError) as error:
            if self._stamp is None:
                self._known = None
            facts = {"path": str(self._path), "error": type(error).__name__}
            log.warning("fetch.credentials.unreadable", extra=facts)


def read_docker_config(path: Path) -> KnownCredentials:
    """Read a Docker config file.

    Raises:
        ValueError: It is not such a file.
        OSError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_MAX_CONFIG_BYTES))
        auths = {
            _key(host): _read(entry)
            for host, entry in _section(document, "auths").items()
            if entry.get("auth") or entry.get("username") or entry.get("identitytoken")
        }
        helpers = {
            _key(host): str(name) for host, name in _section(document, "credHelpers").items()
        }
        if store := document.get("credsStore"):
            unsaid = {_key(host) for host in _section(document, "auths")} - set(auths)
            helpers |= dict.fromkeys(unsaid, str(store))
        return KnownCredentials(auths, helpers)
    except (
        AttributeError,
        TypeError,
        KeyError,
        RecursionError,
        binascii.Error,
        UnicodeDecodeError,
        ValueError,
    ) as error:
        msg = f"{path} is not a Docker config file: {type(error).__name__}"
        raise ValueError(msg) from error


def load_docker_config(path: Path) -> dict[str, Credential]:
    """Read the ``auths`` of a Docker config file: registry host, or path, to credential.

    Raises:
        ValueError: It is not such a file.
        OSError: It cannot be read.
    """
    return dict(read_docker_config(path).auths)


def parse_challenge(header: str) -> tuple[str, Mapping[str, str]]:
    """Read a WWW-Authenticate header: the scheme in lower case, and its parameters."""
    scheme, _, rest = header.strip().partition(" ")
    return scheme.lower(), {
        name.lower(): quoted or plain for name, quoted, plain in _CHALLENGE.findall(rest)
    }


def _section(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] | None = document.get(name)
    return {} if found is None else dict(found.items())


def _key(host: str) -> str:
    """Return a key of ``auths`` as host or path; Docker's own has a scheme and an API version."""
    host = host.removeprefix("https://").removeprefix("http://").rstrip("/")
    host = host.removesuffix("/v1").removesuffix("/v2")
    return "index.docker.io" if host in _DOCKER_HUB else host


def _read(entry: Mapping[str, Any]) -> Credential:
    token = entry.get("identitytoken") or None
    username, password = entry.get("username", ""), entry.get("password", "")
    if entry.get("auth"):
        text = base64.b64decode(entry["auth"], validate=True).decode()
        username, _, password = text.partition(":")
    if not all(isinstance(part, str) for part in (username, password, token or "")):
        msg = "a user, a password or a token is not text"
        raise ValueError(msg)
    return Credential(username, password, token)
