"""Public keys that can have signed a model.

- ECDSA on P-256, P-384 or P-521, each with the hash of its size, and Ed25519; nothing else.
- A key is known by the hex sha256 of its PEM text, written the one way that this library writes it.
- It answers to two hints: that one (OMS), and the base64 sha256 of its DER form (cosign).
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from linnet_agent.verify.envelope import Bundle, signing_bytes

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

_HASHES: Final[Mapping[str, type[hashes.HashAlgorithm]]] = {
    "secp256r1": hashes.SHA256,
    "secp384r1": hashes.SHA384,
    "secp521r1": hashes.SHA512,
}


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key that can check signatures."""

    key_id: str
    spki_hash: str
    """Hex sha256 of the DER SubjectPublicKeyInfo; what a log entry is matched with."""
    key: PublicKey

    @property
    def hints(self) -> frozenset[str]:
        """Return what a bundle may call this key."""
        return frozenset({self.key_id, base64.b64encode(bytes.fromhex(self.spki_hash)).decode()})

    def verifies(self, bundle: Bundle) -> bool:
        """Return true where the signature of ``bundle`` is by this key."""
        return self.verifies_statement(bundle.payload, signature=bundle.signature)

    def verifies_statement(self, payload: bytes, *, signature: bytes) -> bool:
        """Return true where ``signature`` over the enveloped ``payload`` is by this key."""
        signed = signing_bytes(payload)
        try:
            if isinstance(self.key, ed25519.Ed25519PublicKey):
                self.key.verify(signature, signed)
            else:
                self.key.verify(signature, signed, ec.ECDSA(_HASHES[self.key.curve.name]()))
        except InvalidSignature:
            return False
        return True

    def verifies_sha256(self, digest: bytes, *, signature: bytes) -> bool:
        """Return true where ``signature`` over what has this digest is by this key, on P-256."""
        if not isinstance(self.key, ec.EllipticCurvePublicKey) or self.key.curve.key_size != 256:
            return False
        try:
            self.key.verify(signature, digest, ec.ECDSA(Prehashed(hashes.SHA256())))
        except InvalidSignature:
            return False
        return True


def load_public_key(pem: str) -> VerificationKey:
    """Read a PEM public key.

    Raises:
        ValueError: It is not an EC key on P-256, P-384 or P-521, nor an Ed25519 key.
    """
    try:
        key = serialization.load_pem_public_key(pem.strip().encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        msg = f"not a PEM public key: {error}"
        raise ValueError(msg) from error
    on_curve = isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _HASHES
    if not on_curve and not isinstance(key, ed25519.Ed25519PublicKey):
        msg = "not an EC key on P-256, P-384 or P-521, nor an Ed25519 key"
        raise ValueError(msg)
    assert isinstance(key, PublicKey)
    return VerificationKey(key_id=key_id(key), spki_hash=_spki_hash(key), key=key)


def key_id(key: PublicKey) -> str:
    """Return the hex sha256 of the key's PEM text; what OMS bundles carry as hint."""
    pem = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(pem).hexdigest()


def _spki_hash(key: PublicKey) -> str:
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()
