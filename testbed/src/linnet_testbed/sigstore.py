"""A sigstore instance of one's own: certificate authority, logs, timestamps; all in memory.

- What it signs verifies under its ``trusted_root``, offline, with any sigstore client.
- Times are what the caller says: signatures of years ago take no longer than those of today.
- Each thing that a verifier must notice can be made wrong: windows, times, the missing SCT.
- Every entry is the only one of its log: a Merkle tree of one leaf, with a signed checkpoint.

Sources: RFC 6962 (SCT), RFC 8785 (what a SET signs), C2SP signed-note and tlog-checkpoint,
sigstore protobuf-specs (bundle, trusted root), Fulcio `docs/oid-info.md`.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from linnet_agent.verify.envelope import PAYLOAD_TYPE, signing_bytes
from linnet_testbed.timestamps import TimestampAuthority, der

_BUNDLE_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
_ROOT_TYPE: Final = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
_ARC: Final = "1.3.6.1.4.1.57264.1."
_SCT_LIST: Final = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_YEARS: Final = timedelta(days=3650)

Window = tuple[datetime, datetime | None]


@dataclass(frozen=True, kw_only=True)
class Signing:
    """Who signs, when, and what is wrong with it."""

    subject: str = "https://ci.testbed/release.yml@refs/heads/main"
    issuer: str = "https://oidc.testbed"
    claims: Mapping[int, str] = field(default_factory=dict)
    """More of Fulcio's extensions, by the last number of their OID."""
    at: datetime
    life: timedelta = timedelta(minutes=10)
    """Of the certificate, which starts at ``at``."""
    logged_after: timedelta = timedelta(seconds=5)
    with_sct: bool = True
    by_timestamp: bool = False
    """As Rekor v2 has it: the log tells no time, a timestamp authority does."""


class Sigstore:
    """One instance; two of them know nothing of each other."""

    def __init__(self, *, founded_at: datetime) -> None:
        """Make all keys; everything is valid for ten years from ``founded_at``."""
        self._founded_at = founded_at
        self._ca_key, self._ct_key, self._log_key = (_new_key() for _ in range(3))
        self._ca = _self_signed(self._ca_key, "testbed-fulcio", founded_at)
        self._timestamps = TimestampAuthority(founded_at=founded_at)

    def trusted_root(
        self,
        *,
        tlog: Window | None = None,
        ctlog: Window | None = None,
        authority: Window | None = None,
        timestamps: Window | None = None,
    ) -> bytes:
        """Return the `trusted_root.json`; a window says from when to when something counted."""
        always = (self._founded_at, None)
        document = {
            "mediaType": _ROOT_TYPE,
            "tlogs": [_log("https://log.testbed", self._log_key, tlog or always)],
            "ctlogs": [_log("https://ct.testbed", self._ct_key, ctlog or always)],
            "certificateAuthorities": [_authority([self._ca], authority or always)],
            "timestampAuthorities": [
                _authority(self._timestamps.chain, timestamps or always),
            ],
        }
        return json.dumps(document).encode()

    def sign_statement(self, payload: bytes, signing: Signing) -> bytes:
        """Return a keyless bundle with a DSSE envelope around ``payload``."""
        key = _new_key()
        certificate = self._issue(key, signing)
        signature = _sign(key, signing_bytes(payload))
        verifier = certificate.public_bytes(Encoding.PEM)
        if signing.by_timestamp:
            digest = hashlib.sha256(signing_bytes(payload)).digest()
            entry = _record(digest, signature, {"x509Certificate": _raw(_der(certificate))})
        else:
            entry = _envelope_entry(payload, signature, verifier)
        return _bundle(
            {"certificate": _raw(_der(certificate))},
            self._witness(entry, signature, signing),
            dsseEnvelope=_envelope(payload, signature),
        )

    def sign_file(self, content: bytes, signing: Signing) -> bytes:
        """Return a keyless bundle with a bare signature over ``content``."""
        key = _new_key()
        certificate = self._issue(key, signing)
        signature = _sign(key, content)
        digest = hashlib.sha256(content).digest()
        if signing.by_timestamp:
            entry = _record(digest, signature, {"x509Certificate": _raw(_der(certificate))})
        else:
            entry = _file_entry(digest, signature, certificate.public_bytes(Encoding.PEM))
        return _bundle(
            {"certificate": _raw(_der(certificate))},
            self._witness(entry, signature, signing),
            messageSignature={
                "messageDigest": {"algorithm": "SHA2_256", "digest": _b64(digest)},
                "signature": _b64(signature),
            },
        )

    def log_statement(
        self, payload: bytes, key: ec.EllipticCurvePrivateKey, signing: Signing
    ) -> bytes:
        """Return a bundle as `cosign sign --key` makes it: somebody's own key, and a log entry."""
        signature = _sign(key, signing_bytes(payload))
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if signing.by_timestamp:
            digest = hashlib.sha256(signing_bytes(payload)).digest()
            entry = _record(digest, signature, {"publicKey": _raw(spki)})
        else:
            pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            entry = _envelope_entry(payload, signature, pem)
        return _bundle(
            {"publicKey": {"hint": _b64(hashlib.sha256(spki).digest())}},
            self._witness(entry, signature, signing),
            dsseEnvelope=_envelope(payload, signature),
        )

    def _issue(self, key: ec.EllipticCurvePrivateKey, signing: Signing) -> x509.Certificate:
        subject = signing.subject
        name = (
            x509.UniformResourceIdentifier(subject) if ":" in subject else x509.RFC822Name(subject)
        )
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._ca.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(signing.at)
            .not_valid_after(signing.at + signing.life)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._ca_key.public_key()),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
            .add_extension(_extension(1, signing.issuer.encode()), critical=False)
        )
        for number, text in {8: signing.issuer, **signing.claims}.items():
            builder = builder.add_extension(
                _extension(number, der(0x0C, text.encode())), critical=False
            )
        if signing.with_sct:
            unlogged = builder.sign(self._ca_key, hashes.SHA256())
            builder = builder.add_extension(
                x509.UnrecognizedExtension(_SCT_LIST, self._sct_list(unlogged, signing.at)),
                critical=False,
            )
        return builder.sign(self._ca_key, hashes.SHA256())

    def _sct_list(self, certificate: x509.Certificate, at: datetime) -> bytes:
        """Return the extension that says that the CT log has seen ``certificate``."""
        issuer = hashlib.sha256(_spki(self._ca_key)).digest()
        moment = int(at.timestamp() * 1000).to_bytes(8, "big")
        body = certificate.tbs_certificate_bytes
        entry = b"\x00\x01" + issuer + len(body).to_bytes(3, "big") + body
        signature = _sign(self._ct_key, b"\x00\x00" + moment + entry + b"\x00\x00")
        log_id = hashlib.sha256(_spki(self._ct_key)).digest()
        sct = b"\x00" + log_id + moment + b"\x00\x00" + b"\x04\x03" + _sized(signature)
        return der(0x04, _sized(_sized(sct)))

    def _witness(
        self, entry: Mapping[str, Any], signature: bytes, signing: Signing
    ) -> dict[str, Any]:
        """Return what log and timestamp authority say about a signature."""
        body = _canonical(entry)
        seen_at = signing.at + signing.logged_after
        log_id = hashlib.sha256(_spki(self._log_key)).digest()
        root = hashlib.sha256(b"\x00" + body).digest()
        note = f"log.testbed\n1\n{_b64(root)}\n".encode()
        signed_note = _b64(log_id[:4] + _sign(self._log_key, note))
        logged: dict[str, Any] = {
            "logIndex": "0",
            "logId": {"keyId": _b64(log_id)},
            "kindVersion": {"kind": entry["kind"], "version": entry["apiVersion"]},
            "integratedTime": "0",
            "inclusionProof": {
                "logIndex": "0",
                "rootHash": _b64(root),
                "treeSize": "1",
                "hashes": [],
                "checkpoint": {"envelope": f"{note.decode()}\n— log.testbed {signed_note}\n"},
            },
            "canonicalizedBody": _b64(body),
        }
        if signing.by_timestamp:
            token = self._timestamps.stamp(signature, at=seen_at)
            stamps = {"rfc3161Timestamps": [{"signedTimestamp": _b64(token)}]}
            return {"tlogEntries": [logged], "timestampVerificationData": stamps}
        seconds = int(seen_at.timestamp())
        promise = _canonical(
            {"body": _b64(body), "integratedTime": seconds, "logID": log_id.hex(), "logIndex": 0}
        )
        logged["integratedTime"] = str(seconds)
        logged["inclusionPromise"] = {"signedEntryTimestamp": _b64(_sign(self._log_key, promise))}
        return {"tlogEntries": [logged]}


# --- what a log holds -----------------------------------------------------------------------------


def _envelope_entry(payload: bytes, signature: bytes, verifier: bytes) -> dict[str, Any]:
    envelope = _canonical(_envelope(payload, signature))
    return {
        "apiVersion": "0.0.1",
        "kind": "dsse",
        "spec": {
            "envelopeHash": _sha256(envelope),
            "payloadHash": _sha256(payload),
            "signatures": [{"signature": _b64(signature), "verifier": _b64(verifier)}],
        },
    }


def _file_entry(digest: bytes, signature: bytes, verifier: bytes) -> dict[str, Any]:
    return {
        "apiVersion": "0.0.1",
        "kind": "hashedrekord",
        "spec": {
            "data": {"hash": {"algorithm": "sha256", "value": digest.hex()}},
            "signature": {
                "content": _b64(signature),
                "publicKey": {"content": _b64(verifier)},
            },
        },
    }


def _record(digest: bytes, signature: bytes, verifier: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "0.0.2",
        "kind": "hashedrekord",
        "spec": {
            "hashedRekordV002": {
                "data": {"algorithm": "SHA2_256", "digest": _b64(digest)},
                "signature": {
                    "content": _b64(signature),
                    "verifier": {**verifier, "keyDetails": "PKIX_ECDSA_P256_SHA_256"},
                },
            }
        },
    }


# --- documents ------------------------------------------------------------------------------------


def _bundle(
    proof: Mapping[str, Any], witness: Mapping[str, Any], **content: Mapping[str, Any]
) -> bytes:
    document = {
        "mediaType": _BUNDLE_TYPE,
        "verificationMaterial": {**proof, **witness},
        **content,
    }
    return json.dumps(document).encode()


def _envelope(payload: bytes, signature: bytes) -> dict[str, Any]:
    return {
        "payload": _b64(payload),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"sig": _b64(signature)}],
    }


def _log(url: str, key: ec.EllipticCurvePrivateKey, window: Window) -> dict[str, Any]:
    return {
        "baseUrl": url,
        "hashAlgorithm": "SHA2_256",
        "publicKey": {
            "rawBytes": _b64(_spki(key)),
            "keyDetails": "PKIX_ECDSA_P256_SHA_256",
            "validFor": _window(window),
        },
        "logId": {"keyId": _b64(hashlib.sha256(_spki(key)).digest())},
    }


def _authority(chain: list[x509.Certificate], window: Window) -> dict[str, Any]:
    return {
        "subject": {"organization": "testbed", "commonName": "testbed"},
        "uri": "https://ca.testbed",
        "certChain": {"certificates": [_raw(_der(one)) for one in chain]},
        "validFor": _window(window),
    }


def _window(window: Window) -> dict[str, str]:
    start, end = window
    return {"start": _time(start)} | ({} if end is None else {"end": _time(end)})


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _canonical(document: Mapping[str, Any]) -> bytes:
    """Return RFC 8785 form; the same as this for text and small numbers."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _sha256(content: bytes) -> dict[str, str]:
    return {"algorithm": "sha256", "value": hashlib.sha256(content).hexdigest()}


def _raw(content: bytes) -> dict[str, str]:
    return {"rawBytes": _b64(content)}


def _b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


# --- keys and certificates ------------------------------------------------------------------------


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _sign(key: ec.EllipticCurvePrivateKey, content: bytes) -> bytes:
    return key.sign(content, ec.ECDSA(hashes.SHA256()))


def _spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def _sized(content: bytes) -> bytes:
    return len(content).to_bytes(2, "big") + content


def _extension(number: int, value: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(f"{_ARC}{number}"), value)


def _self_signed(
    key: ec.EllipticCurvePrivateKey, common_name: str, founded_at: datetime
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(founded_at)
        .not_valid_after(founded_at + _YEARS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
