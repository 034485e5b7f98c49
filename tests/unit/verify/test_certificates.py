"""The certificate method: which chains count, and which do not although OpenSSL would take them."""

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from linnet_agent.errors import MalformedBundleError, UntrustedCertificateError
from linnet_agent.verify.certificates import load_authorities, verify_certificates
from linnet_agent.verify.envelope import signing_bytes

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
DAY = timedelta(days=1)
PAYLOAD = b'{"_type":"https://in-toto.io/Statement/v1"}'
ROOT, MIDDLE, LEAF, OTHER = (ec.generate_private_key(ec.SECP256R1()) for _ in range(4))
USAGES = [
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
    *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
]


def _usage(*names):
    return x509.KeyUsage(**{name: name in names for name in USAGES})


def _purpose(*oids):
    return x509.ExtendedKeyUsage(oids)


CODE = _purpose(ExtendedKeyUsageOID.CODE_SIGNING)
SIGNS = _usage("digital_signature")
CERTIFIES = _usage("key_cert_sign")


def _certificate(subject, issuer, key, by, *extensions, start=NOW - DAY, end=NOW + DAY, ca=None):
    def name(text):
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(*ca), critical=True)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(by, hashes.SHA256())


def _root(*extensions, subject="root", key=ROOT, ca=(True, None), **more):
    return _certificate(subject, subject, key, key, *(extensions or (CERTIFIES,)), ca=ca, **more)


def _middle(*extensions, ca=(True, None), **more):
    return _certificate(
        "middle", "root", MIDDLE, ROOT, *(extensions or (CERTIFIES,)), ca=ca, **more
    )


def _leaf(*extensions, key=LEAF, by=MIDDLE, **more):
    return _certificate("release", "middle", key, by, *(extensions or (SIGNS, CODE)), **more)


def _bundle(*chain, key=LEAF, payload=PAYLOAD, algorithm=None):
    signed = signing_bytes(payload)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        signature = key.sign(signed, ec.ECDSA(algorithm or hashes.SHA256()))
    else:
        signature = key.sign(signed)
    return _bundle_of([_der(one) for one in chain], signature)


def _bundle_of(ders, signature=b"signature", payload=PAYLOAD):
    listed = [{"rawBytes": base64.b64encode(der).decode()} for der in ders]
    return json.dumps(
        {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {"x509CertificateChain": {"certificates": listed}},
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": "application/vnd.in-toto+json",
                "signatures": [{"sig": base64.b64encode(signature).decode()}],
            },
        }
    ).encode()


def _der(certificate):
    return certificate.public_bytes(serialization.Encoding.DER)


def _trust(*certificates):
    return load_authorities([c.public_bytes(serialization.Encoding.PEM) for c in certificates])


def test_a_leaf_under_a_given_root_counts():
    leaf, middle, root = _leaf(), _middle(), _root()

    signer = verify_certificates(_bundle(leaf, middle), trusted=_trust(root), at=NOW)

    assert signer.subject == "CN=release"
    assert signer.certificate == leaf.fingerprint(hashes.SHA256()).hex()
    assert signer.root == root.fingerprint(hashes.SHA256()).hex()


@pytest.mark.parametrize(
    ("chain", "trusted"),
    [
        pytest.param([_leaf(), _middle(), _root()], [_root()], id="the root comes along"),
        pytest.param([_leaf()], [_root(), _middle()], id="the caller knows the intermediate"),
        pytest.param(
            [_leaf(), _middle()],
            [_certificate("root", "root", ROOT, ROOT, ca=(True, None))],
            id="a root without key usage, as `openssl req -x509` makes it",
        ),
        pytest.param(
            [_leaf(SIGNS, CODE, ca=(True, None)), _middle()],
            [_root()],
            id="a leaf that says CA but may not certify, as the specification's own vector",
        ),
        pytest.param(
            [_leaf(), _middle(CERTIFIES, CODE)], [_root()], id="an authority for code alone"
        ),
        pytest.param(
            [_leaf(), _middle()], [_root(subject="x", key=OTHER), _root()], id="one of two roots"
        ),
    ],
)
def test_chains_that_count(chain, trusted):
    assert verify_certificates(_bundle(*chain), trusted=_trust(*trusted), at=NOW)


@pytest.mark.parametrize(
    ("chain", "says"),
    [
        pytest.param([_leaf(end=NOW - DAY / 2), _middle()], "not valid", id="an expired leaf"),
        pytest.param([_leaf(start=NOW + DAY / 2), _middle()], "not valid", id="not yet valid"),
        pytest.param([_leaf(), _middle(end=NOW - DAY / 2)], "not valid", id="a retired authority"),
        pytest.param(
            [_leaf(), _middle(start=NOW + DAY / 2)], "not valid", id="an authority of tomorrow"
        ),
        pytest.param(
            [_leaf(SIGNS, _purpose(ExtendedKeyUsageOID.SERVER_AUTH)), _middle()],
            "codeSigning",
            id="a TLS server",
        ),
        pytest.param(
            [_leaf(SIGNS, _purpose(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)), _middle()],
            "codeSigning",
            id="for anything",
        ),
        pytest.param([_leaf(SIGNS), _middle()], "2.5.29.37", id="no extended key usage"),
        pytest.param([_leaf(CODE), _middle()], "2.5.29.15", id="no key usage"),
        pytest.param(
            [_leaf(_usage("key_agreement"), CODE), _middle()],
            "digitalSignature",
            id="not for signatures",
        ),
        pytest.param(
            [_leaf(_usage("digital_signature", "key_cert_sign"), CODE), _middle()],
            "digitalSignature",
            id="a leaf that may certify",
        ),
        pytest.param([_leaf(), _middle(ca=(False, None))], "basicConstraints", id="not a CA"),
        pytest.param([_leaf(), _middle(ca=None)], "basicConstraints", id="says nothing of CA"),
        pytest.param([_leaf(), _middle(SIGNS)], "sign certificates", id="may not certify"),
        pytest.param(
            [_leaf(), _middle(CERTIFIES, _purpose(ExtendedKeyUsageOID.SERVER_AUTH))],
            "code signing",
            id="an authority for TLS",
        ),
        pytest.param([_leaf()], "candidates", id="a gap"),
        pytest.param([_leaf(by=OTHER), _middle()], "signature", id="the authority did not sign it"),
        pytest.param(
            [_leaf(), _certificate("middle", "root", MIDDLE, OTHER, CERTIFIES, ca=(True, None))],
            "signature",
            id="the root did not sign the authority",
        ),
        pytest.param(
            [
                _certificate("release", "evil", LEAF, OTHER, SIGNS, CODE),
                _root(subject="evil", key=OTHER),
            ],
            "candidates",
            id="a root that it brings along",
        ),
    ],
)
def test_chains_that_do_not_count(chain, says):
    with pytest.raises(UntrustedCertificateError, match=says):
        verify_certificates(_bundle(*chain), trusted=_trust(_root()), at=NOW)


@pytest.mark.parametrize(
    ("root", "says"),
    [
        pytest.param(_root(end=NOW - DAY / 2), "not valid", id="expired"),
        pytest.param(_root(ca=(True, 0)), "path length", id="for leaves only"),
        pytest.param(_root(key=OTHER), "signature", id="another of the same name"),
        pytest.param(_root(SIGNS), "sign certificates", id="may not certify"),
    ],
)
def test_roots_that_do_not_count(root, says):
    with pytest.raises(UntrustedCertificateError, match=says):
        verify_certificates(_bundle(_leaf(), _middle()), trusted=_trust(root), at=NOW)


@pytest.mark.parametrize("at", [NOW - DAY, NOW + DAY])
def test_both_ends_of_the_validity_count(at):
    assert verify_certificates(_bundle(_leaf(), _middle()), trusted=_trust(_root()), at=at)


@pytest.mark.parametrize(
    "bundle",
    [
        pytest.param(_bundle(_leaf(), _middle(), key=OTHER), id="another key"),
        pytest.param(
            _bundle(_leaf(), _middle()).replace(
                base64.b64encode(PAYLOAD), base64.b64encode(PAYLOAD.replace(b"v1", b"v2"))
            ),
            id="another payload",
        ),
        pytest.param(_bundle(_leaf(), _middle(), algorithm=hashes.SHA512()), id="another hash"),
    ],
)
def test_the_signature_must_be_the_leafs(bundle):
    with pytest.raises(UntrustedCertificateError, match="not by the certificate"):
        verify_certificates(bundle, trusted=_trust(_root()), at=NOW)


def test_leaves_of_other_keys():
    large = ec.generate_private_key(ec.SECP384R1())
    signed = _bundle(_leaf(key=large), _middle(), key=large, algorithm=hashes.SHA384())
    assert verify_certificates(signed, trusted=_trust(_root()), at=NOW)

    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    signed = _bundle_of([_der(_leaf(key=other)), _der(_middle())])
    with pytest.raises(UntrustedCertificateError, match="key of its certificate"):
        verify_certificates(signed, trusted=_trust(_root()), at=NOW)

    edwards = ed25519.Ed25519PrivateKey.generate()
    signed = _bundle(_leaf(key=edwards), _middle(), key=edwards)
    assert verify_certificates(signed, trusted=_trust(_root()), at=NOW)


@pytest.mark.parametrize(
    ("bundle", "says"),
    [
        pytest.param(_bundle_of([]), "1 to 8", id="empty chain"),
        pytest.param(_bundle_of([_der(_leaf())] * 9), "1 to 8", id="a long chain"),
        pytest.param(_bundle_of([b"\x30\x03abc"]), "cannot be read", id="not a certificate"),
        pytest.param(_bundle_of([_der(_leaf())[:-1]]), "cannot be read", id="cut off"),
        pytest.param(_bundle_of([b"x" * 20_000]), "larger", id="oversize"),
        pytest.param(
            _bundle_of([b"x"]).replace(b"rawBytes", b"raw"), "not base64", id="another field"
        ),
    ],
)
def test_what_is_not_a_chain_is_malformed(bundle, says):
    with pytest.raises(MalformedBundleError, match=says):
        verify_certificates(bundle, trusted=_trust(_root()), at=NOW)


def test_without_a_self_signed_certificate_there_is_no_root():
    with pytest.raises(ValueError, match="no root"):
        _trust(_middle())
    with pytest.raises(ValueError, match="PEM"):
        load_authorities([b"nonsense"])
