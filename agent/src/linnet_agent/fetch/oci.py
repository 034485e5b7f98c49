"""A registry client for nodes: manifests and bundles into memory, model files into staging.

- A manifest is asked for by digest and hashed here; a tag is resolved by hashing what it names.
- Bundles: the referrers API, and where that lists none the tag ``sha256-<hex>``. One that is
  broken, large, or of something else is left out, and small ones are read before large ones, so
  that junk beside an artifact blocks nobody; a thousand are looked at, and so many bytes.
- Files are fetched side by side, and are the artifact's or are refused.
"""

import itertools
import logging
import re
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from linnet_agent.errors import (
    DigestMismatchError,
    FetchError,
    SourceNotFoundError,
)
from linnet_agent.fetch.auth import Credentials, Gatekeeper
from linnet_agent.fetch.credentials import Credential, KnownCredentials
from linnet_agent.fetch.download import download_all
from linnet_agent.fetch.patience import Retry
from linnet_agent.fetch.references import OciReference, parse_source, registry_url
from linnet_agent.fetch.sources import OnProgress
from linnet_agent.fetch.throttle import Throttle
from linnet_agent.fetch.transport import Limits, Transport
from linnet_agent.fetch.variants import VariantChoice, choose_variant, require_variant
from linnet_agent.fetch.web import AbsentError, Place, Web, same_origin, side_by_side
from linnet_agent.verify.envelope import MAX_BUNDLE_BYTES
from linnet_agent.verify.manifest import (
    BUNDLE_TYPE,
    INDEX_TYPE,
    MANIFEST_TYPE,
    MAX_MANIFEST_BYTES,
    Artifact,
    Index,
    Layer,
    digest_of,
    is_digest,
    parse_index,
    parse_manifest,
)
from linnet_agent.verify.strict_json import parse_json_object

log = logging.getLogger(__name__)

_MAX_CANDIDATES: Final = 1024
_MAX_REFERRER_PAGES: Final = 32
_MAX_REFERRER_BYTES: Final = 64 << 10
_MAX_BUNDLES_BYTES: Final = 16 << 20
"""While they are judged and written down they take a few times as much memory."""
_AT_A_TIME: Final = 8
_NOT_A_BUNDLE: Final = (DigestMismatchError, SourceNotFoundError, ValueError)
_Item = TypeVar("_Item")
_LINK: Final = re.compile(r'<([^>]*)>\s*;[^,]*\brel="?next"?')


class OciClient:
    """Fetches artifacts; one for a process, closed at its end.

    Args:
        mirrors: Registry host to the address that stands in for it.
        credentials: Who the node is; a mapping is of hosts (or paths) to credentials.
        jitter: Returns 0 to 1; pass ``random.random`` so that nodes spread.
        retry: How patient it is.
        tls: Context for https, where the system's roots do not do.
        throttle: The byte rate that all fetches share; none where not given.
        transport: What sends; made of the others where not given.
    """

    def __init__(
        self,
        *,
        mirrors: Mapping[str, str] | None = None,
        credentials: Credentials | Mapping[str, Credential] | None = None,
        jitter: Callable[[], float] = lambda: 1.0,
        retry: Retry | None = None,
        tls: ssl.SSLContext | None = None,
        throttle: Throttle | None = None,
        transport: Transport | None = None,
    ) -> None:
        retry = retry or Retry()
        self._mirrors = dict(mirrors or {})
        self._transport = transport or Transport(
            limits=Limits(connect_s=retry.connect_s, silence_s=retry.read_s),
            throttle=throttle,
            tls=tls,
        )
        self._web = Web(self._transport, retry=retry, jitter=jitter)
        if credentials is None or isinstance(credentials, Mapping):
            credentials = KnownCredentials(dict(credentials or {}))
        self._keeper = Gatekeeper(self._transport, credentials)

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
        await self._transport.aclose()

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
        self, source: str, digest: str, *, accepts: VariantChoice | None = None
    ) -> Artifact:
        """Return the manifest that has ``digest`` and the bundles beside it; no model bytes.

        Args:
            source: Where it lies.
            digest: Artifact digest: that of a manifest, or of an index of variants.
            accepts: Which variant to take; None takes no index.

        Raises:
            FetchError: See the classes below it.
        """
        reference = parse_source(source)
        raw = await self._manifest(reference, digest)
        index: Index | None = None
        if accepts is not None and (index := parse_index(raw, digest=digest)) is not None:
            chosen = choose_variant(index, accepts=accepts).digest
            manifest = parse_manifest(await self._manifest(reference, chosen), digest=chosen)
        else:
            manifest = parse_manifest(raw, digest=digest)
        artifact = Artifact(source=source, manifest=manifest, bundles=(), index=index)
        if accepts is not None and index is None:
            require_variant(artifact, accepts=accepts)
        bundles = await self._bundles(reference, artifact.digests)
        return replace(artifact, bundles=bundles)

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

        def place_of(layer: Layer) -> Place:
            what = f"{layer.name} of {reference.repository}"
            return self._place(reference, f"blobs/{layer.digest}", what=what)

        await download_all(
            self._web, artifact.layers, place_of=place_of, into=into, on_progress=on_progress
        )

    # Manifests and bundles

    def _place(self, reference: OciReference, path: str, *, what: str) -> Place:
        return Place(
            url=f"{registry_url(reference, self._mirrors)}/v2/{reference.repository}/{path}",
            what=what,
            guard=self._keeper.guard(reference),
            anywhere=reference.host in self._mirrors,
        )

    async def _manifest(self, reference: OciReference, version: str) -> bytes:
        place = self._place(
            reference, f"manifests/{version}", what=f"{reference.repository} {version}"
        )
        accept = f"{MANIFEST_TYPE}, {INDEX_TYPE}"
        try:
            found = await self._web.read(place, accept=accept, max_bytes=MAX_MANIFEST_BYTES)
        except AbsentError:
            msg = f"{reference.host} has no {reference.repository} {version}"
            raise SourceNotFoundError(msg) from None
        return found.content

    async def _bundles(self, reference: OciReference, subjects: Sequence[str]) -> tuple[bytes, ...]:
        """Return the bundles beside an artifact, the smallest first, each once.

        Anyone who may push can add referrers: large ones must not use up what may be read before a
        small one's turn, and only a thousand small ones can hide another.
        """
        leads: list[_Lead | None] = []
        for subject in subjects:
            for some in _in_groups(await self._candidates(reference, subject)):
                asked = (self._lead(reference, digest, subject=subject) for digest in some)
                leads += await side_by_side(asked)
        ordered = sorted({lead for lead in leads if lead is not None})
        sizes = itertools.accumulate(lead.size_bytes for lead in ordered)
        fitting = sum(1 for size in sizes if size <= _MAX_BUNDLES_BYTES)
        bundles: list[bytes | None] = []
        for group in _in_groups(ordered[:fitting]):
            bundles += await side_by_side(self._bundle(reference, lead) for lead in group)
        skipped = leads.count(None) + len(ordered) - fitting + bundles.count(None)
        if skipped:
            log.warning("fetch.bundle.skipped", extra={"digest": subjects[0], "count": skipped})
        return tuple(bundle for bundle in bundles if bundle is not None)

    async def _candidates(self, reference: OciReference, subject: str) -> list[str]:
        """Return digests of what may be a bundle's manifest, in the registry's order."""
        listed = list(_candidates_in(await self._referrer_pages(reference, subject)))
        if not listed:  # no referrers API, or one that did not see the push
            tag = subject.replace(":", "-")
            place = self._place(reference, f"manifests/{tag}", what=f"signatures of {subject}")
            try:
                index = await self._web.read(place, accept=INDEX_TYPE, max_bytes=MAX_MANIFEST_BYTES)
            except AbsentError:
                return []
            listed = list(_candidates_in(_manifests_of(index.content)))
        return list(dict.fromkeys(listed))[:_MAX_CANDIDATES]

    async def _referrer_pages(self, reference: OciReference, subject: str) -> list[dict[str, Any]]:
        query = f"artifactType={quote(BUNDLE_TYPE, safe='')}"
        place = self._place(
            reference, f"referrers/{subject}?{query}", what=f"signatures of {subject}"
        )
        listed: list[dict[str, Any]] = []
        seen: set[str] = set()
        while place.url not in seen and len(seen) < _MAX_REFERRER_PAGES:
            seen.add(place.url)
            try:
                page = await self._web.read(place, accept=INDEX_TYPE, max_bytes=MAX_MANIFEST_BYTES)
            except (SourceNotFoundError, DigestMismatchError):
                break  # no such API, or nothing that can be read
            listed.extend(_manifests_of(page.content))
            following = _next_page(place.url, page.headers.get("Link", ""))
            if following is None or len(listed) >= 4 * _MAX_CANDIDATES:
                break
            place = replace(place, url=following)
        return listed

    async def _lead(self, reference: OciReference, digest: str, *, subject: str) -> "_Lead | None":
        """Return where the bundle of one referrer is, or None where it leads nowhere."""
        try:
            raw = await self._by_digest(
                reference, "manifests", digest, max_bytes=_MAX_REFERRER_BYTES
            )
            return _read_lead(raw, subject=subject)
        except (*_NOT_A_BUNDLE, KeyError, TypeError) as error:
            _log_skipped(digest, error)
            return None

    async def _bundle(self, reference: OciReference, lead: "_Lead") -> bytes | None:
        """Return a bundle, or None where it is not what it should be."""
        try:
            bundle = await self._by_digest(
                reference, "blobs", lead.digest, max_bytes=lead.size_bytes
            )
            parse_json_object(bundle, max_bytes=MAX_BUNDLE_BYTES)
        except _NOT_A_BUNDLE as error:
            _log_skipped(lead.digest, error)
            return None
        return bundle

    async def _by_digest(
        self, reference: OciReference, kind: str, digest: str, *, max_bytes: int
    ) -> bytes:
        place = self._place(reference, f"{kind}/{digest}", what=f"{reference.repository} {digest}")
        found = await self._web.read(place, accept=f"{MANIFEST_TYPE}, */*", max_bytes=max_bytes)
        if digest_of(found.content) != digest:
            msg = f"{digest} is in truth {digest_of(found.content)}"
            raise DigestMismatchError(msg)
        return found.content


@dataclass(frozen=True, slots=True, order=True)
class _Lead:
    """Where a bundle is, by what its referrer says; the smallest comes first."""

    size_bytes: int
    digest: str


def _read_lead(raw: bytes, *, subject: str) -> _Lead:
    document = parse_json_object(raw, max_bytes=_MAX_REFERRER_BYTES)
    (layer,) = document["layers"]
    if document["subject"]["digest"] != subject or layer["mediaType"] != BUNDLE_TYPE:
        msg = "it speaks of something else"
        raise ValueError(msg)
    size, digest = layer["size"], layer["digest"]
    if type(size) is not int or not 0 < size <= MAX_BUNDLE_BYTES or not is_digest(digest):
        msg = "its bundle has no sha256 digest, or no size that a bundle can have"
        raise ValueError(msg)
    return _Lead(size, digest)


def _log_skipped(digest: str, error: Exception) -> None:
    log.debug("fetch.bundle.skipped", extra={"digest": digest, "error": str(error)[:200]})


def _in_groups(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    return (items[start : start + _AT_A_TIME] for start in range(0, len(items), _AT_A_TIME))


def _next_page(url: str, link: str) -> str | None:
    """Return where the list goes on, if that is the same list."""
    follow = _LINK.search(link)
    if follow is None:
        return None
    try:
        following = urljoin(url, follow.group(1))
        same = same_origin(following, url) and urlsplit(following).path == urlsplit(url).path
    except (ValueError, SourceNotFoundError):
        return None
    return following if same else None


def _candidates_in(listed: list[dict[str, Any]]) -> Iterator[str]:
    """Choose by what the list says; some registries leave the type out."""
    for one in listed:
        digest, kind, size = one.get("digest"), one.get("artifactType"), one.get("size")
        small = not isinstance(size, int) or size <= _MAX_REFERRER_BYTES
        if (
            isinstance(digest, str)
            and is_digest(digest)
            and kind in {None, "", BUNDLE_TYPE}
            and small
        ):
            yield digest


def _manifests_of(index: bytes) -> list[dict[str, Any]]:
    try:
        listed = parse_json_object(index, max_bytes=MAX_MANIFEST_BYTES).get("manifests")
    except ValueError:
        return []
    return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []


__all__ = ["FetchError", "OciClient", "OnProgress", "Retry"]
