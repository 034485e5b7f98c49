"""Who the node is at a registry: Basic, and the dance for a Bearer token.

- A token is asked for where a registry says so, over https, or over the scheme of a registry that
  itself is plain http; for reading one repository and nothing else.
- A token that is refused is thrown away and another one is asked for, once for a request: tokens
  end in the middle of long fetches.
- Other credentials mean other tokens. Neither is ever logged.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol
from urllib.parse import urlencode, urlsplit

from linnet_agent.errors import SourceNotFoundError
from linnet_agent.fetch.credentials import Credential, parse_challenge
from linnet_agent.fetch.references import OciReference
from linnet_agent.fetch.transport import Answer, Transport
from linnet_agent.fetch.web import Guard, Place, require_status
from linnet_agent.fetch.wire import split_url

_MAX_TOKEN_BYTES: Final = 64 << 10


class Credentials(Protocol):
    """Who the node is, by repository."""

    def find(self, host: str, repository: str) -> Credential | None:
        """Return who the node is there, None where it is nobody.

        Raises:
            SourceNotFoundError: What there is cannot be read.
        """


@dataclass(frozen=True, slots=True)
class _Kept:
    header: str
    credential: Credential | None


class Gatekeeper:
    """Tokens for all repositories; one for a client.

    Args:
        transport: Asks token servers.
        credentials: Who the node is.
    """

    def __init__(self, transport: Transport, credentials: Credentials) -> None:
        self._transport = transport
        self._credentials = credentials
        self._kept: dict[tuple[str, str], _Kept] = {}

    def guard(self, reference: OciReference) -> Guard:
        """Return who the node is at one repository."""
        return _Guard(self, reference)

    def header(self, reference: OciReference) -> str | None:
        """Return the Authorization header that worked last, as long as we are who we were."""
        kept = self._kept.get((reference.host, reference.repository))
        if kept is None or kept.credential != self._find(reference):
            return None
        return kept.header

    async def answer(
        self, reference: OciReference, challenge: str, place: Place, *, loopback: bool
    ) -> bool:
        """See ``Guard.answer``."""
        scheme, parameters = parse_challenge(challenge)
        credential = self._find(reference)
        where = (reference.host, reference.repository)
        if scheme == "basic" and credential is not None and credential.identity_token is None:
            header = credential.header
            again = self._kept.get(where) != _Kept(header, credential)
        elif scheme == "bearer" and parameters.get("realm"):
            header = "Bearer " + await self._token(
                reference, parameters, credential, place, loopback=loopback
            )
            again = True
        else:
            return False
        self._kept[where] = _Kept(header, credential)
        return again

    async def _token(
        self,
        reference: OciReference,
        parameters: Mapping[str, str],
        credential: Credential | None,
        place: Place,
        *,
        loopback: bool,
    ) -> str:
        realm = parameters["realm"]
        if split_url(realm)[0].scheme not in {"https", urlsplit(place.url).scheme}:
            msg = f"{reference.host} asks for our credentials at {realm[:200]!r}: refused"
            raise SourceNotFoundError(msg)
        query = {
            "service": parameters.get("service", ""),
            "scope": f"repository:{reference.repository}:pull",
        }
        what = f"a token for {reference.repository}"

        def receive(answer: Answer) -> bytes:
            if answer.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
                msg = f"the token server of {reference.host} does not know this node's credentials"
                raise SourceNotFoundError(msg)
            require_status(answer, what=what)
            return answer.read_all(max_bytes=_MAX_TOKEN_BYTES)

        if credential is not None and credential.identity_token is not None:
            form = {
                **query,
                "grant_type": "refresh_token",
                "client_id": "linnet-agent",
                "refresh_token": credential.identity_token,
            }
            content = await self._transport.send(
                realm,
                method="POST",
                headers={"Content-Type": "application/x-www-form-urlencoded"},
                body=urlencode(form).encode(),
                receive=receive,
                loopback=loopback,
            )
        else:
            separator = "&" if urlsplit(realm).query else "?"
            content = await self._transport.send(
                f"{realm}{separator}{urlencode(query)}",
                headers={} if credential is None else {"Authorization": credential.header},
                receive=receive,
                loopback=loopback,
            )
        return _read_token(content, reference)

    def _find(self, reference: OciReference) -> Credential | None:
        return self._credentials.find(reference.host, reference.repository)


@dataclass(frozen=True, slots=True)
class _Guard:
    keeper: Gatekeeper
    reference: OciReference

    def headers(self) -> Mapping[str, str]:
        header = self.keeper.header(self.reference)
        return {} if header is None else {"Authorization": header}

    async def answer(self, challenge: str, place: Place, *, loopback: bool) -> bool:
        return await self.keeper.answer(self.reference, challenge, place, loopback=loopback)


def _read_token(content: bytes, reference: OciReference) -> str:
    try:
        document = json.loads(content)
        token = document.get("token") or document.get("access_token")
    except (ValueError, AttributeError, RecursionError):
        token = None
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        msg = f"the token server of {reference.host} gave no token"
        raise SourceNotFoundError(msg)
    return token
