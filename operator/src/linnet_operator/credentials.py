"""Credentials of a metrics source, from a mounted directory.

Rules:
- The files are named as in Kubernetes Secrets: ``username`` and ``password``, or ``token``;
  ``tls.crt`` and ``tls.key``; ``ca.crt``. What is not there is not used.
- They are read again when they change: a Secret that is rotated needs no restart.
- What cannot be used is a sentence that names the file, and never what it holds.
"""

import base64
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_LARGEST_BYTES: Final = 64 * 1024


class CredentialsError(Exception):
    """A credential cannot be used; the message names the file and says what to do."""


class Credentials:
    """Whatever the directory holds."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._context: ssl.SSLContext | None = None
        self._context_of: tuple[tuple[int, int] | None, ...] = ()

    def headers(self) -> Mapping[str, str]:
        """Return what is sent with a query, as the files say now.

        Raises:
            CredentialsError: A file cannot be used.
        """
        if not self._directory.is_dir():
            raise CredentialsError(f"{self._directory} is no directory; mount the Secret there")
        token, username = self._text("token"), self._text("username")
        if token is not None and username is not None:
            raise CredentialsError(f"{self._directory} holds token and username; keep one of them")
        if token is not None:
            return {"Authorization": f"Bearer {token}"}
        password = self._text("password")
        if (username is None) != (password is None):
            raise CredentialsError(f"{self._directory}: username and password belong together")
        if username is None:
            return {}
        if ":" in username:
            raise CredentialsError(f"{self._directory}/username holds a colon, which ends a name")
        pair = base64.b64encode(f"{username}:{password}".encode()).decode("ascii")
        return {"Authorization": f"Basic {pair}"}

    def tls(self) -> ssl.SSLContext:
        """Return how the server is verified, and what is shown to it, as the files say now.

        Raises:
            CredentialsError: A file cannot be used.
        """
        files = [self._directory / name for name in ("ca.crt", "tls.crt", "tls.key")]
        stamps = tuple(_stamp(path) for path in files)
        if self._context is not None and stamps == self._context_of:
            return self._context
        authority, certificate, key = (
            path if stamp else None for path, stamp in zip(files, stamps, strict=True)
        )
        if (certificate is None) != (key is None):
            raise CredentialsError(f"{self._directory}: tls.crt and tls.key belong together")
        try:
            context = ssl.create_default_context(cafile=authority)
            if certificate is not None:
                # Never asked for at a terminal: that would stop everything.
                context.load_cert_chain(certificate, key, password="")
        except (ssl.SSLError, OSError) as error:
            raise CredentialsError(
                f"{self._directory}: ca.crt, tls.crt or tls.key cannot be used "
                f"({type(error).__name__})"
            ) from error
        self._context, self._context_of = context, stamps
        return context

    def _text(self, name: str) -> str | None:
        path = self._directory / name
        try:
            with path.open("rb") as stream:
                data = stream.read(_LARGEST_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CredentialsError(f"{path} cannot be read ({type(error).__name__})") from error
        try:
            text = data.decode().strip()
        except UnicodeDecodeError as error:
            raise CredentialsError(f"{path} is no text") from error
        if not text or not text.isprintable() or len(data) > _LARGEST_BYTES:
            raise CredentialsError(f"{path} is empty, too long, or has more than one line")
        return text


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return what changes when a file is replaced; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
