"""What has been tried against verifiers of models, and the reason that a node gives for each.

`docs/attacks.md` lists them with the tests of the other layers.
"""

import json
from hashlib import sha256

import pytest

from linnet_agent.verify.envelope import MAX_BUNDLE_BYTES
from linnet_api.reasons import NodeReason
from linnet_cli.publish.keys import load_private_key, make_signature
from linnet_cli.publish.statement import build_bundle, canonical_json


def _signed(workshop, files=None, *, serialization=None, **change):
    """Return a good signature by the trusted key over a statement that is not good."""
    document = json.loads(workshop.statement(files))
    document["predicate"]["serialization"] |= serialization or {}
    return workshop.release.bundle(canonical_json(document | change))


def _named(*names):
    return lambda w: _signed(w, dict.fromkeys(names, w.digest(b"weights")))


def _how(**serialization):
    return lambda w: _signed(w, serialization=serialization)


def _of_nothing(workshop, **serialization):
    document = json.loads(workshop.statement())
    document["predicate"]["resources"] = []
    document["predicate"]["serialization"] |= serialization
    document["subject"][0]["digest"] = {"sha256": sha256().hexdigest()}
    return workshop.release.bundle(canonical_json(document))


def _hashed_by(workshop, algorithm):
    document = json.loads(workshop.statement())
    for resource in document["predicate"]["resources"]:
        resource["algorithm"] = algorithm
    return workshop.release.bundle(canonical_json(document))


def _enveloped_as(workshop, kind):
    """Return what the trusted key has signed as something else, said to be a statement."""
    payload = workshop.statement()
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    signature = make_signature(load_private_key(workshop.release.private), signed)
    return build_bundle(payload, signature=signature, key_id=workshop.release.key_id)


def _bare(workshop):
    """Return a signature over the statement's bytes, without the envelope."""
    payload = workshop.statement()
    signature = make_signature(load_private_key(workshop.release.private), payload)
    return build_bundle(payload, signature=signature, key_id=workshop.release.key_id)


def _edited(workshop, change):
    document = json.loads(workshop.release.bundle(workshop.statement()))
    change(document)
    return canonical_json(document)


def _swapped(workshop):
    files = workshop.files()
    return workshop.release.bundle(
        workshop.statement(dict(zip(files, reversed(files.values()), strict=True)))
    )


ATTACKS = {
    # of the reference implementation: what it accepts, and what it trips over
    "files are left out by the signer": (
        lambda w: _signed(
            w,
            {"model.onnx": w.files()["model.onnx"]},
            serialization={"ignore_paths": ["golden.json"]},
        ),
        NodeReason.CONTENT_NOT_SIGNED,
    ),
    "everything is left out by the signer": (
        lambda w: _of_nothing(w, ignore_paths=["."]),
        NodeReason.MALFORMED_BUNDLE,
    ),
    "the names of two files are swapped": (_swapped, NodeReason.CONTENT_NOT_SIGNED),
    "an empty model": (_of_nothing, NodeReason.MALFORMED_BUNDLE),
    "shards": (_how(method="shards", shard_size=10), NodeReason.MALFORMED_BUNDLE),
    "a size of shards that is no whole number": (
        _how(method="shards", shard_size=1e9),
        NodeReason.MALFORMED_BUNDLE,
    ),
    "another hash": (_how(hash_type="blake2b"), NodeReason.MALFORMED_BUNDLE),
    "another hash of one file": (
        lambda w: _hashed_by(w, "blake3"),
        NodeReason.MALFORMED_BUNDLE,
    ),
    "links are followed": (_how(allow_symlinks=True), NodeReason.MALFORMED_BUNDLE),
    "the old predicate": (
        lambda w: _signed(w, predicateType="https://model_signing/Digests/v0.1"),
        NodeReason.MALFORMED_BUNDLE,
    ),
    "a single file without a name": (_named("."), NodeReason.MALFORMED_BUNDLE),
    "a chain of certificates": (
        lambda w: _edited(
            w,
            lambda bundle: bundle.update(
                verificationMaterial={"x509CertificateChain": {"certificates": []}}
            ),
        ),
        NodeReason.UNTRUSTED_KEY,
    ),
    # names that lead elsewhere, or that two file systems read in two ways
    "a name that leads out": (_named("../secret"), NodeReason.MALFORMED_BUNDLE),
    "a name from the root": (_named("/etc/passwd"), NodeReason.MALFORMED_BUNDLE),
    "NUL in a name": (_named("model.onnx\0.txt"), NodeReason.MALFORMED_BUNDLE),
    "names that differ in case": (_named("a.onnx", "A.onnx"), NodeReason.MALFORMED_BUNDLE),
    "names that differ in normal form": (
        _named("\u00e9.onnx", "e\u0301.onnx"),
        NodeReason.MALFORMED_BUNDLE,
    ),
    "a name that is a file and a directory": (
        _named("data", "data/x"),
        NodeReason.MALFORMED_BUNDLE,
    ),
    # documents that are large, deep, or two in one
    "a hundred thousand files": (
        lambda w: _signed(w, {f"f{n}": w.digest(b"") for n in range(100_000)}),
        NodeReason.MALFORMED_BUNDLE,
    ),
    "a bundle of five megabytes": (
        lambda _: b"{" + b" " * (MAX_BUNDLE_BYTES + 1) + b"}",
        NodeReason.MALFORMED_BUNDLE,
    ),
    "a key that stands twice": (
        lambda w: b'{"mediaType":"x",' + w.release.bundle(w.statement())[1:],
        NodeReason.MALFORMED_BUNDLE,
    ),
    "a key that stands twice in what is signed": (
        lambda w: w.release.bundle(b'{"predicateType":"x",' + w.statement()[1:]),
        NodeReason.MALFORMED_BUNDLE,
    ),
    "deep JSON": (
        lambda _: b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        NodeReason.MALFORMED_BUNDLE,
    ),
    # signatures of something else
    "a signature of another kind of document": (
        lambda w: _enveloped_as(w, b"text/plain"),
        NodeReason.BAD_SIGNATURE,
    ),
    "a signature of the bytes alone": (_bare, NodeReason.BAD_SIGNATURE),
    "two signatures in one envelope": (
        lambda w: _edited(w, lambda b: b["dsseEnvelope"].update(signatures=[{"sig": "AA=="}] * 2)),
        NodeReason.MALFORMED_BUNDLE,
    ),
    "a blob's signature": (
        lambda w: _edited(w, lambda b: b.update(messageSignature={"signature": "AA=="})),
        NodeReason.MALFORMED_BUNDLE,
    ),
}


@pytest.mark.parametrize(
    ("bundle", "reason"), [pytest.param(*attack, id=name) for name, attack in ATTACKS.items()]
)
def test_an_attack_is_refused_with_its_reason(workshop, bundle, reason):
    attack = bundle(workshop)
    decision = workshop.judge(workshop.artifact(attack), workshop.policy()).decision

    assert decision.reason is reason, decision.message
    assert decision.message
    # It changes nothing for a model that lies beside it.
    good = workshop.release.bundle(workshop.statement())
    assert workshop.judge(workshop.artifact(attack, good), workshop.policy()).decision.allowed


def test_two_models_that_share_their_contents_are_two_models(workshop):
    # Their statements have the same subject digest, which does not cover the files' names.
    files = workshop.files()
    renamed = {f"x-{name}": digest for name, digest in files.items()}
    one, other = (json.loads(workshop.statement(each)) for each in (files, renamed))
    first, second = (
        workshop.judge(
            workshop.artifact(workshop.release.bundle(workshop.statement(each)), files=each),
            workshop.policy(),
        )
        for each in (files, renamed)
    )

    assert one["subject"][0]["digest"] == other["subject"][0]["digest"]
    assert first.decision.allowed
    assert second.decision.allowed
    assert first.model_digest != second.model_digest
    assert first.model_digest == "sha256:" + sha256(workshop.statement(files)).hexdigest()
