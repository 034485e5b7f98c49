import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linnet_agent.verify.policy import (
    REASON_ORDER,
    Facts,
    _compiled,
    decide,
    policy_hash,
)
from linnet_api.reasons import NodeReason
from linnet_api.trust_policy import TrustPolicySpec

PEMS = {
    name: f"-----BEGIN PUBLIC KEY-----\n{name * 64}\n-----END PUBLIC KEY-----" for name in "abcd"
}
IDS = {name: name * 64 for name in "abcd"}
MODEL_DIGEST = "sha256:" + "1" * 64
ARTIFACT_DIGEST = "sha256:" + "2" * 64

FACTS = Facts(
    source="oci://registry.testbed/models/digits:1.0",
    expected_model="factory/digits",
    model="factory/digits",
    counter=17,
    files=("golden.json", "model.onnx", "sub/labels.txt"),
    model_digest=MODEL_DIGEST,
    artifact_digest=ARTIFACT_DIGEST,
    signed_by=frozenset({IDS["a"]}),
    key_ids={PEMS[name]: IDS[name] for name in "abcd"},
    floor=None,
)


def policy(*, keys="a", **spec):
    authorities = [{"name": f"by-{name}", "key": {"publicKeyPEM": PEMS[name]}} for name in keys]
    return TrustPolicySpec.model_validate({"authorities": authorities, **spec}, extra="forbid")


def keyless(**spec):
    authority = {"name": "ci", "keyless": {"issuer": "https://i", "identity": "me"}}
    return TrustPolicySpec.model_validate({"authorities": [authority], **spec}, extra="forbid")


def verdict(*policies, ceiling=None, **facts):
    named = {f"p{index}": spec for index, spec in enumerate(policies)}
    return decide(replace(FACTS, **facts), policies=named, ceiling=ceiling)


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
            {"signed_by": frozenset({IDS["a"], IDS["b"]})},
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
            {"signed_by": frozenset({IDS["a"], IDS["c"]})},
            NodeReason.NONE,
            id="two of three",
        ),
        pytest.param(
            [policy(keys="ab", require={"of": ["by-b"]})],
            {},
            NodeReason.UNTRUSTED_KEY,
            id="an authority that does not count",
        ),
        pytest.param([keyless()], {}, NodeReason.UNTRUSTED_KEY, id="keyless never counts"),
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


@pytest.mark.parametrize(
    "limit",
    [
        pytest.param([policy(keys="b")], id="wants another key"),
        pytest.param([policy(match={"models": ["plant/*"]})], id="speaks of other models"),
        pytest.param([policy(revoked={"digests": [MODEL_DIGEST]})], id="revokes it"),
        pytest.param([policy(), policy(keys="b")], id="one of two refuses"),
        pytest.param([], id="empty"),
    ],
)
def test_the_ceiling_alone_refuses_with_its_own_reason(limit):
    decision = verdict(policy(), ceiling=limit)

    assert not decision.allowed
    assert decision.reason is NodeReason.CEILING
    assert decision.refused_by == "ceiling"


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


_specs = st.builds(
    policy,
    keys=st.sampled_from(["a", "b", "ab", "abc", "d"]),
    match=st.fixed_dictionaries(
        {
            "models": st.sampled_from([[], ["factory/*"], ["plant/**"], ["**"]]),
            "sources": st.sampled_from([[], ["oci://**"], ["file://**"]]),
        }
    ),
    require=st.fixed_dictionaries({"threshold": st.integers(1, 3)}),
    revoked=st.fixed_dictionaries(
        {
            "keyIds": st.sampled_from([[], [IDS["a"]], [IDS["b"]]]),
            "digests": st.sampled_from([[], [MODEL_DIGEST]]),
        }
    ),
    content=st.fixed_dictionaries({"allowFiles": st.sampled_from([[], ["*.onnx"], ["**"]])}),
)
_facts = st.builds(
    lambda signed, counter, floor, model: {
        "signed_by": frozenset(IDS[name] for name in signed),
        "counter": counter,
        "floor": floor,
        "model": model,
    },
    st.sets(st.sampled_from("abcd")),
    st.none() | st.integers(0, 3),
    st.none() | st.integers(0, 3),
    st.sampled_from(["factory/digits", "factory/cats"]),
)


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(_specs, max_size=3), st.lists(_specs, max_size=3), _facts)
def test_rule_1_a_ceiling_never_allows_more(policies, ceiling, facts):
    without, limited = verdict(*policies, **facts), verdict(*policies, ceiling=ceiling, **facts)

    assert without.allowed or not limited.allowed
    assert (limited.reason is NodeReason.CEILING) == (without.allowed and not limited.allowed)


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(_specs, min_size=1, max_size=3), _specs, _facts)
def test_rule_1_another_policy_never_allows_more_where_one_matches(policies, more, facts):
    before, after = verdict(*policies, **facts), verdict(*policies, more, **facts)

    if before.reason is not NodeReason.NO_TRUST_POLICY:
        assert before.allowed or not after.allowed


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(_specs, max_size=3), _facts)
def test_rule_1_nothing_is_allowed_that_nobody_has_signed(policies, facts):
    assert not verdict(*policies, **{**facts, "signed_by": frozenset()}).allowed


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(_specs, max_size=3), st.none() | st.lists(_specs, max_size=2), _facts)
def test_every_refusal_has_a_reason_that_can_be_ordered(policies, ceiling, facts):
    decision = verdict(*policies, ceiling=ceiling, **facts)

    assert decision.allowed or decision.reason in REASON_ORDER


@pytest.mark.parametrize(
    ("glob", "text", "matches"),
    [
        ("factory/*", "factory/digits", True),
        ("factory/*", "factory/a/b", False),
        ("factory/**", "factory/a/b", True),
        ("*", "a/b", False),
        ("**", "", True),
        ("*", "", True),
        ("oci://r/**", "oci://registry/x", False),
        ("a.b", "axb", False),
        ("a?", "ab", False),
        ("[ab]", "a", False),
        ("**/x*y", "1/x/2/xzy", True),
        ("", "", True),
        ("", "a", False),
    ],
)
def test_globs_know_two_wildcards_and_nothing_else(glob, text, matches):
    assert _compiled(glob).matches(text) is matches


@given(st.text("ab/*", max_size=12), st.text("ab/", max_size=12))
def test_globs_agree_with_the_regular_expression(glob, text):
    parts = re.split(r"(\*\*+|\*)", glob)
    pattern = "".join(
        ".*" if part.startswith("**") else "[^/]*" if part == "*" else re.escape(part)
        for part in parts
    )

    assert _compiled(glob).matches(text) == bool(re.fullmatch(pattern, text))


def test_a_malicious_glob_costs_no_more_than_a_kind_one():
    assert not _compiled("**a" * 80 + "b").matches("a" * 1024)


def test_the_hash_changes_with_the_trust_and_with_nothing_else():
    one, other = policy(), policy(revoked={"digests": [MODEL_DIGEST]})
    hashes = {
        policy_hash({"p": one}, None),
        policy_hash({"p": other}, None),
        policy_hash({"q": one}, None),
        policy_hash({"p": one}, []),
        policy_hash({"p": one}, [one]),
    }

    assert len(hashes) == 5
    assert policy_hash({"p": one, "q": other}, None) == policy_hash({"q": other, "p": one}, None)
