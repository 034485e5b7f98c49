from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from linnet_agent.pinning import is_narrower
from linnet_agent.verify.policy import REASON_ORDER, Facts, decide, policy_hash
from linnet_agent.verify.signatures import IdentitySigner, KeySigner, Proof
from linnet_agent.verify.voting import inline_roots
from linnet_api.reasons import NodeReason
from linnet_api.trust_policy import TrustPolicySpec

PEMS = {
    name: f"-----BEGIN PUBLIC KEY-----\n{name * 64}\n-----END PUBLIC KEY-----" for name in "abcd"
}
IDS = {name: name * 64 for name in "abcd"}
MODEL_DIGEST = "sha256:" + "1" * 64
ARTIFACT_DIGEST = "sha256:" + "2" * 64
INDEX_DIGEST = "sha256:" + "3" * 64
OMS = "https://model_signing/signature/v1.0"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
CERTIFICATE = "c" * 64
ISSUER = "https://issuer.example"
CI = "https://git.example/acme/models/.ci/release.yml@refs/tags/v2"


def by(names, at=None, log=None):
    root = None if at is log is None else "site"
    return tuple(Proof(KeySigner(IDS[name]), at, log, root) for name in names)


def by_identity(subject=CI, *, issuer=ISSUER, root="site", at=NOON - HOUR, **claims):
    return (Proof(IdentitySigner(issuer, subject, root, CERTIFICATE, claims), at, 7),)


FACTS = Facts(
    source="oci://registry.testbed/models/digits:1.0",
    expected_model="factory/digits",
    model="factory/digits",
    counter=17,
    files=("golden.json", "model.onnx", "sub/labels.txt"),
    model_digest=MODEL_DIGEST,
    total_bytes=1000,
    artifact_digests=(ARTIFACT_DIGEST, INDEX_DIGEST),
    format="OMS",
    predicate_type=OMS,
    proofs=by("a"),
    grants=(),
    key_ids={PEMS[name]: IDS[name] for name in "abcd"},
    node_roots=frozenset({"site"}),
    floor=None,
    now=NOON,
    clock_trusted=True,
)


def policy(*, keys="a", **spec):
    authorities = [{"name": f"by-{name}", "key": {"publicKeyPEM": PEMS[name]}} for name in keys]
    return TrustPolicySpec.model_validate({"authorities": authorities, **spec}, extra="forbid")


def keyless(*identities, authority=None, **spec):
    authorities = [
        {"name": f"ci-{n}", "keyless": {"issuer": ISSUER, **identity}}
        for n, identity in enumerate(identities or ({"identity": CI} | (authority or {}),))
    ]
    return TrustPolicySpec.model_validate({"authorities": authorities, **spec}, extra="forbid")


def until(moment):
    identity = {"issuer": ISSUER, "subject": CI} | ({"notAfter": moment} if moment else {})
    return {"identities": [identity]}


def valid(start, end):
    window = {"start": start} if start else {"end": end}
    key = {"publicKeyPEM": PEMS["a"], "validFor": window}
    return TrustPolicySpec.model_validate({"authorities": [{"name": "by-a", "key": key}]})


(INLINE,) = inline_roots([keyless(trustRoots=[{"name": "x", "trustedRootJSON": "{}"}])])


def verdict(*policies, ceiling=None, **facts):
    named = {f"p{index}": spec for index, spec in enumerate(policies)}
    return decide(replace(FACTS, **facts), policies=named, ceiling=limits(ceiling))


def limits(ceiling):
    if ceiling is None:
        return None
    return {f"limit-{index}": spec for index, spec in enumerate(ceiling)}


@pytest.mark.parametrize(
    ("policies", "facts", "reason"),
    [
        pytest.param([policy()], {}, NodeReason.NONE, id="signed by the authority"),
        pytest.param([], {}, NodeReason.NO_TRUST_POLICY, id="no policy at all"),
        pytest.param(
            [policy(signature={"formats": ["Cosign"]})],
            {},
            NodeReason.UNTRUSTED_KEY,
            id="signed in a format that does not count",
        ),
        pytest.param(
            [policy(match={"models": ["plant/*"]})], {}, NodeReason.NO_TRUST_POLICY, id="no match"
        ),
        pytest.param(
            [policy(match={"models": ["factory/*"], "sources": ["oci://other/**"]})],
            {},
            NodeReason.NO_TRUST_POLICY,
            id="another source",
        ),
        pytest.param(
            [policy(match={"sources": ["oci://registry.testbed/**"]})],
            {},
            NodeReason.NONE,
            id="this source",
        ),
        pytest.param([policy(keys="b")], {}, NodeReason.UNTRUSTED_KEY, id="another key"),
        pytest.param(
            [policy(), policy(keys="b")],
            {},
            NodeReason.UNTRUSTED_KEY,
            id="all that match must allow",
        ),
        pytest.param(
            [policy(), policy(keys="b", match={"models": ["plant/*"]})],
            {},
            NodeReason.NONE,
            id="what does not match says nothing",
        ),
        pytest.param(
            [policy()], {"model": "factory/cats"}, NodeReason.WRONG_MODEL_NAME, id="another name"
        ),
        pytest.param([policy()], {"floor": 17}, NodeReason.NONE, id="the floor itself"),
        pytest.param([policy()], {"floor": 18}, NodeReason.COUNTER_TOO_LOW, id="below the floor"),
        pytest.param(
            [policy()],
            {"floor": 0, "counter": None},
            NodeReason.COUNTER_TOO_LOW,
            id="a floor and no counter",
        ),
        pytest.param([policy()], {"counter": None}, NodeReason.NONE, id="no floor, no counter"),
        pytest.param(
            [policy(revoked={"keyIds": [IDS["a"]]})], {}, NodeReason.REVOKED, id="a revoked key"
        ),
        pytest.param(
            [policy(keys="ab", revoked={"keyIds": [IDS["a"]]})],
            {"proofs": by("ab")},
            NodeReason.NONE,
            id="a revoked key beside one that suffices",
        ),
        pytest.param(
            [policy(revoked={"digests": [MODEL_DIGEST]})], {}, NodeReason.REVOKED, id="this model"
        ),
        pytest.param(
            [policy(revoked={"digests": [ARTIFACT_DIGEST]})],
            {},
            NodeReason.REVOKED,
            id="this artifact",
        ),
        pytest.param(
            [policy(content={"allowFiles": ["*.onnx", "*.json"]})],
            {},
            NodeReason.CONTENT_REFUSED,
            id="a file that is not allowed",
        ),
        pytest.param(
            [policy(content={"allowFiles": ["*.onnx", "*.json", "sub/**"]})],
            {},
            NodeReason.NONE,
            id="only files that are allowed",
        ),
        pytest.param(
            [policy(keys="ab", require={"threshold": 2})],
            {},
            NodeReason.UNTRUSTED_KEY,
            id="one of two",
        ),
        pytest.param(
            [policy(keys="abc", require={"threshold": 2})],
            {"proofs": by("ac")},
            NodeReason.NONE,
            id="two of three",
        ),
        pytest.param(
            [policy(keys="ab", require={"of": ["by-b"]})],
            {},
            NodeReason.UNTRUSTED_KEY,
            id="an authority that does not count",
        ),
        pytest.param(
            [policy(revoked={"digests": [INDEX_DIGEST]})],
            {},
            NodeReason.REVOKED,
            id="the index above the artifact",
        ),
        pytest.param(
            [policy(), policy(keys="ab", revoked={"keyIds": [IDS["a"]]})],
            {},
            NodeReason.REVOKED,
            id="what one policy revokes counts in none",
        ),
        pytest.param(
            [policy(), policy(match={"models": ["plant/*"]}, revoked={"keyIds": [IDS["a"]]})],
            {},
            NodeReason.NONE,
            id="what does not match revokes nothing",
        ),
        pytest.param(
            [policy(keys="b", revoked={"keyIds": [IDS["a"]]})],
            {},
            NodeReason.REVOKED,
            id="a revoked key that is no authority any more",
        ),
        pytest.param(
            [policy(content={"maxFiles": 2})], {}, NodeReason.CONTENT_REFUSED, id="too many files"
        ),
        pytest.param([policy(content={"maxFiles": 3})], {}, NodeReason.NONE, id="few enough files"),
        pytest.param(
            [policy(content={"maxBytes": "999"})],
            {},
            NodeReason.CONTENT_REFUSED,
            id="too many bytes",
        ),
        pytest.param([policy(content={"maxBytes": "1k"})], {}, NodeReason.NONE, id="1k is enough"),
        pytest.param(
            [policy(content={"maxBytes": "1Gi"})],
            {"total_bytes": None},
            NodeReason.CONTENT_REFUSED,
            id="nobody says how many bytes",
        ),
        pytest.param(
            [policy(signature={"formats": ["OMS", "Cosign"]})],
            {"format": "Cosign", "predicate_type": "x"},
            NodeReason.NONE,
            id="cosign, where it counts",
        ),
        pytest.param(
            [policy()], {"format": "Cosign"}, NodeReason.UNTRUSTED_KEY, id="cosign by default"
        ),
        pytest.param(
            [policy(signature={"formats": ["OMS", "Cosign"]})],
            {"format": "Other"},
            NodeReason.UNTRUSTED_KEY,
            id="a statement of another kind",
        ),
        pytest.param(
            [policy(signature={"predicateTypes": ["https://x"]})],
            {},
            NodeReason.UNTRUSTED_KEY,
            id="another predicate type",
        ),
        pytest.param(
            [policy(signature={"predicateTypes": [OMS]})], {}, NodeReason.NONE, id="this one"
        ),
        pytest.param(
            [policy(signature={"transparencyLog": "Required"})],
            {},
            NodeReason.UNTRUSTED_KEY,
            id="a key without a log",
        ),
        pytest.param(
            [policy(signature={"transparencyLog": "Required"})],
            {"proofs": by("a") + by("a", NOON, 3)},
            NodeReason.NONE,
            id="a key with a log",
        ),
        pytest.param(
            [policy(signature={"transparencyLog": "Required"})],
            {"proofs": (Proof(KeySigner(IDS["a"]), NOON - HOUR, 7, INLINE),)},
            NodeReason.UNTRUSTED_KEY,
            id="a key with a log that another policy vouches for",
        ),
        pytest.param([keyless()], {}, NodeReason.UNTRUSTED_KEY, id="a key, not the identity"),
        pytest.param([keyless()], {"proofs": by_identity()}, NodeReason.NONE, id="the identity"),
        pytest.param(
            [policy()], {"proofs": by_identity()}, NodeReason.UNTRUSTED_KEY, id="not the key"
        ),
        pytest.param(
            [keyless()],
            {"proofs": by_identity(issuer="https://elsewhere")},
            NodeReason.UNTRUSTED_KEY,
            id="another issuer",
        ),
        pytest.param(
            [keyless()],
            {"proofs": by_identity(CI + "0")},
            NodeReason.UNTRUSTED_KEY,
            id="another subject",
        ),
        pytest.param(
            [keyless({"identityRegexp": r"https://git\.example/acme/.*@refs/tags/v\d+"})],
            {"proofs": by_identity()},
            NodeReason.NONE,
            id="a subject like that",
        ),
        pytest.param(
            [keyless({"identityRegexp": "acme"})],
            {"proofs": by_identity()},
            NodeReason.UNTRUSTED_KEY,
            id="a part of the subject",
        ),
        pytest.param(
            [keyless({"identityRegexp": "(?i).*"})],
            {"proofs": by_identity()},
            NodeReason.UNTRUSTED_KEY,
            id="an expression that cannot be read",
        ),
        pytest.param(
            [keyless({})],
            {"proofs": by_identity()},
            NodeReason.UNTRUSTED_KEY,
            id="neither identity nor expression",
        ),
        pytest.param(
            [keyless(authority={"claims": {"sourceRepositoryRef": "refs/tags/v2"}})],
            {"proofs": by_identity(sourceRepositoryRef="refs/tags/v2", more="x")},
            NodeReason.NONE,
            id="a claim",
        ),
        pytest.param(
            [keyless(authority={"claims": {"sourceRepositoryRef": "refs/tags/v2"}})],
            {"proofs": by_identity(sourceRepositoryRef="refs/heads/main")},
            NodeReason.UNTRUSTED_KEY,
            id="another claim",
        ),
        pytest.param(
            [keyless(authority={"claims": {"colour": "red"}})],
            {"proofs": by_identity()},
            NodeReason.UNTRUSTED_KEY,
            id="a claim that nobody makes",
        ),
        pytest.param(
            [keyless(authority={"trustRoot": "site"})],
            {"proofs": by_identity()},
            NodeReason.NONE,
            id="the node's root, by name",
        ),
        pytest.param(
            [keyless(authority={"trustRoot": "other"})],
            {"proofs": by_identity()},
            NodeReason.NO_TRUST_ROOT,
            id="a root that is not there",
        ),
        pytest.param(
            [keyless(authority={"trustRoot": "public"})],
            {"proofs": by_identity(), "node_roots": frozenset({"site", "public"})},
            NodeReason.UNTRUSTED_KEY,
            id="signed under another root",
        ),
        pytest.param(
            [keyless()],
            {"proofs": by_identity(), "node_roots": frozenset({"site", "public"})},
            NodeReason.NO_TRUST_ROOT,
            id="two roots and no name",
        ),
        pytest.param(
            [keyless(trustRoots=[{"name": "site", "trustedRootJSON": "{}"}])],
            {"proofs": by_identity()},
            NodeReason.UNTRUSTED_KEY,
            id="the policy's own root goes before the node's",
        ),
        pytest.param(
            [keyless(trustRoots=[{"name": "x", "trustedRootJSON": "{}"}])],
            {"proofs": by_identity(root=INLINE)},
            NodeReason.NONE,
            id="the policy's own root",
        ),
        pytest.param(
            [keyless(), keyless(trustRoots=[{"name": "x", "trustedRootJSON": "{}"}])],
            {"proofs": by_identity(root=INLINE)},
            NodeReason.UNTRUSTED_KEY,
            id="another policy's root",
        ),
        pytest.param(
            [keyless(revoked={"certificates": [CERTIFICATE]})],
            {"proofs": by_identity()},
            NodeReason.REVOKED,
            id="a revoked certificate",
        ),
        pytest.param(
            [keyless(revoked={"identities": [{"issuer": ISSUER, "subject": "https://git*/**"}]})],
            {"proofs": by_identity()},
            NodeReason.REVOKED,
            id="a revoked identity",
        ),
        pytest.param(
            [keyless(revoked={"identities": [{"issuer": "https://x", "subject": "**"}]})],
            {"proofs": by_identity()},
            NodeReason.NONE,
            id="the same subject of another issuer",
        ),
        pytest.param(
            [keyless(revoked=until("2026-01-01T11:00:00Z"))],
            {"proofs": by_identity()},
            NodeReason.NONE,
            id="signed in the last moment before the revocation",
        ),
        pytest.param(
            [keyless(revoked=until("2026-01-01T10:59:59Z"))],
            {"proofs": by_identity()},
            NodeReason.REVOKED,
            id="signed after the revocation",
        ),
        pytest.param(
            [policy(revoked=until(None))],
            {"proofs": by("a") + by_identity()},
            NodeReason.NONE,
            id="a revoked identity beside a key that suffices",
        ),
        *[
            pytest.param([valid(*window)], facts, reason, id=f"a key from-to {window}, {said}")
            for window, facts, reason, said in [
                (("2026-01-01T12:00:00Z", None), {}, NodeReason.NONE, "its first moment"),
                (("2026-01-01T12:00:01Z", None), {}, NodeReason.UNTRUSTED_KEY, "too early"),
                (
                    ("2026-01-01T12:00:01Z", None),
                    {"clock_trusted": False},
                    NodeReason.CLOCK_UNTRUSTED,
                    "too early by a bad clock",
                ),
                ((None, "2026-01-01T12:00:00Z"), {}, NodeReason.NONE, "its last moment"),
                ((None, "2026-01-01T11:59:59Z"), {}, NodeReason.UNTRUSTED_KEY, "too late"),
                (
                    (None, "2026-01-01T11:59:59Z"),
                    {"clock_trusted": False},
                    NodeReason.UNTRUSTED_KEY,
                    "too late by any clock",
                ),
                (
                    (None, "2026-01-01T11:59:59Z"),
                    {"proofs": by("a", NOON - HOUR)},
                    NodeReason.NONE,
                    "signed while it counted",
                ),
                (
                    ("2026-01-01T11:30:00Z", None),
                    {"proofs": by("a", NOON - HOUR), "clock_trusted": False},
                    NodeReason.UNTRUSTED_KEY,
                    "signed before it counted",
                ),
            ]
        ],
        pytest.param(
            [policy()], {"key_ids": {}}, NodeReason.UNTRUSTED_KEY, id="a key that is unreadable"
        ),
    ],
)
def test_the_policy_decides(policies, facts, reason):
    decision = verdict(*policies, **facts)

    assert decision.reason is reason
    assert decision.allowed == (reason is NodeReason.NONE)
    assert decision.message
    assert (decision.signer is not None) == decision.allowed
    assert decision.refused_by == ("" if decision.allowed else "policy")


def test_one_key_under_two_names_is_one_authority():
    twice = TrustPolicySpec.model_validate(
        {
            "authorities": [
                {"name": "one", "key": {"publicKeyPEM": PEMS["a"]}},
                {"name": "two", "key": {"publicKeyPEM": PEMS["a"] + "\n"}},
            ],
            "require": {"threshold": 2},
        }
    )
    ids = {**FACTS.key_ids, PEMS["a"] + "\n": IDS["a"]}

    assert verdict(twice, key_ids=ids).reason is NodeReason.UNTRUSTED_KEY


def test_two_identities_under_one_name_are_one_authority():
    anybody = {"identityRegexp": "https://git.*"}
    both = by_identity() + by_identity(CI + "/other")
    two = keyless(anybody, {"identity": CI}, require={"threshold": 2})

    assert not verdict(keyless(anybody, require={"threshold": 2}), proofs=both).allowed
    assert not verdict(two, proofs=by_identity()).allowed
    # The one that only ci-0 takes must not be taken from it by the one that both take.
    for proofs in (both, both[::-1]):
        assert verdict(two, proofs=proofs).signer == (
            f"ci-0 ({CI}/other by {ISSUER}, signed 2026-01-01T11:00:00Z, log entry 7), "
            f"ci-1 ({CI} by {ISSUER}, signed 2026-01-01T11:00:00Z, log entry 7)"
        )


@pytest.mark.parametrize(
    ("file", "globs", "allowed"),
    [
        pytest.param("model.onnx", [], True, id="data"),
        pytest.param("weights.bin", [], True, id="external data"),
        pytest.param("model.onnx.data", [], True, id="data of data"),
        pytest.param("model.pkl", [], False, id="a pickle"),
        pytest.param("MODEL.PT", [], False, id="in capitals"),
        pytest.param("sub/pytorch_model-00001.bin", [], False, id="a pickle by its usual name"),
        pytest.param("lib/libcustom.so.1.2", [], False, id="a library with its version"),
        pytest.param("model.py", ["**"], False, id="everything is not a name"),
        pytest.param("model.py", ["*.py"], True, id="named"),
        pytest.param("model.py", ["**", "x.py"], False, id="another one is named"),
        pytest.param("lib/libcustom.so.1.2", ["lib/*.so.*"], True, id="a library that is named"),
        pytest.param("a.pkl", ["*.onnx"], False, id="not allowed at all"),
    ],
)
def test_files_that_carry_code_need_to_be_named(file, globs, allowed):
    decision = verdict(policy(content={"allowFiles": globs}), files=(file,))

    assert decision.allowed is allowed
    assert allowed or decision.reason is NodeReason.CONTENT_REFUSED


@pytest.mark.parametrize(
    "limit",
    [
        pytest.param([policy(keys="b")], id="wants another key"),
        pytest.param([policy(match={"models": ["plant/*"]})], id="speaks of other models"),
        pytest.param([policy(), policy(keys="b")], id="one of two refuses"),
        pytest.param([], id="empty"),
    ],
)
def test_the_ceiling_alone_refuses_with_its_own_reason(limit):
    decision = verdict(policy(), ceiling=limit)

    assert not decision.allowed
    assert decision.reason is NodeReason.CEILING
    assert decision.refused_by == "ceiling"


def test_a_policy_of_the_ceiling_is_called_by_its_name():
    decision = verdict(policy(), ceiling=[policy(), policy(keys="b")])

    assert "limit-1" in decision.message
    assert "limit-0" not in decision.message


@pytest.mark.parametrize(
    ("policies", "facts"),
    [
        pytest.param([policy()], {}, id="allows"),
        pytest.param([policy(keys="b")], {}, id="has other keys"),
        pytest.param([], {}, id="is gone"),
        pytest.param([policy()], {"expected_model": "factory/cats"}, id="gives another name"),
        pytest.param([policy(revoked={"digests": [MODEL_DIGEST]})], {}, id="revokes it as well"),
    ],
)
def test_a_revocation_by_the_ceiling_is_told_whatever_the_hub_says(policies, facts):
    ceiling = [policy(content={"maxFiles": 1}, revoked={"digests": [MODEL_DIGEST]})]
    decision = verdict(*policies, ceiling=ceiling, **facts)

    assert decision.reason is NodeReason.REVOKED
    assert decision.refused_by == "ceiling"


def test_a_revocation_by_the_hub_alone_is_told_from_the_ceilings():
    decision = verdict(policy(revoked={"digests": [MODEL_DIGEST]}), ceiling=[policy()])

    assert decision.reason is NodeReason.REVOKED
    assert decision.refused_by == "policy"


@pytest.mark.parametrize(
    ("wishes", "outcome"),
    [
        (["Revert"], "Revert"),
        (["KeepServing"], "KeepServing"),
        (["KeepServing", "Revert"], "Revert"),
    ],
)
def test_what_is_revoked_serves_on_only_where_all_that_revoke_it_say_so(wishes, outcome):
    policies = [
        policy(keys="ab", revoked={"keyIds": [IDS["a"]], "onActive": wish}) for wish in wishes
    ]
    silent = policy(revoked={"onActive": "KeepServing"})

    assert verdict(*policies, silent).on_active == outcome


def test_an_old_signature_is_an_alarm_and_no_stop():
    spec = policy(freshness={"maxSignatureAge": "7d"})
    old = verdict(spec, proofs=by("a", NOON - 8 * 24 * HOUR, 3))
    young = verdict(spec, proofs=by("a", NOON - 6 * 24 * HOUR, 3))
    unknown = verdict(spec)

    assert old.allowed
    assert "8d old" in old.notes[0]
    assert old.notes[0] in old.message
    assert young.notes == ()
    assert unknown.allowed
    assert "nothing proves when" in unknown.notes[0]


def test_a_grant_takes_the_place_of_the_counter_where_every_policy_finds_it_signed():
    below = {"floor": 18, "grants": (by("a"),)}
    strict = policy(keys="ab", require={"threshold": 2})

    assert verdict(policy(), **below).allowed
    assert "but for a grant of by-a" in verdict(policy(), **below).message
    assert verdict(policy(), ceiling=[policy()], **below).allowed
    assert verdict(policy(keys="b"), proofs=by("ab"), **below).reason is NodeReason.COUNTER_TOO_LOW
    assert verdict(policy(), strict, proofs=by("ab"), **below).reason is NodeReason.COUNTER_TOO_LOW
    assert not verdict(policy(), ceiling=[policy(keys="b")], proofs=by("ab"), **below).allowed
    revoked = policy(keys="ab", revoked={"keyIds": [IDS["a"]]})
    assert verdict(revoked, proofs=by("b"), **below).reason is NodeReason.COUNTER_TOO_LOW


def test_whether_a_grant_has_ended_needs_a_clock():
    decision = verdict(policy(), floor=18, grants=(by("a"),), clock_trusted=False)

    assert decision.reason is NodeReason.CLOCK_UNTRUSTED


def test_a_refusal_for_good_is_told_before_one_that_passes():
    waiting = valid("2026-01-01T12:00:01Z", None)
    decision = verdict(waiting, policy(keys="b"), clock_trusted=False)

    assert decision.reason is NodeReason.UNTRUSTED_KEY


def test_the_ceiling_does_not_stand_in_for_the_clusters_policies():
    assert verdict(ceiling=[policy()]).reason is NodeReason.NO_TRUST_POLICY


def test_where_both_refuse_the_clusters_reason_is_told():
    decision = verdict(policy(keys="b"), ceiling=[policy(keys="b")])

    assert decision.reason is NodeReason.UNTRUSTED_KEY


def test_messages_fit_into_a_status():
    globs = ["x" * 250] * 60
    long = verdict(
        *[policy(match={"models": ["**"]}, content={"allowFiles": globs})],
        files=("f" * 3000,),
    )

    assert len(long.message) <= 2048


_MOMENTS = ["2026-01-01T11:30:00Z", "2026-01-01T12:30:00Z"]
_authorities = st.one_of(
    st.builds(
        lambda name, window: {"publicKeyPEM": PEMS[name]} | window,
        st.sampled_from("abc"),
        st.sampled_from(
            [{}, *({"validFor": {edge: at}} for edge in ("start", "end") for at in _MOMENTS)]
        ),
    ).map(lambda key: {"key": key}),
    st.sampled_from(
        [
            {"identity": CI},
            {"identity": CI, "trustRoot": "site"},
            {"identity": CI, "claims": {"ref": "main"}},
            {"identityRegexp": "https://git.*"},
        ]
    ).map(lambda identity: {"keyless": {"issuer": ISSUER, **identity}}),
)
_revocations = st.fixed_dictionaries(
    {},
    optional={
        "keyIds": st.sampled_from([[IDS["a"]], [IDS["b"]], [IDS["a"], IDS["b"]]]),
        "digests": st.just([MODEL_DIGEST]),
        "certificates": st.just([CERTIFICATE]),
        "identities": st.sampled_from([None, *_MOMENTS]).map(lambda at: until(at)["identities"]),
        "onActive": st.sampled_from(["Revert", "KeepServing"]),
    },
)
_specs = st.fixed_dictionaries(
    {
        "authorities": st.lists(_authorities, min_size=1, max_size=3).map(
            lambda found: [{"name": f"a{n}", **one} for n, one in enumerate(found)]
        )
    },
    optional={
        "match": st.sampled_from(
            [{"models": ["factory/*"]}, {"models": ["plant/**"]}, {"sources": ["oci://**"]}]
        ),
        "require": st.fixed_dictionaries({"threshold": st.integers(1, 3)}),
        "revoked": _revocations,
        "content": st.sampled_from([{"allowFiles": ["*.onnx"]}, {"maxFiles": 3}]),
        "signature": st.sampled_from(
            [{"formats": ["OMS", "Cosign"]}, {"transparencyLog": "Required"}]
        ),
    },
).map(lambda spec: TrustPolicySpec.model_validate(spec, extra="forbid"))
_proof = st.one_of(
    st.builds(
        lambda name, logged: by(name, *logged)[0],
        st.sampled_from("abcd"),
        st.sampled_from([(None, None), (NOON, 1), (NOON - HOUR, 2)]),
    ),
    st.builds(
        lambda subject, root, at, ref: by_identity(subject, root=root, at=at, ref=ref)[0],
        st.sampled_from([CI, CI + "/other"]),
        st.sampled_from(["site", INLINE]),
        st.sampled_from([NOON, NOON - HOUR]),
        st.sampled_from(["main", "other"]),
    ),
)
_proofs = st.lists(_proof, max_size=5).map(tuple)
_facts = st.fixed_dictionaries(
    {
        "proofs": _proofs,
        "counter": st.none() | st.integers(0, 3),
        "floor": st.none() | st.integers(0, 3),
        "grants": st.lists(_proofs, max_size=2).map(tuple),
        "model": st.sampled_from(["factory/digits", "factory/digits", "factory/cats"]),
        "files": st.sampled_from([("model.onnx",), ("model.onnx", "model.pkl")]),
        "clock_trusted": st.booleans(),
    }
)
_policies = st.lists(_specs, max_size=3)
_many = settings(deadline=None, max_examples=400)


def _sooner(before, after):
    """What is never allowed to happen: a refusal that turns into an allow."""
    return after.allowed and not before.allowed


@pytest.mark.slow
@_many
@given(_policies, _policies, _facts)
def test_rule_1_a_ceiling_never_allows_more(policies, ceiling, facts):
    without, limited = verdict(*policies, **facts), verdict(*policies, ceiling=ceiling, **facts)

    assert not _sooner(without, limited)
    assert without.allowed or limited.reason in (without.reason, NodeReason.REVOKED)


@pytest.mark.slow
@_many
@given(st.lists(_specs, min_size=1, max_size=3), _specs, st.none() | _policies, _facts)
def test_rule_1_another_policy_never_allows_more_where_one_matches(policies, more, ceiling, facts):
    before = verdict(*policies, ceiling=ceiling, **facts)
    after = verdict(*policies, more, ceiling=ceiling, **facts)

    if before.reason is not NodeReason.NO_TRUST_POLICY:
        assert not _sooner(before, after)


@pytest.mark.slow
@_many
@given(st.lists(_specs, min_size=1, max_size=3), _revocations, _facts)
def test_rule_1_a_revocation_never_allows_more(policies, revoked, facts):
    first, *others = policies
    old = first.revoked.to_dict()
    merged = {
        key: [*old.get(key, []), *revoked.get(key, [])]
        for key in ("keyIds", "digests", "certificates", "identities")
    }
    narrower = TrustPolicySpec.model_validate(first.to_dict() | {"revoked": merged})

    assert not _sooner(verdict(*policies, **facts), verdict(narrower, *others, **facts))


@pytest.mark.slow
@_many
@given(_policies, st.none() | _policies, _facts, st.data())
def test_rule_1_a_signature_or_grant_less_never_allows_more(policies, ceiling, facts, data):
    kept = data.draw(st.sets(st.sampled_from(range(5))))
    fewer = tuple(proof for n, proof in enumerate(facts["proofs"]) if n in kept)
    before = verdict(*policies, ceiling=ceiling, **facts)

    less = {**facts, "proofs": fewer, "grants": facts["grants"][:1]}
    assert not _sooner(before, verdict(*policies, ceiling=ceiling, **less))


@pytest.mark.slow
@settings(deadline=None, max_examples=400)
@given(_specs, _specs, st.data(), _facts)
def test_rule_1_what_the_pin_takes_for_narrower_never_allows_more(old, other, data, facts):
    mine, theirs = old.to_dict(), other.to_dict()
    mixed = mine | {
        field: data.draw(st.sampled_from([mine[field], theirs[field]]))
        for field in ("require", "revoked", "content", "signature")
    }
    kept = data.draw(st.sets(st.sampled_from(range(3))))
    mixed["authorities"] = [
        one | data.draw(st.sampled_from([{}, *theirs["authorities"]])) | {"name": one["name"]}
        for n, one in enumerate(mine["authorities"])
        if n in kept
    ] or mine["authorities"]
    new = TrustPolicySpec.model_validate(mixed)

    if is_narrower({"p": new}, than={"p": old}):
        event("narrower")
        assert not _sooner(verdict(old, **facts), verdict(new, **facts))


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param({"floor": 18, "grants": (by("a"), by("b"))}, id="two-grants"),
        pytest.param(
            {"proofs": (*by_identity(job="one"), *by_identity(job="two"))}, id="two-certificates"
        ),
    ],
)
def test_of_two_that_serve_alike_the_same_is_told_in_any_order(facts):
    name = "grants" if "grants" in facts else "proofs"
    spec = policy(keys="ab") if name == "grants" else keyless(authority={"claims": {"job": "x"}})
    turned = {**facts, name: facts[name][::-1]}

    assert verdict(spec, **facts) == verdict(spec, **turned)


@pytest.mark.slow
@_many
@given(_policies, st.none() | _policies, _facts, st.data())
def test_order_never_matters(policies, ceiling, facts, data):
    named = [(f"p{index}", spec) for index, spec in enumerate(policies)]
    first = decide(replace(FACTS, **facts), policies=dict(named), ceiling=limits(ceiling))
    shuffled = {
        **facts,
        "proofs": tuple(data.draw(st.permutations(facts["proofs"]))),
        "grants": tuple(data.draw(st.permutations(facts["grants"]))),
    }
    again = decide(
        replace(FACTS, **shuffled),
        policies=dict(data.draw(st.permutations(named))),
        ceiling=limits(ceiling),
    )

    assert first == again


@pytest.mark.slow
@_many
@given(_policies, _facts)
def test_rule_1_nothing_is_allowed_that_nobody_has_signed(policies, facts):
    assert not verdict(*policies, **{**facts, "proofs": ()}).allowed


@pytest.mark.slow
@_many
@given(_policies, st.none() | _policies, _facts)
def test_every_refusal_has_a_reason_that_can_be_ordered(policies, ceiling, facts):
    decision = verdict(*policies, ceiling=ceiling, **facts)

    assert decision.allowed or decision.reason in REASON_ORDER
    assert decision.message
    assert decision.allowed == (decision.signer is not None)


def test_the_hash_changes_with_the_trust_and_with_nothing_else():
    one, other = policy(), policy(revoked={"digests": [MODEL_DIGEST]})
    hashes = {
        policy_hash({"p": one}, None),
        policy_hash({"p": other}, None),
        policy_hash({"q": one}, None),
        policy_hash({"p": one}, {}),
        policy_hash({"p": one}, {"l": one}),
        policy_hash({"p": one}, None, {"site": b"1"}),
        policy_hash({"p": one}, None, {"site": b"2"}),
    }

    assert len(hashes) == 7
    assert policy_hash({"p": one, "q": other}, None) == policy_hash({"q": other, "p": one}, None)
