"""Who has verifiably signed what, whatever lies beside it."""

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from linnet_agent.verify.envelope import MAX_BUNDLE_BYTES
from linnet_agent.verify.keys import load_public_key
from linnet_agent.verify.signatures import (
    KEYS_BUDGET_S,
    IdentitySigner,
    KeySigner,
    Proof,
    Unproved,
    check_signatures,
)
from linnet_api.reasons import NodeReason
from linnet_cli.publish.statement import canonical_json
from linnet_testbed.keyless import HereVerifier
from linnet_testbed.sigstore import Signing, Sigstore

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SEEN = NOON + timedelta(seconds=5)
LATER = NOON + timedelta(days=400)
_RESOURCE = b'{"name":"a","algorithm":"sha256","digest":"%s"}' % (b"0" * 64)


@pytest.fixture(scope="module")
def instance():
    return Sigstore(founded_at=NOON - timedelta(days=30))


@pytest.fixture(scope="module")
def keyless(instance):
    return HereVerifier({"site": instance.trusted_root()}, now=LATER)


def check(bundles, *signers, keyless=None, artifact_digest=None, **more):
    keys = [load_public_key(signer.public) for signer in signers]
    return check_signatures(
        bundles, keys=keys, keyless=keyless, artifact_digest=artifact_digest, **more
    )


def _by(signer):
    return Proof(KeySigner(signer.key_id), None, None)


def _renamed(bundle, hint):
    document = json.loads(bundle)
    document["verificationMaterial"] = {"publicKey": {} if hint is None else {"hint": hint}}
    return canonical_json(document)


def _tampered(bundle, number=0):
    document = json.loads(bundle)
    payload = base64.b64decode(document["dsseEnvelope"]["payload"]) + b" " * (number + 1)
    document["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    return canonical_json(document)


def test_everyone_who_signed_exactly_a_payload_is_counted_once(workshop):
    one, other = workshop.statement(counter=1), workshop.statement(counter=2)
    bundles = [
        workshop.release.bundle(one),
        workshop.audit.bundle(one),
        workshop.release.bundle(one),
        workshop.audit.bundle(other),
    ]

    signed, unproved = check(bundles, workshop.release, workshop.audit)

    assert {item.payload: set(item.proofs) for item in signed} == {
        one: {_by(workshop.release), _by(workshop.audit)},
        other: {_by(workshop.audit)},
    }
    assert all(len(set(item.proofs)) == len(item.proofs) for item in signed)
    assert [item.format for item in signed] == ["OMS", "OMS"]
    assert unproved == []


@pytest.mark.parametrize("name", ["as OMS names it", "as cosign names it", "nameless", "another"])
def test_a_key_answers_to_both_of_its_names_and_without_one(workshop, name):
    spki = load_public_key(workshop.release.public).spki_hash
    hint = {
        "as OMS names it": workshop.release.key_id,
        "as cosign names it": base64.b64encode(bytes.fromhex(spki)).decode(),
        "nameless": None,
        "another": "somebody's",
    }[name]
    bundle = _renamed(workshop.release.bundle(workshop.statement()), hint)

    signed, unproved = check([bundle], workshop.audit, workshop.release)

    assert [item.proofs for item in signed] == [(_by(workshop.release),)]
    assert unproved == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["junk", "strangers", "named after the key", "keyless", "huge"])
def test_strangers_cannot_block_a_good_bundle(workshop, instance, keyless, kind):
    statement = workshop.statement()
    good = workshop.release.bundle(statement)
    junk = {
        "junk": lambda n: b"junk %d" % n,
        "strangers": lambda n: workshop.rogue.bundle(workshop.statement(counter=n)),
        "named after the key": lambda n: _tampered(good, n),
        "keyless": lambda n: _tampered(instance.sign_statement(statement, Signing(at=NOON)), n),
        "huge": lambda n: b" " * (MAX_BUNDLE_BYTES + n),
    }[kind]

    count = 17 if kind == "huge" else 300
    signed, unproved = check([*map(junk, range(count)), good], workshop.release, keyless=keyless)

    assert [item.proofs for item in signed] == [(_by(workshop.release),)]
    assert len(unproved) == count


def test_when_time_runs_out_the_keys_that_are_named_come_first(workshop):
    good = workshop.release.bundle(workshop.statement())
    strangers = [workshop.rogue.bundle(workshop.statement(counter=n)) for n in range(30)]
    ticks = iter([0.0, KEYS_BUDGET_S / 2])

    signed, unproved = check(
        [*strangers, good],
        workshop.release,
        clock=lambda: next(ticks, KEYS_BUDGET_S + 1),
    )

    assert [item.proofs for item in signed] == [(_by(workshop.release),)]
    assert [item.message for item in unproved] == ["there are too many bundles to look at all"]


@pytest.mark.parametrize(
    ("bundle", "reason", "words"),
    [
        pytest.param(lambda _: b"junk", NodeReason.MALFORMED_BUNDLE, "not readable", id="junk"),
        pytest.param(
            lambda w: w.release.bundle(w.statement())[:-1] + b',"mediaType":"x"}',
            NodeReason.MALFORMED_BUNDLE,
            "twice",
            id="a key that stands twice",
        ),
        pytest.param(
            lambda w: w.release.bundle(b'{"predicateType":"a","predicateType":"b"}'),
            NodeReason.MALFORMED_BUNDLE,
            "twice",
            id="a key that stands twice in what is signed",
        ),
        pytest.param(
            lambda _: b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            NodeReason.MALFORMED_BUNDLE,
            "deeper",
            id="too deep",
        ),
        pytest.param(
            lambda w: w.release.bundle(b'{"a":' + b"[" * 40 + b"]" * 40 + b"}"),
            NodeReason.MALFORMED_BUNDLE,
            "deeper",
            id="too deep in what is signed",
        ),
        pytest.param(
            lambda _: b" " * (MAX_BUNDLE_BYTES + 1),
            NodeReason.MALFORMED_BUNDLE,
            "more than",
            id="too large",
        ),
        pytest.param(
            lambda w: w.release.bundle(
                b'{"predicate":{"resources":[%s]}}' % b",".join([_RESOURCE] * 100_000)
            ),
            NodeReason.MALFORMED_BUNDLE,
            "more than",
            id="a hundred thousand files",
        ),
        pytest.param(
            lambda w: w.release.bundle(b"no statement"),
            NodeReason.MALFORMED_BUNDLE,
            "not readable",
            id="signed, but no statement",
        ),
        pytest.param(
            lambda w: _tampered(w.release.bundle(w.statement())),
            NodeReason.BAD_SIGNATURE,
            "changed",
            id="changed",
        ),
        pytest.param(
            lambda w: w.rogue.bundle(w.statement()),
            NodeReason.UNTRUSTED_KEY,
            "no key that is trusted here (of 1)",
            id="a stranger",
        ),
        pytest.param(
            lambda w: _edit(
                w.release.bundle(w.statement()),
                ["verificationMaterial"],
                {"x509CertificateChain": {"certificates": []}},
            ),
            NodeReason.UNTRUSTED_KEY,
            "chain of certificates",
            id="a chain of certificates",
        ),
        pytest.param(
            lambda w: _edit(
                w.release.bundle(w.statement()),
                ["verificationMaterial", "certificate"],
                {"rawBytes": "AA=="},
            ),
            NodeReason.MALFORMED_BUNDLE,
            "exactly one",
            id="a key and a certificate",
        ),
    ],
)
def test_a_bundle_that_proves_nothing_says_why(workshop, bundle, reason, words):
    signed, unproved = check([bundle(workshop)], workshop.release)

    assert signed == []
    (one,) = unproved
    assert one.reason is reason
    assert words in one.message


def _edit(bundle, path, value):
    document = json.loads(bundle)
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return canonical_json(document)


@given(st.lists(st.binary(max_size=80), max_size=8))
def test_nothing_from_outside_raises(workshop, bundles):
    signed, unproved = check(bundles, workshop.release)

    assert signed == []
    assert len(unproved) == len(set(bundles))


# --- keyless --------------------------------------------------------------------------------------


def test_a_key_and_an_identity_sign_one_payload_together(workshop, instance, keyless):
    statement = workshop.statement()
    bundles = [
        instance.sign_statement(statement, Signing(at=NOON, subject="ci@factory.testbed")),
        workshop.release.bundle(statement),
    ]

    (signed,), unproved = check(bundles, workshop.release, keyless=keyless)

    by_key, by_identity = signed.proofs
    assert by_key == _by(workshop.release)
    assert isinstance(by_identity.signer, IdentitySigner)
    assert by_identity.signer.subject == "ci@factory.testbed"
    assert by_identity.signed_at == SEEN
    assert unproved == []


def test_without_a_trusted_root_a_keyless_bundle_proves_nothing(workshop, instance):
    bundle = instance.sign_statement(workshop.statement(), Signing(at=NOON))

    signed, (unproved,) = check([bundle], workshop.release)

    assert signed == []
    assert unproved.reason is NodeReason.NO_TRUST_ROOT


def test_a_certificate_of_another_instance_proves_nothing(workshop, keyless):
    foreign = Sigstore(founded_at=NOON - timedelta(days=30))
    bundle = foreign.sign_statement(workshop.statement(), Signing(at=NOON))

    signed, (unproved,) = check([bundle], workshop.release, keyless=keyless)

    assert signed == []
    assert unproved.reason is NodeReason.UNTRUSTED_KEY


def test_a_log_entry_gives_a_time_to_a_keys_signature(instance, keyless):
    private, signer = _new_signer()
    bundle = instance.log_statement(b'{"predicateType":"x"}', private, Signing(at=NOON))

    (signed,), unproved = check([bundle], signer, keyless=keyless)

    assert signed.proofs == (Proof(KeySigner(signer.key_id), SEEN, 0, "site"),)
    assert unproved == []


def test_a_log_entry_that_is_not_good_takes_nothing_away(instance, keyless):
    private, signer = _new_signer()
    bundle = instance.log_statement(b'{"predicateType":"x"}', private, Signing(at=NOON))
    entry = ["verificationMaterial", "tlogEntries", 0, "integratedTime"]

    (signed,), unproved = check([_edit(bundle, entry, "1")], signer, keyless=keyless)

    assert signed.proofs == (_by(signer),)
    assert unproved == []


def test_a_log_entry_by_another_key_gives_no_time(instance, keyless):
    one, signer = _new_signer()
    other, _ = _new_signer()
    payload = b'{"predicateType":"x"}'
    mine, theirs = (
        json.loads(instance.log_statement(payload, key, Signing(at=NOON))) for key in (one, other)
    )

    class Mistaken:
        def verify(self, bundles):
            return keyless.verify([json.dumps(theirs).encode()] * len(bundles))

    (signed,), _ = check([json.dumps(mine).encode()], signer, keyless=Mistaken())

    assert signed.proofs == (_by(signer),)


def test_a_log_entry_does_not_make_a_strangers_key_trusted(workshop, instance, keyless):
    private, _ = _new_signer()
    bundle = instance.log_statement(workshop.statement(), private, Signing(at=NOON))

    signed, (unproved,) = check([bundle], workshop.release, keyless=keyless)

    assert signed == []
    assert unproved.reason is NodeReason.UNTRUSTED_KEY


class _Signer:
    def __init__(self, public):
        self.public = public
        self.key_id = load_public_key(public).key_id


def _new_signer():
    private = ec.generate_private_key(ec.SECP256R1())
    return private, _Signer(_pem(private))


def _pem(private):
    return (
        private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    )


def test_what_the_verifier_says_of_a_bundle_is_passed_on(workshop, instance):
    bundle = instance.sign_statement(workshop.statement(), Signing(at=NOON))

    class Broken:
        def verify(self, bundles):
            return [Unproved(NodeReason.KEYLESS_UNAVAILABLE, "it was ended by SIGKILL")] * len(
                bundles
            )

    signed, unproved = check([bundle], workshop.release, keyless=Broken())

    assert signed == []
    assert unproved == [Unproved(NodeReason.KEYLESS_UNAVAILABLE, "it was ended by SIGKILL")]
