"""What an entry of a transparency log says about a key, and when it says nothing."""

import base64
import hashlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from linnet_agent.verify.envelope import signing_bytes
from linnet_agent.verify.log_entry import SignedThing, logged_key

PUBLIC = ec.generate_private_key(ec.SECP256R1()).public_key()
SPKI = PUBLIC.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
PEM = PUBLIC.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
KEY = hashlib.sha256(SPKI).hexdigest()
PAYLOAD, SIGNATURE, FILE = b"{}", b"signature", hashlib.sha256(b"file").digest()
STATEMENT = SignedThing(SIGNATURE, PAYLOAD, None)
BARE = SignedThing(SIGNATURE, None, FILE)


def _b64(content):
    return base64.b64encode(content).decode()


def _entry(kind, version, spec):
    return {"apiVersion": version, "kind": kind, "spec": spec}


def _record_1(digest=FILE, **more):
    return {
        "data": {"hash": {"algorithm": "sha256", "value": digest.hex()}},
        "signature": {"content": _b64(SIGNATURE), "publicKey": {"content": _b64(PEM)}},
    } | more


def _record_2(digest=FILE, algorithm="SHA2_256"):
    return {
        "hashedRekordV002": {
            "data": {"algorithm": algorithm, "digest": _b64(digest)},
            "signature": {
                "content": _b64(SIGNATURE),
                "verifier": {"publicKey": {"rawBytes": _b64(SPKI)}},
            },
        }
    }


def _envelope(payload=PAYLOAD, **more):
    return {
        "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
        "signatures": [{"signature": _b64(SIGNATURE), "verifier": _b64(PEM)}],
    } | more


_ENVELOPED = signing_bytes(PAYLOAD)


def _ask(entry, thing, *, kind=None, version=None):
    return logged_key(
        json.dumps(entry).encode(),
        kind=kind or entry["kind"],
        version=version or entry["apiVersion"],
        thing=thing,
    )


@pytest.mark.parametrize(
    ("entry", "thing"),
    [
        (_entry("hashedrekord", "0.0.1", _record_1()), BARE),
        (_entry("hashedrekord", "0.0.2", _record_2()), BARE),
        (
            _entry("hashedrekord", "0.0.2", _record_2(hashlib.sha256(_ENVELOPED).digest())),
            STATEMENT,
        ),
        (
            _entry(
                "hashedrekord",
                "0.0.2",
                _record_2(hashlib.sha384(_ENVELOPED).digest(), "SHA2_384"),
            ),
            STATEMENT,
        ),
        (_entry("dsse", "0.0.1", _envelope()), STATEMENT),
    ],
    ids=["a file", "a file, Rekor 2", "a statement, Rekor 2", "another hash", "a statement"],
)
def test_an_entry_about_this_signature_names_its_key(entry, thing):
    assert _ask(entry, thing) == KEY


@pytest.mark.parametrize(
    ("entry", "thing"),
    [
        pytest.param(
            _entry("hashedrekord", "0.0.1", _record_1(b"x" * 32)), BARE, id="another file"
        ),
        pytest.param(
            _entry("hashedrekord", "0.0.2", _record_2(b"x" * 32)), BARE, id="another file, Rekor 2"
        ),
        pytest.param(
            _entry("hashedrekord", "0.0.2", _record_2(b"x" * 32)), STATEMENT, id="other bytes"
        ),
        pytest.param(_entry("dsse", "0.0.1", _envelope(b"[]")), STATEMENT, id="another statement"),
        pytest.param(_entry("dsse", "0.0.1", _envelope()), BARE, id="a statement, not a file"),
        pytest.param(
            _entry("hashedrekord", "0.0.1", _record_1()), STATEMENT, id="a file, not a statement"
        ),
        pytest.param(
            _entry("hashedrekord", "0.0.2", _record_2(FILE, "SHA2_512")), BARE, id="another hash"
        ),
        pytest.param(
            _entry("dsse", "0.0.1", _envelope()),
            SignedThing(b"another", PAYLOAD, None),
            id="another signature",
        ),
        pytest.param(
            _entry("dsse", "0.0.1", _envelope(signatures=[])), STATEMENT, id="no signature"
        ),
        pytest.param(
            _entry("dsse", "0.0.1", _envelope(signatures=_envelope()["signatures"] * 2)),
            STATEMENT,
            id="two signatures",
        ),
        pytest.param(
            _entry("dsse", "0.0.1", _envelope(payloadHash={"algorithm": "md5", "value": ""})),
            STATEMENT,
            id="a hash that is none",
        ),
        pytest.param(_entry("hashedrekord", "0.0.1", {}), BARE, id="an empty entry"),
        pytest.param(_entry("hashedrekord", "0.0.1", []), BARE, id="a list"),
        pytest.param(_entry("intoto", "0.0.2", {}), STATEMENT, id="a retired kind"),
        pytest.param(
            _entry("hashedrekord", "0.0.1", _record_1(signature={"content": "AA=="})),
            BARE,
            id="no key",
        ),
    ],
)
def test_an_entry_about_something_else_says_nothing(entry, thing):
    with pytest.raises(ValueError, match=r"\w"):
        _ask(entry, thing)


def test_an_entry_is_of_the_kind_that_the_bundle_says():
    with pytest.raises(ValueError, match="not supported"):
        _ask(_entry("x", "0.0.1", _envelope()), STATEMENT, kind="dsse")
    with pytest.raises(ValueError, match="not supported"):
        _ask(_entry("dsse", "0.0.2", _envelope()), STATEMENT, version="0.0.1")
