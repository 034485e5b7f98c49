"""From a source to the digest of its artifact, over the OCI distribution API.

Rules:
- A tag is asked for once: whoever calls records the answer.
- The digest is computed over the manifest's bytes; a registry's header is not believed.
- Plain http only through a mirror that says http.
- An error says host, status and what to do.

Source: OCI distribution specification 1.1, "Pulling manifests"; anonymous bearer tokens as in the
distribution project's token authentication.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Final

import aiohttp

from linnet_operator.errors import SourceNotFoundError, SourceUnavailableError
from linnet_operator.sources import OciSource

_TIMEOUT: Final = aiohttp.ClientTimeout(total=20, connect=5)
_LARGEST_MANIFEST: Final = 4 * 1024 * 1024
_ACCEPT: Final = (
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json"
)
_CHALLENGE: Final = re.compile(r'(\w+)="([^"]*)"')


class Resolver:
    """Asks registries for the digest behind a tag."""

    def __init__(self, session: aiohttp.ClientSession, *, mirrors: Mapping[str, str]) -> None:
        self._session = session
        self._mirrors = {host: url.rstrip("/") for host, url in mirrors.items()}

    async def resolve(self, source: str) -> str:
        """Return the digest of the manifest that ``source`` names now.

        Raises:
            SourceMalformedError: The text is no source.
            SourceNotFoundError: The registry says that it is not there, or not ours to read.
            SourceUnavailableError: The registry does not answer, or not as it should.
        """
        parsed = OciSource.parse(source)
        base = self._mirrors.get(parsed.host, f"https://{parsed.host}")
        url = f"{base}/v2/{parsed.name}/manifests/{parsed.reference}"
        via = f"{parsed.host} (through {base})" if parsed.host in self._mirrors else parsed.host
        try:
            status, challenge, raw = await self._get(url, token=None)
            if status == 401 and challenge:
                token = await self._token(challenge)
                status, _, raw = await self._get(url, token=token)
        except TimeoutError as error:
            raise SourceUnavailableError(
                f"{via} did not answer within {_TIMEOUT.total:.0f} s"
            ) from error
        except (aiohttp.ClientError, OSError, ValueError, RecursionError) as error:
            # The last two: a token service that answers anything at all.
            raise SourceUnavailableError(f"{via} cannot be reached: {error}") from error
        if status == 404:
            raise SourceNotFoundError(f"{via} has no {parsed.name}:{parsed.reference} (404)")
        if status in {401, 403}:
            raise SourceNotFoundError(
                f"{via} does not let the operator read {parsed.name} ({status})"
            )
        if status != 200:
            raise SourceUnavailableError(
                f"{via} answered {status} for {parsed.name}:{parsed.reference}"
            )
        _require_manifest(raw, via=via)
        digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
        if parsed.digest is not None and parsed.digest != digest:
            raise SourceUnavailableError(f"{via} answered {digest} for {parsed.digest}")
        return digest

    async def _get(self, url: str, *, token: str | None) -> tuple[int, str, bytes]:
        headers = {"Accept": _ACCEPT} | ({"Authorization": f"Bearer {token}"} if token else {})
        async with self._session.get(
            url, headers=headers, timeout=_TIMEOUT, allow_redirects=False
        ) as answer:
            raw = await answer.content.read(_LARGEST_MANIFEST + 1)
            # read() returns what has arrived; the rest of a short body comes in further pieces.
            while len(raw) <= _LARGEST_MANIFEST and (more := await answer.content.readany()):
                raw += more
            return answer.status, answer.headers.get("WWW-Authenticate", ""), raw

    async def _token(self, challenge: str) -> str | None:
        """Return an anonymous token for a Bearer challenge, or None where there is none to have."""
        words = dict(_CHALLENGE.findall(challenge))
        realm = words.get("realm", "")
        if not challenge.startswith("Bearer ") or not realm.startswith("https://"):
            return None
        query = {key: words[key] for key in ("service", "scope") if key in words}
        async with self._session.get(
            realm, params=query, timeout=_TIMEOUT, allow_redirects=False
        ) as answer:
            if answer.status != 200:
                return None
            said = await answer.json(content_type=None)
        token = said.get("token") or said.get("access_token") if isinstance(said, dict) else None
        return token if isinstance(token, str) else None


def _require_manifest(raw: bytes, *, via: str) -> None:
    if len(raw) > _LARGEST_MANIFEST:
        raise SourceUnavailableError(
            f"{via} answered more than {_LARGEST_MANIFEST} bytes for a manifest"
        )
    try:
        parsed = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise SourceUnavailableError(f"{via} answered something that is no manifest") from error
    if not isinstance(parsed, dict) or not ("layers" in parsed or "manifests" in parsed):
        raise SourceUnavailableError(f"{via} answered JSON that is no manifest")
