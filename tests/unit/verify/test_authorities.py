"""Whole artifacts, signed in every way that counts: keyless, by cosign, with a grant."""

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from linnet_agent.verify.grant import Grant, build_grant
from linnet_agent.verify.keyless import ChildVerifier
from linnet_agent.verify.keys import load_public_key
from linnet_agent.verify.manifest import Artifact, parse_manifest
from linnet_agent.verify.voting import inline_roots
from linnet_api.reasons import NodeReason
from linnet_api.trust_policy import TrustPolicySpec
from linnet_cli.publish.keys import load_private_key
from linnet_cli.publish.statement import canonical_json
from linnet_testbed.sigstore import Signing, Sigstore

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
CI = "https://ci.testbed/release.yml@refs/heads/main"
ISSUER = "https://oidc.testbed"


@pytest.fixture(scope="module")
def site():
    return Sigstore(founded_at=NOON - 1000 * HOUR)


@pytest.fixture(scope="module")
def elsewhere():
    return Sigstore(founded_at=NOON - 1000 * HOUR)


def signing(**change):
    return Signing(**{"at": NOON - 100 * HOUR, "subject": CI, "issuer": ISSUER} | change)


def keyless(*, roots=(), spec=None, **identity):
    return TrustPolicySpec.model_validate(
        {
            "authorities": [
                {"name": "ci", "keyless": {"issuer": ISSUER, "identity": CI} | identity}
            ],
            "trustRoots": [
                {"name": f"r{n}", "trustedRootJSON": root.decode()} for n, root in enumerate(roots)
            ],
            **(spec or {}),
        },
        extra="forbid",
    )


def judge(workshop, artifact, *policies, node_roots=None, ceiling=None, **more):
    roots = inline_roots([*policies, *(ceiling or ())]) | (node_roots or {})
    verifier = ChildVerifier(roots, now=NOON)
    return workshop.judge(
        artifact, *policies, ceiling=ceiling, keyless=verifier, roots=roots, **more
    ).decision


# --- identities


@pytest.mark.slow
def test_an_identity_signs_a_model(workshop, site):
    artifact = workshop.artifact(site.sign_statement(workshop.statement(), signing()))
    decision = judge(workshop, artifact, keyless(roots=[site.trusted_root()]))

    assert decision.allowed, decision
    assert decision.signer.startswith(f"ci ({CI} by {ISSUER}, signed 2025-12-28T08:00:05Z")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "policy", "reason"),
    [
        pytest.param({}, {"identity": CI + "2"}, NodeReason.UNTRUSTED_KEY, id="another subject"),
        pytest.param(
            {"issuer": "https://other"}, {}, NodeReason.UNTRUSTED_KEY, id="another issuer"
        ),
        pytest.param(
            {"claims": {12: "https://git/acme"}},
            {"claims": {"sourceRepositoryURI": "https://git/acme"}},
            NodeReason.NONE,
            id="the claim",
        ),
        pytest.param(
            {"claims": {12: "https://git/evil"}},
            {"claims": {"sourceRepositoryURI": "https://git/acme"}},
            NodeReason.UNTRUSTED_KEY,
            id="another claim",
        ),
        pytest.param({"with_sct": False}, {}, NodeReason.BAD_SIGNATURE, id="no SCT"),
        pytest.param({"by_timestamp": True}, {}, NodeReason.NONE, id="a timestamp authority"),
    ],
)
def test_who_signed_must_be_who_may(workshop, site, change, policy, reason):
    artifact = workshop.artifact(site.sign_statement(workshop.statement(), signing(**change)))

    assert (
        judge(workshop, artifact, keyless(roots=[site.trusted_root()], **policy)).reason is reason
    )


@pytest.mark.slow
def test_a_node_without_any_root_says_so(workshop, site):
    artifact = workshop.artifact(site.sign_statement(workshop.statement(), signing()))

    assert workshop.judge(artifact, keyless()).decision.reason is NodeReason.NO_TRUST_ROOT
    key_only = workshop.judge(artifact, workshop.policy()).decision
    assert key_only.reason is NodeReason.UNTRUSTED_KEY


@pytest.mark.slow
def test_a_hub_cannot_bring_the_root_that_the_ceiling_rests_on(workshop, site, elsewhere):
    root, theirs = site.trusted_root(), elsewhere.trusted_root()
    forged = workshop.artifact(elsewhere.sign_statement(workshop.statement(), signing()))
    genuine = workshop.artifact(site.sign_statement(workshop.statement(), signing()))
    ceiling = [keyless(trustRoot="site")]
    hub = keyless(roots=[theirs, root], identityRegexp=None)
    named = replace_authority(hub, trustRoot="r0")

    decision = judge(workshop, forged, named, ceiling=ceiling, node_roots={"site": root})
    assert decision.reason is NodeReason.CEILING
    # The hub gives its root the node's name: names of a policy are its own.
    shadow = named.to_dict() | {
        "trustRoots": [{"name": "site", "trustedRootJSON": theirs.decode()}],
    }
    shadowing = replace_authority(TrustPolicySpec.model_validate(shadow), trustRoot="site")
    decision = judge(workshop, forged, shadowing, ceiling=ceiling, node_roots={"site": root})
    assert decision.reason is NodeReason.CEILING
    honest = replace_authority(hub, trustRoot="r1")
    decision = judge(workshop, genuine, honest, ceiling=ceiling, node_roots={"site": root})
    assert decision.allowed, decision


@pytest.mark.slow
@pytest.mark.parametrize(
    "limit",
    [
        pytest.param({"validFor": {"end": "2026-01-01T02:00:00Z"}}, id="a key that was retired"),
        pytest.param({}, id="a key that needs a log"),
    ],
)
def test_a_hub_cannot_bring_the_log_that_a_key_of_the_ceiling_needs(
    workshop, site, elsewhere, limit
):
    def spec(*, root=None, **more):
        key = {"publicKeyPEM": workshop.release.public} | more
        document = {"authorities": [{"name": "release", "key": key}]}
        if not limit:
            document["signature"] = {"transparencyLog": "Required"}
        if root is not None:
            document["trustRoots"] = [{"name": "r", "trustedRootJSON": root.decode()}]
        return TrustPolicySpec.model_validate(document)

    private = load_private_key(workshop.release.private)
    backdated, genuine = (
        workshop.artifact(one.log_statement(workshop.statement(), private, signing()))
        for one in (elsewhere, site)
    )
    hub, ceiling = spec(root=elsewhere.trusted_root()), [spec(**limit)]
    own = {"site": site.trusted_root()}

    decision = judge(workshop, backdated, hub, ceiling=ceiling, node_roots=own)
    assert decision.reason is NodeReason.CEILING
    assert judge(workshop, backdated, hub, node_roots=own).allowed
    assert judge(workshop, genuine, spec(), ceiling=ceiling, node_roots=own).allowed


def replace_authority(spec, **change):
    document = spec.to_dict()
    document["authorities"][0]["keyless"] |= change
    return TrustPolicySpec.model_validate(document)


@pytest.mark.slow
def test_a_key_and_an_identity_together(workshop, site):
    statement = workshop.statement()
    policy = TrustPolicySpec.model_validate(
        {
            "authorities": [
                {"name": "ci", "keyless": {"issuer": ISSUER, "identity": CI}},
                {"name": "release", "key": {"publicKeyPEM": workshop.release.public}},
            ],
            "require": {"threshold": 2},
            "trustRoots": [{"name": "r", "trustedRootJSON": site.trusted_root().decode()}],
        }
    )
    one, other = site.sign_statement(statement, signing()), workshop.release.bundle(statement)

    assert judge(workshop, workshop.artifact(one, other), policy).allowed
    assert judge(workshop, workshop.artifact(other, one), policy).allowed
    assert not judge(workshop, workshop.artifact(one), policy).allowed
    assert not judge(workshop, workshop.artifact(other), policy).allowed


@pytest.mark.slow
def test_revoked_identities_are_told_even_where_they_are_no_authority_any_more(workshop, site):
    artifact = workshop.artifact(site.sign_statement(workshop.statement(), signing()))
    gone = {"identities": [{"issuer": ISSUER, "subject": "https://ci.testbed/**"}]}
    policy = workshop.policy(revoked=gone).to_dict() | {
        "trustRoots": [{"name": "r", "trustedRootJSON": site.trusted_root().decode()}]
    }

    decision = judge(workshop, artifact, TrustPolicySpec.model_validate(policy))

    assert decision.reason is NodeReason.REVOKED


def test_a_revoked_key_is_told_even_where_it_is_no_authority_any_more(workshop):
    artifact = workshop.artifact(workshop.release.bundle(workshop.statement()))
    policy = workshop.policy(workshop.audit, revoked={"keyIds": [workshop.release.key_id]})

    assert workshop.judge(artifact, policy).decision.reason is NodeReason.REVOKED
    # Junk beside it, and what is no model's statement, change nothing of that.
    other = workshop.release.bundle(b'{"predicateType": "x"}')
    more = Artifact(artifact.source, artifact.manifest, (b"junk", other, *artifact.bundles))
    assert workshop.judge(more, policy).decision.reason is NodeReason.REVOKED
    # But a stranger who only says that it was that key changes nothing for a model that is allowed.
    good = workshop.audit.bundle(workshop.statement())
    both = Artifact(artifact.source, artifact.manifest, (*artifact.bundles, good))
    assert workshop.judge(both, policy).decision.allowed


def test_a_revoked_key_of_what_is_kept_is_told_however_it_has_signed(workshop):
    # The key is no authority any more, and cosign's name of it is not the one that is revoked.
    manifest = annotated(workshop, **SIGNED)
    found = Artifact(workshop.source, manifest, (workshop.release.bundle(cosign(manifest.digest)),))
    renamed = json.loads(found.bundles[0])
    spki = load_public_key(workshop.release.public).spki_hash
    hint = base64.b64encode(bytes.fromhex(spki)).decode()
    renamed["verificationMaterial"]["publicKey"]["hint"] = hint
    found = replace(found, bundles=(canonical_json(renamed),))
    allowed = workshop.judge(found, workshop.policy(**COSIGN))
    kept = replace(found, keys=allowed.keys)
    left = workshop.policy(workshop.audit, **COSIGN)
    revoked = workshop.policy(
        workshop.audit, revoked={"keyIds": [workshop.release.key_id]}, **COSIGN
    )

    assert allowed.keys == (workshop.release.public,)
    assert workshop.judge(kept, revoked).decision.reason is NodeReason.REVOKED
    # A key that has only left the policies counts no more, and is not revoked.
    assert workshop.judge(kept, left).decision.reason is NodeReason.UNTRUSTED_KEY


def test_of_what_is_kept_no_key_is_an_authority(workshop):
    artifact = workshop.artifact(workshop.rogue.bundle(workshop.statement()))
    kept = replace(artifact, keys=(workshop.rogue.public, "junk"))

    decision = workshop.judge(kept, workshop.policy()).decision

    assert decision.reason is NodeReason.UNTRUSTED_KEY


# --- cosign


def cosign(artifact_digest, **annotations):
    subject = {"digest": {"sha256": artifact_digest.removeprefix("sha256:")}}
    if annotations:
        subject["annotations"] = {
            f"linnet.dev/{name.replace('_', '-')}": text for name, text in annotations.items()
        }
    return canonical_json(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [subject],
            "predicateType": "https://sigstore.dev/cosign/sign/v1",
            "predicate": {},
        }
    )


def annotated(workshop, **annotations):
    document = json.loads(workshop.manifest().raw)
    document["annotations"] = {
        f"linnet.dev/{name.replace('_', '-')}": text for name, text in annotations.items()
    }
    raw = canonical_json(document)
    return parse_manifest(raw, digest=workshop.digest(raw))


SIGNED = {"model": "factory/digits", "release_counter": "17"}
COSIGN = {"signature": {"formats": ["Cosign"]}}


@pytest.mark.parametrize(
    ("said", "on_manifest", "floor", "reason"),
    [
        pytest.param(SIGNED, {}, 17, NodeReason.NONE, id="in the statement"),
        pytest.param({}, SIGNED, 17, NodeReason.NONE, id="on the manifest"),
        pytest.param(
            {"model": "factory/digits"}, {"release_counter": "17"}, 17, NodeReason.NONE, id="both"
        ),
        pytest.param(
            SIGNED, {"model": "factory/cats"}, 17, NodeReason.NONE, id="the statement goes first"
        ),
        pytest.param({}, {}, None, NodeReason.WRONG_MODEL_NAME, id="nowhere"),
        pytest.param(
            {"model": "factory/cats"}, SIGNED, None, NodeReason.WRONG_MODEL_NAME, id="another name"
        ),
        pytest.param(SIGNED, {}, 18, NodeReason.COUNTER_TOO_LOW, id="an old one"),
        pytest.param(
            {"model": "factory/digits"}, {}, 0, NodeReason.COUNTER_TOO_LOW, id="no counter"
        ),
        pytest.param(
            SIGNED | {"release_counter": "0x11"}, {}, 17, NodeReason.MALFORMED_BUNDLE, id="odd"
        ),
    ],
)
def test_what_cosign_signs_names_the_model(workshop, said, on_manifest, floor, reason):
    manifest = annotated(workshop, **on_manifest)
    bundle = workshop.release.bundle(cosign(manifest.digest, **said))
    artifact = Artifact(workshop.source, manifest, (bundle,))
    verified = workshop.judge(artifact, workshop.policy(**COSIGN), floor=floor)

    assert verified.decision.reason is reason, verified.decision
    if verified.decision.allowed:
        assert verified.statement.files == workshop.files()
        assert verified.decision.counter == 17


def test_cosign_does_not_count_unless_the_policy_says_so(workshop):
    manifest = annotated(workshop, **SIGNED)
    bundle = workshop.release.bundle(cosign(manifest.digest))
    decision = workshop.judge(
        Artifact(workshop.source, manifest, (bundle,)), workshop.policy()
    ).decision

    assert decision.reason is NodeReason.UNTRUSTED_KEY
    assert "signature.formats" in decision.message


def test_what_cosign_signed_for_another_artifact_is_refused(workshop):
    other = workshop.release.bundle(cosign("sha256:" + "0" * 64, **SIGNED))
    decision = workshop.judge(workshop.artifact(other), workshop.policy(**COSIGN)).decision

    assert decision.reason is NodeReason.CONTENT_NOT_SIGNED


def test_of_two_statements_that_are_allowed_the_highest_counter_is_taken(workshop):
    old, new = (workshop.release.bundle(workshop.statement(counter=n)) for n in (3, 17))
    manifest = annotated(workshop, model="factory/digits")
    bare = workshop.release.bundle(cosign(manifest.digest))
    policy = workshop.policy(signature={"formats": ["OMS", "Cosign"]})

    for bundles in ((old, new, bare), (bare, new, old), (new, old, bare)):
        artifact = Artifact(workshop.source, manifest, bundles)
        assert workshop.judge(artifact, policy).decision.counter == 17


def test_code_in_an_artifact_needs_to_be_named(workshop):
    files = workshop.files(**{"model.onnx": b"weights", "model.pkl": b"code"})
    statement = workshop.statement(files)
    artifact = workshop.artifact(workshop.release.bundle(statement), files=files)
    named = workshop.policy(content={"allowFiles": ["*.onnx", "*.pkl"]})

    assert workshop.judge(artifact, workshop.policy()).decision.reason is NodeReason.CONTENT_REFUSED
    assert workshop.judge(artifact, named).decision.allowed


# --- grants


@pytest.fixture
def old(workshop):
    return workshop.statement(counter=3)


def granted(workshop, old, signer=None, **change):
    grant = replace(
        Grant(
            model="factory/digits",
            digest=workshop.digest(old),
            counter=3,
            not_after=NOON + HOUR,
        ),
        **change,
    )
    return (signer or workshop.release).bundle(build_grant(grant))


def test_below_the_floor_only_a_grant_helps(workshop, old):
    policy, bundle = workshop.policy(), workshop.release.bundle(old)
    with_grant = workshop.artifact(bundle, granted(workshop, old))

    refused = workshop.judge(workshop.artifact(bundle), policy, floor=17).decision
    assert refused.reason is NodeReason.COUNTER_TOO_LOW
    decision = workshop.judge(with_grant, policy, floor=17).decision
    assert decision.allowed
    assert "grant" in decision.message
    by_artifact = granted(workshop, old, digest=with_grant.digest)
    assert workshop.judge(workshop.artifact(bundle, by_artifact), policy, floor=17).decision.allowed


@pytest.mark.parametrize(
    ("change", "signer"),
    [
        pytest.param({"model": "factory/cats"}, "release", id="for another model"),
        pytest.param({"digest": "sha256:" + "0" * 64}, "release", id="for another digest"),
        pytest.param({"counter": 4}, "release", id="for another counter"),
        pytest.param({"not_after": NOON - HOUR}, "release", id="that has ended"),
        pytest.param({"node": "edge-2"}, "release", id="for another node"),
        pytest.param({}, "rogue", id="by a stranger"),
    ],
)
def test_a_grant_of_something_else_does_not_help(workshop, old, change, signer):
    grant = granted(workshop, old, getattr(workshop, signer), **change)
    artifact = workshop.artifact(workshop.release.bundle(old), grant)
    decision = workshop.judge(artifact, workshop.policy(), floor=17, node="edge-1").decision

    assert decision.reason is NodeReason.COUNTER_TOO_LOW


def test_a_grant_for_some_nodes_helps_those(workshop, old):
    grant = granted(workshop, old, node="edge-*")
    artifact = workshop.artifact(workshop.release.bundle(old), grant)

    assert workshop.judge(artifact, workshop.policy(), floor=17, node="edge-1").decision.allowed
    assert not workshop.judge(artifact, workshop.policy(), floor=17, node="x").decision.allowed
    assert not workshop.judge(artifact, workshop.policy(), floor=17).decision.allowed


def test_a_grant_alone_is_no_signature_of_a_model(workshop, old):
    artifact = workshop.artifact(granted(workshop, old))

    assert not workshop.judge(artifact, workshop.policy(), floor=17).decision.allowed


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"predicate": {}}, id="nothing"),
        pytest.param(
            {"predicate": {"counter": True, "notAfter": "2027-01-01T00:00:00Z"}}, id="true"
        ),
        pytest.param(
            {"predicate": {"counter": 3, "notAfter": "2027-01-01T00:00:00"}}, id="no zone"
        ),
        pytest.param(
            {"predicate": {"counter": 3, "notAfter": "0001-01-01T00:00:00+14:00"}}, id="-1"
        ),
        pytest.param(
            {"predicate": {"counter": 3, "notAfter": "2027-01-01T00:00:00Z", "fleet": "x"}},
            id="a limit that is not known here",
        ),
        pytest.param(
            {"predicate": {"counter": 3, "notAfter": "2027-01-01T00:00:00Z", "node": 7}},
            id="a node that is a number",
        ),
        pytest.param({"subject": []}, id="no subject"),
        pytest.param({"subject": [{"name": "", "digest": {}}]}, id="no name"),
        pytest.param({"subject": [{"name": "factory/digits", "digest": {}}]}, id="no digest"),
        pytest.param({"_type": "x"}, id="another type"),
    ],
)
def test_a_grant_that_cannot_be_read_counts_for_nothing(workshop, old, change):
    grant = Grant("factory/digits", workshop.digest(old), 3, NOON + HOUR)
    payload = canonical_json(json.loads(build_grant(grant)) | change)
    artifact = workshop.artifact(workshop.release.bundle(old), workshop.release.bundle(payload))

    assert not workshop.judge(artifact, workshop.policy(), floor=17).decision.allowed
    assert workshop.judge(artifact, workshop.policy()).decision.allowed
