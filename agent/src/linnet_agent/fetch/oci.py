"""A registry client for nodes: manifests and bundles into memory, model files into staging.

- A manifest is asked for by digest and hashed here; a tag is resolved by hashing what it names.
- Bundles: the referrers API, and where there is none the tag ``sha256-<hex>``; at most 16, bounded
  in bytes; one that is broken is left out, so that junk beside an artifact blocks nobody.
- A layer is streamed to its file and hashed on the way; more or fewer bytes than the manifest says
  are a mismatch. What was broken off goes on with a closed range.
- 5xx, 429, resets and silence are tried again with a jittered, capped pause, counted from the last
  progress; any other 4xx is final.
- A redirect keeps its scheme, never leads to link-local addresses, and never carries credentials
  to another host.
"""

import asyncio
import contextlib
import ipaddress
import json
import logging
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote, urljoin, urlsplit

import httpx

from linnet_agent.errors import (
    DigestMismatchError,
    FetchError,
    RegistryUnavailableError,
    SourceNotFoundError,
)
from linnet_agent.fetch.credentials import Credential, parse_challenge
from linnet_agent.fetch.references import OciReference, parse_source, registry_url
from linnet_agent.fetch.sources import OnProgress
from linnet_agent.fetch.staging import PartialFile, prepare_staging, seal_staging
from linnet_agent.fetch.variants import VariantChoice
from linnet_agent.verify.artifact import MAX_BUNDLES
from linnet_agent.verify.envelope import MAX_BUNDLE_BYTES
from linnet_agent.verify.manifest import (
    BUNDLE_TYPE,
    INDEX_TYPE,
    MANIFEST_TYPE,
    MAX_MANIFEST_BYTES,
    Artifact,
    Layer,
    digest_of,
    is_digest,
    parse_manifest,
)
from linnet_agent.verify.strict_json import parse_json_object

log = logging.getLogger(__name__)

_CHUNK_BYTES: Final = 1 << 20
_MAX_TOKEN_BYTES: Final = 64 << 10
_MAX_REDIRECTS: Final = 5
_MAX_REFERRER_PAGES: Final = 8
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_AGAIN: Final = frozenset({408, 425, 429})
_LINK: Final = re.compile(r'<([^>]*)>\s*;\s*rel="?next"?')

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Retry:
    """How patient the client is; ``attempts`` counts from the last progress."""

    attempts: int = 6
    first_s: float = 0.25
    cap_s: float = 15.0
    connect_s: float = 5.0
    read_s: float = 20.0

    def pause_s(self, attempt: int, jitter: float) -> float:
        """Return the pause after the ``attempt``-th failure (from 1); ``jitter`` is 0 to 1."""
        whole = min(self.cap_s, self.first_s * 2.0 ** (attempt - 1))
        return whole * (0.5 + 0.5 * jitter)


class _TryAgainError(Exception):
    """A failure that may pass."""


class _AbsentError(Exception):
    """404, where absence is an answer."""


class OciClient:
    """Fetches artifacts; one for a process, closed at its end.

    Args:
        mirrors: Registry host to the address that stands in for it.
        credentials: Registry host to credential; others are asked anonymously.
        jitter: Returns 0 to 1; pass ``random.random`` so that nodes spread.
        retry: How patient it is.
        tls: Context for https, where the system's roots do not do.
    """

    def __init__(
        self,
        *,
        mirrors: Mapping[str, str] | None = None,
        credentials: Mapping[str, Credential] | None = None,
        jitter: Callable[[], float] = lambda: 1.0,
        retry: Retry | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._mirrors = dict(mirrors or {})
        self._credentials = dict(credentials or {})
        self._jitter = jitter
        self._retry = retry or Retry()
        self._tokens: dict[tuple[str, str], str] = {}
        self._http = httpx.AsyncClient(
            follow_redirects=False,
            trust_env=False,
            verify=tls or True,
            timeout=httpx.Timeout(self._retry.read_s, connect=self._retry.connect_s),
            headers={"User-Agent": "linnet-agent", "Accept-Encoding": "identity"},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def resolve(self, source: str) -> str:
        """Return the artifact digest that ``source`` names now.

        Raises:
            FetchError: See the classes below it.
        """
        reference = parse_source(source)
        if reference.digest is not None:
            return reference.digest
        return digest_of(await self._manifest(reference, reference.tag))

    async def fetch_artifact(
        self,
        source: str,
        digest: str,
        *,
        accepts: VariantChoice | None = None,  # noqa: ARG002 - indexes follow
    ) -> Artifact:
        """Return the manifest that has ``digest`` and the bundles beside it; no model bytes.

        Raises:
            FetchError: See the classes below it.
        """
        reference = parse_source(source)
        manifest = parse_manifest(await self._manifest(reference, digest), digest=digest)
        bundles: list[bytes] = []
        for descriptor in (await self._referrers(reference, digest))[:MAX_BUNDLES]:
            bundle = await self._bundle(reference, descriptor, subject=digest)
            if bundle is not None:
                bundles.append(bundle)
        return Artifact(source=source, manifest=manifest, bundles=tuple(bundles))

    async def fetch_layers(
        self, artifact: Artifact, *, into: Path, on_progress: OnProgress | None = None
    ) -> None:
        """Make ``into`` exactly the artifact's files: verified, 0444, durable.

        It may be cancelled or killed at any time, and goes on where it was when called again.

        Raises:
            FetchError: See the classes below it.
            OSError: The directory cannot be written.
        """
        reference = parse_source(artifact.source)
        total = artifact.manifest.total_bytes
        await asyncio.to_thread(prepare_staging, into, artifact.layers)
        done = 0
        for layer in artifact.layers:

            def report(have: int, before: int = done) -> None:
                if on_progress is not None:
                    on_progress(before + have, total)

            await self._layer(reference, layer, into / layer.name, report)
            done += layer.size_bytes
        await asyncio.to_thread(seal_staging, into)

    # Manifests and bundles

    async def _manifest(self, reference: OciReference, version: str) -> bytes:
        try:
            return await self._get(
                reference,
                f"manifests/{version}",
                accept=f"{MANIFEST_TYPE}, {INDEX_TYPE}",
                max_bytes=MAX_MANIFEST_BYTES,
            )
        except _AbsentError:
            msg = f"{reference.host} has no {reference.repository} {version}"
            raise SourceNotFoundError(msg) from None

    async def _referrers(self, reference: OciReference, digest: str) -> list[dict[str, Any]]:
        path = f"referrers/{digest}?artifactType={quote(BUNDLE_TYPE, safe='')}"
        try:
            listed = await self._referrer_pages(reference, path)
        except (_AbsentError, SourceNotFoundError):  # no referrers API: the tag schema
            try:
                index = await self._get(
                    reference,
                    f"manifests/{digest.replace(':', '-')}",
                    accept=INDEX_TYPE,
                    max_bytes=MAX_MANIFEST_BYTES,
                )
            except _AbsentError:
                return []
            listed = _manifests_of(index)
        return [one for one in listed if one.get("artifactType") == BUNDLE_TYPE]

    async def _referrer_pages(self, reference: OciReference, path: str) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = []
        for _ in range(_MAX_REFERRER_PAGES):
            page, link = await self._page(reference, path)
            listed.extend(_manifests_of(page))
            follow = _LINK.search(link)
            if follow is None or len(listed) >= 10 * MAX_BUNDLES:
                break
            _, _, tail = follow.group(1).partition(f"/v2/{reference.repository}/")
            if not tail.startswith("referrers/"):
                break
            path = tail
        return listed

    async def _bundle(
        self, reference: OciReference, descriptor: Mapping[str, Any], *, subject: str
    ) -> bytes | None:
        """Return the bundle of one referrer, or None where it is not what it should be."""
        try:
            raw = await self._by_digest(
                reference, "manifests", descriptor.get("digest"), max_bytes=MAX_MANIFEST_BYTES
            )
            blob = _bundle_blob(raw, subject=subject)
            return await self._by_digest(reference, "blobs", blob, max_bytes=MAX_BUNDLE_BYTES)
        except (
            _AbsentError,
            DigestMismatchError,
            SourceNotFoundError,
            KeyError,
            TypeError,
            ValueError,
        ) as error:
            log.warning(
                "fetch.bundle.skipped", extra={"digest": subject, "error": str(error)[:200]}
            )
            return None

    async def _by_digest(
        self, reference: OciReference, kind: str, digest: object, *, max_bytes: int
    ) -> bytes:
        if not is_digest(digest):
            msg = "it has no sha256 digest"
            raise ValueError(msg)
        content = await self._get(
            reference, f"{kind}/{digest}", accept=f"{MANIFEST_TYPE}, */*", max_bytes=max_bytes
        )
        if digest_of(content) != digest:
            msg = f"{digest} is in truth {digest_of(content)}"
            raise DigestMismatchError(msg)
        return content

    # Layers

    async def _layer(
        self, reference: OciReference, layer: Layer, path: Path, report: Callable[[int], None]
    ) -> None:
        file = PartialFile(path, size_bytes=layer.size_bytes)
        try:
            resumed = await asyncio.to_thread(file.resume) > 0
            report(file.have_bytes)
            await self._stream(reference, layer, file, report)
            if file.digest() != layer.digest and resumed:
                # What was there before may be torn by a power cut: once more from the start.
                await asyncio.to_thread(file.restart)
                await self._stream(reference, layer, file, report)
            if (found := file.digest()) != layer.digest:
                await asyncio.to_thread(file.restart)
                msg = f"{layer.name} that was to be {layer.digest} is {found}"
                raise DigestMismatchError(msg)
            await asyncio.to_thread(file.seal)
        finally:
            file.close()

    async def _stream(
        self,
        reference: OciReference,
        layer: Layer,
        file: PartialFile,
        report: Callable[[int], None],
    ) -> None:
        failures = 0
        while file.have_bytes < layer.size_bytes:
            before = file.have_bytes
            try:
                await self._stream_once(reference, layer, file, report)
            except (_TryAgainError, httpx.TransportError) as error:
                failures = 1 if file.have_bytes > before else failures + 1
                await self._pause(failures, error, what=f"{layer.name} of {reference.repository}")
            except _AbsentError:
                msg = f"{reference.host} has no blob {layer.digest} ({layer.name})"
                raise SourceNotFoundError(msg) from None

    async def _stream_once(
        self,
        reference: OciReference,
        layer: Layer,
        file: PartialFile,
        report: Callable[[int], None],
    ) -> None:
        start, last = file.have_bytes, layer.size_bytes - 1
        headers = {"Range": f"bytes={start}-{last}"} if start else {}
        async with self._open(reference, f"blobs/{layer.digest}", headers=headers) as response:
            if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
                await asyncio.to_thread(file.restart)
                msg = "the registry refuses the range"
                raise _TryAgainError(msg)
            _require_success(response)
            if response.status_code != HTTPStatus.PARTIAL_CONTENT and start:
                await asyncio.to_thread(file.restart)  # the registry gave it all again
            _require_length(response, layer, start=file.have_bytes)
            buffer = bytearray()
            try:
                async for chunk in response.aiter_raw():
                    buffer += chunk
                    if file.have_bytes + len(buffer) > layer.size_bytes:
                        msg = (
                            f"{layer.name} is longer than the {layer.size_bytes} bytes it was to be"
                        )
                        raise DigestMismatchError(msg)
                    if len(buffer) >= _CHUNK_BYTES:
                        full, buffer = buffer, bytearray()
                        await asyncio.to_thread(file.append, full)
                        report(file.have_bytes)
            finally:
                # Also after a reset, so that every attempt gets further than the one before it.
                await asyncio.to_thread(file.append, buffer)
                report(file.have_bytes)
        if file.have_bytes < layer.size_bytes:
            msg = f"{layer.name} ended after {file.have_bytes} of {layer.size_bytes} bytes"
            raise _TryAgainError(msg)

    # Requests

    async def _get(
        self, reference: OciReference, path: str, *, accept: str, max_bytes: int
    ) -> bytes:
        async def once() -> bytes:
            async with self._open(reference, path, headers={"Accept": accept}) as response:
                _require_success(response)
                return await _read_bounded(response, max_bytes=max_bytes)

        return await self._patiently(once, what=f"{reference.repository} {path}")

    async def _page(self, reference: OciReference, path: str) -> tuple[bytes, str]:
        async def once() -> tuple[bytes, str]:
            async with self._open(reference, path, headers={"Accept": INDEX_TYPE}) as response:
                _require_success(response)
                body = await _read_bounded(response, max_bytes=MAX_MANIFEST_BYTES)
                return body, response.headers.get("link", "")

        return await self._patiently(once, what=f"{reference.repository} {path}")

    async def _patiently(self, once: Callable[[], Awaitable[_Result]], *, what: str) -> _Result:
        failures = 0
        while True:
            try:
                return await once()
            except (_TryAgainError, httpx.TransportError) as error:
                failures += 1
                await self._pause(failures, error, what=what)

    async def _pause(self, failures: int, error: Exception, *, what: str) -> None:
        fact = str(error) or type(error).__name__
        if failures >= self._retry.attempts:
            msg = f"{what}: {fact} ({failures} attempts)"
            raise RegistryUnavailableError(msg) from error
        log.info("fetch.retry", extra={"what": what, "failures": failures, "error": fact[:200]})
        await asyncio.sleep(self._retry.pause_s(failures, self._jitter()))

    @contextlib.asynccontextmanager
    async def _open(
        self, reference: OciReference, path: str, *, headers: Mapping[str, str]
    ) -> AsyncIterator[httpx.Response]:
        """Send one GET, through challenges and redirects; the body is not read yet."""
        base = registry_url(reference, self._mirrors)
        url = f"{base}/v2/{reference.repository}/{path}"
        if reference.host not in self._mirrors:
            await _require_reachable(url, origin=url)
        authorized = False
        for _ in range(_MAX_REDIRECTS + 2):
            sent = dict(headers)
            at_home = _origin(url) == _origin(base)
            if at_home:
                sent |= self._authorization(reference)
            request = self._http.build_request("GET", url, headers=sent)
            response = await self._http.send(request, stream=True)
            try:
                wants_token = response.status_code == HTTPStatus.UNAUTHORIZED and at_home
                if wants_token and not authorized:  # a stranger's challenge is not answered
                    authorized = True
                    await self._authorize(reference, base, response.headers)
                elif response.status_code in _REDIRECTS:
                    target = urljoin(url, response.headers.get("location", ""))
                    await _require_reachable(target, origin=url)
                    url = target
                else:
                    yield response
                    return
            finally:
                await response.aclose()
        msg = f"{reference.host} redirects without end for {path}"
        raise SourceNotFoundError(msg)

    def _authorization(self, reference: OciReference) -> dict[str, str]:
        token = self._tokens.get((reference.host, reference.repository))
        return {} if token is None else {"Authorization": token}

    async def _authorize(self, reference: OciReference, base: str, headers: httpx.Headers) -> None:
        scheme, parameters = parse_challenge(headers.get("www-authenticate", ""))
        credential = self._credentials.get(reference.host)
        where = (reference.host, reference.repository)
        if scheme == "basic" and credential is not None:
            self._tokens[where] = credential.header
        elif scheme == "bearer" and parameters.get("realm"):
            realm = parameters["realm"]
            if urlsplit(realm).scheme != "https":
                await _require_reachable(realm, origin=base)
            query = {
                "service": parameters.get("service", ""),
                "scope": parameters.get("scope", f"repository:{reference.repository}:pull"),
            }
            sent = {} if credential is None else {"Authorization": credential.header}
            response = await self._http.get(realm, params=query, headers=sent)
            _require_success(response)
            if len(response.content) <= _MAX_TOKEN_BYTES:
                self._tokens[where] = "Bearer " + _token_of(response.content, reference)
        else:
            msg = f"{reference.host} refuses access to {reference.repository} (401)"
            raise SourceNotFoundError(msg)


def _require_success(response: httpx.Response) -> None:
    status = response.status_code
    if status in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
        return
    if status == HTTPStatus.NOT_FOUND:
        raise _AbsentError
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _AGAIN:
        msg = f"the registry answers {status}"
        raise _TryAgainError(msg)
    msg = f"the registry answers {status} for {response.url.path}"
    raise SourceNotFoundError(msg)


def _require_length(response: httpx.Response, layer: Layer, *, start: int) -> None:
    expected = layer.size_bytes - start
    length = response.headers.get("content-length", "")
    if length.isdecimal() and int(length) != expected:
        msg = f"{layer.name} comes with {length} bytes and was to have {expected}"
        raise DigestMismatchError(msg)
    if response.status_code == HTTPStatus.PARTIAL_CONTENT:
        wanted = f"bytes {start}-{layer.size_bytes - 1}/"
        if not response.headers.get("content-range", "").startswith(wanted):
            msg = f"the registry sends another range of {layer.name} than was asked for"
            raise DigestMismatchError(msg)


async def _read_bounded(response: httpx.Response, *, max_bytes: int) -> bytes:
    content = bytearray()
    async for chunk in response.aiter_raw():
        content += chunk
        if len(content) > max_bytes:
            msg = f"{response.url.path} is larger than {max_bytes} bytes"
            raise SourceNotFoundError(msg)
    return bytes(content)


def _bundle_blob(raw: bytes, *, subject: str) -> object:
    document = parse_json_object(raw, max_bytes=MAX_MANIFEST_BYTES)
    (layer,) = document["layers"]
    if document["subject"]["digest"] != subject or layer["mediaType"] != BUNDLE_TYPE:
        msg = "it speaks of something else"
        raise ValueError(msg)
    return layer["digest"]


def _manifests_of(index: bytes) -> list[dict[str, Any]]:
    try:
        listed = parse_json_object(index, max_bytes=MAX_MANIFEST_BYTES).get("manifests")
    except ValueError:
        return []
    return (
        [one for one in listed or [] if isinstance(one, dict)] if isinstance(listed, list) else []
    )


def _token_of(content: bytes, reference: OciReference) -> str:
    try:
        document = json.loads(content)
        token = document.get("token") or document.get("access_token")
    except (ValueError, AttributeError):
        token = None
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        msg = f"the token server of {reference.host} gave no token"
        raise SourceNotFoundError(msg)
    return token


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


async def _require_reachable(url: str, *, origin: str) -> None:
    """Refuse another scheme, and addresses at which no registry is but a cloud's metadata."""
    target, source = urlsplit(url), urlsplit(origin)
    if target.scheme != source.scheme or not target.hostname:
        msg = f"{source.hostname} leads to {target.scheme}://{target.netloc}: refused"
        raise SourceNotFoundError(msg)
    port = target.port or (443 if target.scheme == "https" else 80)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(target.hostname, port)
    except OSError as error:
        msg = f"{target.hostname} cannot be resolved: {error}"
        raise _TryAgainError(msg) from error
    for *_, address in found:
        if _is_forbidden(str(address[0])):
            msg = f"{target.hostname} is {address[0]}, where no registry may be: refused"
            raise SourceNotFoundError(msg)


def _is_forbidden(text: str) -> bool:
    address: Any = ipaddress.ip_address(text.partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    return bool(address.is_link_local or address.is_multicast or address.is_unspecified)


__all__ = ["FetchError", "OciClient", "OnProgress", "Retry"]
