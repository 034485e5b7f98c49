"""Who has signed a file, by a bundle of its own: what `cosign sign-blob` and attestations hold.

- A file is known by its sha256; its bytes are not needed.
- A bundle signs it with a bare signature, or with a statement that has that digest as a subject.
- A bare signature by a key must be by one on P-256: the others sign another hash.
- A model is never taken on this alone: it says nothing of a model's name, counter and files.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from linnet_agent.errors import MalformedBundleError
from linnet_agent.verify.envelope import PAYLOAD_TYPE, Method, decode_base64, parse_object
from linnet_agent.verify.keys import VerificationKey
from linnet_agent.verify.signatures import (
    Identified,
    KeylessVerdict,
    Proof,
    Unproved,
    key_proofs,
)
from linnet_agent.verify.strict_json import as_list, as_object
from linnet_api.reasons import NodeReason


@dataclass(frozen=True, slots=True)
class FileBundle:
    """A signature of a file; nothing in it is trusted yet."""

    signature: bytes
    payload: bytes | None
    """The signed statement; None: the signature is over the file itself."""
    by_key: bool
    logged: bool

    @property
    def payload_sha256(self) -> str | None:
        """Return the hex sha256 of the statement."""
        return None if self.payload is None else hashlib.sha256(self.payload).hexdigest()


class FileVerifier(Protocol):
    """Verifies what needs a trusted root: certificates, logs, timestamps."""

    def verify_file(self, bundle: bytes, *, sha256: bytes) -> KeylessVerdict:
        """Return what ``bundle`` proves; its statement may be about another file; never raises."""
        ...


def check_file(
    raw: bytes, *, sha256: bytes, keys: Sequence[VerificationKey], verifier: FileVerifier | None
) -> tuple[Proof, ...] | Unproved:
    """Return who has signed the file with that digest; never raises.

    Args:
        raw: The bundle.
        sha256: Of the file.
        keys: Whose signatures count.
        verifier: For keyless bundles and log entries; None where there is no trusted root.
    """
    try:
        bundle = parse_file_bundle(raw)
        if bundle.payload is not None and sha256.hex() not in _subjects(bundle.payload):
            message = f"its statement is not about sha256:{sha256.hex()}"
            return Unproved(NodeReason.CONTENT_NOT_SIGNED, message)
    except MalformedBundleError as error:
        return Unproved(NodeReason.MALFORMED_BUNDLE, str(error))
    key = next((key for key in keys if _is_by(bundle, key, sha256=sha256)), None)
    if bundle.by_key and key is None:
        message = f"the signature is by no key that is trusted here (of {len(keys)})"
        return Unproved(NodeReason.UNTRUSTED_KEY, message)
    if verifier is None or (bundle.by_key and not bundle.logged):
        if key is not None:
            return key_proofs(key, None)
        message = "it is signed keyless, and there is no trusted root to judge that by"
        return Unproved(NodeReason.NO_TRUST_ROOT, message)
    verdict = verifier.verify_file(raw, sha256=sha256)
    if key is None:
        if isinstance(verdict, Identified):
            return verdict.proofs
        message = "its certificate names nobody"
        return (
            verdict
            if isinstance(verdict, Unproved)
            else Unproved(NodeReason.BAD_SIGNATURE, message)
        )
    return key_proofs(key, verdict)


def parse_file_bundle(raw: bytes) -> FileBundle:
    """Read a bundle of any version; its signature is not checked.

    Raises:
        MalformedBundleError: It does not hold exactly one signature of one kind.
    """
    document = parse_object(raw, what="the bundle")
    material = as_object(document.get("verificationMaterial"))
    envelope = as_object(document.get("dsseEnvelope"))
    message = as_object(document.get("messageSignature"))
    if material is None or (envelope is None) == (message is None):
        msg = "it does not hold exactly one of a signed statement and a bare signature"
        raise MalformedBundleError(msg)
    if envelope is None:
        payload, signature = None, message
    else:
        signatures = as_list(envelope.get("signatures")) or []
        if len(signatures) != 1 or envelope.get("payloadType") != PAYLOAD_TYPE:
            msg = "its envelope does not hold one statement with one signature"
            raise MalformedBundleError(msg)
        payload = decode_base64(envelope.get("payload"), what="payload")
        signature = as_object(signatures[0])
    text = (signature or {}).get("signature" if payload is None else "sig")
    return FileBundle(
        signature=decode_base64(text, what="signature"),
        payload=payload,
        by_key=as_object(material.get(Method.KEY.value)) is not None,
        logged=bool(as_list(material.get("tlogEntries"))),
    )


def _subjects(payload: bytes) -> set[str]:
    """Return the sha256 of everything that a statement is about."""
    subjects = as_list(parse_object(payload, what="the statement").get("subject")) or []
    digests = [as_object((as_object(one) or {}).get("digest")) or {} for one in subjects]
    return {text for digest in digests if isinstance(text := digest.get("sha256"), str)}


def _is_by(bundle: FileBundle, key: VerificationKey, *, sha256: bytes) -> bool:
    if not bundle.by_key:
        return False
    if bundle.payload is not None:
        return key.verifies_statement(bundle.payload, signature=bundle.signature)
    return key.verifies_sha256(sha256, signature=bundle.signature)
