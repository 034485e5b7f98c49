"""OpenSSF Model Signing, key method: read a bundle, check its signature, read its statement.

- A bundle is a sigstore bundle v0.3 with one DSSE signature; anything else is malformed.
- The signature is over the DSSE pre-authentication encoding; ECDSA on P-256, P-384 or P-521.
- A statement names every file with its sha256; shards, other hashes and followed links are refused.
- A key is known by the hex sha256 of its PEM text, written the one way that this library writes it.
- What the signer says it has ignored does not matter: a model is exactly the files that are named.

Source: OMS specification v1.0, sections 4 to 6 and 8.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from linnet_agent.errors import MalformedBundleError
from linnet_agent.verify.manifest import BUNDLE_TYPE
from linnet_agent.verify.paths import names_fault
from linnet_agent.verify.strict_json import as_list, as_object, parse_json_object
from linnet_api.names import COUNTER_ANNOTATION

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://model_signing/signature/v1.0"

MAX_BUNDLE_BYTES: Final = 4 << 20
_MAX_COUNTER: Final = 2**53
_HEX_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_COUNTER: Final = re.compile(r"0|[1-9][0-9]{0,15}")
_HASHES: Final[Mapping[str, type[hashes.HashAlgorithm]]] = {
    "secp256r1": hashes.SHA256,
    "secp384r1": hashes.SHA384,
    "secp521r1": hashes.SHA512,
}


@dataclass(frozen=True, slots=True)
class Bundle:
    """A DSSE envelope; nothing in it is trusted yet."""

    payload: bytes
    signature: bytes
    key_hint: str | None


@dataclass(frozen=True, slots=True)
class Statement:
    """What somebody has signed: a name, a release counter, and files with their digests."""

    model: str
    counter: int | None
    files: Mapping[str, str]
    """File name to ``sha256:<hex>``."""
    model_digest: str
    """``sha256:<hex>`` of the signed payload; the store's key."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key that can check signatures."""

    key_id: str
    key: ec.EllipticCurvePublicKey

    def verifies(self, bundle: Bundle) -> bool:
        """Return true where the signature of ``bundle`` is by this key."""
        algorithm = _HASHES[self.key.curve.name]()
        try:
            self.key.verify(bundle.signature, signing_bytes(bundle.payload), ec.ECDSA(algorithm))
        except InvalidSignature:
            return False
        return True


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


def load_public_key(pem: str) -> VerificationKey:
    """Read a PEM public key.

    Raises:
        ValueError: It is not an EC key on P-256, P-384 or P-521.
    """
    try:
        key = serialization.load_pem_public_key(pem.strip().encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        msg = f"not a PEM public key: {error}"
        raise ValueError(msg) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _HASHES:
        msg = "not an EC key on P-256, P-384 or P-521"
        raise ValueError(msg)
    return VerificationKey(key_id=key_id(key), key=key)


def key_id(key: ec.EllipticCurvePublicKey) -> str:
    """Return the hex sha256 of the key's PEM text; what OMS bundles carry as hint."""
    pem = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(pem).hexdigest()


def parse_bundle(raw: bytes) -> Bundle:
    """Read a bundle; its signature is not checked.

    Raises:
        MalformedBundleError: It is not an OMS bundle of the key method.
    """
    document = _parse_object(raw, what="the bundle")
    if document.get("mediaType") != BUNDLE_TYPE:
        _refuse(f"its mediaType is {document.get('mediaType')!r}, not {BUNDLE_TYPE}")
    if unknown := set(document) - {"mediaType", "verificationMaterial", "dsseEnvelope"}:
        _refuse(f"it has fields that a bundle does not have: {sorted(unknown)[:5]}")
    envelope = _object(document, "dsseEnvelope")
    if envelope.get("payloadType") != PAYLOAD_TYPE:
        _refuse(f"its payloadType is {envelope.get('payloadType')!r}, not {PAYLOAD_TYPE}")
    signatures = as_list(envelope.get("signatures"))
    if signatures is None or len(signatures) != 1:
        _refuse("it does not have exactly one signature")
    signature = as_object(signatures[0])
    if signature is None:
        _refuse("its signature is not an object")
    return Bundle(
        payload=_base64(envelope.get("payload"), what="payload"),
        signature=_base64(signature.get("sig"), what="sig"),
        key_hint=_key_hint(_object(document, "verificationMaterial")),
    )


def parse_statement(payload: bytes) -> Statement:
    """Read the statement that a bundle carries.

    Raises:
        MalformedBundleError: It is not a statement about whole files with sha256 and safe names.
    """
    document = _parse_object(payload, what="the statement")
    if document.get("_type") != STATEMENT_TYPE:
        _refuse(f"the statement's _type is {document.get('_type')!r}, not {STATEMENT_TYPE}")
    if document.get("predicateType") != PREDICATE_TYPE:
        _refuse(f"its predicateType is {document.get('predicateType')!r}, not {PREDICATE_TYPE}")
    predicate = _object(document, "predicate")
    _require_plain_serialization(_object(predicate, "serialization"))
    files = _files(predicate.get("resources"))
    subject = _subject(document.get("subject"))
    root = hashlib.sha256(
        b"".join(bytes.fromhex(files[name].removeprefix("sha256:")) for name in sorted(files))
    ).hexdigest()
    if _object(subject, "digest").get("sha256") != root:
        _refuse("the subject's digest is not that of its files")
    return Statement(
        model=_model_name(subject.get("name")),
        counter=_counter(subject.get("annotations")),
        files=files,
        model_digest="sha256:" + hashlib.sha256(payload).hexdigest(),
    )


def _refuse(fact: str) -> NoReturn:
    raise MalformedBundleError(fact)


def _parse_object(raw: bytes, *, what: str) -> dict[str, Any]:
    try:
        return parse_json_object(raw, max_bytes=MAX_BUNDLE_BYTES)
    except ValueError as error:
        msg = f"{what} is not readable: {error}"
        raise MalformedBundleError(msg) from error


def _object(parent: Mapping[str, Any], field: str) -> dict[str, Any]:
    value = as_object(parent.get(field))
    if value is None:
        _refuse(f"it has no object {field!r}")
    return value


def _base64(text: object, *, what: str) -> bytes:
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


def _key_hint(material: Mapping[str, Any]) -> str | None:
    public_key = as_object(material.get("publicKey"))
    if public_key is None:
        _refuse("it is not signed with a key: only the key method is supported yet")
    hint = public_key.get("hint")
    return hint if isinstance(hint, str) and len(hint) <= 256 else None


def _require_plain_serialization(how: Mapping[str, Any]) -> None:
    if how.get("method") != "files" or "shard_size" in how:
        _refuse(f"its serialization is {str(how.get('method'))[:40]!r}; only 'files' is accepted")
    if how.get("hash_type") != "sha256":
        _refuse(f"its hash_type is {str(how.get('hash_type'))[:40]!r}; only 'sha256' is accepted")
    if how.get("allow_symlinks") is not False:
        _refuse("it was signed with symbolic links followed")


def _files(value: object) -> dict[str, str]:
    resources = as_list(value)
    if resources is None:
        _refuse("it has no list of resources")
    files: dict[str, str] = {}
    for resource in (as_object(one) or {} for one in resources):
        name = resource.get("name")
        if not isinstance(name, str) or name in files:
            _refuse(f"it has a resource without a name, or twice: {str(name)[:200]!r}")
        digest = resource.get("digest")
        if (
            resource.get("algorithm") != "sha256"
            or not isinstance(digest, str)
            or not _HEX_DIGEST.fullmatch(digest)
        ):
            _refuse(f"the digest of {name[:200]!r} is not a sha256")
        files[name] = f"sha256:{digest}"
    if (fault := names_fault(files)) is not None:
        _refuse(fault)
    return files


def _subject(value: object) -> dict[str, Any]:
    subjects = as_list(value) or []
    subject = as_object(subjects[0]) if len(subjects) == 1 else None
    if subject is None:
        _refuse("it does not have exactly one subject")
    return subject


def _model_name(name: object) -> str:
    if not isinstance(name, str) or not 1 <= len(name) <= 512 or not name.isprintable():
        _refuse("its subject has no name")
    return name


def _counter(value: object) -> int | None:
    if value is None:
        return None
    annotations = as_object(value)
    text = "" if annotations is None else annotations.get(COUNTER_ANNOTATION)
    if text is None:
        return None
    if not isinstance(text, str) or not _COUNTER.fullmatch(text) or int(text) > _MAX_COUNTER:
        _refuse(f"its {COUNTER_ANNOTATION} is not a decimal number of at most 16 digits")
    return int(text)
