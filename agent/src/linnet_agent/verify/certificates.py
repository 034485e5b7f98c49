"""OpenSSF Model Signing, certificate method: a chain of certificates up to a root that is given.

- A root is a self-signed certificate that the caller names; nothing else is trusted, least of all
  what a bundle brings along.
- Every certificate of the chain, the root too, must be within its validity at one and the same
  time: that of signing where something proves it, else now.
- The leaf must be for signing code (extended key usage) and for signatures (key usage), and may
  not sign certificates; what signs certificates must say that it may.
- Whom the leaf names does not matter here: who may sign what is a policy's affair, and a
  TrustPolicy cannot name certificates.

Source: OMS v1.0, sections 4.1 and 8.2; RFC 5280, sections 4.2.1 and 6.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from linnet_agent.errors import MalformedBundleError, UntrustedCertificateError
from linnet_agent.verify.envelope import Method, decode_base64, parse_bundle, parse_object
from linnet_agent.verify.keys import VerificationKey, load_public_key
from linnet_agent.verify.signatures import Unproved
from linnet_agent.verify.strict_json import as_list, as_object

MAX_CERTIFICATES: Final = 8
_MAX_CERTIFICATE_BYTES: Final = 16 << 10


@dataclass(frozen=True, slots=True)
class Certified:
    """A payload, and who has verifiably signed it, by a certificate."""

    payload: bytes
    subject: str
    """As RFC 4514 writes it."""
    certificate: str
    """Hex sha256 of the leaf's DER form."""
    root: str
    """The same of the root under which it was verified."""


@dataclass(frozen=True, slots=True)
class Authorities:
    """What the caller trusts (``roots``) and what it knows besides."""

    roots: tuple[x509.Certificate, ...]
    intermediates: tuple[x509.Certificate, ...]


def load_authorities(pems: Sequence[bytes]) -> Authorities:
    """Read PEM certificates: self-signed ones are roots, others help to find the way to them.

    Raises:
        ValueError: One cannot be read, or none is self-signed.
    """
    certificates = [one for pem in pems for one in x509.load_pem_x509_certificates(pem)]
    roots = tuple(one for one in certificates if _is_self_signed(one))
    if not roots:
        msg = "none of the certificates is self-signed: there is no root"
        raise ValueError(msg)
    return Authorities(roots, tuple(one for one in certificates if one not in roots))


def check_certificates(
    bundles: Sequence[bytes], *, trusted: Authorities, at: datetime
) -> tuple[list[Certified], list[Unproved]]:
    """Return what is verifiably signed under a certificate, and what each other bundle lacks.

    Args:
        bundles: As they were found.
        trusted: Roots.
        at: The time at which all certificates must be valid.
    """
    signed: list[Certified] = []
    unproved: list[Unproved] = []
    for raw in bundles:
        try:
            signed.append(verify_certificates(raw, trusted=trusted, at=at))
        except (MalformedBundleError, UntrustedCertificateError) as error:
            unproved.append(Unproved(error.reason, str(error)))
    return signed, unproved


def verify_certificates(raw: bytes, *, trusted: Authorities, at: datetime) -> Certified:
    """Verify a bundle that is signed under a chain of certificates, and say who has signed it.

    Args:
        raw: The bundle.
        trusted: Roots.
        at: The time at which all certificates must be valid.

    Raises:
        MalformedBundleError: It is not a bundle of the certificate method.
        UntrustedCertificateError: It is not signed by a leaf that a root stands for.
    """
    bundle = parse_bundle(raw)
    leaf, *brought = _read_chain(raw)
    chain = _find_chain(leaf, [*brought, *trusted.intermediates], trusted.roots, at=at)
    if not _leaf_key(leaf).verifies(bundle):
        msg = "the signature is not by the certificate that the bundle names"
        raise UntrustedCertificateError(msg)
    return Certified(
        payload=bundle.payload,
        subject=leaf.subject.rfc4514_string(),
        certificate=_fingerprint(leaf),
        root=_fingerprint(chain[-1]),
    )


def _read_chain(raw: bytes) -> list[x509.Certificate]:
    material = as_object(parse_object(raw, what="the bundle").get("verificationMaterial")) or {}
    chain = as_object(material.get(Method.CERTIFICATES.value)) or {}
    listed = as_list(chain.get("certificates")) or []
    if not 1 <= len(listed) <= MAX_CERTIFICATES:
        msg = f"it does not have 1 to {MAX_CERTIFICATES} certificates in a chain"
        raise MalformedBundleError(msg)
    return [_read_certificate((as_object(one) or {}).get("rawBytes")) for one in listed]


def _read_certificate(text: object) -> x509.Certificate:
    der = decode_base64(text, what="certificate")
    if len(der) > _MAX_CERTIFICATE_BYTES:
        msg = f"a certificate of it is larger than {_MAX_CERTIFICATE_BYTES} bytes"
        raise MalformedBundleError(msg)
    try:
        certificate = x509.load_der_x509_certificate(der)
        _ = certificate.extensions, certificate.subject  # parsed on first use, and may fail
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        msg = f"a certificate of it cannot be read: {error}"
        raise MalformedBundleError(msg) from error
    return certificate


def _find_chain(
    leaf: x509.Certificate,
    intermediates: list[x509.Certificate],
    roots: tuple[x509.Certificate, ...],
    *,
    at: datetime,
) -> list[x509.Certificate]:
    policy = (
        verification.PolicyBuilder()
        .store(verification.Store(list(roots)))
        .time(at)
        .max_chain_depth(MAX_CERTIFICATES)
        .extension_policies(ca_policy=_authorities_rules(), ee_policy=_leaf_rules())
    )
    try:
        return policy.build_client_verifier().verify(leaf, intermediates).chain
    except (verification.VerificationError, ValueError) as error:
        msg = f"its certificate is not one that counts: {error}"
        raise UntrustedCertificateError(msg) from error


def _leaf_rules() -> verification.ExtensionPolicy:
    present = verification.Criticality.AGNOSTIC
    return (
        verification.ExtensionPolicy.permit_all()
        .require_present(x509.KeyUsage, present, _require_signing)
        .require_present(x509.ExtendedKeyUsage, present, _require_code_signing)
    )


def _authorities_rules() -> verification.ExtensionPolicy:
    present = verification.Criticality.AGNOSTIC
    return (
        verification.ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, present, None)
        .may_be_present(x509.KeyUsage, present, _require_certifying)
        .may_be_present(x509.ExtendedKeyUsage, present, _require_code_signing_if_limited)
    )


def _require_signing(
    _policy: verification.Policy, _certificate: x509.Certificate, usage: x509.KeyUsage
) -> None:
    if not usage.digital_signature or usage.key_cert_sign:
        msg = "the leaf's key usage is not digitalSignature alone among signing uses"
        raise ValueError(msg)


def _require_code_signing(
    _policy: verification.Policy, _certificate: x509.Certificate, usage: x509.ExtendedKeyUsage
) -> None:
    if ExtendedKeyUsageOID.CODE_SIGNING not in usage:
        msg = "the leaf's extended key usage is not codeSigning"
        raise ValueError(msg)


def _require_certifying(
    _policy: verification.Policy, _certificate: x509.Certificate, usage: x509.KeyUsage | None
) -> None:
    if usage is not None and not usage.key_cert_sign:
        msg = "an authority's key usage does not let it sign certificates"
        raise ValueError(msg)


def _require_code_signing_if_limited(
    _policy: verification.Policy,
    _certificate: x509.Certificate,
    usage: x509.ExtendedKeyUsage | None,
) -> None:
    allowed = {ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
    if usage is not None and not allowed & set(usage):
        msg = "an authority may not stand for code signing"
        raise ValueError(msg)


def _leaf_key(leaf: x509.Certificate) -> VerificationKey:
    try:
        pem = leaf.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return load_public_key(pem.decode())
    except (ValueError, UnsupportedAlgorithm) as error:
        msg = f"the key of its certificate does not count: {error}"
        raise UntrustedCertificateError(msg) from error


def _is_self_signed(certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _fingerprint(certificate: x509.Certificate) -> str:
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()
