"""A timestamp authority (RFC 3161) that stamps whatever time it is told.

Sources: RFC 3161, RFC 5652 (CMS), RFC 5816 (ESSCertIDv2).
"""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_YEARS: Final = timedelta(days=3650)
_SEQUENCE, _SET, _INTEGER, _OCTETS, _OID, _TIME = 0x30, 0x31, 0x02, 0x04, 0x06, 0x18
_CONTEXT_0: Final = 0xA0


def der(tag: int, *parts: bytes) -> bytes:
    """Return one DER value that holds ``parts``."""
    content = b"".join(parts)
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    size = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + content


def _oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    encoded = bytearray([40 * first + second])
    for number in rest:
        groups = [number & 0x7F]
        while number := number >> 7:
            groups.append(0x80 | number & 0x7F)
        encoded += bytes(reversed(groups))
    return der(_OID, bytes(encoded))


def _integer(number: int) -> bytes:
    return der(_INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big"))


_SHA256: Final = der(_SEQUENCE, _oid("2.16.840.1.101.3.4.2.1"))
_ECDSA_SHA256: Final = der(_SEQUENCE, _oid("1.2.840.10045.4.3.2"))
_SIGNED_DATA: Final = _oid("1.2.840.113549.1.7.2")
_TST_INFO: Final = _oid("1.2.840.113549.1.9.16.1.4")
_POLICY: Final = _oid("1.3.6.1.4.1.57264.2")
_CONTENT_TYPE: Final = _oid("1.2.840.113549.1.9.3")
_MESSAGE_DIGEST: Final = _oid("1.2.840.113549.1.9.4")
_SIGNING_CERTIFICATE_V2: Final = _oid("1.2.840.113549.1.9.16.2.47")


class TimestampAuthority:
    """One authority: a root and the certificate that stamps."""

    def __init__(self, *, founded_at: datetime) -> None:
        """Make its keys; its certificates are valid for ten years from ``founded_at``."""
        root_key = ec.generate_private_key(ec.SECP256R1())
        self._key = ec.generate_private_key(ec.SECP256R1())
        root_name, name = _name("testbed-tsa-root"), _name("testbed-tsa")
        root = (
            _builder(root_name, root_name, root_key.public_key(), founded_at)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(root_key.public_key()), critical=False
            )
            .sign(root_key, hashes.SHA256())
        )
        leaf = (
            _builder(root_name, name, self._key.public_key(), founded_at)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()),
                critical=False,
            )
            .sign(root_key, hashes.SHA256())
        )
        self.chain = [leaf, root]
        self._serial = 0

    def stamp(self, content: bytes, *, at: datetime) -> bytes:
        """Return the response that says that ``content`` was there at ``at``, to the second."""
        self._serial += 1
        leaf = self.chain[0]
        info = der(
            _SEQUENCE,
            _integer(1),
            _POLICY,
            der(_SEQUENCE, _SHA256, der(_OCTETS, hashlib.sha256(content).digest())),
            _integer(self._serial),
            der(_TIME, at.astimezone(UTC).strftime("%Y%m%d%H%M%SZ").encode()),
        )
        raw_leaf = leaf.public_bytes(Encoding.DER)
        essence = der(_SEQUENCE, der(_OCTETS, hashlib.sha256(raw_leaf).digest()))
        attributes = b"".join(
            sorted(
                [
                    der(_SEQUENCE, _CONTENT_TYPE, der(_SET, _TST_INFO)),
                    der(
                        _SEQUENCE,
                        _MESSAGE_DIGEST,
                        der(_SET, der(_OCTETS, hashlib.sha256(info).digest())),
                    ),
                    der(
                        _SEQUENCE,
                        _SIGNING_CERTIFICATE_V2,
                        der(_SET, der(_SEQUENCE, der(_SEQUENCE, essence))),
                    ),
                ]
            )
        )
        signature = self._key.sign(der(_SET, attributes), ec.ECDSA(hashes.SHA256()))
        signer = der(
            _SEQUENCE,
            _integer(1),
            der(_SEQUENCE, leaf.issuer.public_bytes(), _integer(leaf.serial_number)),
            _SHA256,
            der(_CONTEXT_0, attributes),
            _ECDSA_SHA256,
            der(_OCTETS, signature),
        )
        signed = der(
            _SEQUENCE,
            _integer(3),
            der(_SET, _SHA256),
            der(_SEQUENCE, _TST_INFO, der(_CONTEXT_0, der(_OCTETS, info))),
            der(_CONTEXT_0, raw_leaf),
            der(_SET, signer),
        )
        granted = der(_SEQUENCE, _integer(0))
        return der(_SEQUENCE, granted, der(_SEQUENCE, _SIGNED_DATA, der(_CONTEXT_0, signed)))


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    issuer: x509.Name,
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    founded_at: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(founded_at)
        .not_valid_after(founded_at + _YEARS)
    )
