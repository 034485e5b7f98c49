"""Bundles that sign a file: what `cosign sign-blob` makes, and attestations about it."""

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from linnet_agent.verify.file_signatures import check_file
from linnet_agent.verify.keys import load_public_key
from linnet_agent.verify.signatures import IdentitySigner, KeySigner, Proof, Unproved
from linnet_api.reasons import NodeReason
from linnet_testbed.keyless import HereVerifier
from linnet_testbed.sigstore import Signing, Sigstore

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
CONTENT = b"weights"
SHA256 = hashlib.sha256(CONTENT).digest()
PRIVATE = ec.generate_private_key(ec.SECP256R1())
STATEMENT = json.dumps(
    {"_type": "https://in-toto.io/Statement/v1", "subject": [{"digest": {"sha256": SHA256.hex()}}]}
).encode()


def _key(private=PRIVATE):
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return load_public_key(pem.decode())


def _bare(private=PRIVATE, *, content=CONTENT, hashing=hashes.SHA256):
    signature = private.sign(content, ec.ECDSA(hashing()))
    return json.dumps(
        {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {"publicKey": {"hint": "x"}},
            "messageSignature": {"signature": base64.b64encode(signature).decode()},
        }
    ).encode()


@pytest.fixture(scope="module")
def instance():
    return Sigstore(founded_at=NOON - timedelta(days=30))


@pytest.fixture(scope="module")
def verifier(instance):
    return HereVerifier({"site": instance.trusted_root()}, now=NOON + timedelta(days=1))


def test_a_bare_signature_by_a_key_signs_the_file():
    found = check_file(_bare(), sha256=SHA256, keys=[_key()], verifier=None)

    assert found == (Proof(KeySigner(_key().key_id), None, None),)


@pytest.mark.parametrize("by_timestamp", [False, True], ids=["log time", "timestamp"])
@pytest.mark.parametrize("bare", [True, False], ids=["a bare signature", "a statement"])
def test_an_identity_signs_the_file(instance, verifier, bare, by_timestamp):
    signing = Signing(at=NOON, by_timestamp=by_timestamp)
    raw = (
        instance.sign_file(CONTENT, signing)
        if bare
        else instance.sign_statement(STATEMENT, signing)
    )

    (proof,) = check_file(raw, sha256=SHA256, keys=[], verifier=verifier)

    assert isinstance(proof.signer, IdentitySigner)
    assert proof.signed_at == NOON + timedelta(seconds=5)


def test_a_log_entry_gives_a_time_to_a_keys_statement(instance, verifier):
    raw = instance.log_statement(STATEMENT, PRIVATE, Signing(at=NOON))

    (proof,) = check_file(raw, sha256=SHA256, keys=[_key()], verifier=verifier)

    assert proof == Proof(KeySigner(_key().key_id), NOON + timedelta(seconds=5), 0, "site")


def test_a_log_entry_of_another_instance_gives_none(verifier):
    foreign = Sigstore(founded_at=NOON - timedelta(days=30))
    raw = foreign.log_statement(STATEMENT, PRIVATE, Signing(at=NOON))

    (proof,) = check_file(raw, sha256=SHA256, keys=[_key()], verifier=verifier)

    assert proof.signed_at is None


def test_a_log_entry_by_another_key_gives_none(instance, verifier):
    mine, theirs = (
        instance.log_statement(STATEMENT, key, Signing(at=NOON))
        for key in (PRIVATE, ec.generate_private_key(ec.SECP256R1()))
    )

    class Mistaken:
        def verify_file(self, _, *, sha256):
            return verifier.verify_file(theirs, sha256=sha256)

    (proof,) = check_file(mine, sha256=SHA256, keys=[_key()], verifier=Mistaken())

    assert proof == Proof(KeySigner(_key().key_id), None, None)


def _two_contents(raw):
    return json.dumps(json.loads(raw) | {"dsseEnvelope": {}}).encode()


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        pytest.param(lambda _: b"junk", NodeReason.MALFORMED_BUNDLE, id="junk"),
        pytest.param(lambda _: b"{}", NodeReason.MALFORMED_BUNDLE, id="nothing"),
        pytest.param(
            lambda _: _two_contents(_bare()), NodeReason.MALFORMED_BUNDLE, id="two contents"
        ),
        pytest.param(
            lambda _: _bare(content=b"other"), NodeReason.UNTRUSTED_KEY, id="another file"
        ),
        pytest.param(
            lambda _: _bare(ec.generate_private_key(ec.SECP256R1())),
            NodeReason.UNTRUSTED_KEY,
            id="a stranger's key",
        ),
        pytest.param(
            lambda i: i.sign_file(b"other", Signing(at=NOON)),
            NodeReason.BAD_SIGNATURE,
            id="an identity, another file",
        ),
        pytest.param(
            lambda i: i.sign_statement(b'{"subject":[]}', Signing(at=NOON)),
            NodeReason.CONTENT_NOT_SIGNED,
            id="a statement about nothing",
        ),
        pytest.param(
            lambda i: i.sign_statement(
                STATEMENT.replace(SHA256.hex().encode(), b"0" * 64), Signing(at=NOON)
            ),
            NodeReason.CONTENT_NOT_SIGNED,
            id="a statement about another file",
        ),
        pytest.param(
            lambda _: Sigstore(founded_at=NOON - timedelta(days=9)).sign_file(
                CONTENT, Signing(at=NOON)
            ),
            NodeReason.UNTRUSTED_KEY,
            id="a foreign instance",
        ),
    ],
)
def test_what_does_not_sign_the_file_is_refused(instance, verifier, raw, reason):
    found = check_file(raw(instance), sha256=SHA256, keys=[_key()], verifier=verifier)

    assert isinstance(found, Unproved)
    assert found.reason is reason


def test_without_a_trusted_root_an_identity_signs_nothing(instance):
    raw = instance.sign_file(CONTENT, Signing(at=NOON))

    found = check_file(raw, sha256=SHA256, keys=[_key()], verifier=None)

    assert isinstance(found, Unproved)
    assert found.reason is NodeReason.NO_TRUST_ROOT


def test_a_key_that_signs_another_hash_signs_no_file_by_its_sha256():
    private = ec.generate_private_key(ec.SECP384R1())

    found = check_file(
        _bare(private, hashing=hashes.SHA256), sha256=SHA256, keys=[_key(private)], verifier=None
    )

    assert isinstance(found, Unproved)
