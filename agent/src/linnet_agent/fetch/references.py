"""Where a model lies: sources, and the mirrors that stand in for hosts.

- ``oci://host[:port]/path[:tag][@sha256:...]``; a digest beats a tag, and no tag means ``latest``.
- ``https://host[:port]/path`` and ``file:///path`` name a directory; no query, fragment or user.
- A host is spoken to over https, at its own name, unless a mirror is set for that name.
- Plain http is spoken only to a mirror whose address says http.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from linnet_agent.errors import UnsupportedArtifactError
from linnet_agent.verify.manifest import is_digest

_HOST: Final = re.compile(
    r"([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?"
)
_REPOSITORY: Final = re.compile(
    r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*"
)
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_PATH: Final = re.compile(r"(/([A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})+)+/?")
_MAX_SOURCE: Final = 512


@dataclass(frozen=True, slots=True)
class OciReference:
    """A place in a registry."""

    host: str
    repository: str
    tag: str
    digest: str | None

    @property
    def version(self) -> str:
        """Return the digest where there is one, else the tag: what a manifest is asked by."""
        return self.digest or self.tag


@dataclass(frozen=True, slots=True)
class HttpsReference:
    """A directory on a web server."""

    host: str
    path: str
    """Begins with a slash and ends with none; percent-encoded, as it was written."""


def parse_source(source: str) -> OciReference:
    """Read an ``oci://`` source.

    Raises:
        UnsupportedArtifactError: It is not an ``oci://`` source, or not a well-formed one.
    """
    scheme, separator, rest = source.partition("://")
    if not separator or scheme != "oci":
        msg = f"{source!r} is not an oci:// source"
        raise UnsupportedArtifactError(msg)
    name, at, digest = rest.partition("@")
    host, _, path = name.partition("/")
    repository, colon, tag = path.partition(":")
    if (
        len(source) > _MAX_SOURCE
        or not _HOST.fullmatch(host)
        or len(repository) > 255
        or not _REPOSITORY.fullmatch(repository)
        or (colon and not _TAG.fullmatch(tag))
        or (at and not is_digest(digest))
    ):
        msg = f"{source!r} is not oci://host/repository[:tag][@sha256:digest]"
        raise UnsupportedArtifactError(msg)
    return OciReference(
        host=host, repository=repository, tag=tag or "latest", digest=digest if at else None
    )


def parse_https_source(source: str) -> HttpsReference:
    """Read an ``https://`` source.

    Raises:
        UnsupportedArtifactError: It is not an ``https://`` source, or not a well-formed one.
    """
    scheme, _, rest = source.partition("://")
    host, slash, path = rest.partition("/")
    if scheme != "https" or not _HOST.fullmatch(host) or not _is_plain(slash + path):
        msg = f"{source!r} is not https://host/path, a directory"
        raise UnsupportedArtifactError(msg)
    return HttpsReference(host=host, path=f"/{path}".rstrip("/"))


def parse_file_source(source: str) -> Path:
    """Read a ``file://`` source: the absolute path of a directory on this node.

    Raises:
        UnsupportedArtifactError: It is not a ``file:///`` source, or not a well-formed one.
    """
    scheme, _, path = source.partition("://")
    if scheme != "file" or not _is_plain(path):
        msg = f"{source!r} is not file:///path, a directory on the node"
        raise UnsupportedArtifactError(msg)
    return Path(unquote(path))


def _is_plain(path: str) -> bool:
    """Tell whether an absolute path, percent-encoded, means what it says."""
    if len(path) > _MAX_SOURCE or not _PATH.fullmatch(path):
        return False
    parts = [unquote(part, errors="replace") for part in path.strip("/").split("/")]
    return all(
        part not in {".", ".."} and part.isprintable() and "/" not in part and "\ufffd" not in part
        for part in parts
    )


def parse_mirrors(text: str) -> dict[str, str]:
    """Read ``host=url,host=url``, as LINNET_REGISTRY_MIRRORS has it.

    Raises:
        ValueError: A part is not ``host=http(s)://host[:port][/path]``.
    """
    mirrors: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        host, _, url = part.partition("=")
        address = urlsplit(url)
        if (
            not _HOST.fullmatch(host)
            or address.scheme not in {"http", "https"}
            or not address.hostname
            or address.query
            or address.fragment
            or address.username
        ):
            msg = f"{part!r} is not host=http(s)://host[:port]"
            raise ValueError(msg)
        mirrors[host] = url.rstrip("/")
    return mirrors


def registry_url(reference: OciReference | HttpsReference, mirrors: Mapping[str, str]) -> str:
    """Return the address at which the reference's host is spoken to, without a path of its own."""
    return mirrors.get(reference.host, f"https://{reference.host}")
