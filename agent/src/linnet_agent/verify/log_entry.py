"""Which key a transparency log has seen, for signatures by keys that somebody keeps.

- The entry must be about this very signature over these very bytes, else it says nothing.
- Rekor's kinds `hashedrekord` 0.0.1 and 0.0.2 and `dsse` 0.0.1; no other.

Whether the log itself can be believed is another matter: ``keyless_child`` asks that first.
Source: Rekor `pkg/types`, and rekor-tiles (0.0.2).
"""

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from linnet_agent.verify.envelope import signing_bytes
from linnet_agent.verify.strict_json import parse_json_object

_MAX_BODY_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class SignedThing:
    """What a bundle holds: a signature over a statement, or over a file that lies elsewhere."""

    signature: bytes
    payload: bytes | None
    artifact_sha256: bytes | None


@dataclass(frozen=True, slots=True)
class _Entry:
    """What an entry says."""

    spki: bytes
    signature: bytes
    digest: bytes


def logged_key(body: bytes, *, kind: str, version: str, thing: SignedThing) -> str:
    """Return the hex sha256 of the DER key by which the log saw ``thing`` signed.

    Args:
        body: The entry, as the log has hashed it.
        kind: What the bundle says that the entry is.
        version: Of that kind.
        thing: What the entry must be about.

    Raises:
        ValueError: It is about something else, or of a kind that is not known.
    """
    document = parse_json_object(body, max_bytes=_MAX_BODY_BYTES)
    read = _KINDS.get((kind, version))
    if read is None or (document.get("kind"), document.get("apiVersion")) != (kind, version):
        msg = f"log entries of kind {kind[:40]}/{version[:40]} are not supported"
        raise ValueError(msg)
    try:
        entry, expected = read(document["spec"], thing)
    except (KeyError, TypeError, IndexError) as error:
        msg = f"the log entry lacks {error}"
        raise ValueError(msg) from error
    if entry.signature != thing.signature or expected is None or entry.digest != expected:
        msg = "the log entry is about another signature"
        raise ValueError(msg)
    return hashlib.sha256(entry.spki).hexdigest()


def _hashedrekord_1(spec: Any, thing: SignedThing) -> tuple[_Entry, bytes | None]:  # noqa: ANN401 - JSON
    signature = spec["signature"]
    entry = _Entry(
        spki=_spki_of_pem(signature["publicKey"]["content"]),
        signature=base64.b64decode(signature["content"]),
        digest=_sha256(spec["data"]["hash"]),
    )
    return entry, None if thing.payload is not None else thing.artifact_sha256


def _hashedrekord_2(spec: Any, thing: SignedThing) -> tuple[_Entry, bytes | None]:  # noqa: ANN401 - JSON
    record = spec["hashedRekordV002"]
    signature, data = record["signature"], record["data"]
    entry = _Entry(
        spki=base64.b64decode(signature["verifier"]["publicKey"]["rawBytes"]),
        signature=base64.b64decode(signature["content"]),
        digest=base64.b64decode(data["digest"]),
    )
    hashed = _ALGORITHMS[data["algorithm"]]
    if thing.payload is not None:
        return entry, hashed(signing_bytes(thing.payload)).digest()
    return entry, thing.artifact_sha256 if hashed is hashlib.sha256 else None


def _dsse_1(spec: Any, thing: SignedThing) -> tuple[_Entry, bytes | None]:  # noqa: ANN401 - JSON
    (signature,) = spec["signatures"]
    entry = _Entry(
        spki=_spki_of_pem(signature["verifier"]),
        signature=base64.b64decode(signature["signature"]),
        digest=_sha256(spec["payloadHash"]),
    )
    return entry, None if thing.payload is None else hashlib.sha256(thing.payload).digest()


_KINDS: Final[
    Mapping[tuple[str, str], Callable[[Any, SignedThing], tuple[_Entry, bytes | None]]]
] = {
    ("hashedrekord", "0.0.1"): _hashedrekord_1,
    ("hashedrekord", "0.0.2"): _hashedrekord_2,
    ("dsse", "0.0.1"): _dsse_1,
}
_ALGORITHMS: Final[Mapping[str, Callable[[bytes], Any]]] = {
    "SHA2_256": hashlib.sha256,
    "SHA2_384": hashlib.sha384,
    "SHA2_512": hashlib.sha512,
}


def _sha256(value: Mapping[str, str]) -> bytes:
    if value["algorithm"] != "sha256":
        msg = f"the log entry has a {value['algorithm'][:40]!r} digest"
        raise ValueError(msg)
    return bytes.fromhex(value["value"])


def _spki_of_pem(encoded: str) -> bytes:
    key = load_pem_public_key(base64.b64decode(encoded))
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
