"""Who may ask: loopback needs nothing; any other address needs a token, or client certificates.

- Tokens are lines of a file: two of them are valid while one takes over from the other. The file is
  looked at again every few seconds; where it cannot be read, nobody new gets in or out.
- Liveness and readiness need no token: they tell nothing that a refused connection would not.
"""

import hmac
import ipaddress
import logging
import ssl
from pathlib import Path
from time import monotonic
from typing import Final, NamedTuple

from linnet_server.errors import UnauthorizedError

log = logging.getLogger(__name__)

LOOK_AGAIN_S: Final = 5.0
TOKEN_LIMIT: Final = 16
TOKEN_MIN_CHARACTERS: Final = 16

_SCHEME: Final = b"bearer "


class AccessError(Exception):
    """A token or certificate file is of no use; the message says why."""


class Tokens:
    """The bearer tokens that open the server.

    Args:
        path: One token a line.

    Raises:
        AccessError: There is none in it, or it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tokens = _read_tokens(path)
        self._seen = _see(path)
        self._looked_at = monotonic()

    def check(self, authorization: bytes | None) -> None:
        """Raise an UnauthorizedError where ``authorization`` holds none of the tokens."""
        self._look_again()
        given = authorization or b""
        if given[: len(_SCHEME)].lower() == _SCHEME:
            token = given[len(_SCHEME) :].strip()
            # All are compared: how long it takes tells nothing.
            if sum(hmac.compare_digest(token, one) for one in self._tokens):
                return
        raise UnauthorizedError("this address needs a bearer token")

    def _look_again(self) -> None:
        now = monotonic()
        if now - self._looked_at < LOOK_AGAIN_S:
            return
        self._looked_at = now
        try:
            seen = _see(self._path)
            if seen != self._seen:
                self._tokens = _read_tokens(self._path)
                self._seen = seen
        except (OSError, AccessError) as exc:
            log.warning("server.tokens.unreadable", extra={"reason": str(exc)})


class TlsFiles(NamedTuple):
    """PEM files; with ``client_ca`` clients need a certificate of it."""

    certificate: Path
    key: Path
    client_ca: Path | None


class Access(NamedTuple):
    """What guards the public addresses.

    Attributes:
        tokens: What a request must show one of; None: nothing.
        tls: The files of TLS; None: plain.
        tls_context: The same for asyncio.
    """

    tokens: Tokens | None
    tls: TlsFiles | None
    tls_context: ssl.SSLContext | None


def open_access(token_file: Path | None, tls: TlsFiles | None) -> Access:
    """Return what guards the public addresses, read and checked.

    Raises:
        AccessError: A file cannot be read, or is of no use.
    """
    return Access(
        None if token_file is None else Tokens(token_file),
        tls,
        None if tls is None else _open_context(tls),
    )


def is_loopback(address: str) -> bool:
    """Tell whether ``address``, host and port, is of this machine alone."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _open_context(tls: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for path in filter(None, tls):
        _check_readable(path)
    try:
        context.load_cert_chain(tls.certificate, tls.key)
        if tls.client_ca is not None:
            context.load_verify_locations(tls.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as exc:
        raise AccessError(
            f"TLS with {', '.join(str(path) for path in tls if path)}: {exc}"
        ) from exc
    return context


def _check_readable(path: Path) -> None:
    """Raise an AccessError where ``path`` cannot be read; the TLS library does not name it."""
    try:
        path.read_bytes()
    except OSError as exc:
        raise AccessError(f"{path}: {exc.strerror}") from exc


def _see(path: Path) -> tuple[int, int, int]:
    """Return what changes when the file does."""
    facts = path.stat()
    return facts.st_ino, facts.st_mtime_ns, facts.st_size


def _read_tokens(path: Path) -> list[bytes]:
    try:
        tokens = [line.strip() for line in path.read_bytes().splitlines() if line.strip()]
    except OSError as exc:
        raise AccessError(f"{path}: {exc.strerror}") from exc
    if not 0 < len(tokens) <= TOKEN_LIMIT:
        raise AccessError(f"{path} holds {len(tokens)} tokens, one a line; 1 to {TOKEN_LIMIT}")
    if min(map(len, tokens)) < TOKEN_MIN_CHARACTERS:
        raise AccessError(f"{path}: a token has at least {TOKEN_MIN_CHARACTERS} characters")
    return tokens
