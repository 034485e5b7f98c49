"""Signature bundles: a DSSE envelope and what is to prove who has signed it.

- A bundle is a sigstore bundle v0.3 with one DSSE signature; anything else is malformed.
- It names exactly one of a public key, a certificate (keyless), or a chain of certificates.
- The signature is over the DSSE pre-authentication encoding of an in-toto statement.
- Nothing in a bundle is trusted: reading it proves nothing.

Source: sigstore protobuf-specs, `sigstore_bundle.proto`; DSSE protocol v1.0; OMS v1.0, section 4.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NoReturn

from linnet_agent.errors import MalformedBundleError
from linnet_agent.verify.manifest import BUNDLE_TYPE
from linnet_agent.verify.strict_json import as_list, as_object, parse_json_object

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
MAX_BUNDLE_BYTES: Final = 4 << 20
_MAX_HINT: Final = 256


class Method(Enum):
    """What a bundle offers as proof; the value is the field that holds it."""

    KEY = "publicKey"
    KEYLESS = "certificate"
    CERTIFICATES = "x509CertificateChain"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A DSSE envelope; nothing in it is trusted yet."""

    payload: bytes
    signature: bytes
    method: Method
    key_hint: str | None
    """Which key it says it is signed with; only with ``Method.KEY``."""
    logged: bool
    """It carries entries of a transparency log."""

    @property
    def payload_sha256(self) -> str:
        """Return the hex sha256 of the statement."""
        return hashlib.sha256(self.payload).hexdigest()


def signing_bytes(payload: bytes) -> bytes:
    """Return the DSSE pre-authentication encoding of a statement: what is signed.

    Source: DSSE protocol v1.0, "Signature Definition".
    """
    return b"DSSEv1 %d %s %d %s" % (
        len(PAYLOAD_TYPE),
        PAYLOAD_TYPE.encode(),
        len(payload),
        payload,
    )


def parse_bundle(raw: bytes) -> Bundle:
    """Read a bundle; its signature is not checked.

    Raises:
        MalformedBundleError: It is not a bundle with one signed in-toto statement.
    """
    document = parse_object(raw, what="the bundle")
    if document.get("mediaType") != BUNDLE_TYPE:
        _refuse(f"its mediaType is {str(document.get('mediaType'))[:80]!r}, not {BUNDLE_TYPE}")
    if unknown := set(document) - {"mediaType", "verificationMaterial", "dsseEnvelope"}:
        _refuse(f"it has fields that a bundle does not have: {sorted(unknown)[:5]}"[:400])
    envelope = _object(document, "dsseEnvelope")
    if envelope.get("payloadType") != PAYLOAD_TYPE:
        _refuse(f"its payloadType is {str(envelope.get('payloadType'))[:80]!r}, not {PAYLOAD_TYPE}")
    signatures = as_list(envelope.get("signatures"))
    if signatures is None or len(signatures) != 1:
        _refuse("it does not have exactly one signature")
    signature = as_object(signatures[0])
    if signature is None:
        _refuse("its signature is not an object")
    material = _object(document, "verificationMaterial")
    return Bundle(
        payload=decode_base64(envelope.get("payload"), what="payload"),
        signature=decode_base64(signature.get("sig"), what="sig"),
        method=_method(material),
        key_hint=_key_hint(material),
        logged=bool(as_list(material.get("tlogEntries"))),
    )


def parse_object(raw: bytes, *, what: str) -> dict[str, Any]:
    """Return the JSON object that ``raw`` holds.

    Raises:
        MalformedBundleError: It does not hold one.
    """
    try:
        return parse_json_object(raw, max_bytes=MAX_BUNDLE_BYTES)
    except ValueError as error:
        msg = f"{what} is not readable: {error}"
        raise MalformedBundleError(msg) from error


def decode_base64(text: object, *, what: str) -> bytes:
    """Return what ``text`` encodes, where it is written the one right way.

    Raises:
        MalformedBundleError: It is empty, not base64, or has stray bits.
    """
    if not isinstance(text, str) or not text:
        _refuse(f"its {what} is not base64")
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        msg = f"its {what} is not base64: {error}"
        raise MalformedBundleError(msg) from error
    if base64.b64encode(decoded).decode() != text:  # one writing for one value
        _refuse(f"its {what} is base64 with stray bits")
    return decoded


def _refuse(fact: str) -> NoReturn:
    raise MalformedBundleError(fact)


def _object(parent: Mapping[str, Any], field: str) -> dict[str, Any]:
    value = as_object(parent.get(field))
    if value is None:
        _refuse(f"it has no object {field!r}")
    return value


def _method(material: Mapping[str, Any]) -> Method:
    found = [method for method in Method if as_object(material.get(method.value)) is not None]
    if len(found) != 1:
        _refuse("it does not name exactly one of a key, a certificate and a chain of certificates")
    return found[0]


def _key_hint(material: Mapping[str, Any]) -> str | None:
    hint = (as_object(material.get(Method.KEY.value)) or {}).get("hint")
    return hint if isinstance(hint, str) and len(hint) <= _MAX_HINT else None
