import base64
import hashlib
import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linnet_agent.errors import MalformedBundleError
from linnet_agent.verify.envelope import parse_bundle
from linnet_agent.verify.keys import load_public_key
from linnet_agent.verify.oms import parse_statement
from linnet_cli.publish.sign import sign_model
from linnet_cli.publish.statement import build_bundle, canonical_json

_FIXTURES = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _flip(content, position, mask):
    changed = bytearray(content)
    changed[position % len(changed)] ^= mask
    return bytes(changed)


def _public_pem(key):
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


@pytest.mark.slow
@_FIXTURES
@given(
    part=st.sampled_from(["payload", "signature"]),
    position=st.integers(0, 10_000),
    mask=st.integers(1, 255),
)
def test_a_bundle_with_one_changed_byte_never_verifies(workshop, part, position, mask):
    whole = parse_bundle(workshop.release.bundle(workshop.statement()))
    content = {"payload": whole.payload, "signature": whole.signature}
    content[part] = _flip(content[part], position, mask)
    changed = parse_bundle(
        build_bundle(
            content["payload"], signature=content["signature"], key_id=workshop.release.key_id
        )
    )
    key = load_public_key(workshop.release.public)

    assert key.verifies(whole)
    assert not key.verifies(changed)


@pytest.mark.slow
@_FIXTURES
@given(position=st.integers(0, 10_000), mask=st.integers(1, 255))
def test_a_changed_byte_of_the_file_never_makes_another_statement(workshop, position, mask):
    raw = workshop.release.bundle(workshop.statement())
    key = load_public_key(workshop.release.public)
    try:
        bundle = parse_bundle(_flip(raw, position, mask))
    except MalformedBundleError:
        return

    assert not key.verifies(bundle) or bundle.payload == parse_bundle(raw).payload


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_every_curve_of_the_specification_signs_and_verifies(curve, tmp_path):
    key = ec.generate_private_key(curve)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (tmp_path / "model.onnx").write_bytes(b"weights")
    bundle = parse_bundle(sign_model(tmp_path, model="a/b", counter=1, private_key_pem=pem))

    assert load_public_key(_public_pem(key)).verifies(bundle)
    assert not load_public_key(_public_pem(ec.generate_private_key(curve))).verifies(bundle)


@pytest.mark.parametrize(
    "pem",
    [
        pytest.param(_public_pem(ed448.Ed448PrivateKey.generate()), id="Ed448"),
        pytest.param(_public_pem(rsa.generate_private_key(65537, 2048)), id="RSA"),
        pytest.param(_public_pem(ec.generate_private_key(ec.SECP256K1())), id="another curve"),
        pytest.param("-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----", id="not a key"),
        pytest.param("", id="nothing"),
    ],
)
def test_keys_that_cannot_sign_models_are_refused(pem):
    with pytest.raises(ValueError, match="not"):
        load_public_key(pem)


def test_a_key_id_is_the_sha256_of_the_pem_text_however_it_is_indented(workshop):
    pem = workshop.release.public

    assert load_public_key(pem).key_id == hashlib.sha256(pem.encode()).hexdigest()
    assert load_public_key("\n" + pem + "\n\n").key_id == load_public_key(pem).key_id


def _edit(document, path, value):
    document = json.loads(json.dumps(document))
    place = document
    for step in path[:-1]:
        place = place[step]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return document


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["mediaType"], "application/vnd.dev.sigstore.bundle.v0.4+json"),
        (["mediaType"], None),
        (["messageSignature"], {}),
        (["verificationMaterial"], None),
        (["verificationMaterial"], {"certificate": {}, "publicKey": {}}),
        (["dsseEnvelope"], []),
        (["dsseEnvelope", "payloadType"], "text/plain"),
        (["dsseEnvelope", "payload"], "e30"),
        (["dsseEnvelope", "payload"], "e31="),
        (["dsseEnvelope", "payload"], ""),
        (["dsseEnvelope", "payload"], "e30=\n"),
        (["dsseEnvelope", "signatures"], []),
        (["dsseEnvelope", "signatures"], [{"sig": "AA=="}, {"sig": "AA=="}]),
        (["dsseEnvelope", "signatures"], ["AA=="]),
        (["dsseEnvelope", "signatures"], [{"sig": 1}]),
    ],
    ids=str,
)
def test_a_bundle_of_another_form_is_malformed(workshop, path, value):
    document = json.loads(workshop.release.bundle(workshop.statement()))

    with pytest.raises(MalformedBundleError):
        parse_bundle(canonical_json(_edit(document, path, value)))


_FILE = {"name": "a", "algorithm": "sha256", "digest": "0" * 64}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["_type"], "https://in-toto.io/Statement/v0.1"),
        (["predicateType"], "https://model_signing/Digests/v0.1"),
        (["predicate"], None),
        (["predicate", "serialization"], None),
        (["predicate", "serialization", "method"], "shards"),
        (["predicate", "serialization", "shard_size"], 5),
        (["predicate", "serialization", "hash_type"], "blake3"),
        (["predicate", "serialization", "allow_symlinks"], True),
        (["predicate", "serialization", "allow_symlinks"], None),
        (["predicate", "resources"], []),
        (["predicate", "resources"], {}),
        (["predicate", "resources"], [_FILE, _FILE]),
        (["predicate", "resources"], [{**_FILE, "name": "../a"}]),
        (["predicate", "resources"], [{**_FILE, "name": 7}]),
        (["predicate", "resources"], [{**_FILE, "algorithm": "blake2b"}]),
        (["predicate", "resources"], [{**_FILE, "digest": "A" * 64}]),
        (["predicate", "resources"], [{**_FILE, "digest": "0" * 63}]),
        (["predicate", "resources"], ["a"]),
        (["predicate", "resources", 0, "digest"], "0" * 64),
        (["subject"], []),
        (["subject"], ["factory/digits"]),
        (["subject", 0, "name"], ""),
        (["subject", 0, "name"], "a\nb"),
        (["subject", 0, "name"], None),
        (["subject", 0, "digest"], {}),
        (["subject", 0, "annotations"], []),
        (["subject", 0, "annotations", "linnet.dev/release-counter"], 17),
        (["subject", 0, "annotations", "linnet.dev/release-counter"], "-1"),
        (["subject", 0, "annotations", "linnet.dev/release-counter"], "017"),
        (["subject", 0, "annotations", "linnet.dev/release-counter"], "1" * 17),
        (["subject", 0, "annotations", "linnet.dev/release-counter"], "\u0661"),
    ],
    ids=str,
)
def test_a_statement_of_another_form_is_malformed(workshop, path, value):
    document = json.loads(workshop.statement())

    with pytest.raises(MalformedBundleError):
        parse_statement(canonical_json(_edit(document, path, value)))


@pytest.mark.parametrize("annotations", [None, {}], ids=str)
def test_a_statement_without_a_counter_has_none(workshop, annotations):
    path = ["subject", 0, "annotations"]
    document = _edit(json.loads(workshop.statement()), path, annotations)

    assert parse_statement(canonical_json(document)).counter is None


def test_a_statement_is_known_by_the_digest_of_its_bytes(workshop):
    payload = workshop.statement()
    statement = parse_statement(payload)

    assert statement.model == "factory/digits"
    assert statement.counter == 17
    assert statement.files == workshop.files()
    assert statement.model_digest == "sha256:" + hashlib.sha256(payload).hexdigest()


def test_signing_again_gives_the_same_bundle(workshop, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"weights")
    private = workshop.release.private

    first, second = (
        sign_model(tmp_path, model="a/b", counter=1, private_key_pem=private) for _ in range(2)
    )

    assert parse_bundle(first).payload == parse_bundle(second).payload


def test_what_a_signer_has_ignored_does_not_matter(workshop):
    document = json.loads(workshop.statement())
    document["predicate"]["serialization"]["ignore_paths"] = ["."]

    assert parse_statement(canonical_json(document)).files == workshop.files()


def test_base64_has_one_writing_for_one_value():
    # "e30=" and "e31=" are the same two bytes to a careless decoder.
    assert base64.b64decode("e31=") == base64.b64decode("e30=")
