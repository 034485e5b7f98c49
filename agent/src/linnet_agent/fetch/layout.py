"""How an artifact lies in a directory, on a stick or on a web server.

- ``manifest.json``, the model's files beside it at their paths, and the bundles ``model.sig``,
  ``model.2.sig`` and so on, without a gap.
- Where ``manifest.json`` is an index of variants, each lies in a directory of its own,
  ``sha256-<hex of its manifest>/``; bundles may lie there or above.
- Where no ``manifest.json`` has the artifact's digest, a bundle's signed statement stands in for
  it: that is what `model_signing` leaves beside a model. The artifact digest is then that of the
  statement.
- A bundle that cannot be read is left out, so that junk beside an artifact blocks nobody.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from linnet_agent.errors import DigestMismatchError, MalformedBundleError, SourceNotFoundError
from linnet_agent.fetch.variants import VariantChoice, choose_variant, require_variant
from linnet_agent.verify.envelope import MAX_BUNDLE_BYTES, parse_bundle
from linnet_agent.verify.evidence import join_artifact
from linnet_agent.verify.manifest import (
    MAX_MANIFEST_BYTES,
    Artifact,
    Index,
    digest_of,
    parse_index,
)

log = logging.getLogger(__name__)

MANIFEST_NAME: Final = "manifest.json"
MAX_BUNDLES: Final = 16

Read = Callable[[str, int], Awaitable[bytes | None]]
"""Reads a small file of the directory, by name and at most so many bytes; None: there is none.

Raises:
    FetchError: It is larger, or cannot be read.
"""


def bundle_name(position: int) -> str:
    """Return the name of the ``position``-th bundle, from 1."""
    return "model.sig" if position == 1 else f"model.{position}.sig"


def files_prefix(artifact: Artifact) -> str:
    """Return what comes before the names of an artifact's files, below its directory."""
    return "" if artifact.index is None else _place(artifact.manifest.digest)


async def resolve_directory(read: Read) -> str:
    """Return the digest of the artifact that lies there now.

    Raises:
        FetchError: There is none, or it cannot be read.
    """
    manifest = await read(MANIFEST_NAME, MAX_MANIFEST_BYTES)
    if manifest is not None:
        return digest_of(manifest)
    for bundle in await _read_bundles(read, ""):
        if (payload := _payload(bundle)) is not None:
            return digest_of(payload)
    msg = f"there is neither a {MANIFEST_NAME} nor a {bundle_name(1)}"
    raise SourceNotFoundError(msg)


async def read_artifact(
    read: Read, *, source: str, digest: str, accepts: VariantChoice | None
) -> Artifact:
    """Return the artifact of ``digest`` that lies there; no model bytes.

    Raises:
        FetchError: It does not lie there, or cannot be used.
    """
    manifest = await read(MANIFEST_NAME, MAX_MANIFEST_BYTES)
    above = await _read_bundles(read, "")
    if manifest is None or digest_of(manifest) != digest:
        manifest = _statement_of(digest, bundles=above, found=manifest)
        index = None
    else:
        index = parse_index(manifest, digest=digest)
    if index is not None:
        return await _read_variant(
            read, index, source=source, above=above, accepts=_required(accepts, digest)
        )
    artifact = join_artifact(source, digest=digest, manifest=manifest, bundles=above)
    if accepts is not None:
        require_variant(artifact, accepts=accepts)
    return artifact


async def _read_variant(
    read: Read, index: Index, *, source: str, above: tuple[bytes, ...], accepts: VariantChoice
) -> Artifact:
    chosen = choose_variant(index, accepts=accepts)
    place = _place(chosen.digest)
    manifest = await read(place + MANIFEST_NAME, MAX_MANIFEST_BYTES)
    if manifest is None:
        msg = f"there is no {place}{MANIFEST_NAME}, the variant {chosen.name}"
        raise SourceNotFoundError(msg)
    beside = await _read_bundles(read, place)
    return join_artifact(
        source,
        digest=index.digest,
        manifest=manifest,
        bundles=(beside + above)[:MAX_BUNDLES],
        index=index.raw,
    )


async def _read_bundles(read: Read, place: str) -> tuple[bytes, ...]:
    found: list[bytes] = []
    for position in range(1, MAX_BUNDLES + 1):
        try:
            bundle = await read(place + bundle_name(position), MAX_BUNDLE_BYTES)
        except SourceNotFoundError as error:
            log.warning("fetch.bundle.skipped", extra={"error": str(error)[:200]})
            continue
        if bundle is None:
            break
        found.append(bundle)
    return tuple(found)


def _required(accepts: VariantChoice | None, digest: str) -> VariantChoice:
    if accepts is None:
        msg = f"{digest} is an index of variants: name the one that is meant"
        raise SourceNotFoundError(msg)
    return accepts


def _statement_of(digest: str, *, bundles: tuple[bytes, ...], found: bytes | None) -> bytes:
    """Return the signed statement that has ``digest``."""
    there = [] if found is None else [f"{MANIFEST_NAME} {digest_of(found)}"]
    for bundle in bundles:
        payload = _payload(bundle)
        if payload is not None and digest_of(payload) == digest:
            return payload
        if payload is not None:
            there.append(f"a signed statement {digest_of(payload)}")
    if there:
        msg = f"there is {', '.join(there)}; asked for is {digest}"
        raise DigestMismatchError(msg)
    msg = f"there is neither a {MANIFEST_NAME} nor a {bundle_name(1)}"
    raise SourceNotFoundError(msg)


def _payload(bundle: bytes) -> bytes | None:
    try:
        return parse_bundle(bundle).payload
    except MalformedBundleError:
        return None


def _place(digest: str) -> str:
    return digest.replace(":", "-") + "/"
