"""Who the node is at a registry: Docker's config file, and the Bearer token dance.

- Without credentials it is anonymous; a registry that wants a token tells where to get one.
- A token server is asked over https, or over the scheme of a registry that itself is plain http.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CHALLENGE: Final = re.compile(r'([a-z_]+)="([^"]*)"')


@dataclass(frozen=True, slots=True, repr=False)
class Credential:
    """A user name and a password; never shown."""

    username: str
    password: str

    @property
    def header(self) -> str:
        """Return the value of an Authorization header."""
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode()


def load_docker_config(path: Path) -> dict[str, Credential]:
    """Read the ``auths`` of a Docker config file: registry host to credential.

    Raises:
        ValueError: It is not such a file. Credential helpers are not run.
        OSError: It cannot be read.
    """
    try:
        auths = json.loads(path.read_text(encoding="utf-8")).get("auths", {})
        return {
            host.removeprefix("https://").split("/")[0]: _read(entry)
            for host, entry in auths.items()
            if entry.get("auth") or entry.get("username")
        }
    except (AttributeError, TypeError, binascii.Error, UnicodeDecodeError, ValueError) as error:
        msg = f"{path} is not a Docker config file: {type(error).__name__}"
        raise ValueError(msg) from error


def parse_challenge(header: str) -> tuple[str, Mapping[str, str]]:
    """Read a WWW-Authenticate header: the scheme in lower case, and its parameters."""
    scheme, _, rest = header.partition(" ")
    return scheme.lower(), dict(_CHALLENGE.findall(rest))


def _read(entry: Mapping[str, str]) -> Credential:
    if entry.get("auth"):
        text = base64.b64decode(entry["auth"], validate=True).decode()
        username, _, password = text.partition(":")
        return Credential(username, password)
    return Credential(entry["username"], entry.get("password", ""))
