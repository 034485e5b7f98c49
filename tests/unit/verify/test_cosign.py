"""What `cosign sign` makes over an OCI artifact, with a key of every kind, and keyless."""

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from linnet_agent.errors import MalformedBundleError
from linnet_agent.verify.cosign import parse_cosign_statement
from linnet_agent.verify.envelope import signing_bytes
from linnet_agent.verify.keys import load_public_key
from linnet_agent.verify.signatures import IdentitySigner, KeySigner, Proof, check_signatures
from linnet_api.reasons import NodeReason
from linnet_testbed.keyless import HereVerifier
from linnet_testbed.sigstore import Signing, Sigstore

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ARTIFACT = "sha256:" + hashlib.sha256(b"manifest").hexdigest()
OTHER = "sha256:" + hashlib.sha256(b"another manifest").hexdigest()
PREDICATE_TYPE = "https://sigstore.dev/cosign/sign/v1"


def statement(digest=ARTIFACT, **annotations):
    """Write what `cosign sign -a name=text` signs, as Go's protojson does."""
    subject = {"digest": {"sha256": digest.removeprefix("sha256:")}, "annotations": annotations}
    return json.dumps(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [subject],
            "predicateType": PREDICATE_TYPE,
            "predicate": {},
        }
    ).encode()


def bundle(payload, key):
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        signature = key.sign(signing_bytes(payload))
    else:
        hashing = {256: hashes.SHA256, 384: hashes.SHA384, 521: hashes.SHA512}[key.key_size]
        signature = key.sign(signing_bytes(payload), ec.ECDSA(hashing()))
    hint = base64.b64encode(hashlib.sha256(spki).digest()).decode()
    return json.dumps(
        {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": "application/vnd.in-toto+json",
                "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
            },
        }
    ).encode()


def verification_key(key):
    return load_public_key(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    )


_KEYS = {
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "P-521": ec.generate_private_key(ec.SECP521R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
}


@pytest.mark.parametrize("kind", _KEYS)
def test_a_bundle_by_a_key_of_each_kind_counts(kind):
    keys = [verification_key(key) for key in _KEYS.values()]

    (signed,), unproved = check_signatures(
        [bundle(statement(), _KEYS[kind])], keys=keys, keyless=None, artifact_digest=ARTIFACT
    )

    assert signed.format == "Cosign"
    assert signed.predicate_type == PREDICATE_TYPE
    assert signed.proofs == (Proof(KeySigner(verification_key(_KEYS[kind]).key_id), None, None),)
    assert unproved == []


def test_a_keyless_bundle_counts():
    instance = Sigstore(founded_at=NOON - timedelta(days=30))
    raw = instance.sign_statement(statement(), Signing(at=NOON, subject="ci@factory.testbed"))
    keyless = HereVerifier({"site": instance.trusted_root()}, now=NOON + timedelta(days=1))

    (signed,), unproved = check_signatures(
        [raw], keys=[], keyless=keyless, artifact_digest=ARTIFACT
    )

    assert signed.format == "Cosign"
    assert isinstance(signed.proofs[0].signer, IdentitySigner)
    assert unproved == []


@pytest.mark.parametrize("digest", [OTHER, None], ids=["another artifact", "no artifact"])
def test_a_signature_of_another_artifact_is_none_of_this(digest):
    key = _KEYS["P-256"]

    signed, (unproved,) = check_signatures(
        [bundle(statement(), key)],
        keys=[verification_key(key)],
        keyless=None,
        artifact_digest=digest,
    )

    assert signed == []
    assert unproved.reason is NodeReason.CONTENT_NOT_SIGNED
    assert ARTIFACT in unproved.message


def test_a_signature_of_the_index_above_counts():
    key = _KEYS["P-256"]

    (signed,), _ = check_signatures(
        [bundle(statement(OTHER), key)],
        keys=[verification_key(key)],
        keyless=None,
        artifact_digest=ARTIFACT,
        index_digest=OTHER,
    )

    assert signed.format == "Cosign"


def test_name_and_counter_come_with_the_signature():
    said = parse_cosign_statement(
        statement(**{"linnet.dev/model": "factory/digits", "linnet.dev/release-counter": "17"})
    )

    assert said.artifact_digest == ARTIFACT
    assert said.annotations == {
        "linnet.dev/model": "factory/digits",
        "linnet.dev/release-counter": "17",
    }


@pytest.mark.parametrize(
    "change",
    [
        {"_type": "https://in-toto.io/Statement/v0.1"},
        {"predicateType": "https://slsa.dev/provenance/v1"},
        {"subject": []},
        {"subject": [{"digest": {"sha256": "0" * 64}}] * 2},
        {"subject": [{"digest": {"sha512": "0" * 128}}]},
        {"subject": [{"digest": {"sha256": "0" * 63}}]},
        {"subject": [{"digest": {"sha256": "A" * 64}}]},
        {"subject": ["x"]},
        {"subject": None},
    ],
    ids=str,
)
def test_a_statement_of_another_form_is_malformed(change):
    document = json.loads(statement()) | change

    with pytest.raises(MalformedBundleError):
        parse_cosign_statement(json.dumps(document).encode())


def test_an_annotation_that_is_no_text_says_nothing():
    assert parse_cosign_statement(statement(a=1, b=["x"], c="text")).annotations == {"c": "text"}
