"""What a revision was allowed on, kept as one JSON document: index, manifest and bundles.

- It is rebuilt from bytes that are hashed again; nothing in the document is believed.
- The public keys that had signed it then are kept with it: they can only tell a signature by a key
  that is revoked now.
- The chain holds: the artifact digest names the index, the index the manifest; or it names the
  manifest; or, where a source has no manifest, the signed statement that stands in for one.
"""

import base64
import json
from dataclasses import replace
from typing import Any

from linnet_agent.errors import DigestMismatchError
from linnet_agent.verify.manifest import (
    Artifact,
    Index,
    Layer,
    Manifest,
    digest_of,
    parse_index,
    parse_manifest,
)
from linnet_agent.verify.oms import parse_statement


def encode_evidence(artifact: Artifact) -> bytes:
    """Return the document; no model bytes."""
    document: dict[str, Any] = {
        "source": artifact.source,
        "artifact": artifact.digest,
        "manifest": _encode(artifact.manifest.raw),
        "bundles": [_encode(bundle) for bundle in artifact.bundles],
        "keys": list(artifact.keys),
    }
    if artifact.index is not None:
        document["index"] = _encode(artifact.index.raw)
    return json.dumps(document).encode()


def decode_evidence(raw: bytes) -> Artifact:
    """Rebuild what was kept.

    Raises:
        ValueError: It is not such a document.
        AgentError: What it holds is not what it was.
    """
    try:
        document = json.loads(raw)
        manifest = _decode(document["manifest"])
        bundles = tuple(_decode(bundle) for bundle in document["bundles"])
        index = _decode(document["index"]) if "index" in document else None
        source, digest = str(document["source"]), str(document["artifact"])
        keys = tuple(str(pem) for pem in document.get("keys", ()))
    except (KeyError, TypeError) as error:
        msg = f"not evidence: {error!r}"
        raise ValueError(msg) from error
    kept = join_artifact(source, digest=digest, manifest=manifest, bundles=bundles, index=index)
    return replace(kept, keys=keys)


def join_artifact(
    source: str,
    *,
    digest: str,
    manifest: bytes,
    bundles: tuple[bytes, ...],
    index: bytes | None = None,
) -> Artifact:
    """Return the artifact of ``digest`` whose parts these are.

    Args:
        source: Where it lies.
        digest: Artifact digest.
        manifest: An OCI manifest, or the payload of the signed statement that stands in for one.
        bundles: What lies beside it.
        index: What the manifest was chosen from.

    Raises:
        AgentError: They are not, or cannot be read.
    """
    chosen_from: Index | None = None
    if index is not None:
        chosen_from = parse_index(index, digest=digest)
        digest = digest_of(manifest)
        if chosen_from is None or digest not in {one.digest for one in chosen_from.variants}:
            msg = f"the index does not name the manifest {digest}"
            raise DigestMismatchError(msg)
    if chosen_from is None and _is_statement(manifest):
        return Artifact(source, statement_manifest(manifest, digest=digest), bundles)
    return Artifact(source, parse_manifest(manifest, digest=digest), bundles, chosen_from)


def statement_manifest(payload: bytes, *, digest: str) -> Manifest:
    """Return the manifest that a signed statement amounts to; who signed is not looked at.

    Raises:
        DigestMismatchError: The statement has another digest.
        MalformedBundleError: It cannot be read.
    """
    if (found := digest_of(payload)) != digest:
        msg = f"the signed statement that was to be {digest} is {found}"
        raise DigestMismatchError(msg)
    files = parse_statement(payload).files
    layers = tuple(Layer(name=name, digest=files[name], size_bytes=0) for name in sorted(files))
    return Manifest(digest=digest, raw=payload, layers=layers, sized=False)


def _is_statement(raw: bytes) -> bool:
    """Tell an in-toto statement from a manifest; whoever parses it looks again."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and "_type" in document


def _encode(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
