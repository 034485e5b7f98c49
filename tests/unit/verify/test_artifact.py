import base64
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linnet_agent.errors import DigestMismatchError, UnsupportedArtifactError
from linnet_agent.verify.manifest import parse_manifest
from linnet_api.reasons import NodeReason
from linnet_cli.publish.statement import canonical_json


def test_a_model_that_an_authority_has_signed_is_allowed(workshop):
    statement = workshop.statement()
    verified = workshop.judge(
        workshop.artifact(workshop.release.bundle(statement)), workshop.policy()
    )

    assert verified.decision.allowed
    assert verified.decision.reason is NodeReason.NONE
    assert verified.decision.signer == f"a0 (key {workshop.release.key_id})"
    assert verified.decision.counter == 17
    assert verified.model_digest == workshop.digest(statement)
    assert verified.statement.files == workshop.files()


def _tampered(bundle):
    document = json.loads(bundle)
    payload = bytearray(base64.b64decode(document["dsseEnvelope"]["payload"]))
    payload[len(payload) // 2] ^= 1
    document["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    return canonical_json(document)


@pytest.mark.parametrize(
    ("bundles", "reason"),
    [
        pytest.param(lambda _: [], NodeReason.UNSIGNED, id="no bundle"),
        pytest.param(lambda _: [b"junk"], NodeReason.MALFORMED_BUNDLE, id="junk"),
        pytest.param(
            lambda w: [w.rogue.bundle(w.statement())], NodeReason.UNTRUSTED_KEY, id="a stranger"
        ),
        pytest.param(
            lambda w: [_tampered(w.release.bundle(w.statement()))],
            NodeReason.BAD_SIGNATURE,
            id="a changed payload",
        ),
        pytest.param(
            lambda w: [w.release.bundle(b'{"_type":"x"}')],
            NodeReason.MALFORMED_BUNDLE,
            id="signed, but not a statement",
        ),
        pytest.param(
            lambda w: [w.release.bundle(w.statement(model="factory/cats"))],
            NodeReason.WRONG_MODEL_NAME,
            id="signed under another name",
        ),
        pytest.param(
            lambda w: [w.release.bundle(w.statement(counter=3))],
            NodeReason.COUNTER_TOO_LOW,
            id="an old one",
        ),
        pytest.param(
            lambda w: [w.release.bundle(w.statement({"model.onnx": w.digest(b"other")}))],
            NodeReason.CONTENT_NOT_SIGNED,
            id="replayed for other files",
        ),
        pytest.param(
            lambda w: [w.release.bundle(w.statement({"model.onnx": w.digest(b"weights")}))],
            NodeReason.CONTENT_NOT_SIGNED,
            id="a file that is not signed",
        ),
        pytest.param(
            lambda w: [w.release.bundle(w.statement({**w.files(), "more": w.digest(b"")}))],
            NodeReason.CONTENT_NOT_SIGNED,
            id="a signed file that is missing",
        ),
    ],
)
def test_what_is_not_signed_well_is_refused(workshop, bundles, reason):
    artifact = workshop.artifact(*bundles(workshop))
    verified = workshop.judge(artifact, workshop.policy(), floor=17)

    assert not verified.decision.allowed
    assert verified.decision.reason is reason
    assert verified.decision.message
    assert verified.statement is None
    assert verified.model_digest is None


def test_strangers_cannot_block_a_model_by_adding_bundles(workshop):
    junk = [
        b"junk",
        b"{}",
        workshop.rogue.bundle(workshop.statement()),
        workshop.release.bundle(workshop.statement({"model.onnx": workshop.digest(b"other")})),
        _tampered(workshop.release.bundle(workshop.statement())),
    ]
    good = workshop.release.bundle(workshop.statement())

    assert workshop.judge(workshop.artifact(*junk, good), workshop.policy()).decision.allowed


def test_junk_in_front_cannot_block_a_good_bundle(workshop):
    good = workshop.release.bundle(workshop.statement())
    junk = [b"junk %d" % number for number in range(63)]

    assert workshop.judge(workshop.artifact(*junk, good), workshop.policy()).decision.allowed


def test_two_authorities_sign_the_same_statement_in_two_bundles(workshop):
    statement = workshop.statement()
    policy = workshop.policy(workshop.release, workshop.audit, require={"threshold": 2})
    one, other = workshop.release.bundle(statement), workshop.audit.bundle(statement)

    assert workshop.judge(workshop.artifact(one, other), policy).decision.allowed
    for alone in ((one,), (one, one), (other,)):
        refused = workshop.judge(workshop.artifact(*alone), policy).decision
        assert refused.reason is NodeReason.UNTRUSTED_KEY


def test_signatures_over_two_statements_do_not_add_up(workshop):
    policy = workshop.policy(workshop.release, workshop.audit, require={"threshold": 2})
    one = workshop.release.bundle(workshop.statement(counter=1))
    other = workshop.audit.bundle(workshop.statement(counter=2))

    assert not workshop.judge(workshop.artifact(one, other), policy).decision.allowed


def test_without_a_policy_that_is_the_reason_even_where_nothing_is_signed(workshop):
    decision = workshop.judge(workshop.artifact()).decision

    assert decision.reason is NodeReason.NO_TRUST_POLICY


def test_a_key_that_only_the_ceiling_knows_is_not_enough(workshop):
    artifact = workshop.artifact(workshop.rogue.bundle(workshop.statement()))
    decision = workshop.judge(
        artifact, workshop.policy(), ceiling=[workshop.policy(workshop.rogue)]
    ).decision

    assert decision.reason is NodeReason.UNTRUSTED_KEY


def test_a_hub_that_swaps_its_policy_cannot_pass_the_ceiling(workshop):
    artifact = workshop.artifact(workshop.rogue.bundle(workshop.statement()))
    decision = workshop.judge(
        artifact, workshop.policy(workshop.rogue), ceiling=[workshop.policy()]
    ).decision

    assert decision.reason is NodeReason.CEILING


def test_an_artifact_can_be_judged_again_from_what_was_kept(workshop):
    artifact = workshop.artifact(workshop.release.bundle(workshop.statement()))
    revoking = workshop.policy(revoked={"digests": [artifact.digest]})

    assert workshop.judge(artifact, workshop.policy()).decision.allowed
    assert workshop.judge(artifact, revoking).decision.reason is NodeReason.REVOKED


@settings(
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(raw=st.binary(max_size=200), cut=st.integers(0, 3000))
def test_nothing_that_comes_from_outside_raises(workshop, raw, cut):
    good = workshop.release.bundle(workshop.statement())
    cut = 1 + cut % (len(good) - 1)
    artifact = workshop.artifact(raw, good[:cut], good[cut:] + raw)

    assert not workshop.judge(artifact, workshop.policy()).decision.allowed


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"mediaType": "application/vnd.oci.image.index.v1+json"}, id="an index"),
        pytest.param({"layers": []}, id="no layer"),
        pytest.param({"layers": {}}, id="layers that are no list"),
        pytest.param({"layers": ["x"]}, id="a layer that is no object"),
    ],
)
def test_a_manifest_of_another_kind_is_unsupported(workshop, change):
    document = json.loads(workshop.manifest().raw)
    raw = canonical_json({**document, **change})

    with pytest.raises(UnsupportedArtifactError):
        parse_manifest(raw, digest=workshop.digest(raw))


@pytest.mark.parametrize(
    "change",
    [
        {"mediaType": "application/vnd.cncf.model.weight.v1.tar"},
        {"digest": "sha512:" + "0" * 128},
        {"size": -1},
        {"size": True},
        {"size": "7"},
        {"annotations": {}},
        {"annotations": {"org.cncf.model.filepath": "../x"}},
        {"annotations": {"org.cncf.model.filepath": "golden.json"}},
    ],
    ids=str,
)
def test_a_layer_that_is_not_one_raw_file_is_unsupported(workshop, change):
    document = json.loads(workshop.manifest().raw)
    document["layers"][0] |= change
    raw = canonical_json(document)

    with pytest.raises(UnsupportedArtifactError):
        parse_manifest(raw, digest=workshop.digest(raw))


def test_a_manifest_is_known_by_its_bytes(workshop):
    raw = workshop.manifest().raw

    with pytest.raises(DigestMismatchError):
        parse_manifest(raw + b" ", digest=workshop.digest(raw))


def test_a_manifest_that_is_no_json_is_unsupported(workshop):
    with pytest.raises(UnsupportedArtifactError, match="not readable"):
        parse_manifest(b"<html>", digest=workshop.digest(b"<html>"))


def test_a_key_that_cannot_be_read_never_counts_and_is_named(workshop):
    broken = workshop.release.public.replace("M", "!")
    policy = workshop.policy(workshop.release)
    (authority,) = policy.authorities
    key = authority.key.model_copy(update={"public_key_pem": broken})
    other = authority.model_copy(update={"name": "broken", "key": key})
    both = policy.model_copy(update={"authorities": (authority, other)})
    wanting_two = both.model_copy(
        update={"require": policy.require.model_copy(update={"threshold": 2})}
    )
    artifact = workshop.artifact(workshop.release.bundle(workshop.statement()))

    assert workshop.judge(artifact, both).decision.allowed
    refused = workshop.judge(artifact, wanting_two).decision
    assert refused.reason is NodeReason.UNTRUSTED_KEY
    assert "cannot be read: broken" in refused.message
